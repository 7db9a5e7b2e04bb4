//! The nodes of a world by id: their ids are small numbers, and an event looks several up.

use std::ops::Index;

use model::ids::NodeId;

use crate::node::SimNode;

/// Nodes by id, in the order of their ids.
#[derive(Default)]
pub struct Nodes(Vec<Option<SimNode>>);

impl Nodes {
    /// Adds one, in the place of an earlier one of its id.
    pub fn insert(&mut self, node: SimNode) {
        let at = usize::from(node.id.0);
        if at >= self.0.len() {
            self.0.resize_with(at + 1, || None);
        }
        self.0[at] = Some(node);
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, id: &NodeId) -> Option<&SimNode> {
        self.0.get(usize::from(id.0))?.as_ref()
    }

    /// One of them.
    pub fn get_mut(&mut self, id: &NodeId) -> Option<&mut SimNode> {
        self.0.get_mut(usize::from(id.0))?.as_mut()
    }

    /// Whether there is such a node.
    #[must_use]
    pub fn contains_key(&self, id: &NodeId) -> bool {
        self.get(id).is_some()
    }

    /// Their ids.
    pub fn keys(&self) -> impl Iterator<Item = &NodeId> {
        self.values().map(|node| &node.id)
    }

    /// All of them.
    pub fn values(&self) -> impl Iterator<Item = &SimNode> {
        self.0.iter().flatten()
    }

    /// All of them.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut SimNode> {
        self.0.iter_mut().flatten()
    }

    /// All of them, with their ids.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeId, &SimNode)> {
        self.values().map(|node| (&node.id, node))
    }
}

impl Index<&NodeId> for Nodes {
    type Output = SimNode;

    fn index(&self, id: &NodeId) -> &SimNode {
        self.get(id).expect("the node exists")
    }
}
