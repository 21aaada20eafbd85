//! A row: named cells in the order of the file. A cell is kept as it was written, so that what a job
//! doesn't use comes out as it went in.

use std::fmt;

use serde_json::value::RawValue;

/// A cell.
#[derive(Clone, Debug)]
pub enum Cell {
    /// Text: a JSON string, or any cell of a CSV file.
    Text(String),
    /// Any other JSON value in its own characters: null, true, 1.50, an array, an object.
    Json(Box<RawValue>),
}

/// Named cells in the order of the file; no name occurs twice.
#[derive(Clone, Debug, Default)]
pub struct Row {
    cells: Vec<(String, Cell)>,
}

impl Row {
    /// Appends a cell. `false`, and nothing is changed, where the row has one of this name.
    pub fn push(&mut self, name: impl Into<String>, cell: Cell) -> bool {
        let name = name.into();
        let is_new = self.get(&name).is_none();
        if is_new {
            self.cells.push((name, cell));
        }
        is_new
    }

    /// The cell of this name.
    pub fn get(&self, name: &str) -> Option<&Cell> {
        self.cells.iter().find(|(other, _)| other == name).map(|(_, cell)| cell)
    }

    /// All cells, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Cell)> {
        self.cells.iter().map(|(name, cell)| (name.as_str(), cell))
    }
}

/// Why a row has no answer. It becomes the row's `error` column, "code: message".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowError {
    /// A word for programs: "json", "utf8", "missing_column", "too_long".
    pub code: &'static str,
    /// What was wrong, for people.
    pub message: String,
}

impl RowError {
    /// An error of this kind.
    pub fn new(code: &'static str, message: impl Into<String>) -> RowError {
        RowError { code, message: message.into() }
    }
}

impl fmt::Display for RowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}
