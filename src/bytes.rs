//! A file's bytes: memory-mapped, or owned. The one place that maps files.
#![allow(unsafe_code)]

use std::{fs::File, ops::Deref, path::Path};

use crate::{Error, Result};

/// The bytes of a file, read-only and shared between threads.
///
/// A map shows the file as it is: if another process shortens it while it is in use, the system
/// ends this process (SIGBUS); if it changes the file's contents, results change. Files that pith
/// writes are put in place whole by a rename, which leaves existing maps alone.
pub struct Bytes(Inner);

enum Inner {
    Mapped(memmap2::Mmap),
    Owned(Vec<u8>),
}

impl Bytes {
    /// Maps a file read-only.
    ///
    /// # Errors
    /// The file can't be opened or mapped, or it is no regular file.
    pub fn map(path: &Path) -> Result<Bytes> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let metadata = file.metadata().map_err(Error::io("read the size of", path))?;
        if !metadata.is_file() {
            return Err(Error::Invalid(format!("{} is not a regular file", path.display())));
        }
        if metadata.len() == 0 {
            return Ok(Bytes::from_vec(Vec::new())); // an empty map is an error to the system
        }
        // SAFETY: the map is read-only and only read through `&[u8]`. That the file doesn't
        // shrink or change meanwhile can't be checked here; the type's documentation states it.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io("map", path))?;
        Ok(Bytes(Inner::Mapped(map)))
    }

    /// Bytes that are in memory already.
    pub fn from_vec(bytes: Vec<u8>) -> Bytes {
        Bytes(Inner::Owned(bytes))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Inner::Mapped(map) => map,
            Inner::Owned(bytes) => bytes,
        }
    }
}
