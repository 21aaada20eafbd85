//! Rows of several files, one after the other, from any place.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use pith::{Error, Result};

use super::{
    Format, Line, MAX_ROW, Position, Records, Rows, Spot, by_line::ByLine, csv::Csv,
    file_id::file_name, jsonl, lines, stream::Stream,
};

/// What standard input is called.
const STDIN: &str = "standard input";

/// The rows of a job's files.
pub(crate) struct Files {
    paths: Vec<PathBuf>,
    format: Format,
    open: Option<Open>,
    /// The number of the file that is open, or is opened next.
    file: usize,
    /// Rows before the next one.
    row: u64,
}

/// A file that is being read.
struct Open {
    name: String,
    records: Box<dyn Records>,
}

/// The rows of one source that isn't resumed: a pipe, a network connection, bytes in memory. `name` is what
/// its rows' places and errors call it.
///
/// # Errors
/// What is wrong with a CSV file's names; [`Error::Unsupported`] for Parquet, which is no stream, and for UTF-16.
pub fn from_reader(
    format: Format,
    name: &str,
    reader: Box<dyn Read + Send>,
) -> Result<Box<dyn Rows>> {
    let stream = Stream::new(Path::new(name), reader)?;
    let open = Open { name: name.to_owned(), records: records(format, stream, None)? };
    Ok(Box::new(Files { paths: Vec::new(), format, open: Some(open), file: 0, row: 0 }))
}

/// The rows of standard input.
pub(crate) fn stdin(format: Format) -> Result<Box<dyn Rows>> {
    from_reader(format, STDIN, Box::new(io::stdin()))
}

impl Files {
    /// The rows of these files from a place on that an earlier reader of the same files came to.
    pub fn new(paths: Vec<PathBuf>, format: Format, from: Position) -> Result<Files> {
        let mut files = Files { paths, format, open: None, file: from.file, row: from.row };
        let Some(path) = files.paths.get(from.file) else {
            let n = files.paths.len();
            return Err(Error::Invalid(format!("file {} of {n} to go on in", from.file + 1)));
        };
        files.open = Some(open(path, format, Spot { offset: from.offset, line: from.line })?);
        Ok(files)
    }

    fn position(&self, spot: Spot, row: u64) -> Position {
        Position { file: self.file, offset: spot.offset, line: spot.line, row }
    }
}

impl Rows for Files {
    fn next(&mut self) -> Result<Option<Line>> {
        loop {
            if let Some(open) = &mut self.open {
                if let Some(record) = open.records.next()? {
                    let place = format!("{}, line {}", open.name, record.at.line + 1);
                    let at = self.position(record.at, self.row);
                    self.row += 1;
                    let next = self.position(record.next, self.row);
                    return Ok(Some(Line { at, next, place, row: record.row }));
                }
                self.open = None;
                self.file += 1;
            }
            let Some(path) = self.paths.get(self.file) else { return Ok(None) };
            self.open = Some(open(path, self.format, Spot::default())?);
        }
    }
}

/// The names of a CSV or TSV file's columns.
pub(super) fn csv_names(path: &Path, format: Format) -> Result<Vec<String>> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let stream = Stream::new(path, Box::new(file))?;
    let delimiter = if format == Format::Tsv { b'\t' } else { b',' };
    Ok(Csv::new(stream, delimiter, MAX_ROW)?.names().to_vec())
}

fn open(path: &Path, format: Format, spot: Spot) -> Result<Open> {
    let start = Stream::new(path, Box::new(File::open(path).map_err(Error::io("open", path))?))?;
    let rest = (spot != Spot::default()).then(|| Stream::at(path, spot)).transpose()?;
    Ok(Open { name: file_name(path), records: records(format, start, rest)? })
}

/// The rows of a file: those behind its names, or those of `rest`, which is in the middle of it.
fn records(format: Format, start: Stream, rest: Option<Stream>) -> Result<Box<dyn Records>> {
    let delimiter = match format {
        Format::Jsonl => {
            return Ok(Box::new(ByLine::new(rest.unwrap_or(start), jsonl::row, MAX_ROW)));
        }
        Format::Lines => {
            return Ok(Box::new(ByLine::new(rest.unwrap_or(start), lines::row, MAX_ROW)));
        }
        Format::Csv => b',',
        Format::Tsv => b'\t',
        Format::Parquet => {
            let path = start.path().display();
            return Err(Error::Unsupported(format!("{path}: Parquet is read from files only")));
        }
    };
    let mut csv = Csv::new(start, delimiter, MAX_ROW)?;
    if let Some(rest) = rest {
        csv.go_on(rest);
    }
    Ok(Box::new(csv))
}
