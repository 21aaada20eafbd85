//! A dataset as an entry: its type, its sizes, and where its bytes are.

use super::{
    chunks::{Chunked, Swapped},
    fault,
    file::{Cursor, File},
    filters::Filters,
    object::{self, Message, kind},
};
use crate::source::{Data, Dtype, Entry, contiguous};
use pith::{Error, Result};
use std::sync::Arc;

/// More dimensions than any weight has.
const MAX_DIMS: usize = 8;

/// What an object that is no group is.
pub(super) enum Found {
    /// Numbers.
    Tensor {
        /// The dataset.
        entry: Entry,
        /// What it takes in memory, with the padding of its chunks.
        n_bytes: usize,
    },
    /// Something else, for people.
    Other(&'static str),
}

/// The object with these messages, called `name`.
pub(super) fn read(file: &File<'_>, name: &str, messages: &[Message<'_>]) -> Result<Found> {
    let require = |kind, what: &str| {
        object::find(messages, kind)?.ok_or_else(|| fault(format!("it has no {what}")))
    };
    if object::find(messages, kind::LAYOUT)?.is_none() {
        return Ok(Found::Other("neither a group nor a dataset"));
    }
    let Type { dtype, big_endian } = match datatype(require(kind::DATATYPE, "type")?)? {
        Ok(numbers) => numbers,
        Err(what) => return Ok(Found::Other(what)),
    };
    let Some(shape) = dataspace(require(kind::DATASPACE, "size")?)? else {
        return Ok(Found::Other("a dataset without values"));
    };
    if object::find(messages, kind::EXTERNAL)?.is_some() {
        return Err(Error::Unsupported("its values lie in another file".into()));
    }
    let width = dtype.bits() / 8;
    let n_bytes = shape.iter().try_fold(width, |n, &dim| n.checked_mul(dim));
    let n_bytes = n_bytes.ok_or_else(|| fault(format!("a shape of {shape:?}")))?;
    let filters = match object::find(messages, kind::FILTERS)? {
        Some(body) => Filters::read(body)?,
        None => Filters::default(),
    };
    let swapped = big_endian && width > 1;
    let body = require(kind::LAYOUT, "layout")?;
    let (data, n_bytes) = match layout(file, body, n_bytes)? {
        Layout::Chunks { version, body } => {
            let swap = if swapped { width } else { 1 };
            let chunked = Chunked::read(file, version, body, &shape, width, filters, swap)?;
            let n_bytes = chunked.n_bytes();
            (Data::Packed(Arc::new(chunked)), n_bytes)
        }
        Layout::Bytes(_) if !filters.is_empty() => {
            return Err(fault("filters on values that aren't in chunks"));
        }
        Layout::Bytes(range) if swapped => {
            (Data::Packed(Arc::new(Swapped { range, width })), n_bytes)
        }
        Layout::Bytes(range) => (Data::Mapped { range, crc: None }, n_bytes),
    };
    let strides = contiguous(&shape);
    let entry = Entry { name: name.to_owned(), dtype, shape, strides, offset: 0, data };
    Ok(Found::Tensor { entry, n_bytes })
}

/// Sizes, slowest first; `None` for a dataset that holds nothing.
fn dataspace(mut body: Cursor<'_>) -> Result<Option<Vec<usize>>> {
    let version = body.u8()?;
    let n_dims = body.size(1)?;
    body.skip(1)?; // whether maximal sizes follow
    let is_null = match version {
        1 => {
            body.skip(5)?;
            false
        }
        2 => body.u8()? == 2,
        _ => return Err(Error::Unsupported(format!("a size of version {version}"))),
    };
    if n_dims > MAX_DIMS {
        return Err(fault(format!("{n_dims} dimensions")));
    }
    let shape = (0..n_dims).map(|_| body.size(8)).collect::<Result<Vec<_>>>()?;
    Ok(if is_null { None } else { Some(shape) })
}

/// A type of numbers.
struct Type {
    dtype: Dtype,
    big_endian: bool,
}

/// The floats that are weights: bytes, then where mantissa and exponent are and how long, and bias.
const FLOATS: &[(usize, [u8; 4], u32, Dtype)] = &[
    (8, [52, 11, 0, 52], 1023, Dtype::F64),
    (4, [23, 8, 0, 23], 127, Dtype::F32),
    (2, [10, 5, 0, 10], 15, Dtype::F16),
    (2, [7, 8, 0, 7], 127, Dtype::BF16),
];
/// Integers by bytes, unsigned first.
const INTEGERS: &[(usize, [&str; 2])] =
    &[(1, ["U8", "I8"]), (2, ["U16", "I16"]), (4, ["U32", "I32"]), (8, ["U64", "I64"])];

/// The type of a dataset, or what it is if no number.
fn datatype(mut body: Cursor<'_>) -> Result<std::result::Result<Type, &'static str>> {
    let class = body.u8()? & 15;
    let bits = body.uint(3)?;
    let size = body.size(4)?;
    let big_endian = bits & 1 != 0;
    let dtype = match class {
        0 => {
            let signed = usize::from(bits & 1 << 3 != 0);
            let names = INTEGERS.iter().find(|(bytes, _)| *bytes == size).map(|(_, names)| names);
            let names = names.ok_or_else(|| fault(format!("integers of {size} bytes")))?;
            Dtype::Other { name: names[signed], bits: 8 * size }
        }
        1 => float(body, bits, size)?,
        3 | 9 => return Ok(Err("strings or lists")),
        8 => return Ok(Err("flags or other named values")),
        _ => return Ok(Err("values that are no numbers")),
    };
    Ok(Ok(Type { dtype, big_endian }))
}

fn float(mut body: Cursor<'_>, bits: u64, size: usize) -> Result<Dtype> {
    let (offset, precision) = (body.size(2)?, body.size(2)?);
    let fields = [body.u8()?, body.u8()?, body.u8()?, body.u8()?];
    let bias = body.u32()?;
    let (sign, implied_one, vax) = (bits >> 8 & 255, bits >> 4 & 3 == 2, bits & 1 << 6 != 0);
    let plain = offset == 0 && precision == 8 * size && sign + 1 == precision as u64;
    let known = FLOATS.iter().find(|(bytes, of, at, _)| (*bytes, *of, *at) == (size, fields, bias));
    match known {
        Some(&(.., dtype)) if plain && implied_one && !vax => Ok(dtype),
        _ => Err(Error::Unsupported(format!(
            "floats of {size} bytes that are none of F64, F32, F16 and BF16"
        ))),
    }
}

/// Where values are.
enum Layout<'a> {
    /// Bytes of the file.
    Bytes(std::ops::Range<usize>),
    /// In chunks, as the rest of the message says.
    Chunks { version: u8, body: Cursor<'a> },
}

fn layout<'a>(file: &File<'a>, mut body: Cursor<'a>, n_bytes: usize) -> Result<Layout<'a>> {
    let version = body.u8()?;
    if !(3..=5).contains(&version) {
        return Err(Error::Unsupported(format!("a layout of version {version}")));
    }
    let agree = |stored: usize| match stored == n_bytes {
        true => Ok(()),
        false => Err(fault(format!("its values take {n_bytes} bytes, {stored} are stored"))),
    };
    match body.u8()? {
        0 => {
            let stored = body.size(2)?;
            agree(stored)?;
            let at = body.at();
            body.skip(stored)?;
            Ok(Layout::Bytes(at..at + stored))
        }
        1 => {
            let (address, stored) = (body.address()?, body.size(8)?);
            agree(stored)?;
            match address {
                None if n_bytes == 0 => Ok(Layout::Bytes(0..0)),
                None => Err(fault("its values were never written")),
                Some(address) => Ok(Layout::Bytes(file.data(address, stored)?)),
            }
        }
        2 => Ok(Layout::Chunks { version, body }),
        3 => Err(Error::Unsupported("its values are put together from other datasets".into())),
        class => Err(fault(format!("a layout of class {class}"))),
    }
}
