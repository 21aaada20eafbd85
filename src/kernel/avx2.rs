//! The AVX2 table. Products are written with intrinsics here and in `avx2/`; the other ops are the
//! bodies of `lanes`, compiled once more with AVX2 switched on.
//!
//! Every function needs AVX2 and F16C: `Kernels::available` gives the table out only where the CPU
//! has both. Lengths are checked by the safe face in `kernel.rs` before any of these runs.
#![allow(unsafe_code)]

mod blocks;
mod floats;
mod superblocks;

use std::arch::x86_64::*;

use pith_models::{Act, Pairing};

use super::{A8, AttendChunk, AttendState, Kernels, Matmul, Per, lanes, scalar};
use crate::{quant::Format, team::Tile};

/// The AVX2 table.
pub const TABLE: Kernels = Kernels {
    name: "avx2",
    matmul: {
        let mut matmul: [Matmul; Format::COUNT] = [floats::matmul::<floats::F32>; Format::COUNT];
        matmul[Format::F16.index()] = floats::matmul::<floats::F16>;
        matmul[Format::BF16.index()] = floats::matmul::<floats::BF16>;
        matmul[Format::Q4_0.index()] = blocks::matmul::<blocks::Q4_0>;
        matmul[Format::Q4_1.index()] = blocks::matmul::<blocks::Q4_1>;
        matmul[Format::Q5_0.index()] = blocks::matmul::<blocks::Q5_0>;
        matmul[Format::Q5_1.index()] = blocks::matmul::<blocks::Q5_1>;
        matmul[Format::Q8_0.index()] = blocks::matmul::<blocks::Q8_0>;
        matmul[Format::IQ4_NL.index()] = blocks::matmul::<blocks::IQ4_NL>;
        matmul[Format::Q2_K.index()] = superblocks::matmul::<superblocks::Q2_K>;
        matmul[Format::Q3_K.index()] = superblocks::matmul::<superblocks::Q3_K>;
        matmul[Format::Q4_K.index()] = superblocks::matmul::<superblocks::Q4_K>;
        matmul[Format::Q5_K.index()] = superblocks::matmul::<superblocks::Q5_K>;
        matmul[Format::Q6_K.index()] = superblocks::matmul::<superblocks::Q6_K>;
        matmul[Format::IQ4_XS.index()] = superblocks::matmul::<superblocks::IQ4_XS>;
        matmul
    },
    quantize,
    rms_norm,
    layer_norm,
    activate,
    gate,
    softcap,
    add,
    rope,
    to_f16,
    from_f16,
    attend,
};

/// A body of `lanes`, compiled with AVX2.
macro_rules! with_avx2 {
    ($($name:ident($($arg:ident: $type:ty),*);)*) => {$(
        #[target_feature(enable = "avx2,f16c")]
        fn $name($($arg: $type),*) {
            lanes::$name($($arg),*);
        }
    )*};
}

with_avx2! {
    quantize(per: Per, x: &[f32], out: &mut [A8]);
    rms_norm(x: &[f32], weight: Option<&[f32]>, eps: f32, out: &mut [f32]);
    layer_norm(x: &[f32], weight: Option<&[f32]>, bias: Option<&[f32]>, eps: f32, out: &mut [f32]);
    activate(act: Act, x: &mut [f32]);
    gate(act: Act, gate: &[f32], up: &[f32], out: &mut [f32]);
    softcap(x: &mut [f32], cap: f32);
    add(x: &mut [f32], y: &[f32]);
    rope(pairing: Pairing, head: &mut [f32], cos: &[f32], sin: &[f32]);
    attend(chunk: &AttendChunk<'_>, scores: &mut [f32], state: AttendState<'_>);
}

#[target_feature(enable = "avx2,f16c")]
fn to_f16(x: &[f32], out: &mut [u16]) {
    let (whole, rest) = x.as_chunks::<8>();
    let (whole_out, rest_out) = out.as_chunks_mut::<8>();
    for (x, out) in whole.iter().zip(whole_out) {
        // SAFETY: both arrays are 8 values long.
        unsafe {
            let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(x.as_ptr()));
            _mm_storeu_si128(out.as_mut_ptr().cast(), halves);
        }
    }
    // SAFETY: the scalar table needs no CPU feature.
    unsafe { (scalar::TABLE.to_f16)(rest, rest_out) }
}

#[target_feature(enable = "avx2,f16c")]
fn from_f16(x: &[u16], out: &mut [f32]) {
    let (whole, rest) = x.as_chunks::<8>();
    let (whole_out, rest_out) = out.as_chunks_mut::<8>();
    for (x, out) in whole.iter().zip(whole_out) {
        // SAFETY: both arrays are 8 values long.
        unsafe {
            let values = _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast()));
            _mm256_storeu_ps(out.as_mut_ptr(), values);
        }
    }
    // SAFETY: the scalar table needs no CPU feature.
    unsafe { (scalar::TABLE.from_f16)(rest, rest_out) }
}

/// 32 products of codes, summed in pairs: 16 sums of 16 bits. The left operand of the instruction
/// is unsigned, so signed weights lend their signs to the activations. |w| <= 128 and |y| <= 127
/// keep a pair below 2^15: no saturation.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn pairs<const SIGNED: bool>(w: __m256i, y: __m256i) -> __m256i {
    if SIGNED {
        _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(y, w))
    } else {
        _mm256_maddubs_epi16(w, y)
    }
}

/// Low nibbles of 16 bytes, then their high nibbles.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn nibbles(bytes: &[u8; 16]) -> __m256i {
    // SAFETY: 16 bytes are there.
    let x = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
    let both = _mm256_srlv_epi64(_mm256_broadcastsi128_si256(x), _mm256_setr_epi64x(0, 0, 4, 4));
    _mm256_and_si256(both, _mm256_set1_epi8(15))
}

/// Values of the non-linear 4-bit formats for 32 nibbles.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn iq4_values(nibbles: __m256i) -> __m256i {
    // SAFETY: the table is 16 bytes long.
    let table = unsafe { _mm_loadu_si128(scalar::IQ4_VALUES.as_ptr().cast()) };
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), nibbles)
}

/// 32 bytes.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: 32 bytes are there.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// Codes 32b..32b + 32 of a group of activations.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn codes(group: &A8, b: usize) -> __m256i {
    let (blocks, _) = group.codes.as_chunks::<32>();
    // SAFETY: a block is 32 bytes, and `A8` is aligned to 32.
    unsafe { _mm256_load_si256(blocks[b].as_ptr().cast()) }
}

/// Runs `pass::<N>(first token)` over all tokens of a tile, eight at a time while there are so
/// many: a weight that is unpacked once serves N tokens.
macro_rules! by_tokens {
    ($n:expr, $pass:ident::<$format:ty>($($arg:expr),*)) => {{
        let (n, mut t) = ($n, 0);
        while t < n {
            match n - t {
                8.. => { $pass::<$format, 8>($($arg,)* t); t += 8; }
                4.. => { $pass::<$format, 4>($($arg,)* t); t += 4; }
                2.. => { $pass::<$format, 2>($($arg,)* t); t += 2; }
                _ => { $pass::<$format, 1>($($arg,)* t); t += 1; }
            }
        }
    }};
}
use by_tokens;

/// The groups of N tokens' rows from token `t` on.
#[inline]
fn token_rows<const N: usize>(x: &[A8], n_groups: usize, t: usize) -> [&[A8]; N] {
    std::array::from_fn(|i| &x[(t + i) * n_groups..][..n_groups])
}

/// Stores the products of row `r` with N tokens from `t` on.
#[inline]
fn store<const N: usize>(out: &mut Tile<'_, f32>, t: usize, r: usize, values: [f32; N]) {
    for (i, value) in values.into_iter().enumerate() {
        out.row_mut(t + i)[r] = value;
    }
}
