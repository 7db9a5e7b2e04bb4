//! What fails next, how likely that is, and how likely it is made to be.
//!
//! Each disk, node and site has its exponential clocks, all of which run as they really do. Where
//! failures are *forced*, there are more of them beside: as often of a disk as of a site, and half
//! of them of something that the weakest rows need. Each draw has a *factor*, its real probability
//! by the one that it had, which makes up for that. What really happens is never made rarer, so
//! that no factor is large.

use super::kind::{Aim, Choice, Kind, chance, choices, needed};
use super::terms::{Rates, Times, hours};
use super::world::{Place, Rot, World};
use crate::rng::Rng;

/// Failures that are expected while something lacks, where they are forced.
const EXPECTED: f64 = 0.7;

/// After so many failures nothing is forced any more: a cycle ends.
const FORCED_MAX: u32 = 8;

/// So many of the first failures of a cycle are forced, by those that really happen.
const FORCED_FIRST: f64 = 4.0;

/// Draws failures.
#[derive(Debug)]
pub(super) struct Failures<'a> {
    rates: &'a Rates,
    times: &'a Times,
    aim: Aim,
    rng: Rng,
}

/// A failure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    pub(super) target: usize,
    /// Its real probability, given that something fails, by the one that it had.
    pub(super) factor: f64,
}

/// What a cycle has still to force.
#[derive(Clone, Copy, Debug)]
pub(super) struct Force {
    left: u32,
    /// Failures an hour, beside those that really happen.
    rate: f64,
}

/// Until something fails, or is made good.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    pub(super) hours: f64,
    pub(super) failure: Option<Failure>,
    /// Its real probability, but for what fails, by the one that it had.
    pub(super) factor: f64,
}

impl<'a> Failures<'a> {
    pub(super) fn new(rates: &'a Rates, times: &'a Times, aim: Aim, rng: Rng) -> Self {
        Self {
            rates,
            times,
            aim,
            rng,
        }
    }

    /// Above 0, at most 1.
    fn uniform(&mut self) -> f64 {
        ((self.rng.bits() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -self.uniform().ln() * mean
    }

    fn one_of(&mut self, targets: &[usize]) -> usize {
        *self.rng.pick(targets)
    }

    /// When the first failure of what is whole comes, in hours, and which one that is.
    pub(super) fn first(&mut self, world: &World<'_>) -> (f64, Failure) {
        let choices = choices(world, self.rates);
        let real: f64 = choices.iter().map(|c| c.rate).sum();
        let hours = self.exponential(1.0 / real);
        let beside = match self.has_aimed(&choices) {
            true => real * FORCED_FIRST,
            false => 0.0,
        };
        (hours, self.next(world, &choices, beside))
    }

    /// Whether something may fail that is looked for.
    fn has_aimed(&self, choices: &[Choice]) -> bool {
        let kinds = self.aim.kinds();
        choices.iter().any(|choice| kinds.contains(&choice.kind))
    }

    pub(super) fn force(&self) -> Force {
        Force {
            left: FORCED_MAX,
            rate: 0.0,
        }
    }

    /// Something failed: how much more is to.
    pub(super) fn failed(&self, world: &World<'_>, force: &mut Force) {
        force.rate = 0.0;
        if self.aim == Aim::Nothing || force.left == 0 {
            return;
        }
        force.left -= 1;
        let exposure = world.exposure(self.aim == Aim::Outage);
        if exposure > 0.0 {
            force.rate = EXPECTED / exposure;
        }
    }

    /// Whether something fails within so many hours, before something is made good, when and what.
    pub(super) fn wait(&mut self, world: &World<'_>, within: f64, force: Force) -> Wait {
        let choices = choices(world, self.rates);
        let real: f64 = choices.iter().map(|c| c.rate).sum();
        let is_open = force.rate > 0.0 && self.has_aimed(&choices);
        let beside = match is_open && world.exposure(self.aim == Aim::Outage) > 0.0 {
            true => force.rate,
            false => 0.0,
        };
        let all = real + beside;
        let hours = if all > 0.0 {
            self.exponential(1.0 / all)
        } else {
            within
        };
        if hours >= within {
            return Wait {
                hours: within,
                failure: None,
                factor: (beside * within).exp(),
            };
        }
        Wait {
            hours,
            failure: Some(self.next(world, &choices, beside)),
            factor: (beside * hours).exp() * real / all,
        }
    }

    /// What fails now, if so many failures an hour are forced beside the real ones.
    fn next(&mut self, world: &World<'_>, choices: &[Choice], beside: f64) -> Failure {
        let real: f64 = choices.iter().map(|c| c.rate).sum();
        if beside <= 0.0 {
            let (choice, target) = self.really(world, choices, real);
            let kind = choice.kind;
            return Failure {
                kind,
                target,
                factor: 1.0,
            };
        }
        let kinds = self.aim.kinds();
        let aimed: Vec<&Choice> = choices.iter().filter(|c| kinds.contains(&c.kind)).collect();
        let weakest = world.weakest();
        let (choice, target) = match self.uniform() * (real + beside) <= real {
            true => self.really(world, choices, real),
            false => self.forced(world, &aimed, &weakest),
        };
        let rate = choice.rate / choice.targets as f64;
        let forced = match kinds.contains(&choice.kind) {
            true => chance(choice, &needed(world, choice, &weakest), target) / aimed.len() as f64,
            false => 0.0,
        };
        let used = (rate + beside * forced) / (real + beside);
        Failure {
            kind: choice.kind,
            target,
            factor: rate / real / used,
        }
    }

    fn really<'b>(
        &mut self,
        world: &World<'_>,
        choices: &'b [Choice],
        all: f64,
    ) -> (&'b Choice, usize) {
        let mut at = self.uniform() * all;
        let mut chosen = choices.last().expect("something may fail");
        for choice in choices {
            if at <= choice.rate {
                chosen = choice;
                break;
            }
            at -= choice.rate;
        }
        (chosen, self.one_of(&chosen.kind.targets(world)))
    }

    fn forced<'b>(
        &mut self,
        world: &World<'_>,
        aimed: &[&'b Choice],
        weakest: &[(Place, usize)],
    ) -> (&'b Choice, usize) {
        let choice = *self.rng.pick(aimed);
        let needed = needed(world, choice, weakest);
        let target = match !needed.is_empty() && self.rng.one_in(2) {
            true => self.one_of(&needed),
            false => self.one_of(&choice.kind.targets(world)),
        };
        (choice, target)
    }

    /// Lets it happen.
    pub(super) fn happen(&mut self, world: &mut World<'_>, failure: Failure) {
        let (now, target) = (world.now, failure.target);
        match failure.kind {
            Kind::Disk => world.lose_disk(target, now + world.paces.replace),
            Kind::Rot => self.rot(world, target),
            Kind::Node => world.lose_node(target),
            Kind::NodeOutage => {
                let mean = hours(self.times.node_outage);
                world.node_back[target] = Some(now + self.exponential(mean));
            }
            Kind::Site => world.lose_site(target),
            Kind::SiteOutage => {
                let mean = hours(self.times.site_outage);
                world.site_back[target] = Some(now + self.exponential(mean));
                world.begin_rewriting();
            }
        }
    }

    /// A fragment of a slot rots. The scrub, somewhere on its way, comes by within one round.
    fn rot(&mut self, world: &mut World<'_>, number: usize) {
        let slots = world.layout.rows[0].len();
        let slot = u8::try_from(number % slots).expect("at most 64 slots");
        let found_at = world.now + self.uniform() * hours(self.times.scrub);
        let place = (number / slots, slot);
        world.rots.push(Rot { place, found_at });
    }
}
