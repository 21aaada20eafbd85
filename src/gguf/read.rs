//! The reader: one pass over keys and tensor headers checks all that later code relies on. Every
//! count is bounded by the bytes that are left before anything is allocated for it.

use std::{collections::HashMap, fmt};

use super::{
    ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_ALIGNMENT, MAX_DIMS, MAX_KEY, MAX_NAME, Type,
};
use crate::{Error, Result, quant::Format};

/// How deep arrays may lie in arrays.
const MAX_DEPTH: usize = 4;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(&'a str),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> Value<'a> {
    /// Any non-negative whole number.
    pub fn as_u64(&self) -> Option<u64> {
        self.as_i128().and_then(|v| u64::try_from(v).ok())
    }

    /// Any whole number that fits.
    pub fn as_i64(&self) -> Option<i64> {
        self.as_i128().and_then(|v| i64::try_from(v).ok())
    }

    fn as_i128(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            _ => return None,
        })
    }

    /// A float of either width.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as f32),
            _ => None,
        }
    }

    /// A flag.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Value::Bool(v) => Some(v),
            _ => None,
        }
    }

    /// A string.
    pub fn as_str(&self) -> Option<&'a str> {
        match *self {
            Value::String(v) => Some(v),
            _ => None,
        }
    }

    /// An array.
    pub fn as_array(&self) -> Option<&Array<'a>> {
        match self {
            Value::Array(v) => Some(v),
            _ => None,
        }
    }

    /// The value's type.
    pub fn value_type(&self) -> Type {
        match self {
            Value::U8(_) => Type::U8,
            Value::I8(_) => Type::I8,
            Value::U16(_) => Type::U16,
            Value::I16(_) => Type::I16,
            Value::U32(_) => Type::U32,
            Value::I32(_) => Type::I32,
            Value::F32(_) => Type::F32,
            Value::Bool(_) => Type::Bool,
            Value::String(_) => Type::String,
            Value::Array(_) => Type::Array,
            Value::U64(_) => Type::U64,
            Value::I64(_) => Type::I64,
            Value::F64(_) => Type::F64,
        }
    }
}

/// An array of values: a view of bytes that were checked when the file was parsed.
#[derive(Clone, PartialEq)]
pub struct Array<'a> {
    element: Type,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// Type of the elements.
    pub fn element_type(&self) -> Type {
        self.element
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements in order.
    pub fn values(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let (element, mut cursor) = (self.element, Cursor::new(self.bytes));
        // Parsing checked every element, so that `None` only comes after the last.
        (0..self.len).map_while(move |_| cursor.value(element, 0).ok())
    }

    /// The elements, if they are strings.
    pub fn strings(&self) -> Option<impl Iterator<Item = &'a str> + use<'a>> {
        let strings = self.values().filter_map(|v| v.as_str());
        (self.element == Type::String).then_some(strings)
    }

    /// The elements, if they are floats.
    pub fn f32s(&self) -> Option<impl Iterator<Item = f32> + use<'a>> {
        let floats = self.values().filter_map(|v| v.as_f32());
        matches!(self.element, Type::F32 | Type::F64).then_some(floats)
    }

    /// The elements, if they are whole numbers of any width.
    pub fn i64s(&self) -> Option<impl Iterator<Item = i64> + use<'a>> {
        use Type::{Array, Bool, F32, F64, String};
        let integers = self.values().map(|v| v.as_i64().unwrap_or(i64::MAX));
        (!matches!(self.element, F32 | F64 | Bool | String | Array)).then_some(integers)
    }

    /// The elements, if they are flags.
    pub fn bools(&self) -> Option<impl Iterator<Item = bool> + use<'a>> {
        let flags = self.values().filter_map(|v| v.as_bool());
        (self.element == Type::Bool).then_some(flags)
    }
}

/// Long arrays are cut short.
impl fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_list();
        list.entries(self.values().take(8));
        if self.len > 8 {
            list.entry(&format_args!("... {} in all", self.len));
        }
        list.finish()
    }
}

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
    /// Its data.
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

/// A parsed file.
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
        let version = cursor.header()?;
        let n_tensors = cursor.count("tensor count", 8 + 4 + 8 + 4 + 8)?;
        let n_keys = cursor.count("key count", 8 + 4 + 1)?;
        let (metadata, keys) = cursor.metadata(n_keys)?;
        let alignment = match keys.get(ALIGNMENT_KEY) {
            None => DEFAULT_ALIGNMENT,
            Some(&i) => alignment(&metadata[i].1)?,
        };
        let headers = cursor.headers(n_tensors)?;
        let start = cursor.at.next_multiple_of(alignment as usize);
        let (tensors, names) = place(bytes, headers, start, alignment)?;
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
    /// The key is absent or has another type.
    pub fn require_u64(&self, key: &str) -> Result<u64> {
        self.require(key, "a whole number", Value::as_u64)
    }

    fn require<T>(
        &self,
        key: &str,
        wanted: &str,
        of: impl FnOnce(&Value<'a>) -> Option<T>,
    ) -> Result<T> {
        let value = self.get(key);
        value.and_then(of).ok_or_else(|| {
            let got = value.map_or_else(|| "nothing".into(), |v| format!("{v:?}"));
            Error::malformed("GGUF", format!("key {key}: wanted {wanted}, got {got}"))
        })
    }
}

fn alignment(value: &Value) -> Result<u32> {
    match *value {
        Value::U32(a) if a.is_power_of_two() && a <= MAX_ALIGNMENT => Ok(a),
        ref value => Err(Error::malformed(
            "GGUF",
            format!("{ALIGNMENT_KEY}: wanted a u32 power of two up to {MAX_ALIGNMENT}, got {value:?}"),
        )),
    }
}

/// What a tensor header says, before its data is known to be there.
struct Header<'a> {
    name: &'a str,
    format: Format,
    dims: [u64; MAX_DIMS],
    n_dims: u32,
    relative: u64,
    n_bytes: u64,
}

type Placed<'a> = (Vec<Tensor<'a>>, HashMap<&'a str, usize>);

/// Finds each tensor's data: aligned, inside the file, apart from all others.
fn place<'a>(
    bytes: &'a [u8],
    headers: Vec<Header<'a>>,
    start: usize,
    alignment: u32,
) -> Result<Placed<'a>> {
    let mut tensors = Vec::with_capacity(headers.len());
    let mut names = HashMap::with_capacity(headers.len());
    for header in headers {
        let Header { name, format, dims, n_dims, relative, n_bytes } = header;
        let fault = |fault: String| Error::malformed("GGUF", format!("tensor {name}: {fault}"));
        if relative % u64::from(alignment) != 0 {
            return Err(fault(format!("offset {relative} is no multiple of alignment {alignment}")));
        }
        let offset = relative.checked_add(start as u64);
        let end = offset.and_then(|o| o.checked_add(n_bytes));
        let (Some(offset), Some(end)) = (offset, end.filter(|&end| end <= bytes.len() as u64)) else {
            return Err(fault(format!(
                "{n_bytes} bytes at offset {relative} of the data do not fit a file of {} bytes; \
                 is the file truncated?",
                bytes.len()
            )));
        };
        if names.insert(name, tensors.len()).is_some() {
            return Err(fault("the name occurs twice".into()));
        }
        let data = &bytes[offset as usize..end as usize];
        tensors.push(Tensor { name, format, dims, n_dims, offset, data });
    }
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_unstable_by_key(|t| t.offset);
    for pair in order.windows(2) {
        if pair[0].offset + pair[0].data.len() as u64 > pair[1].offset {
            return Err(Error::malformed(
                "GGUF",
                format!("tensors {} and {} overlap", pair[0].name, pair[1].name),
            ));
        }
    }
    Ok((tensors, names))
}

/// A position in the file; every read is checked.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

type Metadata<'a> = (Vec<(&'a str, Value<'a>)>, HashMap<&'a str, usize>);

impl<'a> Cursor<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes, at: 0 }
    }

    fn fault(&self, fault: impl Into<String>) -> Error {
        Error::malformed_at("GGUF", self.at as u64, fault)
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        if n > self.left() {
            return Err(self.fault(format!("wanted {n} bytes, {} are left", self.left())));
        }
        let taken = &self.bytes[self.at..][..n];
        self.at += n;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of things of at least `min_bytes` each, which must fit in what is left.
    fn count(&mut self, what: &str, min_bytes: usize) -> Result<usize> {
        let at = self.at;
        let count = self.u64()?;
        let most = self.left() / min_bytes;
        usize::try_from(count).ok().filter(|&n| n <= most).ok_or_else(|| {
            Error::malformed_at(
                "GGUF",
                at as u64,
                format!("{what} is {count}, but the {} bytes left hold at most {most}", self.left()),
            )
        })
    }

    fn string(&mut self, what: &str) -> Result<&'a str> {
        let len = self.count(&format!("length of {what}"), 1)?;
        let at = self.at;
        std::str::from_utf8(self.take(len)?).map_err(|e| {
            Error::malformed_at("GGUF", (at + e.valid_up_to()) as u64, format!("{what} is not UTF-8"))
        })
    }

    fn header(&mut self) -> Result<u32> {
        let magic: [u8; 4] = self.array()?;
        if magic != MAGIC {
            self.at = 0;
            return Err(self.fault(format!(
                "wanted the magic \"GGUF\", got {magic:02x?}; convert the model first"
            )));
        }
        let version = self.u32()?;
        match version {
            2 | 3 => Ok(version),
            1 => Err(Error::Unsupported("GGUF version 1; pith reads 2 and 3".into())),
            v if v.swap_bytes() <= 0xff => Err(Error::Unsupported(format!(
                "this is a big-endian GGUF file (version {}); pith reads little-endian files: \
                 convert it with gguf-py's gguf_convert_endian.py",
                v.swap_bytes()
            ))),
            v => Err(Error::Unsupported(format!("GGUF version {v}; pith reads 2 and 3"))),
        }
    }

    fn metadata(&mut self, n: usize) -> Result<Metadata<'a>> {
        let mut metadata = Vec::new();
        let mut keys = HashMap::new();
        for i in 0..n {
            let at = self.at;
            let key = self.string("a key")?;
            if key.is_empty() || key.len() > MAX_KEY {
                self.at = at;
                return Err(self.fault(format!("key {i} has {} bytes, wanted 1 to 65535", key.len())));
            }
            let id = self.u32()?;
            let value = Type::from_id(id)
                .ok_or_else(|| self.fault(format!("value type {id} does not exist")))
                .and_then(|of| self.value(of, 0))
                .map_err(|e| in_key(e, key))?;
            if keys.insert(key, metadata.len()).is_some() {
                self.at = at;
                return Err(self.fault(format!("key {key} occurs twice")));
            }
            metadata.push((key, value));
        }
        Ok((metadata, keys))
    }

    fn value(&mut self, of: Type, depth: usize) -> Result<Value<'a>> {
        Ok(match of {
            Type::U8 => Value::U8(self.array::<1>()?[0]),
            Type::I8 => Value::I8(self.array::<1>()?[0] as i8),
            Type::U16 => Value::U16(u16::from_le_bytes(self.array()?)),
            Type::I16 => Value::I16(i16::from_le_bytes(self.array()?)),
            Type::U32 => Value::U32(self.u32()?),
            Type::I32 => Value::I32(i32::from_le_bytes(self.array()?)),
            Type::F32 => Value::F32(f32::from_le_bytes(self.array()?)),
            Type::U64 => Value::U64(self.u64()?),
            Type::I64 => Value::I64(i64::from_le_bytes(self.array()?)),
            Type::F64 => Value::F64(f64::from_le_bytes(self.array()?)),
            Type::Bool => match self.array::<1>()?[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                b => return Err(self.fault(format!("a flag is 0 or 1, got {b}"))),
            },
            Type::String => Value::String(self.string("a string")?),
            Type::Array => Value::Array(self.elements(depth)?),
        })
    }

    fn elements(&mut self, depth: usize) -> Result<Array<'a>> {
        if depth == MAX_DEPTH {
            return Err(self.fault(format!("arrays lie more than {MAX_DEPTH} deep")));
        }
        let id = self.u32()?;
        let element = Type::from_id(id);
        let element =
            element.ok_or_else(|| self.fault(format!("element type {id} does not exist")))?;
        let len = self.count("array length", element.min_bytes())?;
        let start = self.at;
        match element {
            Type::String | Type::Array | Type::Bool => {
                for _ in 0..len {
                    self.value(element, depth + 1)?;
                }
            }
            _ => {
                self.take(len * element.min_bytes())?; // `count` has bounded the product
            }
        }
        Ok(Array { element, len, bytes: &self.bytes[start..self.at] })
    }

    fn headers(&mut self, n: usize) -> Result<Vec<Header<'a>>> {
        (0..n).map(|i| self.tensor_header(i)).collect()
    }

    fn tensor_header(&mut self, i: usize) -> Result<Header<'a>> {
        let at = self.at;
        let name = self.string("a tensor name")?;
        let fault = |fault: String| {
            Error::malformed_at("GGUF", at as u64, format!("tensor {i} ({name}): {fault}"))
        };
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(fault(format!("name of {} bytes, wanted 1 to {MAX_NAME}", name.len())));
        }
        let n_dims = self.u32()?;
        if n_dims == 0 || n_dims as usize > MAX_DIMS {
            return Err(fault(format!("{n_dims} dimensions, wanted 1 to {MAX_DIMS}")));
        }
        let mut dims = [1; MAX_DIMS];
        for dim in &mut dims[..n_dims as usize] {
            *dim = self.u64()?;
        }
        let id = self.u32()?;
        let format = Format::from_id(id).ok_or_else(|| unknown_format(name, id))?;
        let relative = self.u64()?;
        let n_bytes = n_bytes(format, dims).map_err(fault)?;
        Ok(Header { name, format, dims, n_dims, relative, n_bytes })
    }
}

/// Puts the key's name before a fault in its value.
fn in_key(error: Error, key: &str) -> Error {
    match error {
        Error::Malformed { format, fault, offset } => {
            Error::Malformed { format, fault: format!("key {key}: {fault}"), offset }
        }
        error => error,
    }
}

/// Bytes of a tensor, or what is wrong with its shape.
fn n_bytes(format: Format, dims: [u64; MAX_DIMS]) -> std::result::Result<u64, String> {
    if dims.contains(&0) {
        return Err(format!("shape {dims:?} has a dimension of 0"));
    }
    let [n_in, rows @ ..] = dims;
    let too_large = || format!("shape {dims:?} overflows");
    let n_in = usize::try_from(n_in).map_err(|_| too_large())?;
    if !n_in.is_multiple_of(format.block_len()) {
        return Err(format!(
            "rows of {n_in} values are no multiple of {}'s block of {}",
            format.name(),
            format.block_len()
        ));
    }
    let row = format.row_bytes(n_in).and_then(|b| u64::try_from(b).ok()).ok_or_else(too_large)?;
    // The number of values must fit too: other code multiplies the dimensions.
    dims.iter().try_fold(4u64, |n, &d| n.checked_mul(d)).ok_or_else(too_large)?;
    rows.iter().try_fold(row, |n, &d| n.checked_mul(d)).ok_or_else(too_large)
}

/// The error for a tensor type that pith doesn't decode, by ggml's name where it has one.
fn unknown_format(name: &str, id: u32) -> Error {
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
        _ => {
            return Error::malformed("GGUF", format!("tensor {name}: type {id} does not exist"));
        }
    };
    Error::Unsupported(format!("tensor {name} is stored as {known}, which pith does not decode"))
}
