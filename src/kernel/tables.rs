//! How a table compiles the bodies that all share for its own instruction set.

/// Defines what is written over a vector of f32 ([`super::vector::Floats`]): `unquantized`, products
/// with P vectors of one token's sum or N tokens at once ([`super::floats::matmul`]), and `widen` and
/// `attend`, with C vectors of positions and D of dimensions at a time ([`super::attend::vectors`]).
macro_rules! over_floats {
    ($features:literal, $vector:ty, ($p:literal, $n:literal), ($c:literal, $d:literal)) => {
        /// # Safety
        /// The CPU has the instruction set; the lengths are as `Kernels::matmul` checks.
        #[target_feature(enable = $features)]
        unsafe fn unquantized<F: $crate::kernel::floats::Float>(
            w: &[u8],
            n_in: usize,
            x: $crate::kernel::Input<'_>,
            _: &mut [$crate::kernel::Pack],
            out: &mut $crate::team::Tile<'_, f32>,
        ) {
            // SAFETY: this function has the instruction set; the rest is its own contract.
            unsafe { $crate::kernel::floats::matmul::<$vector, F, $p, $n>(w, n_in, x, out) }
        }

        /// # Safety
        /// As `attend::widen`.
        #[target_feature(enable = $features)]
        unsafe fn widen(chunk: &$crate::kernel::Chunk<'_>, keys: &mut [f32], values: &mut [f32]) {
            // SAFETY: this function has the instruction set; the rest is its own contract.
            unsafe { $crate::kernel::attend::widen::<$vector>(chunk, keys, values) }
        }

        /// # Safety
        /// As `attend::vectors`.
        #[target_feature(enable = $features)]
        unsafe fn attend(
            chunk: &$crate::kernel::Chunk<'_>,
            queries: &[$crate::kernel::Query<'_>],
            out: $crate::kernel::Results<'_>,
        ) {
            // SAFETY: this function has the instruction set; the rest is its own contract.
            unsafe { $crate::kernel::attend::vectors::<$vector, $c, $d>(chunk, queries, out) }
        }
    };
}
pub(super) use over_floats;

/// A table's products with all formats: its own `unquantized` and `matmul`.
macro_rules! all_products {
    () => {{
        use $crate::kernel::{
            Matmul,
            floats::{BF16, F16, F32},
            tables::integer_products,
        };
        use $crate::quant::Format;
        let mut table: [Matmul; Format::COUNT] = [unquantized::<F32>; Format::COUNT];
        table[Format::F16.index()] = unquantized::<F16>;
        table[Format::BF16.index()] = unquantized::<BF16>;
        integer_products!(table)
    }};
}
pub(super) use all_products;

/// The products of `$base`, with the integer formats replaced by the table's own `matmul`.
macro_rules! integer_products {
    ($base:expr) => {{
        use $crate::kernel::unpack::*;
        use $crate::quant::Format;
        let mut table = $base;
        table[Format::Q4_0.index()] = matmul::<Q4_0>;
        table[Format::Q4_1.index()] = matmul::<Q4_1>;
        table[Format::Q5_0.index()] = matmul::<Q5_0>;
        table[Format::Q5_1.index()] = matmul::<Q5_1>;
        table[Format::Q8_0.index()] = matmul::<Q8_0>;
        table[Format::IQ4_NL.index()] = matmul::<IQ4_NL>;
        table[Format::Q2_K.index()] = matmul::<Q2_K>;
        table[Format::Q3_K.index()] = matmul::<Q3_K>;
        table[Format::Q4_K.index()] = matmul::<Q4_K>;
        table[Format::Q5_K.index()] = matmul::<Q5_K>;
        table[Format::Q6_K.index()] = matmul::<Q6_K>;
        table[Format::IQ4_XS.index()] = matmul::<IQ4_XS>;
        table
    }};
}
pub(super) use integer_products;

/// Defines the ops whose plain loops LLVM turns into vectors, for tables above what a build for its
/// architecture has anyway.
#[cfg(target_arch = "x86_64")]
macro_rules! over_lanes {
    ($features:literal) => {
        $crate::kernel::tables::over_lanes! { $features;
            lanes::rms_norm(x: &[f32], weight: Option<&[f32]>, eps: f32, out: &mut [f32]);
            lanes::layer_norm(
                x: &[f32], weight: Option<&[f32]>, bias: Option<&[f32]>, eps: f32, out: &mut [f32]
            );
            lanes::activate(act: pith_models::Act, x: &mut [f32]);
            lanes::gate(act: pith_models::Act, gate: &[f32], up: &[f32], out: &mut [f32]);
            lanes::softcap(x: &mut [f32], cap: f32);
            lanes::add(x: &mut [f32], y: &[f32]);
            lanes::squares(a: &[f32], b: &[f32], out: &mut [f32; 2]);
            lanes::rope(pairing: pith_models::Pairing, head: &mut [f32], cos: &[f32], sin: &[f32]);
            attend::merge(
                state: &mut $crate::kernel::Softmax,
                out: &mut [f32],
                chunk: $crate::kernel::Softmax,
                mixed: &[f32]
            );
            logits::softmax(logits: &[f32], out: &mut $crate::kernel::Softmax);
        }
    };
    ($features:literal; $($module:ident::$name:ident($($arg:ident: $type:ty),*);)*) => {$(
        #[target_feature(enable = $features)]
        fn $name($($arg: $type),*) {
            $crate::kernel::$module::$name($($arg),*);
        }
    )*};
}
#[cfg(target_arch = "x86_64")]
pub(super) use over_lanes;
