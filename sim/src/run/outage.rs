//! Service goes on: one thing goes wrong, nothing is mended, and every site that it leaves
//! alone must acknowledge new writes within a bound (design section 1). While a link is cut, no
//! site may wait for longer than that at any time, however much is written (R27).

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

/// So many times a journal's window is written while a link is cut: what can't be drained stalls.
const WINDOWS: u64 = 2;

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
    pub(super) fn is_of_a_link(self) -> bool {
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
                Self::OtherSiteKilled | Self::LinkCutElsewhere => Victim::Replica,
                _ => Victim::Owner,
            },
            other: 1,
            power: true,
            both: matches!(self, Self::LinkCut | Self::LinkCutElsewhere),
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
            _ => !(outage.takes_owner_site() && *site == home),
        });
        self.judge_service(outage, owner, asked)?;
        self.until("the outage's end", LASTS, |run| run.faults_are_over())
    }

    fn judge_service(
        &mut self,
        outage: Outage,
        owner: NodeId,
        asked: Vec<SiteId>,
    ) -> Result<(), Failure> {
        let since = self.outage_since.take().expect("it is on");
        let now = self.world.now();
        let stuck = |text: String| Err(Failure::Stuck(format!("{outage:?}: {text}")));
        for site in asked {
            let Some(service) = self.resumed.get(&site) else {
                return stuck(format!("{site} never went on"));
            };
            let took = service.first.since(since);
            if took > outage.bar() {
                return stuck(format!("{site} went on after {took:?}"));
            }
            let longest = service.longest.max(now.since(service.last));
            if outage.is_of_a_link() && longest > outage.bar() {
                return stuck(format!("{site} waited for {longest:?}"));
            }
            self.waited = self.waited.max(took);
        }
        let written: u64 = self.resumed.values().map(|s| s.bytes).sum();
        let least = WINDOWS * self.world.terms.volume.window_bytes;
        if outage.is_of_a_link() && written < least {
            return stuck(format!("{written} bytes of {least} are too little to fill"));
        }
        // Who is heard by relay lives, and an owner that commits by relay stays owner.
        let moved = self.world.owner(self.volume) != Some(owner);
        if outage.is_of_a_link() && moved {
            return stuck(format!("the volume left {owner}"));
        }
        Ok(())
    }

    fn open_pinned(&mut self) {
        let now = self.world.now();
        for slot in 0..self.pins.len() {
            self.add_slot(now);
            self.world.plan(now, Own::Open(slot).number());
        }
    }

    /// A write that was sent in the outage is acknowledged.
    pub(super) fn note_resumed(&mut self, node: NodeId, called: Time, bytes: u64) {
        let now = self.world.now();
        if let Some(since) = self.outage_since.filter(|since| called >= *since) {
            let site = self.world.nodes[&node].site;
            let service = self.resumed.entry(site).or_insert(Service {
                first: now,
                last: since,
                longest: Duration::ZERO,
                bytes: 0,
            });
            service.longest = service.longest.max(now.since(service.last));
            service.last = now;
            service.bytes += bytes;
        }
    }
}

/// A site's acknowledgements of writes that were sent in the outage.
#[derive(Clone, Copy, Debug)]
pub(super) struct Service {
    first: Time,
    last: Time,
    /// The longest time without one.
    longest: Duration,
    bytes: u64,
}

/// Those of each site that went on.
pub(super) type Resumed = BTreeMap<SiteId, Service>;
