//! Checkpoint to GGUF: a Hugging Face folder (safetensors or `pytorch_model.bin`, sharded or not), or
//! what another program saves (`dialect`), becomes one file that pith and, where it knows the family,
//! llama.cpp run.
//!
//! A checkpoint is untrusted. Its bytes are only ever read as data, within checked bounds; what
//! isn't understood stops the conversion with its name: a tensor, a configuration key, a pickle's
//! function. A file uses only files above it in this list:
//!
//! | file | job |
//! |---|---|
//! | `wire` | protobuf's wire format |
//! | [`source`] | containers to named tensors: safetensors, torch.save's files, HDF5, msgpack, TensorFlow bundles, indexes |
//! | `dialect` | what other programs than Hugging Face's name and turn differently |
//! | [`config`] | `config.json` by the family's row |
//! | `text` | the text model of a checkpoint that sees images too |
//! | `shapes` | the shape that each GGUF tensor must have |
//! | `fold` | rows in the order that GGUF has them |
//! | `mapping` | source tensors to GGUF tensors by the family's row |
//! | [`types`] | which format each tensor gets |
//! | `tokenizer` | the tokenizer's files to GGUF keys |
//! | `metadata` | keys of the written file |
//! | `write` | encode in parallel, stream, in order |
//! | [`mod@check`] | the written file against the source: numbers, rows, logits |
//! | `work` | what is written, and the report of it |
//! | [`adapter`] | PEFT adapters: merged into a checkpoint, or a file of their own |
//! | `requantize` | a GGUF file as the source |
//! | [`report`] | what was done |
#![deny(unsafe_code)]

pub mod adapter;
pub mod check;
pub mod config;
mod dialect;
mod fold;
mod mapping;
mod metadata;
mod output;
pub mod report;
mod requantize;
mod shapes;
pub mod source;
mod text;
pub mod tokenizer;
pub mod types;
mod wire;
mod work;
mod write;

pub use check::Check;
pub use report::Report;
pub use types::Target;

use adapter::Adapter;
use config::Config;
use mapping::Mapping;
use pith::{Error, Result, quant::Format};
use pith_models::Hp;
use source::Source;
use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::Instant,
};
use work::Work;

/// What a caller may choose.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the matrices become: see [`types`] for the rule.
    pub target: Target,
    /// `general.name`; the folder's name if absent.
    pub name: Option<String>,
    /// Configuration keys that may be unknown.
    pub allow_unknown: Vec<String>,
    /// Of a checkpoint that sees images too, convert the text model and drop the rest.
    pub text_only: bool,
    /// Write no tokenizer: the file runs on token ids only.
    pub no_tokenizer: bool,
    /// Folders of PEFT adapters that are merged into the checkpoint, each into the result of those
    /// before it. A matrix that one of them changes counts as F32.
    pub adapters: Vec<PathBuf>,
    /// Threads that encode; 0 for as many as the machine has.
    pub threads: usize,
    /// Whether the written file is run, and compared with the source: see [`mod@check`].
    pub check: bool,
}

impl Default for Options {
    /// Q8_0, with a tokenizer, checked.
    fn default() -> Self {
        Options {
            target: Target::Format(Format::Q8_0),
            name: None,
            allow_unknown: Vec::new(),
            text_only: false,
            no_tokenizer: false,
            adapters: Vec::new(),
            threads: 0,
            check: true,
        }
    }
}

/// What [`convert`] is about to do.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// Encode and write a piece of a tensor.
    Tensor {
        /// Its GGUF name.
        name: &'a str,
        /// Its format.
        format: Format,
        /// Bytes of all tensors before this piece, encoded.
        bytes_done: u64,
        /// Bytes of all tensors, encoded.
        bytes_total: u64,
    },
    /// Read the written file back.
    Verify,
    /// Compare the written file with the source: a layer of the model, or its head.
    Check {
        /// Layers before this one.
        done: usize,
        /// All of them, and the head.
        total: usize,
    },
}

/// Converts the checkpoint at `source`, a folder or a weight file in it, to a GGUF file at `out`,
/// which appears whole or not at all. Where `progress` answers with a break, the work ends there.
///
/// # Errors
/// [`Error::Stopped`] after a break. What [`Source::open`] and [`Config::read`] say; a tensor that is
/// missing, left over, wrongly shaped or not finite; a tokenizer that isn't understood or too large; a
/// file that doesn't compute what the checkpoint does; `out` being one of the checkpoint's files; what
/// the system refuses.
pub fn convert(
    source: &Path,
    out: &Path,
    options: &Options,
    progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<Report> {
    let start = Instant::now();
    // A folder may hold a model and an adapter.
    if adapter::is_adapter(source) && Source::open(source).is_err() {
        return Err(Error::Invalid(format!(
            "{0} is a PEFT adapter. Merge it into its base: pith convert BASE --adapter {0}; or \
             make it a file of its own: pith convert {0} --base BASE",
            source.display()
        )));
    }
    if requantize::is_gguf(source)? {
        return requantize::requantize(source, out, options, progress);
    }
    let Opened { source, mut config, adapters, ignored: of_adapters, bytes_in } =
        open(source, options, Some(out))?;
    let Mapping { tensors, mut ignored, tied } = mapping::map(&source, &mut config)?;
    ignored.extend(of_adapters);
    let jobs: Vec<_> =
        tensors.into_iter().map(|mapped| work::job(mapped, options.target)).collect();
    let writer = metadata::metadata(&source, &mut config, options, &jobs, &mut ignored)?;
    let mut work = Work { source: &source, jobs, writer, out, threads: options.threads };
    let mut checked = None;
    let bytes_out = work.write(progress, |written| {
        if options.check {
            let total = config.size(Hp::NLayer) + 1;
            let mut layers = 0..total;
            let mut before =
                || written.tell(Progress::Check { done: layers.next().unwrap_or(total), total });
            let found = check::compare(&source, &config, written, &mut before)?;
            checked = Some(found.verdict()?);
        }
        Ok(())
    })?;
    let report = Report {
        stock: config.family.stock && config.classifier.is_none() && config.is_stock_rope(),
        adapters,
        ignored,
        tied,
        check: checked,
        ..work.report(config.family, bytes_in, bytes_out, start)
    };
    Ok(Report { classifier: config.classifier, allowed_unknown: config.allowed, ..report })
}

/// Converts the PEFT adapter in the folder `adapter` to a GGUF file at `out` that a model is run
/// with. `base` is its base's folder, or `config.json`: the weights aren't needed.
///
/// # Errors
/// As [`convert`]; what an adapter's file can't hold, by name.
pub fn convert_adapter(
    adapter: &Path,
    base: &Path,
    out: &Path,
    options: &Options,
    progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<Report> {
    let start = Instant::now();
    let path = if base.is_dir() { base.join("config.json") } else { base.to_owned() };
    let mut config = Config::read(&source::read_json(&path)?, &options.allow_unknown)?;
    let adapter = Adapter::open(adapter, &options.allow_unknown)?;
    output::refuse_overwrite(adapter.source(), out)?;
    config.allowed.extend_from_slice(adapter.allowed());
    let (jobs, alpha) = adapter::jobs(&adapter, &config, options.target)?;
    let writer = metadata::of_adapter(adapter.source(), &config, options, &jobs, alpha)?;
    let source = adapter.source();
    let mut work = Work { source, jobs, writer, out, threads: options.threads };
    let bytes_out = work.write(progress, |_| Ok(()))?;
    let mut ignored = adapter.ignored().to_vec();
    ignored.extend(adapter.copies().map(|tensor| (tensor.into(), "the base's own matrix".into())));
    Ok(Report {
        stock: config.family.stock,
        ignored,
        allowed_unknown: config.allowed,
        ..work.report(config.family, source.n_bytes(), bytes_out, start)
    })
}

/// Compares the GGUF file `written` with the checkpoint at `source`, as [`convert`] does before a file
/// takes its place. What is wrong is listed in [`Check::faults`].
///
/// # Errors
/// As [`convert`]; a file that [`pith::Model`] doesn't open, or that lacks a tensor.
pub fn check(source: &Path, written: &Path, options: &Options) -> Result<Check> {
    let Opened { source, mut config, .. } = open(source, options, None)?;
    let Mapping { tensors, .. } = mapping::map(&source, &mut config)?;
    let jobs: Vec<_> =
        tensors.into_iter().map(|mapped| work::job(mapped, options.target)).collect();
    let pool = work::pool(options.threads)?;
    let written = work::Written { path: written, jobs: &jobs, pool: &pool, tell: &|_| Ok(()) };
    check::compare(&source, &config, &written, &mut || Ok(()))
}

/// A checkpoint in Hugging Face's words, with adapters merged into it.
struct Opened {
    source: Source,
    config: Config,
    /// Adapters, with the number of tensors that each changed.
    adapters: Vec<(String, usize)>,
    /// What the adapters hold and nothing reads, with the reason.
    ignored: Vec<(String, String)>,
    /// Bytes of all weight files.
    bytes_in: u64,
}

/// Opens the checkpoint at `path`, none of whose files `out` may be.
fn open(path: &Path, options: &Options, out: Option<&Path>) -> Result<Opened> {
    let refuse = |source: &Source| out.map_or(Ok(()), |out| output::refuse_overwrite(source, out));
    let mut source = Source::open(path)?;
    dialect::translate(&mut source)?;
    let (mut json, others) = match options.text_only {
        true => text::only(source.config()?)?,
        false => (source.config()?, &[][..]),
    };
    let opened = options.adapters.iter().map(|path| Adapter::open(path, &options.allow_unknown));
    let opened = opened.collect::<Result<Vec<_>>>()?;
    opened.iter().try_for_each(|adapter| adapter.classify(&mut json))?;
    let mut config = Config::read(&json, &options.allow_unknown)?;
    config.others = others;
    refuse(&source)?;
    let (mut adapters, mut ignored) = (Vec::new(), Vec::new());
    let mut bytes_in = source.n_bytes();
    for (path, adapter) in options.adapters.iter().zip(&opened) {
        refuse(adapter.source())?;
        let tensors = adapter.merge(&mut source, &config)?;
        adapters.push((path.display().to_string(), tensors));
        ignored.extend_from_slice(adapter.ignored());
        config.allowed.extend_from_slice(adapter.allowed());
        bytes_in += adapter.source().n_bytes();
    }
    Ok(Opened { source, config, adapters, ignored, bytes_in })
}
