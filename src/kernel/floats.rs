//! Products with unquantized weights, for any instruction set that has vectors of f32.
//!
//! The contract's 16 lanes run along k, so a load of weights or of activations pays only if it
//! serves many sums: tiles of R rows x N tokens. Where a vector has fewer lanes than 16, a tile
//! walks over its k once for each part of the lanes, which leaves registers for more sums at once.
//! A few tokens read the weights as they lie. More of them share strips of rows that are widened to
//! f32 in the first-level cache, so that weights come from afar once for many tokens.
//!
//! Measured on Zen 4: tiles of 3 x 3 or 4 x 3 lose to 4 x 2 with 16 registers, since the compiler
//! keeps two more for products and spills sums; 4 x 6 gains nothing over 4 x 4 with 32.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use super::{Input, lanes::LANES, vector::Floats};
use crate::team::Tile;

/// How weights are stored.
pub trait Float {
    /// As what.
    const KIND: Kind;
    /// Bytes of a weight.
    const BYTES: usize = if matches!(Self::KIND, Kind::F32) { 4 } else { 2 };
}

/// The types of unquantized weights.
pub enum Kind {
    /// f32.
    F32,
    /// binary16.
    F16,
    /// The upper half of an f32.
    BF16,
}

/// f32 weights.
pub struct F32;
impl Float for F32 {
    const KIND: Kind = Kind::F32;
}

/// binary16 weights.
pub struct F16;
impl Float for F16 {
    const KIND: Kind = Kind::F16;
}

/// bfloat16 weights.
pub struct BF16;
impl Float for BF16 {
    const KIND: Kind = Kind::BF16;
}

/// LANES weights as f32.
///
/// # Safety
/// The CPU has V's instruction set; the weights are there.
#[inline(always)]
unsafe fn load<V: Floats, F: Float>(w: *const u8) -> V::Float {
    // SAFETY: by this function's contract.
    unsafe {
        match F::KIND {
            Kind::F32 => V::load(w.cast()),
            Kind::F16 => V::widen(w.cast()),
            Kind::BF16 => V::upper(w.cast()),
        }
    }
}

/// Rows of a strip.
const STRIP: usize = 8;
/// Weights of a row that are multiplied before the next row's: a strip takes 20 KiB of a
/// first-level cache of 32, and a tile's tokens fit beside it.
const DEPTH: usize = 640;
/// Tokens from which on strips pay.
const MANY: usize = 8;
/// Tokens that share a strip.
const TOKENS: usize = 48;

/// What a thread works in, on its stack.
#[repr(C, align(64))]
struct Scratch {
    /// Unfinished sums.
    sums: [[[f32; LANES]; STRIP]; TOKENS],
    /// Rows as f32.
    strip: [[f32; DEPTH]; STRIP],
}

/// Products of all rows of `w` with all tokens of the tile: 4 rows x up to N of them at a time; of
/// one token, PARTS vectors of a sum at once.
///
/// # Safety
/// The CPU has V's instruction set; the lengths are as `Kernels::matmul` checks.
#[inline(always)]
pub unsafe fn matmul<V, F, const PARTS: usize, const N: usize>(
    w: &[u8],
    n_in: usize,
    x: Input<'_>,
    out: &mut Tile<'_, f32>,
) where
    V: Floats,
    F: Float,
{
    let Input::F32(x) = x else { unreachable!("Kernels::matmul checks the kind") };
    let mut scratch = MaybeUninit::uninit();
    let product = Product { w, n_in, x, scratch: scratch.as_mut_ptr() };
    // SAFETY: by this function's contract; the scratch outlives the calls.
    unsafe {
        match out.n_rows() {
            0 => {}
            1 => product.few::<V, F, 4, 1, PARTS>(out),
            2 => product.few::<V, F, 4, 2, 1>(out),
            n if n < MANY => product.few::<V, F, 4, N, 1>(out),
            _ => product.many::<V, F, 4, N>(out),
        }
    }
}

/// A product in progress.
struct Product<'a> {
    w: &'a [u8],
    n_in: usize,
    x: &'a [f32],
    /// Of which no part is read before it has been written in the same call.
    scratch: *mut Scratch,
}

/// Weights `k..k + len` of rows.
#[derive(Clone, Copy)]
struct Depth {
    k: usize,
    len: usize,
}

impl Product<'_> {
    /// Rows cut into equal parts, of whole lanes but for the last.
    #[inline(always)]
    fn depths(&self) -> impl Iterator<Item = Depth> {
        let n_in = self.n_in;
        let len = n_in.div_ceil(n_in.div_ceil(DEPTH)).next_multiple_of(LANES);
        (0..n_in).step_by(len).map(move |k| Depth { k, len: len.min(n_in - k) })
    }

    /// Weights of row `r`.
    #[inline(always)]
    fn row<F: Float>(&self, r: usize, Depth { k, len }: Depth) -> &[u8] {
        &self.w[(r * self.n_in + k) * F::BYTES..][..len * F::BYTES]
    }

    /// Tokens `t..t + N`; those from `end` on repeat the one before.
    #[inline(always)]
    fn tokens<const N: usize>(&self, t: usize, end: usize, depth: Depth) -> [*const f32; N] {
        let Depth { k, len } = depth;
        std::array::from_fn(|i| self.x[(t + i).min(end - 1) * self.n_in + k..][..len].as_ptr())
    }

    /// Fewer than MANY tokens: R rows at a time, far apart, so that the memory sees several streams.
    ///
    /// # Safety
    /// As for [`matmul`].
    #[inline(always)]
    unsafe fn few<V: Floats, F: Float, const R: usize, const N: usize, const P: usize>(
        &self,
        out: &mut Tile<'_, f32>,
    ) {
        const { assert!(R <= STRIP && R.is_multiple_of(4) && MANY + N <= TOKENS) };
        let (n_tokens, n_rows) = (out.n_rows(), out.n_cols());
        let apart = n_rows.div_ceil(R);
        for r in 0..apart {
            // Rows that there aren't repeat the last.
            let rows: [usize; R] = std::array::from_fn(|i| (r + i * apart).min(n_rows - 1));
            for depth in self.depths() {
                let w = rows.map(|r| self.row::<F>(r, depth).as_ptr());
                for t in (0..n_tokens).step_by(N) {
                    let x = self.tokens(t, n_tokens, depth);
                    // SAFETY: `row` and `tokens` give that many weights and values; R rows and
                    // t + N tokens fit the scratch, whose sums the first depth fills.
                    unsafe {
                        let sums = (&raw mut (*self.scratch).sums[t]).cast();
                        tile::<V, F, R, N, P>(w, x, depth, sums);
                    }
                }
            }
            // SAFETY: the tiles filled R sums of each token.
            unsafe { self.finish::<V>(0, &rows, out) };
        }
    }

    /// Any number of tokens: TOKENS at a time with strips of rows.
    ///
    /// # Safety
    /// As for [`matmul`].
    #[inline(always)]
    unsafe fn many<V: Floats, F: Float, const R: usize, const N: usize>(
        &self,
        out: &mut Tile<'_, f32>,
    ) {
        const { assert!(STRIP.is_multiple_of(R) && R.is_multiple_of(4)) };
        const { assert!(TOKENS.is_multiple_of(N) && DEPTH.is_multiple_of(LANES)) };
        let (n_tokens, n_rows) = (out.n_rows(), out.n_cols());
        for t0 in (0..n_tokens).step_by(TOKENS) {
            let end = n_tokens.min(t0 + TOKENS);
            for r0 in (0..n_rows).step_by(STRIP) {
                let rows: [usize; STRIP] = std::array::from_fn(|i| (r0 + i).min(n_rows - 1));
                let needed = (n_rows - r0).next_multiple_of(R).min(STRIP);
                for depth in self.depths() {
                    for (i, &r) in rows[..needed].iter().enumerate() {
                        // SAFETY: a row of the strip holds DEPTH values, which is no less than
                        // `depth.len` rounded up to lanes, as DEPTH is a multiple of them.
                        unsafe {
                            let to = (&raw mut (*self.scratch).strip[i]).cast();
                            widen::<V, F>(self.row::<F>(r, depth), to);
                        }
                    }
                    for t in (t0..end).step_by(N) {
                        let x = self.tokens::<N>(t, end, depth);
                        for i in (0..needed).step_by(R) {
                            // SAFETY: the strip's rows have been widened; `tokens` gives that many
                            // values; STRIP and TOKENS are multiples of R and N.
                            unsafe {
                                let w = std::array::from_fn(|j| {
                                    (&raw const (*self.scratch).strip[i + j]).cast()
                                });
                                let sums = (&raw mut (*self.scratch).sums[t - t0][i]).cast();
                                tile::<V, F32, R, N, 1>(w, x, depth, sums);
                            }
                        }
                    }
                }
                // SAFETY: the tiles filled the sums of these tokens.
                unsafe { self.finish::<V>(t0, &rows[..needed], out) };
            }
        }
    }

    /// Ends the sums of up to TOKENS tokens from `t0` on with some rows.
    ///
    /// # Safety
    /// The sums have been filled; `rows` holds a multiple of 4, at most STRIP.
    #[inline(always)]
    unsafe fn finish<V: Floats>(&self, t0: usize, rows: &[usize], out: &mut Tile<'_, f32>) {
        for t in t0..out.n_rows().min(t0 + TOKENS) {
            let out = out.row_mut(t);
            for (i, rows) in rows.as_chunks::<4>().0.iter().enumerate() {
                // SAFETY: by this function's contract; the CPU has the instruction set.
                let totals =
                    unsafe { V::totals(&*(&raw const (*self.scratch).sums[t - t0][4 * i]).cast()) };
                for (&r, total) in rows.iter().zip(totals) {
                    out[r] = total;
                }
            }
        }
    }
}

/// Adds products of R rows of weights with N tokens to their sums `[N][STRIP][LANES]`, which begin
/// as zeros where `depth` is the first; P vectors of each sum's lanes at a time.
///
/// # Safety
/// The CPU has V's instruction set; `depth.len` weights and values, and N x R sums, are there.
#[inline(always)]
unsafe fn tile<V: Floats, F: Float, const R: usize, const N: usize, const P: usize>(
    w: [*const u8; R],
    x: [*const f32; N],
    depth: Depth,
    sums: *mut f32,
) {
    const { assert!(LANES.is_multiple_of(P * V::LANES)) };
    let rest = depth.len % LANES;
    let whole = depth.len - rest;
    // Zeros beyond the end change no lane: no sum that began as 0 is -0.
    let (mut w_rest, mut x_rest) = ([[0u8; 4 * LANES]; R], [[0.0f32; LANES]; N]);
    let (mut w_tail, mut x_tail) = (w, x);
    if rest != 0 {
        // SAFETY: the last `rest` of `depth.len` weights and values.
        unsafe {
            for (w, to) in w_tail.iter_mut().zip(&mut w_rest) {
                w.add(whole * F::BYTES).copy_to_nonoverlapping(to.as_mut_ptr(), rest * F::BYTES);
                *w = to.as_ptr();
            }
            for (x, to) in x_tail.iter_mut().zip(&mut x_rest) {
                x.add(whole).copy_to_nonoverlapping(to.as_mut_ptr(), rest);
                *x = to.as_ptr();
            }
        }
    }
    for part in (0..LANES).step_by(P * V::LANES) {
        // SAFETY: by this function's contract; lanes `part..part + P * V::LANES` of each 16 are inside
        // `whole`, of a sum, and of the copies of the rest.
        unsafe {
            let mut acc = [[[V::zero(); P]; N]; R];
            if depth.k != 0 {
                for (r, acc) in acc.iter_mut().enumerate() {
                    for (i, acc) in acc.iter_mut().enumerate() {
                        for (p, acc) in acc.iter_mut().enumerate() {
                            let lane = part + p * V::LANES;
                            *acc = V::load(sums.add((i * STRIP + r) * LANES + lane));
                        }
                    }
                }
            }
            let mut k = part;
            while k < whole {
                step::<V, F, R, N, P>(&mut acc, w, x, k);
                k += LANES;
            }
            if rest != 0 {
                step::<V, F, R, N, P>(&mut acc, w_tail, x_tail, part);
            }
            for (r, acc) in acc.iter().enumerate() {
                for (i, acc) in acc.iter().enumerate() {
                    for (p, acc) in acc.iter().enumerate() {
                        let lane = part + p * V::LANES;
                        V::store(*acc, sums.add((i * STRIP + r) * LANES + lane));
                    }
                }
            }
        }
    }
}

/// Takes P vectors of weights and values from `k` on into the sums.
///
/// # Safety
/// As for [`tile`].
#[inline(always)]
unsafe fn step<V: Floats, F: Float, const R: usize, const N: usize, const P: usize>(
    acc: &mut [[[V::Float; P]; N]; R],
    w: [*const u8; R],
    x: [*const f32; N],
    k: usize,
) {
    // SAFETY: by this function's contract.
    unsafe {
        for p in 0..P {
            let k = k + p * V::LANES;
            // Loops and no closures: a closure passed to a function of the standard library isn't
            // inlined there, since that function lacks the instruction set.
            let mut y = [V::zero(); N];
            for (y, x) in y.iter_mut().zip(x) {
                *y = V::load(x.add(k));
            }
            for (acc, w) in acc.iter_mut().zip(w) {
                let w = load::<V, F>(w.add(k * F::BYTES));
                for (acc, y) in acc.iter_mut().zip(y) {
                    acc[p] = V::add(acc[p], V::mul(w, y));
                }
            }
        }
    }
}

/// A row as f32.
///
/// # Safety
/// The CPU has V's instruction set; `to` has room for the weights, rounded up to lanes.
#[inline(always)]
unsafe fn widen<V: Floats, F: Float>(from: &[u8], to: *mut f32) {
    let n = from.len() / F::BYTES;
    let whole = n - n % LANES;
    // SAFETY: by this function's contract; `LANES` is a multiple of V's.
    unsafe {
        for k in (0..whole).step_by(V::LANES) {
            V::store(load::<V, F>(from.as_ptr().add(k * F::BYTES)), to.add(k));
        }
        if whole < n {
            let rest = &from[whole * F::BYTES..];
            let mut tail = [0u8; 4 * LANES];
            tail[..rest.len()].copy_from_slice(rest);
            for k in (0..LANES).step_by(V::LANES) {
                V::store(load::<V, F>(tail.as_ptr().add(k * F::BYTES)), to.add(whole + k));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        kernel::{Input, Kernels},
        quant::Format,
        team::Mat,
    };

    /// Rows of several depths with odd ends, more tokens than share a strip, rows that fill no tile.
    #[test]
    fn all_shapes_give_the_scalar_bits() {
        let scalar = Kernels::by_name("scalar").unwrap();
        let value = |i: usize| ((i * 2_654_435_761) % 4093) as f32 / 2048.0 - 1.0;
        for n_in in [1, 15, 16, 17, 640, 641, 1297] {
            for (n_rows, n_tokens) in [(1, 1), (5, 2), (9, 3), (4, 7), (3, 8), (13, 17), (8, 61)] {
                let x: Vec<f32> = (0..n_in * n_tokens).map(value).collect();
                let values: Vec<f32> = (7..7 + n_in * n_rows).map(value).collect();
                for format in [Format::F32, Format::F16, Format::BF16] {
                    let mut w = vec![0; n_rows * format.row_bytes(n_in).unwrap()];
                    format.encode(&values, &mut w);
                    let product = |kernels: &Kernels| {
                        let mut out = vec![f32::NAN; n_tokens * n_rows];
                        let mut mat = Mat::new(&mut out, n_tokens, n_rows, n_rows);
                        kernels.matmul(format, &w, n_in, Input::F32(&x), &mut [], &mut mat.tile());
                        out
                    };
                    let wanted = product(scalar);
                    for kernels in Kernels::available() {
                        let name = (kernels.name(), format.name());
                        assert_eq!(product(kernels), wanted, "{name:?} {n_rows} {n_tokens} {n_in}");
                    }
                }
            }
        }
    }
}
