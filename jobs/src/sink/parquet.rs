//! Rows out to a Parquet file. A job's records are JSON lines, the spool, until all of them are there; then
//! two passes over the spool make columns of them: the first finds their types, the second writes.
//!
//! | file | job |
//! |---|---|
//! | `spool` | the records of a spool |
//! | `survey` | the first pass: which columns there are, and of what type |
//! | `write` | the second pass |
//!
//! The bytes depend on the spool's and on pith's version only.

mod spool;
mod survey;
mod write;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use arrow_schema::Fields;
use pith::{Error, Result};

use crate::task::Column;

/// The columns of the input that a job's output has.
#[derive(Clone, Debug)]
pub enum Kept {
    /// Those that its records have, in the order of their first appearance.
    Found,
    /// These, whose types its records tell.
    Named(Vec<String>),
    /// These, with the types of a Parquet file that they come from.
    Typed(Fields),
}

/// Makes the Parquet file `out` of the spool: what is kept of the input, what is `added`, and the column
/// `error`. The place of rows that couldn't be read, the records' `line`, is a column before it if there
/// are such rows. The file appears whole or not at all.
///
/// Columns without a type take that of their values: text, `INT64`, `DOUBLE` or `BOOLEAN`. Values of
/// several kinds, lists and objects become text, JSON's own where a value isn't text; so do numbers that a
/// column of numbers couldn't hold exactly, but for digits that no 64-bit number has. A column without values is text.
///
/// # Errors
/// The system's; the spool isn't one.
pub fn write(spool: &Path, out: &Path, kept: &Kept, added: &[Column], error: &str) -> Result<()> {
    let columns = survey::columns(spool, kept, added, error)?;
    let temporary = beside(out)?;
    let written = write::write(spool, &temporary, &columns).and_then(|()| {
        fs::rename(&temporary, out).map_err(Error::io("rename a temporary file to", out))?;
        sync_folder(out)
    });
    if written.is_err() {
        let _ = fs::remove_file(&temporary); // the error is told; the next try writes over what is left
    }
    written
}

/// A name in the folder of `out`, so that the rename stays on one file system. What a killed job left there
/// is written over.
fn beside(out: &Path) -> Result<PathBuf> {
    let name = (out.file_name())
        .ok_or_else(|| Error::Invalid(format!("{} names no file to write", out.display())))?;
    let mut temporary = name.to_owned();
    temporary.push(".tmp");
    Ok(out.with_file_name(temporary))
}

/// Makes a rename last through a power cut.
fn sync_folder(out: &Path) -> Result<()> {
    if !cfg!(unix) {
        return Ok(()); // elsewhere a folder can't be opened as a file
    }
    let folder = out.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // Some file systems, networked ones above all, can't sync a folder, and say so.
        Err(error) if error.kind() != std::io::ErrorKind::InvalidInput => {
            Err(Error::io("sync", folder)(error))
        }
        _ => Ok(()),
    }
}
