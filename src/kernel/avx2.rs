//! The AVX2 table. Products are written with intrinsics here and in `avx2/`; the other ops are the
//! bodies of `lanes`, compiled once more with AVX2 switched on.
//!
//! Every function needs AVX2 and F16C: `Kernels::available` gives the table out only where the CPU
//! has both. Lengths are checked by the safe face in `kernel.rs` before any of these runs.
#![allow(unsafe_code)]

mod floats;

use std::arch::x86_64::*;

use pith_models::{Act, Pairing};

use super::{
    Chunk, Kernels, Matmul, Query, Results, Softmax, attend, lanes, logits,
    panels::multiply,
    scalar,
    x86::{dot::Avx2, overlay, products, quantize, ymm::Ymm},
};
use crate::quant::Format;

/// The AVX2 table.
pub const TABLE: Kernels = Kernels {
    name: "avx2",
    matmul: {
        let mut matmul: [Matmul; Format::COUNT] = [floats::matmul::<floats::F32>; Format::COUNT];
        matmul[Format::F16.index()] = floats::matmul::<floats::F16>;
        matmul[Format::BF16.index()] = floats::matmul::<floats::BF16>;
        overlay!(matmul)
    },
    quantize: quantize::quantize,
    quantize_panel: quantize::quantize_panel,
    rms_norm,
    layer_norm,
    activate,
    gate,
    softcap,
    add,
    rope,
    to_f16,
    from_f16,
    widen,
    attend: attend_chunk,
    merge,
    softmax,
};

/// Whether this CPU has what the table needs.
pub fn is_here() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c")
}

products!("avx2,f16c", Avx2, |strip, panels, n, out| {
    multiply::<Ymm<Avx2>, K, 2, 2, 4>(strip, panels, n, out)
});

/// A body that all tables share, compiled with AVX2.
macro_rules! with_avx2 {
    ($($module:ident::$name:ident($($arg:ident: $type:ty),*);)*) => {$(
        #[target_feature(enable = "avx2,f16c")]
        fn $name($($arg: $type),*) {
            $module::$name($($arg),*);
        }
    )*};
}

with_avx2! {
    lanes::rms_norm(x: &[f32], weight: Option<&[f32]>, eps: f32, out: &mut [f32]);
    lanes::layer_norm(x: &[f32], weight: Option<&[f32]>, bias: Option<&[f32]>, eps: f32, out: &mut [f32]);
    lanes::activate(act: Act, x: &mut [f32]);
    lanes::gate(act: Act, gate: &[f32], up: &[f32], out: &mut [f32]);
    lanes::softcap(x: &mut [f32], cap: f32);
    lanes::add(x: &mut [f32], y: &[f32]);
    lanes::rope(pairing: Pairing, head: &mut [f32], cos: &[f32], sin: &[f32]);
    attend::merge(state: &mut Softmax, out: &mut [f32], chunk: Softmax, mixed: &[f32]);
    logits::softmax(logits: &[f32], out: &mut Softmax);
}

/// # Safety
/// As `attend::widen`.
#[target_feature(enable = "avx2,f16c")]
unsafe fn widen(chunk: &Chunk<'_>, keys: &mut [f32], values: &mut [f32]) {
    // SAFETY: this function has the instruction set; the rest is its own contract.
    unsafe { attend::widen::<Ymm<Avx2>>(chunk, keys, values) }
}

/// # Safety
/// As `attend::vectors`.
#[target_feature(enable = "avx2,f16c")]
unsafe fn attend_chunk(chunk: &Chunk<'_>, queries: &[Query<'_>], out: Results<'_>) {
    // SAFETY: this function has the instruction set; the rest is its own contract.
    unsafe { attend::vectors::<Ymm<Avx2>, 2, 2>(chunk, queries, out) }
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
