//! The AVX-VNNI table: CPUs that have VNNI without AVX-512. Everything but the products is AVX2's.
#![allow(unsafe_code)]

use super::{
    Kernels, avx2,
    panels::multiply,
    tables::integer_products,
    x86::{dot::AvxVnni, products, rows, ymm::Ymm},
};

/// The AVX-VNNI table.
pub const TABLE: Kernels =
    Kernels { name: "avxvnni", matmul: integer_products!(avx2::TABLE.matmul), ..avx2::TABLE };

/// Whether this CPU has what the table needs.
pub fn is_here() -> bool {
    avx2::is_here() && is_x86_feature_detected!("avxvnni")
}

products!(
    "avx2,f16c,avxvnni",
    AvxVnni,
    rows::Load,
    |w, n_in, x, out, t| rows::multiply::<F, AvxVnni, 4>(w, n_in, x, out, t),
    |strip, panels, n, out| multiply::<Ymm<AvxVnni>, K, 4, 2, 8>(strip, panels, n, out)
);
