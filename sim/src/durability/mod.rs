//! How likely data is to be lost within a year, and for how long it can't be read: for a code and
//! a fabric, by Monte Carlo, from how often disks, nodes and sites fail.
//!
//! **The model.** Slots lie where the groups' own states put them ([`raft_meta`]), a row is lost
//! when [`coding::Codec::decodable`] says so, and what is lost is made good as the product does
//! it: a disk's fragments on other disks of its site after `heal_after`, weakest rows first; a
//! site's when it is back or founded anew; a flat code's rows that a site left without anything to
//! spare are written anew by their owners meanwhile (R26). A rotten fragment is found by the
//! scrub. *Lost* is whatever can't be had back, be it one segment: the probability is that of
//! losing any data of a pool that fills the disks. *Unavailable* is what can be read again once a
//! node or a site is back, and everything while no majority of sites is there.
//!
//! **How it is counted.** A fabric that is whole forgets: its life is a sequence of independent
//! cycles, and losses a year are losses a cycle by years a cycle. The first loss ends a cycle. Losses are far too rare to be
//! met by chance, so that failures are forced (`failure`): more and others fail than really would,
//! and each cycle counts by as much less as it is likelier here (importance sampling by balanced
//! failure biasing; Nicola, Shahabuddin, Nakayama, "Techniques for Fast Simulation of Models of
//! Highly Dependable Systems", 2001). Losses, outages and cycles' lengths are drawn apart.
//!
//! **What is left out.** Everything that fails together without being a node or a site: bugs, an
//! operator's mistakes, an attack, a bad batch or a common age of disks, a fire that reaches two
//! sites. Failure rates are constant: no infant mortality, no wear, and no failures because of
//! the load of a repair. A rebuild goes slot by slot at a constant pace, whatever clients do; links
//! between sites never limit it, and there is room for everything. While a node is away for
//! longer than `heal_after`, its fragments are not rebuilt elsewhere; nor do a pool's first rows
//! go before `heal_after`. Rows that were written anew elsewhere are safe until all is whole.
//! Rotten fragments are of different segments, one each, and a misread is always noticed
//! (checksums). Journals and their last seconds, the index (`rs:2+4`: look at it as another
//! code) and the metadata groups are not in it, beside the majority of sites that they need. A
//! segment that is smaller than its row's others makes no difference.
//!
//! Reading order: [`Terms`], `layout`, `world`, `repair`, `kind`, `failure`, `cycle`, `estimate`, [`run`].

mod cycle;
mod estimate;
mod failure;
mod judge;
mod kind;
mod layout;
mod repair;
mod report;
mod terms;
#[cfg(test)]
mod tests;
mod world;

use std::collections::BTreeMap;

use model::geometry::Code;
use thiserror::Error;

pub use estimate::Estimate;
pub use report::Report;
pub use terms::{Rates, Shape, Terms, Times};
pub use world::Cause;

use crate::rng::Rng;
use cycle::{Cycle, cycle};
use estimate::Sums;
use failure::Failures;
use judge::Judge;
use kind::Aim;
use layout::Layout;
use terms::YEAR_H;
use world::Paces;

/// Why nothing was estimated.
#[derive(Clone, Copy, Debug, Error, PartialEq)]
pub enum DurabilityError {
    /// There is no such fabric.
    #[error(
        "there is no such fabric here: sites, nodes, disks, rows and bytes are above zero, disks 4096 at most"
    )]
    Shape,
    /// No failures, or more than a rate can be.
    #[error("rates are from 0 on, one of them is above, and none is more than one a minute")]
    Rates,
    /// Nothing would ever be made good.
    #[error("repair and rewriting have a pace above zero")]
    Pace,
    /// The fabric refuses a volume of that code.
    #[error("{code} does not fit {sites} site(s): the loss of one must leave enough")]
    Code {
        /// Which.
        code: Code,
        /// Of how many sites.
        sites: u8,
    },
    /// No cycles to count.
    #[error("at least 2 cycles are needed")]
    Cycles,
    /// The fabric does not come to be whole.
    #[error(
        "with so many disks, rates so high or repairs so slow, the fabric is hardly ever whole, and this can't be counted"
    )]
    NeverWhole,
}

/// How much is drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Effort {
    /// Cycles for each figure.
    pub cycles: u32,
    /// Decides what is drawn.
    pub seed: u64,
    /// Whether failures are forced; else losses are met by chance, or not at all.
    pub forced: bool,
}

impl Default for Effort {
    fn default() -> Self {
        Self {
            cycles: 20_000,
            seed: 1,
            forced: true,
        }
    }
}

/// What was estimated for a code.
#[derive(Clone, PartialEq, Debug)]
pub struct Durability {
    /// The code.
    pub code: Code,
    /// The probability that data is lost within a year.
    pub loss: Estimate,
    /// Which share of that has which cause.
    pub causes: BTreeMap<Cause, f64>,
    /// Cycles that ended with a loss.
    pub losses_seen: u32,
    /// How many minutes of a year some data can't be read, though it is not lost.
    pub unavailable_min: Estimate,
    /// Hours that a disk's fragments take to be rebuilt, `heal_after` not counted.
    pub rebuild_h: f64,
}

/// Sums over cycles.
#[derive(Debug, Default)]
struct Drawn {
    hours: Sums,
    losses: Sums,
    unavailable_h: Sums,
    causes: BTreeMap<Cause, f64>,
    losses_seen: u32,
}

impl Drawn {
    fn add(&mut self, cycle: &Cycle) {
        self.hours.add(cycle.hours);
        self.unavailable_h.add(cycle.unavailable_h);
        self.losses
            .add(cycle.loss.map_or(0.0, |(_, weight)| weight));
        if let Some((cause, weight)) = cycle.loss {
            *self.causes.entry(cause).or_default() += weight;
            self.losses_seen += 1;
        }
    }

    /// Of each cause, by all.
    fn shares(self) -> BTreeMap<Cause, f64> {
        let all: f64 = self.causes.values().sum();
        let shares = self.causes.into_iter();
        shares
            .map(|(cause, weight)| (cause, weight / all))
            .collect()
    }
}

/// Streams of random numbers.
const FOR_LENGTHS: u64 = 1;
const FOR_LOSSES: u64 = 2;
const FOR_OUTAGES: u64 = 3;

/// Estimates it for one code.
///
/// # Errors
/// [`DurabilityError`].
pub fn estimate(terms: &Terms, code: Code, effort: &Effort) -> Result<Durability, DurabilityError> {
    terms.check()?;
    if effort.cycles < 2 {
        return Err(DurabilityError::Cycles);
    }
    let layout = Layout::of(&terms.shape, code, effort.seed)?;
    let paces = Paces::of(terms, code);
    let mut judge = Judge::new(&layout.codec);
    let mut draw = |aim: Aim, stream: u64| {
        let aim = if effort.forced { aim } else { Aim::Nothing };
        let rng = Rng::new(effort.seed, stream);
        let mut failures = Failures::new(&terms.rates, &terms.times, aim, rng);
        let mut drawn = Drawn::default();
        for _ in 0..effort.cycles {
            drawn.add(&cycle(&layout, paces, &mut failures, &mut judge)?);
        }
        Ok::<_, DurabilityError>(drawn)
    };
    let lengths = draw(Aim::Nothing, FOR_LENGTHS)?.hours;
    let losses = draw(Aim::Loss, FOR_LOSSES)?;
    let outages = draw(Aim::Outage, FOR_OUTAGES)?;
    let unavailable_h = outages.unavailable_h.per(&lengths, YEAR_H);
    Ok(Durability {
        code,
        loss: losses.losses.per(&lengths, YEAR_H).at_least_one(),
        losses_seen: losses.losses_seen,
        causes: losses.shares(),
        unavailable_min: unavailable_h.times(60.0),
        rebuild_h: terms.shape.disk_bytes as f64 / paces.rebuild,
    })
}

/// Whether the fabric takes volumes of that code.
#[must_use]
pub fn fits(terms: &Terms, code: Code) -> bool {
    let code = code.over_sites(terms.shape.sites);
    terms.check().is_ok() && Layout::of(&terms.shape, code, 0).is_ok()
}

/// Estimates it for each code; `tell` hears which one it is at.
///
/// # Errors
/// [`DurabilityError`].
pub fn run(
    terms: &Terms,
    codes: &[Code],
    effort: &Effort,
    tell: &mut dyn FnMut(&str),
) -> Result<Report, DurabilityError> {
    let mut found = Vec::new();
    for code in codes {
        let code = code.over_sites(terms.shape.sites);
        tell(&format!("{code}: {} cycles", effort.cycles));
        found.push(estimate(terms, code, effort)?);
    }
    Ok(Report {
        terms: *terms,
        effort: *effort,
        found,
    })
}
