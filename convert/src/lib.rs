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
//! | [`mod@check`] | the written file against the source: numbers, rows, logits |
//! | [`report`] | what was done |
#![deny(unsafe_code)]

pub mod check;
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

pub use check::Check;
pub use report::Report;
pub use types::Target;

use config::Config;
use mapping::{Mapped, Mapping, Values};
use pith::{Error, Result, bytes::Bytes, gguf::Gguf, quant::Format};
use pith_models::{Fold, Hp};
use rayon::ThreadPool;
use report::{Fallback, FormatCount};
use source::{Dtype, Source};
use std::{cell::RefCell, fs, ops::ControlFlow, path::Path, time::Instant};
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
            no_tokenizer: false,
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
    let (source, mut config) = open(source, options)?;
    refuse_overwrite(&source, out)?;
    let Mapping { tensors, mut ignored, tied } = mapping::map(&source, &mut config)?;
    let jobs: Vec<Job<'_>> =
        tensors.into_iter().map(|mapped| job(mapped, options.target)).collect();
    let writer = metadata::metadata(&source, &config, options, &jobs, &mut ignored)?;

    let total: u64 = jobs.iter().map(Job::n_bytes).sum();
    let (mut tensor, mut done) = (0, 0);
    let progress = RefCell::new(progress);
    let tell = |at: Progress<'_>| match (progress.borrow_mut())(at) {
        ControlFlow::Break(()) => Err(Error::Stopped),
        ControlFlow::Continue(()) => Ok(()),
    };
    let mut before = |i: usize, written: u64| {
        done += jobs[tensor..i].iter().map(Job::n_bytes).sum::<u64>();
        tensor = i;
        let Job { mapped, choice } = &jobs[i];
        let bytes_done = done + written;
        let (name, format) = (&mapped.name, choice.format);
        tell(Progress::Tensor { name, format, bytes_done, bytes_total: total })
    };
    let pool = pool(options.threads)?;
    let mut checked = None;
    let check = |written: &Path| {
        tell(Progress::Verify)?;
        verify(written, &jobs)?;
        // The runtime doesn't open a file without a tokenizer.
        if options.check && !options.no_tokenizer {
            let tensors: Vec<_> = jobs.iter().map(|job| &job.mapped).collect();
            let total = config.size(Hp::NLayer) + 1;
            let mut layers = 0..total;
            let mut before =
                || tell(Progress::Check { done: layers.next().unwrap_or(total), total });
            let found = check::compare(&source, &config, &tensors, written, &pool, &mut before)?;
            checked = Some(found.verdict()?);
        }
        Ok(())
    };
    let bytes_out = write::write(writer, &source, &jobs, out, &pool, &mut before, check)?;
    Ok(Report {
        family: config.family.title,
        arch: config.family.arch,
        stock: config.family.stock,
        formats: count_formats(&jobs),
        n_params: jobs.iter().map(|job| job.mapped.n_values() as u64).sum(),
        bytes_in: source.n_bytes(),
        bytes_out,
        tied,
        fallbacks: jobs.iter().filter_map(fallback).collect(),
        ignored,
        folded: jobs.iter().filter_map(folded).collect(),
        allowed_unknown: config.allowed,
        check: checked,
        elapsed: start.elapsed(),
    })
}

/// Compares the GGUF file `written` with the checkpoint at `source`, as [`convert`] does before a file
/// takes its place. What is wrong is listed in [`Check::faults`].
///
/// # Errors
/// As [`convert`]; a file that [`pith::Model`] doesn't open, or that lacks a tensor.
pub fn check(source: &Path, written: &Path, options: &Options) -> Result<Check> {
    let (source, mut config) = open(source, options)?;
    let Mapping { tensors, .. } = mapping::map(&source, &mut config)?;
    let tensors: Vec<_> = tensors.iter().collect();
    let pool = pool(options.threads)?;
    check::compare(&source, &config, &tensors, written, &pool, &mut || Ok(()))
}

/// A checkpoint in Hugging Face's words, and its configuration.
fn open(source: &Path, options: &Options) -> Result<(Source, Config)> {
    let mut source = Source::open(source)?;
    dialect::translate(&mut source)?;
    let config = Config::read(&source.config()?, &options.allow_unknown)?;
    Ok((source, config))
}

fn pool(threads: usize) -> Result<ThreadPool> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.map_err(|error| Error::Invalid(format!("can't start {threads} threads: {error}")))
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
        reads && is_same_file(path, &target)
    };
    let is_weights = |path: &Path| is_same_file(path, &target);
    if source.files().any(is_weights) || neighbours.iter().any(|path| is_input(path)) {
        return Err(Error::Invalid(format!(
            "{} is part of the checkpoint: choose another name for the output",
            out.display()
        )));
    }
    Ok(())
}

/// Whether both names lead to one file: by links of either kind.
fn is_same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let id = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
        id(a).is_some() && id(a) == id(b)
    }
    #[cfg(not(unix))]
    a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b))
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
