//! What the tables for x86-64 share: formats in registers, vectors of token sums, and the products
//! of both. A table compiles these bodies for its own instruction set ([`products`]).
#![allow(unsafe_code)]

pub mod dot;
pub mod encode;
pub mod load;
pub mod quantize;
pub mod rows;
pub mod sixteen;
pub mod words;
pub mod ymm;
pub mod zmm;

use std::arch::x86_64::*;

use super::{acts::PANEL, panels::STRIP};

/// Eight rows of eight numbers as columns.
#[inline(always)]
unsafe fn transpose_8(mut x: [__m256; 8]) -> [__m256; 8] {
    // SAFETY: the CPU has AVX2 by this function's contract.
    unsafe {
        let mut pairs = x;
        for i in 0..4 {
            pairs[2 * i] = _mm256_unpacklo_ps(x[2 * i], x[2 * i + 1]);
            pairs[2 * i + 1] = _mm256_unpackhi_ps(x[2 * i], x[2 * i + 1]);
        }
        for half in 0..2 {
            let (a, b) = (4 * half, 4 * half + 2);
            x[a] = _mm256_shuffle_ps::<0x44>(pairs[a], pairs[b]);
            x[a + 1] = _mm256_shuffle_ps::<0xee>(pairs[a], pairs[b]);
            x[a + 2] = _mm256_shuffle_ps::<0x44>(pairs[a + 1], pairs[b + 1]);
            x[a + 3] = _mm256_shuffle_ps::<0xee>(pairs[a + 1], pairs[b + 1]);
        }
        let mut columns = x;
        for i in 0..4 {
            columns[i] = _mm256_permute2f128_ps::<0x20>(x[i], x[i + 4]);
            columns[i + 4] = _mm256_permute2f128_ps::<0x31>(x[i], x[i + 4]);
        }
        columns
    }
}

/// The first LANES columns as rows, eight by eight.
#[inline(always)]
unsafe fn transpose<const LANES: usize>(
    from: &[[f32; PANEL]; STRIP],
    to: &mut [[f32; STRIP]; PANEL],
) {
    for (r, t) in (0..STRIP / 8).flat_map(|r| (0..LANES / 8).map(move |t| (8 * r, 8 * t))) {
        // SAFETY: the CPU has AVX2; eight numbers are there in each of eight rows.
        unsafe {
            let mut x = [_mm256_setzero_ps(); 8];
            for (i, x) in x.iter_mut().enumerate() {
                *x = _mm256_loadu_ps(from[r + i][t..].as_ptr());
            }
            for (i, column) in transpose_8(x).into_iter().enumerate() {
                _mm256_storeu_ps(to[t + i][r..].as_mut_ptr(), column);
            }
        }
    }
}

/// Defines `matmul`, a table's product with any integer format F: tokens in rows by `$rows`, strips
/// of rows of class K with panels by `$panels`, all compiled with `$features`.
macro_rules! products {
    (
        $features:literal, $dot:ty, $load:path,
        |$w:ident, $n_in:ident, $x:ident, $tile:ident, $t:ident| $rows:expr,
        |$strip:ident, $acts:ident, $n:ident, $out:ident| $panels:expr
    ) => {
        #[target_feature(enable = $features)]
        fn matmul<F: $load>(
            $w: &[u8],
            $n_in: usize,
            x: $crate::kernel::Input<'_>,
            scratch: &mut [$crate::kernel::Pack],
            $tile: &mut $crate::team::Tile<'_, f32>,
        ) {
            let $crate::kernel::Input::Acts(x) = x else {
                unreachable!("Kernels::matmul checks the kind")
            };
            let functions =
                (unpack::<F> as $crate::kernel::panels::UnpackRows, strip::<F::Class> as _);
            let $x = x.rows;
            let $t = $tile.n_rows() - $x.len() / $n_in.div_ceil(256);
            // SAFETY: this function has the instruction set; lengths were checked by
            // `Kernels::matmul`.
            unsafe {
                $crate::kernel::panels::by_strips($w, $n_in, x.panels, scratch, $tile, functions);
                $rows
            }
        }

        /// # Safety
        /// As `rows::unpack`.
        #[target_feature(enable = $features)]
        unsafe fn unpack<F: $crate::kernel::x86::rows::Load>(
            w: &[u8],
            n_in: usize,
            n_rows: usize,
            out: &mut [$crate::kernel::Pack],
        ) -> i16 {
            // SAFETY: this function has the instruction set; the rest is its own contract.
            unsafe { $crate::kernel::x86::rows::unpack::<F, $dot>(w, n_in, n_rows, out) }
        }

        /// # Safety
        /// As `panels::multiply`.
        #[target_feature(enable = $features)]
        unsafe fn strip<K: $crate::kernel::unpack::Class>(
            $strip: $crate::kernel::panels::Strip<'_>,
            $acts: &[$crate::kernel::acts::Panel],
            $n: usize,
            $out: &mut $crate::team::Tile<'_, f32>,
        ) {
            // SAFETY: this function has the instruction set; the rest is its own contract.
            unsafe { $panels }
        }
    };
}
pub(super) use products;
