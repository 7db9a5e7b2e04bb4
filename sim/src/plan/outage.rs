//! Service goes on: one thing goes wrong, nothing is mended, and every site that it leaves
//! alone must acknowledge new writes within a bound, as in the drills of `docs/resilience.md`.
//! While a link is cut, no site may wait for longer than that at any time, however much is written
//! (R27).

use std::time::Duration;

use model::time::Time;

use super::load::{ClientPlan, Place};
use super::topology::{Machines, NodeName};
use super::{Expect, Plan};
use crate::faults::{FaultPlan, Kind, Victim};
use crate::workload::Mix;

/// How long a fabric works undisturbed before, and how long the outage lasts.
const CALM: Duration = Duration::from_secs(3);
const LASTS: Duration = Duration::from_secs(25);

/// Lanes think so long at most: gaps are measured in these.
const THINK: Duration = Duration::from_millis(20);

/// So many times a journal's window is written while a link is cut: what can't be drained stalls.
const WINDOWS: u64 = 2;

/// A link that carries less a second is narrow: what clients of all sites wait for at once takes
/// longer to cross it than an owner's death is to be felt.
const NARROW: u64 = 1 << 20;

/// So much longer an owner's death may be felt across a narrow link.
const NARROW_TAKES: Duration = Duration::from_secs(2);

/// What goes wrong, once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outage {
    /// The owner's process is killed.
    OwnerKilled,
    /// The owner's process stands still.
    OwnerPaused,
    /// All of the owner's site is killed.
    OwnerSiteKilled,
    /// All of another site is killed.
    OtherSiteKilled,
    /// The owner's site hears nobody and nobody hears it.
    OwnerSiteIsolated,
    /// The owner's site hears the others, but they don't hear it.
    OwnerSiteMute,
    /// The others hear the owner's site, but it doesn't hear them.
    OwnerSiteDeaf,
    /// The link from the owner's site to another one is cut, in both directions.
    LinkCut,
    /// What the owner's site sends to another one is lost.
    LinkCutFromOwner,
    /// What another site sends to the owner's is lost.
    LinkCutToOwner,
    /// The link between the two sites that are not the owner's is cut, in both directions.
    LinkCutElsewhere,
}

impl Outage {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::OwnerKilled,
        Self::OwnerPaused,
        Self::OwnerSiteKilled,
        Self::OtherSiteKilled,
        Self::OwnerSiteIsolated,
        Self::OwnerSiteMute,
        Self::OwnerSiteDeaf,
        Self::LinkCut,
        Self::LinkCutFromOwner,
        Self::LinkCutToOwner,
        Self::LinkCutElsewhere,
    ];

    /// Within what time writes are acknowledged again.
    #[must_use]
    pub fn bar(self) -> Duration {
        match self {
            Self::OwnerKilled | Self::OwnerPaused => Duration::from_secs(3),
            _ if self.is_of_a_link() => Duration::from_secs(3),
            _ => Duration::from_secs(10),
        }
    }

    /// Whether every site goes on all the time: two of them, relayed by the third. Such a run's
    /// network loses nothing else: a fragment that is lost is put again after 2 s only, which
    /// fills a small window, link or no link.
    fn is_of_a_link(self) -> bool {
        matches!(
            self,
            Self::LinkCut | Self::LinkCutFromOwner | Self::LinkCutToOwner | Self::LinkCutElsewhere
        )
    }

    fn kind(self) -> Kind {
        match self {
            Self::OwnerKilled => Kind::Kill,
            Self::OwnerPaused => Kind::Pause,
            Self::OwnerSiteKilled | Self::OtherSiteKilled => Kind::KillSite,
            Self::OwnerSiteIsolated => Kind::Isolate,
            Self::OwnerSiteMute => Kind::Mute,
            Self::OwnerSiteDeaf => Kind::Deaf,
            Self::LinkCut | Self::LinkCutFromOwner | Self::LinkCutElsewhere => Kind::Cut,
            Self::LinkCutToOwner => Kind::CutBack,
        }
    }

    fn fault(self) -> FaultPlan {
        FaultPlan {
            armed: Time::ZERO + CALM,
            moment: None,
            lasts: LASTS,
            kind: self.kind(),
            victim: match self {
                Self::OtherSiteKilled | Self::LinkCutElsewhere => Victim::Replica,
                _ => Victim::Owner,
            },
            other: 1,
            power: true,
            both: matches!(self, Self::LinkCut | Self::LinkCutElsewhere),
        }
    }

    /// The seed's fabric with this outage instead of the seed's faults: two clients in each
    /// site, on two nodes.
    #[must_use]
    pub fn plan(self, seed: u64) -> Plan {
        let mut plan = Plan::draw(seed);
        plan.name = format!("{self:?}-{seed}");
        plan.faults = vec![self.fault()];
        // The seed's table may have room for the seed's clients alone.
        plan.machines.sessions = Machines::default().sessions;
        let is_narrow = (1..NARROW).contains(&plan.network.wan_bytes_per_s);
        let of_link = match self {
            Self::OwnerKilled | Self::OwnerPaused if is_narrow => NARROW_TAKES,
            _ => Duration::ZERO,
        };
        plan.expect = Expect {
            rto: Some(self.bar() + of_link),
            ..Expect::default()
        };
        if self.is_of_a_link() {
            plan.network.loss_one_in = 0;
            // Nor is throughput bounded by how narrow a way is, or by how few records go at a time,
            // which the swarm draws.
            plan.network.wan_bytes_per_s = 0;
            plan.machines.append_records = Machines::default().append_records;
            let window = plan.machines.window;
            plan.expect.pause = Some(self.bar());
            plan.expect.written = Some(WINDOWS * window);
            // Who is heard by relay lives, and an owner that commits by relay stays owner.
            plan.expect.owner_stays = true;
        }
        let nodes = plan.topology.nodes;
        let ends = |site| [1, nodes].map(|node| Place::At(NodeName { site, node }));
        let places = (0..plan.topology.sites).flat_map(ends);
        let mut lanes = vec![Mix::Reads, Mix::Writes, Mix::All];
        if self.is_of_a_link() {
            // Clients that wait for each answer must ask enough to fill the window, however far
            // apart the sites are.
            lanes.push(Mix::Writes);
        }
        let client = |place| ClientPlan {
            place,
            lanes: lanes.clone(),
        };
        plan.workload.clients = places.map(client).collect();
        plan.workload.think = THINK;
        plan
    }
}
