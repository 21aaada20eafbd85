//! The checkpoint's tensors, streamed: some rows at a time are decoded, compared with the written
//! file's, multiplied with all tokens of the sample, and forgotten.

use super::{layers::Rows, row_limit};
use crate::{mapping::Mapped, source::Source};
use pith::{
    Error, Result,
    gguf::{Gguf, Tensor},
    kernel::Kernels,
    quant::Format,
    team::Mat,
};
use rayon::{ThreadPool, prelude::*};
use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
};

/// Values that one thread takes at once.
const PIECE: usize = 1 << 14;
/// Below this root mean square the f16 scales of blocks leave nothing of a row; floats go further.
const TINY: f64 = 1e-4;
const TINY_FLOAT: f64 = 1e-6;

/// Tensors by GGUF name, in the source and in the written file.
pub(super) struct Weights<'a> {
    source: &'a Source,
    tensors: HashMap<&'a str, (&'a Mapped<'a>, &'a Tensor<'a>)>,
    pool: &'a ThreadPool,
    /// The worst row of each tensor that was read whole.
    worst: RefCell<BTreeMap<&'a str, Worst>>,
}

/// A row and how far it is from the source's, relative to it.
#[derive(Clone, Copy, Debug)]
struct Worst {
    row: usize,
    by: f64,
}

impl Worst {
    /// The worse of two; of equal ones the first row.
    fn or(self, other: Worst) -> Worst {
        let worse = other.by > self.by || (other.by == self.by && other.row < self.row);
        if worse { other } else { self }
    }
}

impl<'a> Weights<'a> {
    /// Every tensor of `tensors`, which the written file must have in the same shape, and no other.
    pub fn new(
        source: &'a Source,
        tensors: impl Iterator<Item = &'a Mapped<'a>>,
        written: &'a Gguf<'a>,
        pool: &'a ThreadPool,
    ) -> Result<Self> {
        let fault = |name: &str, what: &str| {
            Error::malformed("GGUF", format!("self-check: tensor {name} {what}"))
        };
        let mut both = HashMap::new();
        for mapped in tensors {
            let name = mapped.name.as_str();
            let tensor = written.tensor(name).ok_or_else(|| fault(name, "wasn't written"))?;
            if tensor.dims[..tensor.n_dims as usize] != mapped.dims {
                return Err(fault(name, "has another shape"));
            }
            both.insert(name, (mapped, tensor));
        }
        match written.tensors().iter().find(|tensor| !both.contains_key(tensor.name)) {
            Some(extra) => Err(fault(extra.name, "has no source")),
            None => Ok(Weights { source, tensors: both, pool, worst: RefCell::default() }),
        }
    }

    /// Whether the checkpoint has this tensor.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A vector, or vectors one below the other, if the checkpoint has it.
    pub fn vector(&self, name: &str) -> Result<Option<Vec<f32>>> {
        if !self.has(name) {
            return Ok(None);
        }
        let n_rows = self.visit(name, 1, |_, _| {})?.len();
        let rows: Vec<usize> = (0..n_rows).collect();
        Ok(Some(self.rows(name, &rows)?.values))
    }

    /// Some rows of a matrix.
    pub fn rows(&self, name: &str, rows: &[usize]) -> Result<Rows> {
        let (mapped, _) = self.get(name)?;
        let data = mapped.load(self.source)?;
        let width = mapped.n_in();
        let mut values = vec![0.0; rows.len() * width];
        for (row, out) in rows.iter().zip(values.chunks_exact_mut(width)) {
            mapped.read(&data, row * width, out);
        }
        Ok(Rows { width, values })
    }

    /// The products of all rows of a matrix with each token, `[n_out, n_tokens]`.
    pub fn columns(&self, name: &str, x: &Rows) -> Result<Vec<f32>> {
        let width = self.get(name)?.0.n_in();
        if width != x.width {
            let what =
                format!("self-check: tensor {name} multiplies {width} values, not {}", x.width);
            return Err(Error::Invalid(what));
        }
        self.visit(name, x.n(), |rows, out| product(rows, x, out))
    }

    /// Compares what the network didn't read whole: an embedding that isn't the head, positions.
    pub fn read_the_rest(&self) -> Result<()> {
        let unread = |name: &&&str| !self.worst.borrow().contains_key(**name);
        for name in self.tensors.keys().filter(unread).copied().collect::<Vec<_>>() {
            self.visit(name, 1, |_, _| {})?;
        }
        Ok(())
    }

    /// The worst row with its tensor's name, and a line for each tensor that is beyond rounding.
    pub fn findings(&self) -> ((f64, String), Vec<String>) {
        let (mut worst, mut faults) = ((0.0, String::new()), Vec::new());
        for (name, Worst { row, by }) in self.worst.take() {
            let format = self.tensors[name].1.format;
            let limit = row_limit(format);
            if by.is_nan() || by > limit {
                faults.push(format!(
                    "row {row} of {name} is {:.3} % from the source's, where {format} may be {} %",
                    100.0 * by,
                    100.0 * limit
                ));
            }
            if by > worst.0 {
                worst = (by, name.to_owned());
            }
        }
        (worst, faults)
    }

    fn get(&self, name: &str) -> Result<(&'a Mapped<'a>, &'a Tensor<'a>)> {
        let missing = || Error::Invalid(format!("self-check: no tensor {name}"));
        self.tensors.get(name).copied().ok_or_else(missing)
    }

    /// Decodes all rows of a tensor, compares them, and gathers `per_row` values that `each` makes of
    /// every row.
    fn visit(
        &self,
        name: &str,
        per_row: usize,
        each: impl Fn(&[f32], &mut [f32]) + Sync,
    ) -> Result<Vec<f32>> {
        let (mapped, tensor) = self.get(name)?;
        let data = mapped.load(self.source)?;
        let n_in = mapped.n_in();
        let row_bytes = tensor.format.row_bytes(n_in).unwrap_or(0);
        let piece = (PIECE / n_in).max(1);
        let mut out = vec![0.0; mapped.n_values() / n_in * per_row];
        let work = |buffers: &mut [Vec<f32>; 2], (i, out): (usize, &mut [f32])| {
            let (first, n) = (i * piece, out.len() / per_row);
            buffers.iter_mut().for_each(|buffer| buffer.resize(n * n_in, 0.0));
            let [rows, written] = buffers;
            mapped.read(&data, first * n_in, rows);
            let bytes = &tensor.data[first * row_bytes..][..n * row_bytes];
            tensor.format.decode(bytes, written);
            each(rows, out);
            let pairs = rows.chunks_exact(n_in).zip(written.chunks_exact(n_in));
            let far = pairs.enumerate().map(|(row, (wanted, got))| Worst {
                row: first + row,
                by: distance(tensor.format, wanted, got),
            });
            far.fold(NOTHING, Worst::or)
        };
        let pieces = || {
            let pieces = out.par_chunks_mut(piece * per_row).enumerate();
            pieces.map_init(Default::default, work).reduce(|| NOTHING, Worst::or)
        };
        let worst = self.pool.install(pieces);
        self.worst.borrow_mut().insert(&mapped.name, worst);
        Ok(out)
    }
}

/// What every row is at least as bad as.
const NOTHING: Worst = Worst { row: 0, by: 0.0 };

/// The difference of two rows relative to the first, as root mean squares; infinite where the second
/// isn't finite.
fn distance(format: Format, wanted: &[f32], got: &[f32]) -> f64 {
    if wanted == got {
        return 0.0;
    }
    // In f32: values beyond 1e18 make a sum infinite.
    let [mut difference, mut size] = Kernels::best().squares(wanted, got).map(f64::from);
    if !(difference + size).is_finite() {
        let squares = wanted.iter().zip(got).map(|(&a, &b)| (f64::from(a), f64::from(b)));
        (difference, size) =
            squares.fold((0.0, 0.0), |(d, s), (a, b)| (d + (a - b) * (a - b), s + a * a));
    }
    let tiny = if format.is_float() { TINY_FLOAT } else { TINY };
    let floor = if format == Format::F32 { 0.0 } else { wanted.len() as f64 * tiny * tiny };
    let by = (difference / (size + floor)).sqrt();
    if by.is_nan() { f64::INFINITY } else { by }
}

/// The products of rows with each token, `[n_rows, n_tokens]`. By the runtime's product of F32 rows, the
/// one thing that both share: in plain Rust this was most of the check's time.
fn product(rows: &[f32], x: &Rows, out: &mut [f32]) {
    let (n, n_rows) = (x.n(), rows.len() / x.width);
    let mut columns = vec![0.0; n * n_rows];
    let mut tile = Mat::new(&mut columns, n, n_rows, n_rows);
    Kernels::best().matmul_f32(rows, x.width, &x.values, &mut tile.tile());
    for (token, columns) in columns.chunks_exact(n_rows).enumerate() {
        for (out, value) in out.iter_mut().skip(token).step_by(n).zip(columns) {
            *out = *value;
        }
    }
}
