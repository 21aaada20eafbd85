//! `torch.save` files: the state dict in `data.pkl`, its storages beside it in the archive.

use super::{
    Checksum, Data, Entry, Leftover,
    pickle::{Pickle, Tensor},
    state_dict, zip,
};
use pith::{Error, Result};
use std::collections::HashMap;

/// The tensors of the archive `file` in order of the state dict, and what else lies in it.
///
/// # Errors
/// [`Error::Malformed`] and [`Error::Unsupported`] as [`zip::entries`] and [`Pickle::parse`]; for
/// big-endian files; for storages that are absent or whose length differs from the entry's.
pub fn read(file: &[u8]) -> Result<(Vec<Entry>, Vec<Leftover>)> {
    let archive = Archive::open(file)?;
    let pickle = Pickle::parse(archive.require("data.pkl")?.bytes(file)?)?;
    state_dict::read(&pickle, file.len(), |name, tensor| archive.resolve(name, tensor))
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
        let bytes = storage.whole.checked_mul(storage.dtype.bits()).map(|bits| bits / 8);
        if bytes != Some(entry.data.len()) {
            return Err(Error::malformed(
                "pickle",
                format!(
                    "the storage of `{name}` has {} elements of {}, its entry `{}` has {} bytes",
                    storage.whole,
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
