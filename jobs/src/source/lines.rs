//! Lines of text: each is a row of one column, `text`, that holds it exactly, blanks at its ends included.
//! Empty lines are no rows.

use crate::row::{Cell, Row, RowError};

/// The column's name.
pub(super) const COLUMN: &str = "text";

/// What a line says; `None` for an empty one.
pub(crate) fn row(line: &[u8]) -> Option<Result<Row, RowError>> {
    if line.is_empty() {
        return None;
    }
    Some(utf8(line).map(|text| {
        let mut row = Row::default();
        row.push(COLUMN, Cell::Text(text.to_owned()));
        row
    }))
}

/// The line as text.
pub(crate) fn utf8(line: &[u8]) -> Result<&str, RowError> {
    std::str::from_utf8(line).map_err(|error| {
        let at = error.valid_up_to() + 1;
        RowError::new("utf8", format!("not UTF-8 from byte {at} of the line"))
    })
}
