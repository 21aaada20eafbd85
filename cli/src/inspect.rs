//! `pith inspect`: what is in a model file, and what running it takes.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    path::PathBuf,
};

use pith::{
    Model, Result,
    gguf::{Array, Gguf, Tensor, Value},
    model::Classifier,
    plan::Op,
};
use serde_json::{Map, Value as Json, json};

use crate::{End, stdout_error, writing::Place};

/// Elements of an array that are shown, and characters of a string.
const SHOWN_ELEMENTS: usize = 5;
const SHOWN_CHARS: usize = 100;

/// Show what a model file holds and what running it takes
///
/// Always: the family, its numbers, the metadata and the planned memory.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  pith inspect model.gguf
  pith inspect model.gguf --plan --ctx 2048
  pith inspect model.gguf --tensors --json | jq '.tensors[].format'")]
pub struct Args {
    /// The model, a GGUF file
    model: PathBuf,
    /// Also the plan: every op with its bytes and operations per token
    #[arg(long)]
    plan: bool,
    /// Also every tensor: format, shape, bytes
    #[arg(long)]
    tensors: bool,
    /// Also the tokenizer: kind, special tokens, first entries
    #[arg(long)]
    tokenizer: bool,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<End> {
    let model = Model::open(&args.model)?;
    let text = if args.json { format!("{}\n", json(&model, args)?) } else { text(&model, args)? };
    io::stdout().lock().write_all(text.as_bytes()).map_err(stdout_error)?;
    Ok(End::Done)
}

fn json(model: &Model, args: &Args) -> Result<Json> {
    let gguf = Gguf::parse(model.bytes())?;
    let session = args.place.session(model)?;
    let memory = session.memory();
    let mut object = json!({
        "file_bytes": model.bytes().len(),
        "gguf_version": gguf.version(),
        "family": {
            "architecture": model.family().arch,
            "title": model.family().title,
            "spec": Json::Object(spec(model).map(|(name, value)| (name.into(), value.into())).collect()),
        },
        "classifier": model.classifier().map(|head| json!({
            "kind": head.kind().name(),
            "problem_type": head.problem().name(),
            "labels": head.labels(),
        })),
        "metadata": gguf.metadata().iter().map(|(key, value)| ((*key).to_owned(), value_json(value))).collect::<Map<_, _>>(),
        "memory": {
            "n_ctx": session.n_ctx(),
            "weights_bytes": weights(&gguf),
            "kv_cache_bytes": memory.kv,
            "buffer_bytes": memory.buffers,
            "scratch_bytes": memory.scratch,
            "total_bytes": memory.total(),
        },
    });
    if args.tensors {
        object["tensors"] = gguf.tensors().iter().map(tensor_json).collect();
    }
    if args.tokenizer {
        object["tokenizer"] = tokenizer(model, &gguf)
            .map(|(name, value)| (name.to_owned(), Json::from(value)))
            .collect::<Map<_, _>>()
            .into();
    }
    if args.plan {
        object["plan"] = session.plan().ops.iter().map(op_json).collect();
    }
    Ok(object)
}

fn text(model: &Model, args: &Args) -> Result<String> {
    let gguf = Gguf::parse(model.bytes())?;
    let session = args.place.session(model)?;
    let memory = session.memory();
    let mut out = String::new();
    let mut section = |title: &str, rows: &mut dyn Iterator<Item = (String, String)>| {
        let _ = writeln!(out, "{title}");
        for (name, value) in rows {
            let _ = writeln!(out, "  {name:<44} {value}");
        }
        out.push('\n');
    };
    section(
        "File",
        &mut [
            ("size".to_owned(), size(model.bytes().len() as u64)),
            ("container".to_owned(), format!("GGUF version {}", gguf.version())),
            ("tensors".to_owned(), format!("{}, {}", gguf.tensors().len(), size(weights(&gguf)))),
        ]
        .into_iter(),
    );
    section(
        &format!("Family {}: {}", model.family().arch, model.family().title),
        &mut spec(model).map(|(name, value)| (name.to_owned(), value)),
    );
    if let Some(head) = model.classifier() {
        section("Classification head", &mut head_rows(head));
    }
    section(
        "Metadata",
        &mut gguf.metadata().iter().map(|(key, value)| (shown(key), value_text(value))),
    );
    if args.tokenizer {
        section(
            "Tokenizer",
            &mut tokenizer(model, &gguf).map(|(name, value)| (name.to_owned(), value)),
        );
    }
    if args.tensors {
        section(
            "Tensors",
            &mut gguf.tensors().iter().map(|t| {
                (
                    shown(t.name),
                    format!(
                        "{:<7} {:<20} {}",
                        t.format.name(),
                        shape(t),
                        size(t.data.len() as u64)
                    ),
                )
            }),
        );
    }
    section(
        &format!("Memory at a context of {}", session.n_ctx()),
        &mut [
            ("weights (mapped from the file)".to_owned(), size(weights(&gguf))),
            ("KV cache".to_owned(), size(memory.kv)),
            ("buffers".to_owned(), size(memory.buffers)),
            ("threads' scratch".to_owned(), size(memory.scratch)),
            ("all but the weights".to_owned(), size(memory.total())),
        ]
        .into_iter(),
    );
    if args.plan {
        let _ = writeln!(out, "Plan, for one token\n{}", session.plan());
    }
    Ok(out)
}

fn op_json(op: &Op) -> Json {
    json!({
        "op": op.name(),
        "weights": op.operand(),
        "bytes": op.weight_bytes(),
        "multiply_adds": op.macs(),
    })
}

/// The family's row, switch by switch.
fn spec(model: &Model) -> impl Iterator<Item = (&'static str, String)> {
    let block = model.family().block;
    [
        ("norm", format!("{:?}", block.norm)),
        ("join", format!("{:?}", block.join)),
        ("position", format!("{:?}", block.position)),
        ("feed-forward", format!("{:?}", block.ffn)),
        ("activation", format!("{:?}", block.act)),
        ("embedding scale", format!("{:?}", block.embed_scale)),
        ("score scale", format!("{:?}", block.score_scale)),
        ("window", format!("{:?}", block.window)),
        ("norm of q and k", format!("{:?}", block.qk_norm)),
    ]
    .into_iter()
}

/// What the head is, then its labels by number.
fn head_rows(head: &Classifier) -> impl Iterator<Item = (String, String)> {
    let labels = head.labels().iter().enumerate();
    [
        ("kind".to_owned(), head.kind().name().to_owned()),
        ("problem".to_owned(), head.problem().name().to_owned()),
    ]
    .into_iter()
    .chain(labels.map(|(i, label)| (format!("label {i}"), shown(label))))
}

/// Bytes of all tensors.
fn weights(gguf: &Gguf<'_>) -> u64 {
    gguf.tensors().iter().map(|tensor| tensor.data.len() as u64).sum()
}

fn tokenizer(model: &Model, gguf: &Gguf<'_>) -> impl Iterator<Item = (&'static str, String)> {
    let tokenizer = model.tokenizer();
    let special = |id: Option<u32>| match id {
        Some(id) => format!("{id} {}", shown(&String::from_utf8_lossy(tokenizer.piece(id)))),
        None => "none".to_owned(),
    };
    let template = gguf.get("tokenizer.chat_template").is_some();
    [
        ("entries", tokenizer.n_vocab().to_string()),
        ("beginning of text", special(tokenizer.bos())),
        ("end of text", special(tokenizer.eos())),
        ("begins every text with it", tokenizer.add_bos().to_string()),
        ("chat template", if template { "yes" } else { "no" }.to_owned()),
    ]
    .into_iter()
}

fn tensor_json(tensor: &Tensor<'_>) -> Json {
    json!({
        "name": tensor.name,
        "format": tensor.format.name(),
        "shape": &tensor.dims[..tensor.n_dims as usize],
        "offset": tensor.offset,
        "bytes": tensor.data.len(),
    })
}

/// GGUF's order: the fastest dimension first.
fn shape(tensor: &Tensor<'_>) -> String {
    let dims: Vec<String> =
        tensor.dims[..tensor.n_dims as usize].iter().map(u64::to_string).collect();
    format!("[{}]", dims.join(", "))
}

fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = None;
    for next in units {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, Some(next));
    }
    match unit {
        Some(unit) => format!("{value:.1} {unit} ({bytes} bytes)"),
        None => format!("{bytes} bytes"),
    }
}

/// Text of a file as it may go to a terminal: on one line, without control characters, cut.
pub fn shown(text: &str) -> String {
    let mut out: String = text.chars().take(SHOWN_CHARS).flat_map(visible).collect();
    if text.chars().nth(SHOWN_CHARS).is_some() {
        let _ = write!(out, "... ({} bytes)", text.len());
    }
    out
}

/// `c`, or its escape where a terminal might act on it.
fn visible(c: char) -> impl Iterator<Item = char> {
    let (plain, escaped) =
        if c.is_control() { (None, Some(c.escape_debug())) } else { (Some(c), None) };
    plain.into_iter().chain(escaped.into_iter().flatten())
}

fn value_text(value: &Value<'_>) -> String {
    match value {
        Value::String(text) => shown(text),
        Value::Array(array) => array_text(array),
        Value::F32(x) => x.to_string(),
        _ => scalar(value).to_string(),
    }
}

fn array_text(array: &Array<'_>) -> String {
    let first: Vec<String> =
        array.values().take(SHOWN_ELEMENTS).map(|value| value_text(&value)).collect();
    let more = if array.len() > SHOWN_ELEMENTS { ", ..." } else { "" };
    format!("{} of {:?}: [{}{more}]", array.len(), array.element_type(), first.join(", "))
}

/// A value as JSON. Long arrays become their length and first elements.
fn value_json(value: &Value<'_>) -> Json {
    match value {
        Value::String(text) => (*text).into(),
        Value::Array(array) => json!({
            "elements": array.len(),
            "type": format!("{:?}", array.element_type()),
            "first": array.values().take(SHOWN_ELEMENTS).map(|value| value_json(&value)).collect::<Vec<_>>(),
        }),
        _ => scalar(value),
    }
}

fn scalar(value: &Value<'_>) -> Json {
    match *value {
        Value::U8(x) => x.into(),
        Value::I8(x) => x.into(),
        Value::U16(x) => x.into(),
        Value::I16(x) => x.into(),
        Value::U32(x) => x.into(),
        Value::I32(x) => x.into(),
        Value::U64(x) => x.into(),
        Value::I64(x) => x.into(),
        Value::F32(x) => x.into(),
        Value::F64(x) => x.into(),
        Value::Bool(x) => x.into(),
        Value::String(_) | Value::Array(_) => Json::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        assert_eq!(size(1000), "1000 bytes");
        assert_eq!(size(1536), "1.5 KiB (1536 bytes)");
        assert_eq!(size(3 << 30), "3.0 GiB (3221225472 bytes)");
    }

    #[test]
    fn a_file_cannot_drive_the_terminal() {
        assert_eq!(shown("a\x1b[31m\nb"), "a\\u{1b}[31m\\nb");
        assert!(shown(&"x".repeat(300)).ends_with("... (300 bytes)"));
    }
}
