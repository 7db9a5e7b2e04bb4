//! What every shell has: a machine, its effects, its timer, and the end of a machine that panics.

use std::panic::{AssertUnwindSafe, catch_unwind};

use actix::{Actor, ActorContext, AsyncContext, Context, SpawnHandle};
use model::machine::Machine;
use model::time::Time;

use super::clock::boottime;

/// A machine in its shell.
#[derive(Debug)]
pub(super) struct Driver<M: Machine> {
    pub(super) machine: M,
    effects: Vec<M::Effect>,
    armed: Option<(Time, SpawnHandle)>,
    broken: bool,
}

impl<M: Machine> Driver<M> {
    pub(super) fn new(machine: M) -> Self {
        Self {
            machine,
            effects: Vec::new(),
            armed: None,
            broken: false,
        }
    }
}

/// A shell around one machine.
pub(super) trait Shell: Actor<Context = Context<Self>> {
    /// Its machine.
    type Machine: Machine;

    fn driver(&mut self) -> &mut Driver<Self::Machine>;

    /// Carries one effect out.
    fn carry_out(&mut self, effect: <Self::Machine as Machine>::Effect, ctx: &mut Context<Self>);

    /// Its machine panicked: whoever counts on this actor is told. The actor stops with it.
    fn broke(&mut self, ctx: &mut Context<Self>);

    /// Gives the machine an input and carries out what it decides.
    fn drive(&mut self, input: <Self::Machine as Machine>::Input, ctx: &mut Context<Self>) {
        self.step(ctx, |machine, effects| {
            machine.handle(boottime(), input, effects);
        });
    }

    /// The timer fired.
    fn drive_tick(&mut self, ctx: &mut Context<Self>) {
        self.driver().armed = None;
        self.step(ctx, |machine, effects| machine.tick(boottime(), effects));
    }

    /// One step of the machine. What it found to be impossible ends it, and nothing that it
    /// decided in that step is carried out: a machine in doubt of itself tells nobody anything.
    /// The others go on, and a volume that no node can serve takes no node with it.
    fn step(
        &mut self,
        ctx: &mut Context<Self>,
        step: impl FnOnce(&mut Self::Machine, &mut Vec<<Self::Machine as Machine>::Effect>),
    ) {
        let driver = self.driver();
        if driver.broken {
            return;
        }
        let mut effects = std::mem::take(&mut driver.effects);
        let machine = &mut driver.machine;
        // Nobody looks at the machine again after a panic: no half-done step is seen.
        if catch_unwind(AssertUnwindSafe(|| step(machine, &mut effects))).is_err() {
            driver.broken = true;
            self.broke(ctx);
            ctx.stop();
            return;
        }
        self.finish(effects, ctx);
    }

    fn finish(
        &mut self,
        mut effects: Vec<<Self::Machine as Machine>::Effect>,
        ctx: &mut Context<Self>,
    ) {
        for effect in effects.drain(..) {
            self.carry_out(effect, ctx);
        }
        self.driver().effects = effects;
        self.arm(ctx);
    }

    /// Arms the timer, unless one that fires earlier is armed: an early tick is harmless, and
    /// re-arming for every message is not free.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        let driver = self.driver();
        let Some(due) = driver.machine.next_deadline() else {
            return;
        };
        if let Some((armed, handle)) = driver.armed {
            if armed <= due {
                return;
            }
            ctx.cancel_future(handle);
        }
        // A millisecond is the timer's grain; a deadline that has passed gets one too.
        let wait = due
            .since(boottime())
            .max(std::time::Duration::from_millis(1));
        let handle = ctx.run_later(wait, |shell, ctx| shell.drive_tick(ctx));
        self.driver().armed = Some((due, handle));
    }
}

#[cfg(test)]
mod tests {
    use actix::{Handler, Message, MessageResult, System};

    use super::*;

    /// Panics when it is told so, with an effect decided before.
    #[derive(Debug)]
    struct Fragile;

    impl Machine for Fragile {
        type Input = bool;
        type Effect = u32;

        fn handle(&mut self, _now: Time, breaks: bool, out: &mut Vec<u32>) {
            out.push(1);
            assert!(!breaks, "as planned");
        }

        fn tick(&mut self, _now: Time, _out: &mut Vec<u32>) {}

        fn next_deadline(&self) -> Option<Time> {
            None
        }
    }

    #[derive(Debug)]
    struct FragileActor {
        driver: Driver<Fragile>,
        ends: tokio::sync::mpsc::UnboundedSender<(u32, u32)>,
        carried_out: u32,
        broken: u32,
    }

    impl Actor for FragileActor {
        type Context = Context<Self>;

        fn stopped(&mut self, _ctx: &mut Self::Context) {
            let _ = self.ends.send((self.carried_out, self.broken));
        }
    }

    #[derive(Message)]
    #[rtype(result = "u32")]
    struct Step {
        breaks: bool,
    }

    impl Handler<Step> for FragileActor {
        type Result = MessageResult<Step>;

        fn handle(&mut self, step: Step, ctx: &mut Self::Context) -> Self::Result {
            self.drive(step.breaks, ctx);
            MessageResult(self.carried_out)
        }
    }

    impl Shell for FragileActor {
        type Machine = Fragile;

        fn driver(&mut self) -> &mut Driver<Fragile> {
            &mut self.driver
        }

        fn broke(&mut self, _ctx: &mut Context<Self>) {
            self.broken += 1;
        }

        fn carry_out(&mut self, effect: u32, _ctx: &mut Context<Self>) {
            self.carried_out += effect;
        }
    }

    #[test]
    fn a_machine_that_panics_ends_alone_and_says_nothing_more() {
        System::new().block_on(async {
            let (ends, mut ended) = tokio::sync::mpsc::unbounded_channel();
            let actor = FragileActor {
                driver: Driver::new(Fragile),
                ends,
                carried_out: 0,
                broken: 0,
            };
            let actor = actor.start();
            assert_eq!(actor.send(Step { breaks: false }).await, Ok(1));
            // What it decided before it found the impossible is not carried out.
            actor.do_send(Step { breaks: true });
            actor.do_send(Step { breaks: false });
            assert_eq!(ended.recv().await, Some((1, 1)));
            assert!(actor.send(Step { breaks: false }).await.is_err());
        });
    }
}
