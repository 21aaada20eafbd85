//! Products with unquantized weights: two vectors make the contract's 16 lanes.

use std::arch::x86_64::*;

pub use super::super::floats::{BF16, F16, F32};
use super::super::{
    Input,
    floats::{self, Float, Kind, Vector},
    lanes::LANES,
    panels::Pack,
};
use crate::team::Tile;

/// Eight f32.
struct Ymm;

impl Vector for Ymm {
    type V = __m256;
    const WIDTH: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        // SAFETY: by the trait's contract.
        unsafe { _mm256_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(at: *const f32) -> __m256 {
        // SAFETY: by the trait's contract.
        unsafe { _mm256_loadu_ps(at) }
    }
    #[inline(always)]
    unsafe fn store(x: __m256, at: *mut f32) {
        // SAFETY: by the trait's contract.
        unsafe { _mm256_storeu_ps(at, x) }
    }
    #[inline(always)]
    unsafe fn widen<F: Float>(w: *const u8) -> __m256 {
        // SAFETY: by the trait's contract.
        unsafe {
            match F::KIND {
                Kind::F32 => _mm256_loadu_ps(w.cast()),
                Kind::F16 => _mm256_cvtph_ps(_mm_loadu_si128(w.cast())),
                Kind::BF16 => {
                    let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(w.cast()));
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn plus_product(sum: __m256, w: __m256, x: __m256) -> __m256 {
        // SAFETY: by the trait's contract.
        unsafe { _mm256_add_ps(sum, _mm256_mul_ps(w, x)) }
    }
    #[inline(always)]
    unsafe fn totals(sums: &[[f32; LANES]; 4]) -> [f32; 4] {
        // SAFETY: by the trait's contract; a sum is two vectors long, the result one of four.
        unsafe {
            let mut eights = [_mm256_setzero_ps(); 4];
            for (eight, sum) in eights.iter_mut().zip(sums) {
                let at = sum.as_ptr();
                *eight = _mm256_add_ps(_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8)));
            }
            let [a, b, c, d] = eights;
            // Sums of fours: a | c, b | d; of pairs: a a b b | c c d d.
            let ac = _mm256_add_ps(
                _mm256_permute2f128_ps::<0x20>(a, c),
                _mm256_permute2f128_ps::<0x31>(a, c),
            );
            let bd = _mm256_add_ps(
                _mm256_permute2f128_ps::<0x20>(b, d),
                _mm256_permute2f128_ps::<0x31>(b, d),
            );
            let pairs = _mm256_add_ps(
                _mm256_shuffle_ps::<0b01_00_01_00>(ac, bd),
                _mm256_shuffle_ps::<0b11_10_11_10>(ac, bd),
            );
            let ones = _mm256_add_ps(pairs, _mm256_movehdup_ps(pairs));
            let (ab, cd) = (_mm256_castps256_ps128(ones), _mm256_extractf128_ps::<1>(ones));
            let mut totals = [0.0; 4];
            _mm_storeu_ps(totals.as_mut_ptr(), _mm_shuffle_ps::<0b10_00_10_00>(ab, cd));
            totals
        }
    }
}

/// Products of all rows of `w` with all tokens of the tile.
///
/// # Safety
/// The lengths are as `Kernels::matmul` checks.
#[target_feature(enable = "avx2,f16c")]
pub unsafe fn matmul<F: Float>(
    w: &[u8],
    n_in: usize,
    x: Input<'_>,
    _: &mut [Pack],
    out: &mut Tile<'_, f32>,
) {
    // SAFETY: this function has the instruction set; lengths by its contract.
    unsafe { floats::matmul::<Ymm, F, 2, 2>(w, n_in, x, out) }
}
