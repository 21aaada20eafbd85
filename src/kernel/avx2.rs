//! The AVX2 table. Products are those of `x86/`, the other ops bodies that all tables share.
//!
//! Every function needs AVX2 and F16C: `Kernels::available` gives the table out only where the CPU
//! has both. Lengths are checked by the safe face in `kernel.rs` before any of these runs.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{
    Encoders, Kernels,
    panels::multiply,
    scalar,
    tables::{all_products, over_floats, over_lanes},
    x86::{dot::Avx2, encode, products, quantize, rows, ymm::Ymm},
};
use crate::quant::{self, Format};

/// The AVX2 table.
pub const TABLE: Kernels = Kernels {
    name: "avx2",
    max_rows: 4,
    matmul: all_products!(),
    quantize: quantize::quantize,
    quantize_panel: quantize::quantize_panel,
    rms_norm,
    layer_norm,
    activate,
    gate,
    softcap,
    add,
    rope,
    squares,
    to_f16,
    from_f16,
    widen,
    attend,
    merge,
    softmax,
    encoders: Encoders::Avx2,
};

/// Whether this CPU has what the table needs.
pub fn is_here() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c")
}

products!(
    "avx2,f16c",
    Avx2,
    rows::Load,
    |w, n_in, x, out, t| rows::multiply::<F, Avx2, 4>(w, n_in, x, out, t),
    |strip, panels, n, out| multiply::<Ymm<Avx2>, K, 2, 2, 4>(strip, panels, n, out)
);

over_floats!("avx2,f16c", Ymm<Avx2>, (2, 2), (2, 2));
over_lanes!("avx2,f16c");

/// As [`Format::encode`], with lengths already checked.
///
/// Vectors of eight are the sub-blocks of a superblock: wider ones, which LLVM makes by shuffling two
/// sums into one register, are slower.
#[target_feature(enable = "avx2,f16c")]
pub fn encode(format: Format, values: &[f32], out: &mut [u8]) {
    match format {
        Format::Q8_0 => encode::q8_0(values, out),
        Format::Q4_0 => encode::q4_0(values, out),
        _ => quant::encode(format, values, out),
    }
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
