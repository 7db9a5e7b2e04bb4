//! The last resort (R11): a volume whose journal lost its quorum for good goes on from what is
//! left, by the operator's word.
//!
//! **Invariant:** the new epoch is beyond all of the last generation, and its first owner founds
//! the journal anew ([`VolumeRecord::is_to_found`]). So nothing that the last generation left
//! counts any more, wherever it comes back from: no owner may append or publish (R7), no log is
//! adopted (R3), no replica seals but those that are named here (R2).

use model::ids::{DiskRef, Epoch, NodeId, Position, Version, VolumeId};
use model::meta::Refusal;
use model::placement::{JournalConfig, Owner, Recovered, RecoveredFrom};
use model::planted::{Bug, planted};
use model::time::WallTime;

use super::GlobalState;

impl GlobalState {
    /// Whether what is left is enough is not for the group to judge: it holds no journal. It
    /// takes nothing that contradicts what it knows itself.
    pub(super) fn recover_volume(
        &mut self,
        volume: VolumeId,
        (expected, version): (Epoch, Version),
        (from, covered, at): (RecoveredFrom, Position, WallTime),
        replicas: Vec<DiskRef>,
        to: Option<NodeId>,
    ) -> Result<VolumeId, Refusal> {
        let sound = self.replica_sites(&replicas).map(|_| ());
        let is_known = to.is_none_or(|node| self.site_of_node(node).is_some());
        let mut record = self.live(volume)?;
        if record.epoch != expected {
            return Err(Refusal::StaleEpoch);
        }
        if record.journal.version != version {
            return Err(Refusal::StaleVersion);
        }
        sound?;
        if !is_known {
            return Err(Refusal::NotYours);
        }
        let published = record.checkpoint.covers;
        match from {
            // Of before the founding, or short of the checkpoint: there is more elsewhere.
            RecoveredFrom::Replica(at) => {
                let was_one = record.journal.replicas.contains(&at);
                if !was_one || !replicas.contains(&at) || to.is_none() {
                    return Err(Refusal::BadReplicas);
                }
                // A clean volume's journal holds nothing that the checkpoint does not (R3).
                if record.clean || covered.epoch < record.founded || covered < published {
                    return Err(Refusal::BelowRecord);
                }
            }
            RecoveredFrom::Checkpoint if covered != published => {
                return Err(Refusal::BelowRecord);
            }
            RecoveredFrom::Checkpoint => {}
        }
        let next = expected.next_generation().ok_or(Refusal::StaleEpoch)?;
        let next = if planted(Bug::RecoverUnfenced) {
            expected
        } else {
            next
        };
        // After a clean end nothing is lost: the volume is as its last owner left it.
        if !record.clean {
            record.recovered = Some(Recovered {
                epoch: next,
                from,
                covered,
                at,
                pending: true,
            });
        }
        record.clean = from == RecoveredFrom::Checkpoint;
        record.epoch = next;
        if !planted(Bug::RecoverUnfenced) {
            record.owner = to.map(|node| Owner { node, boot: None });
        }
        record.journal = JournalConfig {
            version: version.next(),
            replicas,
            next: None,
        };
        assert!(record.is_to_found());
        assert!(record.founded < record.epoch || planted(Bug::RecoverUnfenced));
        Ok(volume)
    }
}
