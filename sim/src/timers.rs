//! When a node's machines' timers go off.

use model::time::Time;

use crate::world::Who;

/// A few machines' timers, one each: so few that a search from the first on is the shortest.
#[derive(Clone, Default, Debug)]
pub struct Timers(Vec<(Who, Time)>);

impl Timers {
    /// Arms a machine's timer, unless it goes off by then anyway; whether it did.
    pub fn hasten(&mut self, who: Who, at: Time) -> bool {
        match self.0.iter_mut().find(|(of, _)| *of == who) {
            Some((_, armed)) if *armed <= at => false,
            Some((_, armed)) => {
                *armed = at;
                true
            }
            None => {
                self.0.push((who, at));
                true
            }
        }
    }

    /// A machine's timer goes off, if it is set to this time; whether it is.
    pub fn go_off(&mut self, who: Who, at: Time) -> bool {
        let Some(i) = self.0.iter().position(|armed| *armed == (who, at)) else {
            return false;
        };
        self.0.swap_remove(i);
        true
    }

    /// The machines whose timers are armed.
    pub fn of(&self) -> impl Iterator<Item = Who> {
        self.0.iter().map(|(who, _)| *who)
    }

    /// A machine is gone.
    pub fn remove(&mut self, who: Who) {
        self.0.retain(|(of, _)| *of != who);
    }

    /// All machines are gone.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_of_two_times_counts() {
        let mut timers = Timers::default();
        assert!(timers.hasten(Who::Meta, Time(20)) && timers.hasten(Who::Paths, Time(5)));
        assert!(!timers.hasten(Who::Meta, Time(30)) && timers.hasten(Who::Meta, Time(10)));
        assert!(
            !timers.go_off(Who::Meta, Time(20)),
            "an earlier one took its place"
        );
        assert!(timers.go_off(Who::Meta, Time(10)) && !timers.go_off(Who::Meta, Time(10)));
        timers.remove(Who::Paths);
        assert!(!timers.go_off(Who::Paths, Time(5)));
    }
}
