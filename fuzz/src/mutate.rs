//! Bounded, deterministic mutations: the same corpus gives the same inputs everywhere.

/// A deterministic source of choices (splitmix64).
#[derive(Clone, Debug)]
pub struct Choices(u64);

impl Choices {
    /// As the seed says.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, or 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % bound).unwrap_or(0)
    }
}

/// Numbers at the edges of what length fields can say; bincode's markers of longer integers
/// are 251 to 254.
const EDGES: [u64; 14] = [
    0,
    1,
    2,
    250,
    251,
    253,
    255,
    1 << 12,
    (1 << 16) - 1,
    1 << 24,
    (1 << 31) - 1,
    (1 << 32) - 1,
    1 << 62,
    u64::MAX,
];

/// Mutated inputs are no longer.
pub const LENGTH_MAX: usize = 1 << 15;

/// Changes an input in one to four places; `other` is another one of the corpus.
#[must_use]
pub fn mutated(input: &[u8], other: &[u8], choices: &mut Choices) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=choices.below(4) {
        mutate(&mut bytes, other, choices);
    }
    bytes.truncate(LENGTH_MAX);
    bytes
}

fn mutate(bytes: &mut Vec<u8>, other: &[u8], choices: &mut Choices) {
    let at = choices.below(bytes.len());
    match choices.below(8) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << choices.below(8),
        1 if !bytes.is_empty() => bytes[at] = choices.below(256) as u8,
        2 => bytes.truncate(at),
        3 => {
            // A number of a length field's width, in either order of bytes.
            let edge = EDGES[choices.below(EDGES.len())];
            let width = [1, 2, 4, 8][choices.below(4)];
            let little = edge.to_le_bytes();
            let mut number = little[..width].to_vec();
            if choices.below(2) == 0 {
                number.reverse();
            }
            let end = (at + width).min(bytes.len());
            bytes[at..end].copy_from_slice(&number[..end - at]);
        }
        4 => {
            // bincode's longest integer.
            let edge = EDGES[choices.below(EDGES.len())];
            let number = [&[253], &edge.to_le_bytes()[..]].concat();
            bytes.splice(at..(at + 1).min(bytes.len()), number);
        }
        5 => {
            let from = choices.below(other.len());
            let count = choices.below(other.len() - from + 1);
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..from + count]);
        }
        6 => {
            let count = choices.below((bytes.len() - at).min(64) + 1);
            let again = bytes[at..at + count].to_vec();
            bytes.splice(at..at, again);
        }
        _ => {
            let count = choices.below((bytes.len() - at).min(16) + 1);
            bytes.drain(at..at + count);
        }
    }
}
