//! A change of the replicas (R5, R6): from its start until a committed entry settles it,
//! acknowledgements and leases need a quorum of both sets.
//!
//! **Invariant:** the new set is proposed for adoption only once an acknowledgement quorum of
//! it holds everything up to the change's start. What was committed before then lies in it;
//! what is committed after, was acknowledged by a quorum of the new set besides.
//!
//! Every replica that is new must hold it too: else the set would have fewer copies than the
//! one that it replaces, whose lost member might have come back, and one more loss would leave
//! too few for a seal.

use model::ids::{DiskRef, Position, Version};
use model::placement::JournalConfig;

use super::Journal;
use super::replica::{Mode, Replica};
use crate::planted::{Bug, planted};

/// A configuration that this owner never proposed: another one acts in its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Foreign;

/// A change that is under way.
#[derive(Debug)]
pub(super) struct Joint {
    /// The set that is changed to.
    next: Vec<DiskRef>,
    /// The log's last record at the change's start.
    start: Position,
}

impl Journal {
    /// The replicas that a seal goes by: the committed set.
    #[must_use]
    pub fn members(&self) -> &[DiskRef] {
        &self.members
    }

    /// The set that is being changed to.
    #[must_use]
    pub fn next_members(&self) -> Option<&[DiskRef]> {
        self.joint.as_ref().map(|j| j.next.as_slice())
    }

    /// The sets of which a quorum holds all that is committed: what was committed before a
    /// change began needs none of the new set yet.
    #[must_use]
    pub fn counted_sets(&self) -> Vec<Vec<DiskRef>> {
        let next = self.joint.as_ref().filter(|j| self.committed > j.start);
        let next = next.map(|j| j.next.clone());
        std::iter::once(self.members.clone()).chain(next).collect()
    }

    /// The committed configuration's version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The global group knows that a change to `next` begins: both sets count from here on.
    /// Replicas that are new join, whatever their disks may hold.
    pub fn begin_change(&mut self, next: Vec<DiskRef>) {
        assert!(self.joint.is_none(), "one change at a time");
        assert!(!next.is_empty());
        for at in &next {
            if self.replicas.iter().all(|r| r.at != *at) {
                let end = self.log.last().seq.next();
                let replica = Replica::new(*at, (Mode::Join, end), &self.terms);
                self.replicas.push(replica);
            }
        }
        let start = self.log.last();
        self.joint = Some(Joint { next, start });
    }

    /// Whether enough of the new set holds what the change started with, so that the change
    /// may be proposed for adoption (R5).
    #[must_use]
    pub fn change_is_ready(&self) -> bool {
        let Some(joint) = &self.joint else {
            return false;
        };
        // A log that was reset to a base holds what lies before it, by the checkpoint there.
        let holds = |r: &Replica| r.matched.seq >= joint.start.seq;
        let is_new = |r: &&Replica| !self.members.contains(&r.at);
        planted(Bug::AdoptBehind)
            || (self.quorum_of(&joint.next, |r| r.matched.seq) >= joint.start.seq
                && self.replicas.iter().filter(is_new).all(holds))
    }

    /// A committed entry settled the change: `config` is the configuration now. The replicas
    /// that are in it no more are forgotten here; their disks drop them by themselves.
    ///
    /// # Errors
    /// [`Foreign`] if it is neither the old set nor the one that this owner proposed: then
    /// nothing changed.
    pub fn settle_change(&mut self, config: &JournalConfig) -> Result<(), Foreign> {
        let joint = self.joint.take();
        match joint {
            Some(joint) if config.replicas == joint.next => self.members = joint.next,
            _ if config.replicas == self.members => {}
            other => {
                self.joint = other;
                return Err(Foreign);
            }
        }
        self.version = config.version;
        let members = &self.members;
        self.replicas.retain(|r| members.contains(&r.at));
        assert_eq!(self.replicas.len(), self.members.len());
        Ok(())
    }

    /// What an acknowledgement quorum of every set that counts reaches (R5).
    pub(super) fn quorum_value<T: Ord + Copy>(&self, of: impl Fn(&Replica) -> T) -> T {
        let committed = self.quorum_of(&self.members, &of);
        match &self.joint {
            Some(joint) if !planted(Bug::OldSetAlone) => {
                committed.min(self.quorum_of(&joint.next, &of))
            }
            _ => committed,
        }
    }

    /// What an acknowledgement quorum of one set reaches. Allocates nothing: a set has three
    /// replicas at most, and this runs with every answer.
    fn quorum_of<T: Ord + Copy>(&self, set: &[DiskRef], of: impl Fn(&Replica) -> T) -> T {
        let value = |at: &DiskRef| {
            let replica = self.replicas.iter().find(|r| r.at == *at);
            of(replica.expect("every member has its state"))
        };
        let need = JournalConfig::ack_quorum(set.len());
        let reached = |v: &T| set.iter().filter(|at| value(at) >= *v).count() >= need;
        set.iter()
            .map(value)
            .filter(reached)
            .max()
            .expect("the least value is reached by all")
    }
}
