//! Products with tokens in rows: weights stream from the map straight into 256-bit registers. Eight
//! blocks at a time: eight vectors of partial sums become one vector whose lane is the block, which
//! is the contract's lane.

use std::arch::x86_64::*;

use super::{
    super::{
        acts::A8,
        panels::{PACK, Pack},
        unpack::{Class, Min, Unpack},
    },
    dot::Dot,
    transpose_8,
};
use crate::team::Tile;

/// 256 weights of a row in registers.
pub struct Loaded {
    /// Stored codes in their natural order.
    pub codes: [__m256i; 8],
    /// Lane b is the factor of S[b].
    pub d: __m256,
    /// Lane b is the factor of Y[b], where there are minima.
    pub m: __m256,
    /// Where halves have scales: 16-bit lane b of the low half is for the first half of block b, of
    /// the high half for its second.
    pub scales: __m256i,
    /// Where halves have scales: what their sums of activation codes are multiplied with, in order:
    /// minima, or scale times offset.
    pub mins: __m256i,
}

impl Loaded {
    /// Nothing yet.
    #[inline(always)]
    pub unsafe fn none() -> Loaded {
        // SAFETY: the CPU has AVX2 by the contract of `Load`.
        unsafe {
            Loaded {
                codes: [_mm256_setzero_si256(); 8],
                d: _mm256_setzero_ps(),
                m: _mm256_setzero_ps(),
                scales: _mm256_setzero_si256(),
                mins: _mm256_setzero_si256(),
            }
        }
    }
}

/// Bytes between what is multiplied and what is fetched: a page, where the CPU's own prefetching
/// stops.
const AHEAD: usize = 4096;

/// A format that is unpacked in registers.
pub trait Load: Unpack {
    /// The first B blocks of 32 of up to 256 weights.
    ///
    /// # Safety
    /// The CPU has AVX2 and F16C; `blocks` holds B blocks of 32, or a superblock.
    unsafe fn load<D: Dot, const B: usize>(blocks: &[u8]) -> Loaded;
}

/// Products of all rows of `w` with `x`, the tokens of the tile from `t` on, up to MOST at once.
///
/// # Safety
/// The CPU has the instruction set of `D`, AVX2 and F16C; lengths are as `Kernels::matmul` checks.
#[inline(always)]
pub unsafe fn multiply<F: Load, D: Dot, const MOST: usize>(
    w: &[u8],
    n_in: usize,
    x: &[A8],
    out: &mut Tile<'_, f32>,
    t: usize,
) {
    let n_groups = n_in.div_ceil(256);
    for (i, x) in x.chunks(MOST * n_groups).enumerate() {
        let t = t + MOST * i;
        // SAFETY: passed on.
        unsafe {
            // One token is compiled for itself; a loop over several costs nothing.
            match x.len() / n_groups {
                1 => by_rows::<F, D, 1>(w, n_in, x, out, t, 1),
                n => by_rows::<F, D, MOST>(w, n_in, x, out, t, n),
            }
        }
    }
}

#[inline(always)]
unsafe fn by_rows<F: Load, D: Dot, const MOST: usize>(
    w: &[u8],
    n_in: usize,
    x: &[A8],
    out: &mut Tile<'_, f32>,
    t: usize,
    n_tokens: usize,
) {
    let n_groups = n_in.div_ceil(256);
    let mut tokens: [&[A8]; MOST] = [x; MOST];
    let tokens = &mut tokens[..n_tokens];
    for (i, token) in tokens.iter_mut().enumerate() {
        *token = &x[i * n_groups..][..n_groups];
    }
    let row_bytes = w.len() / out.n_cols().max(1);
    for (r, row) in w.chunks_exact(row_bytes).enumerate() {
        // SAFETY: passed on; all groups of a row but the last have eight blocks.
        unsafe {
            let mut acc = [_mm256_setzero_ps(); MOST];
            let acc = &mut acc[..n_tokens];
            for (g, group) in row.chunks(F::BYTES).enumerate() {
                for line in (0..F::BYTES).step_by(64) {
                    // Any address may be prefetched.
                    _mm_prefetch::<_MM_HINT_T0>(group.as_ptr().wrapping_add(AHEAD + line).cast());
                }
                match group.len() * 8 / F::BYTES {
                    2 if !F::SUPER => take::<F, D, 2>(group, tokens, g, acc),
                    4 if !F::SUPER => take::<F, D, 4>(group, tokens, g, acc),
                    n => {
                        let padded;
                        let group = if F::SUPER || n == 8 {
                            group
                        } else {
                            padded = self::padded(group);
                            &padded
                        };
                        take::<F, D, 8>(group, tokens, g, acc);
                    }
                }
            }
            for (i, acc) in acc.iter().enumerate() {
                out.row_mut(t + i)[r] = finish(*acc);
            }
        }
    }
}

/// Blocks at the end of a row, and then blocks of zeros, whose scale is 0, whatever their codes
/// stand for. They change nothing: accumulators start at +0, so they are never -0, and adding a zero
/// of either sign to anything else is the identity.
#[inline(always)]
fn padded(rest: &[u8]) -> [u8; 8 * 34] {
    let mut padded = [0; 8 * 34];
    padded[..rest.len()].copy_from_slice(rest);
    padded
}

/// Rows as they lie in the file, into packs `[n_rows.div_ceil(8), n_in.div_ceil(256)]`; as
/// [`super::super::unpack::rows`].
///
/// # Safety
/// The CPU has AVX2 and F16C; `w` is `n_rows` whole rows of `n_in` weights.
#[inline(always)]
pub unsafe fn unpack<F: Load, D: Dot>(
    w: &[u8],
    n_in: usize,
    n_rows: usize,
    out: &mut [Pack],
) -> i16 {
    let row_bytes = w.len() / n_rows;
    let flip = D::UNSIGNED && F::Class::SIGNED;
    let packs = out.chunks_exact_mut(n_in.div_ceil(256));
    for (rows, packs) in w.chunks(PACK * row_bytes).zip(packs) {
        let last = rows.len() - row_bytes;
        for (g, pack) in packs.iter_mut().enumerate() {
            // Where rows end, the last stands for those that are missing.
            let blocks = |r: usize| {
                let row = &rows[(r * row_bytes).min(last)..][..row_bytes];
                &row[g * F::BYTES..row_bytes.min((g + 1) * F::BYTES)]
            };
            // SAFETY: passed on; `blocks` gives as many as it has bytes.
            unsafe {
                match (row_bytes - g * F::BYTES).min(F::BYTES) * 8 / F::BYTES {
                    2 if !F::SUPER => fill::<F, 2>(|r| F::load::<D, 2>(blocks(r)), flip, pack),
                    4 if !F::SUPER => fill::<F, 4>(|r| F::load::<D, 4>(blocks(r)), flip, pack),
                    n => {
                        let row = |r: usize| {
                            let padded;
                            F::load::<D, 8>(if F::SUPER || n == 8 {
                                blocks(r)
                            } else {
                                padded = self::padded(blocks(r));
                                &padded
                            })
                        };
                        fill::<F, 8>(row, flip, pack);
                    }
                }
            }
        }
    }
    if flip { 128 } else { F::Class::OFFSET }
}

/// The first B blocks of eight rows.
#[inline(always)]
unsafe fn fill<F: Load, const B: usize>(
    row: impl Fn(usize) -> Loaded,
    flip: bool,
    pack: &mut Pack,
) {
    // SAFETY: the CPU has AVX2; every array is as long as what is stored.
    unsafe {
        let bias = _mm256_set1_epi8(if flip { i8::MIN } else { 0 });
        let none = [_mm256_setzero_ps(); PACK];
        let (mut d, mut m, mut mins, mut scales) = (none, none, none, [none; 2]);
        for r in 0..PACK {
            let w = row(r);
            for (to, codes) in pack.codes.iter_mut().zip(w.codes).take(B) {
                _mm256_storeu_si256(to[r].as_mut_ptr().cast(), _mm256_xor_si256(codes, bias));
            }
            (d[r], m[r], mins[r]) = (w.d, w.m, _mm256_castsi256_ps(w.mins));
            let halves =
                [_mm256_castsi256_si128(w.scales), _mm256_extracti128_si256::<1>(w.scales)];
            for (scales, half) in scales.iter_mut().zip(halves) {
                scales[r] = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(half));
            }
        }
        columns(d, pack.d.as_mut_ptr().cast());
        if !matches!(F::Class::MIN, Min::None) {
            columns(m, pack.m.as_mut_ptr().cast());
        }
        if F::Class::HALVES {
            for (scales, to) in scales.into_iter().zip(&mut pack.scales) {
                columns(scales, to.as_mut_ptr().cast());
            }
        }
        if matches!(F::Class::MIN, Min::Halves) {
            columns(mins, pack.mins.as_mut_ptr().cast());
        }
    }
}

/// Eight rows of eight times 32 bits as columns.
#[inline(always)]
unsafe fn columns(rows: [__m256; 8], to: *mut __m256) {
    // SAFETY: the CPU has AVX2; eight vectors may be written.
    unsafe {
        for (b, column) in transpose_8(rows).into_iter().enumerate() {
            _mm256_storeu_ps(to.add(b).cast(), column);
        }
    }
}

/// acc += da * (d * S + m * Y), lane by lane, for the first B blocks of group `g`; the other lanes
/// stay as they are.
#[inline(always)]
unsafe fn take<F: Load, D: Dot, const B: usize>(
    blocks: &[u8],
    tokens: &[&[A8]],
    g: usize,
    acc: &mut [__m256],
) {
    // SAFETY: the CPU has AVX2; `blocks` holds B blocks; vectors of A8 are aligned to 32.
    unsafe {
        let mut w = F::load::<D, B>(blocks);
        let flip = D::UNSIGNED && F::Class::SIGNED;
        if flip {
            for codes in &mut w.codes[..B] {
                *codes = _mm256_xor_si256(*codes, _mm256_set1_epi8(i8::MIN));
            }
        }
        let offset = if flip { 128 } else { F::Class::OFFSET };
        for (acc, x) in acc.iter_mut().zip(tokens) {
            let x = &x[g];
            let sums = _mm256_load_si256(x.sums.as_ptr().cast());
            // Pairs of 16 are blocks of 32.
            let y = |factor: i16| _mm256_madd_epi16(sums, _mm256_set1_epi16(factor));
            let mut s = by_block::<F::Class, D, B>(&w, x);
            if F::Class::HALVES && F::Class::OFFSET != 0 {
                s = _mm256_sub_epi32(s, _mm256_madd_epi16(sums, w.mins));
            } else if offset != 0 {
                s = _mm256_sub_epi32(s, y(offset));
            }
            let mut t = _mm256_mul_ps(w.d, _mm256_cvtepi32_ps(s));
            match F::Class::MIN {
                Min::None => {}
                Min::Block => {
                    t = _mm256_add_ps(t, _mm256_mul_ps(w.m, _mm256_cvtepi32_ps(y(1))));
                }
                Min::Halves => {
                    let mins = _mm256_cvtepi32_ps(_mm256_madd_epi16(sums, w.mins));
                    t = _mm256_add_ps(t, _mm256_mul_ps(w.m, mins));
                }
            }
            let da = _mm256_loadu_ps(x.scales.as_ptr());
            *acc = _mm256_add_ps(*acc, _mm256_mul_ps(da, t));
        }
    }
}

/// Lane b is the sum of products of stored codes (and scales of halves) in block b < B.
#[inline(always)]
unsafe fn by_block<K: Class, D: Dot, const B: usize>(w: &Loaded, x: &A8) -> __m256i {
    // SAFETY: the CPU has AVX2; a block of activation codes is 32 bytes, aligned to 32.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut sums = [_mm256_setzero_si256(); 8];
        for (b, sum) in sums.iter_mut().enumerate().take(B) {
            let y = _mm256_load_si256(x.codes.as_ptr().add(32 * b).cast());
            *sum = if K::HALVES {
                let lane = _mm256_set1_epi16(((2 * b) | ((2 * b + 1) << 8)) as i16);
                D::scaled_fours(w.codes[b], y, _mm256_shuffle_epi8(w.scales, lane))
            } else {
                D::fours::<K>(w.codes[b], y)
            };
        }
        // Neighbours' sums side by side, half as many of each. Where codes are below 32, sums of
        // eight products still fit 16 bits (8 * 31 * 127 < 2^15), and packing is cheaper than
        // adding across.
        let narrow = !K::HALVES && !K::SIGNED && K::MAX < 32;
        let join = |a, b| match narrow {
            true => _mm256_madd_epi16(_mm256_packs_epi32(a, b), ones),
            false => _mm256_hadd_epi32(a, b),
        };
        let low = join(join(sums[0], sums[1]), join(sums[2], sums[3]));
        let high = join(join(sums[4], sums[5]), join(sums[6], sums[7]));
        // [low.0 + low.1, high.0 + high.1] of 128-bit halves.
        _mm256_add_epi32(
            _mm256_blend_epi32::<0xf0>(low, high),
            _mm256_permute2x128_si256::<0x21>(low, high),
        )
    }
}

/// ((0+4)+(2+6))+((1+5)+(3+7)).
#[inline(always)]
unsafe fn finish(acc: __m256) -> f32 {
    // SAFETY: the CPU has AVX2.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(acc), _mm256_extractf128_ps::<1>(acc));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}
