//! Products with unquantized weights: one vector is the contract's 16 lanes.

use std::arch::x86_64::*;

pub use super::super::floats::{BF16, F16, F32};
use super::super::{
    Input,
    floats::{self, Float, Kind, Vector},
    lanes::LANES,
    panels::Pack,
};
use crate::team::Tile;

/// Sixteen f32.
struct Zmm;

impl Vector for Zmm {
    type V = __m512;
    const WIDTH: usize = 16;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: by the trait's contract.
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(at: *const f32) -> __m512 {
        // SAFETY: by the trait's contract.
        unsafe { _mm512_loadu_ps(at) }
    }
    #[inline(always)]
    unsafe fn store(x: __m512, at: *mut f32) {
        // SAFETY: by the trait's contract.
        unsafe { _mm512_storeu_ps(at, x) }
    }
    #[inline(always)]
    unsafe fn widen<F: Float>(w: *const u8) -> __m512 {
        // SAFETY: by the trait's contract.
        unsafe {
            match F::KIND {
                Kind::F32 => _mm512_loadu_ps(w.cast()),
                Kind::F16 => _mm512_cvtph_ps(_mm256_loadu_si256(w.cast())),
                Kind::BF16 => {
                    let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(w.cast()));
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn plus_product(sum: __m512, w: __m512, x: __m512) -> __m512 {
        // SAFETY: by the trait's contract.
        unsafe { _mm512_add_ps(sum, _mm512_mul_ps(w, x)) }
    }
    #[inline(always)]
    unsafe fn totals(sums: &[[f32; LANES]; 4]) -> [f32; 4] {
        // SAFETY: by the trait's contract; a sum is one vector long, the result a vector of four.
        unsafe {
            let [a, b, c, d] = sums;
            let (a, b) = (_mm512_loadu_ps(a.as_ptr()), _mm512_loadu_ps(b.as_ptr()));
            let (c, d) = (_mm512_loadu_ps(c.as_ptr()), _mm512_loadu_ps(d.as_ptr()));
            // Sums of eights: a a | b b and c c | d d; of fours: a | b | c | d.
            let ab = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b),
                _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b),
            );
            let cd = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b01_00_01_00>(c, d),
                _mm512_shuffle_f32x4::<0b11_10_11_10>(c, d),
            );
            let fours = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd),
            );
            let pairs = _mm512_add_ps(fours, _mm512_permute_ps::<0b11_10_11_10>(fours));
            let ones = _mm512_add_ps(pairs, _mm512_movehdup_ps(pairs));
            let at = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
            let ones = _mm512_castps512_ps128(_mm512_permutexvar_ps(at, ones));
            let mut totals = [0.0; 4];
            _mm_storeu_ps(totals.as_mut_ptr(), ones);
            totals
        }
    }
}

/// Products of all rows of `w` with all tokens of the tile.
///
/// # Safety
/// The lengths are as `Kernels::matmul` checks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,f16c")]
pub unsafe fn matmul<F: Float>(
    w: &[u8],
    n_in: usize,
    x: Input<'_>,
    _: &mut [Pack],
    out: &mut Tile<'_, f32>,
) {
    // SAFETY: this function has the instruction set; lengths by its contract.
    unsafe { floats::matmul::<Zmm, F, 1, 4>(w, n_in, x, out) }
}
