//! Rows of Parquet files (<https://parquet.apache.org/docs/file-format/>).
//!
//! | file | job |
//! |---|---|
//! | `thrift` | what must be known of a file before the `parquet` crate reads it |
//! | `claims` | what must be known of a page before the crate decodes it |
//! | `pages` | the pages of a row group, looked at before they are decompressed and decoded |
//! | `types` | types of columns |
//! | `cells` | cells of columns |
//! | `file` | rows of one file |
//!
//! What one page and some thousand rows hold is all that is in memory, whatever the file's length.

mod cells;
mod claims;
mod file;
mod pages;
mod thrift;
mod types;

use std::{
    fmt::Display,
    path::{Path, PathBuf},
};

use arrow_schema::Fields;
use pith::{Error, Result};

pub use file::ParquetFile;

use super::{Line, Position, Rows};

/// The rows of Parquet files, one after the other.
#[derive(Debug)]
pub struct ParquetRows {
    paths: Vec<PathBuf>,
    open: Option<ParquetFile>,
    at: Position,
}

impl ParquetRows {
    /// The rows from a place on that an earlier reader of the same files came to.
    ///
    /// # Errors
    /// There is no such place; a file isn't Parquet, or has columns of types that no cell can hold.
    pub fn new(paths: Vec<PathBuf>, from: Position) -> Result<ParquetRows> {
        let Some(path) = paths.get(from.file) else {
            let n = paths.len();
            return Err(Error::Invalid(format!("file {} of {n} to go on in", from.file + 1)));
        };
        let open = Some(ParquetFile::open(path, from.offset)?);
        Ok(ParquetRows { paths, open, at: from })
    }
}

impl Rows for ParquetRows {
    fn next(&mut self) -> Result<Option<Line>> {
        loop {
            if let Some(file) = &mut self.open {
                if let Some(row) = file.next()? {
                    let at = self.at;
                    self.at.offset += 1;
                    self.at.row += 1;
                    let place = format!("{}, row {}", file.name(), self.at.offset);
                    return Ok(Some(Line { at, next: self.at, place, row }));
                }
                self.open = None;
                self.at.file += 1;
                self.at.offset = 0;
            }
            let Some(path) = self.paths.get(self.at.file) else { return Ok(None) };
            self.open = Some(ParquetFile::open(path, 0)?);
        }
    }
}

/// The columns that all of the files have, with the types that they are written again with; `None` where
/// the files differ in names or types.
///
/// # Errors
/// Those of [`ParquetFile::open`].
pub fn columns(paths: &[PathBuf]) -> Result<Option<Fields>> {
    let mut common: Option<Fields> = None;
    for path in paths {
        let file = ParquetFile::open(path, 0)?;
        let same = |fields: &Fields| {
            fields.len() == file.columns().len()
                && (fields.iter().zip(file.columns())).all(|(a, b)| {
                    a.name() == b.name() && a.data_type().equals_datatype(b.data_type())
                })
        };
        match &common {
            Some(fields) if !same(fields) => return Ok(None),
            Some(_) => (),
            None => common = Some(file.columns().clone()),
        }
    }
    Ok(common)
}

fn fault(name: &str, what: impl Display) -> Error {
    Error::malformed("Parquet", format!("{name}: {what}"))
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
