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

    /// A cell as text: numbers and truth values are their characters.
    ///
    /// # Errors
    /// "missing_column"; "value" for null, lists and objects.
    pub fn text(&self, name: &str) -> std::result::Result<&str, RowError> {
        match self.get(name) {
            Some(Cell::Text(text)) => Ok(text),
            Some(Cell::Json(json)) if !json.get().starts_with(['[', '{', 'n']) => Ok(json.get()),
            Some(Cell::Json(json)) => {
                let start: String = json.get().chars().take(40).collect();
                Err(RowError::new("value", format!("column {name:?} is {start}; wanted text")))
            }
            None => {
                let there: Vec<&str> = self.iter().map(|(name, _)| name).take(20).collect();
                let fault = format!("no column {name:?}; the row has {}", there.join(", "));
                Err(RowError::new("missing_column", fault))
            }
        }
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
#[derive(Clone, Debug)]
pub struct RowError {
    /// A word for programs: "json", "utf8", "missing_column", "too_long".
    pub code: &'static str,
    /// What was wrong, for people.
    pub message: String,
    /// Where a task says in its own columns what was wrong, those: there is then no `error` column.
    pub record: Option<Vec<Cell>>,
}

impl RowError {
    /// An error of this kind.
    pub fn new(code: &'static str, message: impl Into<String>) -> RowError {
        RowError { code, message: message.into(), record: None }
    }
}

/// What a model says of a row's tokens.
impl From<pith::Error> for RowError {
    fn from(error: pith::Error) -> RowError {
        let code = match error {
            pith::Error::ContextFull { .. } => "too_long",
            _ => "invalid",
        };
        RowError::new(code, error.to_string())
    }
}

impl fmt::Display for RowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}
