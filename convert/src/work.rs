//! What is to be written: tensors with their formats behind the metadata, the progress of it, and the
//! report.

use crate::{
    Progress, Target,
    mapping::{Mapped, Values},
    report::{Fallback, FormatCount, Report},
    source::{Dtype, Source},
    types,
    write::{self, Job},
};
use pith::{
    Error, Result,
    bytes::Bytes,
    gguf::{Gguf, Writer},
    quant::Format,
};
use pith_models::{Family, Fold};
use rayon::ThreadPool;
use std::{cell::RefCell, ops::ControlFlow, path::Path, time::Instant};

/// What is to be written.
pub(crate) struct Work<'a> {
    pub source: &'a Source,
    pub jobs: Vec<Job<'a>>,
    pub writer: Writer,
    pub out: &'a Path,
    pub threads: usize,
}

/// A written file that hasn't taken its place yet.
pub(crate) struct Written<'w, 'a> {
    pub path: &'w Path,
    /// What is in it.
    pub jobs: &'w [Job<'a>],
    pub pool: &'w ThreadPool,
    /// Hears what comes next; an error ends the work.
    pub tell: &'w dyn Fn(Progress<'_>) -> Result<()>,
}

impl Written<'_, '_> {
    /// Says what comes next.
    pub fn tell(&self, next: Progress<'_>) -> Result<()> {
        (self.tell)(next)
    }
}

impl<'a> Work<'a> {
    /// Writes the file, tells of it, and returns its size. It takes its place only if it reads back as
    /// written and `check` finds no fault.
    pub fn write(
        &mut self,
        progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
        check: impl FnOnce(&Written<'_, 'a>) -> Result<()>,
    ) -> Result<u64> {
        let jobs = &self.jobs;
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
        let pool = pool(self.threads)?;
        let check = |path: &Path| {
            tell(Progress::Verify)?;
            verify(path, jobs)?;
            check(&Written { path, jobs, pool: &pool, tell: &tell })
        };
        let writer = std::mem::take(&mut self.writer);
        write::write(writer, self.source, jobs, self.out, &pool, &mut before, check)
    }

    /// What was done.
    pub fn report(&self, family: &Family, bytes_in: u64, bytes_out: u64, start: Instant) -> Report {
        let jobs = &self.jobs;
        Report {
            family: family.title,
            arch: family.arch,
            stock: false,
            classifier: None,
            formats: count_formats(jobs),
            n_params: jobs.iter().map(|job| job.mapped.n_values() as u64).sum(),
            bytes_in,
            bytes_out,
            tied: false,
            fallbacks: jobs.iter().filter_map(fallback).collect(),
            ignored: Vec::new(),
            adapters: Vec::new(),
            requantized: Vec::new(),
            folded: jobs.iter().filter_map(folded).collect(),
            allowed_unknown: Vec::new(),
            check: None,
            elapsed: start.elapsed(),
        }
    }
}

/// Threads that encode; 0 for as many as the machine has.
pub(crate) fn pool(threads: usize) -> Result<ThreadPool> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.map_err(|error| Error::Invalid(format!("can't start {threads} threads: {error}")))
}

/// A tensor with the format that it gets.
pub(crate) fn job(mapped: Mapped<'_>, target: Target) -> Job<'_> {
    let dtype = match &mapped.values {
        Values::Source { tensor, .. } => tensor.entry.dtype,
        Values::Computed(_) | Values::Encoded { .. } => Dtype::F32,
    };
    let choice = types::choose(target, &mapped.name, mapped.dims.len(), mapped.n_in(), dtype);
    Job { mapped, choice }
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
    let Values::Source { tensor, parts, fold, .. } = &mapped.values else {
        return None;
    };
    let scaled = parts.iter().any(|part| part.times != 1.0);
    let how = match fold {
        Fold::Keep if scaled => "queries scaled",
        Fold::Keep => return None,
        Fold::Transpose if scaled => "transposed, queries scaled",
        Fold::SplitGroups if scaled => "fused heads split into q, k, v, queries scaled",
        Fold::Transpose => "transposed",
        Fold::PermuteQ | Fold::PermuteK => "rope pairs made adjacent",
        Fold::SplitHeads | Fold::SplitGroups | Fold::SplitSlices(_) => {
            "fused heads split into q, k, v"
        }
        Fold::OneOfQkv => "q, k, v taken apart",
        Fold::StackHeads => "heads stacked",
        Fold::AddOne => "1 added",
        Fold::DropRows(_) => "first rows dropped",
    };
    Some((tensor.entry.name.clone(), how))
}
