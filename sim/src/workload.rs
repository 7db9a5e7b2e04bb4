//! What clients do: overlapping reads, writes and trims of few blocks, so that races are the
//! rule; every written sector holds a value that is written once.

use bytes::{Bytes, BytesMut};
use model::block::{Allocation, Chunk, Request};

use crate::oracle::{SECTOR, Value};
use crate::rng::Rng;

/// An operation that a client is to do. Units: sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Write a value to each sector.
    Write {
        /// First sector.
        first: u64,
        /// How many.
        count: u64,
        /// The first sector's value; the next ones count up.
        value: Value,
    },
    /// Make sectors read as zeros.
    Clear {
        /// First sector.
        first: u64,
        /// How many.
        count: u64,
        /// Whether they stay allocated.
        allocate: bool,
    },
    /// Read sectors.
    Read {
        /// First sector.
        first: u64,
        /// How many.
        count: u64,
    },
    /// Ask how sectors are allocated.
    Status {
        /// First sector.
        first: u64,
        /// How many.
        count: u64,
    },
}

/// Which operations a lane asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mix {
    /// All of them.
    All,
    /// Reads only: they go on where writes are stuck.
    Reads,
    /// Writes and trims only.
    Writes,
}

/// Where operations go: few places, so that they meet.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Blocks of the volume.
    pub blocks: u64,
    /// First block and number of blocks of each place.
    clusters: Vec<(u64, u64)>,
}

/// Sectors of a block.
const BLOCK: u64 = 8;

/// Blocks that are cleared at once at most: servers that are checked bound a request's length.
const LONG_MAX: u64 = Layout::WIDE;

impl Layout {
    /// All over a small volume.
    #[must_use]
    pub fn small(blocks: u64) -> Self {
        Self {
            blocks,
            clusters: vec![(0, blocks)],
        }
    }

    /// Places at the borders of the index's leaves, one of them large enough that a leaf's
    /// changes are taken in at once.
    #[must_use]
    pub fn wide(blocks: u64) -> Self {
        let all = [(0, 6), (250, 12), (500, 90), (1018, 6)];
        let inside = all.into_iter().filter(|(start, _)| *start < blocks);
        Self {
            // A plan that was made smaller has fewer of them.
            clusters: inside
                .map(|(start, of)| (start, of.min(blocks - start)))
                .collect(),
            blocks,
        }
    }

    /// Blocks of a volume that has all those places.
    pub const WIDE: u64 = 1024;

    /// The volume's sectors.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.blocks * BLOCK
    }
}

/// Makes operations.
#[derive(Debug)]
pub struct Workload {
    rng: Rng,
    layout: Layout,
    next_value: u64,
}

impl Workload {
    /// On a volume of that layout.
    #[must_use]
    pub fn new(rng: Rng, layout: Layout) -> Self {
        Self {
            rng,
            layout,
            next_value: 1,
        }
    }

    /// The first of so many values that nobody else writes.
    pub fn values(&mut self, count: u64) -> Value {
        let value = Value(self.next_value);
        self.next_value += count;
        value
    }

    /// Some sectors: whole blocks, or any.
    fn range(&mut self) -> (u64, u64) {
        let (start, blocks) = *self.rng.pick(&self.layout.clusters);
        let sectors = blocks * BLOCK;
        let (first, count) = match self.rng.below(10) {
            0..=5 => {
                let long = blocks > 64 && self.rng.one_in(4);
                let most = if long { 32 } else { 4 };
                let count = self.rng.within(1, most.min(blocks));
                (self.rng.below(blocks - count + 1) * BLOCK, count * BLOCK)
            }
            _ => {
                let count = self.rng.within(1, 12.min(sectors));
                (self.rng.below(sectors - count + 1), count)
            }
        };
        (start * BLOCK + first, count)
    }

    /// From one place to another, and all that lies between.
    fn long_range(&mut self) -> (u64, u64) {
        let of = |rng: &mut Rng, clusters: &[(u64, u64)]| {
            let (start, blocks) = *rng.pick(clusters);
            start + rng.below(blocks)
        };
        let a = of(&mut self.rng, &self.layout.clusters);
        let b = of(&mut self.rng, &self.layout.clusters);
        let (low, high) = (a.min(b), a.max(b));
        (low * BLOCK, (high - low + 1).min(LONG_MAX) * BLOCK)
    }

    /// The next operation.
    pub fn next(&mut self, mix: Mix) -> Op {
        let (first, count) = self.range();
        let kind = match mix {
            Mix::All => self.rng.below(20),
            Mix::Writes => self.rng.below(12),
            Mix::Reads => self.rng.within(18, 20),
        };
        match kind {
            0..=10 => {
                let value = self.values(count);
                Op::Write {
                    first,
                    count,
                    value,
                }
            }
            11 => {
                let allocate = self.rng.one_in(2);
                // A zero that stays allocated costs a leaf of the index each MiB.
                let long = !allocate && self.rng.one_in(4);
                let (first, count) = if long {
                    self.long_range()
                } else {
                    (first, count)
                };
                Op::Clear {
                    first,
                    count,
                    allocate,
                }
            }
            18 => Op::Status { first, count },
            _ => Op::Read { first, count },
        }
    }
}

impl Op {
    /// Bytes of payload that it writes.
    #[must_use]
    pub fn written_bytes(self) -> u64 {
        match self {
            Self::Write { count, .. } => count * SECTOR as u64,
            Self::Clear { .. } | Self::Read { .. } | Self::Status { .. } => 0,
        }
    }

    /// As a front end asks it.
    #[must_use]
    pub fn request(self) -> Request {
        let bytes = |sectors: u64| sectors * SECTOR as u64;
        match self {
            Self::Write { first, .. } => Request::Write {
                offset: bytes(first),
                data: self.data(),
            },
            Self::Clear {
                first,
                count,
                allocate: true,
            } => Request::Zero {
                offset: bytes(first),
                length: bytes(count),
                allocate: true,
            },
            Self::Clear {
                first,
                count,
                allocate: false,
            } => Request::Trim {
                offset: bytes(first),
                length: bytes(count),
            },
            Self::Read { first, count } => {
                let length = u32::try_from(bytes(count)).expect("operations are small");
                Request::Read {
                    offset: bytes(first),
                    length,
                }
            }
            Self::Status { first, count } => Request::Status {
                offset: bytes(first),
                length: bytes(count),
            },
        }
    }

    /// The first sector that it touches, and how many.
    #[must_use]
    pub fn sectors(self) -> (u64, u64) {
        match self {
            Self::Write { first, count, .. }
            | Self::Clear { first, count, .. }
            | Self::Read { first, count }
            | Self::Status { first, count } => (first, count),
        }
    }

    /// What it writes.
    #[must_use]
    pub fn data(self) -> Bytes {
        match self {
            Self::Write { count, value, .. } => fill(value, count),
            Self::Clear { .. } | Self::Read { .. } | Self::Status { .. } => Bytes::new(),
        }
    }

    /// The sectors that it changes, with their new values.
    pub fn changes(self) -> impl Iterator<Item = (u64, Value)> {
        let (first, count, value) = match self {
            Self::Write {
                first,
                count,
                value,
            } => (first, count, Some(value)),
            Self::Clear { first, count, .. } => (first, count, None),
            Self::Read { .. } | Self::Status { .. } => (0, 0, None),
        };
        (0..count).map(move |i| {
            (
                first + i,
                value.map_or(Value::ZERO, |value| Value(value.0 + i)),
            )
        })
    }

    /// Whether it changes anything.
    #[must_use]
    pub fn mutates(self) -> bool {
        matches!(self, Self::Write { .. } | Self::Clear { .. })
    }

    /// The blocks that it touches, and how they are allocated then: a part of a block is
    /// merged with the rest, and stored.
    pub fn allocates(self) -> impl Iterator<Item = (u64, Allocation)> {
        let (first, count, whole) = match self {
            Self::Write { first, count, .. } => (first, count, Allocation::Data),
            Self::Clear {
                first,
                count,
                allocate: true,
            } => (first, count, Allocation::Zero),
            Self::Clear {
                first,
                count,
                allocate: false,
            } => (first, count, Allocation::Hole),
            Self::Read { .. } | Self::Status { .. } => (0, 0, Allocation::Hole),
        };
        let end = first + count;
        (first / BLOCK..end.div_ceil(BLOCK)).map(move |block| {
            let is_whole = first <= block * BLOCK && (block + 1) * BLOCK <= end;
            (block, if is_whole { whole } else { Allocation::Data })
        })
    }
}

fn fill(value: Value, count: u64) -> Bytes {
    let mut data = BytesMut::with_capacity(usize::try_from(count).expect("small") * SECTOR);
    for i in 0..count {
        let word = (value.0 + i).to_le_bytes();
        let mut sector = [0; SECTOR];
        for part in sector.chunks_exact_mut(word.len()) {
            part.copy_from_slice(&word);
        }
        data.extend_from_slice(&sector);
    }
    data.freeze()
}

/// The sectors' values in what was read; `None` for a sector that is torn.
#[must_use]
pub fn values(chunks: &[Chunk]) -> Vec<Option<Value>> {
    let length = |c: &Chunk| match c {
        Chunk::Data(bytes) => bytes.len() as u64,
        Chunk::Zeros(n) => *n,
    };
    let mut values = Vec::new();
    if chunks
        .iter()
        .all(|c| length(c).is_multiple_of(SECTOR as u64))
    {
        for chunk in chunks {
            match chunk {
                Chunk::Data(bytes) => values.extend(bytes.chunks(SECTOR).map(value)),
                Chunk::Zeros(n) => {
                    values.extend((0..n / SECTOR as u64).map(|_| Some(Value::ZERO)));
                }
            }
        }
        return values;
    }
    let mut all = BytesMut::new();
    for chunk in chunks {
        match chunk {
            Chunk::Data(bytes) => all.extend_from_slice(bytes),
            Chunk::Zeros(n) => all.resize(all.len() + usize::try_from(*n).expect("small"), 0),
        }
    }
    values.extend(all.chunks(SECTOR).map(value));
    values
}

/// A sector's value: all its words are alike.
fn value(sector: &[u8]) -> Option<Value> {
    let word: [u8; 8] = sector[..8].try_into().expect("a sector holds a word");
    let whole = sector[8..] == sector[..sector.len() - 8];
    whole.then(|| Value(u64::from_le_bytes(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_a_torn_sector_is_seen() {
        let data = fill(Value(7), 3);
        let seen = |chunks: &[Chunk]| values(chunks);
        let expected = [7, 8, 9].map(|n| Some(Value(n))).to_vec();
        assert_eq!(seen(&[Chunk::Data(data.clone())]), expected);
        // Chunks need not end where sectors do.
        let parts = [data.slice(..100), data.slice(100..)].map(Chunk::Data);
        assert_eq!(seen(&parts), expected);
        let mut torn = BytesMut::from(&data[..]);
        torn[512 + 300] ^= 1;
        let torn = seen(&[Chunk::Data(torn.freeze()), Chunk::Zeros(512)]);
        assert_eq!(
            torn,
            [Some(Value(7)), None, Some(Value(9)), Some(Value::ZERO)]
        );
    }
}
