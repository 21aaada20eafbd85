//! The reader: one pass over keys and tensor headers checks all that later code relies on.

use std::collections::HashMap;

use super::{
    ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_ALIGNMENT, MAX_DIMS, MAX_KEY, MAX_KEYS, MAX_NAME,
    MAX_TENSORS, Value,
    cursor::{Cursor, fault_at, within},
    n_bytes, shown,
};
use crate::{
    Error, Result,
    quant::Format,
    zeros::{gathered, map, room},
};

/// A tensor in the file.
#[derive(Clone, Debug)]
pub struct Tensor<'a> {
    /// Name.
    pub name: &'a str,
    /// How its values are stored.
    pub format: Format,
    /// Sizes, fastest dimension first, padded with 1.
    pub dims: [u64; MAX_DIMS],
    /// Dimensions that the file states.
    pub n_dims: u32,
    /// Where its data begins in the file.
    pub offset: u64,
    /// Its data: [`Tensor::n_rows`] rows of [`Format::row_bytes`] bytes.
    pub data: &'a [u8],
}

impl Tensor<'_> {
    /// Values in a row: the fastest dimension.
    pub fn n_in(&self) -> usize {
        self.dims[0] as usize // the parser has checked that all sizes fit the file
    }

    /// Rows: the product of the other dimensions.
    pub fn n_rows(&self) -> usize {
        self.dims[1..].iter().product::<u64>() as usize
    }
}

/// A parsed file. What it holds is sound in itself:
///
/// - keys and tensor names are unique, UTF-8 and not empty; there are at most 65,536 keys and
///   131,072 tensors;
/// - strings are UTF-8, flags are 0 or 1, arrays lie at most 4 deep;
/// - a tensor has 1 to 4 dimensions of at least 1, whose product times 4 fits a `usize`, in whole
///   blocks of a known [`Format`];
/// - tensors' data is aligned, inside the file and apart from all other tensors'.
///
/// What the keys mean, and which tensors there should be, is for a model to check.
#[derive(Clone, Debug)]
pub struct Gguf<'a> {
    version: u32,
    alignment: u32,
    metadata: Vec<(&'a str, Value<'a>)>,
    tensors: Vec<Tensor<'a>>,
    keys: HashMap<&'a str, usize>,
    names: HashMap<&'a str, usize>,
}

impl<'a> Gguf<'a> {
    /// Parses a whole file.
    ///
    /// # Errors
    /// The first rule that the file breaks, with its byte offset and the key or tensor.
    pub fn parse(bytes: &'a [u8]) -> Result<Gguf<'a>> {
        let mut cursor = Cursor::new(bytes);
        let version = version(&mut cursor)?;
        let n_tensors = count(&mut cursor, "tensor count", 8 + 1 + 4 + 8 + 4 + 8, MAX_TENSORS)?;
        let n_keys = count(&mut cursor, "key count", 8 + 1 + 4 + 1, MAX_KEYS)?;
        let (metadata, keys) = metadata(&mut cursor, n_keys)?;
        let alignment = match keys.get(ALIGNMENT_KEY) {
            None => DEFAULT_ALIGNMENT,
            Some(&i) => alignment(&metadata[i].1)?,
        };
        let mut headers = room(n_tensors)?;
        for i in 0..n_tensors {
            headers.push(header(&mut cursor, i)?);
        }
        let start = cursor.at.next_multiple_of(alignment as usize);
        let mut tensors = room(n_tensors)?;
        let mut names = map(n_tensors)?;
        for header in headers {
            if names.insert(header.name, tensors.len()).is_some() {
                return Err(header.fault("the name occurs twice"));
            }
            tensors.push(header.place(bytes, start, alignment)?);
        }
        check_apart(&tensors)?;
        Ok(Gguf { version, alignment, metadata, tensors, keys, names })
    }

    /// 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Alignment of the tensors' data.
    pub fn alignment(&self) -> u32 {
        self.alignment
    }

    /// Keys and values in the file's order.
    pub fn metadata(&self) -> &[(&'a str, Value<'a>)] {
        &self.metadata
    }

    /// Tensors in the file's order.
    pub fn tensors(&self) -> &[Tensor<'a>] {
        &self.tensors
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.keys.get(key).map(|&i| &self.metadata[i].1)
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor<'a>> {
        self.names.get(name).map(|&i| &self.tensors[i])
    }

    /// A string that must be there.
    ///
    /// # Errors
    /// The key is absent or has another type.
    pub fn require_str(&self, key: &str) -> Result<&'a str> {
        self.require(key, "a string", Value::as_str)
    }

    /// A non-negative whole number that must be there.
    ///
    /// # Errors
    /// The key is absent, has another type or a negative value.
    pub fn require_u64(&self, key: &str) -> Result<u64> {
        self.require(key, "a whole number of at least 0", Value::as_u64)
    }

    /// A float that must be there.
    ///
    /// # Errors
    /// The key is absent or has another type.
    pub fn require_f32(&self, key: &str) -> Result<f32> {
        self.require(key, "a float", Value::as_f32)
    }

    /// A flag that must be there.
    ///
    /// # Errors
    /// The key is absent or has another type.
    pub fn require_bool(&self, key: &str) -> Result<bool> {
        self.require(key, "a flag", Value::as_bool)
    }

    fn require<T>(
        &self,
        key: &str,
        wanted: &str,
        of: impl FnOnce(&Value<'a>) -> Option<T>,
    ) -> Result<T> {
        let value = self.get(key);
        value.and_then(of).ok_or_else(|| {
            let got = value.map_or_else(|| "no such key".into(), Value::brief);
            Error::malformed("GGUF", format!("key {key}: wanted {wanted}, got {got}"))
        })
    }
}

/// Magic and version.
fn version(cursor: &mut Cursor) -> Result<u32> {
    let magic: [u8; 4] = cursor.array()?;
    if magic != MAGIC {
        let fault = format!("wanted the magic \"GGUF\", got {magic:02x?}; convert the model first");
        return Err(fault_at(0, fault));
    }
    match cursor.u32()? {
        version @ (2 | 3) => Ok(version),
        v if v != 0 && v & 0xffff == 0 => Err(Error::Unsupported(format!(
            "the version field reads as {v:#010x}: a big-endian GGUF file; make it little-endian \
             with gguf-convert-endian of the Python package gguf"
        ))),
        v => Err(Error::Unsupported(format!(
            "GGUF version {v}; pith reads 2 and 3: convert the model again"
        ))),
    }
}

/// A count of keys or tensors.
fn count(cursor: &mut Cursor, what: &str, min_bytes: usize, most: usize) -> Result<usize> {
    let at = cursor.at;
    let count = cursor.count(what, min_bytes)?;
    if count > most {
        return Err(fault_at(at, format!("{what} is {count}, pith reads at most {most}")));
    }
    Ok(count)
}

type Metadata<'a> = (Vec<(&'a str, Value<'a>)>, HashMap<&'a str, usize>);

fn metadata<'a>(cursor: &mut Cursor<'a>, n_keys: usize) -> Result<Metadata<'a>> {
    let mut metadata = room(n_keys)?;
    let mut keys = map(n_keys)?;
    for i in 0..n_keys {
        let at = cursor.at;
        let key = cursor.string().map_err(|e| within(format_args!("key {i}"))(e))?;
        if key.is_empty() || key.len() > MAX_KEY {
            let fault = format!("key {i} has {} bytes, wanted 1 to {MAX_KEY}", key.len());
            return Err(fault_at(at, fault));
        }
        let value = cursor.value_type().and_then(|of| cursor.value(of, 0));
        let value = value.map_err(|e| within(format_args!("key {}", shown(key)))(e))?;
        if keys.insert(key, i).is_some() {
            return Err(fault_at(at, format!("key {} occurs twice", shown(key))));
        }
        metadata.push((key, value));
    }
    Ok((metadata, keys))
}

fn alignment(value: &Value) -> Result<u32> {
    match *value {
        Value::U32(a) if a.is_power_of_two() && a <= MAX_ALIGNMENT => Ok(a),
        ref value => Err(Error::malformed(
            "GGUF",
            format!(
                "key {ALIGNMENT_KEY}: wanted a power of two up to {MAX_ALIGNMENT} as U32, got {}",
                value.brief()
            ),
        )),
    }
}

/// What a tensor header says, before its data is known to be there.
struct Header<'a> {
    /// Where the header begins in the file.
    at: usize,
    name: &'a str,
    format: Format,
    dims: [u64; MAX_DIMS],
    n_dims: u32,
    /// Where the data begins, counted from the first tensor's.
    relative: u64,
    n_bytes: u64,
}

/// Reads the header of tensor `i`.
fn header<'a>(cursor: &mut Cursor<'a>, i: usize) -> Result<Header<'a>> {
    let at = cursor.at;
    let name = cursor.string().map_err(|e| within(format_args!("name of tensor {i}"))(e))?;
    if name.is_empty() || name.len() > MAX_NAME {
        let fault = format!("name of tensor {i} has {} bytes, wanted 1 to {MAX_NAME}", name.len());
        return Err(fault_at(at, fault));
    }
    shape(cursor, at, name).map_err(|e| within(format_args!("tensor {}", shown(name)))(e))
}

/// What follows a tensor's name.
fn shape<'a>(cursor: &mut Cursor<'a>, at: usize, name: &'a str) -> Result<Header<'a>> {
    let n_dims = cursor.u32()?;
    if n_dims == 0 || n_dims as usize > MAX_DIMS {
        return Err(fault_at(at, format!("{n_dims} dimensions, wanted 1 to {MAX_DIMS}")));
    }
    let mut dims = [1; MAX_DIMS];
    for dim in &mut dims[..n_dims as usize] {
        *dim = cursor.u64()?;
    }
    let id = cursor.u32()?;
    let format = Format::from_id(id).ok_or_else(|| unknown_format(at, id))?;
    let relative = cursor.u64()?;
    let n_bytes = n_bytes(format, &dims[..n_dims as usize]).map_err(|fault| fault_at(at, fault))?;
    Ok(Header { at, name, format, dims, n_dims, relative, n_bytes })
}

impl<'a> Header<'a> {
    fn fault(&self, fault: &str) -> Error {
        fault_at(self.at, format!("tensor {}: {fault}", shown(self.name)))
    }

    /// Finds the tensor's data: aligned, and inside the file.
    fn place(self, bytes: &'a [u8], start: usize, alignment: u32) -> Result<Tensor<'a>> {
        let Header { name, format, dims, n_dims, relative, n_bytes, .. } = self;
        if !relative.is_multiple_of(u64::from(alignment)) {
            let fault = format!("offset {relative} is no multiple of the alignment {alignment}");
            return Err(self.fault(&fault));
        }
        let offset = relative.checked_add(start as u64);
        let end = offset.and_then(|o| o.checked_add(n_bytes));
        let (Some(offset), Some(end)) = (offset, end.filter(|&end| end <= bytes.len() as u64))
        else {
            return Err(self.fault(&format!(
                "{n_bytes} bytes at {start} + {relative} lie outside the file of {} bytes; is it \
                 truncated?",
                bytes.len()
            )));
        };
        let data = &bytes[offset as usize..end as usize];
        Ok(Tensor { name, format, dims, n_dims, offset, data })
    }
}

/// Checks that no two tensors share a byte.
fn check_apart(tensors: &[Tensor]) -> Result<()> {
    let mut order = gathered(tensors)?;
    order.sort_unstable_by_key(|t| t.offset);
    for pair in order.windows(2) {
        let (end, next) = (pair[0].offset + pair[0].data.len() as u64, pair[1].offset);
        if end > next {
            let (one, other) = (shown(pair[0].name), shown(pair[1].name));
            let fault = format!("tensor {one} ends at {end}, but tensor {other} begins at {next}");
            return Err(Error::malformed_at("GGUF", next, fault));
        }
    }
    Ok(())
}

/// The error for a tensor type that pith doesn't decode, by ggml's name where it has one.
fn unknown_format(at: usize, id: u32) -> Error {
    let known = match id {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        40 => "NVFP4",
        41 => "Q1_0",
        _ => return fault_at(at, format!("type {id} does not exist in ggml as pith knows it")),
    };
    Error::Unsupported(format!(
        "stored as {known} (type {id}), which pith does not decode; get the model in another format"
    ))
}
