//! Generator matrices, and the linear algebra that answers what can be rebuilt from what.

use model::geometry::{Code, SLOTS_MAX};
use model::ids::Slot;
use reed_solomon_erasure::galois_8;

const WIDTH: usize = SLOTS_MAX as usize;

/// A vector over GF(2^8): one factor a data fragment, or one a source.
pub(crate) type Vector = [u8; WIDTH];

/// Parity rows of the inner code k+m, row-major m x k: a Cauchy matrix, each column divided by
/// its first element. All its square submatrices are invertible, so that any k of the k + m
/// fragments suffice, and the first parity is a plain XOR.
pub(crate) fn parity_rows(k: u8, m: u8) -> Vec<u8> {
    let cauchy = |row: u8, column: u8| galois_8::div(1, (k + row) ^ column);
    (0..m)
        .flat_map(|row| (0..k).map(move |column| (row, column)))
        .map(|(row, column)| galois_8::div(cauchy(row, column), cauchy(0, column)))
        .collect()
}

/// A code's generator: fragment `slot` is the sum of `row(slot)[i]` times data fragment `i`.
#[derive(Debug)]
pub(crate) struct Generator {
    rows: Vec<Vector>,
}

impl Generator {
    /// The code is sound.
    pub(crate) fn new(code: Code) -> Self {
        let (k, m, columns) = match code {
            Code::Rs { k, m } => (k, m, 1),
            Code::Geo { k, m, sites } => (k, m, sites),
        };
        let parity = parity_rows(k, m);
        let inner = |place: u8| -> Vec<u8> {
            if place < k {
                (0..k).map(|i| u8::from(i == place)).collect()
            } else {
                let start = usize::from(place - k) * usize::from(k);
                parity[start..start + usize::from(k)].to_vec()
            }
        };
        let data = usize::from(code.data_fragments());
        let rows = (0..columns).flat_map(|column| (0..k + m).map(move |place| (column, place)));
        let rows = rows.map(|(column, place)| {
            let mut row = [0; WIDTH];
            let inner = inner(place);
            // The last of several columns is the XOR of the others.
            let xor = columns > 1 && column + 1 == columns;
            for (i, factor) in row[..data].iter_mut().enumerate() {
                if xor || i / usize::from(k) == usize::from(column) {
                    *factor = inner[i % usize::from(k)];
                }
            }
            row
        });
        Self {
            rows: rows.collect(),
        }
    }

    pub(crate) fn row(&self, slot: Slot) -> &Vector {
        &self.rows[usize::from(slot.0)]
    }
}

/// The span of some sources' generator rows, in echelon form, remembering how each row of it
/// was mixed from the sources.
pub(crate) struct Span {
    rows: Vec<SpanRow>,
    sources: Vec<Slot>,
}

struct SpanRow {
    pivot: usize,
    vector: Vector,
    /// Factors of `Span::sources`, in order.
    mix: Vector,
}

impl Span {
    pub(crate) fn new() -> Self {
        Self {
            rows: Vec::new(),
            sources: Vec::new(),
        }
    }

    /// Spans as much as `order` can, preferring earlier sources; only those that add
    /// something are kept, so that every expression over them is unique and minimal.
    pub(crate) fn of(generator: &Generator, order: impl IntoIterator<Item = Slot>) -> Self {
        let mut span = Self::new();
        for slot in order {
            span.insert(slot, generator.row(slot));
        }
        span
    }

    /// The sources that were kept: an independent set.
    pub(crate) fn sources(&self) -> &[Slot] {
        &self.sources
    }

    fn insert(&mut self, slot: Slot, vector: &Vector) {
        let (mut vector, mut mix) = (*vector, [0; WIDTH]);
        self.reduce(&mut vector, &mut mix);
        let Some(pivot) = vector.iter().position(|&v| v != 0) else {
            return;
        };
        mix[self.sources.len()] = 1;
        self.sources.push(slot);
        let inverse = galois_8::div(1, vector[pivot]);
        for v in vector.iter_mut().chain(&mut mix) {
            *v = galois_8::mul(inverse, *v);
        }
        self.rows.push(SpanRow { pivot, vector, mix });
    }

    /// Factors of [`Span::sources`] whose sum is `vector`; `None` if it is outside the span.
    pub(crate) fn express(&self, vector: &Vector) -> Option<Vector> {
        let (mut rest, mut mix) = (*vector, [0; WIDTH]);
        self.reduce(&mut rest, &mut mix);
        rest.iter().all(|&v| v == 0).then_some(mix)
    }

    /// Eliminates every pivot. A row is zero at the pivots before its own, so one pass does.
    fn reduce(&self, vector: &mut Vector, mix: &mut Vector) {
        for row in &self.rows {
            let factor = vector[row.pivot];
            if factor == 0 {
                continue;
            }
            for (v, r) in vector.iter_mut().zip(&row.vector) {
                *v ^= galois_8::mul(factor, *r);
            }
            for (m, r) in mix[..self.sources.len()].iter_mut().zip(&row.mix) {
                *m ^= galois_8::mul(factor, *r);
            }
        }
    }
}
