//! `torch.save` files: the state dict in `data.pkl`, its storages beside it in the archive.

use super::{
    Checksum, Data, Dtype, Entry, Leftover,
    pickle::{Node, Pickle, Ref, Tensor},
    zip,
};
use pith::{Error, Result};
use std::collections::{HashMap, HashSet};

/// Keys under which training programs keep the state dict beside other things.
const WRAPPERS: &[&str] = &["state_dict", "model", "module"];
/// Wrappers inside each other.
const MAX_WRAPPERS: usize = 4;
/// A view may repeat elements (stride 0); all tensors together may be this often the file.
const MAX_EXPANSION: usize = 4;

/// The tensors of the archive `file` in order of the state dict, and what else lies in it.
///
/// # Errors
/// [`Error::Malformed`] and [`Error::Unsupported`] as [`zip::entries`] and [`Pickle::parse`]; for
/// big-endian files; for storages that are absent or whose length differs from the entry's.
pub fn read(file: &[u8]) -> Result<(Vec<Entry>, Vec<Leftover>)> {
    let archive = Archive::open(file)?;
    let pickle = Pickle::parse(archive.require("data.pkl")?.bytes(file)?)?;
    let (pairs, mut leftovers) = state_dict(&pickle)?;
    let mut names = HashSet::new();
    let mut entries = Vec::new();
    let mut total = 0usize;
    for &(key, value) in pairs {
        let name = key_name(&pickle, key)?;
        if !names.insert(name) {
            return Err(Error::malformed("pickle", format!("tensor `{name}` is stored twice")));
        }
        match pickle.get(value) {
            Node::Tensor(tensor) => {
                let entry = archive.resolve(name, tensor)?;
                let bytes =
                    entry.shape.iter().product::<usize>().saturating_mul(entry.dtype.bits());
                total = total.saturating_add(bytes / 8);
                entries.push(entry);
            }
            other => leftovers.push(Leftover {
                name: name.to_owned(),
                what: describe(other),
                beside: false,
            }),
        }
    }
    if total > file.len().saturating_mul(MAX_EXPANSION) {
        return Err(Error::malformed(
            "pickle",
            format!("its tensors take {total} bytes out of a file of {}", file.len()),
        ));
    }
    Ok((entries, leftovers))
}

/// The entries of one archive by their name behind the archive's folder.
struct Archive<'a> {
    entries: HashMap<&'a str, zip::Entry<'a>>,
}

impl<'a> Archive<'a> {
    fn open(file: &'a [u8]) -> Result<Self> {
        let entries = zip::entries(file)?;
        let is_pickle = |entry: &&zip::Entry<'a>| {
            entry.name.strip_suffix("/data.pkl").is_some_and(|folder| !folder.contains('/'))
        };
        let mut pickles = entries.iter().filter(is_pickle);
        let (Some(first), None) = (pickles.next(), pickles.next()) else {
            return Err(Error::Unsupported(
                "a zip archive without exactly one `<name>/data.pkl` isn't from torch.save".into(),
            ));
        };
        let folder = &first.name[..first.name.len() - "data.pkl".len()];
        let inside =
            |entry: &zip::Entry<'a>| Some((entry.name.strip_prefix(folder)?, entry.clone()));
        let archive = Archive { entries: entries.iter().filter_map(inside).collect() };
        if let Some(order) = archive.entries.get("byteorder") {
            let order = order.bytes(file)?;
            if order != b"little" {
                return Err(Error::Unsupported(format!(
                    "byte order `{}`; save the file on a little-endian machine",
                    String::from_utf8_lossy(&order[..order.len().min(16)])
                )));
            }
        }
        Ok(archive)
    }

    fn require(&self, name: &str) -> Result<&zip::Entry<'a>> {
        self.entries
            .get(name)
            .ok_or_else(|| Error::malformed("zip", format!("entry `{name}` is missing")))
    }

    /// The tensor with its storage's place in the file.
    fn resolve(&self, name: &str, tensor: &Tensor<'_>) -> Result<Entry> {
        let storage = &tensor.storage;
        let entry = self.require(&format!("data/{}", storage.key))?;
        let bytes = storage.len.checked_mul(storage.dtype.bits()).map(|bits| bits / 8);
        if bytes != Some(entry.data.len()) {
            return Err(Error::malformed(
                "pickle",
                format!(
                    "the storage of `{name}` has {} elements of {}, its entry `{}` has {} bytes",
                    storage.len,
                    storage.dtype.name(),
                    entry.name,
                    entry.data.len()
                ),
            ));
        }
        Ok(Entry {
            name: name.to_owned(),
            dtype: storage.dtype,
            shape: tensor.shape.clone(),
            strides: tensor.strides.clone(),
            offset: tensor.offset,
            data: Data::Mapped { range: entry.data.clone(), crc: Some(Checksum::Crc32(entry.crc)) },
        })
    }
}

type Pairs = [(Ref, Ref)];

/// Unwraps `{"model": {...}, "epoch": 3}` until the dict of tensors; what lies beside a wrapper is
/// left over.
fn state_dict<'p>(pickle: &'p Pickle<'_>) -> Result<(&'p Pairs, Vec<Leftover>)> {
    let Node::Dict(root) = pickle.root() else {
        let what = describe(pickle.root());
        return Err(Error::Unsupported(format!(
            "the pickle holds {what}, not a dict of tensors; save model.state_dict()"
        )));
    };
    let mut pairs: &Pairs = root;
    let mut leftovers = Vec::new();
    for _ in 0..MAX_WRAPPERS {
        let inner = |&(key, value): &(Ref, Ref)| match (pickle.get(key), pickle.get(value)) {
            (Node::Str(name), Node::Dict(inner)) if WRAPPERS.contains(name) => Some((*name, inner)),
            _ => None,
        };
        let mut wrapped = pairs.iter().filter_map(inner);
        let Some((wrapper, inner)) = wrapped.next() else {
            break;
        };
        if let Some((second, _)) = wrapped.next() {
            return Err(Error::Unsupported(format!(
                "both `{wrapper}` and `{second}` hold a state dict; save the one that is meant"
            )));
        }
        for &(key, value) in pairs {
            let name = key_name(pickle, key)?;
            if name != wrapper {
                let what = describe(pickle.get(value));
                leftovers.push(Leftover { name: name.to_owned(), what, beside: true });
            }
        }
        pairs = inner;
    }
    Ok((pairs, leftovers))
}

fn key_name<'a>(pickle: &Pickle<'a>, key: Ref) -> Result<&'a str> {
    match pickle.get(key) {
        Node::Str(name) => Ok(name),
        _ => Err(Error::malformed("pickle", "a key of the state dict is no string")),
    }
}

fn describe(node: &Node<'_>) -> &'static str {
    match node {
        Node::Dict(_) => "a dict",
        Node::List(_) | Node::Tuple(_) => "a list",
        Node::Str(_) => "a string",
        Node::Int(_) | Node::Float(_) | Node::Bool(_) => "a number",
        Node::None => "None",
        Node::Tensor(tensor) if matches!(tensor.storage.dtype, Dtype::Other { .. }) => {
            "an integer tensor"
        }
        Node::Tensor(_) => "a tensor",
        _ => "an object",
    }
}
