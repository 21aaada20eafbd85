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
    /// Numbers of the cells, their names ascending, so that a row of thousands isn't searched from end to end.
    by_name: Vec<usize>,
}

impl Row {
    /// Appends a cell. `false`, and nothing is changed, where the row has one of this name.
    pub fn push(&mut self, name: impl Into<String>, cell: Cell) -> bool {
        let name = name.into();
        let Err(place) = self.find(&name) else { return false };
        self.by_name.insert(place, self.cells.len());
        self.cells.push((name, cell));
        true
    }

    /// The cell of this name.
    pub fn get(&self, name: &str) -> Option<&Cell> {
        self.find(name).ok().map(|place| &self.cells[self.by_name[place]].1)
    }

    /// Where in `by_name` this name is, or belongs.
    fn find(&self, name: &str) -> Result<usize, usize> {
        self.by_name.binary_search_by(|&number| self.cells[number].0.as_str().cmp(name))
    }

    /// How many cells it has.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
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
