//! What goes wrong in a run, drawn from its seed: within what the fabric promises to survive
//! (R24), or so that it may stall but must never be wrong.
//!
//! Swarm testing: a run has a random few *kinds* of faults switched on, so that one kind's
//! damage is not always hidden by another's. A fault is aimed: most hit whoever owns the volume
//! when they strike, many wait for an interesting moment of it.

mod lost;

use std::time::Duration;

use model::ids::{DiskId, NodeId, SiteId};
use model::time::Time;
use serde::{Deserialize, Serialize};

use crate::plan::PlanError;
use crate::plan::text::{as_duration, as_offset};
use crate::plan::topology::NodeName;
use crate::rng::Rng;
use crate::world::Moment;

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A node's process is killed.
    Kill,
    /// All nodes of a site are killed.
    KillSite,
    /// Power is lost everywhere at once.
    PowerLoss,
    /// A site is lost, and does not return in this run.
    LoseSite,
    /// A link between two sites is cut, in one direction or both.
    Cut,
    /// A site is cut from all others.
    Isolate,
    /// A node is cut from all others, those of its site included.
    IsolateNode,
    /// A node's process stands still, then goes on as if nothing had happened: a zombie.
    Pause,
    /// A link between two sites is slow.
    SlowLink,
    /// A node's disks are slow.
    SlowDisks,
    /// A site falls behind (its link from the owner's is cut), and when it is back, the owner's
    /// site goes: a new owner that does not look beyond the laggard's journal loses writes.
    Laggard,
    /// The owner is killed again and again, soon after it began to serve.
    Succession,
    /// The owner, or its site, dies while it makes a checkpoint.
    MidDrain,
    /// What a site sends to another one arrives, but not what that one sends.
    CutBack,
    /// A link between two sites is cut, in either direction or both, for so long that work must
    /// go on around it (R27).
    LongCut,
    /// A site hears the others, but they don't hear it.
    Mute,
    /// The others hear a site, but it doesn't hear them.
    Deaf,
    /// All disks of a site are slow.
    SlowSite,
    /// A replica of the journal is away until it is replaced; while its successor is being
    /// filled, slowly, the third one lags; and when the new set is adopted, the owner goes.
    Reform,
    /// A disk is lost, with all that it held.
    LoseDisk,
    /// A node is lost, with its disks.
    LoseNode,
}

impl Kind {
    /// Whether it is never mended.
    #[must_use]
    pub fn is_for_good(self) -> bool {
        matches!(self, Self::LoseSite | Self::LoseDisk | Self::LoseNode)
    }
}

/// All kinds, the likelier ones more than once.
const KINDS: [Kind; 26] = [
    Kind::Kill,
    Kind::Kill,
    Kind::KillSite,
    Kind::PowerLoss,
    Kind::LoseSite,
    Kind::Cut,
    Kind::Isolate,
    Kind::Isolate,
    Kind::IsolateNode,
    Kind::Pause,
    Kind::Pause,
    Kind::SlowLink,
    Kind::SlowDisks,
    Kind::Laggard,
    Kind::Laggard,
    Kind::Succession,
    Kind::MidDrain,
    Kind::MidDrain,
    Kind::MidDrain,
    Kind::LongCut,
    Kind::LongCut,
    Kind::Mute,
    Kind::Deaf,
    Kind::SlowSite,
    Kind::Reform,
    Kind::Reform,
];

/// Whom a fault hits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Victim {
    /// The volume's owner (its node, or its site) when the fault strikes.
    Owner,
    /// This node, or its site.
    Node(NodeName),
    /// The node that has the journal's replica in the other site ([`Plan::other`]), or that
    /// site.
    Replica,
}

impl Victim {
    /// The node that it names, if it names one.
    #[must_use]
    pub fn name(self) -> Option<NodeName> {
        match self {
            Self::Node(name) => Some(name),
            Self::Owner | Self::Replica => None,
        }
    }
}

impl TryFrom<String> for Victim {
    type Error = PlanError;

    fn try_from(text: String) -> Result<Self, PlanError> {
        match text.as_str() {
            "owner" => Ok(Self::Owner),
            "replica" => Ok(Self::Replica),
            name => name.parse().map(Self::Node),
        }
    }
}

impl From<Victim> for String {
    fn from(victim: Victim) -> Self {
        match victim {
            Victim::Owner => "owner".to_owned(),
            Victim::Replica => "replica".to_owned(),
            Victim::Node(name) => name.to_string(),
        }
    }
}

/// A fault that is to happen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// From when on it may strike, told from the moment at which clients begin to work.
    #[serde(rename = "at", with = "as_offset")]
    pub armed: Time,
    /// It strikes at the so-manieth of these moments from then on, or after
    /// [`Plan::patience`]; at once without a moment.
    #[serde(rename = "when", default, skip_serializing_if = "Option::is_none")]
    pub moment: Option<(Moment, u64)>,
    /// How long it lasts.
    #[serde(with = "as_duration")]
    pub lasts: Duration,
    /// Its kind.
    pub kind: Kind,
    /// Whom it hits.
    pub victim: Victim,
    /// The other site of a link, counted from the victim's: 1 is the next one.
    #[serde(default = "next")]
    pub other: u64,
    /// Whether the power fails with the processes: unsynced writes are lost.
    #[serde(default)]
    pub power: bool,
    /// Whether a link fails in both directions.
    #[serde(default = "yes")]
    pub both: bool,
}

fn next() -> u64 {
    1
}

fn yes() -> bool {
    true
}

impl Plan {
    /// How long it waits for its moment.
    #[must_use]
    pub fn patience(&self) -> Duration {
        match self.moment {
            None => Duration::ZERO,
            // A new owner's start takes as long as detection, the lease and the seal.
            Some((Moment::Serving, _)) => Duration::from_secs(5),
            Some((Moment::WriteAcked, _)) => Duration::from_millis(600),
            // A replica is replaced after seconds.
            Some((Moment::JoinSent | Moment::AdoptSent, _)) => Duration::from_secs(8),
            // Drains are rarer than writes.
            Some(_) => Duration::from_secs(2),
        }
    }
}

/// A fault that struck, with whom it hit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// These processes were killed.
    Killed {
        /// The nodes.
        nodes: Vec<NodeId>,
        /// Whether the power failed.
        power: bool,
        /// Whether they stay away until the run's end.
        for_good: bool,
    },
    /// These directions between sites were cut.
    Cut(Vec<(SiteId, SiteId)>),
    /// These directions between sites were slow.
    Slow(Vec<(SiteId, SiteId)>),
    /// This node was cut off.
    CutNode(NodeId),
    /// This node stood still.
    Paused(NodeId),
    /// These nodes' disks were slow.
    SlowDisks(Vec<NodeId>),
    /// This disk of a node was lost for good.
    LostDisk(NodeId, DiskId),
}

/// A fault that struck, and when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Struck {
    /// When it happened.
    pub at: Time,
    /// When it was mended.
    pub until: Time,
    /// Who owned the volume then.
    pub owner: Option<NodeId>,
    /// What it was.
    pub fault: Fault,
}

/// The most faults of a run; a compound one counts by its parts.
const FAULTS_MAX: usize = 12;

/// Draws a run's faults, armed within `[start, start + span]`.
#[must_use]
pub fn plan(rng: &mut Rng, start: Time, span: Duration, nodes: &[NodeName]) -> Vec<Plan> {
    let enabled: Vec<Kind> = (0..rng.within(1, 5)).map(|_| *rng.pick(&KINDS)).collect();
    let aimed = rng.within(1, 4);
    let mut plans = Vec::new();
    for _ in 0..rng.within(1, 5) {
        let kind = *rng.pick(&enabled);
        let armed = start + rng.duration(Duration::ZERO, span);
        let lone = draw(rng, kind, armed, aimed, nodes);
        match kind {
            Kind::Laggard => laggard(rng, lone, &mut plans),
            Kind::Succession => succession(rng, &lone, &mut plans),
            Kind::MidDrain => mid_drain(rng, &lone, &mut plans),
            Kind::Reform => reform(rng, &lone, &mut plans),
            Kind::LongCut => plans.push(long_cut(rng, lone)),
            _ => plans.push(lone),
        }
    }
    plans.truncate(FAULTS_MAX);
    lose_one_site(&mut plans);
    lost::add(rng, start, span, nodes, &mut plans);
    plans.sort_by_key(|p| p.armed);
    plans
}

/// One site may be lost for good, whatever else comes and goes (R24): while more is away, things
/// wait.
fn lose_one_site(plans: &mut Vec<Plan>) {
    let mut lost = false;
    plans.retain(|p| p.kind != Kind::LoseSite || !std::mem::replace(&mut lost, true));
}

fn draw(rng: &mut Rng, kind: Kind, armed: Time, aimed: u64, nodes: &[NodeName]) -> Plan {
    let moment = match rng.below(8) {
        0 => None,
        1 => Some((Moment::CheckpointSent, 1)),
        2 | 3 => Some((Moment::IndexSent, rng.within(1, 6))),
        4 => Some((Moment::DeleteSent, 1)),
        _ => Some((Moment::WriteAcked, rng.within(1, 20))),
    };
    let long = Duration::from_secs(10);
    let lasts = match kind {
        // Long enough for others to take over meanwhile, mostly.
        Kind::Isolate
        | Kind::Mute
        | Kind::Deaf
        | Kind::IsolateNode
        | Kind::Pause
        | Kind::KillSite
            if !rng.one_in(4) =>
        {
            rng.duration(Duration::from_secs(3), long)
        }
        Kind::PowerLoss => rng.duration(Duration::from_millis(10), Duration::from_secs(2)),
        _ => rng.duration(Duration::from_millis(50), Duration::from_secs(6)),
    };
    let node = *rng.pick(nodes);
    let victim = if rng.below(4) < aimed {
        Victim::Owner
    } else {
        Victim::Node(node)
    };
    Plan {
        armed,
        moment,
        lasts,
        kind,
        victim,
        other: rng.within(1, 2),
        power: rng.one_in(2),
        both: rng.one_in(2),
    }
}

/// A cut, and at about its end the loss of the owner's site (or of the owner's links).
fn laggard(rng: &mut Rng, lone: Plan, out: &mut Vec<Plan>) {
    let lag = rng.duration(Duration::from_millis(100), Duration::from_millis(1200));
    let second = *rng.pick(&[Kind::KillSite, Kind::KillSite, Kind::Isolate, Kind::Kill]);
    let early = rng.duration(Duration::ZERO, Duration::from_millis(100));
    let end = Plan {
        armed: Time(
            (lone.armed + lag)
                .0
                .saturating_sub(u64::try_from(early.as_nanos()).unwrap_or(0)),
        ),
        moment: Some((Moment::WriteAcked, rng.within(1, 4))),
        lasts: rng.duration(Duration::from_secs(3), Duration::from_secs(8)),
        kind: second,
        victim: Victim::Owner,
        ..lone.clone()
    };
    out.push(Plan {
        kind: Kind::Cut,
        victim: Victim::Owner,
        lasts: lag,
        moment: None,
        ..lone
    });
    out.push(end);
}

/// Several windows are written meanwhile, and what else goes wrong does so beyond the cut.
fn long_cut(rng: &mut Rng, lone: Plan) -> Plan {
    Plan {
        kind: *rng.pick(&[Kind::Cut, Kind::CutBack]),
        lasts: rng.duration(Duration::from_secs(8), Duration::from_secs(25)),
        ..lone
    }
}

/// The owner dies; its successors die too, soon after they began to serve.
fn succession(rng: &mut Rng, lone: &Plan, out: &mut Vec<Plan>) {
    let mut armed = lone.armed;
    for i in 0..rng.within(2, 4) {
        let served = Some((Moment::Serving, 1));
        out.push(Plan {
            armed,
            moment: if i == 0 || rng.one_in(2) {
                lone.moment
            } else {
                served
            },
            lasts: rng.duration(Duration::from_millis(50), Duration::from_secs(4)),
            kind: Kind::Kill,
            victim: Victim::Owner,
            power: rng.one_in(2),
            ..lone.clone()
        });
        armed += rng.duration(Duration::from_millis(200), Duration::from_secs(4));
    }
}

/// The owner dies between a checkpoint's first index segment and its record.
fn mid_drain(rng: &mut Rng, lone: &Plan, out: &mut Vec<Plan>) {
    let mut armed = lone.armed;
    for _ in 0..rng.within(1, 3) {
        out.push(Plan {
            armed,
            moment: Some((Moment::IndexSent, rng.within(1, 6))),
            lasts: rng.duration(Duration::from_millis(50), Duration::from_secs(2)),
            kind: if rng.one_in(3) {
                Kind::KillSite
            } else {
                Kind::Kill
            },
            victim: Victim::Owner,
            power: rng.one_in(2),
            ..lone.clone()
        });
        armed += rng.duration(Duration::from_secs(2), Duration::from_secs(5));
    }
}

/// A change of the journal's replicas at its worst moment.
fn reform(rng: &mut Rng, lone: &Plan, out: &mut Vec<Plan>) {
    let third = 3 - lone.other;
    out.push(Plan {
        kind: Kind::SlowSite,
        victim: Victim::Replica,
        moment: None,
        lasts: rng.duration(Duration::from_secs(6), Duration::from_secs(14)),
        ..lone.clone()
    });
    out.push(Plan {
        kind: Kind::Kill,
        victim: Victim::Replica,
        moment: None,
        lasts: rng.duration(Duration::from_secs(2), Duration::from_secs(8)),
        ..lone.clone()
    });
    let armed = lone.armed + Duration::from_secs(1);
    out.push(Plan {
        armed,
        kind: Kind::Cut,
        victim: Victim::Owner,
        other: third,
        both: true,
        moment: Some((Moment::JoinSent, 1)),
        lasts: rng.duration(Duration::from_millis(200), Duration::from_secs(2)),
        ..lone.clone()
    });
    out.push(Plan {
        armed,
        kind: if rng.one_in(3) {
            Kind::Kill
        } else {
            Kind::KillSite
        },
        victim: Victim::Owner,
        moment: Some((Moment::AdoptSent, 1)),
        lasts: rng.duration(Duration::from_secs(3), Duration::from_secs(8)),
        ..lone.clone()
    });
}
