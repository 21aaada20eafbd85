//! `pith convert`: a checkpoint to one GGUF file.

use std::{
    io::{self, Write},
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use pith::{Error, Result};
use pith_convert::{Check, Options, Progress, Report, Target};

use crate::{End, catch_interrupts, families, interrupted, progress::Bar, stdout_error};

/// Turn a GPT checkpoint into one quantized GGUF file
///
/// SOURCE is a Hugging Face folder: config.json, the tokenizer's files, and the weights as
/// safetensors or pytorch_model.bin, sharded or not, Keras' tf_model.h5 or Flax's
/// flax_model.msgpack; or one weight file (.safetensors, .bin, .pt, .pth, ...) with these beside it;
/// or the folder of OpenAI's GPT-2 (TensorFlow), of Meta's consolidated.00.pth and params.json, or
/// of nanoGPT's ckpt.pt; or a GGUF file, whose tensors then get the new type. Every tensor and every
/// configuration key is used, or the conversion stops and names it. With --base, SOURCE is a PEFT
/// adapter's folder, and becomes a file of its own that `pith run --lora` adds to its base.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  pith convert ./my-gpt                          writes my-gpt-q8_0.gguf
  pith convert ./my-gpt -o small.gguf --type q4_k
  pith convert my-gpt-f16.gguf -o small.gguf --type q4_k
  pith convert ./my-gpt --adapter ./my-lora      writes my-gpt-q8_0.gguf with the adapter merged
  pith convert ./my-lora --base ./my-gpt         writes my-lora-f32.gguf, for pith run --lora
  pith convert ./my-gpt --allow-unknown my_note
  pith convert out/ckpt.pt --no-tokenizer        nanoGPT, to run on token ids
  pith convert --list-families                   what can be converted")]
pub struct Args {
    /// The checkpoint's folder, or a file; with --base an adapter's folder
    #[arg(required_unless_present = "list_families")]
    source: Option<PathBuf>,
    /// The file to write [default: the folder's name and the type, in the current folder]
    #[arg(short, long)]
    out: Option<PathBuf>,
    /// Type of the weights: f32, f16, bf16, q8_0, q4_0, q4_k, ... [default: q8_0; with --base f32]
    #[arg(short = 't', long = "type", value_name = "TYPE")]
    target: Option<String>,
    /// Merge the PEFT adapter in this folder into the checkpoint (may be given several times)
    #[arg(long, value_name = "DIR", conflicts_with = "base")]
    adapter: Vec<PathBuf>,
    /// SOURCE is a PEFT adapter for the model of this folder, or of this config.json
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// Ignore this configuration key although pith does not know it (may be given several times)
    #[arg(long, value_name = "KEY")]
    allow_unknown: Vec<String>,
    /// Of a checkpoint that sees images too, convert the text model and drop the rest
    #[arg(long)]
    text_only: bool,
    /// Write no tokenizer: the file runs on token ids only
    #[arg(long)]
    no_tokenizer: bool,
    /// Do not compare the written file with the checkpoint
    #[arg(long)]
    no_check: bool,
    /// Threads; 0 means all cores
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
    /// Print the families that can be converted, their GGUF architectures and whether llama.cpp
    /// runs those, and do nothing else
    #[arg(long, exclusive = true)]
    list_families: bool,
}

impl Args {
    fn out(&self, source: &Path) -> Result<PathBuf> {
        if let Some(out) = &self.out {
            return Ok(out.clone());
        }
        let source = source.canonicalize().map_err(Error::io("open", source))?;
        let name = source.file_name().ok_or_else(|| {
            let source = source.display();
            Error::Invalid(format!(
                "{source} has no name to call the result by; choose one with -o"
            ))
        })?;
        let name = name.to_string_lossy();
        let name = name.strip_suffix(".gguf").unwrap_or(&name);
        Ok(format!("{name}-{}.gguf", self.target().to_lowercase()).into())
    }

    fn target(&self) -> &str {
        let default = if self.base.is_some() { "f32" } else { "q8_0" };
        self.target.as_deref().unwrap_or(default)
    }
}

/// Runs the command.
pub fn run(args: &Args) -> Result<End> {
    // clap wants a source unless the families are asked for.
    let Some(source) = args.source.as_deref().filter(|_| !args.list_families) else {
        io::stdout().lock().write_all(families::table().as_bytes()).map_err(stdout_error)?;
        return Ok(End::Done);
    };
    let options = Options {
        target: Target::by_name(args.target())?,
        allow_unknown: args.allow_unknown.clone(),
        adapters: args.adapter.clone(),
        text_only: args.text_only,
        no_tokenizer: args.no_tokenizer,
        threads: args.threads,
        check: !args.no_check,
        ..Options::default()
    };
    let out = args.out(source)?;
    catch_interrupts()?;
    let mut bar = Bar::bytes();
    let mut progress = |at: Progress<'_>| {
        show(&mut bar, at);
        if interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let report = match &args.base {
        None => pith_convert::convert(source, &out, &options, &mut progress),
        Some(base) => pith_convert::convert_adapter(source, base, &out, &options, &mut progress),
    };
    drop(bar);
    let report = match report {
        Err(Error::Stopped) => return Ok(End::Interrupted),
        report => report?,
    };
    let text = match args.json {
        true => format!("{}\n", report.to_json()),
        false => text(&report, &out.display().to_string()),
    };
    io::stdout().lock().write_all(text.as_bytes()).map_err(stdout_error)?;
    Ok(End::Done)
}

/// Bytes while tensors are written, then layers of the self-check.
fn show(bar: &mut Bar, at: Progress<'_>) {
    match at {
        Progress::Tensor { name, bytes_done, bytes_total, .. } => {
            bar.show(bytes_done, bytes_total, name);
        }
        Progress::Verify => *bar = Bar::steps(),
        Progress::Check { done, total } => bar.show(done as u64, total as u64, "layers checked"),
    }
}

fn text(report: &Report, out: &str) -> String {
    let mib = |bytes: u64| format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20));
    let mut lines = vec![
        format!("{out}: {}, {:.1} M parameters", report.family, report.n_params as f64 / 1e6),
        format!(
            "{} from {}, in {:.1} s",
            mib(report.bytes_out),
            mib(report.bytes_in),
            report.elapsed.as_secs_f64()
        ),
    ];
    lines.extend(report.formats.iter().map(|count| {
        format!("  {:<7} {:>4} tensors  {}", count.format.name(), count.tensors, mib(count.bytes))
    }));
    if let Some(head) = &report.classifier {
        let (kind, n, problem) = (head.kind.name(), head.labels.len(), head.problem.name());
        let labels = if n == 1 { "label" } else { "labels" };
        lines
            .push(format!("{kind} classifier, {n} {labels}, {problem}: run it by `pith classify`"));
    }
    lines.push(check_text(report.check.as_ref()));
    if report.tied {
        lines.push("the output matrix is the embedding: stored once".into());
    }
    lines.extend(grouped(report.fallbacks.iter().map(|fallback| {
        let (wanted, got) = (fallback.wanted.name(), fallback.got.name());
        let block = fallback.wanted.block_len();
        let why =
            format!("{got}: rows of {} do not fit {wanted}'s blocks of {block}", fallback.n_in);
        (fallback.tensor.as_str(), why)
    })));
    lines.extend(
        report
            .adapters
            .iter()
            .map(|(folder, tensors)| format!("merged {folder}: {tensors} tensors changed")),
    );
    if let Some((_, from)) = report.requantized.first() {
        lines.push(format!(
            "warning: {} tensors were quantized already ({} and the like), and what is lost twice \
             is lost for good; convert the original checkpoint where you have it",
            report.requantized.len(),
            from.name()
        ));
    }
    lines.extend(
        counted(report.folded.iter().map(|(_, how)| *how))
            .into_iter()
            .map(|(how, n)| format!("{n} tensor{}: {how}", if n == 1 { "" } else { "s" })),
    );
    let ignored = grouped(report.ignored.iter().map(|(name, why)| (name.as_str(), why.clone())));
    lines.extend(ignored.map(|line| format!("ignored {line}")));
    lines.extend(
        report
            .allowed_unknown
            .iter()
            .map(|key| format!("ignored configuration key {key}: as you asked")),
    );
    if !report.stock {
        let what =
            if report.classifier.is_some() { "head" } else { "architecture or form of rope" };
        lines.push(format!("llama.cpp does not know this {what}; pith runs it"));
    }
    lines.join("\n") + "\n"
}

fn check_text(check: Option<&Check>) -> String {
    let Some(check) = check else {
        return "not checked: the file was not run against the checkpoint".into();
    };
    format!(
        "checked against the checkpoint: {} tokens, KL {:.2e} (at most {:e}), top-1 {:.0} %; \
         rows differ by {:.2} % or less",
        check.n_tokens,
        check.kl,
        check.kl_limit,
        100.0 * check.top1,
        100.0 * check.worst_row.0
    )
}

/// A line for each reason, in the order of first occurrence: the first name, and how many more.
fn grouped<'a>(pairs: impl Iterator<Item = (&'a str, String)>) -> impl Iterator<Item = String> {
    let mut groups: Vec<(&str, String, usize)> = Vec::new();
    for (name, why) in pairs {
        match groups.iter_mut().find(|(_, known, _)| *known == why) {
            Some((.., more)) => *more += 1,
            None => groups.push((name, why, 0)),
        }
    }
    groups.into_iter().map(|(name, why, more)| match more {
        0 => format!("{name}: {why}"),
        _ => format!("{name} and {more} more: {why}"),
    })
}

/// Each text once, in the order of first occurrence, with how often it occurs.
fn counted<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<(&'a str, usize)> {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for text in texts {
        match counts.iter_mut().find(|(known, _)| *known == text) {
            Some((_, n)) => *n += 1,
            None => counts.push((text, 1)),
        }
    }
    counts
}
