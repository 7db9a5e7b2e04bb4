//! What must hold, one invariant a file. Some are looked at whenever something happens that
//! could break them ([`Guard`]); others once nothing goes wrong any more ([`unhealed`]): those
//! say in words what is missing, and a run waits for all of them, within a bound.

mod acked;
mod balanced;
mod drained;
mod elected;
mod leases;
mod orphans;
mod owner;
mod raft;
mod recoverable;
mod redundancy;
mod replicas;
mod scrubbed;
mod sessions;
mod space;
mod spread;
mod standing;
mod stored;
mod trimmed;
mod voters;
mod writable;

use std::fmt;

use actors::volume::VolumeStats;
use model::ids::{NodeId, VolumeId};
use model::time::Time;

use crate::world::{Note, World};

pub use scrubbed::is_sound;

/// An invariant that does not hold.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{rule}: {how}")]
pub struct Broken {
    /// Which.
    pub rule: &'static str,
    /// How.
    pub how: String,
}

fn broken(rule: &'static str, how: impl fmt::Display) -> Broken {
    let how = how.to_string();
    Broken { rule, how }
}

/// What the invariants that are looked at as things happen remember.
#[derive(Debug, Default)]
pub struct Guard {
    owners: owner::Owners,
    stored: stored::Stored,
    spread: spread::Spread,
    voters: voters::Voters,
    raft: raft::Groups,
    acked: acked::Acked,
}

impl Guard {
    /// Looks at what happened since the last time; `clocks` tells whether all of them run within
    /// the lease's margin.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn look(&mut self, world: &mut World, clocks: bool) -> Result<(), Broken> {
        for note in world.take_notes() {
            match note {
                Note::Serving(node, volume, epoch) => {
                    self.owners.serves(world, node, volume, epoch)?;
                    elected::check(world, node, volume, epoch)?;
                    self.acked.serves(world, node, volume, epoch)?;
                    if clocks {
                        leases::serves(world, node, volume, epoch)?;
                    }
                }
                Note::Booted(node) => self.owners.opened(world, node)?,
                Note::Acked(node, volume) => self.acked.answered(world, node, volume)?,
                Note::Checkpoint(node, volume) => {
                    // What an older owner records never counts.
                    let last = self.owners.last(volume);
                    self.stored.recorded(world, node, volume, last)?;
                }
                Note::View(node) => {
                    self.spread.check(world, node)?;
                    self.voters.check(world, node)?;
                    self.acked.placed(world, node)?;
                    drained::check_removed(world, node)?;
                }
                Note::Sealed(disk, volume, epoch) if clocks => {
                    leases::sealed(world, disk, volume, epoch)?;
                }
                Note::Sealed(..) => {}
                Note::Leads(node, group, term) => self.raft.leads(world, node, group, term)?,
            }
        }
        Ok(())
    }

    /// Until when all that owners answered lies within what recoveries of the volume cover, now
    /// that one serves.
    pub fn covered_until(&mut self, world: &World, volume: VolumeId) -> Time {
        self.acked.covered_until(world, volume)
    }

    /// Looks at what is durable once a run is over.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn finish(&mut self, world: &World) -> Result<(), Broken> {
        self.raft.finish(world)
    }
}

/// What is not yet as it must be, of a volume that nobody writes to.
#[must_use]
pub fn unhealed(world: &mut World, volume: VolumeId) -> Option<String> {
    let served = match served(world, volume) {
        Ok(served) => served,
        Err(unserved) => return Some(unserved),
    };
    replicas::check(world, volume, &served)
        .or_else(|| trimmed::check(&served))
        .or_else(|| recoverable::check(world, volume))
        .or_else(|| orphans::check(world, volume, &served))
        .or_else(|| redundancy::check(world, volume, &served))
        .or_else(|| standing::check(world, volume, &served))
        .or_else(|| drained::check(world, volume, &served))
        .or_else(|| balanced::check(world, &served))
        .or_else(|| space::check(world, volume, &served))
        .or_else(|| sessions::check(world, volume, &served))
        .or_else(|| scrubbed::check(world, volume))
        .or_else(|| writable::check(world))
}

/// A volume's owner and how its machine is.
struct Served {
    owner: NodeId,
    stats: VolumeStats,
}

fn served(world: &World, volume: VolumeId) -> Result<Served, String> {
    let unserved = || Err(format!("not served ({})", world.describe(volume)));
    let Some(owner) = world.owner(volume) else {
        return unserved();
    };
    let process = world.nodes.get(&owner).and_then(|n| n.process.as_ref());
    match process.and_then(|p| p.volumes.get(&volume)) {
        Some(machine) if machine.stats().serving => Ok(Served {
            owner,
            stats: machine.stats(),
        }),
        _ => unserved(),
    }
}
