//! Products with unquantized weights: two vectors are the contract's 16 lanes. Several rows and
//! tokens at once, since one sum alone would wait for each addition.

use std::arch::x86_64::*;

use super::super::{Group, Input, lanes};
use crate::team::Tile;

/// How eight weights are widened to f32.
pub trait Float {
    /// Bytes of a weight.
    const BYTES: usize;
    /// Eight weights.
    ///
    /// # Safety
    /// The CPU has AVX2 and F16C; eight weights are at `at`.
    unsafe fn load(at: *const u8) -> __m256;
    /// One weight.
    fn one(bytes: &[u8]) -> f32;
}

/// f32 weights.
pub struct F32;
impl Float for F32 {
    const BYTES: usize = 4;
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(at: *const u8) -> __m256 {
        // SAFETY: by the trait's contract 32 bytes are there.
        unsafe { _mm256_loadu_ps(at.cast()) }
    }
    fn one(bytes: &[u8]) -> f32 {
        f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

/// binary16 weights.
pub struct F16;
impl Float for F16 {
    const BYTES: usize = 2;
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(at: *const u8) -> __m256 {
        // SAFETY: by the trait's contract 16 bytes are there.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(at.cast()) })
    }
    fn one(bytes: &[u8]) -> f32 {
        half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
    }
}

/// bfloat16 weights.
pub struct BF16;
impl Float for BF16 {
    const BYTES: usize = 2;
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(at: *const u8) -> __m256 {
        // SAFETY: by the trait's contract 16 bytes are there.
        let wide = _mm256_cvtepu16_epi32(unsafe { _mm_loadu_si128(at.cast()) });
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
    }
    fn one(bytes: &[u8]) -> f32 {
        half::bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
    }
}

/// Products of all rows of `w` with all tokens of the tile.
#[target_feature(enable = "avx2,f16c")]
pub fn matmul<F: Float>(
    w: &[u8],
    n_in: usize,
    x: Input<'_>,
    _: &mut [Group],
    out: &mut Tile<'_, f32>,
) {
    let Input::F32(x) = x else { unreachable!("Kernels::matmul checks the kind") };
    let (n_tokens, n_rows) = (out.n_rows(), out.n_cols());
    let mut t = 0;
    while t < n_tokens {
        if n_tokens - t >= 3 {
            by_rows::<F, 2, 3>(w, n_in, x, out, (n_rows, t));
            t += 3;
        } else {
            by_rows::<F, 4, 1>(w, n_in, x, out, (n_rows, t));
            t += 1;
        }
    }
}

/// All rows, R at a time, with N tokens from `t` on.
#[target_feature(enable = "avx2,f16c")]
fn by_rows<F: Float, const R: usize, const N: usize>(
    w: &[u8],
    n_in: usize,
    x: &[f32],
    out: &mut Tile<'_, f32>,
    (n_rows, t): (usize, usize),
) {
    let x: [&[f32]; N] = std::array::from_fn(|i| &x[(t + i) * n_in..][..n_in]);
    let row = |r: usize| &w[r * n_in * F::BYTES..][..n_in * F::BYTES];
    let whole = n_rows - n_rows % R;
    for r in (0..whole).step_by(R) {
        let sums = tile::<F, R, N>(std::array::from_fn(|i| row(r + i)), x);
        for (i, sums) in sums.into_iter().enumerate() {
            super::store(out, t, r + i, sums);
        }
    }
    for r in whole..n_rows {
        let [sums] = tile::<F, 1, N>([row(r)], x);
        super::store(out, t, r, sums);
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn tile<F: Float, const R: usize, const N: usize>(w: [&[u8]; R], x: [&[f32]; N]) -> [[f32; N]; R] {
    let n_in = x[0].len();
    assert!(x.iter().all(|x| x.len() == n_in) && w.iter().all(|w| w.len() == n_in * F::BYTES));
    let mut sums = [[[_mm256_setzero_ps(); 2]; N]; R];
    let whole = n_in / 16 * 16;
    for k in (0..whole).step_by(16) {
        for half in 0..2 {
            let at = k + 8 * half;
            // Loops and no closures: a closure passed to a function of the standard library isn't
            // inlined there, since that function lacks these target features.
            let mut y = [_mm256_setzero_ps(); N];
            for (y, x) in y.iter_mut().zip(x) {
                // SAFETY: at + 8 <= n_in, the row's length by the assertion above.
                *y = unsafe { _mm256_loadu_ps(x.as_ptr().add(at)) };
            }
            for (sums, w) in sums.iter_mut().zip(w) {
                // SAFETY: this function has the same features; at + 8 <= n_in as above.
                let w = unsafe { F::load(w.as_ptr().add(at * F::BYTES)) };
                for (sums, y) in sums.iter_mut().zip(y) {
                    sums[half] = _mm256_add_ps(sums[half], _mm256_mul_ps(w, y));
                }
            }
        }
    }
    let mut totals = [[0.0; N]; R];
    for r in 0..R {
        for i in 0..N {
            let mut l = [0.0; lanes::LANES];
            // SAFETY: 16 lanes are there.
            unsafe {
                _mm256_storeu_ps(l.as_mut_ptr(), sums[r][i][0]);
                _mm256_storeu_ps(l[8..].as_mut_ptr(), sums[r][i][1]);
            }
            for k in whole..n_in {
                l[k % 16] += F::one(&w[r][k * F::BYTES..]) * x[i][k];
            }
            totals[r][i] = lanes::combine(l);
        }
    }
    totals
}
