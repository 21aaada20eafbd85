//! Rows in: files, or standard input, one row after the other. A row that can't be read is an error of
//! that row; the file goes on behind it.

#[cfg(feature = "parquet")]
pub mod parquet;

use pith::Result;

use crate::row::{Row, RowError};

/// Where a row begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Which of the job's files, from 0.
    pub file: usize,
    /// Bytes of that file before it; rows of that file, where a file is made of columns.
    pub offset: u64,
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
