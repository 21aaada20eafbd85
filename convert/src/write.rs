//! Encodes the mapped tensors and streams them into the GGUF file: a batch of rows at a time, each
//! batch in parallel, so that memory doesn't depend on the model and bytes don't depend on the
//! number of threads.

use crate::{
    mapping::{Mapped, Values},
    source::Source,
    types::Choice,
};
use pith::{
    Error, Result,
    gguf::{OpenWriter, Writer},
    kernel::Kernels,
    quant::Format,
};
use rayon::{ThreadPool, prelude::*};
use std::path::Path;

/// Values that are encoded between two writes; 4 MB as f32.
const BATCH: usize = 1 << 20;
/// Values that one thread takes at once.
const PIECE: usize = 1 << 13;
/// The largest finite half.
const F16_MAX: f32 = 65504.0;

/// A tensor with its format.
pub(crate) struct Job<'a> {
    pub mapped: Mapped<'a>,
    pub choice: Choice,
}

impl Job<'_> {
    /// Bytes of the encoded tensor. `choose` made sure that rows are whole blocks.
    pub fn n_bytes(&self) -> u64 {
        let row = self.choice.format.row_bytes(self.mapped.n_in()).unwrap_or(0);
        (row * self.mapped.n_values() / self.mapped.n_in()) as u64
    }

    /// The largest number of whole rows' values up to this one, but at least one row's.
    fn whole_rows(&self, values: usize) -> usize {
        (values / self.mapped.n_in()).max(1) * self.mapped.n_in()
    }

    /// Bytes of whole blocks. They lie behind each other without regard to rows, so that some rows are
    /// one encode.
    fn bytes(&self, values: usize) -> usize {
        values / self.choice.format.block_len() * self.choice.format.block_bytes()
    }
}

/// What [`write`] tells before it goes on: the tensor's number and how many bytes of it are written. An
/// error ends the work.
pub(crate) type Before<'a> = &'a mut dyn FnMut(usize, u64) -> Result<()>;

/// Writes a GGUF file at `out` with the metadata that `writer` has and these tensors. The file takes
/// its place only if `check` finds no fault; after an error nothing of it is left.
pub(crate) fn write(
    mut writer: Writer,
    source: &Source,
    jobs: &[Job<'_>],
    out: &Path,
    pool: &ThreadPool,
    before: Before<'_>,
    check: impl FnOnce(&Path) -> Result<()>,
) -> Result<u64> {
    for Job { mapped, choice } in jobs {
        writer.declare(&mapped.name, choice.format, &mapped.dims)?;
    }
    let mut file = writer.create(out)?;
    // While the pool encodes a batch, this thread writes the one before it.
    let (mut next, mut last) = (Vec::new(), (0, Vec::new()));
    for (i, job) in jobs.iter().enumerate() {
        source.still_whole()?;
        let data = job.mapped.load(source)?;
        let n_values = job.mapped.n_values();
        let batch = job.whole_rows(BATCH);
        for first in (0..n_values).step_by(batch) {
            before(i, job.bytes(first) as u64)?;
            next.resize(job.bytes(batch.min(n_values - first)), 0);
            let mut encoded = Ok(());
            pool.in_place_scope(|scope| {
                scope.spawn(|_| encoded = encode(job, &data, first, &mut next));
                append(&mut file, jobs, &last)
            })?;
            encoded?;
            last = (i, std::mem::replace(&mut next, last.1));
        }
    }
    append(&mut file, jobs, &last)?;
    file.finish_if(check)
}

/// Writes an encoded batch of the job with this number.
fn append(file: &mut OpenWriter, jobs: &[Job<'_>], (i, batch): &(usize, Vec<u8>)) -> Result<()> {
    if batch.is_empty() { Ok(()) } else { file.append(&jobs[*i].mapped.name, batch) }
}

/// Encodes values from `first` on, as many as fill `out`, in the threads of the current pool.
fn encode(job: &Job<'_>, data: &[u8], first: usize, out: &mut [u8]) -> Result<()> {
    let Job { mapped, choice } = job;
    let (format, piece) = (choice.format, job.whole_rows(PIECE));
    // What is in the wanted format already is copied: decoding and encoding again might change it.
    if let Values::Encoded { format: stored, data } = &mapped.values
        && *stored == format
    {
        out.copy_from_slice(&data[job.bytes(first)..][..out.len()]);
        return Ok(());
    }
    let work = |values: &mut Vec<f32>, (i, out): (usize, &mut [u8])| {
        values.resize(out.len() / format.block_bytes() * format.block_len(), 0.0);
        mapped.read(data, first + i * piece, values);
        check_values(values, format, mapped)?;
        Kernels::best().encode(format, values, out);
        Ok(())
    };
    out.par_chunks_mut(job.bytes(piece)).enumerate().try_for_each_init(Vec::new, work)
}

/// A value that isn't finite, or not in the format, would spoil every output without a word.
fn check_values(values: &[f32], format: Format, mapped: &Mapped<'_>) -> Result<()> {
    let name = match &mapped.values {
        Values::Source { tensor, .. } => &tensor.entry.name,
        Values::Computed(_) | Values::Encoded { .. } => &mapped.name,
    };
    // Whole slices without a branch; the culprit is looked for only if there is one.
    if !values.iter().fold(true, |finite, value| finite & value.is_finite()) {
        let value = values.iter().find(|value| !value.is_finite()).unwrap_or(&f32::NAN);
        return Err(Error::Unsupported(format!(
            "tensor `{name}` holds the value {value}: the checkpoint is damaged or diverged"
        )));
    }
    if format == Format::F16
        && let Some(value) = values.iter().find(|value| value.abs() > F16_MAX)
    {
        return Err(Error::Unsupported(format!(
            "tensor `{name}` holds {value}, which F16 can't: choose --type bf16"
        )));
    }
    Ok(())
}
