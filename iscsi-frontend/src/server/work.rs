//! Commands that a session has under way: each waits for its turn, then goes from step to step.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use futures::stream::{FuturesUnordered, Stream};
use model::block::Reply;
use model::iscsi::UnitState;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard};

use super::hub::{Begun, Turns, UnderWay};
use super::{Changed, Unit};
use crate::scsi::sense::Sense;
use crate::scsi::{Command, Device, Outcome, Step, Task, Turn, needs};
use crate::session::CommandId;

/// So often a command starts anew since another node changed the unit's state meanwhile.
const TRIES_MAX: u32 = 16;

/// A turn that is held.
#[expect(dead_code, reason = "held until it is dropped")]
enum Held {
    Shared(OwnedRwLockReadGuard<()>),
    Alone(OwnedRwLockWriteGuard<()>),
}

/// What goes on with a command.
enum Event {
    /// It is its turn.
    Ready(Option<Held>),
    /// A volume replied.
    Replied(Task, Reply),
    /// The unit's state was to be changed to this.
    Set(Box<UnitState>, Changed),
    /// What the unit is now is known.
    Refreshed,
}

/// A command.
struct Work {
    command: Command,
    held: Option<Held>,
    /// Known to those who change the unit's state: they wait for it.
    begun: Option<Begun>,
    tries: u32,
    /// No further step is to begin.
    aborted: bool,
}

struct Running {
    id: CommandId,
    event: LocalBoxFuture<'static, Event>,
}

impl Future for Running {
    type Output = (CommandId, Event);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let id = self.id;
        self.event.as_mut().poll(cx).map(|event| (id, event))
    }
}

/// What a command came to.
pub(super) enum Ended {
    /// It has ended so.
    With(CommandId, Outcome),
    /// The volume's session is gone (R10).
    NoSession,
    /// The unit is no longer a target.
    Gone,
}

/// All commands of one session.
pub(super) struct Works {
    pub(super) unit: Rc<dyn Unit>,
    pub(super) device: Device,
    turns: Arc<Turns>,
    under_way: Rc<UnderWay>,
    works: BTreeMap<CommandId, Work>,
    running: FuturesUnordered<Running>,
}

impl Works {
    pub(super) fn new(
        unit: Rc<dyn Unit>,
        device: Device,
        (turns, under_way): (Arc<Turns>, Rc<UnderWay>),
    ) -> Self {
        Self {
            unit,
            device,
            turns,
            under_way,
            works: BTreeMap::new(),
            running: FuturesUnordered::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.works.is_empty()
    }

    /// Takes a command.
    pub(super) fn begin(
        &mut self,
        cx: &mut Context<'_>,
        id: CommandId,
        command: Command,
    ) -> Option<Ended> {
        let needs = needs(command.cdb);
        let work = Work {
            command,
            held: None,
            begun: None,
            tries: 0,
            aborted: false,
        };
        self.works.insert(id, work);
        let turns = Arc::clone(&self.turns);
        let at_once = match needs.turn {
            Turn::Free => Some(None),
            Turn::Shared => {
                let guard = Arc::clone(&turns).try_read_owned();
                guard.ok().map(|guard| Some(Held::Shared(guard)))
            }
            Turn::Alone => None,
        };
        if let Some(held) = at_once.filter(|_| !needs.fresh) {
            return self.go_on(cx, id, Event::Ready(held));
        }
        let refreshed = needs.fresh.then(|| self.unit.refresh());
        let ready = async move {
            let held = match needs.turn {
                Turn::Free => None,
                Turn::Shared => Some(Held::Shared(turns.read_owned().await)),
                Turn::Alone => Some(Held::Alone(turns.write_owned().await)),
            };
            if let Some(refreshed) = refreshed {
                refreshed.await;
            }
            Event::Ready(held)
        };
        self.run(cx, id, ready.boxed_local())
    }

    /// No further step of these begins.
    pub(super) fn abort(&mut self, ids: &[CommandId]) {
        for id in ids {
            if let Some(work) = self.works.get_mut(id) {
                work.aborted = true;
            }
        }
    }

    /// No further step of any begins.
    pub(super) fn abort_all(&mut self) {
        for work in self.works.values_mut() {
            work.aborted = true;
        }
    }

    /// What has ended, if anything has.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Option<Ended> {
        while let Poll::Ready(Some((id, event))) = Pin::new(&mut self.running).poll_next(cx) {
            let ended = self.go_on(cx, id, event);
            if ended.is_some() {
                return ended;
            }
        }
        None
    }

    /// Waits for an event, unless it is there already: many requests are done at once.
    fn run(
        &mut self,
        cx: &mut Context<'_>,
        id: CommandId,
        mut event: LocalBoxFuture<'static, Event>,
    ) -> Option<Ended> {
        match event.as_mut().poll(cx) {
            Poll::Ready(event) => self.go_on(cx, id, event),
            Poll::Pending => {
                self.running.push(Running { id, event });
                None
            }
        }
    }

    fn go_on(&mut self, cx: &mut Context<'_>, id: CommandId, event: Event) -> Option<Ended> {
        let work = self.works.get_mut(&id).expect("it is under way");
        let step = match event {
            Event::Ready(held) => {
                work.held = held;
                if work.aborted {
                    return self.end(id, Outcome::good());
                }
                return self.start(cx, id);
            }
            Event::Refreshed => return self.start(cx, id),
            Event::Replied(task, reply) => self.device.resume(task, reply),
            Event::Set(state, Changed::Done) => {
                self.device.changed(&state);
                Step::Done(Outcome::good())
            }
            Event::Set(_, Changed::Stale) if work.tries < TRIES_MAX => {
                work.tries += 1;
                let refreshed = self.unit.refresh().map(|()| Event::Refreshed);
                return self.run(cx, id, refreshed.boxed_local());
            }
            Event::Set(_, Changed::Stale | Changed::Unavailable) => Sense::FAILURE.into(),
        };
        self.step(cx, id, step)
    }

    fn start(&mut self, cx: &mut Context<'_>, id: CommandId) -> Option<Ended> {
        let Some(facts) = self.unit.facts() else {
            self.works.remove(&id);
            return Some(Ended::Gone);
        };
        let work = self.works.get_mut(&id).expect("it is under way");
        // Those that change the state themselves would wait for each other.
        if !needs(work.command.cdb).fresh {
            work.begun = Some(self.under_way.begin(facts.version));
        }
        let step = self.device.start(&work.command, &facts);
        if let Step::Change(state) = step {
            let changed = self.unit.change(facts.version, (*state).clone());
            let set = changed.map(move |changed| Event::Set(state, changed));
            return self.run(cx, id, set.boxed_local());
        }
        self.step(cx, id, step)
    }

    fn step(&mut self, cx: &mut Context<'_>, id: CommandId, step: Step) -> Option<Ended> {
        let aborted = self.works[&id].aborted;
        match step {
            Step::Done(outcome) => self.end(id, outcome),
            Step::Submit { .. } | Step::Change(_) if aborted => self.end(id, Outcome::good()),
            Step::Submit { request, task } => {
                let reply = self.unit.submit(request);
                let replied = reply.map(move |reply| Event::Replied(task, reply));
                self.run(cx, id, replied.boxed_local())
            }
            Step::Change(_) => unreachable!("only a start changes the state"),
            Step::Lost => {
                self.works.remove(&id);
                Some(Ended::NoSession)
            }
        }
    }

    fn end(&mut self, id: CommandId, outcome: Outcome) -> Option<Ended> {
        self.works.remove(&id);
        Some(Ended::With(id, outcome))
    }
}
