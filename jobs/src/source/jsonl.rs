//! JSON lines: an object a line (RFC 8259). Strings become text; every other value keeps its own
//! characters, so that 1.50 stays 1.50 and an integer of thirty digits stays whole. Blank lines are no rows.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{MAX_COLUMNS, excerpt, lines::utf8};
use crate::row::{Cell, Row, RowError};

/// Arrays and objects inside each other, the row's object included: what serde_json reads, and so
/// what whoever reads the row again can.
const MAX_DEPTH: usize = 127;

/// What a line says; `None` for a blank one.
pub(crate) fn row(line: &[u8]) -> Option<Result<Row, RowError>> {
    let first = line.iter().find(|byte| !matches!(byte, b' ' | b'\t' | b'\r'))?;
    if *first != b'{' {
        return Some(Err(match utf8(line) {
            Ok(text) => json(format!("not an object: {}", excerpt(text))),
            Err(error) => error,
        }));
    }
    Some(utf8(line).and_then(object))
}

fn json(message: impl Into<String>) -> RowError {
    RowError::new("json", message)
}

/// The parser's reason, with its place in the line: its own count of lines is always 1.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    format!("{what} (byte {})", error.column())
}

fn object(text: &str) -> Result<Row, RowError> {
    let object: Object = serde_json::from_str(text).map_err(|error| json(reason(&error)))?;
    object.0
}

/// An object that is sound JSON: the row, or why it makes none.
struct Object(Result<Row, RowError>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object, D::Error> {
        deserializer.deserialize_map(Pairs)
    }
}

struct Pairs;

impl<'de> Visitor<'de> for Pairs {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
        let mut row = Ok(Row::default());
        while let Some(key) = map.next_key::<String>()? {
            let value: &'de RawValue = map.next_value()?;
            row = row.and_then(|row| with(row, key, value));
        }
        Ok(Object(row))
    }
}

/// The row with one more cell.
fn with(mut row: Row, key: String, value: &RawValue) -> Result<Row, RowError> {
    let cell = cell(value).map_err(|what| json(format!("{}: {what}", excerpt(&key))))?;
    if row.len() == MAX_COLUMNS {
        let message = format!("more than {MAX_COLUMNS} columns");
        return Err(RowError::new("too_many_columns", message));
    }
    if row.get(&key).is_some() {
        let message = format!("{} occurs twice", excerpt(&key));
        return Err(RowError::new("duplicate_key", message));
    }
    row.push(key, cell);
    Ok(row)
}

fn cell(value: &RawValue) -> Result<Cell, String> {
    let text = value.get();
    match text.as_bytes()[0] {
        // serde_json has seen to quotes and control characters; only escapes are left to read.
        b'"' if !text.contains('\\') => Ok(Cell::Text(text[1..text.len() - 1].to_owned())),
        b'"' => serde_json::from_str(text).map(Cell::Text).map_err(|error| reason(&error)),
        b'[' | b'{' if depth(text) >= MAX_DEPTH => {
            Err(format!("arrays and objects more than {MAX_DEPTH} deep"))
        }
        _ => Ok(Cell::Json(value.to_owned())),
    }
}

/// How deep arrays and objects are inside each other in this JSON value.
fn depth(text: &str) -> usize {
    let (mut depth, mut most) = (0_usize, 0);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                most = most.max(depth);
            }
            b']' | b'}' => depth -= 1,
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'\\' => drop(bytes.next()),
                        b'"' => break,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_that_of_serde_json() {
        for n in [1, 125, 126, 127, 128, 200] {
            let line = format!(r#"{{"a":{}{}}}"#, "[".repeat(n), "]".repeat(n));
            let is_read = serde_json::from_str::<serde_json::Value>(&line).is_ok();
            assert_eq!(row(line.as_bytes()).unwrap().is_ok(), is_read, "{n}");
        }
        assert_eq!(depth(r#"[{"]]":"[[[\"[["}, [[]]]"#), 3);
    }
}
