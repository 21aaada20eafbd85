//! Rows that are a line each.

use pith::Result;

use super::{
    Record, Records,
    stream::{Outcome, Stream},
    too_long,
};
use crate::row::{Row, RowError};

/// What a line says; `None` if it is no row.
pub(crate) type Parse = fn(&[u8]) -> Option<std::result::Result<Row, RowError>>;

/// The rows of a file whose rows are a line each.
pub(crate) struct ByLine {
    stream: Stream,
    parse: Parse,
    line: Vec<u8>,
    limit: usize,
}

impl ByLine {
    /// The rows of this stream, of `limit` bytes at most.
    pub fn new(stream: Stream, parse: Parse, limit: usize) -> ByLine {
        ByLine { stream, parse, line: Vec::new(), limit }
    }
}

impl Records for ByLine {
    fn next(&mut self) -> Result<Option<Record>> {
        loop {
            let at = self.stream.spot();
            let row = match self.stream.line(&mut self.line, self.limit)? {
                Outcome::End => return Ok(None),
                Outcome::TooLong => Some(Err(too_long(self.limit))),
                Outcome::Whole => (self.parse)(&self.line),
            };
            if let Some(row) = row {
                return Ok(Some(Record { at, next: self.stream.spot(), row }));
            }
        }
    }
}
