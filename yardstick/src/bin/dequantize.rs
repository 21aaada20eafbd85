//! Writes a GGUF file with its weights as F32, decoded by pith: what a quantized file says, without
//! the rounding of anything else.

use std::path::Path;

use pith::bytes::Bytes;
use pith::gguf::{Array, Gguf, OwnedValue, Type, Value, Writer};
use pith::quant::Format;
use yardstick::args::Args;

const USAGE: &str = "dequantize IN.gguf OUT.gguf";
/// The key that names a file's mix of formats, and its value where all is F32.
const FILE_TYPE: (&str, OwnedValue) = ("general.file_type", OwnedValue::U32(0));

fn main() -> Result<(), String> {
    let [source, target] = Args::of_program().positional(USAGE)?;
    let bytes = Bytes::map(Path::new(&source)).map_err(|e| e.to_string())?;
    let gguf = Gguf::parse(&bytes).map_err(|e| e.to_string())?;
    write(&gguf, Path::new(&target)).map_err(|e| e.to_string())
}

fn write(gguf: &Gguf<'_>, target: &Path) -> pith::Result<()> {
    let mut writer = Writer::new(gguf.alignment())?;
    for (key, value) in gguf.metadata() {
        match *key {
            "general.alignment" => {} // the writer sets it
            key if key == FILE_TYPE.0 => writer.set(key, FILE_TYPE.1)?,
            key => writer.set(key, owned(key, value)?)?,
        }
    }
    for tensor in gguf.tensors() {
        writer.declare(tensor.name, Format::F32, &tensor.dims[..tensor.n_dims as usize])?;
    }
    let mut out = writer.create(target)?;
    let mut row = Vec::new();
    for tensor in gguf.tensors() {
        row.resize(tensor.n_in(), 0.0);
        for stored in tensor.data.chunks_exact(tensor.data.len() / tensor.n_rows()) {
            tensor.format.decode(stored, &mut row);
            let bytes: Vec<u8> = row.iter().flat_map(|x| x.to_le_bytes()).collect();
            out.append(tensor.name, &bytes)?;
        }
    }
    out.finish().map(|_| ())
}

fn owned(key: &str, value: &Value<'_>) -> pith::Result<OwnedValue> {
    Ok(match value {
        Value::U8(v) => OwnedValue::U8(*v),
        Value::I8(v) => OwnedValue::I8(*v),
        Value::U16(v) => OwnedValue::U16(*v),
        Value::I16(v) => OwnedValue::I16(*v),
        Value::U32(v) => OwnedValue::U32(*v),
        Value::I32(v) => OwnedValue::I32(*v),
        Value::F32(v) => OwnedValue::F32(*v),
        Value::Bool(v) => OwnedValue::Bool(*v),
        Value::String(v) => OwnedValue::String(v.to_string()),
        Value::U64(v) => OwnedValue::U64(*v),
        Value::I64(v) => OwnedValue::I64(*v),
        Value::F64(v) => OwnedValue::F64(*v),
        Value::Array(array) => owned_array(array).ok_or_else(|| {
            let of = array.element_type();
            pith::Error::Invalid(format!("{key}: arrays of {of:?} are not copied"))
        })?,
    })
}

/// The arrays that GGUF files have.
fn owned_array(array: &Array<'_>) -> Option<OwnedValue> {
    match array.element_type() {
        Type::String => {
            array.strings().map(|v| OwnedValue::Strings(v.map(str::to_string).collect()))
        }
        Type::F32 => array.f32s().map(|v| OwnedValue::F32s(v.collect())),
        Type::U32 => array.u64s().map(|v| OwnedValue::U32s(v.map(|v| v as u32).collect())),
        Type::I32 => array.i64s().map(|v| OwnedValue::I32s(v.map(|v| v as i32).collect())),
        Type::Bool => array.bools().map(|v| OwnedValue::Bools(v.collect())),
        _ => None,
    }
}
