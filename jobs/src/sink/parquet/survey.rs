//! The first pass over a spool: which columns there are, and of what type.

use std::{collections::HashMap, path::Path};

use arrow_schema::{DataType, Field};
use pith::{Error, Result};

use super::{Kept, spool::Spool};
use crate::task::{Column, Kind};

/// The column that tells the place of a row that couldn't be read.
const LINE: &str = "line";

/// Columns of the file, in order.
pub(super) struct Columns {
    pub columns: Vec<Out>,
    /// The name of the error's column.
    pub error: String,
}

/// A column of the file.
pub(super) struct Out {
    pub field: Field,
    /// Whether values that aren't text become text.
    pub is_text: bool,
    /// Whether a row that failed has none: what stands there is the input's.
    pub is_added: bool,
}

/// The columns that a spool makes.
pub(super) fn columns(spool: &Path, kept: &Kept, added: &[Column], error: &str) -> Result<Columns> {
    let found = survey(spool, kept, added, error)?;
    let mut columns = match kept {
        Kept::Typed(fields) => fields
            .iter()
            .map(|field| Out {
                field: Field::clone(field).with_nullable(true),
                is_text: false,
                is_added: false,
            })
            .collect(),
        Kept::Named(_) | Kept::Found => Vec::new(),
    };
    columns.extend(found.into_iter().map(|(name, kinds)| out(&name, kinds.data_type(), false)));
    columns.extend(added.iter().map(|column| {
        let kind = match column.kind {
            Kind::Text | Kind::Json => DataType::Utf8,
            Kind::Int => DataType::Int64,
            Kind::Float => DataType::Float64,
            Kind::Bool => DataType::Boolean,
        };
        out(&column.name, kind, true)
    }));
    if let Some(at) =
        columns.iter().position(|column| column.field.name() == LINE && !column.is_added)
        && !is_named(kept, LINE)
    {
        let line = columns.remove(at);
        columns.push(line);
    }
    columns.push(out(error, DataType::Utf8, false));
    Ok(Columns { columns, error: error.to_owned() })
}

fn out(name: &str, kind: DataType, is_added: bool) -> Out {
    let is_text = kind == DataType::Utf8;
    Out { field: Field::new(name, kind, true), is_text, is_added }
}

fn is_named(kept: &Kept, name: &str) -> bool {
    match kept {
        Kept::Found => false,
        Kept::Named(names) => names.iter().any(|other| other == name),
        Kept::Typed(fields) => fields.find(name).is_some(),
    }
}

/// The columns whose types the records tell, in order.
fn survey(
    spool: &Path,
    kept: &Kept,
    added: &[Column],
    error: &str,
) -> Result<Vec<(String, Kinds)>> {
    let mut found: Vec<(String, Kinds)> = match kept {
        Kept::Named(names) => names.iter().map(|name| (name.clone(), Kinds::default())).collect(),
        Kept::Found | Kept::Typed(_) => Vec::new(),
    };
    let mut places: HashMap<String, usize> =
        found.iter().enumerate().map(|(place, (name, _))| (name.clone(), place)).collect();
    let is_typed = |name: &str| {
        name == error
            || added.iter().any(|column| column.name == name)
            || matches!(kept, Kept::Typed(fields) if fields.find(name).is_some())
    };
    let mut spool = Spool::open(spool)?;
    while let Some(record) = spool.next()? {
        for (name, value) in record.0 {
            let place = match places.get(&name) {
                Some(place) => *place,
                None if is_typed(&name) => continue,
                None if name == LINE || matches!(kept, Kept::Found) => {
                    places.insert(name.clone(), found.len());
                    found.push((name, Kinds::default()));
                    found.len() - 1
                }
                None => {
                    let what = format!("a record has the column {name:?}, which isn't kept");
                    return Err(Error::malformed("spool", what));
                }
            };
            found[place].1.note(value.get());
        }
    }
    Ok(found)
}

/// Kinds of values that a column has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Kinds {
    text: bool,
    bool: bool,
    int: bool,
    float: bool,
    /// Whole numbers that a float can't hold.
    long: bool,
    /// Lists, objects, and numbers that no type here holds.
    other: bool,
}

impl Kinds {
    fn note(&mut self, json: &str) {
        match json.as_bytes().first() {
            Some(b'n') => (),
            Some(b'"') => self.text = true,
            Some(b't' | b'f') => self.bool = true,
            Some(b'[' | b'{') => self.other = true,
            _ if json == "-0" || json.contains(['.', 'e', 'E']) => {
                let is_finite = json.parse().is_ok_and(f64::is_finite);
                self.float |= is_finite;
                self.other |= !is_finite;
            }
            _ => match json.parse::<i64>() {
                Ok(number) => {
                    self.int = true;
                    self.long |= number.unsigned_abs() > 1 << f64::MANTISSA_DIGITS;
                }
                Err(_) => self.other = true,
            },
        }
    }

    fn data_type(self) -> DataType {
        let is = |wanted: Kinds| Kinds { long: false, ..self } == wanted;
        let none = Kinds::default();
        if is(Kinds { bool: true, ..none }) {
            DataType::Boolean
        } else if is(Kinds { int: true, ..none }) {
            DataType::Int64
        } else if self.float && is(Kinds { float: true, int: self.int, ..none }) && !self.long {
            DataType::Float64
        } else {
            DataType::Utf8
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_tell_a_type() {
        let kind = |values: &[&str]| {
            let mut kinds = Kinds::default();
            values.iter().for_each(|value| kinds.note(value));
            kinds.data_type()
        };
        for (values, wanted) in [
            (&["null", "\"a\""][..], DataType::Utf8),
            (&["null"], DataType::Utf8),
            (&["1", "-9223372036854775808", "null"], DataType::Int64),
            (&["9223372036854775808"], DataType::Utf8),
            (&["1", "0.5", "-0", "1e300"], DataType::Float64),
            (&["-0"], DataType::Float64),
            (&["9007199254740992", "0.5"], DataType::Float64),
            (&["9007199254740993", "0.5"], DataType::Utf8),
            (&["1e400"], DataType::Utf8),
            (&["true", "false"], DataType::Boolean),
            (&["true", "1"], DataType::Utf8),
            (&["1", "\"1\""], DataType::Utf8),
            (&["[1]", "[2]"], DataType::Utf8),
            (&["{}"], DataType::Utf8),
        ] {
            assert_eq!(kind(values), wanted, "{values:?}");
        }
    }
}
