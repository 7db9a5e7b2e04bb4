//! The shell of [`Fence`]: its clock, and what passes no more while it stands.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use model::ids::{NodeId, SiteId};
use model::machine::Machine;
use model::time::Time;
use rustix::time::{ClockId, clock_gettime};

use super::shared::{Shared, lock};
use crate::fence::{DrillId, Effect, Fence, Input, Order, Refusal, Standing};
use crate::paths::Leg;

/// The fence of this node.
#[derive(Debug)]
pub(crate) struct Fencing {
    machine: Mutex<Fence>,
    /// Whether one may stand: without one, a message costs no lock.
    raised: AtomicBool,
}

/// It goes on while the machine sleeps: a fence does not outlast that.
fn now() -> Time {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Time(seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0))
}

impl Fencing {
    pub(crate) fn new(me: NodeId) -> Self {
        Self {
            machine: Mutex::new(Fence::new(me)),
            raised: AtomicBool::new(false),
        }
    }

    /// The machine at work, whatever for; what it tells is logged.
    fn with<T>(&self, work: impl FnOnce(&mut Fence, Time, &mut Vec<Effect>) -> T) -> T {
        let mut machine = lock(&self.machine);
        let mut effects = Vec::new();
        let done = work(&mut machine, now(), &mut effects);
        self.raised
            .store(machine.next_deadline().is_some(), Ordering::Release);
        for effect in effects {
            match effect {
                Effect::Raised { site } => {
                    tracing::warn!(%site, "a drill fences the site: nothing passes to or from its nodes");
                }
                Effect::Ended { site, lifted } => {
                    tracing::warn!(%site, lifted, "the drill's fence is over: messages pass again");
                }
            }
        }
        done
    }

    /// Whether nothing passes to or from that node.
    pub(crate) fn bars(&self, node: NodeId) -> bool {
        self.raised.load(Ordering::Acquire)
            && self.with(|machine, now, out| {
                machine.tick(now, out);
                machine.bars(now, node)
            })
    }

    /// Whether a frame of that leg, between this node and that one, begins or ends beyond the
    /// fence.
    pub(crate) fn bars_leg(&self, node: NodeId, leg: Leg) -> bool {
        let far = match leg {
            Leg::Direct => None,
            Leg::For(far) | Leg::Of(far) => Some(far),
        };
        self.bars(node) || far.is_some_and(|far| self.bars(far))
    }

    pub(crate) fn know(&self, sites: BTreeMap<NodeId, SiteId>) {
        self.with(|machine, now, out| machine.handle(now, Input::Sites(sites), out));
    }

    pub(crate) fn lift(&self, drill: DrillId) {
        self.with(|machine, now, out| machine.handle(now, Input::Lift(drill), out));
    }

    pub(crate) fn standing(&self) -> Option<Standing> {
        self.with(|machine, now, out| {
            machine.tick(now, out);
            machine.standing(now)
        })
    }

    fn barred(&self) -> Vec<NodeId> {
        self.with(|machine, now, _| machine.barred(now).collect())
    }
}

/// Takes an order; what waits for nodes that are fenced by it is lost.
pub(crate) fn order(shared: &Arc<Shared>, order: Order) -> Result<Standing, Refusal> {
    let taken = shared
        .fence
        .with(|machine, now, out| machine.order(now, order, out))?;
    if order.number == 0 {
        for peer in shared
            .fence
            .barred()
            .into_iter()
            .filter_map(|n| shared.known(n))
        {
            peer.drop_queued();
        }
    }
    Ok(taken)
}
