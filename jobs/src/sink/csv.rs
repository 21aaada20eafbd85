//! Records as lines of a table: RFC 4180, with a delimiter of choice. Null is an empty cell.

use super::columns::Columns;
use crate::{
    row::{Cell, Row, RowError},
    task::Answer,
};

/// The first line: the columns' names.
pub(super) fn header(table: &[String], columns: &Columns, delimiter: u8, out: &mut Vec<u8>) {
    let added = columns.added().iter().map(String::as_str).chain([columns.error()]);
    for name in table.iter().map(String::as_str).chain(added) {
        text(name, delimiter, out);
    }
    end(out);
}

/// Checks that the row has no column outside the table.
pub(super) fn check(row: &Row, table: &[String]) -> Result<(), RowError> {
    if is_in_order(row, table) {
        return Ok(());
    }
    match row.iter().find(|(name, _)| !table.iter().any(|other| other == name)) {
        Some((name, _)) => Err(RowError::new(
            "column_unknown",
            format!(
                "the table has no column {name:?}, for the first row had none: name all with --keep"
            ),
        )),
        None => Ok(()),
    }
}

/// Most rows have the table's columns in its order: then none is looked for.
fn is_in_order(row: &Row, table: &[String]) -> bool {
    row.iter().map(|(name, _)| name).eq(table.iter().map(String::as_str))
}

/// A line's first cells, each with its delimiter: what is kept of a row.
pub(super) fn kept(row: Option<&Row>, table: &[String], delimiter: u8, out: &mut Vec<u8>) {
    match row {
        Some(row) if is_in_order(row, table) => {
            row.iter().for_each(|(_, value)| cell(value, delimiter, out));
        }
        _ => {
            for name in table {
                match row.and_then(|row| row.get(name)) {
                    Some(value) => cell(value, delimiter, out),
                    None => out.push(delimiter),
                }
            }
        }
    }
}

/// A line's last cells: the task's, and the error.
pub(super) fn answer(answer: &Answer, columns: &Columns, delimiter: u8, out: &mut Vec<u8>) {
    match answer {
        Ok(cells) => {
            cells.iter().for_each(|value| cell(value, delimiter, out));
            out.push(delimiter);
        }
        Err(fault) => error(&fault.to_string(), columns, delimiter, out),
    }
    end(out);
}

/// The whole line of a row that can't be read, or doesn't fit the table. A table has no column for the
/// place of a row without columns of its own: the error tells it.
pub(super) fn failed(
    row: Option<&Row>,
    table: &[String],
    columns: &Columns,
    place: &str,
    fault: &RowError,
    delimiter: u8,
    out: &mut Vec<u8>,
) {
    kept(row, table, delimiter, out);
    let fault = match row {
        Some(_) => fault.to_string(),
        None => format!("{}: {place}: {}", fault.code, fault.message),
    };
    error(&fault, columns, delimiter, out);
    end(out);
}

fn error(fault: &str, columns: &Columns, delimiter: u8, out: &mut Vec<u8>) {
    columns.added().iter().for_each(|_| out.push(delimiter));
    text(fault, delimiter, out);
}

/// The last cell's delimiter becomes the line's end.
fn end(out: &mut [u8]) {
    if let Some(last) = out.last_mut() {
        *last = b'\n';
    }
}

fn cell(value: &Cell, delimiter: u8, out: &mut Vec<u8>) {
    match value {
        Cell::Text(value) => text(value, delimiter, out),
        Cell::Json(json) if json.get() == "null" => out.push(delimiter),
        Cell::Json(json) => text(json.get(), delimiter, out),
    }
}

/// A cell and its delimiter, in quotes where it holds what would end it.
fn text(value: &str, delimiter: u8, out: &mut Vec<u8>) {
    let is_special = |byte: &u8| matches!(byte, b'"' | b'\n' | b'\r') || *byte == delimiter;
    if value.as_bytes().iter().any(is_special) {
        out.push(b'"');
        for byte in value.bytes() {
            if byte == b'"' {
                out.push(b'"');
            }
            out.push(byte);
        }
        out.push(b'"');
    } else {
        out.extend_from_slice(value.as_bytes());
    }
    out.push(delimiter);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_where_they_must_be() {
        let line = |cells: &[&str], delimiter| {
            let mut out = Vec::new();
            cells.iter().for_each(|value| text(value, delimiter, &mut out));
            end(&mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(line(&["a", "", " b ", "c"], b','), "a,, b ,c\n");
        assert_eq!(
            line(&["a,b", "say \"x\"", "1\n2", "\r"], b','),
            "\"a,b\",\"say \"\"x\"\"\",\"1\n2\",\"\r\"\n"
        );
        assert_eq!(line(&["a,b", "a\tb"], b'\t'), "a,b\t\"a\tb\"\n");
    }
}
