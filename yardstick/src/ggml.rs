//! ggml's own encoders and decoders of the tensor formats.
#![allow(unsafe_code)]

use llama_cpp_sys_2 as sys;
use pith::quant::Format;

/// Values in `n_bytes` of whole blocks.
fn n_values(format: Format, n_bytes: usize) -> usize {
    assert!(n_bytes.is_multiple_of(format.block_bytes()), "{format}: {n_bytes} bytes");
    n_bytes / format.block_bytes() * format.block_len()
}

/// ggml's traits of a format, checked to have the sizes that pith knows.
fn traits(format: Format) -> &'static sys::ggml_type_traits {
    // SAFETY: the ids of `Format` are ggml_type's, below GGML_TYPE_COUNT; the table is static.
    let traits = unsafe { &*sys::ggml_get_type_traits(format as sys::ggml_type) };
    assert_eq!(traits.blck_size, format.block_len() as i64, "{format}: block length");
    assert_eq!(traits.type_size, format.block_bytes(), "{format}: block bytes");
    traits
}

/// Decodes whole blocks with ggml's `to_float`.
pub fn decode(format: Format, blocks: &[u8]) -> Vec<f32> {
    let n = n_values(format, blocks.len());
    let mut out = vec![0f32; n];
    let Some(to_float) = traits(format).to_float else {
        assert_eq!(format, Format::F32, "only f32 needs no decoder");
        for (out, bytes) in out.iter_mut().zip(blocks.as_chunks().0) {
            *out = f32::from_le_bytes(*bytes);
        }
        return out;
    };
    let aligned = Aligned::copy(blocks);
    // SAFETY: `traits` has checked that ggml's blocks have our sizes, so `to_float` reads
    // `blocks.len()` bytes, which `aligned` holds, and writes n floats, which `out` holds.
    unsafe { to_float(aligned.as_ptr(), out.as_mut_ptr(), n as i64) };
    out
}

/// Encodes rows of `n_in` values as llama-quantize does: `ggml_quantize_chunk`, no importance
/// matrix.
pub fn encode(format: Format, values: &[f32], n_in: usize) -> Vec<u8> {
    traits(format);
    let n_rows = values.len() / n_in;
    assert_eq!(n_rows * n_in, values.len(), "whole rows");
    let n_bytes = format.row_bytes(n_in).expect("rows of whole blocks") * n_rows;
    let mut out = Aligned::new(n_bytes);
    // SAFETY: reads n_rows * n_in floats, which `values` holds; writes n_bytes, which `out` holds
    // (sizes checked by `traits`); none of `Format` requires an importance matrix.
    let written = unsafe {
        sys::ggml_quantize_chunk(
            format as sys::ggml_type,
            values.as_ptr(),
            out.as_mut_ptr(),
            0,
            n_rows as i64,
            n_in as i64,
            std::ptr::null(),
        )
    };
    assert_eq!(written, n_bytes, "{format}: bytes written");
    out.into_bytes()
}

/// Encodes with the traits' `from_float_ref` (`quantize_row_*_ref`); `None` for F32.
pub fn encode_ref(format: Format, values: &[f32]) -> Option<Vec<u8>> {
    let from_float = traits(format).from_float_ref?;
    let n_bytes = format.row_bytes(values.len()).expect("whole blocks");
    let mut out = Aligned::new(n_bytes);
    // SAFETY: reads values.len() floats and writes n_bytes, which `out` holds (sizes checked by
    // `traits`).
    unsafe { from_float(values.as_ptr(), out.as_mut_ptr(), values.len() as i64) };
    Some(out.into_bytes())
}

/// Bytes at the alignment of ggml's block structs.
struct Aligned {
    words: Vec<u64>,
    n_bytes: usize,
}

impl Aligned {
    fn new(n_bytes: usize) -> Self {
        Aligned { words: vec![0; n_bytes.div_ceil(8)], n_bytes }
    }

    fn copy(bytes: &[u8]) -> Self {
        let mut aligned = Aligned::new(bytes.len());
        for (word, bytes) in aligned.words.iter_mut().zip(bytes.chunks(8)) {
            let mut buffer = [0; 8];
            buffer[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(buffer);
        }
        aligned
    }

    fn as_ptr(&self) -> *const std::ffi::c_void {
        self.words.as_ptr().cast()
    }

    fn as_mut_ptr(&mut self) -> *mut std::ffi::c_void {
        self.words.as_mut_ptr().cast()
    }

    fn into_bytes(self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.truncate(self.n_bytes);
        bytes
    }
}
