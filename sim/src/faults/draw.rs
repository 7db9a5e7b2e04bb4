//! The swarm's draw: a random few kinds, and faults of these.

use std::time::Duration;

use model::time::Time;

use super::{FaultPlan, Kind, Victim, compound, lost};
use crate::plan::topology::NodeName;
use crate::rng::Rng;
use crate::world::Moment;

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

/// The most faults of a run; a compound one counts by its parts.
const FAULTS_MAX: usize = 12;

/// Draws a run's faults, armed within `[start, start + span]`.
#[must_use]
pub fn draw(rng: &mut Rng, start: Time, span: Duration, nodes: &[NodeName]) -> Vec<FaultPlan> {
    let enabled: Vec<Kind> = (0..rng.within(1, 5)).map(|_| *rng.pick(&KINDS)).collect();
    let aimed = rng.within(1, 4);
    let mut plans = Vec::new();
    for _ in 0..rng.within(1, 6) {
        let kind = *rng.pick(&enabled);
        let armed = start + rng.duration(Duration::ZERO, span);
        let lone = one(rng, kind, armed, aimed, nodes);
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
fn lose_one_site(plans: &mut Vec<FaultPlan>) {
    let mut lost = false;
    plans.retain(|p| p.kind != Kind::LoseSite || !std::mem::replace(&mut lost, true));
}

/// A fault of a kind.
fn one(rng: &mut Rng, kind: Kind, armed: Time, aimed: u64, nodes: &[NodeName]) -> FaultPlan {
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
    FaultPlan {
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
