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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
    pub fn wide() -> Self {
        Self {
            blocks: 1024,
            clusters: vec![(0, 6), (250, 12), (500, 90), (1018, 6)],
        }
    }

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
        (low * BLOCK, (high - low + 1) * BLOCK)
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
                let value = Value(self.next_value);
                self.next_value += count;
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
    /// As a front end asks it.
    #[must_use]
    pub fn request(self) -> Request {
        let bytes = |sectors: u64| sectors * SECTOR as u64;
        match self {
            Self::Write {
                first,
                count,
                value,
            } => {
                let data = fill(value, count);
                Request::Write {
                    offset: bytes(first),
                    data,
                }
            }
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
        for _ in 0..SECTOR / word.len() {
            data.extend_from_slice(&word);
        }
    }
    data.freeze()
}

/// The sectors' values in what was read; `None` for a sector that is torn.
#[must_use]
pub fn values(chunks: &[Chunk]) -> Vec<Option<Value>> {
    let mut all = BytesMut::new();
    for chunk in chunks {
        match chunk {
            Chunk::Data(bytes) => all.extend_from_slice(bytes),
            Chunk::Zeros(n) => all.resize(all.len() + usize::try_from(*n).expect("small"), 0),
        }
    }
    all.chunks(SECTOR)
        .map(|sector| {
            let word: [u8; 8] = sector[..8].try_into().expect("a sector holds a word");
            let whole = sector.chunks(8).all(|w| w == word);
            whole.then(|| Value(u64::from_le_bytes(word)))
        })
        .collect()
}
