//! Encoding and reconstruction.

use std::sync::Arc;

use bytes::Bytes;
use model::BLOCK_BYTES;
use model::geometry::Code;
use model::ids::Slot;
use model::payload::Payload;

use crate::buffers::Buffers;
use crate::kernel::{Kernel, Rse};
use crate::matrix::{Generator, Span, parity_rows};
use crate::slots::SlotSet;
use crate::{CodingError, layout};

/// A code, ready to work: its matrices are computed once. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Codec {
    code: Code,
    matrices: Arc<Matrices>,
    buffers: Arc<Buffers>,
}

#[derive(Debug)]
struct Matrices {
    generator: Generator,
    /// Of the flat code or the inner code: m x k.
    parity: Vec<u8>,
}

/// How to rebuild some slots from others: made once, applied to any range of the fragments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recipe {
    sources: Vec<Slot>,
    /// Row-major, wanted slots x sources.
    matrix: Vec<u8>,
}

static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

impl Codec {
    /// Prepares a code.
    ///
    /// # Errors
    /// [`CodingError::BadCode`] if its widths are not sound.
    pub fn new(code: Code) -> Result<Self, CodingError> {
        layout::check_code(code)?;
        let (Code::Rs { k, m } | Code::Geo { k, m, .. }) = code;
        let matrices = Matrices {
            generator: Generator::new(code),
            parity: parity_rows(k, m),
        };
        Ok(Self {
            code,
            matrices: Arc::new(matrices),
            buffers: Arc::default(),
        })
    }

    /// The code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// All slots of the code.
    #[must_use]
    pub fn all(&self) -> SlotSet {
        SlotSet::first(self.code.slots())
    }

    pub(crate) fn generator(&self) -> &Generator {
        &self.matrices.generator
    }

    /// One fragment a slot, in slot order, each a whole number of blocks and of chunks that
    /// are whole blocks. Data fragments share the input's buffers (a fragment is gathered
    /// only if a buffer's end is not a block's end); parity fragments are one buffer each.
    ///
    /// # Errors
    /// [`CodingError::BadLength`] if the data's length is no segment's.
    pub fn encode(&self, data: &Payload) -> Result<Vec<Payload>, CodingError> {
        let data = self.cut(data)?;
        Ok(match self.code {
            Code::Rs { .. } => self.with_parity(data),
            Code::Geo { k, sites, .. } => {
                self.encode_columns(&data, usize::from(k), usize::from(sites))
            }
        })
    }

    fn encode_columns(&self, data: &[Payload], k: usize, sites: usize) -> Vec<Payload> {
        let mut slots = Vec::with_capacity(usize::from(self.code.slots()));
        for column in data.chunks_exact(k) {
            slots.append(&mut self.with_parity(column.to_vec()));
        }
        let width = slots.len() / (sites - 1);
        // The XOR of the columns' parity is the parity of the XOR: the cheaper of the two.
        for place in 0..width {
            let column: Vec<&Payload> = slots
                .iter()
                .skip(place)
                .step_by(width)
                .take(sites - 1)
                .collect();
            let mut xor = self.multiply(&vec![1; column.len()], &column, 1);
            slots.append(&mut xor);
        }
        slots
    }

    /// Appends the (inner) code's parity to its data fragments.
    fn with_parity(&self, mut data: Vec<Payload>) -> Vec<Payload> {
        let rows = self.matrices.parity.len() / data.len();
        let inputs: Vec<&Payload> = data.iter().collect();
        let mut parity = self.multiply(&self.matrices.parity, &inputs, rows);
        data.append(&mut parity);
        data
    }

    /// `rows` new fragments: a matrix times fragments in buffers of any lengths, none of which is
    /// gathered: wherever a buffer of any input ends, a new pass begins.
    fn multiply(&self, matrix: &[u8], inputs: &[&Payload], rows: usize) -> Vec<Payload> {
        let length = inputs[0].len();
        let mut outputs: Vec<Vec<u8>> = (0..rows).map(|_| self.buffers.take(length)).collect();
        let mut cursors: Vec<Cursor<'_>> = inputs.iter().map(|p| Cursor::new(p)).collect();
        let mut start = 0;
        while start < length {
            let step = cursors
                .iter()
                .map(|c| c.head.len())
                .min()
                .expect("at least one input");
            assert!(step > 0, "inputs differ in length");
            let heads: Vec<&[u8]> = cursors.iter_mut().map(|c| c.take(step)).collect();
            let mut parts: Vec<&mut [u8]> = outputs
                .iter_mut()
                .map(|o| &mut o[start..start + step])
                .collect();
            Rse.multiply(matrix, &heads, &mut parts);
            start += step;
        }
        outputs
            .into_iter()
            .map(|o| Payload::from(self.buffers.lend(o)))
            .collect()
    }

    /// Cuts a segment's data into its data fragments, padded with zeros.
    fn cut(&self, data: &Payload) -> Result<Vec<Payload>, CodingError> {
        layout::check_length(data.len())?;
        let segment_bytes = u32::try_from(data.len()).expect("at most 4 MiB");
        let length = layout::fragment_bytes(self.code, segment_bytes) as usize;
        let cut = (0..usize::from(self.code.data_fragments())).map(|i| {
            let start = data.len().min(i * length);
            let have = (data.len() - start).min(length);
            let mut fragment = data.slice(start, have).expect("a range within the data");
            if !fragment
                .chunks()
                .iter()
                .all(|c| c.len().is_multiple_of(BLOCK_BYTES))
            {
                fragment = fragment.into_bytes().into();
            }
            while fragment.len() < length {
                fragment.push(Bytes::from_static(&ZEROS));
            }
            fragment
        });
        Ok(cut.collect())
    }

    /// Whether these fragments determine the whole segment.
    #[must_use]
    pub fn decodable(&self, have: SlotSet) -> bool {
        let have = have.intersection(self.all());
        match self.code {
            Code::Rs { k, .. } => have.len() >= usize::from(k),
            Code::Geo { .. } => {
                let span = Span::of(self.generator(), have.iter());
                span.sources().len() == usize::from(self.code.data_fragments())
            }
        }
    }

    /// How to compute `want`, in that order, from (some of) `from`.
    ///
    /// # Errors
    /// [`CodingError::BadSlot`], [`CodingError::TooFew`].
    pub fn recipe(&self, want: &[Slot], from: SlotSet) -> Result<Recipe, CodingError> {
        let bad = want
            .iter()
            .copied()
            .chain(from.iter())
            .find(|&s| !self.all().contains(s));
        if let Some(slot) = bad {
            return Err(CodingError::BadSlot(slot));
        }
        let want_set: SlotSet = want.iter().copied().collect();
        let sources = self
            .cheapest(want_set, from, |_| 1)
            .ok_or(CodingError::TooFew)?;
        let span = Span::of(self.generator(), sources.iter());
        let mixes: Option<Vec<_>> = want
            .iter()
            .map(|&slot| span.express(self.generator().row(slot)))
            .collect();
        let mixes = mixes.ok_or(CodingError::TooFew)?;
        let used = |source: &usize| mixes.iter().any(|mix| mix[*source] != 0);
        let used: Vec<usize> = (0..span.sources().len()).filter(used).collect();
        Ok(Recipe {
            sources: used.iter().map(|&source| span.sources()[source]).collect(),
            matrix: mixes
                .iter()
                .flat_map(|mix| used.iter().map(|&source| mix[source]))
                .collect(),
        })
    }

    /// Computes the same range of `want`'s fragments, in that order, from ranges of others.
    ///
    /// # Errors
    /// [`CodingError::BadSlot`], [`CodingError::UnequalLengths`], or [`CodingError::TooFew`]
    /// if `have` does not determine `want`.
    pub fn reconstruct(
        &self,
        want: &[Slot],
        have: &[(Slot, Bytes)],
    ) -> Result<Vec<Bytes>, CodingError> {
        let length = have.first().map_or(0, |(_, bytes)| bytes.len());
        if have.iter().any(|(_, bytes)| bytes.len() != length) {
            return Err(CodingError::UnequalLengths);
        }
        let bad = have.iter().find(|(slot, _)| !self.all().contains(*slot));
        if let Some((slot, _)) = bad {
            return Err(CodingError::BadSlot(*slot));
        }
        let find = |slot| {
            have.iter()
                .find(|(s, _)| *s == slot)
                .map(|(_, bytes)| bytes)
        };
        let missing: Vec<Slot> = want
            .iter()
            .copied()
            .filter(|&s| find(s).is_none())
            .collect();
        let mut rebuilt = Vec::new();
        if !missing.is_empty() {
            let recipe = self.recipe(&missing, have.iter().map(|(slot, _)| *slot).collect())?;
            let sources: Vec<&[u8]> = recipe
                .sources()
                .iter()
                .map(|&s| &find(s).expect("a source at hand")[..])
                .collect();
            rebuilt = missing.iter().map(|_| vec![0; length]).collect();
            let mut outputs: Vec<&mut [u8]> = rebuilt.iter_mut().map(Vec::as_mut_slice).collect();
            recipe.apply(&sources, &mut outputs);
        }
        let mut rebuilt = rebuilt.into_iter();
        let next = |slot: &Slot| match find(*slot) {
            Some(bytes) => bytes.clone(),
            None => Bytes::from(rebuilt.next().expect("one a missing slot")),
        };
        Ok(want.iter().map(next).collect())
    }
}

impl Recipe {
    /// The fragments that it reads, in the order that [`Recipe::apply`] wants them.
    #[must_use]
    pub fn sources(&self) -> &[Slot] {
        &self.sources
    }

    /// What each source is multiplied with, over GF(2^8), for the wanted fragment of that number:
    /// their sum is the fragment. Sums of some of them may be computed anywhere, and added up.
    ///
    /// # Panics
    /// If there is no such number.
    #[must_use]
    pub fn factors(&self, wanted: usize) -> &[u8] {
        let width = self.sources.len();
        &self.matrix[wanted * width..(wanted + 1) * width]
    }

    /// Computes a range of the wanted fragments from the same range of the sources.
    ///
    /// # Panics
    /// If there is not one input a source and one output a wanted slot, or lengths differ.
    pub fn apply(&self, sources: &[&[u8]], outputs: &mut [&mut [u8]]) {
        assert_eq!(sources.len(), self.sources.len(), "one input a source");
        Rse.multiply(&self.matrix, sources, outputs);
    }
}

/// The sum of products over GF(2^8): a fragment, or a part of one, from [`Recipe::factors`].
///
/// # Errors
/// [`CodingError::UnequalLengths`]; [`CodingError::TooFew`] without any.
pub fn sum(terms: &[(u8, Bytes)]) -> Result<Bytes, CodingError> {
    let Some((_, first)) = terms.first() else {
        return Err(CodingError::TooFew);
    };
    if terms.iter().any(|(_, bytes)| bytes.len() != first.len()) {
        return Err(CodingError::UnequalLengths);
    }
    let factors: Vec<u8> = terms.iter().map(|(factor, _)| *factor).collect();
    let inputs: Vec<&[u8]> = terms.iter().map(|(_, bytes)| &bytes[..]).collect();
    let mut out = vec![0; first.len()];
    Rse.multiply(&factors, &inputs, &mut [&mut out]);
    Ok(Bytes::from(out))
}

/// Walks over a payload's buffers.
struct Cursor<'a> {
    head: &'a [u8],
    rest: &'a [Bytes],
}

impl<'a> Cursor<'a> {
    fn new(payload: &'a Payload) -> Self {
        let mut cursor = Self {
            head: &[],
            rest: payload.chunks(),
        };
        cursor.refill();
        cursor
    }

    fn refill(&mut self) {
        if let ([], [next, rest @ ..]) = (self.head, self.rest) {
            (self.head, self.rest) = (next, rest);
        }
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, head) = self.head.split_at(count);
        self.head = head;
        self.refill();
        taken
    }
}
