//! What goes wrong in a run, drawn from its seed: within what the fabric promises to survive
//! (R24), or so that it may stall but must never be wrong.

use std::time::Duration;

use model::ids::{NodeId, SiteId};
use model::time::Time;

use crate::rng::Rng;

/// Something that goes wrong, and is mended later.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A node's process is killed; with a power loss, unsynced writes are lost too.
    Kill {
        /// The node.
        node: NodeId,
        /// Whether the power fails.
        power: bool,
    },
    /// All nodes of a site are killed.
    KillSite {
        /// The site.
        site: SiteId,
        /// Whether the power fails.
        power: bool,
    },
    /// Power is lost everywhere at once.
    PowerLoss,
    /// A link between two sites is cut.
    Cut {
        /// From.
        from: SiteId,
        /// To.
        to: SiteId,
        /// Whether the other direction is cut too.
        both: bool,
    },
    /// A site is cut from all others.
    Isolate {
        /// The site.
        site: SiteId,
    },
    /// A node's process stands still, then goes on as if nothing had happened: a zombie.
    Pause {
        /// The node.
        node: NodeId,
    },
}

/// A fault with its times.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlannedFault {
    /// When it happens.
    pub at: Time,
    /// When it is mended.
    pub until: Time,
    /// What it is.
    pub fault: Fault,
}

/// Draws a run's faults over `[start, start + span]`.
#[must_use]
pub fn plan(rng: &mut Rng, start: Time, span: Duration, sites: &[(SiteId, Vec<NodeId>)]) -> Vec<PlannedFault> {
    let count = rng.within(1, 6);
    let mut faults: Vec<PlannedFault> = (0..count)
        .map(|_| {
            let at = start + rng.duration(Duration::ZERO, span);
            let until = at + rng.duration(Duration::from_millis(100), Duration::from_secs(8));
            let (site, nodes) = rng.pick(sites).clone();
            let node = *rng.pick(&nodes);
            let power = rng.one_in(2);
            let fault = match rng.below(12) {
                0..=3 => Fault::Kill { node, power },
                4..=5 => Fault::KillSite { site, power },
                6 => Fault::PowerLoss,
                7..=8 => {
                    let to = rng.pick(sites).0;
                    Fault::Cut { from: site, to, both: rng.one_in(2) }
                }
                9 => Fault::Isolate { site },
                _ => Fault::Pause { node },
            };
            PlannedFault { at, until, fault }
        })
        .collect();
    faults.sort_by_key(|f| f.at);
    faults
}
