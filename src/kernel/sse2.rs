//! The SSE2 table, for any x86-64: products of 16-bit numbers, which every format's codes and the
//! activations are widened to. The other ops are the scalar table's, whose loops LLVM compiles for
//! SSE2 by itself.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{
    Kernels,
    acts::PANEL,
    narrow::{Narrow, products},
    panels::Vector,
    scalar,
    tables::{all_products, over_floats},
    unpack::{Class, half},
    vector::Floats,
};

/// The SSE2 table.
pub const TABLE: Kernels =
    Kernels { name: "sse2", matmul: all_products!(), from_f16, widen, attend, ..scalar::TABLE };

products!("sse2", Xmm, (4, 1, 4));

over_floats!("sse2", Xmm, (2, 2), (2, 2));

fn from_f16(x: &[u16], out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = half(*x);
    }
}

/// Four tokens, or four blocks of one token.
struct Xmm;

/// Sixteen bytes as 16-bit numbers.
#[inline(always)]
unsafe fn wide(bytes: __m128i) -> [__m128i; 2] {
    // SAFETY: every x86-64 CPU has SSE2.
    unsafe {
        [
            _mm_srai_epi16::<8>(_mm_unpacklo_epi8(bytes, bytes)),
            _mm_srai_epi16::<8>(_mm_unpackhi_epi8(bytes, bytes)),
        ]
    }
}

/// Sums of neighbouring lanes.
#[inline(always)]
unsafe fn neighbours(low: __m128i, high: __m128i) -> __m128i {
    // SAFETY: every x86-64 CPU has SSE2.
    unsafe {
        let (low, high) = (_mm_castsi128_ps(low), _mm_castsi128_ps(high));
        let even = _mm_castps_si128(_mm_shuffle_ps::<0x88>(low, high));
        _mm_add_epi32(even, _mm_castps_si128(_mm_shuffle_ps::<0xdd>(low, high)))
    }
}

impl Floats for Xmm {
    const LANES: usize = 4;
    type Float = __m128;

    #[inline(always)]
    unsafe fn zero() -> __m128 {
        // SAFETY: by the trait's contract.
        unsafe { _mm_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m128 {
        // SAFETY: by the trait's contract.
        unsafe { _mm_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn widen(from: *const u16) -> __m128 {
        // As `unpack::half`.
        // SAFETY: by the trait's contract four numbers are there.
        unsafe {
            let x = _mm_unpacklo_epi16(_mm_loadl_epi64(from.cast()), _mm_setzero_si128());
            let sign = _mm_slli_epi32::<16>(_mm_and_si128(x, _mm_set1_epi32(0x8000)));
            let rest = _mm_slli_epi32::<13>(_mm_and_si128(x, _mm_set1_epi32(0x7fff)));
            let finite =
                _mm_mul_ps(_mm_castsi128_ps(rest), _mm_set1_ps(f32::from_bits((127 + 112) << 23)));
            let is_not = _mm_cmpgt_epi32(rest, _mm_set1_epi32((0x7c00 << 13) - 1));
            let magnitude = _mm_or_si128(
                _mm_castps_si128(finite),
                _mm_and_si128(is_not, _mm_set1_epi32(0x7f80_0000)),
            );
            _mm_castsi128_ps(_mm_or_si128(magnitude, sign))
        }
    }
    #[inline(always)]
    unsafe fn upper(from: *const u16) -> __m128 {
        // SAFETY: by the trait's contract four numbers are there.
        unsafe {
            let halves = _mm_loadl_epi64(from.cast());
            _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), halves))
        }
    }
    #[inline(always)]
    unsafe fn widen_codes(from: *const i8) -> __m128 {
        // SAFETY: by the trait's contract four codes are there.
        unsafe {
            // Each code becomes the highest byte of a lane.
            let codes = _mm_cvtsi32_si128(from.cast::<i32>().read_unaligned());
            let zero = _mm_setzero_si128();
            let high = _mm_unpacklo_epi16(zero, _mm_unpacklo_epi8(zero, codes));
            _mm_cvtepi32_ps(_mm_srai_epi32::<24>(high))
        }
    }
    #[inline(always)]
    unsafe fn store(x: __m128, to: *mut f32) {
        // SAFETY: by the trait's contract.
        unsafe { _mm_storeu_ps(to, x) }
    }
    #[inline(always)]
    unsafe fn all(x: f32) -> __m128 {
        // SAFETY: by the trait's contract.
        unsafe { _mm_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m128, b: __m128) -> __m128 {
        // SAFETY: by the trait's contract.
        unsafe { _mm_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn add(a: __m128, b: __m128) -> __m128 {
        // SAFETY: by the trait's contract.
        unsafe { _mm_add_ps(a, b) }
    }
}

impl Vector for Xmm {
    const UNSIGNED: bool = false;
    type Int = __m128i;

    #[inline(always)]
    unsafe fn products<K: Class, const N: usize, const R: usize, const C: usize>(
        sums: &mut [[__m128i; C]; R],
        w: [*const i8; R],
        y: [*const [i8; 4]; C],
    ) {
        const { assert!(N.is_multiple_of(2)) };
        // SAFETY: N fours of codes, and N vectors of tokens, are there by the trait's contract.
        unsafe {
            // Two sums of two products for each token.
            let mut twos = [[[_mm_setzero_si128(); 2]; C]; R];
            for k in (0..N).step_by(2) {
                let mut codes = [[[_mm_setzero_si128(); 2]; 2]; C];
                for (codes, y) in codes.iter_mut().zip(y) {
                    for (i, codes) in codes.iter_mut().enumerate() {
                        *codes = wide(_mm_loadu_si128(y.add(PANEL * (k + i)).cast()));
                    }
                }
                for (twos, w) in twos.iter_mut().zip(w) {
                    let [w, _] = wide(_mm_loadl_epi64(w.add(4 * k).cast()));
                    let w = [_mm_unpacklo_epi64(w, w), _mm_unpackhi_epi64(w, w)];
                    for (twos, codes) in twos.iter_mut().zip(codes) {
                        for (w, y) in w.into_iter().zip(codes) {
                            twos[0] = _mm_add_epi32(twos[0], _mm_madd_epi16(w, y[0]));
                            twos[1] = _mm_add_epi32(twos[1], _mm_madd_epi16(w, y[1]));
                        }
                    }
                }
            }
            for (sums, twos) in sums.iter_mut().zip(twos) {
                for (sum, [low, high]) in sums.iter_mut().zip(twos) {
                    *sum = _mm_add_epi32(*sum, neighbours(low, high));
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn pairs(sums: *const [i16; 2], [a, b]: [i16; 2]) -> __m128i {
        let factors = i32::from(b) << 16 | i32::from(a as u16);
        // SAFETY: by the trait's contract.
        unsafe { _mm_madd_epi16(_mm_loadu_si128(sums.cast()), _mm_set1_epi32(factors)) }
    }
    #[inline(always)]
    unsafe fn none() -> __m128i {
        // SAFETY: by the trait's contract.
        unsafe { _mm_setzero_si128() }
    }
    #[inline(always)]
    unsafe fn float(x: __m128i) -> __m128 {
        // SAFETY: by the trait's contract.
        unsafe { _mm_cvtepi32_ps(x) }
    }
}

impl Narrow for Xmm {
    #[inline(always)]
    unsafe fn scaled(x: __m128i, factor: i16) -> __m128i {
        // SAFETY: by the trait's contract.
        unsafe {
            // SSE2 multiplies every other lane, and the low half of a product has no sign.
            let factor = _mm_set1_epi32(factor.into());
            let even = _mm_mul_epu32(x, factor);
            let odd = _mm_mul_epu32(_mm_srli_epi64::<32>(x), factor);
            let low = _mm_shuffle_epi32::<0b00_00_10_00>(even);
            _mm_unpacklo_epi32(low, _mm_shuffle_epi32::<0b00_00_10_00>(odd))
        }
    }
    #[inline(always)]
    unsafe fn plus(a: __m128i, b: __m128i) -> __m128i {
        // SAFETY: by the trait's contract.
        unsafe { _mm_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn dot<K: Class, const N: usize>(w: *const i8, y: *const i8) -> __m128i {
        // SAFETY: N times 16 codes are there by the trait's contract.
        unsafe {
            let mut sum = _mm_setzero_si128();
            for i in 0..N {
                let w = wide(_mm_loadu_si128(w.add(16 * i).cast()));
                let y = wide(_mm_loadu_si128(y.add(16 * i).cast()));
                for (w, y) in w.into_iter().zip(y) {
                    sum = _mm_add_epi32(sum, _mm_madd_epi16(w, y));
                }
            }
            sum
        }
    }
    #[inline(always)]
    unsafe fn across([a, b, c, d]: [__m128i; 4]) -> __m128i {
        // SAFETY: by the trait's contract.
        unsafe { neighbours(neighbours(a, b), neighbours(c, d)) }
    }
    #[inline(always)]
    unsafe fn pairs_by_pairs(sums: *const [i16; 2], factors: *const [i16; 2]) -> __m128i {
        // SAFETY: by the trait's contract.
        unsafe { _mm_madd_epi16(_mm_loadu_si128(sums.cast()), _mm_loadu_si128(factors.cast())) }
    }
}
