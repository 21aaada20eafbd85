//! The AVX-512 table, for CPUs with VNNI: tokens in panels are multiplied sixteen at a time, tokens
//! in rows with 256-bit vectors, where decoding a weight is most of the work.
#![allow(unsafe_code)]

mod floats;

use pith_models::{Act, Pairing};

use super::{
    Chunk, Kernels, Query, Results, Softmax, attend, avx2, lanes, logits,
    panels::multiply,
    x86::{dot::Avx512Vnni, overlay, products, ymm::Ymm, zmm::Zmm},
};
use crate::quant::Format;

/// The AVX-512 table.
pub const TABLE: Kernels = Kernels {
    name: "avx512",
    matmul: {
        let mut matmul = avx2::TABLE.matmul;
        matmul[Format::F32.index()] = floats::matmul::<floats::F32>;
        matmul[Format::F16.index()] = floats::matmul::<floats::F16>;
        matmul[Format::BF16.index()] = floats::matmul::<floats::BF16>;
        overlay!(matmul)
    },
    rms_norm,
    layer_norm,
    activate,
    gate,
    softcap,
    add,
    rope,
    widen,
    attend: attend_chunk,
    merge,
    softmax,
    ..avx2::TABLE
};

/// Whether this CPU has what the table needs.
pub fn is_here() -> bool {
    avx2::is_here()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
}

products!(
    "avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni",
    Avx512Vnni,
    |strip, panels, n, out| match n {
        // Half a panel fits 256 bits.
        ..=8 => multiply::<Ymm<Avx512Vnni>, K, 8, 1, 8>(strip, panels, n, out),
        _ => multiply::<Zmm, K, 8, 1, 8>(strip, panels, n, out),
    }
);

/// A body that all tables share, compiled with AVX-512.
macro_rules! with_avx512 {
    ($($module:ident::$name:ident($($arg:ident: $type:ty),*);)*) => {$(
        #[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
        fn $name($($arg: $type),*) {
            $module::$name($($arg),*);
        }
    )*};
}

with_avx512! {
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
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn widen(chunk: &Chunk<'_>, keys: &mut [f32], values: &mut [f32]) {
    // SAFETY: this function has the instruction set; the rest is its own contract.
    unsafe { attend::widen::<Zmm>(chunk, keys, values) }
}

/// # Safety
/// As `attend::vectors`.
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn attend_chunk(chunk: &Chunk<'_>, queries: &[Query<'_>], out: Results<'_>) {
    // One sixteen of keys at a time: several are several streams, and where the context doesn't fit the
    // caches those take 1.2 times as long (1.4 times with one query; 4096 positions of 8 heads, Zen 4).
    // SAFETY: this function has the instruction set; the rest is its own contract.
    unsafe { attend::vectors::<Zmm, 1, 4>(chunk, queries, out) }
}
