//! The protocol between the Healers of two nodes.

use bincode::{Decode, Encode};
use model::ids::{DiskRef, SegmentId, Slot};
use model::store::FragmentMeta;

/// One fragment's part in a sum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Term {
    /// The fragment's slot.
    pub slot: Slot,
    /// The disk that has it, in the site of the Healer that is asked.
    pub at: DiskRef,
    /// What it is multiplied with, over GF(2^8).
    pub factor: u8,
}

/// Sent by a Healer that rebuilds a fragment.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum HealerRequest {
    /// Sum up fragments of your site: the sum crosses to another one in place of all of them.
    /// Answered by [`HealerReply::Sum`] or `Lacking`.
    Sum {
        /// The segment.
        segment: SegmentId,
        /// What each of its fragments is.
        meta: FragmentMeta,
        /// At least one, each of another slot.
        terms: Vec<Term>,
    },
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum HealerReply {
    /// The payload is the sum, as long as a fragment.
    Sum {
        /// Whether clients wanted something of one of the disks just before.
        is_pressed: bool,
    },
    /// Some fragment is not to be had whole, or too much is being summed up already: whoever asks
    /// reads them one by one.
    Lacking,
}
