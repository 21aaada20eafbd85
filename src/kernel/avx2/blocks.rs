//! Products with the formats of blocks of 32. Eight blocks at a time: eight vectors of partial
//! sums become one vector whose lane is the block, which is the contract's lane.

use std::arch::x86_64::*;

use super::{
    super::{A8, Input},
    by_tokens, codes, iq4_values, load, nibbles, pairs, token_rows,
};
use crate::team::Tile;

/// How a format's block of 32 is unpacked.
pub trait Block {
    /// Bytes of a block.
    const BYTES: usize;
    /// How its codes are stored.
    const KIND: Kind;
    /// The stored codes in their natural order.
    ///
    /// # Safety
    /// The CPU has AVX2 and F16C; `block` is `BYTES` long.
    unsafe fn codes(block: &[u8]) -> __m256i;
}

/// How codes are stored, which says what a product must do beside multiplying.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    /// Signed bytes.
    Signed,
    /// 0..=31 with this much to be taken off: S is the stored codes' sum less `offset` times Y,
    /// the sum of the activation codes, which is cheaper than to lower each code.
    Offset(i16),
    /// 0..=31, and a second binary16 after the first: the minimum m.
    Min,
}

/// The fixed-size part of a block from byte `at` on.
#[inline(always)]
fn part<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    block[at..].first_chunk().expect("a whole block")
}

/// `[f(0), .., f(7)]`. Neither a loop, which LLVM may leave rolled, nor `array::from_fn`: a closure
/// isn't inlined into a function of the standard library, which lacks its target features.
macro_rules! eight {
    ($f:expr) => {{
        let f = $f;
        [f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7)]
    }};
}
/// Products of all rows of `w` with all tokens of the tile.
#[target_feature(enable = "avx2,f16c")]
pub fn matmul<F: Block>(w: &[u8], n_in: usize, x: Input<'_>, out: &mut Tile<'_, f32>) {
    let Input::A8(x) = x else { unreachable!("Kernels::matmul checks the kind") };
    by_tokens!(out.n_rows(), pass::<F>(w, n_in, x, out));
}

#[target_feature(enable = "avx2,f16c")]
fn pass<F: Block, const N: usize>(
    w: &[u8],
    n_in: usize,
    x: &[A8],
    out: &mut Tile<'_, f32>,
    t: usize,
) {
    let x: [&[A8]; N] = token_rows(x, n_in.div_ceil(256), t);
    for (r, row) in w.chunks_exact(n_in / 32 * F::BYTES).enumerate() {
        let mut acc = [_mm256_setzero_ps(); N];
        let groups = row.chunks_exact(8 * F::BYTES);
        let rest = groups.remainder();
        for (g, group) in groups.enumerate() {
            take::<F, N, 8>(group, x, g, &mut acc);
        }
        match rest.len() / F::BYTES {
            0 => {}
            1..=4 => take::<F, N, 4>(rest, x, n_in / 256, &mut acc),
            _ => take::<F, N, 7>(rest, x, n_in / 256, &mut acc),
        }
        for (i, acc) in acc.into_iter().enumerate() {
            out.row_mut(t + i)[r] = finish(acc);
        }
    }
}

/// A block of zeros in any format: its scale is 0, whatever its codes stand for.
static ZEROS: [u8; 34] = [0; 34];

/// acc += da * (d * S + m * Y), lane by lane, for the eight blocks of group `g`; or, where B < 8,
/// for the last few of a row, up to B, where absent blocks count as zeros. That changes nothing:
/// accumulators start at +0, so they are never -0, and adding a zero of either sign to anything
/// else is the identity.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn take<F: Block, const N: usize, const B: usize>(
    group: &[u8],
    x: [&[A8]; N],
    g: usize,
    acc: &mut [__m256; N],
) {
    assert!(B < 8 || group.len() == 8 * F::BYTES);
    let block = |b: usize| match B {
        8 => &group[b * F::BYTES..][..F::BYTES],
        _ => group.get(b * F::BYTES..(b + 1) * F::BYTES).unwrap_or(&ZEROS[..F::BYTES]),
    };
    let w = eight!(|b: usize| match b < B {
        // SAFETY: this function has the same features; `block` gives whole blocks.
        true => unsafe { F::codes(block(b)) },
        false => _mm256_setzero_si256(),
    });
    let (d, m) = if F::KIND == Kind::Min {
        let pair = |b: usize| if b < B { i32::from_le_bytes(*part(block(b), 0)) } else { 0 };
        scales_and_mins(eight!(pair))
    } else {
        let d = |b: usize| if b < B { i16::from_le_bytes(*part(block(b), 0)) } else { 0 };
        let [a, b, c, d, e, f, g, h] = eight!(d);
        (_mm256_cvtph_ps(_mm_setr_epi16(a, b, c, d, e, f, g, h)), _mm256_setzero_ps())
    };
    for (acc, x) in acc.iter_mut().zip(x) {
        let x = &x[g];
        // SAFETY: 16 sums of 16 bits are there.
        let sums = unsafe { _mm256_load_si256(x.sums.as_ptr().cast()) };
        // Pairs of 16 are blocks of 32.
        let y = |factor: i16| _mm256_madd_epi16(sums, _mm256_set1_epi16(factor));
        let mut s = by_block::<F, B>(&w, x);
        if let Kind::Offset(offset) = F::KIND {
            s = _mm256_sub_epi32(s, y(offset));
        }
        let mut t = _mm256_mul_ps(d, _mm256_cvtepi32_ps(s));
        if F::KIND == Kind::Min {
            t = _mm256_add_ps(t, _mm256_mul_ps(m, _mm256_cvtepi32_ps(y(1))));
        }
        // SAFETY: 8 scales are there.
        let da = unsafe { _mm256_loadu_ps(x.scales.as_ptr()) };
        *acc = _mm256_add_ps(*acc, _mm256_mul_ps(da, t));
    }
}

/// d and m of eight blocks, each pair as it is stored. Built in registers: eight narrow stores
/// that one wide load reads back can't be forwarded.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn scales_and_mins(pairs: [i32; 8]) -> (__m256, __m256) {
    let [a, b, c, d, e, f, g, h] = pairs;
    let both = _mm256_setr_epi32(a, b, c, d, e, f, g, h);
    let apart = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    let apart = _mm256_shuffle_epi8(both, _mm256_broadcastsi128_si256(apart));
    let apart = _mm256_permute4x64_epi64::<0b11_01_10_00>(apart);
    (
        _mm256_cvtph_ps(_mm256_castsi256_si128(apart)),
        _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(apart)),
    )
}

/// Lane b is the sum of products of stored codes in block b.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn by_block<F: Block, const B: usize>(w: &[__m256i; 8], x: &A8) -> __m256i {
    let ones = _mm256_set1_epi16(1);
    let fours = |b: usize| {
        if b >= B {
            return _mm256_setzero_si256();
        }
        let pairs = if F::KIND == Kind::Signed {
            pairs::<true>(w[b], codes(x, b))
        } else {
            pairs::<false>(w[b], codes(x, b))
        };
        _mm256_madd_epi16(pairs, ones)
    };
    // Neighbours' sums side by side, half as many of each. Where codes are below 32, sums of eight
    // products still fit 16 bits (8 * 31 * 127 < 2^15), and packing is cheaper than adding across.
    let join = |a, b| {
        if F::KIND == Kind::Signed {
            _mm256_hadd_epi32(a, b)
        } else {
            _mm256_madd_epi16(_mm256_packs_epi32(a, b), ones)
        }
    };
    let low = join(join(fours(0), fours(1)), join(fours(2), fours(3)));
    let high = join(join(fours(4), fours(5)), join(fours(6), fours(7)));
    // [low.0 + low.1, high.0 + high.1] of 128-bit halves.
    _mm256_add_epi32(
        _mm256_blend_epi32::<0xf0>(low, high),
        _mm256_permute2x128_si256::<0x21>(low, high),
    )
}

/// ((0+4)+(2+6))+((1+5)+(3+7)).
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn finish(acc: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(acc), _mm256_extractf128_ps::<1>(acc));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// 16 where the bit is set, for 32 bits.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn fifth_bits(bits: &[u8; 4]) -> __m256i {
    let bits = _mm256_set1_epi32(i32::from_le_bytes(*bits));
    let byte =
        _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
    let set = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(bits, byte), bit), bit);
    _mm256_and_si256(set, _mm256_set1_epi8(16))
}

macro_rules! block {
    ($name:ident, $bytes:expr, $kind:expr, |$block:ident| $codes:expr) => {
        #[allow(non_camel_case_types, missing_docs)]
        pub struct $name;

        impl Block for $name {
            const BYTES: usize = $bytes;
            const KIND: Kind = $kind;

            #[inline]
            #[target_feature(enable = "avx2,f16c")]
            unsafe fn codes($block: &[u8]) -> __m256i {
                $codes
            }
        }
    };
}

block!(Q4_0, 18, Kind::Offset(8), |block| nibbles(part(block, 2)));
block!(Q4_1, 20, Kind::Min, |block| nibbles(part(block, 4)));
block!(Q5_0, 22, Kind::Offset(16), |block| {
    _mm256_or_si256(nibbles(part(block, 6)), fifth_bits(part(block, 2)))
});
block!(Q5_1, 24, Kind::Min, |block| {
    _mm256_or_si256(nibbles(part(block, 8)), fifth_bits(part(block, 4)))
});
block!(Q8_0, 34, Kind::Signed, |block| load(part(block, 2)));
block!(IQ4_NL, 18, Kind::Signed, |block| iq4_values(nibbles(part(block, 2))));
