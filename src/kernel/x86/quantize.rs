//! Quantization of activations in 256-bit registers; `acts` states what comes out.

use std::arch::x86_64::*;

use super::{
    super::acts::{A8, PANEL, Panel},
    transpose_8,
};

/// 32 activations quantized.
struct Block {
    codes: __m256i,
    /// Of each half.
    sums: [i16; 2],
    scale: f32,
}

/// As [`super::super::acts::quantize`].
#[target_feature(enable = "avx2")]
pub fn quantize(x: &[f32], out: &mut [A8]) {
    for (group, x) in out.iter_mut().zip(x.chunks(256)) {
        *group = A8::ZERO;
        for (b, x) in x.chunks(32).enumerate() {
            let block = block(&whole(x));
            let to = group.codes[32 * b..].first_chunk_mut::<32>().expect("at most 8 blocks");
            // SAFETY: 32 bytes.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), block.codes) };
            group.sums[2 * b..][..2].copy_from_slice(&block.sums);
            group.scales[b] = block.scale;
        }
    }
}

/// As [`super::super::acts::quantize_panel`].
#[target_feature(enable = "avx2")]
pub fn quantize_panel(x: &[f32], n_in: usize, first: usize, out: &mut [Panel]) {
    let mut fours = [_mm256_setzero_si256(); PANEL];
    for (g, panel) in (first..).zip(out) {
        let n_blocks = (n_in - 256 * g).div_ceil(32).min(8);
        if n_blocks < 8 || x.len() < PANEL * n_in {
            *panel = Panel::ZERO;
        }
        for b in 0..n_blocks {
            let span = 256 * g + 32 * b..(256 * g + 32 * (b + 1)).min(n_in);
            for (t, row) in x.chunks_exact(n_in).enumerate() {
                let block = block(&whole(&row[span.clone()]));
                fours[t] = block.codes;
                panel.sums[b][t] = block.sums;
                panel.scales[b][t] = block.scale;
            }
            lay_out(&fours, panel, b);
        }
    }
}

/// Fours of block `b`, which lie one after another in each token, one token beside another.
#[inline]
#[target_feature(enable = "avx2")]
fn lay_out(tokens: &[__m256i; PANEL], panel: &mut Panel, b: usize) {
    for (half, tokens) in tokens.as_chunks::<8>().0.iter().enumerate() {
        // SAFETY: this function has AVX2.
        let fours = unsafe { transpose_8(tokens.map(|x| _mm256_castsi256_ps(x))) };
        for (k, fours) in fours.into_iter().enumerate() {
            let to = panel.codes[8 * b + k][8 * half..].first_chunk_mut::<8>().expect("16 tokens");
            // SAFETY: eight times four bytes.
            unsafe { _mm256_storeu_ps(to.as_mut_ptr().cast(), fours) };
        }
    }
}

/// A block, with zeros where the row has ended.
#[inline(always)]
fn whole(x: &[f32]) -> [f32; 32] {
    x.first_chunk().copied().unwrap_or_else(|| {
        let mut block = [0.0; 32];
        block[..x.len()].copy_from_slice(x);
        block
    })
}

#[inline]
#[target_feature(enable = "avx2")]
fn block(x: &[f32; 32]) -> Block {
    // SAFETY: 32 numbers.
    let x: [__m256; 4] = std::array::from_fn(|i| unsafe { _mm256_loadu_ps(x[8 * i..].as_ptr()) });
    let abs = |x| _mm256_andnot_ps(_mm256_set1_ps(-0.0), x);
    // The instruction gives its second operand where one is NaN.
    let zero = _mm256_setzero_ps();
    let most = [0, 2].map(|i| _mm256_max_ps(abs(x[i + 1]), _mm256_max_ps(abs(x[i]), zero)));
    let most = _mm256_max_ps(most[0], most[1]);
    let most = _mm_max_ps(_mm256_castps256_ps128(most), _mm256_extractf128_ps::<1>(most));
    let most = _mm_max_ps(most, _mm_movehl_ps(most, most));
    let amax = _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most)));
    let id = 127.0 / amax;
    if !id.is_finite() {
        return Block { codes: _mm256_setzero_si256(), sums: [0; 2], scale: 0.0 };
    }
    let id = _mm256_set1_ps(id);
    let code = |x| {
        let y = _mm256_mul_ps(x, id);
        let y = _mm256_and_ps(y, _mm256_cmp_ps::<_CMP_ORD_Q>(y, y)); // NaN counts as 0
        let y = _mm256_max_ps(_mm256_set1_ps(-127.0), _mm256_min_ps(_mm256_set1_ps(127.0), y));
        _mm256_cvtps_epi32(y) // to nearest even
    };
    let low = _mm256_packs_epi32(code(x[0]), code(x[1]));
    let high = _mm256_packs_epi32(code(x[2]), code(x[3]));
    let in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let codes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), in_order);
    Block { codes, sums: sums(codes), scale: amax / 127.0 }
}

/// Sums of both halves.
#[inline]
#[target_feature(enable = "avx2")]
fn sums(codes: __m256i) -> [i16; 2] {
    // Sums of eight bytes have no sign: 128 more each.
    let more = _mm256_xor_si256(codes, _mm256_set1_epi8(i8::MIN));
    let eights = _mm256_sad_epu8(more, _mm256_setzero_si256());
    let halves = _mm256_add_epi64(eights, _mm256_shuffle_epi32::<0b01_00_11_10>(eights));
    let halves = _mm256_sub_epi64(halves, _mm256_set1_epi64x(16 * 128));
    [_mm256_extract_epi16::<0>(halves) as i16, _mm256_extract_epi16::<8>(halves) as i16]
}
