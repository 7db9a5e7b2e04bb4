//! A node in maintenance: what it owns leaves it, it stops for longer than a lost disk is waited
//! for, and what it holds is waited for all the same.

use model::ids::{DiskId, NodeId};
use model::placement::Duty;
use raft_meta::GroupId;

use super::drains::Wish;
use super::{Failure, Run};

/// Longer than any run.
const WAIT_S: u32 = 3600;

/// A slot of so many may move meanwhile: some rows of a site are kept whole, whoever is away.
const KEPT_OF: (usize, usize) = (1, 2);

impl Run {
    /// Whether a node may be taken into maintenance: another one of its site serves, and no other
    /// wish is there about it.
    pub(super) fn may_maintain(&self, node: NodeId) -> bool {
        let disks: Vec<DiskId> = self.world.nodes[&node].disks.keys().copied().collect();
        let is_free = self.is_to_serve(&(node, None)) && !self.resting.contains_key(&node);
        is_free && self.may_shut_down(node) && self.keeps_disk(node, &disks)
    }

    /// The operator says so, and has the process end.
    pub(super) fn begin_maintenance(&mut self, node: NodeId) {
        self.resting.insert(node, self.slots_on(node));
        let duty = Duty::Maintenance { wait_s: WAIT_S };
        self.want(node, None, Wish::Duty(duty));
        self.shut_down(node);
    }

    /// It is back.
    ///
    /// # Errors
    /// If what it held was made anew elsewhere meanwhile, though nothing else befell its site.
    pub(super) fn end_maintenance(&mut self, node: NodeId) -> Result<(), Failure> {
        let before = self.resting.remove(&node).unwrap_or_default();
        let left = self.slots_on(node);
        let (part, of) = KEPT_OF;
        let is_calm = self.plan.faults.len() == 1;
        if is_calm && left * of < before * part {
            return Err(Failure::Unexpected(format!(
                "what {} holds to be waited for: {left} of {before} slots are left",
                self.name(node)
            )));
        }
        self.begin_anew(node);
        self.want(node, None, Wish::Duty(Duty::Serve));
        Ok(())
    }

    /// The slots that lie on a node's disks by the newest word of its site's group.
    fn slots_on(&self, node: NodeId) -> usize {
        let site = self.world.nodes[&node].site;
        let disks = &self.world.nodes[&node].disks;
        let newest = self.world.running();
        let newest = newest.max_by_key(|p| p.meta.applied(GroupId::Site(site)));
        let Some(state) = newest.and_then(|p| p.meta.site(site)) else {
            return 0;
        };
        let rows = state.slots.values().flatten();
        let slots = rows.flat_map(|row| row.values());
        let here = slots.filter(|at| at.to.is_none() && disks.contains_key(&at.disk.disk));
        here.count()
    }
}
