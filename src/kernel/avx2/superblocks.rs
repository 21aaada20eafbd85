//! Products with the formats of superblocks of 256. The scale of 16 or 32 codes multiplies the
//! pair sums in integers, so that a superblock ends in one exact sum.

use std::arch::x86_64::*;

use super::{
    super::{A8, Input},
    by_tokens, codes, half, iq4_values, load, nibbles, pairs, store, token_rows,
};
use crate::team::Tile;

/// A superblock, unpacked.
pub struct Unpacked {
    /// Codes in their natural order, 32 a vector.
    codes: [__m256i; 8],
    /// Scales as 16-bit numbers: lane b of the low half is for codes 32b..32b + 16, lane b of the
    /// high half for 32b + 16..32b + 32.
    scales: __m256i,
    /// The minimum of each 16 codes, in order.
    mins: __m256i,
    d: f32,
    dmin: f32,
}

/// How a format's superblock is unpacked.
pub trait Superblock {
    /// Bytes of a superblock.
    const BYTES: usize;
    /// Whether codes may be negative.
    const SIGNED: bool;
    /// Whether there are minima.
    const HAS_MIN: bool;
    /// The codes and what goes with them.
    ///
    /// # Safety
    /// The CPU has AVX2 and F16C; `block` is `BYTES` long.
    unsafe fn unpack(block: &[u8]) -> Unpacked;
}

#[inline(always)]
fn part<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    block[at..].first_chunk().expect("a whole superblock")
}

/// Products of all rows of `w` with all tokens of the tile.
#[target_feature(enable = "avx2,f16c")]
pub fn matmul<F: Superblock>(w: &[u8], n_in: usize, x: Input<'_>, out: &mut Tile<'_, f32>) {
    let Input::A8(x) = x else { unreachable!("Kernels::matmul checks the kind") };
    by_tokens!(out.n_rows(), pass::<F>(w, n_in, x, out));
}

#[target_feature(enable = "avx2,f16c")]
fn pass<F: Superblock, const N: usize>(
    w: &[u8],
    n_in: usize,
    x: &[A8],
    out: &mut Tile<'_, f32>,
    t: usize,
) {
    let x: [&[A8]; N] = token_rows(x, n_in / 256, t);
    for (r, row) in w.chunks_exact(n_in / 256 * F::BYTES).enumerate() {
        let mut acc = [0.0; N];
        for (g, block) in row.chunks_exact(F::BYTES).enumerate() {
            // SAFETY: this function has the same features; the chunk is a whole superblock.
            let block = unsafe { F::unpack(block) };
            for (acc, x) in acc.iter_mut().zip(x) {
                *acc += x[g].scales[0] * dot::<F>(&block, &x[g]);
            }
        }
        store(out, t, r, acc);
    }
}

/// d * S - dmin * M.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn dot<F: Superblock>(w: &Unpacked, x: &A8) -> f32 {
    let mut sum = _mm256_setzero_si256();
    for b in 0..8 {
        let pairs = if F::SIGNED {
            pairs::<true>(w.codes[b], codes(x, b))
        } else {
            pairs::<false>(w.codes[b], codes(x, b))
        };
        let lane = _mm256_set1_epi16((2 * b | (2 * b + 1) << 8) as i16);
        let scale = _mm256_shuffle_epi8(w.scales, lane);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, scale));
    }
    let t = w.d * total(sum) as f32;
    if !F::HAS_MIN {
        return t;
    }
    // SAFETY: 16 sums of 16 bits are there.
    let sums = unsafe { _mm256_loadu_si256(x.sums.as_ptr().cast()) };
    t - w.dmin * total(_mm256_madd_epi16(w.mins, sums)) as f32
}

/// Sum of the eight lanes.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn total(v: __m256i) -> i32 {
    let four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
    _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two)))
}

/// Scales of 16 codes each, in order, as signed bytes: sorted into [`Unpacked::scales`].
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn per_16(scales: __m128i) -> __m256i {
    let halves = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    _mm256_cvtepi8_epi16(_mm_shuffle_epi8(scales, halves))
}

/// Scales and mins of Q4_K and Q5_K: eight times 6 bits each, in 12 bytes.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn six_bits(s: &[u8; 12]) -> (__m256i, __m256i) {
    let word = |i: usize| u32::from_le_bytes([s[i], s[i + 1], s[i + 2], s[i + 3]]);
    let (a, b, c) = (word(0), word(4), word(8));
    let scales = [a & 0x3f3f_3f3f, c & 0x0f0f_0f0f | a >> 2 & 0x3030_3030];
    let mins = [b & 0x3f3f_3f3f, c >> 4 & 0x0f0f_0f0f | b >> 2 & 0x3030_3030];
    let wide = |w: [u32; 2]| {
        _mm_cvtepu8_epi16(_mm_set_epi64x(0, (u64::from(w[1]) << 32 | u64::from(w[0])) as i64))
    };
    let (scales, mins) = (wide(scales), wide(mins));
    let twice = _mm256_set_m128i(_mm_unpackhi_epi16(mins, mins), _mm_unpacklo_epi16(mins, mins));
    (_mm256_broadcastsi128_si256(scales), twice)
}

/// 2-bit fields j = 0..4 of 32 bytes.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn two_bits(x: __m256i) -> [__m256i; 4] {
    let mask = _mm256_set1_epi8(3);
    [
        _mm256_and_si256(x, mask),
        _mm256_and_si256(_mm256_srli_epi16::<2>(x), mask),
        _mm256_and_si256(_mm256_srli_epi16::<4>(x), mask),
        _mm256_and_si256(_mm256_srli_epi16::<6>(x), mask),
    ]
}

/// Low and high nibbles of 32 bytes.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn two_nibbles(x: __m256i) -> [__m256i; 2] {
    let mask = _mm256_set1_epi8(15);
    [_mm256_and_si256(x, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(x), mask)]
}

/// `value` in the bytes whose bit `bit` is set (or, with `SET` false, is not).
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn where_bit<const SET: bool>(x: __m256i, bit: usize, value: i8) -> __m256i {
    let bit = _mm256_set1_epi8((1u8 << bit) as i8);
    let wanted = if SET { bit } else { _mm256_setzero_si256() };
    let found = _mm256_cmpeq_epi8(_mm256_and_si256(x, bit), wanted);
    _mm256_and_si256(found, _mm256_set1_epi8(value))
}

macro_rules! superblock {
    ($name:ident, $bytes:expr, signed $signed:expr, min $min:expr, |$block:ident| $unpacked:expr) => {
        #[allow(non_camel_case_types, missing_docs)]
        pub struct $name;

        impl Superblock for $name {
            const BYTES: usize = $bytes;
            const SIGNED: bool = $signed;
            const HAS_MIN: bool = $min;

            #[inline]
            #[target_feature(enable = "avx2,f16c")]
            unsafe fn unpack($block: &[u8]) -> Unpacked {
                $unpacked
            }
        }
    };
}

superblock!(Q2_K, 84, signed false, min true, |block| {
    let low = two_bits(load(part(block, 16)));
    let high = two_bits(load(part(block, 48)));
    // SAFETY: 16 bytes are there.
    let pairs = unsafe { _mm_loadu_si128(part::<16>(block, 0).as_ptr().cast()) };
    let mask = _mm_set1_epi8(15);
    let mins = _mm_and_si128(_mm_srli_epi16::<4>(pairs), mask);
    Unpacked {
        codes: [low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]],
        scales: per_16(_mm_and_si128(pairs, mask)),
        mins: _mm256_cvtepu8_epi16(mins),
        d: half(*part(block, 80)),
        dmin: half(*part(block, 82)),
    }
});

superblock!(Q3_K, 110, signed true, min false, |block| {
    let high = load(part(block, 0));
    let low = [two_bits(load(part(block, 32))), two_bits(load(part(block, 64)))];
    let mut codes = [_mm256_setzero_si256(); 8];
    for (b, codes) in codes.iter_mut().enumerate() {
        *codes = _mm256_sub_epi8(low[b / 4][b % 4], where_bit::<false>(high, b, 4));
    }
    let word = |at| u32::from_le_bytes(*part(block, at));
    let (a, b, c) = (word(96), word(100), word(104));
    let scale = |low: u32, top: u32| low & 0x0f0f_0f0f | (top & 0x0303_0303) << 4;
    let scales = _mm_setr_epi32(
        scale(a, c) as i32,
        scale(b, c >> 2) as i32,
        scale(a >> 4, c >> 4) as i32,
        scale(b >> 4, c >> 6) as i32,
    );
    Unpacked {
        codes,
        scales: per_16(_mm_sub_epi8(scales, _mm_set1_epi8(32))),
        mins: _mm256_setzero_si256(),
        d: half(*part(block, 108)),
        dmin: 0.0,
    }
});

superblock!(Q4_K, 144, signed false, min true, |block| {
    let mut codes = [_mm256_setzero_si256(); 8];
    for c in 0..4 {
        [codes[2 * c], codes[2 * c + 1]] = two_nibbles(load(part(block, 16 + 32 * c)));
    }
    let (scales, mins) = six_bits(part(block, 4));
    Unpacked { codes, scales, mins, d: half(*part(block, 0)), dmin: half(*part(block, 2)) }
});

superblock!(Q5_K, 176, signed false, min true, |block| {
    let high = load(part(block, 16));
    let mut codes = [_mm256_setzero_si256(); 8];
    for c in 0..4 {
        let low = two_nibbles(load(part(block, 48 + 32 * c)));
        for t in 0..2 {
            let b = 2 * c + t;
            codes[b] = _mm256_or_si256(low[t], where_bit::<true>(high, b, 16));
        }
    }
    let (scales, mins) = six_bits(part(block, 4));
    Unpacked { codes, scales, mins, d: half(*part(block, 0)), dmin: half(*part(block, 2)) }
});

superblock!(Q6_K, 210, signed true, min false, |block| {
    let mut codes = [_mm256_setzero_si256(); 8];
    for h in 0..2 {
        let first = two_nibbles(load(part(block, 64 * h)));
        let second = two_nibbles(load(part(block, 64 * h + 32)));
        let high = two_bits(load(part(block, 128 + 32 * h)));
        let low = [first[0], second[0], first[1], second[1]];
        for j in 0..4 {
            let code = _mm256_or_si256(low[j], _mm256_slli_epi16::<4>(high[j]));
            codes[4 * h + j] = _mm256_sub_epi8(code, _mm256_set1_epi8(32));
        }
    }
    // SAFETY: 16 bytes are there.
    let scales = unsafe { _mm_loadu_si128(part::<16>(block, 192).as_ptr().cast()) };
    Unpacked {
        codes,
        scales: per_16(scales),
        mins: _mm256_setzero_si256(),
        d: half(*part(block, 208)),
        dmin: 0.0,
    }
});

superblock!(IQ4_XS, 136, signed true, min false, |block| {
    let mut codes = [_mm256_setzero_si256(); 8];
    for (b, codes) in codes.iter_mut().enumerate() {
        *codes = iq4_values(nibbles(part(block, 8 + 16 * b)));
    }
    let high = u16::from_le_bytes(*part(block, 2));
    let low: &[u8; 4] = part(block, 4);
    let scales: [i16; 8] = std::array::from_fn(|b| {
        let low = low[b / 2] >> (4 * (b % 2)) & 15;
        i16::from(low) + ((high >> (2 * b) & 3) << 4) as i16 - 32
    });
    // SAFETY: 16 bytes are there.
    let scales = unsafe { _mm_loadu_si128(scales.as_ptr().cast()) };
    Unpacked {
        codes,
        scales: _mm256_broadcastsi128_si256(scales),
        mins: _mm256_setzero_si256(),
        d: half(*part(block, 0)),
        dmin: 0.0,
    }
});
