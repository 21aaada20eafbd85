//! The second pass over a spool: records to columns to a file.

use std::{collections::HashMap, fs::File, io, path::Path, sync::Arc};

use arrow_json::{ReaderBuilder, reader::Decoder};
use arrow_schema::{ArrowError, Schema};
use parquet::{
    arrow::{ArrowWriter, arrow_writer::ArrowWriterOptions},
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::properties::WriterProperties,
};
use pith::{Error, Result};

use super::{
    spool::{Record, Spool},
    survey::Columns,
};

/// Rows of a row group, and the bytes at which one with longer rows ends.
const GROUP_ROWS: usize = 1 << 16;
const GROUP_BYTES: usize = 64 << 20;
/// Rows, and bytes, that become columns at a time.
const BATCH_ROWS: usize = 1024;
const BATCH_BYTES: usize = 4 << 20;

/// Zstandard's own default.
const ZSTD_LEVEL: i32 = 3;
/// What reads the file again finds as its writer.
const CREATED_BY: &str = concat!("pith version ", env!("CARGO_PKG_VERSION"));

/// Writes the file, to its last byte on the disk.
pub(super) fn write(spool: &Path, out: &Path, columns: &Columns) -> Result<()> {
    let (mut lines, mut spool) = (Lines::new(columns)?, Spool::open(spool)?);
    let fields = columns.columns.iter().map(|column| column.field.clone()).collect::<Vec<_>>();
    let schema = Arc::new(Schema::new(fields));
    let file = File::create(out).map_err(Error::io("create", out))?;
    let options =
        ArrowWriterOptions::new().with_properties(properties()?).with_skip_arrow_metadata(true);
    let writing = |error| not_written(error, out);
    let mut writer =
        ArrowWriter::try_new_with_options(file, Arc::clone(&schema), options).map_err(writing)?;
    let mut decoder =
        ReaderBuilder::new(schema).with_batch_size(BATCH_ROWS).build_decoder().map_err(not_read)?;
    loop {
        let record = spool.next()?;
        let is_last = record.is_none();
        if let Some(record) = record {
            lines.push(&record)?;
        }
        if lines.n == BATCH_ROWS || lines.json.len() >= BATCH_BYTES || is_last {
            decode(&mut decoder, &lines.json).map_err(not_read)?;
            if let Some(batch) = decoder.flush().map_err(not_read)? {
                writer.write(&batch).map_err(writing)?;
            }
            lines.clear();
        }
        if is_last {
            let file = writer.into_inner().map_err(writing)?;
            return file.sync_all().map_err(Error::io("sync", out));
        }
    }
}

fn decode(decoder: &mut Decoder, mut json: &[u8]) -> std::result::Result<(), ArrowError> {
    while !json.is_empty() {
        json = &json[decoder.decode(json)?..];
    }
    Ok(())
}

fn properties() -> Result<WriterProperties> {
    let level =
        ZstdLevel::try_new(ZSTD_LEVEL).map_err(|error| Error::Invalid(error.to_string()))?;
    Ok(WriterProperties::builder()
        .set_created_by(CREATED_BY.to_owned())
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_max_row_group_bytes(Some(GROUP_BYTES))
        .build())
}

/// A value of the spool doesn't fit its column.
fn not_read(error: ArrowError) -> Error {
    Error::malformed("spool", error.to_string())
}

fn not_written(error: ParquetError, out: &Path) -> Error {
    let fault = match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(source) => {
                return Error::Io { action: "write", path: out.to_owned(), source: *source };
            }
            Err(source) => source.to_string(),
        },
        error => error.to_string(),
    };
    Error::Invalid(format!("cannot write {}: {fault}", out.display()))
}

/// Records whose values have their columns' types: JSON lines again.
struct Lines<'c> {
    columns: &'c Columns,
    /// A column's place by its name, and the name as JSON.
    places: HashMap<&'c str, usize>,
    keys: Vec<String>,
    json: Vec<u8>,
    n: usize,
}

impl<'c> Lines<'c> {
    fn new(columns: &'c Columns) -> Result<Lines<'c>> {
        let names = || columns.columns.iter().map(|column| column.field.name().as_str());
        let places: HashMap<&str, usize> = names().zip(0..).collect();
        if places.len() < columns.columns.len() {
            let names = names().collect::<Vec<_>>().join(", ");
            return Err(Error::Invalid(format!(
                "two of the output's columns have the same name: {names}"
            )));
        }
        let keys = names()
            .map(serde_json::to_string)
            .collect::<std::result::Result<_, _>>()
            .map_err(|error| Error::Invalid(error.to_string()))?;
        Ok(Lines { columns, places, keys, json: Vec::new(), n: 0 })
    }

    fn push(&mut self, record: &Record<'_>) -> Result<()> {
        let failed = record.has(&self.columns.error);
        self.json.push(b'{');
        for (name, value) in &record.0 {
            let Some(&place) = self.places.get(name.as_str()) else {
                return Err(Error::malformed("spool", format!("it changed: column {name:?}")));
            };
            let column = &self.columns.columns[place];
            let value = value.get();
            if value == "null" || failed && column.is_added {
                continue;
            }
            if self.json.last() != Some(&b'{') {
                self.json.push(b',');
            }
            self.json.extend(self.keys[place].as_bytes());
            self.json.push(b':');
            if column.is_text && !value.starts_with('"') {
                serde_json::to_writer(&mut self.json, value)
                    .map_err(|error| Error::Invalid(error.to_string()))?;
            } else {
                self.json.extend(value.as_bytes());
            }
        }
        self.json.extend(b"}\n");
        self.n += 1;
        Ok(())
    }

    fn clear(&mut self) {
        self.json.clear();
        self.n = 0;
    }
}
