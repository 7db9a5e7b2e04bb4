//! A node's process that is asked to end: its front end closes, its volumes end, and it is gone.

use std::time::Duration;

use model::ids::{ClientId, NodeId};

use super::{Own, Run};

/// How often it is looked whether all ended, and how long it is waited for, as the process does.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const GRACE: Duration = Duration::from_secs(5);

impl Run {
    /// Whether a node's process could be asked: it runs, and was not asked yet.
    pub(super) fn may_shut_down(&self, node: NodeId) -> bool {
        let hears = self.world.paused_until(node).is_none();
        let runs = self.world.nodes[&node].process.is_some();
        hears && runs && !self.ending.contains_key(&node)
    }

    /// It is asked: clients are told goodbye first, then nothing is served any more.
    pub(super) fn shut_down(&mut self, node: NodeId) {
        let now = self.world.now();
        let life = self.world.nodes[&node].life;
        self.ending.insert(node, (life, now + GRACE));
        let here = self.slots.iter().filter(|s| s.node == node);
        let clients: Vec<ClientId> = here.filter_map(|s| s.client).collect();
        for client in clients {
            self.left.insert(client);
            self.world.close_client(node, client);
        }
        self.world.stop_host(node);
        self.world
            .schedule(now + LOOK_EVERY, Own::End(node).number());
    }

    /// The process is gone once its volumes are, or once it has waited for long enough.
    pub(super) fn look_at_end(&mut self, node: NodeId) {
        let now = self.world.now();
        let Some((life, until)) = self.ending.get(&node).copied() else {
            return;
        };
        let is_same = self.world.nodes[&node].life == life;
        let serves = is_same && self.world.runs_any(node);
        if serves && now < until {
            self.world
                .schedule(now + LOOK_EVERY, Own::End(node).number());
            return;
        }
        self.ending.remove(&node);
        if is_same {
            self.kill(node, false);
        }
    }

    /// It is to run again; it may have had no time to end.
    pub(super) fn begin_anew(&mut self, node: NodeId) {
        if self.ending.remove(&node).is_some() {
            self.kill(node, false);
        }
        if self.dead.remove(&node) {
            self.start_node(node);
        }
    }
}
