//! What clients do: overlapping reads, writes and trims of few blocks, so that races are the
//! rule; every written sector holds a value that is written once.

use bytes::{Bytes, BytesMut};
use model::block::{Chunk, Request};

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

/// Makes operations.
#[derive(Debug)]
pub struct Workload {
    rng: Rng,
    sectors: u64,
    next_value: u64,
}

impl Workload {
    /// On a volume of so many sectors.
    #[must_use]
    pub fn new(rng: Rng, sectors: u64) -> Self {
        Self {
            rng,
            sectors,
            next_value: 1,
        }
    }

    /// The first of so many values that nobody else writes.
    pub fn values(&mut self, count: u64) -> Value {
        let value = Value(self.next_value);
        self.next_value += count;
        value
    }

    /// The next operation.
    pub fn next(&mut self, mix: Mix) -> Op {
        let block = 8;
        let (first, count) = match self.rng.below(10) {
            // Whole blocks.
            0..=5 => {
                let count = self.rng.within(1, 4.min(self.sectors / block));
                (
                    self.rng.below(self.sectors / block - count + 1) * block,
                    count * block,
                )
            }
            // Any sectors.
            _ => {
                let count = self.rng.within(1, 12.min(self.sectors));
                (self.rng.below(self.sectors - count + 1), count)
            }
        };
        let kind = match mix {
            Mix::All => self.rng.below(20),
            Mix::Writes => self.rng.below(12),
            Mix::Reads => 19,
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
            11 => Op::Clear {
                first,
                count,
                allocate: self.rng.one_in(2),
            },
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
            Self::Read { .. } => (0, 0, None),
        };
        (0..count).map(move |i| {
            (
                first + i,
                value.map_or(Value::ZERO, |value| Value(value.0 + i)),
            )
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
