//! Checkpoint to GGUF: a Hugging Face folder (safetensors or `pytorch_model.bin`, sharded or not)
//! becomes one file that pith and, where it knows the family, llama.cpp run.
//!
//! A checkpoint is untrusted. Its bytes are only ever read as data, within checked bounds; what
//! isn't understood stops the conversion with its name: a tensor, a configuration key, a pickle's
//! function. A file uses only files above it in this list:
//!
//! | file | job |
//! |---|---|
//! | [`source`] | containers to named tensors: safetensors, torch zip archives, indexes |
//! | `dialect` | what other programs than Hugging Face's name and turn differently |
//! | [`config`] | `config.json` by the family's row |
//! | `shapes` | the shape that each GGUF tensor must have |
//! | `mapping` | source tensors to GGUF tensors by the family's row |
//! | [`types`] | which format each tensor gets |
//! | `tokenizer` | the tokenizer's files to GGUF keys |
//! | `metadata` | keys of the written file |
//! | `write` | encode in parallel, stream, in order |
//! | [`adapter`] | PEFT adapters: merged into a checkpoint, or a file of their own |
//! | [`report`] | what was done |
#![deny(unsafe_code)]

pub mod adapter;
pub mod config;
mod dialect;
mod mapping;
mod metadata;
pub mod report;
mod shapes;
pub mod source;
pub mod tokenizer;
pub mod types;
mod write;

pub use report::Report;
pub use types::Target;

use adapter::Adapter;
use config::Config;
use mapping::{Mapped, Mapping, Values};
use pith::{
    Error, Result,
    bytes::Bytes,
    gguf::{Gguf, Writer},
    quant::Format,
};
use pith_models::Fold;
use report::{Fallback, FormatCount};
use source::{Dtype, Source};
use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::Instant,
};
use write::Job;

/// What a caller may choose.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the matrices become: see [`types`] for the rule.
    pub target: Target,
    /// `general.name`; the folder's name if absent.
    pub name: Option<String>,
    /// Configuration keys that may be unknown.
    pub allow_unknown: Vec<String>,
    /// Write no tokenizer: the file runs on token ids only.
    pub no_tokenizer: bool,
    /// Folders of PEFT adapters that are merged into the checkpoint, each into the result of those
    /// before it. A matrix that one of them changes counts as F32.
    pub adapters: Vec<PathBuf>,
    /// Threads that encode; 0 for as many as the machine has.
    pub threads: usize,
}

impl Default for Options {
    /// Q8_0, with a tokenizer.
    fn default() -> Self {
        Options {
            target: Target::Format(Format::Q8_0),
            name: None,
            allow_unknown: Vec::new(),
            no_tokenizer: false,
            adapters: Vec::new(),
            threads: 0,
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
}

/// Converts the checkpoint at `source`, a folder or a weight file in it, to a GGUF file at `out`,
/// which appears whole or not at all. Where `progress` answers with a break, the work ends there.
///
/// # Errors
/// [`Error::Stopped`] after a break. What [`Source::open`] and [`Config::read`] say; a tensor that is missing, left over, wrongly
/// shaped or not finite; a tokenizer that isn't understood or too large; `out` being one of the
/// checkpoint's files; what the system refuses.
pub fn convert(
    source: &Path,
    out: &Path,
    options: &Options,
    progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<Report> {
    let start = Instant::now();
    let mut source = match Source::open(source) {
        Err(_) if adapter::is_adapter(source) => {
            return Err(Error::Invalid(format!(
                "{0} is a PEFT adapter. Merge it into its base: pith convert BASE --adapter {0}; \
                 or make it a file of its own: pith convert {0} --base BASE",
                source.display()
            )));
        }
        source => source?,
    };
    dialect::translate(&mut source)?;
    let json = source.config()?;
    let mut config = Config::read(&json, &options.allow_unknown)?;
    refuse_overwrite(&source, out)?;
    let mut merged = Vec::new();
    let mut of_adapters = Vec::new();
    let mut bytes_in = source.n_bytes();
    for path in &options.adapters {
        let adapter = Adapter::open(path, &options.allow_unknown)?;
        refuse_overwrite(adapter.source(), out)?;
        let tensors = adapter.merge(&mut source, &config)?;
        merged.push((path.display().to_string(), tensors));
        of_adapters.extend_from_slice(adapter.ignored());
        config.allowed.extend_from_slice(adapter.allowed());
        bytes_in += adapter.source().n_bytes();
    }
    let Mapping { tensors, mut ignored, tied } = mapping::map(&source, &mut config)?;
    ignored.append(&mut of_adapters);
    let jobs: Vec<Job<'_>> =
        tensors.into_iter().map(|mapped| job(mapped, options.target)).collect();
    let writer = metadata::metadata(&source, &config, options, &jobs, &mut ignored)?;
    let mut work = Work { source: &source, jobs, writer, out, threads: options.threads };
    let bytes_out = work.write(progress)?;
    Ok(Report {
        adapters: merged,
        ignored,
        tied,
        ..work.report(&config, bytes_in, bytes_out, start)
    })
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
    refuse_overwrite(adapter.source(), out)?;
    config.allowed.extend_from_slice(adapter.allowed());
    let (jobs, alpha) = adapter::jobs(&adapter, &config, options.target)?;
    let writer = metadata::of_adapter(adapter.source(), &config, options, &jobs, alpha)?;
    let source = adapter.source();
    let mut work = Work { source, jobs, writer, out, threads: options.threads };
    let bytes_out = work.write(progress)?;
    let mut ignored = adapter.ignored().to_vec();
    ignored.extend(adapter.copies().map(|tensor| (tensor.into(), "the base's own matrix".into())));
    Ok(Report { ignored, ..work.report(&config, source.n_bytes(), bytes_out, start) })
}

/// What is to be written.
struct Work<'a> {
    source: &'a Source,
    jobs: Vec<Job<'a>>,
    writer: Writer,
    out: &'a Path,
    threads: usize,
}

impl Work<'_> {
    /// Writes the file, tells of it, and returns its size.
    fn write(&mut self, progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>) -> Result<u64> {
        let jobs = &self.jobs;
        let total: u64 = jobs.iter().map(Job::n_bytes).sum();
        let (mut tensor, mut done) = (0, 0);
        let mut before = |i: usize, written: u64| {
            done += jobs[tensor..i].iter().map(Job::n_bytes).sum::<u64>();
            tensor = i;
            let at = jobs.get(i).map_or(Progress::Verify, |job| Progress::Tensor {
                name: &job.mapped.name,
                format: job.choice.format,
                bytes_done: done + written,
                bytes_total: total,
            });
            if progress(at).is_break() { Err(Error::Stopped) } else { Ok(()) }
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads).build();
        let pool = pool.map_err(|error| {
            Error::Invalid(format!("can't start {} threads: {error}", self.threads))
        })?;
        let check = |written: &Path| verify(written, jobs);
        let writer = std::mem::take(&mut self.writer);
        write::write(writer, self.source, jobs, self.out, &pool, &mut before, check)
    }

    /// What was done.
    fn report(&self, config: &Config, bytes_in: u64, bytes_out: u64, start: Instant) -> Report {
        let jobs = &self.jobs;
        Report {
            family: config.family.title,
            arch: config.family.arch,
            stock: config.family.stock,
            formats: count_formats(jobs),
            n_params: jobs.iter().map(|job| job.mapped.n_values() as u64).sum(),
            bytes_in,
            bytes_out,
            tied: false,
            fallbacks: jobs.iter().filter_map(fallback).collect(),
            ignored: Vec::new(),
            adapters: Vec::new(),
            folded: jobs.iter().filter_map(folded).collect(),
            allowed_unknown: config.allowed.clone(),
            elapsed: start.elapsed(),
        }
    }
}

fn job(mapped: Mapped<'_>, target: Target) -> Job<'_> {
    let dtype = match &mapped.values {
        Values::Source { tensor, .. } => tensor.entry.dtype,
        Values::Computed(_) => Dtype::F32,
    };
    let choice = types::choose(target, &mapped.name, mapped.dims.len(), mapped.n_in(), dtype);
    Job { mapped, choice }
}

/// Refuses to write over what is being read. A rename would not damage an open map, but the
/// checkpoint would be gone.
fn refuse_overwrite(source: &Source, out: &Path) -> Result<()> {
    let Ok(target) = out.canonicalize() else {
        return Ok(()); // nothing is there
    };
    if target.is_dir() {
        return Err(Error::Invalid(format!("{} is a folder: name the file", out.display())));
    }
    let folder = fs::read_dir(source.folder()).map_err(Error::io("read", source.folder()))?;
    let neighbours: Vec<_> = folder.flatten().map(|entry| entry.path()).collect();
    let is_input = |path: &Path| {
        let reads =
            path.extension().is_some_and(|extension| extension == "json" || extension == "model");
        reads && path.canonicalize().is_ok_and(|path| path == target)
    };
    let is_weights = |path: &Path| path.canonicalize().is_ok_and(|path| path == target);
    if source.files().any(is_weights) || neighbours.iter().any(|path| is_input(path)) {
        return Err(Error::Invalid(format!(
            "{} is part of the checkpoint: choose another name for the output",
            out.display()
        )));
    }
    Ok(())
}

/// Reads the written file back: every tensor is there with its format and sizes.
fn verify(written: &Path, jobs: &[Job<'_>]) -> Result<()> {
    let bytes = Bytes::map(written)?;
    let gguf = Gguf::parse(&bytes)?;
    let right = gguf.tensors().len() == jobs.len()
        && gguf.tensors().iter().zip(jobs).all(|(tensor, Job { mapped, choice })| {
            tensor.name == mapped.name
                && tensor.format == choice.format
                && tensor.dims[..tensor.n_dims as usize] == mapped.dims
        });
    match right {
        true => Ok(()),
        false => Err(Error::malformed("GGUF", "the written file doesn't read back as written")),
    }
}

fn count_formats(jobs: &[Job<'_>]) -> Vec<FormatCount> {
    let count = |&format: &Format| {
        let with = jobs.iter().filter(|job| job.choice.format == format);
        let (tensors, bytes) = with.fold((0, 0), |(n, bytes), job| (n + 1, bytes + job.n_bytes()));
        (tensors > 0).then_some(FormatCount { format, tensors, bytes })
    };
    Format::ALL.iter().filter_map(count).collect()
}

fn fallback(Job { mapped, choice }: &Job<'_>) -> Option<Fallback> {
    (choice.format != choice.wanted).then(|| Fallback {
        tensor: mapped.name.clone(),
        wanted: choice.wanted,
        got: choice.format,
        n_in: mapped.n_in(),
    })
}

fn folded(Job { mapped, .. }: &Job<'_>) -> Option<(String, &'static str)> {
    let Values::Source { tensor, fold, .. } = &mapped.values else {
        return None;
    };
    let how = match fold {
        Fold::Keep => return None,
        Fold::Transpose => "transposed",
        Fold::PermuteQ | Fold::PermuteK => "rope pairs made adjacent",
        Fold::SplitHeads | Fold::SplitGroups => "fused heads split into q, k, v",
        Fold::AddOne => "1 added",
        Fold::DropRows(_) => "first rows dropped",
    };
    Some((tensor.entry.name.clone(), how))
}
