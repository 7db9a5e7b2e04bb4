//! What others see of a disk: people, and the simulator's invariants. Nothing is decided by it.

use model::ids::{Epoch, Position, VolumeId};

use super::entry::Health;
use super::log::Held;
use super::replica::Replica;
use super::{Disk, DiskStats, ReplicaStats, ScrubStats};

impl Disk {
    /// How it is. Costs a walk over all replicas.
    #[must_use]
    pub fn stats(&self) -> DiskStats {
        let replicas = self.replicas.iter();
        let stats = replicas.map(|(volume, replica)| (*volume, replica.stats()));
        DiskStats {
            replicas: stats.collect(),
            files: self.files.in_use(),
            syncs: self.batcher.syncs(),
            moved_bytes: self.moved_bytes,
            scrub: self.scrub.stats(),
            retired: self.retired,
        }
    }

    /// How a volume's replica is, if there is one.
    #[must_use]
    pub fn replica_stats(&self, volume: VolumeId) -> Option<ReplicaStats> {
        self.replicas.get(&volume).map(Replica::stats)
    }

    /// How its scrub is.
    #[must_use]
    pub fn scrub(&self) -> ScrubStats {
        self.scrub.stats()
    }

    /// The epoch that a volume's replica promised, if the promise is durable.
    #[must_use]
    pub fn promised(&self, volume: VolumeId) -> Option<Epoch> {
        let replica = self.replicas.get(&volume)?;
        self.batcher
            .is_durable(replica.promised_by())
            .then_some(replica.promised())
    }

    /// Whether a volume's replica holds the log up to a position, durably. One that is damaged
    /// held what it acknowledged (R8), and may do so.
    #[must_use]
    pub fn holds(&self, volume: VolumeId, position: Position) -> bool {
        let Some(replica) = self.replicas.get(&volume) else {
            return false;
        };
        let log = replica.log();
        // What was trimmed was committed.
        let below = position.seq < log.base().seq;
        let at = log.position_at(position.seq) == Some(position);
        let durable = |held: &Held| held.slot.at.is_some();
        let written = below || log.held(position.seq).is_none_or(durable);
        replica.health() != Health::Whole || ((below || at) && written)
    }
}
