//! Service goes on: one thing goes wrong, nothing is mended, and every site that it leaves
//! alone must acknowledge new writes within a bound (design section 1).

use std::time::Duration;

use model::time::Time;

use super::load::{ClientPlan, Place};
use super::topology::NodeName;
use super::{Expect, Plan};
use crate::faults::{self, Kind, Victim};
use crate::workload::Mix;

/// How long a fabric works undisturbed before, and how long the outage lasts.
const CALM: Duration = Duration::from_secs(3);
const LASTS: Duration = Duration::from_secs(25);

/// Lanes think so long at most: gaps are measured in these.
const THINK: Duration = Duration::from_millis(20);

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
}

impl Outage {
    /// All of them.
    pub const ALL: [Self; 10] = [
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
    ];

    /// Within what time writes are acknowledged again.
    #[must_use]
    pub fn bar(self) -> Duration {
        match self {
            Self::OwnerKilled | Self::OwnerPaused => Duration::from_secs(3),
            _ => Duration::from_secs(10),
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::OwnerKilled => Kind::Kill,
            Self::OwnerPaused => Kind::Pause,
            Self::OwnerSiteKilled | Self::OtherSiteKilled => Kind::KillSite,
            Self::OwnerSiteIsolated => Kind::Isolate,
            Self::OwnerSiteMute => Kind::Mute,
            Self::OwnerSiteDeaf => Kind::Deaf,
            Self::LinkCut | Self::LinkCutFromOwner => Kind::Cut,
            Self::LinkCutToOwner => Kind::CutBack,
        }
    }

    fn fault(self) -> faults::Plan {
        faults::Plan {
            armed: Time::ZERO + CALM,
            moment: None,
            lasts: LASTS,
            kind: self.kind(),
            victim: match self {
                Self::OtherSiteKilled => Victim::Replica,
                _ => Victim::Owner,
            },
            other: 1,
            power: true,
            both: self == Self::LinkCut,
        }
    }

    /// The seed's fabric with this outage instead of the seed's faults: two clients in each
    /// site, on two nodes.
    #[must_use]
    pub fn plan(self, seed: u64) -> Plan {
        let mut plan = Plan::draw(seed);
        plan.name = format!("{self:?}-{seed}");
        plan.faults = vec![self.fault()];
        plan.expect = Expect {
            rto: Some(self.bar()),
            ..Expect::default()
        };
        let nodes = plan.topology.nodes;
        let ends = |site| [1, nodes].map(|node| Place::At(NodeName { site, node }));
        let places = (0..plan.topology.sites).flat_map(ends);
        let client = |place| ClientPlan {
            place,
            lanes: vec![Mix::Reads, Mix::Writes, Mix::All],
        };
        plan.workload.clients = places.map(client).collect();
        plan.workload.think = THINK;
        plan
    }
}
