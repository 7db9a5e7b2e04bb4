//! Service goes on: one thing goes wrong, nothing is mended, and every site that it leaves
//! alone must acknowledge new writes within a bound (design section 1).

use std::collections::BTreeMap;
use std::time::Duration;

use model::ids::{NodeId, SiteId};
use model::time::Time;

use super::{Failure, Own, Run};
use crate::faults::{Kind, Plan, Victim};

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

    /// Whether the owner's site is out of the world while it lasts: nothing is asked of it.
    fn takes_owner_site(self) -> bool {
        matches!(
            self,
            Self::OwnerSiteKilled
                | Self::OwnerSiteIsolated
                | Self::OwnerSiteMute
                | Self::OwnerSiteDeaf
        )
    }

    fn plan(self, armed: Time) -> Plan {
        Plan {
            armed,
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
}

impl Run {
    /// Two clients in each site, on two nodes; the outage; then how long each site that
    /// is left waited for its first acknowledgement of a write that was sent after it.
    pub(super) fn suffer(&mut self, outage: Outage) -> Result<(), Failure> {
        self.think_max = THINK;
        let sites = self.world.sites();
        let ends = |nodes: &Vec<NodeId>| [nodes[0], nodes[nodes.len() - 1]];
        self.pins = sites.values().flat_map(ends).collect();
        self.open_pinned();
        self.pass(CALM)?;
        let owner = self.world.owner(self.volume).unwrap_or(NodeId(1));
        let home = self.world.nodes[&owner].site;
        let next = |site: SiteId| {
            let names: Vec<SiteId> = sites.keys().copied().collect();
            let at = names.iter().position(|s| *s == site).unwrap_or(0);
            names[(at + 1) % names.len()]
        };
        let plan = outage.plan(self.world.now());
        self.plans.push((plan, super::Stage::Planned));
        self.outage_since = Some(self.world.now());
        self.arm(0);
        self.pass(LASTS - Duration::from_secs(1))?;
        let mut asked: Vec<SiteId> = sites.keys().copied().collect();
        asked.retain(|site| match outage {
            Outage::OtherSiteKilled => *site != next(home),
            // Who can't talk to the owner waits, and so does the owner's site if the owner is
            // moved beyond the cut: relaying through a third site (R27) is not there yet.
            Outage::LinkCut | Outage::LinkCutFromOwner | Outage::LinkCutToOwner => {
                *site != next(home) && *site != home
            }
            _ => !(outage.takes_owner_site() && *site == home),
        });
        let since = self.outage_since.take().expect("set above");
        for site in asked {
            let Some(first) = self.resumed.get(&site) else {
                return Err(Failure::Stuck(format!("{outage:?}: {site} never went on")));
            };
            let took = first.since(since);
            self.waited = self.waited.max(took);
            if took > outage.bar() {
                return Err(Failure::Stuck(format!(
                    "{outage:?}: {site} went on after {took:?}"
                )));
            }
        }
        self.until("the outage's end", LASTS, |run| run.faults_are_over())
    }

    fn open_pinned(&mut self) {
        let now = self.world.now();
        for slot in 0..self.pins.len() {
            self.add_slot(now);
            self.world.plan(now, Own::Open(slot).number());
        }
    }

    /// A write that was sent in the outage is acknowledged.
    pub(super) fn note_resumed(&mut self, node: NodeId, called: Time) {
        let now = self.world.now();
        if self.outage_since.is_some_and(|since| called >= since) {
            let site = self.world.nodes[&node].site;
            self.resumed.entry(site).or_insert(now);
        }
    }
}

/// When each site first went on.
pub(super) type Resumed = BTreeMap<SiteId, Time>;
