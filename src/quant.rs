//! The tensor formats: one table of block length, bytes, encode and decode, indexed by [`Format`].
//!
//! Decoding equals ggml's `dequantize_row_*` bit for bit; encoding equals ggml's reference
//! `quantize_row_*_ref` bit for bit.

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
