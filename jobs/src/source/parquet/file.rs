//! Rows of one Parquet file, from any row on.

use std::{
    collections::VecDeque,
    fmt,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow_array::{RecordBatch, RecordBatchReader};
use arrow_schema::Fields;
use parquet::{
    arrow::{
        FieldLevels, ProjectionMask,
        arrow_reader::{ParquetRecordBatchReader, RowSelection, RowSelector},
        parquet_to_arrow_field_levels,
    },
    basic::Compression,
    file::metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData},
};
use pith::{Error, Result};

use super::{
    cells, fault, name_of,
    pages::Group,
    thrift,
    types::{self, Types},
};
use crate::row::{Row, RowError};

/// The longest footer that is read: one for a million chunks of columns.
const MAX_FOOTER: u64 = 128 << 20;
/// The most groups inside groups, the root among them.
const MAX_DEPTH: usize = 32;
/// The most columns.
const MAX_COLUMNS: usize = 16_384;

/// A batch has at most so many rows, values in all its columns, and bytes, as far as the footer's sums tell.
const MAX_ROWS: u64 = 1024;
const MAX_VALUES: u64 = 1 << 19;
const MAX_BATCH: u64 = 16 << 20;
/// Cells are made of a batch until they have so many bytes.
const PIECE: usize = 4 << 20;

/// A Parquet file, and where its reader is.
pub struct ParquetFile {
    path: PathBuf,
    name: String,
    file: Arc<File>,
    metadata: Arc<ParquetMetaData>,
    types: Types,
    levels: FieldLevels,
    /// The row group that is opened next, and how many of its rows are passed over.
    group: usize,
    skip: u64,
    /// The open row group, and how many rows it has left.
    reader: Option<ParquetRecordBatchReader>,
    left: u64,
    /// A batch of it, and the first row without cells.
    batch: Option<(RecordBatch, usize)>,
    ready: VecDeque<std::result::Result<Row, RowError>>,
}

impl ParquetFile {
    /// Opens a file to read its rows from number `from` on.
    ///
    /// # Errors
    /// It isn't a sound Parquet file; it is encrypted, or has columns of types that no cell can hold; it
    /// has fewer rows than `from`.
    pub fn open(path: &Path, from: u64) -> Result<ParquetFile> {
        let name = name_of(path);
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        let length = file.metadata().map_err(Error::io("read", path))?.len();
        let footer = footer(&mut file, length, path, &name)?;
        let metadata = guarded(path, &name, || ParquetMetaDataReader::decode_metadata(&footer))?;
        check(&metadata, length, &name)?;
        let schema = metadata.file_metadata().schema_descr();
        let types = guarded(path, &name, || Ok::<_, io::Error>(types::of(&name, schema)))??;
        let levels = guarded(path, &name, || {
            parquet_to_arrow_field_levels(schema, ProjectionMask::all(), Some(&types.views))
        })?;
        let mut parquet = ParquetFile {
            path: path.to_owned(),
            name,
            file: Arc::new(file),
            metadata: Arc::new(metadata),
            types,
            levels,
            group: 0,
            skip: from,
            reader: None,
            left: 0,
            batch: None,
            ready: VecDeque::new(),
        };
        parquet.pass_groups()?;
        Ok(parquet)
    }

    /// The file's name, without the folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its columns, with the types that they are written again with.
    pub fn columns(&self) -> &Fields {
        &self.types.columns
    }

    /// The number of its rows.
    pub fn n_rows(&self) -> u64 {
        self.metadata.row_groups().iter().map(n_rows).sum()
    }

    /// The next row, or what is wrong with it; `None` behind the last.
    ///
    /// # Errors
    /// The file can't be read any more; a page of it is broken. It ends there.
    #[expect(clippy::should_implement_trait, reason = "an iterator would go on behind an error")]
    pub fn next(&mut self) -> Result<Option<std::result::Result<Row, RowError>>> {
        while self.ready.is_empty() {
            match self.refill() {
                Ok(true) => (),
                Ok(false) => return Ok(None),
                Err(error) => {
                    self.group = self.metadata.num_row_groups();
                    return Err(error);
                }
            }
        }
        Ok(self.ready.pop_front())
    }

    /// Passes over the row groups that lie before the first row.
    fn pass_groups(&mut self) -> Result<()> {
        while self.skip > 0 {
            let Some(group) = self.metadata.row_groups().get(self.group) else {
                let (name, n, skip) = (&self.name, self.n_rows(), self.skip);
                return Err(Error::Invalid(format!(
                    "{name} has {n} rows, {skip} too few to go on"
                )));
            };
            let rows = n_rows(group);
            if self.skip < rows {
                break;
            }
            self.skip -= rows;
            self.group += 1;
        }
        Ok(())
    }

    /// One step towards more rows; `false` at the end. An error leaves nothing to go on with.
    fn refill(&mut self) -> Result<bool> {
        if let Some((batch, from)) = self.batch.take() {
            let ready = &mut self.ready;
            let next = guarded(&self.path, &self.name, || {
                cells::rows(&batch, from, PIECE, |row| ready.push_back(row))
            })?;
            if next < batch.num_rows() {
                self.batch = Some((batch, next));
            }
            return Ok(true);
        }
        if let Some(mut reader) = self.reader.take() {
            let batch = guarded(&self.path, &self.name, || reader.next().transpose())?;
            self.left = match batch.as_ref().map_or(0, |batch| batch.num_rows() as u64) {
                0 if self.left == 0 => return Ok(true),
                0 => None,
                n => self.left.checked_sub(n),
            }
            .ok_or_else(|| {
                let (group, rows) =
                    (self.group - 1, n_rows(self.metadata.row_group(self.group - 1)));
                fault(&self.name, format!("row group {group} says it has {rows} rows, and hasn't"))
            })?;
            self.batch = batch.map(|batch| (batch, 0));
            self.reader = Some(reader);
            return Ok(true);
        }
        self.open_group()
    }

    fn open_group(&mut self) -> Result<bool> {
        let Some(row_group) = self.metadata.row_groups().get(self.group) else { return Ok(false) };
        let rows = n_rows(row_group);
        let skip = std::mem::take(&mut self.skip);
        let group = Group {
            file: Arc::clone(&self.file),
            metadata: Arc::clone(&self.metadata),
            number: self.group,
        };
        self.group += 1;
        self.left = rows - skip;
        let [pass, take] = [skip, self.left].map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        let selection = (pass > 0)
            .then(|| RowSelection::from(vec![RowSelector::skip(pass), RowSelector::select(take)]));
        let reader = guarded(&self.path, &self.name, || {
            let size = batch_size(row_group);
            ParquetRecordBatchReader::try_new_with_row_groups(&self.levels, &group, size, selection)
        })?;
        if !same_types(reader.schema().fields(), &self.types.views) {
            let kinds = format!("{:?}", reader.schema().fields());
            return Err(Error::Unsupported(format!("{}: columns of the types {kinds}", self.name)));
        }
        self.reader = (rows > 0).then_some(reader);
        Ok(true)
    }
}

impl fmt::Debug for ParquetFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParquetFile").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What [`check`] let through fits.
fn n_rows(group: &RowGroupMetaData) -> u64 {
    group.num_rows().max(0) as u64
}

/// How many rows of a group are read at a time.
fn batch_size(group: &RowGroupMetaData) -> usize {
    let sum = |count: fn(&parquet::file::metadata::ColumnChunkMetaData) -> i64| {
        group.columns().iter().map(|chunk| count(chunk).max(0) as u64).fold(0, u64::saturating_add)
    };
    let rows = n_rows(group).max(1);
    let values = sum(|chunk| chunk.num_values()).div_ceil(rows).max(1);
    let bytes = sum(|chunk| chunk.uncompressed_size()).div_ceil(rows).max(1);
    (MAX_VALUES / values).min(MAX_BATCH / bytes).clamp(1, MAX_ROWS) as usize
}

fn same_types(a: &Fields, b: &Fields) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.data_type().equals_datatype(b.data_type()))
}

/// Reads the footer, which ends the file with its length and a magic word.
fn footer(file: &mut File, length: u64, path: &Path, name: &str) -> Result<Vec<u8>> {
    const MAGIC: &[u8; 4] = b"PAR1";
    let mut read = |at: u64, n: u64| -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(at)).map_err(Error::io("read", path))?;
        file.take(n).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
        match bytes.len() as u64 == n {
            true => Ok(bytes),
            false => Err(fault(name, "it became shorter while it was read")),
        }
    };
    if length < 12 {
        return Err(fault(name, format!("{length} bytes are too few")));
    }
    let (first, end) = (read(0, 4)?, read(length - 8, 8)?);
    if end[4..] == *b"PARE" {
        return Err(encrypted(name));
    }
    if first != MAGIC || end[4..] != *MAGIC {
        return Err(fault(name, "it doesn't begin and end with PAR1"));
    }
    let size = u64::from(u32::from_le_bytes([end[0], end[1], end[2], end[3]]));
    if size > length - 12 || size > MAX_FOOTER {
        return Err(fault(
            name,
            format!("a footer of {size} bytes in {length}; at most {MAX_FOOTER} are read"),
        ));
    }
    let footer = read(length - 8 - size, size)?;
    let facts = thrift::footer(&footer).ok_or_else(|| fault(name, "its footer is broken"))?;
    if facts.is_encrypted {
        return Err(encrypted(name));
    }
    if facts.depth > MAX_DEPTH {
        let depth = facts.depth;
        return Err(fault(
            name,
            format!("{depth} groups in one another; at most {MAX_DEPTH} are read"),
        ));
    }
    Ok(footer)
}

fn encrypted(name: &str) -> Error {
    Error::Unsupported(format!("{name} is encrypted: write it again without a key"))
}

/// Checks what the footer says against the file's length and itself.
fn check(metadata: &ParquetMetaData, length: u64, name: &str) -> Result<()> {
    let n_columns = metadata.file_metadata().schema_descr().num_columns();
    if n_columns == 0 || n_columns > MAX_COLUMNS {
        return Err(fault(name, format!("{n_columns} columns; 1 to {MAX_COLUMNS} are read")));
    }
    let mut total = 0u64;
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let wrong = |what: String| fault(name, format!("row group {number}: {what}"));
        let rows =
            u64::try_from(group.num_rows()).ok().filter(|rows| *rows <= i64::MAX as u64 - total);
        total += rows.ok_or_else(|| wrong(format!("{} rows", group.num_rows())))?;
        for chunk in group.columns() {
            let column = chunk.column_path().string();
            let start = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
            let size = chunk.compressed_size();
            let end = u64::try_from(start)
                .ok()
                .zip(u64::try_from(size).ok())
                .and_then(|(a, b)| a.checked_add(b));
            if end.is_none_or(|end| end > length) {
                return Err(wrong(format!(
                    "column {column}: {size} bytes at byte {start} of {length}"
                )));
            }
            if chunk.file_path().is_some() {
                return Err(Error::Unsupported(format!(
                    "{name}: column {column} lies in another file"
                )));
            }
            if !has_codec(chunk.compression()) {
                let codec = chunk.compression();
                return Err(Error::Unsupported(format!(
                    "{name}: column {column} is compressed with {codec}; write it again with zstd"
                )));
            }
            let (values, rows) = (chunk.num_values(), group.num_rows());
            if values < 0 || chunk.column_descr().max_rep_level() == 0 && values != rows {
                return Err(wrong(format!("column {column}: {values} values in {rows} rows")));
            }
        }
    }
    Ok(())
}

fn has_codec(codec: Compression) -> bool {
    match codec {
        Compression::UNCOMPRESSED
        | Compression::SNAPPY
        | Compression::GZIP(_)
        | Compression::LZ4
        | Compression::LZ4_RAW
        | Compression::ZSTD(_) => true,
        Compression::BROTLI(_) | Compression::LZO => false,
    }
}

/// Calls the `parquet` crate, which may panic where a file is broken.
fn guarded<T, E: std::error::Error + 'static>(
    path: &Path,
    name: &str,
    work: impl FnOnce() -> std::result::Result<T, E>,
) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(match system_error(&error) {
            Some(source) => Error::Io { action: "read", path: path.to_owned(), source },
            None => fault(name, error),
        }),
        Err(panic) => {
            let what = (panic.downcast_ref::<String>().map(String::as_str))
                .or_else(|| panic.downcast_ref::<&str>().copied());
            Err(fault(name, format!("its reader gave up: {}", what.unwrap_or("no reason"))))
        }
    }
}

/// The system's error that is behind this one.
fn system_error(error: &(dyn std::error::Error + 'static)) -> Option<io::Error> {
    let mut error = Some(error);
    while let Some(cause) = error {
        let code = cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        if let Some(code) = code {
            return Some(io::Error::from_raw_os_error(code));
        }
        error = cause.source();
    }
    None
}
