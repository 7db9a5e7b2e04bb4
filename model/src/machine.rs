//! The shape of every state machine of the fabric.

use crate::time::Time;

/// A sans-IO state machine. It decides; a shell (actix, or the simulator) carries out.
///
/// **Invariant:** `handle` is a function of the machine's state, `now` and `input` alone: no
/// clock, no random source beyond a seed that it was built with, no I/O, no iteration over a
/// hash map.
pub trait Machine {
    /// What may happen to it.
    type Input;
    /// What it asks its shell to do.
    type Effect;

    /// Takes one input and appends the effects, in the order in which they are to be carried
    /// out. The shell reuses `out`.
    fn handle(&mut self, now: Time, input: Self::Input, out: &mut Vec<Self::Effect>);

    /// When the shell must call [`Machine::tick`] at the latest, if nothing else happens.
    fn next_deadline(&self) -> Option<Time>;

    /// The clock has reached [`Machine::next_deadline`]. Early and repeated calls are harmless.
    fn tick(&mut self, now: Time, out: &mut Vec<Self::Effect>);
}
