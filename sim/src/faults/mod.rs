//! What goes wrong in a run, drawn from its seed: within what the fabric promises to survive
//! (R24), or so that it may stall but must never be wrong.
//!
//! Swarm testing: a run has a random few *kinds* of faults switched on, so that one kind's
//! damage is not always hidden by another's. A fault is aimed: most hit whoever owns the volume
//! when they strike, many wait for an interesting moment of it.

pub mod astray;
mod atlas;
mod compound;
pub mod drains;
pub mod full;
pub mod growth;
pub mod last;
mod lost;
pub mod quorum;
pub mod resizes;
pub mod upgrades;

use std::fmt;
use std::time::Duration;

use model::ids::{DiskId, NodeId, SiteId};
use model::time::Time;
use serde::{Deserialize, Serialize};

use crate::plan::PlanError;
use crate::plan::text::{as_duration, as_offset};
use crate::plan::topology::NodeName;
use crate::rng::Rng;
use crate::world::Moment;

pub use atlas::Atlas;

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
    /// The owner is cut off with what it could not commit; its successor dies as soon as it
    /// serves, and the old one's site is back: what was written in vain must lose.
    Relapse,
    /// The owner is cut off, and the volume is given to another node at once, before its lease
    /// runs out; the replicas that seal may have restarted just now.
    Usurp,
    /// The owner is asked to stop, its clients stay.
    Stop,
    /// The process of a node is asked to end, as for an upgrade: clients leave, volumes end, then
    /// it does, and begins anew at the end.
    ShutDown,
    /// All clients leave, the owner is asked to stop, and the clients are back meanwhile.
    Desert,
    /// The operator moves the volume.
    Move,
    /// A node's clock runs too fast or too slow, within what the lease's margin allows.
    Drift,
    /// A node's clock runs wrong beyond that: only reads may be stale, as long as it lasts.
    DriftFar,
    /// Messages between two sites are held up, and all arrive at once.
    Clog,
    /// Two sites go, and one of them is back before the other.
    TwoSites,
    /// A site is away for so long that everybody went on without it.
    LongAway,
    /// A disk is taken out, and brought back with its old state.
    PullDisk,
    /// A disk is lost, and another one takes its place.
    WipeDisk,
    /// A disk's writes fail: it retires, until its node restarts.
    FailDisk,
    /// Fragments on a disk can't be read for a while.
    Unreadable,
    /// A disk has no room for fragments for a while.
    Full,
    /// Bits of a disk's fragments flip.
    RotFragments,
    /// Bits of a journal flip, in the log of the volume's replica.
    RotJournal,
    /// All files of a journal are gone.
    LoseJournal,
    /// A replica of the journal lags, the owner's own is damaged, and the third one goes: of
    /// the two that are left none has all, and neither may count for it.
    Ruin,
    /// One replica after the other finds its journal damaged, each once the last is healed.
    RotRounds,
    /// A disk's next write of a fragment goes to another place of the disk, or nowhere.
    Misdirect,
    /// A disk's next write of the journal goes to another place of the disk, or nowhere.
    MisdirectJournal,
    /// The operator has a disk emptied; it serves again at the end, or stays as it is
    /// ([`Plan::both`]).
    DrainDisk,
    /// The operator has a disk emptied, and takes it out once it is.
    RemoveDisk,
    /// The operator has a node emptied; it serves again at the end, or stays as it is
    /// ([`Plan::both`]).
    DrainNode,
    /// The operator makes the volume smaller, and as large as it was at the end.
    Resize,
    /// All disks of a site have no room for fragments for a while.
    FullSite,
    /// The operator gives a node one more disk, as large as the others or twice as large
    /// ([`Plan::both`]).
    AddDisk,
    /// A new node joins a site, with as many disks as the others, as large or twice as large
    /// ([`Plan::both`]).
    AddNode,
    /// The owner dies ([`Plan::power`]) or is cut off, and with it two replicas of the journal go,
    /// or all ([`Plan::both`]): the operator gives them up, and has the volume recovered (R11).
    LoseQuorum,
    /// The same, but the owner is only cut off, and the operator takes it for gone at once: its
    /// lease runs on, and no replica is left that granted it (R7).
    Disown,
}

impl Kind {
    /// Whether it is never mended.
    #[must_use]
    pub fn is_for_good(self) -> bool {
        matches!(self, Self::LoseSite | Self::LoseDisk | Self::LoseNode)
    }
}

/// The kinds that the swarm draws, the likelier ones more than once. The others come as parts of
/// compound ones, or from draws of their own. The order is part of what a seed means.
const KINDS: [Kind; 59] = [
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
    Kind::Relapse,
    Kind::Relapse,
    Kind::Relapse,
    Kind::Relapse,
    Kind::Usurp,
    Kind::Usurp,
    Kind::Usurp,
    Kind::Usurp,
    Kind::Stop,
    Kind::Desert,
    Kind::Desert,
    Kind::Move,
    Kind::Drift,
    Kind::DriftFar,
    Kind::Clog,
    Kind::TwoSites,
    Kind::LongAway,
    Kind::PullDisk,
    Kind::WipeDisk,
    Kind::WipeDisk,
    Kind::FailDisk,
    Kind::Unreadable,
    Kind::Full,
    Kind::Full,
    Kind::RotFragments,
    Kind::RotJournal,
    Kind::RotJournal,
    Kind::RotRounds,
    Kind::LoseJournal,
    Kind::Ruin,
    Kind::Ruin,
    Kind::Misdirect,
    Kind::MisdirectJournal,
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
    /// The node that has the journal's replica in the owner's site.
    OwnReplica,
}

impl Victim {
    /// The node that it names, if it names one.
    #[must_use]
    pub fn name(self) -> Option<NodeName> {
        match self {
            Self::Node(name) => Some(name),
            Self::Owner | Self::Replica | Self::OwnReplica => None,
        }
    }
}

impl TryFrom<String> for Victim {
    type Error = PlanError;

    fn try_from(text: String) -> Result<Self, PlanError> {
        match text.as_str() {
            "owner" => Ok(Self::Owner),
            "replica" => Ok(Self::Replica),
            "own-replica" => Ok(Self::OwnReplica),
            name => name.parse().map(Self::Node),
        }
    }
}

impl From<Victim> for String {
    fn from(victim: Victim) -> Self {
        match victim {
            Victim::Owner => "owner".to_owned(),
            Victim::Replica => "replica".to_owned(),
            Victim::OwnReplica => "own-replica".to_owned(),
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
    /// Messages in these directions between sites waited for its end.
    Clogged(Vec<(SiteId, SiteId)>),
    /// This node's clock ran so many millionths too fast; beyond the lease's margin or not.
    Drifted {
        /// The node.
        node: NodeId,
        /// How much too fast; too slow if negative.
        ppm: i64,
        /// Whether reads may be stale because of it.
        far: bool,
    },
    /// Something befell a disk.
    Disk {
        /// Its node.
        node: NodeId,
        /// The disk.
        disk: DiskId,
        /// What.
        ill: Ill,
    },
    /// This node's process was asked to end.
    ShutDown(NodeId),
    /// This node was asked to stop serving the volume.
    Stopped(NodeId),
    /// All clients left.
    Deserted,
    /// The volume was given to that node.
    Moved(NodeId),
    /// The volume was made smaller: it got these sizes, in blocks, one after the other.
    Resized(Vec<u64>),
    /// All these disks, a site's, have no room.
    FullSite(Vec<(NodeId, DiskId)>),
    /// This node gets one more disk, that large.
    DiskAdded(NodeId, u64),
    /// A node joins, with disks that large.
    NodeAdded(NodeName, u64),
    /// The operator has a node, or one disk of it, emptied.
    Drained {
        /// The node.
        node: NodeId,
        /// The disk, if it is one alone.
        disk: Option<DiskId>,
        /// Whether it is to go for good.
        remove: bool,
        /// Whether it serves again at the end.
        back: bool,
    },
    /// The owner is gone, and so are these replicas of the journal.
    QuorumLost {
        /// The owner.
        owner: NodeId,
        /// How it goes.
        parting: Parting,
        /// The replicas' disks.
        disks: Vec<(NodeId, DiskId)>,
        /// Whether they come back at the end as they were, though they were given up.
        returns: bool,
    },
    /// Nothing: it would have been more than the policy promises to survive.
    Spared,
}

/// How an owner goes whose journal loses its quorum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parting {
    /// Its process is killed.
    Killed,
    /// It is cut off, and waited for until it is found dead.
    Cut,
    /// It is cut off, and the operator takes it for gone at once.
    Disowned,
}

/// What befalls a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ill {
    /// It is taken out, and back at the end with its old state.
    Pulled,
    /// It is lost for good, and another one is added.
    Wiped,
    /// Writes to it fail until its node restarts, at the end.
    Failing,
    /// Its fragments can't be read until the end.
    Unreadable,
    /// It takes no fragments until the end.
    Full,
    /// Bits of some of its fragments flipped.
    RottenFragments,
    /// Bits of its journal flipped; its node restarts at the end, or does not.
    RottenJournal {
        /// Whether it does.
        restart: bool,
    },
    /// All files of its journal are gone; its node restarts at the end.
    LostJournal,
    /// Its next write of a fragment went so many bytes further on, or was lost if that is 0.
    MisdirectedFragment(u64),
    /// Its next write of the journal went so many bytes further on, or was lost if that is 0;
    /// its node restarts at the end.
    MisdirectedJournal(u64),
}

impl fmt::Display for Ill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pulled => "is taken out",
            Self::Wiped => "is lost for good",
            Self::Failing => "fails writes",
            Self::Unreadable => "can't read fragments",
            Self::Full => "is full",
            Self::RottenFragments => "has fragments that rotted",
            Self::RottenJournal { .. } => "has a journal that rotted",
            Self::LostJournal => "loses its journal",
            Self::MisdirectedFragment(0) => "loses its next write of a fragment",
            Self::MisdirectedFragment(_) => "writes its next fragment elsewhere",
            Self::MisdirectedJournal(0) => "loses its next write of the journal",
            Self::MisdirectedJournal(_) => "writes the journal elsewhere next",
        })
    }
}

impl Ill {
    /// Whether fragments are lost: they count against the budget (R24) until they are repaired.
    #[must_use]
    pub fn costs_fragments(self) -> bool {
        matches!(
            self,
            // What can't be read while a disk is opened is taken for not there.
            Self::Wiped | Self::Unreadable | Self::RottenFragments | Self::MisdirectedFragment(_)
        )
    }

    /// Whether a journal's replica counts for nothing until it is refilled or replaced (R8).
    #[must_use]
    pub fn costs_journal(self) -> bool {
        matches!(
            self,
            Self::Wiped
                | Self::LostJournal
                | Self::RottenJournal { .. }
                | Self::MisdirectedJournal(_)
        )
    }
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
    for _ in 0..rng.within(1, 6) {
        let kind = *rng.pick(&enabled);
        let armed = start + rng.duration(Duration::ZERO, span);
        let lone = draw(rng, kind, armed, aimed, nodes);
        match kind {
            Kind::Laggard => compound::laggard(rng, lone, &mut plans),
            Kind::Succession => compound::succession(rng, &lone, &mut plans),
            Kind::MidDrain => compound::mid_drain(rng, &lone, &mut plans),
            Kind::Reform => compound::reform(rng, &lone, &mut plans),
            Kind::LongCut => plans.push(compound::long_cut(rng, lone)),
            Kind::Relapse => compound::relapse(rng, &lone, &mut plans),
            Kind::Usurp => compound::usurp(rng, &lone, &mut plans),
            Kind::TwoSites => compound::two_sites(rng, &lone, &mut plans),
            Kind::Ruin => compound::ruin(rng, &lone, &mut plans),
            Kind::RotRounds => compound::rot_rounds(rng, &lone, &mut plans),
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
        // Short enough that the journal still holds what the clients wrote last.
        Kind::Desert => rng.duration(Duration::from_millis(100), Duration::from_millis(800)),
        Kind::LongAway => rng.duration(Duration::from_secs(15), Duration::from_secs(40)),
        // Long enough that a journal's window is full meanwhile.
        Kind::DriftFar | Kind::PullDisk | Kind::Full => rng.duration(Duration::from_secs(2), long),
        _ => rng.duration(Duration::from_millis(50), Duration::from_secs(6)),
    };
    let node = *rng.pick(nodes);
    let victim = if rng.below(4) < aimed {
        match kind {
            Kind::RotJournal
            | Kind::LoseJournal
            | Kind::MisdirectJournal
            | Kind::WipeDisk
            | Kind::FailDisk => *rng.pick(&[Victim::OwnReplica, Victim::Replica]),
            _ => Victim::Owner,
        }
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
