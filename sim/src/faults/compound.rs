//! Faults of several parts, each of which waits for the one before.

use std::time::Duration;

use model::time::Time;

use super::{FaultPlan, Kind, Victim};
use crate::rng::Rng;
use crate::world::Moment;

/// A cut, and at about its end the loss of the owner's site (or of the owner's links).
pub(super) fn laggard(rng: &mut Rng, lone: FaultPlan, out: &mut Vec<FaultPlan>) {
    let lag = rng.duration(Duration::from_millis(100), Duration::from_millis(1200));
    let second = *rng.pick(&[Kind::KillSite, Kind::KillSite, Kind::Isolate, Kind::Kill]);
    let early = rng.duration(Duration::ZERO, Duration::from_millis(100));
    let end = FaultPlan {
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
    out.push(FaultPlan {
        kind: Kind::Cut,
        victim: Victim::Owner,
        lasts: lag,
        moment: None,
        ..lone
    });
    out.push(end);
}

/// Several windows are written meanwhile, and what else goes wrong does so beyond the cut.
pub(super) fn long_cut(rng: &mut Rng, lone: FaultPlan) -> FaultPlan {
    FaultPlan {
        kind: *rng.pick(&[Kind::Cut, Kind::CutBack]),
        lasts: rng.duration(Duration::from_secs(8), Duration::from_secs(25)),
        ..lone
    }
}

/// The owner dies; its successors die too, soon after they began to serve.
pub(super) fn succession(rng: &mut Rng, lone: &FaultPlan, out: &mut Vec<FaultPlan>) {
    let mut armed = lone.armed;
    for i in 0..rng.within(2, 4) {
        let served = Some((Moment::Serving, 1));
        out.push(FaultPlan {
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
pub(super) fn mid_drain(rng: &mut Rng, lone: &FaultPlan, out: &mut Vec<FaultPlan>) {
    let mut armed = lone.armed;
    for _ in 0..rng.within(1, 3) {
        out.push(FaultPlan {
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
pub(super) fn reform(rng: &mut Rng, lone: &FaultPlan, out: &mut Vec<FaultPlan>) {
    let third = 3 - lone.other;
    out.push(FaultPlan {
        kind: Kind::SlowSite,
        victim: Victim::Replica,
        moment: None,
        lasts: rng.duration(Duration::from_secs(6), Duration::from_secs(14)),
        ..lone.clone()
    });
    out.push(FaultPlan {
        kind: Kind::Kill,
        victim: Victim::Replica,
        moment: None,
        lasts: rng.duration(Duration::from_secs(2), Duration::from_secs(8)),
        ..lone.clone()
    });
    let armed = lone.armed + Duration::from_secs(1);
    out.push(FaultPlan {
        armed,
        kind: Kind::Cut,
        victim: Victim::Owner,
        other: third,
        both: true,
        moment: Some((Moment::JoinSent, 1)),
        lasts: rng.duration(Duration::from_millis(200), Duration::from_secs(2)),
        ..lone.clone()
    });
    out.push(FaultPlan {
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

/// The owner is cut off from all; its successor dies when it serves; then the owner's old
/// replica, with records of its own that nobody committed, meets the third one.
pub(super) fn relapse(rng: &mut Rng, lone: &FaultPlan, out: &mut Vec<FaultPlan>) {
    let cut = rng.duration(Duration::from_millis(3200), Duration::from_secs(6));
    out.push(FaultPlan {
        kind: Kind::Isolate,
        victim: Victim::Owner,
        lasts: cut,
        ..lone.clone()
    });
    // With nothing acknowledged, or with less than the old one has in vain.
    let (after, moment) = match rng.one_in(2) {
        true => (Duration::from_millis(800), (Moment::Serving, 1)),
        false => (
            rng.duration(Duration::from_millis(1500), Duration::from_millis(2800)),
            (Moment::WriteAcked, rng.within(1, 2)),
        ),
    };
    out.push(FaultPlan {
        armed: lone.armed + after,
        kind: Kind::KillSite,
        victim: Victim::Owner,
        moment: Some(moment),
        lasts: cut + Duration::from_secs(3),
        ..lone.clone()
    });
}

/// The owner's node is cut off and the volume given away. Before that, the nodes of the other
/// replicas may have restarted; or the owner may have stood still, so that it heard late of the
/// leases that it got.
pub(super) fn usurp(rng: &mut Rng, lone: &FaultPlan, out: &mut Vec<FaultPlan>) {
    let stood = rng.one_in(3);
    let restarts = !stood && rng.one_in(2);
    let pause = rng.duration(Duration::from_millis(150), Duration::from_millis(900));
    let lasts = rng.duration(Duration::from_millis(800), Duration::from_secs(4));
    if stood {
        out.push(FaultPlan {
            kind: Kind::Pause,
            victim: Victim::Owner,
            moment: None,
            lasts: pause,
            ..lone.clone()
        });
    }
    for other in [1, 2] {
        if restarts {
            out.push(FaultPlan {
                kind: Kind::Kill,
                victim: Victim::Replica,
                other,
                moment: None,
                lasts: Duration::from_millis(5),
                ..lone.clone()
            });
        }
    }
    // It hears what came meanwhile, and what it says now is not heard.
    let heard = Duration::from_millis(1);
    let lead = if stood { pause + heard } else { Duration::ZERO };
    let cut = lone.armed + lead;
    out.push(FaultPlan {
        armed: cut,
        kind: if rng.one_in(2) {
            Kind::Isolate
        } else {
            Kind::IsolateNode
        },
        victim: Victim::Owner,
        moment: None,
        lasts,
        ..lone.clone()
    });
    out.push(FaultPlan {
        armed: cut + rng.duration(Duration::from_millis(6), Duration::from_millis(60)),
        kind: Kind::Move,
        victim: Victim::Owner,
        moment: None,
        ..lone.clone()
    });
}

/// Two sites are killed; the one that was killed last is back first, or last.
pub(super) fn two_sites(rng: &mut Rng, lone: &FaultPlan, out: &mut Vec<FaultPlan>) {
    for other in [1, 2] {
        out.push(FaultPlan {
            armed: lone.armed + rng.duration(Duration::ZERO, Duration::from_secs(3)),
            kind: Kind::KillSite,
            victim: Victim::Replica,
            other,
            lasts: rng.duration(Duration::from_secs(3), Duration::from_secs(9)),
            power: rng.one_in(2),
            ..lone.clone()
        });
    }
}

/// The journal rots at one replica, at the next once that is healed, and at the third.
pub(super) fn rot_rounds(rng: &mut Rng, lone: &FaultPlan, out: &mut Vec<FaultPlan>) {
    let mut armed = lone.armed;
    let victims = [
        (Victim::OwnReplica, 1),
        (Victim::Replica, 1),
        (Victim::Replica, 2),
    ];
    let first = rng.below(3) as usize;
    for i in 0..rng.within(2, 4) as usize {
        let (victim, other) = victims[(first + i) % victims.len()];
        out.push(FaultPlan {
            armed,
            kind: Kind::RotJournal,
            victim,
            other,
            moment: None,
            lasts: rng.duration(Duration::from_millis(20), Duration::from_millis(1500)),
            ..lone.clone()
        });
        armed += rng.duration(Duration::from_millis(500), Duration::from_secs(3));
    }
}

/// One replica lags, the owner's own loses what it acknowledged, the third one is away, and the
/// owner dies: whoever begins now must wait for the third.
pub(super) fn ruin(rng: &mut Rng, lone: &FaultPlan, out: &mut Vec<FaultPlan>) {
    let lag = rng.duration(Duration::from_millis(400), Duration::from_millis(1500));
    let third = 3 - lone.other;
    out.push(FaultPlan {
        kind: Kind::Cut,
        victim: Victim::Owner,
        other: third,
        both: true,
        moment: None,
        lasts: lag,
        ..lone.clone()
    });
    let armed = lone.armed + lag - Duration::from_millis(40);
    let lost = rng.one_in(3);
    out.push(FaultPlan {
        armed,
        kind: if lost {
            Kind::LoseJournal
        } else {
            Kind::RotJournal
        },
        victim: Victim::OwnReplica,
        moment: Some((Moment::WriteAcked, 1)),
        lasts: Duration::from_millis(5),
        ..lone.clone()
    });
    out.push(FaultPlan {
        armed,
        kind: Kind::Kill,
        victim: Victim::Owner,
        moment: Some((Moment::WriteAcked, 1)),
        lasts: rng.duration(Duration::from_millis(10), Duration::from_secs(2)),
        ..lone.clone()
    });
    out.push(FaultPlan {
        armed,
        kind: Kind::KillSite,
        victim: Victim::Replica,
        moment: Some((Moment::WriteAcked, 1)),
        lasts: rng.duration(Duration::from_secs(3), Duration::from_secs(7)),
        ..lone.clone()
    });
}
