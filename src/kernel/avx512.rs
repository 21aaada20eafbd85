//! The AVX-512 table, for CPUs with VNNI: up to fifteen tokens are multiplied with sixteen weight rows
//! at a time, more in panels. One or two go with 256-bit vectors, where decoding a weight is most of
//! the work.
#![allow(unsafe_code)]

use super::{
    Kernels, avx2,
    panels::multiply,
    tables::{all_products, over_floats, over_lanes},
    x86::{dot::Avx512Vnni, products, sixteen, zmm::Zmm},
};

/// The AVX-512 table.
pub const TABLE: Kernels = Kernels {
    name: "avx512",
    max_rows: 15,
    matmul: all_products!(),
    rms_norm,
    layer_norm,
    activate,
    gate,
    softcap,
    add,
    rope,
    squares,
    widen,
    attend,
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
    sixteen::LoadEight,
    |w, n_in, x, out, t| sixteen::multiply::<F>(w, n_in, x, out, t),
    |strip, panels, n, out| multiply::<Zmm, K, 8, 1, 8>(strip, panels, n, out)
);

// One sixteen of keys at a time: several are several streams, and where the context doesn't fit the
// caches those take 1.2 times as long (1.4 times with one query; 4096 positions of 8 heads, Zen 4).
over_floats!("avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni", Zmm, (1, 4), (1, 4));
over_lanes!("avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni");
