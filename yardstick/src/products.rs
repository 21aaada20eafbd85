//! The products that `ops` times: weights in one format, rotated through memory, and activations.

use std::ops::Range;

use pith::quant::Format;

/// One product: `n` tokens of `n_in` values with `n_out` rows of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// Format of the weights.
    pub format: Format,
    /// Tokens.
    pub n: usize,
    /// Rows of weights: values of a token that come out.
    pub n_out: usize,
    /// Columns of weights: values of a token that go in.
    pub n_in: usize,
}

/// Bytes of copies that a pass goes through unless it is to be hot: more than caches hold.
const COLD: usize = 96 << 20;
/// Multiply-adds per second that set how many products make a pass, so that it takes milliseconds.
const EXPECTED: f64 = 40e9;
/// Seconds that a pass should take.
const PASS: f64 = 4e-3;

impl Product {
    /// Bytes of the weights.
    pub fn n_bytes(&self) -> usize {
        self.format.row_bytes(self.n_in).expect("rows of whole blocks") * self.n_out
    }

    /// Multiply-adds.
    pub fn macs(&self) -> f64 {
        (self.n * self.n_out * self.n_in) as f64
    }

    /// Copies of the weights.
    pub fn n_copies(&self, hot: bool) -> usize {
        if hot { 1 } else { COLD.div_ceil(self.n_bytes()) }
    }

    /// Products of one pass: enough to be timed, and few enough to take turns.
    pub fn per_pass(&self, n_threads: usize) -> usize {
        ((PASS * EXPECTED * n_threads as f64 / self.macs()) as usize).clamp(1, 1024)
    }

    /// The copies that pass `i` multiplies, one after the other; passes go on where the last ended.
    pub fn copies(&self, i: usize, n_threads: usize, hot: bool) -> impl Iterator<Item = usize> {
        let (n, n_copies) = (self.per_pass(n_threads), self.n_copies(hot));
        (i * n..(i + 1) * n).map(move |copy| copy % n_copies)
    }

    /// Passes after which all copies have been used.
    pub fn n_passes(&self, n_threads: usize, hot: bool) -> usize {
        self.n_copies(hot).div_ceil(self.per_pass(n_threads))
    }
}

/// Copies of one matrix of weights, each beginning on a cache line.
pub struct Weights {
    bytes: Vec<u8>,
    /// Where the first copy begins.
    start: usize,
    n_bytes: usize,
    n_copies: usize,
}

const LINE: usize = 64;

impl Weights {
    /// Random weights: as many different rows as are quickly encoded, over and over.
    pub fn new(product: &Product, hot: bool) -> Weights {
        const ROWS: usize = 64;
        let mut rows = vec![0; product.n_bytes() / product.n_out * ROWS];
        product.format.encode(&values(ROWS * product.n_in, 1), &mut rows);
        let (n_bytes, n_copies) = (product.n_bytes(), product.n_copies(hot));
        let bytes = vec![0; n_bytes.next_multiple_of(LINE) * n_copies + LINE];
        let start = bytes.as_ptr().align_offset(LINE);
        let mut weights = Weights { bytes, start, n_bytes, n_copies };
        for copy in 0..n_copies {
            let span = weights.span(copy);
            weights.bytes[span].chunks_mut(rows.len()).for_each(|some| {
                some.copy_from_slice(&rows[..some.len()]);
            });
        }
        weights
    }

    fn span(&self, copy: usize) -> Range<usize> {
        let start = self.start + copy * self.n_bytes.next_multiple_of(LINE);
        start..start + self.n_bytes
    }

    /// One copy.
    pub fn copy(&self, i: usize) -> &[u8] {
        &self.bytes[self.span(i)]
    }

    /// How many there are.
    pub fn n_copies(&self) -> usize {
        self.n_copies
    }
}

/// `n` numbers about as large as a layer's inputs: a sum of four even ones, from -1 to 1.
pub fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let sum: u64 = (0..4).map(|i| (state >> (16 * i)) & 0xffff).sum();
        (sum as f32 - 131_070.0) / 131_070.0
    };
    (0..n).map(|_| next()).collect()
}
