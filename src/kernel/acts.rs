//! Quantized activations, and how the tokens of a step are laid out for products.
//!
//! A few tokens stay in rows, each beside its own sums and scales. More lie in panels of sixteen,
//! four codes of a token beside four of the next, so that a vector's lanes are tokens: then products
//! need no sums across lanes, and a token's result can't depend on its neighbours.

use super::lanes;

/// Tokens of a panel.
pub const PANEL: usize = 16;

/// Most tokens that a table may want in rows.
pub const MAX_ROWS: usize = 16;

/// Tokens beyond whole panels that lie in rows.
const FEW: usize = 4;

/// 256 activations of one token. The tail of a row that is no multiple of 256 is padded with zeros.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct A8 {
    /// Codes, -127..=127.
    pub codes: [i8; 256],
    /// Sums of 16 codes each.
    pub sums: [i16; 16],
    /// Scale of each 32 codes.
    pub scales: [f32; 8],
}

impl A8 {
    /// 256 zeros.
    pub const ZERO: A8 = A8 { codes: [0; 256], sums: [0; 16], scales: [0.0; 8] };
}

/// 256 activations of each of sixteen tokens; absent tokens are zeros.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Panel {
    /// `[k / 4][token][k % 4]`.
    pub codes: [[[i8; 4]; PANEL]; 64],
    /// Sums of the two halves of a block of 32, `[block][token][half]`.
    pub sums: [[[i16; 2]; PANEL]; 8],
    /// Scales, `[block][token]`.
    pub scales: [[f32; PANEL]; 8],
}

impl Panel {
    /// Zeros.
    pub const ZERO: Panel = Panel {
        codes: [[[0; 4]; PANEL]; 64],
        sums: [[[0; 2]; PANEL]; 8],
        scales: [[0.0; PANEL]; 8],
    };

    /// Lays sixteen tokens side by side.
    #[inline(always)]
    pub fn fill(&mut self, tokens: &[A8; PANEL]) {
        for (k, fours) in self.codes.iter_mut().enumerate() {
            for (four, token) in fours.iter_mut().zip(tokens) {
                *four = token.codes.as_chunks::<4>().0[k];
            }
        }
        for (b, (sums, scales)) in self.sums.iter_mut().zip(&mut self.scales).enumerate() {
            for (t, token) in tokens.iter().enumerate() {
                sums[t] = [token.sums[2 * b], token.sums[2 * b + 1]];
                scales[t] = token.scales[b];
            }
        }
    }

    /// One token's activations.
    pub fn token(&self, t: usize) -> A8 {
        A8 {
            codes: std::array::from_fn(|k| self.codes[k / 4][t][k % 4]),
            sums: std::array::from_fn(|i| self.sums[i / 2][t][i % 2]),
            scales: std::array::from_fn(|b| self.scales[b][t]),
        }
    }
}

/// Panels and rows of `n` tokens: all in rows up to `max_rows`; else first come the panels, the
/// last of them perhaps not full, then what rows are left.
pub fn split(n: usize, max_rows: usize) -> (usize, usize) {
    match n % PANEL {
        _ if n <= max_rows => (0, n),
        rest @ 0..=FEW => (n / PANEL, rest),
        _ => (n / PANEL + 1, 0),
    }
}

/// Most panels and rows of any number of tokens up to `n`, for any table.
pub fn most(n: usize) -> (usize, usize) {
    (n.saturating_sub(FEW).div_ceil(PANEL), n.min(MAX_ROWS))
}

/// Quantized activations of a step's tokens.
#[derive(Clone, Copy)]
pub struct Acts<'a> {
    /// `[n_panels, n_in.div_ceil(256)]`, by [`super::Kernels::split`].
    pub panels: &'a [Panel],
    /// `[n_rows, n_in.div_ceil(256)]`.
    pub rows: &'a [A8],
}

/// Codes of one row, by blocks of 32: amax exact, id = 127 / amax, to nearest even, clamped; scale =
/// amax / 127. Where a block is all zero, or so small that id is infinite, codes and scale are 0.
#[inline(always)]
pub fn quantize(x: &[f32], out: &mut [A8]) {
    for (group, x) in out.iter_mut().zip(x.chunks(256)) {
        *group = A8::ZERO;
        let (whole, rest) = x.as_chunks::<32>();
        let (codes, _) = group.codes.as_chunks_mut::<32>();
        let mut blocks = codes.iter_mut().zip(&mut group.scales);
        for (x, (codes, scale)) in whole.iter().zip(&mut blocks) {
            *scale = quantize_block(x, codes);
        }
        if let (false, Some((codes, scale))) = (rest.is_empty(), blocks.next()) {
            let mut x = [0.0; 32];
            x[..rest.len()].copy_from_slice(rest);
            *scale = quantize_block(&x, codes);
        }
        for (sum, codes) in group.sums.iter_mut().zip(group.codes.as_chunks::<16>().0) {
            *sum = codes.iter().map(|&c| i16::from(c)).sum();
        }
    }
}

/// As [`quantize`], groups from `first` on of up to sixteen rows `[n, n_in]` into panels.
#[inline(always)]
pub fn quantize_panel(x: &[f32], n_in: usize, first: usize, out: &mut [Panel]) {
    let mut tokens = [A8::ZERO; PANEL];
    for (g, panel) in (first..).zip(out) {
        let span = 256 * g..(256 * (g + 1)).min(n_in);
        for (token, row) in tokens.iter_mut().zip(x.chunks_exact(n_in)) {
            quantize(&row[span.clone()], std::slice::from_mut(token));
        }
        panel.fill(&tokens);
    }
}

#[inline(always)]
fn quantize_block(x: &[f32; 32], codes: &mut [i8; 32]) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to nearest even
    // A comparison with NaN is false, so it counts as 0; and the largest of a set has one value in
    // any order.
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    let mut most = [0.0f32; lanes::LANES];
    for x in x.as_chunks::<{ lanes::LANES }>().0 {
        for i in 0..lanes::LANES {
            most[i] = larger(x[i].abs(), most[i]);
        }
    }
    let amax = lanes::fold(most, larger);
    let id = 127.0 / amax;
    if !id.is_finite() {
        return 0.0;
    }
    for (code, &x) in codes.iter_mut().zip(x) {
        let y = (x * id).clamp(-127.0, 127.0);
        let y = if y.is_nan() { 0.0 } else { y };
        *code = ((y + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32) as i8;
    }
    amax / 127.0
}
