//! Fuzz targets for the decoders of clients', peers' and disks' bytes (`docs/limits.md` says which have none).
//!
//! A target is a plain function of bytes, in one [`Target`]. A test feeds it ([`feed`]) with what its
//! encoders make ([`Target::seeds`]), with the inputs that are kept in `corpus/<target>/`, and
//! with a bounded number of mutations of both; `cargo xtask fuzz` with as many as one likes. An
//! input that found something is kept.
//!
//! **Invariant:** whatever the bytes, a target returns: it does not panic, and its memory stays
//! within [`Target::budget`] and a multiple of the input. [`check`] asserts both.

pub mod budget;
pub mod feed;
mod input;
pub mod mutate;
mod targets;

use model::wire;

pub use targets::TARGETS;

/// What a target made of an input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is what an encoder could have written.
    Taken,
    /// It is not, and was refused.
    Refused,
}

impl Verdict {
    fn of(taken: bool) -> Self {
        if taken { Self::Taken } else { Self::Refused }
    }
}

/// A decoder of hostile bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// Feeds it.
    pub run: fn(&[u8]) -> Verdict,
    /// Inputs that the present encoders make: each is [`Verdict::Taken`].
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Bytes of memory that it may hold beyond what its input deserves.
    pub budget: usize,
}

/// The budget of a target whose decoder promises no other.
pub const BUDGET: usize = 2 << 20;

/// What an input deserves: what its length fields may claim, and what its values then are, as large
/// as the largest variant of each.
fn deserved(bytes: usize) -> usize {
    wire::claim_max(bytes).saturating_add(wire::CLAIM_PER_BYTE * bytes)
}

/// Runs a target on an input.
///
/// # Panics
/// If the target does, or holds more memory than it may.
pub fn check(target: &Target, data: &[u8]) -> Verdict {
    let (verdict, held) = budget::measure(|| (target.run)(data));
    let may = target.budget + deserved(data.len());
    assert!(
        held <= may,
        "{} held {held} bytes on behalf of {}: more than {may}",
        target.name,
        data.len()
    );
    verdict
}
