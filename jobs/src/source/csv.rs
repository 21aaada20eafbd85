//! CSV (RFC 4180) and TSV under a line of names. Cells are text, exactly; lines end in `\n`, `\r\n` or `\r`, and empty
//! ones are no rows. A quote means something at a cell's beginning only. Lines are counted by their `\n`.
//!
//! Where a quote is never closed, all of the file's rest is one cell: a row that is an error, and says so. No
//! guess is made where its next row might begin. Reading goes on only at places where an earlier
//! reader was between two rows, so no quoted line is mistaken for a row.

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};
use pith::{Error, Result};

use super::{MAX_COLUMNS, Record, Records, excerpt, stream::Stream, too_long};
use crate::row::{Cell, Row, RowError};

/// Bytes that the cells' buffer holds at first.
const ROOM: usize = 8 << 10;

/// The rows of a CSV file.
pub(crate) struct Csv {
    stream: Stream,
    core: Reader,
    names: Vec<String>,
    record: Raw,
    limit: usize,
}

/// A record: cells one behind the other, and where each ends.
#[derive(Default)]
struct Raw {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// Bytes that its cells have.
    n_bytes: usize,
    /// Cells that it has: more than `ends` if those are more than can be used.
    n_cells: usize,
}

/// How a record came out.
enum Outcome {
    Whole,
    /// Longer than allowed: skipped.
    TooLong,
    /// The file ended inside quotes.
    Unclosed,
}

impl Csv {
    /// The rows of a file from its beginning, of `limit` bytes at most.
    ///
    /// # Errors
    /// What is wrong with the names; the system's.
    pub fn new(stream: Stream, delimiter: u8, limit: usize) -> Result<Csv> {
        let core = core(delimiter);
        let (names, record) = (Vec::new(), Raw::default());
        let mut csv = Csv { stream, core, names, record, limit };
        csv.read_names()?;
        Ok(csv)
    }

    /// Goes on in another stream of the same file, which is between two rows as this one is.
    pub fn go_on(&mut self, stream: Stream) {
        self.stream = stream;
    }

    /// The names of its columns.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    fn read_names(&mut self) -> Result<()> {
        self.skip_empty_lines()?;
        if self.stream.peek()?.is_empty() {
            return Ok(());
        }
        let line = self.stream.spot().line + 1;
        match self.read(MAX_COLUMNS)? {
            Outcome::Whole => {}
            Outcome::TooLong => return Err(self.fault(line, too_long(self.limit).message)),
            Outcome::Unclosed => return Err(self.fault(line, "a quote is never closed")),
        }
        if self.record.n_cells > MAX_COLUMNS {
            return Err(self.fault(line, format!("more than {MAX_COLUMNS} columns")));
        }
        let mut seen = Row::default();
        for i in 0..self.record.n_cells {
            let number = i + 1;
            let name = std::str::from_utf8(self.record.cell(i))
                .map_err(|_| self.fault(line, format!("column {number}'s name isn't UTF-8")))?;
            if name.is_empty() {
                return Err(self.fault(line, format!("column {number} has no name; give it one")));
            }
            if !seen.push(name, Cell::Text(String::new())) {
                let name = excerpt(name);
                return Err(
                    self.fault(line, format!("two columns have the name {name}; rename one"))
                );
            }
        }
        self.names = seen.iter().map(|(name, _)| name.to_owned()).collect();
        Ok(())
    }

    fn fault(&self, line: u64, what: impl AsRef<str>) -> Error {
        let path = self.stream.path().display();
        Error::malformed("CSV", format!("{path}, line {line}: {}", what.as_ref()))
    }

    /// A record has not begun when this returns, so that its place is its first byte's.
    fn skip_empty_lines(&mut self) -> Result<()> {
        loop {
            let bytes = self.stream.peek()?;
            let is_end = |byte: &&u8| matches!(byte, b'\n' | b'\r');
            match bytes.iter().take_while(is_end).count() {
                0 => return Ok(()),
                n => self.stream.skip(n),
            }
        }
    }

    /// Reads the record that begins here, of which `n_ends` cells can be used.
    fn read(&mut self, n_ends: usize) -> Result<Outcome> {
        let start = self.stream.spot().offset;
        let mut spare_ends = [0; 64];
        let record = &mut self.record;
        record.clear(n_ends);
        loop {
            let is_long = self.stream.spot().offset - start > self.limit as u64;
            let input = self.stream.peek()?;
            let is_end = input.is_empty();
            // A line's end instead of the file's: what it leaves open is a quote.
            let input = if is_end { b"\n" } else { input };
            if is_long {
                record.n_bytes = 0;
            }
            let (output, ends) = record.room(self.limit);
            let ends = if ends.is_empty() { &mut spare_ends[..] } else { ends };
            let (result, n_in, n_out, n_ends) = self.core.read_record(input, output, ends);
            record.n_cells += n_ends;
            record.n_bytes += n_out;
            if !is_end {
                self.stream.skip(n_in);
            }
            let is_record = result == ReadRecordResult::Record;
            if is_record || is_end {
                // Its line's end is no part of it.
                let n = self.stream.spot().offset - start - u64::from(!is_end);
                return Ok(match is_record {
                    false => Outcome::Unclosed,
                    true if n > self.limit as u64 => Outcome::TooLong,
                    true => Outcome::Whole,
                });
            }
        }
    }

    /// The record as a row.
    fn row(&self) -> std::result::Result<Row, RowError> {
        let (wanted, got) = (self.names.len(), self.record.n_cells);
        if wanted != got {
            let message = format!("{wanted} columns wanted, {got} got");
            return Err(RowError::new("columns", message));
        }
        let mut row = Row::default();
        for (i, name) in self.names.iter().enumerate() {
            let text = std::str::from_utf8(self.record.cell(i)).map_err(|error| {
                let at = error.valid_up_to() + 1;
                let message = format!("{}: not UTF-8 from byte {at} of the cell", excerpt(name));
                RowError::new("utf8", message)
            })?;
            row.push(name, Cell::Text(text.to_owned()));
        }
        Ok(row)
    }
}

impl Records for Csv {
    fn next(&mut self) -> Result<Option<Record>> {
        self.skip_empty_lines()?;
        if self.stream.peek()?.is_empty() {
            return Ok(None);
        }
        let at = self.stream.spot();
        let outcome = self.read(self.names.len())?;
        let next = self.stream.spot();
        let row = match outcome {
            Outcome::Whole => self.row(),
            Outcome::TooLong => Err(too_long(self.limit)),
            Outcome::Unclosed => Err(RowError::new(
                "quote",
                format!(
                    "a quote of this row is never closed: the file's rest, {} lines and {} bytes, is in it",
                    next.line - at.line,
                    next.offset - at.offset
                ),
            )),
        };
        Ok(Some(Record { at, next, row }))
    }
}

impl Raw {
    fn clear(&mut self, n_ends: usize) {
        self.ends.resize(n_ends, 0);
        (self.n_bytes, self.n_cells) = (0, 0);
    }

    /// Room for more bytes, some at least, and for more cells' ends. Asked for no more than `limit` bytes, it is never more
    /// than those and `ROOM`.
    fn room(&mut self, limit: usize) -> (&mut [u8], &mut [usize]) {
        if self.n_bytes == self.bytes.len() {
            let room = (2 * self.n_bytes).min(limit).max(self.n_bytes + ROOM);
            self.bytes.reserve_exact(room - self.n_bytes);
            self.bytes.resize(room, 0);
        }
        let n_cells = self.n_cells.min(self.ends.len());
        (&mut self.bytes[self.n_bytes..], &mut self.ends[n_cells..])
    }

    fn cell(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.bytes[start..self.ends[i]]
    }
}

/// A parser between two records.
fn core(delimiter: u8) -> Reader {
    let mut core = ReaderBuilder::new().delimiter(delimiter).build();
    // It takes U+FEFF away from what it reads first. Where that is a mark the stream has done so already, and a
    // second one is the name's: an empty line comes first.
    core.read_record(b"\n", &mut [0], &mut [0]);
    core
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{self, Read},
        path::Path,
    };

    fn open(reader: impl Read + Send + 'static, limit: usize) -> Csv {
        let stream = Stream::new(Path::new("f.csv"), Box::new(reader)).unwrap();
        Csv::new(stream, b',', limit).unwrap()
    }

    fn next(csv: &mut Csv) -> String {
        match csv.next().unwrap().map(|record| record.row) {
            None => "end".into(),
            Some(Ok(row)) => format!("{row:?}"),
            Some(Err(error)) => error.to_string(),
        }
    }

    #[test]
    fn a_cell_of_a_gigabyte_is_not_held() {
        let limit = super::super::MAX_ROW;
        let cell = || io::repeat(b'a').take(1 << 28);
        let reader = b"x,y\n1,\"".chain(cell()).chain(&b"\"\n3,4\n5,\""[..]).chain(cell());
        let mut csv = open(reader, limit);
        assert!(next(&mut csv).starts_with("too_long_line: "));
        assert!(next(&mut csv).contains("\"4\""));
        assert!(next(&mut csv).starts_with("quote: "));
        assert_eq!(next(&mut csv), "end");
        assert!(csv.record.bytes.capacity() <= limit + ROOM);
    }

    #[test]
    fn a_row_of_millions_of_cells_is_counted_only() {
        let commas = io::repeat(b',').take(3_000_000);
        let mut csv = open(b"x,y\n".chain(commas).chain(&b"\n1,2"[..]), 10_000_000);
        assert_eq!(next(&mut csv), "columns: 2 columns wanted, 3000001 got");
        assert!(next(&mut csv).contains("\"2\""));
        assert!(csv.record.ends.capacity() <= 2 * MAX_COLUMNS);
    }

    #[test]
    fn the_limit_is_that_of_the_written_row() {
        for n in 1..40 {
            let text = format!("x\n{}\nok\n", "a".repeat(n));
            let mut csv = open(io::Cursor::new(text), 20);
            let first = next(&mut csv);
            assert_eq!(first.starts_with("too_long_line: "), n > 20, "{n}: {first}");
            assert!(next(&mut csv).contains("ok"));
            assert_eq!(next(&mut csv), "end");
        }
    }
}
