//! What tables of 128-bit vectors share: products with tokens in rows. A table brings a [`Narrow`]
//! and compiles these bodies for itself ([`products`]).
//!
//! 256 weights are unpacked by the one plain routine of their format, then multiplied with up to
//! four tokens. Nothing here depends on what the CPU is beyond that vector.
#![allow(unsafe_code)]

use super::{
    acts::A8,
    panels::Vector,
    unpack::{Class, Group, Min, Unpack},
};
use crate::team::Tile;

/// A vector of four sums.
///
/// # Safety
/// As [`Vector`]; its `LANES` is 4.
pub trait Narrow: Vector {
    /// Four parts of the sum of products of N times 16 codes.
    unsafe fn dot<K: Class, const N: usize>(w: *const i8, y: *const i8) -> Self::Int;
    /// Product with a number.
    unsafe fn scaled(x: Self::Int, factor: i16) -> Self::Int;
    /// Sum of integers.
    unsafe fn plus(a: Self::Int, b: Self::Int) -> Self::Int;
    /// Lane i is the sum of the lanes of x\[i\].
    unsafe fn across(x: [Self::Int; 4]) -> Self::Int;
    /// Lane i is the sum of pair i of four pairs of activation sums, times pair i of the factors.
    unsafe fn pairs_by_pairs(sums: *const [i16; 2], factors: *const [i16; 2]) -> Self::Int;
}

/// Weight rows of a format.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// As they lie in the file.
    w: &'a [u8],
    n_in: usize,
    /// Bytes of 256 weights.
    group_bytes: usize,
    /// Called, not inlined: products are compiled once for a class of formats.
    unpack: fn(&[u8], &mut Group),
}

impl<'a> Rows<'a> {
    /// Rows of `n_in` weights.
    pub fn new<F: Unpack>(w: &'a [u8], n_in: usize) -> Rows<'a> {
        Rows { w, n_in, group_bytes: F::BYTES, unpack: F::unpack }
    }
}

/// Products of all rows of `w` with `x`, up to four tokens: those of the tile from `t` on.
///
/// # Safety
/// The CPU has the instruction set of `V`; `w` is of class K; lengths are as `Kernels::matmul` checks.
#[inline(always)]
pub unsafe fn multiply<K: Class, V: Narrow>(
    w: Rows<'_>,
    x: &[A8],
    out: &mut Tile<'_, f32>,
    t: usize,
) {
    // SAFETY: passed on.
    unsafe {
        // One token is compiled for itself; a loop over several costs nothing.
        match x.len() / w.n_in.div_ceil(256) {
            0 => {}
            1 => by_rows::<K, V, 1>(w, x, out, t, 1),
            n => by_rows::<K, V, 4>(w, x, out, t, n),
        }
    }
}

#[inline(always)]
unsafe fn by_rows<K: Class, V: Narrow, const MOST: usize>(
    w: Rows<'_>,
    x: &[A8],
    out: &mut Tile<'_, f32>,
    t: usize,
    n_tokens: usize,
) {
    let n_groups = w.n_in.div_ceil(256);
    let mut tokens: [&[A8]; MOST] = [x; MOST];
    let tokens = &mut tokens[..n_tokens];
    for (i, token) in tokens.iter_mut().enumerate() {
        *token = &x[i * n_groups..][..n_groups];
    }
    let row_bytes = w.w.len() / out.n_cols();
    let mut group = Group::ZERO;
    for (r, row) in w.w.chunks_exact(row_bytes).enumerate() {
        // SAFETY: passed on.
        unsafe {
            let mut acc = [[V::zero(); 2]; MOST];
            let acc = &mut acc[..n_tokens];
            for (g, blocks) in row.chunks(w.group_bytes).enumerate() {
                if blocks.len() < w.group_bytes {
                    // Blocks after the end have a scale of 0 and change nothing: accumulators
                    // start at +0, so they are never -0, and adding a zero of either sign to
                    // anything else is the identity.
                    group = Group::ZERO;
                }
                (w.unpack)(blocks, &mut group);
                take::<K, V>(&group, tokens, g, acc);
            }
            for (i, &[low, high]) in acc.iter().enumerate() {
                // ((0+4)+(2+6))+((1+5)+(3+7)).
                let mut l = [0.0; 4];
                V::store(V::add(low, high), l.as_mut_ptr());
                out.row_mut(t + i)[r] = (l[0] + l[2]) + (l[1] + l[3]);
            }
        }
    }
}

/// acc += da * (d * S + m * Y), lane by lane, where the first four blocks of group `g` are the
/// lanes of one vector, and the rest of another.
#[inline(always)]
unsafe fn take<K: Class, V: Narrow>(
    w: &Group,
    tokens: &[&[A8]],
    g: usize,
    acc: &mut [[V::Float; 2]],
) {
    // What is to be taken off sums of halves.
    let mut offsets = [[-K::OFFSET; 2]; 8];
    if K::HALVES {
        for (offsets, scales) in offsets.iter_mut().zip(&w.scales) {
            *offsets = [scales[0] * -K::OFFSET, scales[1] * -K::OFFSET];
        }
    }
    for (acc, x) in acc.iter_mut().zip(tokens) {
        let x = &x[g];
        let sums = x.sums.as_chunks::<2>().0;
        for (i, acc) in acc.iter_mut().enumerate() {
            let b = 4 * i;
            // SAFETY: blocks b..b + 4 are there, in the group and in the token.
            unsafe {
                let mut s = four_blocks::<K, V>(w, x, b);
                if K::OFFSET != 0 {
                    s = V::plus(s, V::pairs_by_pairs(&raw const sums[b], &raw const offsets[b]));
                }
                let mut t = V::mul(V::load(&raw const w.d[b]), V::float(s));
                let y = match K::MIN {
                    Min::None => None,
                    Min::Block => Some(V::pairs_by_pairs(&raw const sums[b], [[1; 2]; 4].as_ptr())),
                    Min::Halves => {
                        Some(V::pairs_by_pairs(&raw const sums[b], &raw const w.mins[b]))
                    }
                };
                if let Some(y) = y {
                    t = V::add(t, V::mul(V::load(&raw const w.m[b]), V::float(y)));
                }
                *acc = V::add(*acc, V::mul(V::load(&raw const x.scales[b]), t));
            }
        }
    }
}

/// Lane i is the sum of products of codes, and of scales of halves, in block b + i.
#[inline(always)]
unsafe fn four_blocks<K: Class, V: Narrow>(w: &Group, x: &A8, b: usize) -> V::Int {
    // SAFETY: passed on; a block is 32 codes.
    unsafe {
        let mut parts = [V::none(); 4];
        for (i, part) in parts.iter_mut().enumerate() {
            let at = 32 * (b + i);
            let (codes, y) = (&raw const w.codes[at], &raw const x.codes[at]);
            *part = if K::HALVES {
                let [first, second] = w.scales[b + i];
                V::plus(
                    V::scaled(V::dot::<K, 1>(codes, y), first),
                    V::scaled(V::dot::<K, 1>(codes.add(16), y.add(16)), second),
                )
            } else {
                V::dot::<K, 2>(codes, y)
            };
        }
        V::across(parts)
    }
}

/// Defines `matmul`, a table's product with any integer format, compiled with `$features`: panels
/// in tiles of `$r` rows by `$c` vectors, and `$r1` rows where one vector is left.
macro_rules! products {
    ($features:literal, $vector:ty, ($r:literal, $c:literal, $r1:literal)) => {
        #[target_feature(enable = $features)]
        fn matmul<F: $crate::kernel::unpack::Unpack>(
            w: &[u8],
            n_in: usize,
            x: $crate::kernel::Input<'_>,
            scratch: &mut [$crate::kernel::Pack],
            out: &mut $crate::team::Tile<'_, f32>,
        ) {
            use $crate::kernel::{Input, narrow, panels, unpack};
            let Input::Acts(x) = x else { unreachable!("Kernels::matmul checks the kind") };
            let functions =
                (unpack::rows::<F, false> as panels::UnpackRows, strip::<F::Class> as _);
            let n_rows = x.rows.len() / n_in.div_ceil(256);
            // SAFETY: this function has the instruction set; lengths were checked by
            // `Kernels::matmul`.
            unsafe {
                panels::by_strips(w, n_in, x.panels, scratch, out, functions);
                rows::<F::Class>(
                    narrow::Rows::new::<F>(w, n_in),
                    x.rows,
                    out,
                    out.n_rows() - n_rows,
                );
            }
        }

        /// # Safety
        /// As `narrow::multiply`.
        #[target_feature(enable = $features)]
        #[inline(never)]
        unsafe fn rows<K: $crate::kernel::unpack::Class>(
            w: $crate::kernel::narrow::Rows<'_>,
            x: &[$crate::kernel::acts::A8],
            out: &mut $crate::team::Tile<'_, f32>,
            t: usize,
        ) {
            // SAFETY: this function has the instruction set; the rest is its own contract.
            unsafe { $crate::kernel::narrow::multiply::<K, $vector>(w, x, out, t) }
        }

        /// # Safety
        /// As `panels::multiply`.
        #[target_feature(enable = $features)]
        #[inline(never)]
        unsafe fn strip<K: $crate::kernel::unpack::Class>(
            strip: $crate::kernel::panels::Strip<'_>,
            panels: &[$crate::kernel::acts::Panel],
            n_tokens: usize,
            out: &mut $crate::team::Tile<'_, f32>,
        ) {
            use $crate::kernel::panels::multiply;
            // SAFETY: this function has the instruction set; the rest is its own contract.
            unsafe { multiply::<$vector, K, $r, $c, $r1>(strip, panels, n_tokens, out) }
        }
    };
}
pub(super) use products;
