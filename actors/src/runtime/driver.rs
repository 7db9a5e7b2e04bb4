//! What every shell has: a machine, its effects, its timer.

use actix::{Actor, AsyncContext, Context, SpawnHandle};
use model::machine::Machine;
use model::time::Time;

use super::clock::boottime;

/// A machine in its shell.
#[derive(Debug)]
pub(super) struct Driver<M: Machine> {
    pub(super) machine: M,
    effects: Vec<M::Effect>,
    armed: Option<(Time, SpawnHandle)>,
}

impl<M: Machine> Driver<M> {
    pub(super) fn new(machine: M) -> Self {
        Self {
            machine,
            effects: Vec::new(),
            armed: None,
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

    /// Gives the machine an input and carries out what it decides.
    fn drive(&mut self, input: <Self::Machine as Machine>::Input, ctx: &mut Context<Self>) {
        let driver = self.driver();
        let mut effects = std::mem::take(&mut driver.effects);
        driver.machine.handle(boottime(), input, &mut effects);
        self.finish(effects, ctx);
    }

    /// The timer fired.
    fn drive_tick(&mut self, ctx: &mut Context<Self>) {
        let driver = self.driver();
        driver.armed = None;
        let mut effects = std::mem::take(&mut driver.effects);
        driver.machine.tick(boottime(), &mut effects);
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
