//! The formats unpacked in 256-bit registers.

use std::arch::x86_64::*;

use super::{
    super::{
        scalar::IQ4_VALUES,
        unpack::{
            Class, IQ4_NL, IQ4_XS, Min, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0,
        },
    },
    dot::Dot,
    rows::{Load, Loaded},
};

/// The fixed-size part of some blocks from byte `at` on.
#[inline(always)]
fn part<const N: usize>(blocks: &[u8], at: usize) -> &[u8; N] {
    blocks[at..].first_chunk().expect("whole blocks")
}

/// 32 bytes.
#[inline(always)]
unsafe fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: 32 bytes are there; the CPU has AVX2.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// 16 bytes.
#[inline(always)]
fn load_16(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: 16 bytes are there.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// Low nibbles of 16 bytes, then their high nibbles.
#[inline(always)]
unsafe fn nibbles(bytes: &[u8; 16]) -> __m256i {
    // SAFETY: the CPU has AVX2.
    unsafe {
        let twice = _mm256_broadcastsi128_si256(load_16(bytes));
        let both = _mm256_srlv_epi64(twice, _mm256_setr_epi64x(0, 0, 4, 4));
        _mm256_and_si256(both, _mm256_set1_epi8(15))
    }
}

/// Codes of 4 bits, and 16 more where the bit is set.
#[inline(always)]
pub unsafe fn fifth_bits(codes: __m256i, bits: &[u8; 4]) -> __m256i {
    // SAFETY: the CPU has AVX2.
    unsafe {
        let bits = _mm256_set1_epi32(i32::from_le_bytes(*bits));
        let byte = _mm256_setr_epi64x(
            0,
            0x0101_0101_0101_0101,
            0x0202_0202_0202_0202,
            0x0303_0303_0303_0303,
        );
        let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
        let set = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(bits, byte), bit), bit);
        _mm256_or_si256(codes, _mm256_and_si256(set, _mm256_set1_epi8(16)))
    }
}

/// Values of the non-linear 4-bit formats for 32 nibbles.
#[inline(always)]
unsafe fn iq4_values(nibbles: __m256i) -> __m256i {
    // SAFETY: the table is 16 bytes long; the CPU has AVX2.
    unsafe {
        let table = _mm_loadu_si128(IQ4_VALUES.as_ptr().cast());
        _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), nibbles)
    }
}

/// d, and m where there are minima, of the first B blocks.
#[inline(always)]
unsafe fn factors<D: Dot, K: Class, const B: usize, const BYTES: usize>(
    blocks: &[u8],
) -> (__m256, __m256) {
    // SAFETY: the CPU has AVX2 and F16C, and what D needs.
    unsafe {
        let [d, m] = match B {
            8 => D::factors::<K, BYTES>(blocks),
            _ => some_factors::<K, B, BYTES>(blocks),
        };
        (_mm256_cvtph_ps(d), _mm256_cvtph_ps(m))
    }
}

/// As halves, d and m of the first B blocks. Built in registers: eight narrow stores that one wide load
/// reads back can't be forwarded.
#[inline(always)]
pub unsafe fn some_factors<K: Class, const B: usize, const BYTES: usize>(
    blocks: &[u8],
) -> [__m128i; 2] {
    let word = |b: usize| match b < B {
        true => i16::from_le_bytes(*part(blocks, b * BYTES)),
        false => 0,
    };
    let pair = |b: usize| match b < B {
        true => i32::from_le_bytes(*part(blocks, b * BYTES)),
        false => 0,
    };
    // SAFETY: the CPU has AVX2.
    unsafe {
        if matches!(K::MIN, Min::None) {
            let d = _mm_setr_epi16(
                word(0),
                word(1),
                word(2),
                word(3),
                word(4),
                word(5),
                word(6),
                word(7),
            );
            return [d, _mm_setzero_si128()];
        }
        let both = _mm256_setr_epi32(
            pair(0),
            pair(1),
            pair(2),
            pair(3),
            pair(4),
            pair(5),
            pair(6),
            pair(7),
        );
        let apart = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
        let apart = _mm256_shuffle_epi8(both, _mm256_broadcastsi128_si256(apart));
        let apart = _mm256_permute4x64_epi64::<0b11_01_10_00>(apart);
        [_mm256_castsi256_si128(apart), _mm256_extracti128_si256::<1>(apart)]
    }
}

/// A format of blocks of 32.
macro_rules! blocks {
    ($name:ident, $bytes:expr, $class:ident, |$block:ident| $codes:expr) => {
        impl Load for $name {
            #[inline(always)]
            unsafe fn load<D: Dot, const B: usize>(blocks: &[u8]) -> Loaded {
                // SAFETY: passed on.
                unsafe {
                    let mut loaded = Loaded::none();
                    for (b, codes) in loaded.codes.iter_mut().enumerate().take(B) {
                        let $block: &[u8; $bytes] = part(blocks, $bytes * b);
                        *codes = $codes;
                    }
                    use super::super::unpack::$class;
                    (loaded.d, loaded.m) = factors::<D, $class, B, $bytes>(blocks);
                    loaded
                }
            }
        }
    };
}

blocks!(Q4_0, 18, Nibbles, |block| nibbles(part(block, 2)));
blocks!(Q4_1, 20, NibblesMin, |block| nibbles(part(block, 4)));
blocks!(Q5_0, 22, Fives, |block| D::fifth_bits(nibbles(part(block, 6)), part(block, 2)));
blocks!(Q5_1, 24, FivesMin, |block| D::fifth_bits(nibbles(part(block, 8)), part(block, 4)));
blocks!(Q8_0, 34, Bytes, |block| load(part(block, 2)));
blocks!(IQ4_NL, 18, Bytes, |block| iq4_values(nibbles(part(block, 2))));

/// The binary16 at byte `at`, in all lanes.
#[inline(always)]
unsafe fn half(block: &[u8], at: usize) -> __m256 {
    let bits = i16::from_le_bytes(*part(block, at));
    // SAFETY: the CPU has F16C.
    unsafe { _mm256_cvtph_ps(_mm_set1_epi16(bits)) }
}

/// Scales of 16 codes each, in order, as signed bytes: sorted into [`Loaded::scales`].
#[inline(always)]
unsafe fn per_16(scales: __m128i) -> __m256i {
    // SAFETY: the CPU has AVX2.
    unsafe {
        let halves = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
        _mm256_cvtepi8_epi16(_mm_shuffle_epi8(scales, halves))
    }
}

/// Factors of Q4_K and Q5_K: d times a scale, -dmin times a minimum, eight times 6 bits each in 12
/// bytes. Products with a binary16 are exact.
#[inline(always)]
unsafe fn six_bits(block: &[u8]) -> (__m256, __m256) {
    let word = |at: usize| u32::from_le_bytes(*part(block, at));
    let (a, b, c) = (word(4), word(8), word(12));
    let scales = [a & 0x3f3f_3f3f, c & 0x0f0f_0f0f | a >> 2 & 0x3030_3030];
    let mins = [b & 0x3f3f_3f3f, c >> 4 & 0x0f0f_0f0f | b >> 2 & 0x3030_3030];
    // SAFETY: the CPU has AVX2 and F16C.
    unsafe {
        let wide = |w: [u32; 2]| {
            let bytes = _mm_cvtsi64_si128((u64::from(w[1]) << 32 | u64::from(w[0])) as i64);
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))
        };
        let minus = _mm256_set1_ps(-0.0);
        (
            _mm256_mul_ps(half(block, 0), wide(scales)),
            _mm256_mul_ps(_mm256_xor_ps(half(block, 2), minus), wide(mins)),
        )
    }
}

/// 2-bit fields j = 0..4 of 32 bytes.
#[inline(always)]
unsafe fn two_bits(x: __m256i) -> [__m256i; 4] {
    // SAFETY: the CPU has AVX2.
    unsafe {
        let mask = _mm256_set1_epi8(3);
        [
            _mm256_and_si256(x, mask),
            _mm256_and_si256(_mm256_srli_epi16::<2>(x), mask),
            _mm256_and_si256(_mm256_srli_epi16::<4>(x), mask),
            _mm256_and_si256(_mm256_srli_epi16::<6>(x), mask),
        ]
    }
}

/// Low and high nibbles of 32 bytes.
#[inline(always)]
unsafe fn two_nibbles(x: __m256i) -> [__m256i; 2] {
    // SAFETY: the CPU has AVX2.
    unsafe {
        let mask = _mm256_set1_epi8(15);
        [_mm256_and_si256(x, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(x), mask)]
    }
}

/// `value` in the bytes whose bit `bit` is set.
#[inline(always)]
unsafe fn where_bit(x: __m256i, bit: usize, value: i8) -> __m256i {
    // SAFETY: the CPU has AVX2.
    unsafe {
        let bit = _mm256_set1_epi8((1u8 << bit) as i8);
        let found = _mm256_cmpeq_epi8(_mm256_and_si256(x, bit), bit);
        _mm256_and_si256(found, _mm256_set1_epi8(value))
    }
}

/// A format of superblocks.
macro_rules! superblock {
    ($name:ident, |$block:ident, $out:ident| $fill:expr) => {
        impl Load for $name {
            #[inline(always)]
            unsafe fn load<D: Dot, const B: usize>($block: &[u8]) -> Loaded {
                // SAFETY: passed on.
                unsafe {
                    let mut $out = Loaded::none();
                    $fill;
                    $out
                }
            }
        }
    };
}

superblock!(Q2_K, |block, out| {
    let low = two_bits(load(part(block, 16)));
    let high = two_bits(load(part(block, 48)));
    out.codes = [low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]];
    let (pairs, mask) = (load_16(part(block, 0)), _mm_set1_epi8(15));
    out.scales = per_16(_mm_and_si128(pairs, mask));
    out.mins = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16::<4>(pairs), mask));
    out.d = half(block, 80);
    out.m = _mm256_xor_ps(half(block, 82), _mm256_set1_ps(-0.0));
});

superblock!(Q3_K, |block, out| {
    let high = load(part(block, 0));
    let low = [two_bits(load(part(block, 32))), two_bits(load(part(block, 64)))];
    for (b, codes) in out.codes.iter_mut().enumerate() {
        *codes = _mm256_or_si256(low[b / 4][b % 4], where_bit(high, b, 4));
    }
    let word = |at| u32::from_le_bytes(*part(block, at));
    let (a, b, c) = (word(96), word(100), word(104));
    let scale = |low: u32, top: u32| (low & 0x0f0f_0f0f | (top & 0x0303_0303) << 4) as i32;
    let scales =
        _mm_setr_epi32(scale(a, c), scale(b, c >> 2), scale(a >> 4, c >> 4), scale(b >> 4, c >> 6));
    let scales = _mm_sub_epi8(scales, _mm_set1_epi8(32));
    out.scales = per_16(scales);
    out.mins = _mm256_slli_epi16::<2>(_mm256_cvtepi8_epi16(scales));
    out.d = half(block, 108);
});

superblock!(Q4_K, |block, out| {
    for c in 0..4 {
        [out.codes[2 * c], out.codes[2 * c + 1]] = two_nibbles(load(part(block, 16 + 32 * c)));
    }
    (out.d, out.m) = six_bits(block);
});

superblock!(Q5_K, |block, out| {
    let high = load(part(block, 16));
    for c in 0..4 {
        let low = two_nibbles(load(part(block, 48 + 32 * c)));
        for (t, low) in low.into_iter().enumerate() {
            let b = 2 * c + t;
            out.codes[b] = _mm256_or_si256(low, where_bit(high, b, 16));
        }
    }
    (out.d, out.m) = six_bits(block);
});

superblock!(Q6_K, |block, out| {
    for h in 0..2 {
        let first = two_nibbles(load(part(block, 64 * h)));
        let second = two_nibbles(load(part(block, 64 * h + 32)));
        let high = two_bits(load(part(block, 128 + 32 * h)));
        let low = [first[0], second[0], first[1], second[1]];
        for j in 0..4 {
            out.codes[4 * h + j] = _mm256_or_si256(low[j], _mm256_slli_epi16::<4>(high[j]));
        }
    }
    let scales = load_16(part(block, 192));
    out.scales = per_16(scales);
    out.mins = _mm256_slli_epi16::<5>(_mm256_cvtepi8_epi16(scales));
    out.d = half(block, 208);
});

superblock!(IQ4_XS, |block, out| {
    for (b, codes) in out.codes.iter_mut().enumerate() {
        *codes = iq4_values(nibbles(part(block, 8 + 16 * b)));
    }
    // Scale b: nibble b of four bytes, and above it bits 2b and 2b + 1 of a 16-bit number.
    let low = _mm256_set1_epi32(i32::from_le_bytes(*part(block, 4)));
    let low = _mm256_srlv_epi32(low, _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
    let high = _mm256_set1_epi32(i32::from(u16::from_le_bytes(*part(block, 2))));
    let high = _mm256_srlv_epi32(high, _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
    let low = _mm256_and_si256(low, _mm256_set1_epi32(15));
    let high = _mm256_slli_epi32::<4>(_mm256_and_si256(high, _mm256_set1_epi32(3)));
    let scales = _mm256_sub_epi32(_mm256_or_si256(low, high), _mm256_set1_epi32(32));
    out.d = _mm256_mul_ps(half(block, 0), _mm256_cvtepi32_ps(scales));
});
