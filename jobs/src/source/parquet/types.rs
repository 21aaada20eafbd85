//! Types of columns: which there are, and as what they are read.
//!
//! They are Parquet's own, whatever wrote the file: the Arrow schema that some writers add is not read.
//! What it knows beyond Parquet's types, names of time zones and that a text comes from a dictionary, is
//! no value.

use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, Fields, TimeUnit};
use parquet::{arrow::parquet_to_arrow_schema, basic::Type, schema::types::SchemaDescriptor};
use pith::{Error, Result};

use super::fault;

/// UTC as an offset, which needs no table of time zones.
const UTC: &str = "+00:00";

/// The columns of a file.
pub(super) struct Types {
    /// As they are written again.
    pub columns: Fields,
    /// As they are read: a text is a view into its page, so that it takes no memory for each time that a
    /// dictionary's entry is used.
    pub views: Fields,
}

/// The types of a file's columns.
pub(super) fn of(name: &str, schema: &SchemaDescriptor) -> Result<Types> {
    let fields = parquet_to_arrow_schema(schema, None).map_err(|error| fault(name, error))?.fields;
    let mut leaf = Leaf { schema, number: 0 };
    let columns = (fields.iter())
        .map(|field| {
            let own = leaf.own(field.data_type()).map_err(|what| {
                Error::Unsupported(format!(
                    "{name}: column {:?} holds {what}, for which there is no text",
                    field.name()
                ))
            })?;
            Ok(field.as_ref().clone().with_data_type(own))
        })
        .collect::<Result<Fields>>()?;
    if let Some(twice) = twice(&columns) {
        return Err(fault(name, format!("two columns are named {twice:?}")));
    }
    let views = columns.iter().map(view_of).collect();
    Ok(Types { columns, views })
}

/// The place in the row of a schema's leaves.
struct Leaf<'s> {
    schema: &'s SchemaDescriptor,
    number: usize,
}

impl Leaf<'_> {
    /// The type as it is written again; what is in the way, if it can't be read.
    fn own(&mut self, kind: &DataType) -> std::result::Result<DataType, String> {
        let own = match kind {
            DataType::List(item) => return Ok(DataType::List(self.inside(item)?)),
            DataType::Map(entry, sorted) => {
                let DataType::Struct(fields) = entry.data_type() else {
                    return Err(kind.to_string());
                };
                match fields.first().map(|key| key.data_type()) {
                    Some(DataType::Utf8) => (),
                    _ => return Err("maps whose keys aren't text".to_owned()),
                }
                return Ok(DataType::Map(self.inside(entry)?, *sorted));
            }
            DataType::Struct(fields) => {
                let fields: Fields = fields
                    .iter()
                    .map(|field| self.inside(field))
                    .collect::<std::result::Result<_, _>>()?;
                return match twice(&fields) {
                    Some(twice) => Err(format!("structures that name {twice:?} twice")),
                    None => Ok(DataType::Struct(fields)),
                };
            }
            // Spark's old times of 96 bits: microseconds are what it has, and they don't end in 2262.
            DataType::Timestamp(TimeUnit::Nanosecond, None)
                if self.schema.column(self.number).physical_type() == Type::INT96 =>
            {
                DataType::Timestamp(TimeUnit::Microsecond, None)
            }
            DataType::Timestamp(unit, Some(_)) => DataType::Timestamp(*unit, Some(UTC.into())),
            kind if has_text(kind) => kind.clone(),
            kind => return Err(kind.to_string()),
        };
        self.number += 1;
        Ok(own)
    }

    fn inside(&mut self, field: &FieldRef) -> std::result::Result<FieldRef, String> {
        Ok(Arc::new(field.as_ref().clone().with_data_type(self.own(field.data_type())?)))
    }
}

fn has_text(kind: &DataType) -> bool {
    kind.is_integer()
        || kind.is_floating()
        || kind.is_decimal()
        || matches!(
            kind,
            DataType::Null
                | DataType::Boolean
                | DataType::Utf8
                | DataType::Binary
                | DataType::FixedSizeBinary(_)
                | DataType::Date32
                | DataType::Time32(_)
                | DataType::Time64(_)
                | DataType::Timestamp(_, _)
        )
}

/// A name that two fields have.
fn twice(fields: &Fields) -> Option<&str> {
    let mut names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
    names.sort_unstable();
    names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

fn view_of(field: &FieldRef) -> FieldRef {
    let kind = match field.data_type() {
        DataType::Utf8 => DataType::Utf8View,
        DataType::Binary => DataType::BinaryView,
        DataType::List(item) => DataType::List(view_of(item)),
        DataType::Map(entry, sorted) => DataType::Map(view_of(entry), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(view_of).collect()),
        other => other.clone(),
    };
    Arc::new(Field::clone(field).with_data_type(kind))
}
