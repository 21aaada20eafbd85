//! A position in a GGUF file. Every read is checked against the bytes that are left; every count is
//! bounded by them before anything is skipped or allocated for it.

use std::fmt;

use super::{Array, MAX_DEPTH, Type, Value};
use crate::{Error, Result};

/// The rest of a file.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    /// Where in the file the next read begins.
    pub at: usize,
}

/// A broken rule, with its place in the file.
pub(super) fn fault_at(at: usize, fault: impl Into<String>) -> Error {
    Error::malformed_at("GGUF", at as u64, fault)
}

/// Puts what was being read before a fault: `key a.b: ...`.
pub(super) fn within(what: impl fmt::Display) -> impl FnOnce(Error) -> Error {
    move |error| match error {
        Error::Malformed { format, fault, offset } => {
            Error::Malformed { format, fault: format!("{what}: {fault}"), offset }
        }
        Error::Unsupported(fault) => Error::Unsupported(format!("{what}: {fault}")),
        error => error,
    }
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes, at: 0 }
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let taken = self.bytes[self.at..].get(..n).ok_or_else(|| {
            let fault =
                format!("wanted {n} bytes, {} are left; is the file truncated?", self.left());
            fault_at(self.at, fault)
        })?;
        self.at += n;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of things of at least `min_bytes` each, which must fit in what is left.
    pub fn count(&mut self, what: &str, min_bytes: usize) -> Result<usize> {
        let at = self.at;
        let count = self.u64()?;
        let (left, most) = (self.left(), self.left() / min_bytes);
        usize::try_from(count).ok().filter(|&n| n <= most).ok_or_else(|| {
            fault_at(
                at,
                format!("{what} is {count}, but the {left} bytes left hold at most {most}"),
            )
        })
    }

    /// A string, its length before it.
    pub fn string(&mut self) -> Result<&'a str> {
        let len = self.count("string length", 1)?;
        let at = self.at;
        std::str::from_utf8(self.take(len)?)
            .map_err(|e| fault_at(at + e.valid_up_to(), "the string is not UTF-8"))
    }

    /// The bytes of a string, or `None` where they are not all there; [`Cursor::string`] then says
    /// what is wrong. A vocabulary has hundreds of thousands: nothing else is on their path.
    pub fn string_bytes(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = self.bytes[self.at..].split_first_chunk::<8>()?;
        let bytes = rest.get(..usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
        self.at += 8 + bytes.len();
        Some(bytes)
    }

    /// Skips a string if it is sound.
    fn skip_string(&mut self) -> bool {
        let at = self.at;
        let sound = |bytes: &[u8]| bytes.is_ascii() || std::str::from_utf8(bytes).is_ok();
        let skipped = self.string_bytes().is_some_and(sound);
        if !skipped {
            self.at = at;
        }
        skipped
    }

    /// The id of a value type.
    pub fn value_type(&mut self) -> Result<Type> {
        let at = self.at;
        let id = self.u32()?;
        Type::from_id(id).ok_or_else(|| fault_at(at, format!("value type {id} does not exist")))
    }

    /// A value inside `depth` arrays.
    pub fn value(&mut self, of: Type, depth: usize) -> Result<Value<'a>> {
        Ok(match of {
            Type::U8 => Value::U8(self.array::<1>()?[0]),
            Type::I8 => Value::I8(i8::from_le_bytes(self.array()?)),
            Type::U16 => Value::U16(u16::from_le_bytes(self.array()?)),
            Type::I16 => Value::I16(i16::from_le_bytes(self.array()?)),
            Type::U32 => Value::U32(self.u32()?),
            Type::I32 => Value::I32(i32::from_le_bytes(self.array()?)),
            Type::F32 => Value::F32(f32::from_le_bytes(self.array()?)),
            Type::U64 => Value::U64(self.u64()?),
            Type::I64 => Value::I64(i64::from_le_bytes(self.array()?)),
            Type::F64 => Value::F64(f64::from_le_bytes(self.array()?)),
            Type::Bool => Value::Bool(self.flag()?),
            Type::String => Value::String(self.string()?),
            Type::Array => Value::Array(self.elements(depth)?),
        })
    }

    fn flag(&mut self) -> Result<bool> {
        let at = self.at;
        match self.array::<1>()?[0] {
            0 => Ok(false),
            1 => Ok(true),
            byte => Err(fault_at(at, format!("a flag is 0 or 1, got {byte}"))),
        }
    }

    /// An array: the type of its elements, their number, the elements.
    fn elements(&mut self, depth: usize) -> Result<Array<'a>> {
        if depth == MAX_DEPTH {
            return Err(fault_at(self.at, format!("arrays lie more than {MAX_DEPTH} deep")));
        }
        let element = self.value_type()?;
        let len = self.count("array length", element.min_bytes())?;
        let start = self.at;
        match element {
            Type::String | Type::Array | Type::Bool => {
                for i in 0..len {
                    if element == Type::String && self.skip_string() {
                        continue;
                    }
                    self.value(element, depth + 1)
                        .map_err(|e| within(format_args!("element {i}"))(e))?;
                }
            }
            // Any bytes are a number, and `count` has bounded the product.
            _ => drop(self.take(len * element.min_bytes())?),
        }
        Ok(Array { element, len, bytes: &self.bytes[start..self.at] })
    }
}
