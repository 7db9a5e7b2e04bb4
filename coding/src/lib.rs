//! Erasure codes over sites: how a segment is cut into fragments, how parity is made, and from
//! which other fragments a lost one is rebuilt.
//!
//! Every code is one linear code over GF(2^8): a *generator* matrix has one row a slot and one
//! column a data fragment. Whether fragments suffice, which ones are cheapest to read and how
//! they combine are questions of linear algebra on that matrix alone, so flat `rs:k+m` and the
//! two-level `geo:k+m` share one path, and `geo` rebuilds whatever can be rebuilt at all.
//!
//! **Invariant:** pure. No I/O, no clock, no state between calls beside a code's matrix and idle
//! buffers.
//!
//! Reading order: [`layout`] (where a byte lies), `matrix` (generators), [`Codec`].

mod buffers;
mod codec;
pub mod kernel;
pub mod layout;
mod matrix;
mod plan;
mod slots;

pub use codec::{Codec, Recipe, sum};
pub use plan::RepairPlan;
pub use slots::SlotSet;

use model::geometry::{Code, SLOTS_MAX};
use model::ids::Slot;
use thiserror::Error;

/// Why a coding operation was not carried out.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CodingError {
    /// The code has no data or no parity, fewer than two sites, or too many slots.
    #[error("{0:?} is not a code of 1 to {SLOTS_MAX} slots with data and parity")]
    BadCode(Code),
    /// A segment's length is zero, not whole blocks, or above the bound.
    #[error("{0} bytes are no segment: whole blocks, at most 4 MiB")]
    BadLength(usize),
    /// The code has no such slot.
    #[error("{0} is no slot of this code")]
    BadSlot(Slot),
    /// Sources of one reconstruction differ in length.
    #[error("the sources differ in length")]
    UnequalLengths,
    /// The fragments at hand do not determine the wanted ones.
    #[error("too few fragments")]
    TooFew,
}
