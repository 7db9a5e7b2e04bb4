//! The inner loop of coding: products of small matrices with long byte strings over GF(2^8)
//! (polynomial 0x11d).

use reed_solomon_erasure::galois_8;

/// Multiplies byte strings by a matrix. The only hot loop of this crate, behind a trait so
/// that a kernel for one processor can take its place, and be tested against this one.
pub trait Kernel {
    /// `outputs[r] = sum over c of matrix[r * inputs.len() + c] * inputs[c]`.
    ///
    /// # Panics
    /// If the matrix is not `outputs.len()` x `inputs.len()`, or lengths differ.
    fn multiply(&self, matrix: &[u8], inputs: &[&[u8]], outputs: &mut [&mut [u8]]);
}

/// The kernel on reed-solomon-erasure's SIMD loops.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rse;

/// Bytes coded at a time: inputs and outputs of a tile stay in the first-level caches while
/// every output passes over every input.
const TILE_BYTES: usize = 8 << 10;

impl Kernel for Rse {
    fn multiply(&self, matrix: &[u8], inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
        assert_eq!(
            matrix.len(),
            inputs.len() * outputs.len(),
            "the matrix does not fit"
        );
        assert!(!inputs.is_empty(), "nothing to combine");
        let len = inputs[0].len();
        assert!(
            inputs.iter().all(|i| i.len() == len),
            "inputs differ in length"
        );
        assert!(
            outputs.iter().all(|o| o.len() == len),
            "an output differs in length"
        );
        let mut start = 0;
        while start < len {
            let tile = start..len.min(start + TILE_BYTES);
            for (row, out) in matrix.chunks_exact(inputs.len()).zip(outputs.iter_mut()) {
                combine(row, inputs, tile.clone(), &mut out[tile.clone()]);
            }
            start = tile.end;
        }
    }
}

fn combine(row: &[u8], inputs: &[&[u8]], tile: std::ops::Range<usize>, out: &mut [u8]) {
    let mut begun = false;
    for (&factor, input) in row.iter().zip(inputs) {
        let input = &input[tile.clone()];
        match (factor, begun) {
            (0, _) => continue,
            (1, false) => out.copy_from_slice(input),
            (1, true) => xor(input, out),
            (_, false) => galois_8::mul_slice(factor, input, out),
            (_, true) => galois_8::mul_slice_xor(factor, input, out),
        }
        begun = true;
    }
    if !begun {
        out.fill(0);
    }
}

fn xor(input: &[u8], out: &mut [u8]) {
    for (o, i) in out.iter_mut().zip(input) {
        *o ^= i;
    }
}
