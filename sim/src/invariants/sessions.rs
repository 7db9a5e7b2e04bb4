//! R10: no session is open but those of clients that live, and of nodes that have not been heard
//! of since and were not removed: they may come back.

use model::ids::{ClientRef, NodeId, VolumeId};
use model::placement::Presence;

use super::Served;
use crate::world::World;

pub(super) fn check(world: &World, volume: VolumeId, served: &Served) -> Option<String> {
    let process = world.nodes[&served.owner].process.as_ref()?;
    let view = process.host.current_view();
    let gone = |node: NodeId| {
        let known = view.nodes.get(&node);
        known.is_some_and(|n| n.presence == Presence::Gone)
    };
    let lives = |of: &ClientRef| {
        let node = &world.nodes[&of.node];
        match node.process.as_ref() {
            Some(process) => {
                of.boot == node.identity.boot && process.clients.contains_key(&of.client)
            }
            None => !gone(of.node),
        }
    };
    let open = world.clients(served.owner, volume);
    let dead: Vec<_> = open.into_iter().filter(|of| !lives(of)).collect();
    (!dead.is_empty()).then(|| format!("sessions of clients that ended are open: {dead:?}"))
}
