//! `torch.save` streams as PyTorch wrote them from 0.1.10 to 1.5, and still writes with
//! `_use_new_zipfile_serialization=False`: `_legacy_save` in `torch/serialization.py`.
//!
//! Five pickles behind each other: a magic number, the stream's version, what the machine was like,
//! the object, and the list of its storages' keys. Then the storages in that order, each a count of
//! its elements in 8 bytes, and the elements, little-endian on any machine.

use super::{
    Data, Entry, Leftover,
    pickle::{MAX_NODES, Node, Pickle, Storage, Tensor},
    state_dict,
};
use pith::{Error, Result};
use std::{
    collections::{HashMap, hash_map},
    ops::Range,
};

/// LONG1, ten bytes: 0x1950a86a20f9469cfc6c; then STOP.
const MAGIC: [u8; 13] =
    [0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.'];
/// The only version of the stream that there is.
const VERSION: i64 = 1001;
/// Values of the pickles beside the object's: a key for each storage, and its place in the memo.
const MAX_KEYS: usize = 1 << 18;

fn fault(at: usize, what: impl Into<String>) -> Error {
    Error::malformed_at("torch stream", at as u64, what)
}

/// Whether `file` begins as a legacy stream does.
pub fn is_legacy(file: &[u8]) -> bool {
    magic_end(file).is_some()
}

/// Whether `file` is a tar archive: what torch.save wrote before it wrote streams.
pub fn is_tar(file: &[u8]) -> bool {
    file.get(257..262) == Some(b"ustar")
}

/// Where the pickle with the magic number ends.
fn magic_end(file: &[u8]) -> Option<usize> {
    let &[0x80, 2..=5, ref rest @ ..] = file else {
        return None;
    };
    // Protocol 4 puts a FRAME before it.
    let rest = match rest {
        [0x95, 13, 0, 0, 0, 0, 0, 0, 0, rest @ ..] => rest,
        rest => rest,
    };
    Some(file.len() - rest.strip_prefix(&MAGIC)?.len())
}

/// The tensors of the stream `file` in order of the state dict, and what else lies in it.
///
/// # Errors
/// [`Error::Malformed`] and [`Error::Unsupported`] as [`Pickle::parse`]; for another version or byte
/// order; for storages that are absent, listed twice, or of another length than their count.
pub fn read(file: &[u8]) -> Result<(Vec<Entry>, Vec<Leftover>)> {
    let start = magic_end(file).ok_or_else(|| fault(0, "no magic number"))?;
    let start = check_version(file, start)?;
    let start = check_byte_order(file, start)?;
    let (object, start) = Pickle::parse_at(file, start, MAX_NODES)?;
    let (keys, start) = Pickle::parse_at(file, start, MAX_KEYS)?;
    let places = places(file, &object, &keys, start)?;
    state_dict::read(&object, file.len(), |name, tensor| resolve(&places, name, tensor))
}

/// Gives the offset behind the version's pickle.
fn check_version(file: &[u8], start: usize) -> Result<usize> {
    let (version, end) = Pickle::parse_at(file, start, MAX_KEYS)?;
    match version.root() {
        &Node::Int(VERSION) => Ok(end),
        Node::Int(other) => Err(Error::Unsupported(format!(
            "version {other} of torch.save's stream; {VERSION} is known"
        ))),
        _ => Err(fault(start, "a version that is no number")),
    }
}

/// Gives the offset behind the pickle that says what the machine was like.
fn check_byte_order(file: &[u8], start: usize) -> Result<usize> {
    let (machine, end) = Pickle::parse_at(file, start, MAX_KEYS)?;
    let Node::Dict(pairs) = machine.root() else {
        return Err(fault(start, "what the machine was like is no dict"));
    };
    let order = pairs.iter().find(|(key, _)| *machine.get(*key) == Node::Str("little_endian"));
    match order.map(|&(_, value)| machine.get(value)) {
        Some(Node::Bool(true)) => Ok(end),
        Some(Node::Bool(false)) => Err(Error::Unsupported(
            "a torch.save stream of a big-endian machine; save the file on a little-endian one"
                .into(),
        )),
        _ => Err(fault(start, "no flag `little_endian`")),
    }
}

/// Places of the storages' bytes by key, after checking that they fill the file from `at` on.
fn places<'a>(
    file: &[u8],
    object: &Pickle<'a>,
    keys: &Pickle<'a>,
    mut at: usize,
) -> Result<HashMap<&'a str, Range<usize>>> {
    let named = storages(object)?;
    let Node::List(list) = keys.root() else {
        return Err(fault(at, "the storages' keys are no list"));
    };
    let mut places = HashMap::new();
    for &key in list {
        let &Node::Str(key) = keys.get(key) else {
            return Err(fault(at, "a storage's key is no string"));
        };
        let storage = named.get(key).ok_or_else(|| {
            fault(at, format!("storage `{key}` belongs to no tensor, so that its type is unknown"))
        })?;
        let Some((count, _)) = file[at..].split_first_chunk::<8>() else {
            return Err(fault(at, format!("the file ends before storage `{key}`")));
        };
        let count = u64::from_le_bytes(*count);
        if count != storage.whole as u64 {
            return Err(fault(
                at,
                format!("storage `{key}` has {count} elements, its tensors say {}", storage.whole),
            ));
        }
        let start = at + 8;
        let bytes = storage.whole.checked_mul(storage.dtype.bits() / 8);
        let end = bytes.and_then(|bytes| start.checked_add(bytes));
        let end = end.filter(|&end| end <= file.len()).ok_or_else(|| {
            let left = file.len() - start;
            fault(at, format!("storage `{key}` of {count} elements, {left} bytes are left"))
        })?;
        if places.insert(key, start..end).is_some() {
            return Err(fault(at, format!("storage `{key}` is listed twice")));
        }
        at = end;
    }
    if at != file.len() {
        return Err(fault(at, "bytes follow the last storage"));
    }
    Ok(places)
}

/// The storages of the object by key; those of one key must agree.
fn storages<'p, 'a>(object: &'p Pickle<'a>) -> Result<HashMap<&'a str, &'p Storage<'a>>> {
    let mut named: HashMap<&str, &Storage<'_>> = HashMap::new();
    for storage in object.storages() {
        match named.entry(storage.key) {
            hash_map::Entry::Vacant(vacant) => {
                vacant.insert(storage);
            }
            hash_map::Entry::Occupied(other) => {
                let (a, b) = (other.get(), storage);
                if (a.dtype, a.whole) != (b.dtype, b.whole) {
                    return Err(Error::malformed(
                        "torch stream",
                        format!(
                            "storage `{}` has {} elements of {}, and {} of {}",
                            a.key,
                            a.whole,
                            a.dtype.name(),
                            b.whole,
                            b.dtype.name()
                        ),
                    ));
                }
            }
        }
    }
    Ok(named)
}

fn resolve(places: &HashMap<&str, Range<usize>>, name: &str, tensor: &Tensor<'_>) -> Result<Entry> {
    let storage = &tensor.storage;
    let range = places.get(storage.key).ok_or_else(|| {
        Error::malformed(
            "torch stream",
            format!("storage `{}` of tensor `{name}` isn't in the file", storage.key),
        )
    })?;
    Ok(Entry {
        name: name.to_owned(),
        dtype: storage.dtype,
        shape: tensor.shape.clone(),
        strides: tensor.strides.clone(),
        offset: tensor.offset,
        data: Data::Mapped { range: range.clone(), crc: None },
    })
}
