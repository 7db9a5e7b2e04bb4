//! A node that was removed for good is told so by nobody: it learns it from the placement, if that
//! still reaches it, or from the others, who refuse it. Then it says so, instead of waiting for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::ids::NodeId;
use model::placement::{Presence, View};
use tokio::sync::watch;
use transport::net::config::Refused;
use transport::net::endpoint::Transport;

use super::membership::others;
use super::meta::SharedView;

/// How often it is looked who refuses this node.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Whether this node was removed, for whoever wants to know. It never comes back (ids are not used
/// again).
#[derive(Clone, Default)]
pub struct Removal {
    refused_by: Arc<Mutex<BTreeSet<NodeId>>>,
    known: watch::Sender<bool>,
}

impl Removal {
    /// Whether it is known.
    pub fn is_known(&self) -> bool {
        *self.known.borrow()
    }

    /// Returns once it is known, if ever.
    pub async fn known(&self) {
        // Its sender lives as long as this.
        let _ = self.known.subscribe().wait_for(|known| *known).await;
    }

    /// Takes note of who refuses this node.
    pub fn listener(&self) -> Refused {
        let refused_by = Arc::clone(&self.refused_by);
        Arc::new(move |peer| {
            let mut refused_by = refused_by.lock().unwrap_or_else(PoisonError::into_inner);
            refused_by.insert(peer);
        })
    }

    /// Looks until it is known.
    pub async fn look_out(
        self,
        me: NodeId,
        contacts: BTreeMap<u16, SocketAddr>,
        view: SharedView,
        transport: Transport,
    ) {
        let contacts: BTreeSet<NodeId> = contacts.into_keys().map(NodeId).collect();
        let mut next = tokio::time::interval(LOOK_EVERY);
        loop {
            next.tick().await;
            let now = Arc::clone(&view.read().unwrap_or_else(PoisonError::into_inner));
            let refused_by = self.refused_by.lock();
            let refused_by = refused_by.unwrap_or_else(PoisonError::into_inner).clone();
            let stats = transport.stats();
            let connected = stats.into_iter().filter(|(_, s)| s.connected);
            let taken_by: BTreeSet<NodeId> = connected.map(|(id, _)| id).collect();
            if is_removed(&now, me, &contacts, &refused_by, &taken_by) {
                tracing::error!(
                    "this node was removed from the fabric for good: stop it, delete its directory, and join anew"
                );
                self.known.send_replace(true);
                return;
            }
        }
    }
}

/// By the placement, or by most of the other nodes that answer at all: by two at least, where there
/// are two, since who is removed there is removed everywhere soon.
fn is_removed(
    view: &View,
    me: NodeId,
    contacts: &BTreeSet<NodeId>,
    refused_by: &BTreeSet<NodeId>,
    taken_by: &BTreeSet<NodeId>,
) -> bool {
    if view
        .nodes
        .get(&me)
        .is_some_and(|n| n.presence == Presence::Gone)
    {
        return true;
    }
    let known: BTreeSet<NodeId> = others(view, me).into_keys().map(NodeId).collect();
    let others = if known.is_empty() { contacts } else { &known };
    let refusing = others.intersection(refused_by).count();
    let taking = others
        .intersection(taken_by)
        .filter(|n| !refused_by.contains(n));
    refusing >= others.len().clamp(1, 2) && refusing > taking.count()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use model::ids::{NodeId, SiteId};
    use model::placement::{Duty, Node, Presence, View};

    use super::is_removed;

    const ME: NodeId = NodeId(1);

    fn nodes(ids: &[u16]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    fn view(of: &[(u16, Presence)]) -> View {
        let address = "127.0.0.1:1".parse().expect("an address");
        let node = |(id, presence): &(u16, Presence)| {
            let node = Node {
                name: format!("a{id}"),
                site: SiteId(1),
                address,
                nbd: address,
                presence: *presence,
                duty: Duty::Serve,
            };
            (NodeId(*id), node)
        };
        View {
            nodes: of.iter().map(node).collect(),
            ..View::default()
        }
    }

    #[test]
    fn who_is_gone_by_its_own_placement_is_removed() {
        let none = BTreeSet::new();
        for (presence, gone) in [
            (Presence::Up, false),
            (Presence::Down, false),
            (Presence::Gone, true),
        ] {
            let view = view(&[(1, presence), (2, Presence::Up)]);
            assert_eq!(is_removed(&view, ME, &none, &none, &none), gone);
        }
    }

    #[test]
    fn who_is_refused_by_most_that_answer_is_removed() {
        let contacts = nodes(&[2, 3, 4, 5]);
        let removed = |refused: &[u16], taken: &[u16]| {
            let (refused, taken) = (nodes(refused), nodes(taken));
            is_removed(&View::default(), ME, &contacts, &refused, &taken)
        };
        assert!(!removed(&[], &[2, 3]) && !removed(&[2], &[]), "one may err");
        assert!(!removed(&[2, 9], &[]), "9 is a stranger");
        assert!(removed(&[2, 3], &[]) && removed(&[2, 3], &[4]));
        assert!(!removed(&[2, 3], &[4, 5]));
        assert!(removed(&[2, 3], &[3, 4]), "3 was about to refuse it");
        // What the placement knows counts before what it was when it joined.
        let view = view(&[(1, Presence::Down), (6, Presence::Up), (2, Presence::Gone)]);
        let by = |refused: &[u16]| is_removed(&view, ME, &contacts, &nodes(refused), &nodes(&[]));
        assert!(by(&[6]) && !by(&[2, 3]));
    }

    #[test]
    fn a_fabric_of_one_removes_nobody() {
        let none = BTreeSet::new();
        assert!(!is_removed(&View::default(), ME, &none, &none, &none));
    }
}
