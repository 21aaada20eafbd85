//! A file's bytes: memory-mapped, or owned. The one place that maps files.
#![allow(unsafe_code)]

use std::{
    fmt,
    fs::{self, File},
    ops::Deref,
    path::Path,
};

use crate::{Error, Result};

/// The bytes of a file, read-only and shared between threads.
///
/// A map shows the file as it is. If another process shortens the file while it is mapped, reading
/// past the new end makes the system end this process (SIGBUS); if it writes into the file, what
/// was checked when the file was parsed may no longer hold, and Rust's promise that bytes behind a
/// `&[u8]` stay the same is broken. No program can rule that out, so it is asked of whoever owns
/// the file: replace a model by a rename, as pith's own writer does, which leaves existing maps
/// with the old contents; or read the file into memory and use [`Bytes::from_vec`].
///
/// In a build without the feature `mmap` nothing is mapped: [`Bytes::map`] reads the file into memory.
pub struct Bytes(Inner);

enum Inner {
    Mapped(imp::Map),
    Owned(Vec<u8>),
    Lent(&'static [u8]),
}

impl Bytes {
    /// Maps a file read-only, or reads it where the build has no maps.
    ///
    /// # Errors
    /// The file can't be opened or mapped, or it is no regular file.
    pub fn map(path: &Path) -> Result<Bytes> {
        // Asked before opening: opening a named pipe waits for a writer, maybe for ever.
        let kind = fs::metadata(path).map_err(Error::io("open", path))?;
        if !kind.is_file() {
            return Err(Error::Invalid(format!("{} is not a regular file", path.display())));
        }
        let file = File::open(path).map_err(Error::io("open", path))?;
        let metadata = file.metadata().map_err(Error::io("read the size of", path))?;
        if metadata.len() == 0 {
            return Ok(Bytes::from_vec(Vec::new())); // an empty map is an error to the system
        }
        Ok(Bytes(Inner::Mapped(imp::map(file, path)?)))
    }

    /// Bytes that are in memory already.
    pub fn from_vec(bytes: Vec<u8>) -> Bytes {
        Bytes(Inner::Owned(bytes))
    }

    /// Bytes that stay where they are: part of the program, or memory that outlives all use of them.
    pub fn from_static(bytes: &'static [u8]) -> Bytes {
        Bytes(Inner::Lent(bytes))
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Inner::Mapped(map) => map,
            Inner::Owned(bytes) => bytes,
            Inner::Lent(bytes) => bytes,
        }
    }
}

/// The hash of nothing.
pub(crate) const FNV: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a (Fowler, Noll, Vo) with 64 bits, begun by `hash`.
pub(crate) fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(feature = "mmap")]
mod imp {
    use super::*;

    pub type Map = memmap2::Mmap;

    pub fn map(file: File, path: &Path) -> Result<Map> {
        // SAFETY: the map is private to `Bytes`, which only ever gives it out as `&[u8]`, so that
        // nothing in this process writes to it, and it lives as long as any borrow of it. That no
        // other process shortens or changes the file can't be checked here or anywhere: it is the
        // condition in the type's documentation.
        unsafe { Map::map(&file) }.map_err(Error::io("map", path))
    }
}

#[cfg(not(feature = "mmap"))]
mod imp {
    use std::io::Read;

    use super::*;

    pub type Map = Vec<u8>;

    pub fn map(mut file: File, path: &Path) -> Result<Map> {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(Error::io("read", path))?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_what_the_file_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some");
        fs::write(&path, b"abc").unwrap();
        assert_eq!(*Bytes::map(&path).unwrap(), *b"abc");
        fs::write(&path, b"").unwrap();
        assert!(Bytes::map(&path).unwrap().is_empty());
    }

    #[test]
    fn a_map_keeps_the_contents_that_a_rename_replaces() {
        let folder = tempfile::tempdir().unwrap();
        let (path, new) = (folder.path().join("model"), folder.path().join("new"));
        fs::write(&path, b"old").unwrap();
        fs::write(&new, b"").unwrap();
        let map = Bytes::map(&path).unwrap();
        fs::rename(&new, &path).unwrap();
        assert_eq!(*map, *b"old");
    }

    #[test]
    fn what_is_no_file_is_an_error_with_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let fault = |path: &Path| Bytes::map(path).err().unwrap().to_string();
        let absent = folder.path().join("absent");
        assert!(fault(&absent).starts_with(&format!("cannot open {}: ", absent.display())));
        assert_eq!(
            fault(folder.path()),
            format!("{} is not a regular file", folder.path().display())
        );
    }
}
