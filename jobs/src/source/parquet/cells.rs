//! Cells of columns. Text is a text; numbers are the shortest digits that lead back to them, decimals all
//! of theirs; lists and structures are JSON. What JSON has no form for is text: times and dates as RFC
//! 3339 has them, bytes in lower-case hex, and the numbers `NaN`, `inf` and `-inf`. All of it leads back to
//! the value in its column's type.

use std::{
    fmt::Write as _,
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use arrow_array::{
    Array, BinaryViewArray, PrimitiveArray, RecordBatch, StringViewArray,
    cast::AsArray,
    types::{ArrowPrimitiveType, Float16Type, Float32Type, Float64Type},
};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_json::{
    Encoder, EncoderFactory, EncoderOptions,
    writer::{NullableEncoder, make_encoder},
};
use arrow_schema::{ArrowError, DataType, FieldRef, Schema};
use serde_json::value::RawValue;

use crate::row::{Cell, Row, RowError};

/// The longest cell and the longest row, in bytes of JSON.
const MAX_BYTES: usize = 64 << 20;

/// A row, or what is wrong with it.
type Read = std::result::Result<Row, RowError>;

/// Hands rows of the batch from number `from` on to `take`, until they have `limit` bytes. Returns the
/// number of the row behind them.
pub(super) fn rows(
    batch: &RecordBatch,
    from: usize,
    limit: usize,
    mut take: impl FnMut(Read),
) -> Result<usize, ArrowError> {
    let options = Options::new();
    let schema = batch.schema();
    let mut columns = Columns::new(batch, &schema, &options)?;
    let mut size = 0;
    let mut at = from;
    while at < batch.num_rows() && (at == from || size < limit) {
        take(columns.row(at, &mut size));
        at += 1;
    }
    Ok(at)
}

fn too_long() -> RowError {
    RowError::new("too_long_line", format!("longer than {MAX_BYTES} bytes, and skipped"))
}

/// What encoders share.
struct Options {
    json: EncoderOptions,
    trouble: Arc<Trouble>,
}

impl Options {
    fn new() -> Options {
        let trouble = Arc::new(Trouble::default());
        let exact = Exact(Arc::clone(&trouble));
        let json = EncoderOptions::default()
            .with_explicit_nulls(true)
            .with_encoder_factory(Arc::new(exact));
        Options { json, trouble }
    }
}

/// What an encoder, which can't fail, says of a value.
#[derive(Debug, Default)]
struct Trouble(AtomicU8);

impl Trouble {
    const TIME: u8 = 1;
    const LENGTH: u8 = 2;

    fn note(&self, what: u8) {
        self.0.fetch_or(what, Ordering::Relaxed);
    }

    fn take(&self) -> u8 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// Encoders of a batch's columns.
struct Columns<'a> {
    columns: Vec<(&'a str, Column<'a>)>,
    trouble: &'a Trouble,
    json: Vec<u8>,
}

enum Column<'a> {
    Text(&'a StringViewArray),
    Other(NullableEncoder<'a>),
}

impl<'a> Columns<'a> {
    fn new(
        batch: &'a RecordBatch,
        schema: &'a Schema,
        options: &'a Options,
    ) -> Result<Columns<'a>, ArrowError> {
        let columns = (schema.fields().iter().zip(batch.columns()))
            .map(|(field, array)| {
                let column = match array.as_string_view_opt() {
                    Some(texts) => Column::Text(texts),
                    None => Column::Other(make_encoder(field, array.as_ref(), &options.json)?),
                };
                Ok((field.name().as_str(), column))
            })
            .collect::<Result<_, ArrowError>>()?;
        Ok(Columns { columns, trouble: &options.trouble, json: Vec::new() })
    }

    /// Row number `at`. Its bytes are added to `size`; it isn't finished if they are too many.
    fn row(&mut self, at: usize, size: &mut usize) -> Read {
        let (mut row, most) = (Row::default(), *size + MAX_BYTES);
        for (name, column) in &mut self.columns {
            let cell = match column {
                Column::Text(texts) if texts.is_null(at) => null(),
                Column::Text(texts) => {
                    let text = texts.value(at);
                    *size += text.len();
                    Cell::Text(if *size > most { String::new() } else { text.to_owned() })
                }
                Column::Other(encoder) if encoder.is_null(at) => null(),
                Column::Other(encoder) => {
                    self.json.clear();
                    encoder.encode(at, &mut self.json);
                    *size += self.json.len();
                    match self.trouble.take() {
                        0 => cell(&self.json, name)?,
                        Trouble::TIME => return Err(no_time(name)),
                        _ => return Err(too_long()),
                    }
                }
            };
            if *size > most {
                return Err(too_long());
            }
            row.push(*name, cell);
            *size += name.len();
        }
        Ok(row)
    }
}

fn no_time(name: &str) -> RowError {
    RowError::new("time", format!("column {name:?} holds a time outside the years 0 to 9999"))
}

fn null() -> Cell {
    Cell::Json(RawValue::NULL.to_owned())
}

/// A cell of a value's JSON. Of text only what needs no escapes comes here.
fn cell(json: &[u8], name: &str) -> std::result::Result<Cell, RowError> {
    let broken = |what: String| RowError::new("parquet", format!("column {name:?}: {what}"));
    let json = str::from_utf8(json).map_err(|error| broken(error.to_string()))?;
    match json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(text) => Ok(Cell::Text(text.to_owned())),
        None => RawValue::from_string(json.to_owned())
            .map(Cell::Json)
            .map_err(|error| broken(error.to_string())),
    }
}

/// Encoders for what `arrow-json` would lose, or write without end.
#[derive(Debug)]
struct Exact(Arc<Trouble>);

impl EncoderFactory for Exact {
    fn make_default_encoder<'a>(
        &self,
        _: &'a FieldRef,
        array: &'a dyn Array,
        _: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let trouble = Arc::clone(&self.0);
        let encoder: Box<dyn Encoder + 'a> = match array.data_type() {
            DataType::Float16 => {
                Box::new(Floats(array.as_primitive::<Float16Type>(), half::f16::to_f32))
            }
            DataType::Float32 => Box::new(Floats(array.as_primitive::<Float32Type>(), |x| x)),
            DataType::Float64 => Box::new(Floats(array.as_primitive::<Float64Type>(), |x| x)),
            DataType::Utf8View => Box::new(Texts(array.as_string_view(), trouble)),
            DataType::BinaryView => Box::new(Bytes(array.as_binary_view(), trouble)),
            kind if kind.is_temporal() => {
                Box::new(Times(ArrayFormatter::try_new(array, &FORMAT)?, trouble))
            }
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(encoder, array.nulls().cloned())))
    }
}

const FORMAT: FormatOptions<'static> = FormatOptions::new().with_display_error(false);

/// Floating-point numbers, and how they become ones that have a shortest form.
struct Floats<'a, T: ArrowPrimitiveType, F>(&'a PrimitiveArray<T>, fn(T::Native) -> F);

impl<T: ArrowPrimitiveType, F: Into<f64> + Copy + std::fmt::Debug> Encoder for Floats<'_, T, F> {
    fn encode(&mut self, at: usize, out: &mut Vec<u8>) {
        let number = self.1(self.0.value(at));
        // Writing to memory doesn't fail.
        let _ = match number.into().is_finite() {
            true => write!(out, "{number:?}"),
            false => write!(out, "\"{number:?}\""),
        };
    }
}

/// Texts inside of lists and structures: many may be views of one.
struct Texts<'a>(&'a StringViewArray, Arc<Trouble>);

impl Encoder for Texts<'_> {
    fn encode(&mut self, at: usize, out: &mut Vec<u8>) {
        let mut text = self.0.value(at);
        if out.len() + text.len() > MAX_BYTES {
            self.1.note(Trouble::LENGTH);
            text = "";
        }
        // Text has a form in JSON, and memory takes it.
        let _ = serde_json::to_writer(out, text);
    }
}

/// Bytes in hex: many may be views of one string of bytes.
struct Bytes<'a>(&'a BinaryViewArray, Arc<Trouble>);

impl Encoder for Bytes<'_> {
    fn encode(&mut self, at: usize, out: &mut Vec<u8>) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut bytes = self.0.value(at);
        if out.len() + 2 * bytes.len() > MAX_BYTES {
            self.1.note(Trouble::LENGTH);
            bytes = &[];
        }
        out.push(b'"');
        for byte in bytes {
            out.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        out.push(b'"');
    }
}

/// Times and dates. RFC 3339 has years of four digits, and nothing else is read back.
struct Times<'a>(ArrayFormatter<'a>, Arc<Trouble>);

impl Encoder for Times<'_> {
    fn encode(&mut self, at: usize, out: &mut Vec<u8>) {
        let mut text = String::new();
        let is_time = write!(text, "{}", self.0.value(at)).is_ok();
        if !is_time || text.starts_with(['+', '-']) {
            self.1.note(Trouble::TIME);
        }
        out.push(b'"');
        out.extend(text.as_bytes());
        out.push(b'"');
    }
}
