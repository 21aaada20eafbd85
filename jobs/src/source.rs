//! Rows in: files, or standard input, one row after the other. A row that can't be read is an error of
//! that row; the file goes on behind it. Never more than a row is held, and a row of more than
//! [`MAX_ROW`] bytes not even that.
//!
//! | file | job |
//! |---|---|
//! | `format` | kinds of files, and the names that tell them |
//! | `stream` | a file's bytes, with the place in it; lines of bounded length |
//! | `by_line` | rows that are a line each |
//! | `jsonl`, `lines` | what such a line says |
//! | `csv` | CSV and TSV, whose rows may have several lines |
//! | `files` | rows of several files, from any place |
//! | `inputs` | what a job was told to read: files, patterns, standard input |
//! | `file_id` | a file's name, length and SHA-256 |

mod by_line;
mod csv;
mod file_id;
mod files;
mod format;
mod inputs;
mod jsonl;
mod lines;
mod stream;

#[cfg(feature = "parquet")]
pub mod parquet;

use pith::Result;

pub use file_id::FileId;
pub use files::from_reader;
pub use format::Format;
pub use inputs::Inputs;

use crate::row::{Row, RowError};

/// The longest row, in bytes as it is written: a longer one is skipped without being held.
pub const MAX_ROW: usize = 64 << 20;

/// The most columns of a row.
pub const MAX_COLUMNS: usize = 16_384;

/// Where a row begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Which of the job's files, from 0.
    pub file: usize,
    /// Bytes of that file before it; rows of that file, where a file is made of columns.
    pub offset: u64,
    /// Lines of that file before it; 0 where a file is made of columns.
    pub line: u64,
    /// Rows of the job before it.
    pub row: u64,
}

/// A row as it was read.
#[derive(Debug)]
pub struct Line {
    /// Where it begins.
    pub at: Position,
    /// Where the next one begins.
    pub next: Position,
    /// Its place for people: "words.csv, line 17".
    pub place: String,
    /// The row, or what is wrong with it.
    pub row: std::result::Result<Row, RowError>,
}

/// Rows in order.
pub trait Rows {
    /// The next row; `None` behind the last.
    ///
    /// # Errors
    /// A file can't be read any more. What is wrong with one row is in [`Line::row`].
    fn next(&mut self) -> Result<Option<Line>>;
}

/// A place in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spot {
    /// Bytes before it.
    pub offset: u64,
    /// Lines before it.
    pub line: u64,
}

/// A row of one file as it was read.
pub(crate) struct Record {
    /// Where it begins.
    pub at: Spot,
    /// Where the next one begins.
    pub next: Spot,
    /// The row, or what is wrong with it.
    pub row: std::result::Result<Row, RowError>,
}

/// Rows of one file, in order.
pub(crate) trait Records {
    /// The next row; `None` behind the last.
    fn next(&mut self) -> Result<Option<Record>>;
}

/// The error of a row of more than `limit` bytes.
pub(crate) fn too_long(limit: usize) -> RowError {
    RowError::new("too_long_line", format!("longer than {limit} bytes, and skipped"))
}

/// The beginning of a text from a file, for a message.
pub(crate) fn excerpt(text: &str) -> String {
    const N_CHARS: usize = 60;
    let mut excerpt = String::from("`");
    for (i, char) in text.chars().enumerate() {
        match char {
            _ if i == N_CHARS => {
                excerpt.push_str("...");
                break;
            }
            '"' | '\'' => excerpt.push(char),
            _ => excerpt.extend(char.escape_debug()),
        }
    }
    excerpt + "`"
}
