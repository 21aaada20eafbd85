//! GGUF, the container: metadata (typed keys and values), then tensors. [`Gguf`] reads versions 2
//! and 3 as borrowed views, everything checked once; [`Writer`] writes version 3, streaming, in
//! place only when whole. Knows no family.
//!
//! Layout: "GGUF", u32 version, u64 tensor count, u64 key count, the keys, the tensor headers,
//! padding to the alignment, the tensors' data, each aligned. All little-endian.

mod read;
mod write;

pub use read::{Array, Gguf, Tensor, Value};
pub use write::{OpenWriter, OwnedValue, Writer};

/// The first four bytes.
const MAGIC: [u8; 4] = *b"GGUF";
/// Alignment of tensors where `general.alignment` says nothing.
const DEFAULT_ALIGNMENT: u32 = 32;
/// Largest alignment: one that no sound file exceeds, so that padding can't grow a file absurdly.
const MAX_ALIGNMENT: u32 = 1 << 16;
/// Most dimensions of a tensor.
const MAX_DIMS: usize = 4;
/// Longest tensor name. ggml has room for 63 bytes; longer ones are accepted for its peers' sake.
const MAX_NAME: usize = 1024;
/// Longest key, as the GGUF specification has it.
const MAX_KEY: usize = 65535;
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
