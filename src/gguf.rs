//! GGUF, the container: metadata (typed keys and values), then tensors. [`Gguf`] reads versions 2
//! and 3 as borrowed views, everything checked once; [`Writer`] writes version 3, streaming, in
//! place only when whole. Knows no family.
//!
//! Layout: "GGUF", u32 version, u64 tensor count, u64 key count, the keys, the tensor headers,
//! padding to the alignment, the tensors' data, each aligned. All little-endian.
//!
//! | file | job |
//! |---|---|
//! | `cursor` | checked reads of numbers, strings and values |
//! | `value` | what a metadata value looks like to a reader |
//! | `read` | the whole file: keys, tensor headers, where the data lies |
//! | `write` | the writer |

mod cursor;
mod read;
mod value;
mod write;

pub use read::{Gguf, Tensor};
pub use value::{Array, Value};
pub use write::{OpenWriter, OwnedValue, Writer};

use crate::quant::Format;

/// The first four bytes.
const MAGIC: [u8; 4] = *b"GGUF";
/// Alignment of tensors where `general.alignment` says nothing.
const DEFAULT_ALIGNMENT: u32 = 32;
/// Largest alignment: one that no sound file exceeds, so that padding can't grow a file absurdly.
const MAX_ALIGNMENT: u32 = 1 << 16;
/// Most keys and most tensors: ten times what the largest models have. Without a limit a file of
/// empty keys would make the reader's tables ten times as large as the file.
const MAX_KEYS: usize = 1 << 16;
const MAX_TENSORS: usize = 1 << 17;
/// Most dimensions of a tensor.
const MAX_DIMS: usize = 4;
/// Longest tensor name to read. Other readers differ; this only keeps names reasonable.
const MAX_NAME: usize = 1024;
/// Longest tensor name to write: ggml's readers refuse longer ones.
const MAX_GGML_NAME: usize = 63;
/// Longest key, as the GGUF specification has it.
const MAX_KEY: usize = 65535;
/// How deep arrays may lie in arrays.
const MAX_DEPTH: usize = 4;
/// The key with the alignment.
const ALIGNMENT_KEY: &str = "general.alignment";

/// Types of metadata values, with their ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum Type {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl Type {
    const ALL: [Type; 13] = [
        Type::U8,
        Type::I8,
        Type::U16,
        Type::I16,
        Type::U32,
        Type::I32,
        Type::F32,
        Type::Bool,
        Type::String,
        Type::Array,
        Type::U64,
        Type::I64,
        Type::F64,
    ];

    /// The type with this id.
    pub fn from_id(id: u32) -> Option<Type> {
        Type::ALL.get(id as usize).copied()
    }

    fn is_integer(self) -> bool {
        !matches!(self, Type::F32 | Type::F64 | Type::Bool | Type::String | Type::Array)
    }

    /// The fewest bytes that a value takes: exact but for strings and arrays.
    fn min_bytes(self) -> usize {
        match self {
            Type::U8 | Type::I8 | Type::Bool => 1,
            Type::U16 | Type::I16 => 2,
            Type::U32 | Type::I32 | Type::F32 => 4,
            Type::U64 | Type::I64 | Type::F64 | Type::String => 8,
            Type::Array => 12,
        }
    }
}

/// Bytes of a tensor of `dims` values, fastest dimension first, or what is wrong with its shape.
fn n_bytes(format: Format, dims: &[u64]) -> Result<u64, String> {
    if dims.is_empty() || dims.len() > MAX_DIMS {
        return Err(format!("{} dimensions, wanted 1 to {MAX_DIMS}", dims.len()));
    }
    if dims.contains(&0) {
        return Err(format!("shape {dims:?} has a dimension of 0"));
    }
    let too_large = || format!("shape {dims:?} overflows");
    let n_in = usize::try_from(dims[0]).map_err(|_| too_large())?;
    if !n_in.is_multiple_of(format.block_len()) {
        return Err(format!(
            "rows of {n_in} values are no multiple of {}'s block of {}",
            format.name(),
            format.block_len()
        ));
    }
    let row = format.row_bytes(n_in).and_then(|b| u64::try_from(b).ok()).ok_or_else(too_large)?;
    // The values as f32 must fit memory's addresses too: other code multiplies the dimensions.
    let times = |n: usize, &d: &u64| n.checked_mul(usize::try_from(d).ok()?);
    dims.iter().try_fold(4, times).ok_or_else(too_large)?;
    dims[1..].iter().try_fold(row, |n, &d| n.checked_mul(d)).ok_or_else(too_large)
}

/// A name from a file as an error shows it: one line, without control characters, not too long.
fn shown(name: &str) -> String {
    const MOST: usize = 80;
    let mut shown: String = name.chars().take(MOST).flat_map(char::escape_debug).collect();
    if name.chars().nth(MOST).is_some() {
        shown.push_str("...");
    }
    shown
}
