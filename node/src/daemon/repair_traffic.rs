//! What repair costs between sites: bytes of fragments that came from other sites to a Healer, or
//! from one, counted by the node that gets them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use actors::messages::Envelope;
use model::ids::{Actor, NodeId};
use model::wire;
use transport::class::Class;

use super::meta::SharedView;

/// The counter; clones count together.
#[derive(Clone)]
pub struct RepairTraffic {
    node: NodeId,
    view: SharedView,
    bytes: Arc<AtomicU64>,
}

impl RepairTraffic {
    /// Of this node, from zero on.
    #[must_use]
    pub fn new(node: NodeId, view: SharedView) -> Self {
        Self {
            node,
            view,
            bytes: Arc::default(),
        }
    }

    /// Bytes of payload since the node's start: questions and listings are headers, and not in it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// A message came.
    pub(super) fn note(&self, from: NodeId, class: Class, header: &[u8], payload: &[u8]) {
        // All that Healers say, and are told, is of this class.
        if class != Class::Bulk {
            return;
        }
        let Ok(envelope) = wire::decode::<Envelope>(header) else {
            return;
        };
        let heals = [envelope.from.actor, envelope.to.actor].contains(&Actor::Healer);
        if heals && self.is_of_another_site(from) {
            let bytes = payload.len() as u64;
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn is_of_another_site(&self, from: NodeId) -> bool {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        let site = |node: NodeId| view.nodes.get(&node).map(|n| n.site);
        site(from) != site(self.node)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::RwLock;

    use actors::messages::{DiskReply, Message};
    use model::ids::{DiskId, Endpoint, RequestId, SiteId};
    use model::placement::{Node, View};

    use super::*;

    fn view() -> SharedView {
        let mut view = View::default();
        for (id, site) in [(1, 0), (2, 0), (3, 1)] {
            let node = Node {
                site: SiteId(site),
                ..node_template(id)
            };
            view.nodes.insert(NodeId(id), node);
        }
        Arc::new(RwLock::new(Arc::new(view)))
    }

    fn node_template(id: u16) -> Node {
        Node {
            name: format!("n{id}"),
            site: SiteId(0),
            address: SocketAddr::from(([127, 0, 0, 1], id)),
            nbd: SocketAddr::from(([127, 0, 0, 1], id)),
            presence: model::placement::Presence::Up,
            duty: model::placement::Duty::Serve,
        }
    }

    fn header(from: u16, to: Actor) -> Vec<u8> {
        let actor = Actor::Disk(DiskId(7));
        wire::encode(&Envelope {
            from: Endpoint {
                node: NodeId(from),
                actor,
            },
            to: Endpoint {
                node: NodeId(1),
                actor: to,
            },
            id: RequestId(1),
            message: Message::DiskReply(DiskReply::Stored { is_pressed: false }),
        })
    }

    #[test]
    fn only_healers_and_only_from_other_sites_count() {
        let traffic = RepairTraffic::new(NodeId(1), view());
        let payload = [0; 4096];
        let near = header(2, Actor::Healer);
        let far = header(3, Actor::Healer);
        traffic.note(NodeId(2), Class::Bulk, &near, &payload);
        traffic.note(
            NodeId(3),
            Class::Bulk,
            &header(3, actor_of_clients()),
            &payload,
        );
        traffic.note(NodeId(3), Class::Bulk, b"?", &payload);
        assert_eq!(traffic.bytes(), 0);
        traffic.note(NodeId(3), Class::Bulk, &far, &payload);
        let clone = traffic.clone();
        traffic.note(NodeId(3), Class::Bulk, &far, &[]);
        assert_eq!(
            clone.bytes(),
            payload.len() as u64,
            "a question costs no fragment"
        );
    }

    fn actor_of_clients() -> Actor {
        Actor::Segment(model::ids::VolumeId(1))
    }
}
