//! The files beside an output.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, ErrorKind, Read},
    path::{Path, PathBuf},
};

use crc32fast::Hasher;
use pith::{Error, Result};

use super::Start;

/// Bytes that are read at once.
pub(super) const CHUNK: usize = 1 << 18;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub n_bytes: u64,
    pub crc32: u32,
}

/// Reads a whole file.
pub(super) fn content_of(path: &Path) -> io::Result<Content> {
    let mut file = File::open(path)?;
    let (mut buffer, mut hasher, mut n_bytes) = (vec![0; CHUNK], Hasher::new(), 0);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Content { n_bytes, crc32: hasher.finalize() }),
            n => {
                hasher.update(&buffer[..n]);
                n_bytes += n as u64;
            }
        }
    }
}

/// The file `OUT.end`.
pub(super) fn beside(out: &Path, end: &str) -> Result<PathBuf> {
    let name = out
        .file_name()
        .ok_or_else(|| Error::Invalid(format!("{} names no file to write", out.display())))?;
    let mut name = OsString::from(name);
    name.push(".");
    name.push(end);
    Ok(out.with_file_name(name))
}

/// Refuses files that a start like this doesn't expect.
pub(super) fn refuse_others(out: &Path, part: &Path, log: &Path, start: Start) -> Result<()> {
    if out.exists() && !out.is_file() {
        return Err(Error::Invalid(format!("{} is no file that can be replaced", out.display())));
    }
    let fault = match start {
        Start::Fresh if out.exists() => "exists: --restart replaces it, --resume checks it",
        Start::Fresh if part.exists() || log.exists() => {
            "was begun: --resume goes on with it, --restart begins again"
        }
        Start::Resume if out.exists() && !log.exists() => {
            "exists without its manifest, so that nothing tells how to go on: --restart replaces it"
        }
        _ => return Ok(()),
    };
    Err(Error::Invalid(format!("{} {fault}", out.display())))
}

/// Opens the part with all that it has, or makes it.
pub(super) fn open_part(path: &Path) -> Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).map_err(Error::io("open", path))
}

/// Gives a file another's name.
pub(super) fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(Error::io("rename the finished part to", to))
}

/// Removes a file, if there is one.
pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Makes the names in the folder of `path` last through a power cut.
pub(super) fn sync_folder(path: &Path) -> Result<()> {
    if !cfg!(unix) {
        return Ok(()); // elsewhere a folder can't be opened as a file
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // Some file systems, networked ones above all, can't sync a folder, and say so.
        Err(e) if e.kind() != ErrorKind::InvalidInput => Err(Error::io("sync", folder)(e)),
        _ => Ok(()),
    }
}
