//! Records as JSON objects, one a line.

use super::columns::Columns;
use crate::{
    row::{Cell, Row, RowError},
    task::Answer,
};

/// The column that tells the place of a row without columns of its own.
const LINE: &str = "line";

/// Opens an object with what is kept of a row.
pub(super) fn kept(row: &Row, columns: &Columns, out: &mut Vec<u8>) {
    out.push(b'{');
    columns.each(row, |name, value| cell(name, value, out));
}

/// Closes an object with a task's columns, and the error if that is the answer.
pub(super) fn answer(answer: &Answer, columns: &Columns, out: &mut Vec<u8>) {
    match answer {
        Ok(cells) => {
            columns.added().iter().zip(cells).for_each(|(name, value)| cell(name, value, out))
        }
        Err(RowError { record: Some(cells), .. }) => {
            columns.added().iter().zip(cells).for_each(|(name, value)| cell(name, value, out));
        }
        Err(fault) => {
            let others = columns.added().iter().filter(|name| *name != columns.error());
            others.for_each(|name| null(name, out));
            error(fault, columns, out);
        }
    }
    out.extend_from_slice(b"}\n");
}

/// The whole object of a row that can't be read, or whose columns are those of the task: the row's own
/// stay, but for its `error`.
pub(super) fn failed(
    row: Option<&Row>,
    columns: &Columns,
    place: &str,
    fault: &RowError,
    out: &mut Vec<u8>,
) {
    out.push(b'{');
    let mut names = Vec::new();
    match row {
        None => {
            string(LINE, place, out);
            names.push(LINE.to_owned());
        }
        Some(row) => columns.each(row, |name, value| {
            if name != columns.error() {
                cell(name, value, out);
                names.push(name.to_owned());
            }
        }),
    }
    let is_left = |name: &&String| !names.contains(*name) && *name != columns.error();
    columns.added().iter().filter(is_left).for_each(|name| null(name, out));
    error(fault, columns, out);
    out.extend_from_slice(b"}\n");
}

fn error(fault: &RowError, columns: &Columns, out: &mut Vec<u8>) {
    string(columns.error(), &fault.to_string(), out);
}

fn null(name: &str, out: &mut Vec<u8>) {
    key(name, out);
    out.extend_from_slice(b"null");
}

fn string(name: &str, value: &str, out: &mut Vec<u8>) {
    key(name, out);
    quoted(value, out);
}

fn cell(name: &str, value: &Cell, out: &mut Vec<u8>) {
    key(name, out);
    match value {
        Cell::Text(text) => quoted(text, out),
        Cell::Json(json) => {
            let start = out.len();
            out.extend_from_slice(json.get().as_bytes());
            // Between a value's tokens a line may end; strings have no such bytes.
            for byte in &mut out[start..] {
                if matches!(byte, b'\n' | b'\r') {
                    *byte = b' ';
                }
            }
        }
    }
}

fn key(name: &str, out: &mut Vec<u8>) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    quoted(name, out);
    out.push(b':');
}

fn quoted(text: &str, out: &mut Vec<u8>) {
    // Text has a form in JSON, and memory takes it.
    let _ = serde_json::to_writer(out, text);
}
