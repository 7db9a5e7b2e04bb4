//! The end of a volume that was made smaller.

use bincode::{Decode, Encode};

/// Bytes that were cut off a volume: what they held is gone for good, though the volume grows
/// again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Cut {
    /// The first byte; a multiple of the block size.
    pub from: u64,
    /// The first byte after it, likewise.
    pub to: u64,
}

impl Cut {
    /// This cut and a later one, as one: between the two there is nothing that counts, since
    /// nothing beyond a cut is served until it has ended.
    #[must_use]
    pub fn join(self, later: Self) -> Self {
        Self {
            from: self.from.min(later.from),
            to: self.to.max(later.to),
        }
    }

    /// How many bytes it takes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.to.saturating_sub(self.from)
    }
}
