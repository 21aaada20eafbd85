//! Products with the formats of superblocks of 256. The scale of 16 or 32 codes multiplies the
//! pair sums in integers, so that a superblock ends in one exact sum.

use std::arch::x86_64::*;

use super::{
    super::{A8, Input},
    codes, iq4_values, load, nibbles, pairs,
};
use crate::team::Tile;

/// A superblock, unpacked.
pub struct Unpacked {
    /// Stored codes in their natural order, 32 a vector.
    codes: [__m256i; 8],
    /// Scales as 16-bit numbers: lane b of the low half is for codes 32b..32b + 16, lane b of the
    /// high half for 32b + 16..32b + 32.
    scales: __m256i,
    /// For each 16 codes, in order: the minimum, or what [`Kind::Offset`] says.
    mins: __m256i,
    /// binary16.
    d: i16,
    /// binary16.
    dmin: i16,
}

/// How a format's superblock is unpacked.
pub trait Superblock {
    /// Bytes of a superblock.
    const BYTES: usize;
    /// How its codes are stored.
    const KIND: Kind;
    /// The codes and what goes with them.
    ///
    /// # Safety
    /// The CPU has AVX2 and F16C; `block` is `BYTES` long.
    unsafe fn unpack(block: &[u8]) -> Unpacked;
}

/// How codes are stored, which says what a product must do beside multiplying.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    /// Signed bytes.
    Signed,
    /// 0..=63 with an offset to be taken off. S is the sum over stored codes less the sum of
    /// scale * offset * Y, which is cheaper than to lower each code; `mins` holds scale * offset.
    Offset,
    /// 0..=31, and a minimum.
    Min,
}

#[inline(always)]
fn part<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    block[at..].first_chunk().expect("a whole superblock")
}

/// The binary16 at byte `at`.
#[inline(always)]
fn bits(block: &[u8], at: usize) -> i16 {
    i16::from_le_bytes(*part(block, at))
}

/// `[f(0), .., f(3)]`, without a loop that LLVM may leave rolled.
macro_rules! four {
    ($f:expr) => {{
        let f = $f;
        [f(0), f(1), f(2), f(3)]
    }};
}

/// Products of all rows of `w` with all tokens of the tile: one row with four tokens, or four rows
/// with one token, so that four sums across lanes are made together and one vector updates four
/// results.
#[target_feature(enable = "avx2,f16c")]
pub fn matmul<F: Superblock>(w: &[u8], n_in: usize, x: Input<'_>, out: &mut Tile<'_, f32>) {
    let Input::A8(x) = x else { unreachable!("Kernels::matmul checks the kind") };
    let n_tokens = out.n_rows();
    let by_four = n_tokens - n_tokens % 4;
    for t in (0..by_four).step_by(4) {
        four_tokens::<F>(w, n_in, x, out, t);
    }
    for t in by_four..n_tokens {
        one_token::<F>(w, n_in, x, out, t);
    }
}

#[target_feature(enable = "avx2,f16c")]
fn four_tokens<F: Superblock>(w: &[u8], n_in: usize, x: &[A8], out: &mut Tile<'_, f32>, t: usize) {
    let n_groups = n_in / 256;
    let x = four!(|i: usize| &x[(t + i) * n_groups..][..n_groups]);
    for (r, row) in w.chunks_exact(n_groups * F::BYTES).enumerate() {
        let mut acc = _mm_setzero_ps();
        for (g, block) in row.chunks_exact(F::BYTES).enumerate() {
            // SAFETY: this function has the same features; the slice is a whole superblock.
            let block = unsafe { F::unpack(block) };
            let (d, dmin) = ([block.d; 4], [block.dmin; 4]);
            let sums = four!(|i: usize| dot::<F>(&block, &x[i][g]));
            let [a, b, c, e] = four!(|i: usize| x[i][g].scales[0]);
            acc = update::<F>(acc, _mm_setr_ps(a, b, c, e), d, dmin, sums);
        }
        for (i, value) in lanes(acc).into_iter().enumerate() {
            out.row_mut(t + i)[r] = value;
        }
    }
}

#[target_feature(enable = "avx2,f16c")]
fn one_token<F: Superblock>(w: &[u8], n_in: usize, x: &[A8], out: &mut Tile<'_, f32>, t: usize) {
    let n_groups = n_in / 256;
    let row_bytes = n_groups * F::BYTES;
    let x = &x[t * n_groups..][..n_groups];
    let out = out.row_mut(t);
    let last = out.len() - 1;
    for (first, out) in (0..).step_by(4).zip(out.chunks_mut(4)) {
        // Where fewer than four rows are left, the last one is done again in their place.
        let rows = four!(|r: usize| &w[(first + r).min(last) * row_bytes..][..row_bytes]);
        let mut acc = _mm_setzero_ps();
        for (g, x) in x.iter().enumerate() {
            let [a, b, c, e] = four!(|r: usize| {
                // SAFETY: this function has the same features; the slice is a whole superblock.
                let block = unsafe { F::unpack(&rows[r][g * F::BYTES..][..F::BYTES]) };
                (dot::<F>(&block, x), block.d, block.dmin)
            });
            let (d, dmin) = ([a.1, b.1, c.1, e.1], [a.2, b.2, c.2, e.2]);
            let da = _mm_set1_ps(x.scales[0]);
            acc = update::<F>(acc, da, d, dmin, [a.0, b.0, c.0, e.0]);
        }
        out.copy_from_slice(&lanes(acc)[..out.len()]);
    }
}

/// acc + da * (d * S - dmin * M), lane by lane.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn update<F: Superblock>(
    acc: __m128,
    da: __m128,
    d: [i16; 4],
    dmin: [i16; 4],
    sums: [(__m256i, __m256i); 4],
) -> __m128 {
    let halves =
        _mm256_cvtph_ps(_mm_setr_epi16(d[0], d[1], d[2], d[3], dmin[0], dmin[1], dmin[2], dmin[3]));
    let s = totals(four!(|i: usize| sums[i].0));
    let mut t = _mm_mul_ps(_mm256_castps256_ps128(halves), _mm_cvtepi32_ps(s));
    if F::KIND == Kind::Min {
        let m = totals(four!(|i: usize| sums[i].1));
        let dmin = _mm256_extractf128_ps::<1>(halves);
        t = _mm_sub_ps(t, _mm_mul_ps(dmin, _mm_cvtepi32_ps(m)));
    }
    _mm_add_ps(acc, _mm_mul_ps(da, t))
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn lanes(v: __m128) -> [f32; 4] {
    let mut lanes = [0.0; 4];
    // SAFETY: four values are there.
    unsafe { _mm_storeu_ps(lanes.as_mut_ptr(), v) };
    lanes
}

/// Vectors whose lanes add up to S, and to M where there are minima.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn dot<F: Superblock>(w: &Unpacked, x: &A8) -> (__m256i, __m256i) {
    let mut sum = _mm256_setzero_si256();
    for b in 0..8 {
        let pairs = if F::KIND == Kind::Signed {
            pairs::<true>(w.codes[b], codes(x, b))
        } else {
            pairs::<false>(w.codes[b], codes(x, b))
        };
        let lane = _mm256_set1_epi16(((2 * b) | ((2 * b + 1) << 8)) as i16);
        let scale = _mm256_shuffle_epi8(w.scales, lane);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, scale));
    }
    if F::KIND == Kind::Signed {
        return (sum, _mm256_setzero_si256());
    }
    // SAFETY: 16 sums of 16 bits are there.
    let sums = unsafe { _mm256_loadu_si256(x.sums.as_ptr().cast()) };
    let mins = _mm256_madd_epi16(w.mins, sums);
    if F::KIND == Kind::Offset {
        return (_mm256_sub_epi32(sum, mins), _mm256_setzero_si256());
    }
    (sum, mins)
}

/// Lane i is the sum of the lanes of vector i.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn totals(v: [__m256i; 4]) -> __m128i {
    let both = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256::<1>(both))
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
    ($name:ident, $bytes:expr, $kind:expr, |$block:ident| $unpacked:expr) => {
        #[allow(non_camel_case_types, missing_docs)]
        pub struct $name;

        impl Superblock for $name {
            const BYTES: usize = $bytes;
            const KIND: Kind = $kind;

            #[inline]
            #[target_feature(enable = "avx2,f16c")]
            unsafe fn unpack($block: &[u8]) -> Unpacked {
                $unpacked
            }
        }
    };
}

superblock!(Q2_K, 84, Kind::Min, |block| {
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
        d: bits(block, 80),
        dmin: bits(block, 82),
    }
});

superblock!(Q3_K, 110, Kind::Signed, |block| {
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
        d: bits(block, 108),
        dmin: 0,
    }
});

superblock!(Q4_K, 144, Kind::Min, |block| {
    let mut codes = [_mm256_setzero_si256(); 8];
    for c in 0..4 {
        [codes[2 * c], codes[2 * c + 1]] = two_nibbles(load(part(block, 16 + 32 * c)));
    }
    let (scales, mins) = six_bits(part(block, 4));
    Unpacked { codes, scales, mins, d: bits(block, 0), dmin: bits(block, 2) }
});

superblock!(Q5_K, 176, Kind::Min, |block| {
    let high = load(part(block, 16));
    let mut codes = [_mm256_setzero_si256(); 8];
    for c in 0..4 {
        let low = two_nibbles(load(part(block, 48 + 32 * c)));
        for (t, low) in low.into_iter().enumerate() {
            let b = 2 * c + t;
            codes[b] = _mm256_or_si256(low, where_bit::<true>(high, b, 16));
        }
    }
    let (scales, mins) = six_bits(part(block, 4));
    Unpacked { codes, scales, mins, d: bits(block, 0), dmin: bits(block, 2) }
});

superblock!(Q6_K, 210, Kind::Offset, |block| {
    let mut codes = [_mm256_setzero_si256(); 8];
    for h in 0..2 {
        let first = two_nibbles(load(part(block, 64 * h)));
        let second = two_nibbles(load(part(block, 64 * h + 32)));
        let high = two_bits(load(part(block, 128 + 32 * h)));
        let low = [first[0], second[0], first[1], second[1]];
        for j in 0..4 {
            let code = _mm256_or_si256(low[j], _mm256_slli_epi16::<4>(high[j]));
            codes[4 * h + j] = code;
        }
    }
    // SAFETY: 16 bytes are there.
    let scales = unsafe { _mm_loadu_si128(part::<16>(block, 192).as_ptr().cast()) };
    Unpacked {
        codes,
        scales: per_16(scales),
        mins: _mm256_slli_epi16::<5>(_mm256_cvtepi8_epi16(scales)),
        d: bits(block, 208),
        dmin: 0,
    }
});

superblock!(IQ4_XS, 136, Kind::Signed, |block| {
    let mut codes = [_mm256_setzero_si256(); 8];
    for (b, codes) in codes.iter_mut().enumerate() {
        *codes = iq4_values(nibbles(part(block, 8 + 16 * b)));
    }
    // Scale b: nibble b of four bytes, and above it bits 2b and 2b + 1 of a 16-bit number. Shifts
    // that differ by lane are multiplications.
    let low = _mm_set1_epi32(i32::from_le_bytes(*part(block, 4)));
    let low = _mm_shuffle_epi8(
        low,
        _mm_setr_epi8(0, -1, 0, -1, 1, -1, 1, -1, 2, -1, 2, -1, 3, -1, 3, -1),
    );
    let low = _mm_mullo_epi16(low, _mm_set1_epi32(1 << 16 | 16));
    let low = _mm_and_si128(_mm_srli_epi16::<4>(low), _mm_set1_epi16(15));
    let up = _mm_setr_epi16(1 << 14, 1 << 12, 1 << 10, 1 << 8, 1 << 6, 1 << 4, 1 << 2, 1);
    let high = _mm_srli_epi16::<14>(_mm_mullo_epi16(_mm_set1_epi16(bits(block, 2)), up));
    let scales = _mm_or_si128(low, _mm_slli_epi16::<4>(high));
    let scales = _mm_sub_epi16(scales, _mm_set1_epi16(32));
    Unpacked {
        codes,
        scales: _mm256_broadcastsi128_si256(scales),
        mins: _mm256_setzero_si256(),
        d: bits(block, 0),
        dmin: 0,
    }
});
