//! Arithmetic: a table of functions per instruction set. [`scalar`] states the contract in the
//! plainest code; every other table equals it bit for bit.
//!
//! The contract (ARCHITECTURE.md has it in formulas):
//! * activations become int8 codes along the row, one f32 scale per 32 ([`A8`]);
//! * products of weight codes and activation codes are exact integers; what remains is one f32
//!   update per block of 32 in a stated order;
//! * other sums run in 16 lanes (lane = index mod 16) and one tree ([`lanes::combine`]);
//! * a multiplication and an addition are rounded separately, and elementary functions are our own
//!   ([`math`]).
//!
//! What a row gets therefore depends on the row alone: not on its neighbours in the batch, the
//! thread, or the instruction set.
// LLVM unrolls loops over constant ranges and keeps what they index in registers; not so iterators.
#![allow(clippy::needless_range_loop)]
// Where no table has vectors, what such tables share is idle.
#![cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64", target_feature = "simd128")),
    allow(unused)
)]

pub mod acts;
pub mod attend;
mod floats;
pub mod lanes;
pub mod logits;
pub mod math;
mod narrow;
mod panels;
pub mod scalar;
mod tables;
mod unpack;
mod vector;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
#[cfg(target_arch = "x86_64")]
mod sse2;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
mod neon;

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm;

use std::sync::OnceLock;

use pith_models::{Act, Pairing};

pub use acts::{A8, Acts, PANEL, Panel};
pub use attend::{CHUNK, Chunk, HEADS, Query, Results, SHARE, SIDE, Softmax, Stored};
pub use logits::Candidate;
pub use panels::{PACK, Pack, STRIP};

use crate::{quant::Format, team::Tile};

/// Activations of a product.
#[derive(Clone, Copy)]
pub enum Input<'a> {
    /// Quantized, for the integer formats.
    Acts(Acts<'a>),
    /// `[n_tokens, n_in]`.
    F32(&'a [f32]),
}

/// `out[token][row] = sum over k of weight[row][k] * x[token][k]`; weight rows are the tile's
/// columns, tokens its rows.
///
/// # Safety
/// The CPU has the table's instruction set, and the lengths are as [`Kernels::matmul`] checks.
type Matmul =
    unsafe fn(w: &[u8], n_in: usize, x: Input<'_>, scratch: &mut [Pack], out: &mut Tile<'_, f32>);

/// A norm's weight or bias, where it has one.
type Vector<'a> = Option<&'a [f32]>;

/// The functions of one instruction set. Every entry is `unsafe fn` for one reason: the CPU must
/// have the instruction set, which holds for every table that [`Kernels::available`] gives out.
pub struct Kernels {
    name: &'static str,
    /// Most tokens that it wants in rows, at most [`acts::MAX_ROWS`].
    max_rows: usize,
    matmul: [Matmul; Format::COUNT],
    quantize: unsafe fn(&[f32], &mut [A8]),
    quantize_panel: unsafe fn(&[f32], usize, usize, &mut [Panel]),
    rms_norm: unsafe fn(&[f32], Vector<'_>, f32, &mut [f32]),
    layer_norm: unsafe fn(&[f32], Vector<'_>, Vector<'_>, f32, &mut [f32]),
    activate: unsafe fn(Act, &mut [f32]),
    gate: unsafe fn(Act, &[f32], &[f32], &mut [f32]),
    softcap: unsafe fn(&mut [f32], f32),
    add: unsafe fn(&mut [f32], &[f32]),
    rope: unsafe fn(Pairing, &mut [f32], &[f32], &[f32]),
    squares: unsafe fn(&[f32], &[f32], &mut [f32; 2]),
    to_f16: unsafe fn(&[f32], &mut [u16]),
    from_f16: unsafe fn(&[u16], &mut [f32]),
    widen: unsafe fn(&Chunk<'_>, &mut [f32], &mut [f32]),
    attend: unsafe fn(&Chunk<'_>, &[Query<'_>], Results<'_>),
    merge: unsafe fn(&mut Softmax, &mut [f32], Softmax, &[f32]),
    softmax: unsafe fn(&[f32], &mut Softmax),
    encoders: Encoders,
}

/// Which encoders a table has: their name only, see [`crate::quant`]'s `encode`.
#[derive(Clone, Copy)]
enum Encoders {
    /// As a build for the architecture compiles them.
    Plain,
    /// Those of AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

/// Says whether the CPU can run a table.
type IsHere = fn() -> bool;

/// Every table, best first. A build for CPUs that all have what a table needs (`-C target-cpu`) leaves out
/// what is below it, but for the reference: it would only take room.
static TABLES: &[&[(IsHere, &Kernels)]] = &[
    #[cfg(target_arch = "x86_64")]
    &[(avx512::is_here, &avx512::TABLE)],
    #[cfg(target_arch = "x86_64")]
    if cfg!(target_feature = "avx512vnni") {
        &[]
    } else {
        &[(avxvnni::is_here, &avxvnni::TABLE), (avx2::is_here, &avx2::TABLE)]
    },
    #[cfg(target_arch = "x86_64")]
    if cfg!(target_feature = "avx2") { &[] } else { &[(|| true, &sse2::TABLE)] },
    #[cfg(target_arch = "aarch64")]
    &[
        (neon::i8mm::is_here, &neon::i8mm::TABLE),
        (neon::dotprod::is_here, &neon::dotprod::TABLE),
        (|| true, &neon::TABLE),
    ],
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    &[(|| true, &wasm::TABLE)],
    &[(|| true, &scalar::TABLE)],
];

/// All entries of [`TABLES`].
fn tables() -> impl DoubleEndedIterator<Item = &'static (IsHere, &'static Kernels)> {
    TABLES.iter().copied().flatten()
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The safe face: each method checks lengths, then calls the table.
#[allow(unsafe_code)]
impl Kernels {
    /// The tables that this CPU can run, best first; the scalar one is last.
    pub fn available() -> &'static [&'static Kernels] {
        static HERE: OnceLock<Vec<&Kernels>> = OnceLock::new();
        let here = || tables().filter(|(is_here, _)| is_here()).map(|(_, table)| *table);
        HERE.get_or_init(|| here().collect())
    }

    /// The best table for this CPU.
    pub fn best() -> &'static Kernels {
        Kernels::available()[0]
    }

    /// An available table by its name.
    pub fn by_name(name: &str) -> Option<&'static Kernels> {
        Kernels::available().iter().copied().find(|k| k.name == name)
    }

    /// The names of all tables of this build, best first, whether or not this CPU can run them.
    pub fn built() -> impl Iterator<Item = &'static str> {
        tables().map(|(_, table)| table.name)
    }

    /// The name of the table that this one's product with `format` is from: its own, or that of a
    /// table below, which then does as well.
    pub fn product(&self, format: Format) -> &'static str {
        let product = |table: &Kernels| table.matmul[format.index()];
        let mut upwards = tables().rev().map(|(_, table)| *table);
        let first = upwards.find(|table| std::ptr::fn_addr_eq(product(table), product(self)));
        first.map_or(self.name, |table| table.name)
    }

    /// "scalar", "avx2", "avx512".
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Quantizes a row `[n_in]` into `n_in.div_ceil(256)` groups. NaN counts as 0; infinite values
    /// take the block's scale to infinity.
    ///
    /// # Panics
    /// `out` has another length.
    pub fn quantize(&self, x: &[f32], out: &mut [A8]) {
        assert_eq!(out.len(), x.len().div_ceil(256), "groups of {} activations", x.len());
        // SAFETY: an available table; lengths checked above.
        unsafe { (self.quantize)(x, out) }
    }

    /// As [`Kernels::quantize`], groups from `first` on of up to sixteen rows `[n, n_in]` into panels that lie
    /// side by side.
    ///
    /// # Panics
    /// The lengths don't fit together.
    pub fn quantize_panel(&self, x: &[f32], n_in: usize, first: usize, out: &mut [Panel]) {
        let inside = first <= n_in.div_ceil(256) && out.len() <= n_in.div_ceil(256) - first;
        assert!(inside, "groups {first}+{} of {n_in} activations", out.len());
        assert!(n_in > 0 && x.len() <= PANEL * n_in && x.len().is_multiple_of(n_in));
        // SAFETY: an available table; lengths checked above.
        unsafe { (self.quantize_panel)(x, n_in, first, out) }
    }

    /// Panels and rows that the activations of `n` tokens lie in: first come the panels, the last of
    /// them perhaps not full, then what rows are left.
    pub fn split(&self, n: usize) -> (usize, usize) {
        acts::split(n, self.max_rows)
    }

    /// Packs of scratch that a product of rows of `n_in` wants.
    pub fn scratch_packs(n_in: usize) -> usize {
        STRIP / PACK * n_in.div_ceil(256)
    }

    /// Products of `tile.n_cols()` weight rows with `tile.n_rows()` tokens. `scratch` holds
    /// [`Kernels::scratch_packs`] or more; it may be empty where no tokens lie in panels.
    ///
    /// # Panics
    /// The lengths don't fit together, or the input isn't of the format's kind
    /// ([`Format::is_float`]).
    pub fn matmul(
        &self,
        format: Format,
        w: &[u8],
        n_in: usize,
        x: Input<'_>,
        scratch: &mut [Pack],
        out: &mut Tile<'_, f32>,
    ) {
        let row_bytes = format.row_bytes(n_in).expect("rows of whole blocks");
        assert_eq!(w.len(), row_bytes * out.n_cols(), "weight rows");
        match x {
            Input::Acts(x) if !format.is_float() => {
                let (n_panels, n_rows) = self.split(out.n_rows());
                let n_groups = n_in.div_ceil(256);
                assert_eq!(x.panels.len(), n_groups * n_panels, "panels of activations");
                assert_eq!(x.rows.len(), n_groups * n_rows, "rows of activations");
                let wanted = if n_panels == 0 { 0 } else { Kernels::scratch_packs(n_in) };
                assert!(scratch.len() >= wanted, "scratch of {} packs", scratch.len());
            }
            Input::F32(x) if format.is_float() => {
                assert_eq!(x.len(), n_in * out.n_rows(), "activations");
            }
            _ => panic!("{} reads the other kind of activations", format.name()),
        }
        if n_in == 0 {
            // The empty sum; tables may then count on rows that have a length.
            (0..out.n_rows()).for_each(|t| out.row_mut(t).fill(0.0));
            return;
        }
        if out.n_rows() == 0 || out.n_cols() == 0 {
            return;
        }
        // SAFETY: an available table; lengths and kind checked above.
        unsafe { (self.matmul[format.index()])(w, n_in, x, scratch, out) }
    }

    /// As [`Kernels::matmul`] of F32 rows that aren't a file's.
    ///
    /// # Panics
    /// As [`Kernels::matmul`].
    #[cfg(target_endian = "little")]
    pub fn matmul_f32(&self, w: &[f32], n_in: usize, x: &[f32], out: &mut Tile<'_, f32>) {
        // SAFETY: a float is four bytes, any of which are sound, in a file's order.
        let bytes = unsafe { std::slice::from_raw_parts(w.as_ptr().cast(), size_of_val(w)) };
        self.matmul(Format::F32, bytes, n_in, Input::F32(x), &mut [], out);
    }

    /// out = x / sqrt(mean(x^2) + eps) * weight, all `[n]`.
    ///
    /// # Panics
    /// The lengths differ.
    pub fn rms_norm(&self, x: &[f32], weight: Option<&[f32]>, eps: f32, out: &mut [f32]) {
        assert!(x.len() == out.len() && weight.is_none_or(|w| w.len() == x.len()));
        // SAFETY: an available table; lengths checked above.
        unsafe { (self.rms_norm)(x, weight, eps, out) }
    }

    /// out = (x - mean) / sqrt(variance + eps) * weight + bias, all `[n]`.
    ///
    /// # Panics
    /// The lengths differ.
    pub fn layer_norm(
        &self,
        x: &[f32],
        weight: Option<&[f32]>,
        bias: Option<&[f32]>,
        eps: f32,
        out: &mut [f32],
    ) {
        assert_eq!(x.len(), out.len());
        assert!(weight.is_none_or(|w| w.len() == x.len()));
        assert!(bias.is_none_or(|b| b.len() == x.len()));
        // SAFETY: an available table; lengths checked above.
        unsafe { (self.layer_norm)(x, weight, bias, eps, out) }
    }

    /// x = act(x).
    pub fn activate(&self, act: Act, x: &mut [f32]) {
        // SAFETY: an available table.
        unsafe { (self.activate)(act, x) }
    }

    /// out = act(gate) * up.
    ///
    /// # Panics
    /// The lengths differ.
    pub fn gate(&self, act: Act, gate: &[f32], up: &[f32], out: &mut [f32]) {
        assert!(gate.len() == out.len() && up.len() == out.len());
        // SAFETY: an available table; lengths checked above.
        unsafe { (self.gate)(act, gate, up, out) }
    }

    /// x = cap * tanh(x / cap).
    pub fn softcap(&self, x: &mut [f32], cap: f32) {
        // SAFETY: an available table.
        unsafe { (self.softcap)(x, cap) }
    }

    /// x += y.
    ///
    /// # Panics
    /// The lengths differ.
    pub fn add(&self, x: &mut [f32], y: &[f32]) {
        assert_eq!(x.len(), y.len());
        // SAFETY: an available table; lengths checked above.
        unsafe { (self.add)(x, y) }
    }

    /// Turns the pairs of a head `[n_rot]` by angles whose cosines and sines are `[n_rot / 2]`.
    ///
    /// # Panics
    /// The lengths don't fit together.
    pub fn rope(&self, pairing: Pairing, head: &mut [f32], cos: &[f32], sin: &[f32]) {
        assert!(head.len() == 2 * cos.len() && cos.len() == sin.len());
        // SAFETY: an available table; lengths checked above.
        unsafe { (self.rope)(pairing, head, cos, sin) }
    }

    /// The sums of (a - b)^2 and of a^2, each in 16 lanes.
    ///
    /// # Panics
    /// The lengths differ.
    pub fn squares(&self, a: &[f32], b: &[f32]) -> [f32; 2] {
        assert_eq!(a.len(), b.len());
        let mut out = [0.0; 2];
        // SAFETY: an available table; lengths checked above.
        unsafe { (self.squares)(a, b, &mut out) }
        out
    }

    /// f32 to binary16, to nearest even.
    ///
    /// # Panics
    /// The lengths differ.
    pub fn to_f16(&self, x: &[f32], out: &mut [u16]) {
        assert_eq!(x.len(), out.len());
        // SAFETY: an available table; lengths checked above.
        unsafe { (self.to_f16)(x, out) }
    }

    /// binary16 to f32, exact.
    ///
    /// # Panics
    /// The lengths differ.
    pub fn from_f16(&self, x: &[u16], out: &mut [f32]) {
        assert_eq!(x.len(), out.len());
        // SAFETY: an available table; lengths checked above.
        unsafe { (self.from_f16)(x, out) }
    }

    /// Keys and values of a chunk as f32, where they lay.
    ///
    /// # Panics
    /// The lengths don't fit together.
    pub fn widen(&self, chunk: &Chunk<'_>, keys: &mut [f32], values: &mut [f32]) {
        let Chunk { head_dim, width, .. } = *chunk;
        assert!(head_dim > 0 && width >= head_dim && width.is_multiple_of(SIDE));
        assert!(keys.len() == chunk.keys.len() && keys.len().is_multiple_of(head_dim * SIDE));
        assert!(values.len() == chunk.values.len() && values.len().is_multiple_of(width));
        assert!(chunk.keys.has_scales(keys.len() / head_dim, head_dim));
        assert!(chunk.values.has_scales(values.len() / width, head_dim));
        // SAFETY: an available table; lengths checked above.
        unsafe { (self.widen)(chunk, keys, values) }
    }

    /// Attention of up to [`HEADS`] query heads over one chunk.
    ///
    /// # Panics
    /// The lengths don't fit together, or a query sees nothing, or more than there is.
    pub fn attend(&self, chunk: &Chunk<'_>, queries: &[Query<'_>], out: Results<'_>) {
        let Chunk { head_dim, width, .. } = *chunk;
        assert!(head_dim > 0 && width >= head_dim && width.is_multiple_of(SIDE));
        assert!((1..=HEADS).contains(&queries.len()) && out.mixed.len() >= queries.len() * width);
        let n = chunk.values.len() / width;
        assert!(n <= CHUNK && chunk.keys.len() >= n.next_multiple_of(SIDE) * head_dim);
        assert!(chunk.keys.has_scales(n.next_multiple_of(SIDE), head_dim));
        assert!(chunk.values.has_scales(n, head_dim));
        for query in queries {
            assert!(query.q.len() == head_dim && query.first < query.end && query.end <= n);
        }
        // SAFETY: an available table; lengths checked above.
        unsafe { (self.attend)(chunk, queries, out) }
    }

    /// Takes a later chunk's results `[width]` into those of the chunks before it, `[head_dim]`.
    ///
    /// # Panics
    /// The chunk's are fewer.
    pub fn merge(&self, state: &mut Softmax, out: &mut [f32], chunk: Softmax, mixed: &[f32]) {
        assert!(mixed.len() >= out.len());
        // SAFETY: an available table; lengths checked above.
        unsafe { (self.merge)(state, out, chunk, mixed) }
    }

    /// As [`Format::encode`], in this table's instruction set: the same bytes for finite values.
    ///
    /// # Panics
    /// As [`Format::encode`].
    pub fn encode(&self, format: Format, values: &[f32], out: &mut [u8]) {
        format.check_lengths(values.len(), out.len());
        match self.encoders {
            Encoders::Plain => format.encode(values, out),
            // SAFETY: an available table; lengths checked above.
            #[cfg(target_arch = "x86_64")]
            Encoders::Avx2 => unsafe { avx2::encode(format, values, out) },
        }
    }

    /// Maximum and sum of exp(logit - maximum) of a tile of logits ([`logits::softmax`]).
    pub fn softmax(&self, logits: &[f32]) -> Softmax {
        let mut out = Softmax::NONE;
        // SAFETY: an available table.
        unsafe { (self.softmax)(logits, &mut out) }
        out
    }
}

/// The frequencies of one rope table: angle_i = position * scale * base^(-2i / n_rot) / factor_i
/// (Su et al. 2021); cosines and sines times a magnitude, in f64, rounded to f32 at the end.
#[derive(Clone, Debug)]
pub struct RopeAngles {
    frequencies: Vec<f64>,
    magnitude: f64,
}

impl RopeAngles {
    /// Frequencies for `n_rot` dimensions; `factors` is `[n_rot / 2]`.
    pub fn new(
        n_rot: usize,
        base: f32,
        scale: f32,
        factors: Option<&[f64]>,
        magnitude: f64,
    ) -> RopeAngles {
        let ln_base = math::ln64(f64::from(base));
        let frequency = |i: usize| {
            let factor = factors.map_or(1.0, |f| f[i]);
            f64::from(scale) * math::exp64(-ln_base * (2 * i) as f64 / n_rot as f64) / factor
        };
        RopeAngles { frequencies: (0..n_rot / 2).map(frequency).collect(), magnitude }
    }

    /// Dimensions that are turned.
    pub fn n_rot(&self) -> usize {
        2 * self.frequencies.len()
    }

    /// Cosines and sines of one position, `[n_rot / 2]` each.
    pub fn fill(&self, position: usize, cos: &mut [f32], sin: &mut [f32]) {
        for ((c, s), f) in cos.iter_mut().zip(sin).zip(&self.frequencies) {
            let (cosine, sine) = math::cos_sin(position as f64 * f);
            (*c, *s) = ((cosine * self.magnitude) as f32, (sine * self.magnitude) as f32);
        }
    }
}
