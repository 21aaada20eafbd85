//! Flax parameters in msgpack: dicts of dicts of arrays, as `flax.serialization` writes them.
//!
//! An array is msgpack's extension 1, which holds `[shape, type, bytes]`; one of more than 2^30 bytes
//! is a dict `{"__msgpack_chunked_array__": true, "shape": {...}, "chunks": {...}}` whose parts are
//! joined when they are asked for. A tensor's name is its keys with `/` between them.

use super::{Data, Dtype, Entry, Leftover, Packed, contiguous};
use pith::{Error, Result};
use rmp::{Marker, decode};
use std::{collections::HashSet, fmt::Display, ops::Range, sync::Arc};

/// Dicts inside each other.
const MAX_DEPTH: usize = 32;
/// The longest name.
const MAX_NAME: usize = 1024;
/// All names together may be this often the file.
const MAX_NAMES: usize = 16;
/// More dimensions than any weight has.
const MAX_DIMS: usize = 8;
/// Marks a dict as an array in parts; Flax writes it first.
const IN_PARTS: &str = "__msgpack_chunked_array__";
/// Extensions: an array, a number that NumPy made.
const ARRAY: i8 = 1;
const SCALAR: i8 = 3;

/// NumPy's names of types.
const DTYPES: &[(&str, Dtype)] = &[
    ("float64", Dtype::F64),
    ("float32", Dtype::F32),
    ("float16", Dtype::F16),
    ("bfloat16", Dtype::BF16),
    ("float8_e4m3fn", Dtype::F8E4M3),
    ("float8_e5m2", Dtype::F8E5M2),
    ("int64", Dtype::Other { name: "I64", bits: 64 }),
    ("uint64", Dtype::Other { name: "U64", bits: 64 }),
    ("int32", Dtype::Other { name: "I32", bits: 32 }),
    ("uint32", Dtype::Other { name: "U32", bits: 32 }),
    ("int16", Dtype::Other { name: "I16", bits: 16 }),
    ("uint16", Dtype::Other { name: "U16", bits: 16 }),
    ("int8", Dtype::Other { name: "I8", bits: 8 }),
    ("uint8", Dtype::Other { name: "U8", bits: 8 }),
    ("bool", Dtype::Other { name: "BOOL", bits: 8 }),
];

fn fault(at: usize, what: impl Into<String>) -> Error {
    Error::malformed_at("msgpack", at as u64, what)
}

/// The arrays of the msgpack `file`, and what else it holds.
///
/// # Errors
/// [`Error::Malformed`], naming the tensor, for what isn't whole; [`Error::Unsupported`] for types and
/// values that Flax doesn't write.
pub fn read(file: &[u8]) -> Result<(Vec<Entry>, Vec<Leftover>)> {
    let mut reader = Reader { file, end: file.len(), at: 0 };
    let mut tree = Tree::default();
    let n = reader.map()?;
    tree.dict(&mut reader, "", n)?;
    match reader.left() {
        0 => Ok((tree.entries, tree.leftovers)),
        left => Err(fault(reader.at, format!("{left} bytes follow the parameters"))),
    }
}

/// What was found so far.
#[derive(Default)]
struct Tree {
    entries: Vec<Entry>,
    leftovers: Vec<Leftover>,
    names: HashSet<String>,
    /// Bytes of all names.
    n_names: usize,
}

impl Tree {
    /// The `n` pairs of the dict that is called `path`.
    fn dict(&mut self, reader: &mut Reader<'_>, path: &str, n: usize) -> Result<()> {
        for i in 0..n {
            let at = reader.at;
            let key = reader.text()?;
            if key == IN_PARTS {
                return match (i, n, path) {
                    (0, 3, path) if !path.is_empty() => self.parts(reader, path),
                    _ => Err(fault(at, format!("`{path}` holds a stray {IN_PARTS}"))),
                };
            }
            let name = if path.is_empty() { key.to_owned() } else { format!("{path}/{key}") };
            if key.is_empty() || name.len() > MAX_NAME || name.split('/').count() > MAX_DEPTH {
                return Err(fault(at, format!("a name of {} bytes in `{path}`", name.len())));
            }
            self.n_names += name.len();
            if self.n_names > reader.file.len().saturating_mul(MAX_NAMES) {
                return Err(fault(at, "its names take more bytes than the file"));
            }
            if !self.names.insert(name.clone()) {
                return Err(fault(at, format!("`{name}` is stored twice")));
            }
            self.value(reader, name)?;
        }
        Ok(())
    }

    fn value(&mut self, reader: &mut Reader<'_>, name: String) -> Result<()> {
        let at = reader.at;
        let scalar = match reader.marker()? {
            Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => {
                reader.at = at;
                let n = reader.map()?;
                return self.dict(reader, &name, n);
            }
            Marker::Null => 0,
            Marker::True | Marker::False | Marker::FixPos(_) | Marker::FixNeg(_) => 0,
            Marker::U8 | Marker::I8 => 1,
            Marker::U16 | Marker::I16 => 2,
            Marker::U32 | Marker::I32 | Marker::F32 => 4,
            Marker::U64 | Marker::I64 | Marker::F64 => 8,
            Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => {
                reader.at = at;
                reader.text()?;
                self.leftovers.push(Leftover::new(name, "a string", false));
                return Ok(());
            }
            Marker::FixArray(_) | Marker::Array16 | Marker::Array32 | Marker::Reserved => {
                return Err(Error::Unsupported(format!("`{name}` is a list; Flax writes none")));
            }
            _ => {
                reader.at = at;
                return self.extension(reader, name);
            }
        };
        reader.take(scalar)?;
        self.leftovers.push(Leftover::new(name, "a number", false));
        Ok(())
    }

    /// An array, or a number in the form of one.
    fn extension(&mut self, reader: &mut Reader<'_>, name: String) -> Result<()> {
        match reader.array(&name)? {
            (ARRAY, Array { dtype, shape, range }) => {
                let data = Data::Mapped { range, crc: None };
                self.push(name, dtype, shape, data);
            }
            (_, _) => self.leftovers.push(Leftover::new(name, "a number", false)),
        }
        Ok(())
    }

    fn push(&mut self, name: String, dtype: Dtype, shape: Vec<usize>, data: Data) {
        let strides = contiguous(&shape);
        self.entries.push(Entry { name, dtype, shape, strides, offset: 0, data });
    }

    /// The array in parts that is called `name`, behind its mark.
    fn parts(&mut self, reader: &mut Reader<'_>, name: &str) -> Result<()> {
        let at = reader.at;
        let wrong = |what: &str| fault(at, format!("`{name}`, an array in parts: {what}"));
        if reader.marker()? != Marker::True {
            return Err(wrong("its mark isn't true"));
        }
        reader.key("shape", name)?;
        let n_dims = reader.map()?;
        if n_dims > MAX_DIMS {
            return Err(wrong("too many dimensions"));
        }
        let mut shape = Vec::new();
        for i in 0..n_dims {
            reader.key(&i.to_string(), name)?;
            shape.push(reader.size()?);
        }
        reader.key("chunks", name)?;
        let n_parts = reader.map()?;
        let (mut ranges, mut dtype, mut n_bytes) = (Vec::new(), None, 0usize);
        for i in 0..n_parts {
            reader.key(&i.to_string(), name)?;
            let (kind, part) = reader.array(name)?;
            if kind != ARRAY
                || part.shape.len() != 1
                || *dtype.get_or_insert(part.dtype) != part.dtype
            {
                return Err(wrong("its parts differ"));
            }
            n_bytes = n_bytes.saturating_add(part.range.len());
            ranges.push(part.range);
        }
        let dtype = dtype.ok_or_else(|| wrong("it has none"))?;
        if byte_size(&shape, dtype) != Some(n_bytes) {
            return Err(wrong(&format!("a shape of {shape:?} in {n_bytes} bytes")));
        }
        self.push(name.to_owned(), dtype, shape, Data::Packed(Arc::new(Joined(ranges))));
        Ok(())
    }
}

/// Parts of one array.
#[derive(Debug)]
struct Joined(Vec<Range<usize>>);

impl Packed for Joined {
    fn unpack(&self, file: &[u8]) -> Result<Vec<u8>> {
        let parts: Vec<&[u8]> = self.0.iter().map(|range| &file[range.clone()]).collect();
        Ok(parts.concat())
    }
}

/// An array's type, sizes and place.
struct Array {
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

fn byte_size(shape: &[usize], dtype: Dtype) -> Option<usize> {
    shape.iter().try_fold(dtype.bits() / 8, |n, &dim| n.checked_mul(dim))
}

/// A cursor over the file or an extension in it.
struct Reader<'a> {
    file: &'a [u8],
    end: usize,
    at: usize,
}

impl<'a> Reader<'a> {
    fn left(&self) -> usize {
        self.end - self.at
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        if n > self.left() {
            return Err(fault(self.at, format!("{n} bytes wanted, {} are left", self.left())));
        }
        self.at += n;
        Ok(&self.file[self.at - n..self.at])
    }

    /// Lets a function of `rmp` read from here.
    fn with<T, E: Display>(
        &mut self,
        read: impl FnOnce(&mut &'a [u8]) -> std::result::Result<T, E>,
    ) -> Result<T> {
        let mut rest = &self.file[self.at..self.end];
        let value = read(&mut rest).map_err(|error| fault(self.at, error.to_string()))?;
        self.at = self.end - rest.len();
        Ok(value)
    }

    fn marker(&mut self) -> Result<Marker> {
        self.with(|rest| decode::read_marker(rest).map_err(|error| error.0))
    }

    /// The pairs of a dict; each takes two bytes at the least.
    fn map(&mut self) -> Result<usize> {
        let at = self.at;
        let n = self.with(decode::read_map_len)? as usize;
        match n <= self.left() / 2 {
            true => Ok(n),
            false => Err(fault(at, format!("a dict of {n} pairs in {} bytes", self.left()))),
        }
    }

    fn text(&mut self) -> Result<&'a str> {
        let at = self.at;
        let n = self.with(decode::read_str_len)? as usize;
        std::str::from_utf8(self.take(n)?).map_err(|_| fault(at, "a string that is no UTF-8"))
    }

    fn key(&mut self, wanted: &str, name: &str) -> Result<()> {
        let at = self.at;
        match self.text()? {
            got if got == wanted => Ok(()),
            got => Err(fault(at, format!("`{name}`: key `{wanted}` wanted, `{got}` found"))),
        }
    }

    fn size(&mut self) -> Result<usize> {
        self.with(decode::read_int)
    }

    /// An extension and the array in it.
    fn array(&mut self, name: &str) -> Result<(i8, Array)> {
        let at = self.at;
        let meta = self.with(decode::read_ext_meta)?;
        if !matches!(meta.typeid, ARRAY | SCALAR) {
            return Err(Error::Unsupported(format!(
                "`{name}` is msgpack's extension {}; Flax's arrays are {ARRAY}",
                meta.typeid
            )));
        }
        let start = self.at;
        self.take(meta.size as usize)?;
        let mut inner = Reader { file: self.file, end: self.at, at: start };
        let array = inner.triple(name)?;
        match inner.left() {
            0 => Ok((meta.typeid, array)),
            left => Err(fault(at, format!("`{name}`: {left} bytes follow its values"))),
        }
    }

    /// `[shape, type, bytes]`.
    fn triple(&mut self, name: &str) -> Result<Array> {
        let at = self.at;
        let n_parts = self.with(decode::read_array_len)?;
        let n_dims = self.with(decode::read_array_len)? as usize;
        if n_parts != 3 || n_dims > MAX_DIMS {
            return Err(fault(
                at,
                format!("`{name}` is no array of at most {MAX_DIMS} dimensions"),
            ));
        }
        let shape = (0..n_dims).map(|_| self.size()).collect::<Result<Vec<_>>>()?;
        let wanted = self.text()?;
        let dtype = DTYPES.iter().find(|(known, _)| *known == wanted);
        let dtype = dtype.map(|&(_, dtype)| dtype).ok_or_else(|| {
            Error::Unsupported(format!("tensor `{name}` has the unknown type `{wanted}`"))
        })?;
        let n = self.with(decode::read_bin_len)? as usize;
        let start = self.at;
        self.take(n)?;
        if byte_size(&shape, dtype) != Some(n) {
            return Err(fault(
                at,
                format!("tensor `{name}` of shape {shape:?} and type {wanted} in {n} bytes"),
            ));
        }
        Ok(Array { dtype, shape, range: start..start + n })
    }
}
