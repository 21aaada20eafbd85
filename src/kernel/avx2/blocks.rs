//! Products with the formats of blocks of 32. Eight blocks at a time: eight vectors of partial
//! sums become one vector whose lane is the block, which is the contract's lane.

use std::arch::x86_64::*;

use super::{
    super::{A8, Input},
    by_tokens, codes, iq4_values, load, nibbles, pairs, store, token_rows,
};
use crate::team::Tile;

/// How a format's block of 32 is unpacked.
pub trait Block {
    /// Bytes of a block.
    const BYTES: usize;
    /// Whether codes may be negative.
    const SIGNED: bool;
    /// Whether a block has a minimum (a second binary16 after the first).
    const HAS_MIN: bool;
    /// The codes in their natural order.
    ///
    /// # Safety
    /// The CPU has AVX2 and F16C; `block` is `BYTES` long.
    unsafe fn codes(block: &[u8]) -> __m256i;
}

/// The fixed-size part of a block from byte `at` on.
#[inline(always)]
fn part<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    block[at..].first_chunk().expect("a whole block")
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
            take::<F, N>(group, std::array::from_fn(|i| &x[i][g]), &mut acc);
        }
        if !rest.is_empty() {
            // Absent blocks count as zeros. That changes nothing: accumulators start at +0, so
            // they are never -0, and adding +0 to anything else is the identity.
            let g = row.len() / (8 * F::BYTES);
            let mut padded = [0; 8 * 34];
            padded[..rest.len()].copy_from_slice(rest);
            let group = &padded[..8 * F::BYTES];
            take::<F, N>(group, std::array::from_fn(|i| &x[i][g]), &mut acc);
        }
        store(out, t, r, acc.map(|acc| finish(acc)));
    }
}

/// acc += da * (d * S + m * Y) for eight blocks, lane by lane.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn take<F: Block, const N: usize>(group: &[u8], x: [&A8; N], acc: &mut [__m256; N]) {
    let mut w = [_mm256_setzero_si256(); 8];
    let mut d = [0u16; 8];
    let mut m = [0u16; 8];
    for (b, block) in group.chunks_exact(F::BYTES).enumerate() {
        // SAFETY: this function has the same features; the chunk is a whole block.
        w[b] = unsafe { F::codes(block) };
        d[b] = u16::from_le_bytes(*part(block, 0));
        if F::HAS_MIN {
            m[b] = u16::from_le_bytes(*part(block, 2));
        }
    }
    let (d, m) = (halves(d), halves(m));
    for (acc, x) in acc.iter_mut().zip(x) {
        let ones = _mm256_set1_epi16(1);
        let mut sums = [_mm256_setzero_si256(); 8];
        for b in 0..8 {
            let pairs = if F::SIGNED {
                pairs::<true>(w[b], codes(x, b))
            } else {
                pairs::<false>(w[b], codes(x, b))
            };
            sums[b] = _mm256_madd_epi16(pairs, ones);
        }
        let mut t = _mm256_mul_ps(d, _mm256_cvtepi32_ps(by_block(sums)));
        if F::HAS_MIN {
            // SAFETY: 16 sums of 16 bits are there.
            let sums = unsafe { _mm256_loadu_si256(x.sums.as_ptr().cast()) };
            let sums = _mm256_madd_epi16(sums, ones); // pairs of 16 are blocks of 32
            t = _mm256_add_ps(t, _mm256_mul_ps(m, _mm256_cvtepi32_ps(sums)));
        }
        // SAFETY: 8 scales are there.
        let da = unsafe { _mm256_loadu_ps(x.scales.as_ptr()) };
        *acc = _mm256_add_ps(*acc, _mm256_mul_ps(da, t));
    }
}

/// Eight binary16 as f32.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn halves(halves: [u16; 8]) -> __m256 {
    // SAFETY: 16 bytes are there.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(halves.as_ptr().cast()) })
}

/// Lane b of the result is the sum of the lanes of vector b.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn by_block(v: [__m256i; 8]) -> __m256i {
    let pair = |i: usize| _mm256_hadd_epi32(v[i], v[i + 1]);
    let low = _mm256_hadd_epi32(pair(0), pair(2));
    let high = _mm256_hadd_epi32(pair(4), pair(6));
    _mm256_add_epi32(
        _mm256_permute2x128_si256::<0x20>(low, high),
        _mm256_permute2x128_si256::<0x31>(low, high),
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
    ($name:ident, $bytes:expr, signed $signed:expr, min $min:expr, |$block:ident| $codes:expr) => {
        #[allow(non_camel_case_types, missing_docs)]
        pub struct $name;

        impl Block for $name {
            const BYTES: usize = $bytes;
            const SIGNED: bool = $signed;
            const HAS_MIN: bool = $min;

            #[inline]
            #[target_feature(enable = "avx2,f16c")]
            unsafe fn codes($block: &[u8]) -> __m256i {
                $codes
            }
        }
    };
}

block!(Q4_0, 18, signed true, min false, |block| {
    _mm256_sub_epi8(nibbles(part(block, 2)), _mm256_set1_epi8(8))
});
block!(Q4_1, 20, signed false, min true, |block| nibbles(part(block, 4)));
block!(Q5_0, 22, signed true, min false, |block| {
    let codes = _mm256_or_si256(nibbles(part(block, 6)), fifth_bits(part(block, 2)));
    _mm256_sub_epi8(codes, _mm256_set1_epi8(16))
});
block!(Q5_1, 24, signed false, min true, |block| {
    _mm256_or_si256(nibbles(part(block, 8)), fifth_bits(part(block, 4)))
});
block!(Q8_0, 34, signed true, min false, |block| load(part(block, 2)));
block!(IQ4_NL, 18, signed true, min false, |block| iq4_values(nibbles(part(block, 2))));
