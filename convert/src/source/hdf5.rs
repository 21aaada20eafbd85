//! HDF5, as Keras and h5py write weights: groups of groups, and datasets whose path is the name.
//!
//! The format is that of "HDF5 File Format Specification Version 3.0" (The HDF Group); this reader
//! knows the part of it that weights are in: groups of either kind, contiguous, compact and chunked
//! datasets, gzip, shuffle and Fletcher-32. Attributes are never looked at. What can lead out of the
//! file or to what was never written is refused by name: links but hard ones, external and virtual
//! storage, shared types, fill values, other filters.
//!
//! Bytes of structure are charged against a budget of a few times the file's length as they are
//! read, and an object is visited once, so that no loop or shared node of a hostile file makes work.

mod chunks;
mod dataset;
mod file;
mod filters;
mod group;
mod heap;
mod object;

use super::{Entry, Leftover};
use file::File;
use pith::{Error, Result};
use std::collections::HashSet;

/// All tensors together, unpacked and with the padding of their chunks, may be this often the file.
const MAX_EXPANSION: usize = 4;
/// Groups inside each other.
const MAX_DEPTH: usize = 32;
/// The longest path of a dataset.
const MAX_PATH: usize = 1024;
/// All paths together may be this often the file.
const MAX_PATHS: usize = 16;

fn fault(what: impl Into<String>) -> Error {
    Error::malformed("HDF5", what)
}

/// The datasets of the HDF5 `file`, named by their paths without a leading slash, and what else it
/// holds.
///
/// # Errors
/// [`Error::Malformed`] for a truncated or contradictory file; [`Error::Unsupported`], naming the
/// path, for a part of HDF5 that isn't read.
pub fn read(file: &[u8]) -> Result<(Vec<Entry>, Vec<Leftover>)> {
    let file = File::new(file);
    let mut todo = vec![(String::new(), file.root()?)];
    let mut seen = HashSet::new();
    let (mut entries, mut leftovers) = (Vec::new(), Vec::new());
    let (mut total, mut paths) = (0usize, 0);
    while let Some((path, address)) = todo.pop() {
        if !seen.insert(address) {
            return Err(fault(format!("`{path}` is linked twice, or a group holds itself")));
        }
        let messages = object::messages(&file, address)
            .map_err(|error| at_path(error, if path.is_empty() { "/" } else { &path }))?;
        if let Some(links) = group::links(&file, &messages, &path)? {
            for (name, address) in links {
                let path = join(&path, &name)?;
                paths += path.len();
                todo.push((path, address));
            }
            if paths > file.len().saturating_mul(MAX_PATHS) {
                return Err(fault("its paths take more bytes than the file"));
            }
            continue;
        }
        match dataset::read(&file, &path, &messages).map_err(|error| at_path(error, &path))? {
            dataset::Found::Tensor { entry, n_bytes } => {
                total = total.saturating_add(n_bytes);
                entries.push(entry);
            }
            dataset::Found::Other(what) => {
                leftovers.push(Leftover::new(path, what, false));
            }
        }
    }
    if total > file.len().saturating_mul(MAX_EXPANSION) {
        return Err(fault(format!(
            "its tensors take {total} bytes out of a file of {}",
            file.len()
        )));
    }
    entries.reverse();
    Ok((entries, leftovers))
}

/// The path of `name` in the group `path`.
fn join(path: &str, name: &str) -> Result<String> {
    if name.is_empty() || name.contains(['/', '\0']) || matches!(name, "." | "..") {
        return Err(fault(format!("a link in `{path}` is called {name:?}")));
    }
    let joined = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
    if joined.len() > MAX_PATH || joined.split('/').count() > MAX_DEPTH {
        return Err(fault(format!("`{}...` lies too deep", &path[..path.floor_char_boundary(64)])));
    }
    Ok(joined)
}

/// Puts the path of an object into an error about it.
fn at_path(error: Error, path: &str) -> Error {
    match error {
        Error::Malformed { format, fault, offset } => {
            Error::Malformed { format, fault: format!("`{path}`: {fault}"), offset }
        }
        Error::Unsupported(what) => Error::Unsupported(format!("`{path}`: {what}")),
        other => other,
    }
}
