//! What a file is, wherever it lies: its name, length and SHA-256.

use std::{fmt::Write, fs::File, io::Read, path::Path};

use pith::{Error, Result};
use sha2::{Digest, Sha256};

/// Bytes that are hashed between two calls of the progress function.
const PIECE: usize = 1 << 20;

/// What a file is, wherever it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileId {
    /// Its name, without the folder: it tells people which file is meant.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// The SHA-256 of its bytes, in lower-case hex.
    pub sha256: String,
}

impl FileId {
    /// Reads the file through. `progress` gets the number of bytes done since its last call, and says
    /// `false` to stop.
    ///
    /// # Errors
    /// [`Error::Stopped`] if `progress` said so; the system's.
    pub fn of(path: &Path, progress: &mut dyn FnMut(u64) -> bool) -> Result<FileId> {
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        let (mut hash, mut bytes, mut piece) = (Sha256::new(), 0, Vec::with_capacity(PIECE));
        loop {
            piece.clear();
            let reader = file.by_ref().take(PIECE as u64);
            let n = { reader }.read_to_end(&mut piece).map_err(Error::io("read", path))?;
            if n == 0 {
                break;
            }
            hash.update(&piece);
            bytes += n as u64;
            if !progress(n as u64) {
                return Err(Error::Stopped);
            }
        }
        Ok(FileId { name: file_name(path), bytes, sha256: hex(&hash.finalize()) })
    }
}

/// The path's last part.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
