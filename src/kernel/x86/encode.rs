//! Blocks of 32 weights encoded in 256-bit registers, for two formats that are written often: of their plain
//! loops LLVM makes what takes three to four times as long. The bytes are those of [`quant`]'s encoders, which
//! do what is odd: zeros, NaN, scales far from 1.

use std::{arch::x86_64::*, ops::Range};

use crate::quant;

/// The bits of magnitudes whose scale and its inverse are normal numbers: 2^-100 to 2^100.
const EVEN: Range<i32> = (127 - 100) << 23..(127 + 100) << 23;
/// The order of fours of bytes that packing two and two registers has mixed up.
const IN_ORDER: [i32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// As [`quant::encode_q8_0`], block by block.
#[target_feature(enable = "avx2,f16c")]
pub fn q8_0(values: &[f32], out: &mut [u8]) {
    let blocks = values.as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<34>().0);
    for (values, block) in blocks {
        let x = load(values);
        let bits = most(&x);
        if !EVEN.contains(&bits) {
            quant::encode_q8_0(values, block);
            continue;
        }
        let d = f32::from_bits(bits as u32) / 127.0;
        let id = _mm256_set1_ps(1.0 / d);
        // Half away from zero: the largest number below a half is added to the magnitude, the rest cut off.
        let (sign, half) = (_mm256_set1_ps(-0.0), _mm256_set1_ps(0.5f32.next_down()));
        let codes = pack(x.map(|x| {
            let y = _mm256_mul_ps(x, id);
            _mm256_cvttps_epi32(_mm256_add_ps(y, _mm256_or_ps(half, _mm256_and_ps(y, sign))))
        }));
        block[..2].copy_from_slice(&f16(d));
        // SAFETY: 32 of the block's 34 bytes.
        unsafe { _mm256_storeu_si256(block[2..].as_mut_ptr().cast(), codes) }
    }
}

/// As [`quant::encode_q4_0`], block by block.
#[target_feature(enable = "avx2,f16c")]
pub fn q4_0(values: &[f32], out: &mut [u8]) {
    let blocks = values.as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<18>().0);
    for (values, block) in blocks {
        let x = load(values);
        let bits = most(&x);
        let amax = f32::from_bits(bits as u32);
        let is_there = |value: f32| {
            let same = x.map(|x| _mm256_cmp_ps::<_CMP_EQ_OQ>(x, _mm256_set1_ps(value)));
            let [a, b, c, d] = same;
            _mm256_movemask_ps(_mm256_or_ps(_mm256_or_ps(a, b), _mm256_or_ps(c, d))) != 0
        };
        let (up, down) = (is_there(amax), is_there(-amax));
        // Of both signs, the first counts.
        if !EVEN.contains(&bits) || up == down {
            quant::encode_q4_0(values, block);
            continue;
        }
        let d = if up { amax } else { -amax } / -8.0;
        let (id, to_nearest) = (_mm256_set1_ps(1.0 / d), _mm256_set1_ps(8.5));
        let codes = pack(x.map(|x| {
            let steps = _mm256_add_ps(_mm256_mul_ps(x, id), to_nearest);
            _mm256_min_epi32(_mm256_cvttps_epi32(steps), _mm256_set1_epi32(15))
        }));
        let high = _mm_slli_epi16::<4>(_mm256_extracti128_si256::<1>(codes));
        let nibbles = _mm_or_si128(_mm256_castsi256_si128(codes), high);
        block[..2].copy_from_slice(&f16(d));
        // SAFETY: 16 of the block's 18 bytes.
        unsafe { _mm_storeu_si128(block[2..].as_mut_ptr().cast(), nibbles) }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(x: &[f32; 32]) -> [__m256; 4] {
    // SAFETY: 32 numbers.
    std::array::from_fn(|i| unsafe { _mm256_loadu_ps(x[8 * i..].as_ptr()) })
}

/// The bits of the largest magnitude. As integers they are in the order of the numbers, and NaN above all.
#[inline]
#[target_feature(enable = "avx2")]
fn most(x: &[__m256; 4]) -> i32 {
    let magnitude = _mm256_set1_epi32(i32::MAX);
    let [a, b, c, d] = x.map(|x| _mm256_and_si256(_mm256_castps_si256(x), magnitude));
    let most = _mm256_max_epi32(_mm256_max_epi32(a, b), _mm256_max_epi32(c, d));
    let most = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256::<1>(most));
    let most = _mm_max_epi32(most, _mm_shuffle_epi32::<0b01_00_11_10>(most));
    _mm_cvtsi128_si32(_mm_max_epi32(most, _mm_shuffle_epi32::<0b10_11_00_01>(most)))
}

/// Integers of one byte as bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn pack([a, b, c, d]: [__m256i; 4]) -> __m256i {
    let mixed = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
    // SAFETY: eight integers.
    let in_order = unsafe { _mm256_loadu_si256(IN_ORDER.as_ptr().cast()) };
    _mm256_permutevar8x32_epi32(mixed, in_order)
}

/// A scale as it is stored.
#[inline]
#[target_feature(enable = "f16c")]
fn f16(d: f32) -> [u8; 2] {
    let half = _mm_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm_set_ss(d));
    (_mm_extract_epi16::<0>(half) as u16).to_le_bytes()
}
