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
    quant::Format,
};
use rayon::{ThreadPool, prelude::*};
use std::path::Path;

/// Values that are encoded between two writes; 4 MB as f32.
const BATCH: usize = 1 << 20;
/// Values that one thread takes at once.
const PIECE: usize = 1 << 16;
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
    for (i, job) in jobs.iter().enumerate() {
        let data = job.mapped.load(source)?;
        write_tensor(&mut file, job, &data, pool, &mut |written| before(i, written))?;
    }
    file.finish_if(check)
}

fn write_tensor(
    file: &mut OpenWriter,
    Job { mapped, choice }: &Job<'_>,
    data: &[u8],
    pool: &ThreadPool,
    before: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<()> {
    let format = choice.format;
    let n_in = mapped.n_in();
    let whole_rows = |values: usize| (values / n_in).max(1) * n_in;
    // Blocks lie behind each other without regard to rows, so a piece of rows is one encode.
    let bytes = |values: usize| values / format.block_len() * format.block_bytes();
    let (batch, piece) = (whole_rows(BATCH), whole_rows(PIECE));
    let mut encoded = Vec::new();
    for first in (0..mapped.n_values()).step_by(batch) {
        before(bytes(first) as u64)?;
        let len = batch.min(mapped.n_values() - first);
        encoded.resize(bytes(len), 0);
        let encode = |(i, out): (usize, &mut [u8])| {
            let at = i * piece;
            let mut values = vec![0.0; piece.min(len - at)];
            mapped.read(data, first + at, &mut values);
            check_values(&values, format, mapped)?;
            format.encode(&values, out);
            Ok::<_, Error>(())
        };
        pool.install(|| encoded.par_chunks_mut(bytes(piece)).enumerate().try_for_each(encode))?;
        file.append(&mapped.name, &encoded)?;
    }
    Ok(())
}

/// A value that isn't finite, or not in the format, would spoil every output without a word.
fn check_values(values: &[f32], format: Format, mapped: &Mapped<'_>) -> Result<()> {
    let name = match &mapped.values {
        Values::Source { tensor, .. } => &tensor.entry.name,
        Values::Computed(_) => &mapped.name,
    };
    if let Some(value) = values.iter().find(|value| !value.is_finite()) {
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
