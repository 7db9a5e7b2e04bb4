//! Whom a node dials and whom it lets in, by the placement that it knows: certificates name
//! nodes and never expire, so that leaving the fabric is a matter of membership.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use model::ids::NodeId;
use model::placement::{Presence, View};
use transport::net::config::{Admit, Resolver};

use super::config::Routes;
use super::identity::NodeIdentity;
use super::meta::SharedView;

/// How often it is looked whether the contacts changed.
const CONTACTS_EVERY: Duration = Duration::from_secs(2);

fn presence(view: &View, node: NodeId) -> Option<Presence> {
    view.nodes.get(&node).map(|n| n.presence)
}

/// What to dial for a node: by what it publishes, else by where it was when this one joined,
/// and there by the supervisor's route, if there is one. Nobody dials a node that was removed.
#[must_use]
pub fn resolver(view: SharedView, contacts: BTreeMap<u16, SocketAddr>, routes: Routes) -> Resolver {
    Arc::new(move |node| {
        let view = view.read().unwrap_or_else(PoisonError::into_inner);
        if presence(&view, node) == Some(Presence::Gone) {
            return None;
        }
        let known = view.nodes.get(&node).map(|n| n.address);
        let address = known.or_else(|| contacts.get(&node.0).copied())?;
        Some(routes.to(address))
    })
}

/// Lets in all but those that were removed. A node that the placement does not name yet may
/// have joined a moment ago.
#[must_use]
pub fn admit(view: SharedView) -> Admit {
    Arc::new(move |node| {
        let view = view.read().unwrap_or_else(PoisonError::into_inner);
        presence(&view, node) != Some(Presence::Gone)
    })
}

/// The nodes that were removed between two views.
pub fn removed<'a>(before: &'a View, now: &'a View) -> impl Iterator<Item = NodeId> + 'a {
    let gone = now
        .nodes
        .iter()
        .filter(|(_, n)| n.presence == Presence::Gone);
    gone.map(|(id, _)| *id)
        .filter(|id| presence(before, *id) != Some(Presence::Gone))
}

/// The other nodes, and where they are.
pub(super) fn others(view: &View, me: NodeId) -> BTreeMap<u16, SocketAddr> {
    let nodes = view.nodes.iter();
    nodes
        .filter(|(id, n)| **id != me && n.presence != Presence::Gone)
        .map(|(id, n)| (id.0, n.address))
        .collect()
}

/// Keeps a node's contacts as they are now, not as they were when it joined: one that loses its
/// metadata logs knows nobody else to ask. The fabric's first node joined nobody.
pub async fn keep_contacts(directory: PathBuf, mut identity: NodeIdentity, view: SharedView) {
    let me = NodeId(identity.node);
    let mut next = tokio::time::interval(CONTACTS_EVERY);
    loop {
        next.tick().await;
        let now = others(&view.read().unwrap_or_else(PoisonError::into_inner), me);
        if now.is_empty() || now == identity.contacts {
            continue;
        }
        identity.contacts = now;
        let (directory, identity) = (directory.clone(), identity.clone());
        match tokio::task::spawn_blocking(move || identity.save(&directory)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the node's contacts are not kept"),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use model::ids::SiteId;
    use model::placement::{Duty, Node};

    use super::{
        Arc, BTreeMap, NodeId, Presence, Routes, SharedView, SocketAddr, View, admit, others,
        removed, resolver,
    };

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn view(nodes: &[(u16, Presence)]) -> View {
        let node = |(id, presence): &(u16, Presence)| {
            let node = Node {
                name: format!("a{id}"),
                site: SiteId(1),
                address: address(*id),
                nbd: address(*id),
                presence: *presence,
                duty: Duty::Serve,
            };
            (NodeId(*id), node)
        };
        View {
            nodes: nodes.iter().map(node).collect(),
            ..View::default()
        }
    }

    #[test]
    fn a_removed_node_is_neither_admitted_nor_dialed() {
        let shared: SharedView = SharedView::default();
        let contacts = BTreeMap::from([(2, address(20)), (3, address(30))]);
        let resolve = resolver(Arc::clone(&shared), contacts, Routes::default());
        let admits = admit(Arc::clone(&shared));
        assert!(admits(NodeId(2)) && resolve(NodeId(2)) == Some(address(20)));
        let put = |now: View| *shared.write().expect("no panic") = Arc::new(now);
        put(view(&[(1, Presence::Down), (2, Presence::Up)]));
        assert!(admits(NodeId(1)) && admits(NodeId(2)) && admits(NodeId(4)));
        assert_eq!(resolve(NodeId(2)), Some(address(2)));
        assert_eq!(resolve(NodeId(3)), Some(address(30)));
        put(view(&[(1, Presence::Down), (2, Presence::Gone)]));
        assert!(admits(NodeId(1)) && !admits(NodeId(2)));
        assert_eq!(resolve(NodeId(2)), None);
    }

    #[test]
    fn contacts_are_the_others() {
        let view = view(&[(1, Presence::Up), (2, Presence::Gone), (3, Presence::Down)]);
        let told = others(&view, NodeId(1));
        assert_eq!(told, BTreeMap::from([(3, address(3))]));
    }

    #[test]
    fn a_removal_is_told_once() {
        let (up, gone) = (
            view(&[(1, Presence::Up), (2, Presence::Up)]),
            view(&[(1, Presence::Up), (2, Presence::Gone)]),
        );
        let told = |before: &View, now: &View| removed(before, now).collect::<Vec<_>>();
        assert_eq!(told(&up, &gone), [NodeId(2)]);
        assert_eq!(told(&View::default(), &gone), [NodeId(2)]);
        assert_eq!(told(&gone, &gone), []);
    }
}
