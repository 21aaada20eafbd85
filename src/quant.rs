//! The tensor formats: one table of block length, bytes, encode and decode, indexed by [`Format`].
//!
//! A row of a tensor is cut into blocks of [`Format::block_len`] values, each stored in
//! [`Format::block_bytes`] bytes, little-endian, without padding.
//!
//! Decoding equals ggml's `dequantize_row_*` bit for bit; encoding equals what ggml's
//! `ggml_quantize_chunk` makes without an importance matrix (`quantize_row_*_ref`), bit for bit, so
//! that a file made here is the file that llama.cpp would have made. Both hold because every float
//! expression is evaluated in ggml's order, with multiply and add rounded separately.

// Loops over constant ranges become vectors; iterators less surely.
#![allow(clippy::needless_range_loop)]

mod affine;
mod basic;
mod float;
mod iq4;
mod pack;
mod round;
mod symmetric;

#[cfg(target_arch = "x86_64")]
pub(crate) use basic::{encode_q4_0, encode_q8_0};
pub use float::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};

/// Values in a superblock of the K-quants and of IQ4_XS.
pub const SUPERBLOCK: usize = 256;

/// How the values of a tensor are stored. Discriminants are GGUF's (ggml_type) ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
#[allow(non_camel_case_types, missing_docs)]
pub enum Format {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q2_K = 10,
    Q3_K = 11,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    IQ4_NL = 20,
    IQ4_XS = 23,
    BF16 = 30,
}

/// What there is to know about one format.
struct Row {
    format: Format,
    name: &'static str,
    block_len: usize,
    block_bytes: usize,
    /// Whole blocks to values; lengths already checked.
    decode: fn(&[u8], &mut [f32]),
}

/// A [`Row`] from functions of one block. Their array types tie the two sizes to the code: a size
/// that disagrees with a function does not compile. The encoder itself is in no row, see [`encode`].
macro_rules! blocks {
    ($format:ident, $len:expr, $bytes:expr, $decode:path, $encode:path) => {
        Row {
            format: Format::$format,
            name: stringify!($format),
            block_len: $len,
            block_bytes: {
                let _: fn(&[f32; $len], &mut [u8; $bytes]) = $encode;
                $bytes
            },
            decode: |blocks, out| {
                let (blocks, out) = (blocks.as_chunks::<{ $bytes }>().0, out.as_chunks_mut().0);
                for (block, out) in blocks.iter().zip(out) {
                    let out: &mut [f32; $len] = out;
                    $decode(block, out);
                }
            },
        }
    };
}

/// Every format, in the order of [`Format::ALL`]. Sizes are written as sums of the fields, in the
/// order in which they lie in the block.
const TABLE: [Row; Format::COUNT] = [
    blocks!(F32, 1, 4, float::decode_f32, float::encode_f32),
    blocks!(F16, 1, 2, float::decode_f16, float::encode_f16),
    blocks!(BF16, 1, 2, float::decode_bf16, float::encode_bf16),
    blocks!(Q4_0, 32, 2 + 16, basic::decode_q4_0, basic::encode_q4_0),
    blocks!(Q4_1, 32, 2 + 2 + 16, basic::decode_q4_1, basic::encode_q4_1),
    blocks!(Q5_0, 32, 2 + 4 + 16, basic::decode_q5_0, basic::encode_q5_0),
    blocks!(Q5_1, 32, 2 + 2 + 4 + 16, basic::decode_q5_1, basic::encode_q5_1),
    blocks!(Q8_0, 32, 2 + 32, basic::decode_q8_0, basic::encode_q8_0),
    blocks!(Q2_K, 256, 16 + 64 + 2 + 2, affine::decode_q2_k, affine::encode_q2_k),
    blocks!(Q3_K, 256, 32 + 64 + 12 + 2, symmetric::decode_q3_k, symmetric::encode_q3_k),
    blocks!(Q4_K, 256, 2 + 2 + 12 + 128, affine::decode_q4_k, affine::encode_q4_k),
    blocks!(Q5_K, 256, 2 + 2 + 12 + 32 + 128, affine::decode_q5_k, affine::encode_q5_k),
    blocks!(Q6_K, 256, 128 + 64 + 16 + 2, symmetric::decode_q6_k, symmetric::encode_q6_k),
    blocks!(IQ4_NL, 32, 2 + 16, iq4::decode_nl, iq4::encode_nl),
    blocks!(IQ4_XS, 256, 2 + 2 + 4 + 128, iq4::decode_xs, iq4::encode_xs),
];

/// One past the largest GGUF id in [`TABLE`].
const ID_END: usize = 31;

/// Marks an id without a format in [`INDEX_OF_ID`].
const NO_FORMAT: u8 = u8::MAX;

/// GGUF id to index in [`TABLE`].
const INDEX_OF_ID: [u8; ID_END] = {
    let mut index = [NO_FORMAT; ID_END];
    let mut i = 0;
    while i < TABLE.len() {
        let id = TABLE[i].format as usize;
        assert!(index[id] == NO_FORMAT, "two rows for one format");
        index[id] = i as u8;
        i += 1;
    }
    index
};

const ALL: [Format; Format::COUNT] = {
    let mut all = [Format::F32; Format::COUNT];
    let mut i = 0;
    while i < TABLE.len() {
        all[i] = TABLE[i].format;
        i += 1;
    }
    all
};

/// The sizes that GGUF fixes, once more and independently of the code.
const _: () = {
    use Format::*;
    let known: [(Format, usize, usize); Format::COUNT] = [
        (F32, 1, 4),
        (F16, 1, 2),
        (BF16, 1, 2),
        (Q4_0, 32, 18),
        (Q4_1, 32, 20),
        (Q5_0, 32, 22),
        (Q5_1, 32, 24),
        (Q8_0, 32, 34),
        (Q2_K, 256, 84),
        (Q3_K, 256, 110),
        (Q4_K, 256, 144),
        (Q5_K, 256, 176),
        (Q6_K, 256, 210),
        (IQ4_NL, 32, 18),
        (IQ4_XS, 256, 136),
    ];
    let mut i = 0;
    while i < known.len() {
        let (format, len, bytes) = known[i];
        let row = &TABLE[INDEX_OF_ID[format as usize] as usize];
        assert!(row.block_len == len && row.block_bytes == bytes);
        i += 1;
    }
};

impl Format {
    /// Number of formats.
    pub const COUNT: usize = 15;

    /// Every format; [`Format::index`] is the position in it.
    pub const ALL: &[Format] = &ALL;

    fn row(self) -> &'static Row {
        const { &TABLE }.get(self.index()).expect("every format has a row")
    }

    /// Dense number in `0..Format::COUNT`, for tables of one entry per format.
    pub const fn index(self) -> usize {
        INDEX_OF_ID[self as usize] as usize
    }

    /// The format with this GGUF (ggml_type) id, if pith knows it.
    pub fn from_id(id: u32) -> Option<Format> {
        let index = *INDEX_OF_ID.get(usize::try_from(id).ok()?)?;
        ALL.get(usize::from(index)).copied()
    }

    /// The name as ggml writes it: `"Q4_K"`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The format with this name, in any case: `"q4_k"`.
    pub fn by_name(name: &str) -> Option<Format> {
        ALL.into_iter().find(|format| format.name().eq_ignore_ascii_case(name))
    }

    /// Whether values are plain numbers, which multiply activations as they are; those of the other
    /// formats are integers with scales, and multiply quantized activations.
    pub fn is_float(self) -> bool {
        matches!(self, Format::F32 | Format::F16 | Format::BF16)
    }

    /// Values per block.
    pub fn block_len(self) -> usize {
        self.row().block_len
    }

    /// Bytes per block.
    pub fn block_bytes(self) -> usize {
        self.row().block_bytes
    }

    /// Bytes of a row of `n_in` values; `None` if that is no whole number of blocks, or overflows.
    pub fn row_bytes(self, n_in: usize) -> Option<usize> {
        if !n_in.is_multiple_of(self.block_len()) {
            return None;
        }
        (n_in / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Decodes whole blocks: `blocks` holds `out.len() / block_len` of them.
    ///
    /// # Panics
    /// If the two lengths disagree.
    pub fn decode(self, blocks: &[u8], out: &mut [f32]) {
        self.check_lengths(out.len(), blocks.len());
        (self.row().decode)(blocks, out);
    }

    /// Encodes whole blocks: `out` has room for `values.len() / block_len` of them. Any value is
    /// taken; what a block with a NaN or an infinity decodes to is unspecified.
    ///
    /// # Panics
    /// If the two lengths disagree.
    pub fn encode(self, values: &[f32], out: &mut [u8]) {
        self.check_lengths(values.len(), out.len());
        encode(self, values, out);
    }

    pub(crate) fn check_lengths(self, n_values: usize, n_bytes: usize) {
        assert_eq!(
            self.row_bytes(n_values),
            Some(n_bytes),
            "{}: {n_values} values do not fill {n_bytes} bytes",
            self.name()
        );
    }
}

/// As [`Format::encode`], with lengths already checked: inlined into its caller, and so compiled for the
/// caller's instruction set. No table of what models run by has encoders in it, so that only programs
/// that write models link them.
#[inline(always)]
pub(crate) fn encode(format: Format, values: &[f32], out: &mut [u8]) {
    match format {
        Format::Q4_0 => each(values, out, basic::encode_q4_0),
        Format::Q4_1 => each(values, out, basic::encode_q4_1),
        Format::Q5_0 => each(values, out, basic::encode_q5_0),
        Format::Q5_1 => each(values, out, basic::encode_q5_1),
        Format::Q8_0 => each(values, out, basic::encode_q8_0),
        Format::Q2_K => each(values, out, affine::encode_q2_k),
        Format::Q4_K => each(values, out, affine::encode_q4_k),
        Format::Q5_K => each(values, out, affine::encode_q5_k),
        Format::Q6_K => each(values, out, symmetric::encode_q6_k),
        // Copies, and searches whose steps depend on each other.
        Format::F32 => apart(values, out, float::encode_f32),
        Format::F16 => apart(values, out, float::encode_f16),
        Format::BF16 => apart(values, out, float::encode_bf16),
        Format::Q3_K => apart(values, out, symmetric::encode_q3_k),
        Format::IQ4_NL => apart(values, out, iq4::encode_nl),
        Format::IQ4_XS => apart(values, out, iq4::encode_xs),
    }
}

/// Encodes block by block.
#[inline(always)]
fn each<const LEN: usize, const BYTES: usize>(
    values: &[f32],
    out: &mut [u8],
    encode: impl Fn(&[f32; LEN], &mut [u8; BYTES]),
) {
    let blocks = values.as_chunks::<LEN>().0.iter().zip(out.as_chunks_mut::<BYTES>().0);
    for (values, block) in blocks {
        encode(values, block);
    }
}

/// As [`each`], compiled once for all callers.
#[inline(never)]
fn apart<const LEN: usize, const BYTES: usize>(
    values: &[f32],
    out: &mut [u8],
    encode: impl Fn(&[f32; LEN], &mut [u8; BYTES]),
) {
    each(values, out, encode);
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests;
