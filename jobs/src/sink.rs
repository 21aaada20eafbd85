//! Rows out: the bytes of a record. What an input's cell was is what comes out; a task's columns follow,
//! then the error.
//!
//! A record is made in two steps, for a row's own cells are known when it is read and its answer much
//! later: between them lie only the bytes that the file will have.

mod columns;
mod csv;
mod jsonl;
#[cfg(feature = "parquet")]
pub mod parquet;

use pith::Result;

pub use columns::{Choice, Columns};

use crate::{
    row::{Cell, Row, RowError},
    task::Answer,
};

/// A format of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// A JSON object per line.
    Jsonl,
    /// Comma-separated values as RFC 4180 has them, but for lines that end in a line feed alone.
    Csv,
    /// The same with tabs for commas.
    Tsv,
}

impl Output {
    /// Its name, for the manifest.
    pub fn name(self) -> &'static str {
        match self {
            Output::Jsonl => "jsonl",
            Output::Csv => "csv",
            Output::Tsv => "tsv",
        }
    }

    /// What stands between the cells of a table.
    fn delimiter(self) -> Option<u8> {
        match self {
            Output::Jsonl => None,
            Output::Csv => Some(b','),
            Output::Tsv => Some(b'\t'),
        }
    }
}

/// Makes records of rows and answers.
#[derive(Debug)]
pub struct Encoder {
    output: Output,
    columns: Columns,
    /// The kept columns of a table, once they are known.
    table: Option<Vec<String>>,
}

impl Encoder {
    /// An encoder whose table, if `output` is one, has no columns yet.
    pub fn new(output: Output, columns: Columns) -> Encoder {
        Encoder { output, columns, table: None }
    }

    /// The columns of the input that a table has, once they are known.
    pub fn table(&self) -> Option<&[String]> {
        self.table.as_deref()
    }

    /// Whether a table's columns must be known before a record can be made.
    pub fn needs_table(&self) -> bool {
        self.output.delimiter().is_some() && self.table.is_none()
    }

    /// Whether a table's columns are known without the input.
    pub fn is_chosen(&self) -> bool {
        !self.columns.keeps_all()
    }

    /// Goes on with a table whose header is written already.
    pub fn resume_table(&mut self, table: Option<Vec<String>>) {
        self.table = table;
    }

    /// Chooses a table's columns among those of the input, and writes its header.
    ///
    /// # Errors
    /// A column that is kept and one that is added have the same name.
    pub fn begin_table<'n>(
        &mut self,
        input: impl Iterator<Item = &'n str>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        if let Some(delimiter) = self.output.delimiter() {
            let table = self.columns.of_table(input)?;
            csv::header(&table, &self.columns, delimiter, out);
            self.table = Some(table);
        }
        Ok(())
    }

    /// Appends a record's first part, which is what is kept of the row.
    ///
    /// # Errors
    /// The row can't be written: then nothing is appended, and [`Encoder::failed`] makes its record.
    pub fn begin(&self, row: &Row, out: &mut Vec<u8>) -> std::result::Result<(), RowError> {
        self.columns.check(row)?;
        match (self.output.delimiter(), &self.table) {
            (Some(delimiter), Some(table)) => {
                if self.columns.keeps_all() {
                    csv::check(row, table)?;
                }
                csv::kept(Some(row), table, delimiter, out);
            }
            _ => jsonl::kept(row, &self.columns, out),
        }
        Ok(())
    }

    /// Appends the rest of a record that [`Encoder::begin`] began.
    pub fn end(&self, answer: &Answer, out: &mut Vec<u8>) {
        match self.output.delimiter() {
            Some(delimiter) => csv::answer(answer, &self.columns, delimiter, out),
            None => jsonl::answer(answer, &self.columns, out),
        }
    }

    /// Appends the whole record of a row that can't be read (`None`), or not be written as it is.
    pub fn failed(&self, row: Option<&Row>, place: &str, error: &RowError, out: &mut Vec<u8>) {
        match (self.output.delimiter(), &self.table) {
            (Some(delimiter), table) => {
                let table = table.as_deref().unwrap_or_default();
                csv::failed(row, table, &self.columns, place, error, delimiter, out);
            }
            (None, _) => jsonl::failed(row, &self.columns, place, error, out),
        }
    }

    /// The number of cells that an answer has.
    pub fn n_added(&self) -> usize {
        self.columns.added().len()
    }
}

/// Bytes that a cell takes, about.
pub(crate) fn size(cell: &Cell) -> usize {
    match cell {
        Cell::Text(text) => text.len(),
        Cell::Json(json) => json.get().len(),
    }
}
