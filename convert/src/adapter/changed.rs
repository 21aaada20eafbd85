//! A base's tensor with an adapter's change, made row by row when it is asked for: beside the result no
//! more than a row and the adapter's factors is in memory.

use super::finite;
use crate::source::{Data, Packed, Source, View};
use pith::{Error, Result};
use std::{borrow::Cow, fmt, sync::Arc};

/// A base's tensor with a change.
pub(super) struct Changed {
    /// Where its values come from.
    pub base: Data,
    /// Order of its values in those bytes.
    pub view: View,
    pub adapter: Arc<Source>,
    pub change: Change,
}

pub(super) enum Change {
    /// scale * left * right is added to `[n_rows, n_cols]`.
    LowRank {
        /// `[n_rows, rank]`: the adapter's tensor, and whether it is stored transposed.
        left: (String, bool),
        /// `[rank, n_cols]`.
        right: (String, bool),
        rank: usize,
        scale: f32,
        magnitude: Option<Magnitude>,
    },
    /// scale * the adapter's vector is added to a bias.
    Bias { tensor: String, scale: f32 },
}

/// DoRA's lengths.
pub(super) struct Magnitude {
    pub values: Vec<f32>,
    /// Whether an output is a column.
    pub columns: bool,
}

impl Packed for Changed {
    fn unpack(&self, file: &[u8]) -> Result<Vec<u8>> {
        let data = match &self.base {
            Data::Mapped { range, crc } => {
                let bytes = &file[range.clone()];
                if let Some(crc) = *crc {
                    crc.check(bytes, &format!("{self:?}"), range.start)?;
                }
                Cow::Borrowed(bytes)
            }
            Data::Packed(packed) => Cow::Owned(packed.unpack(file)?),
        };
        let (n_rows, n_cols) = (self.view.n_rows(), self.view.n_in());
        let rows = Rows { view: &self.view, data: &data, change: self.load()? };
        let magnitude = match &self.change {
            Change::LowRank { magnitude, .. } => magnitude.as_ref(),
            Change::Bias { .. } => None,
        };
        let columns = magnitude.filter(|m| m.columns).map(|m| m.of_columns(&rows, n_rows));
        let mut out = Vec::with_capacity(n_rows * n_cols * size_of::<f32>());
        let mut row = vec![0.0; n_cols];
        for i in 0..n_rows {
            rows.read(i, &mut row);
            match (&columns, magnitude) {
                (Some(factors), _) => row.iter_mut().zip(factors).for_each(|(v, f)| *v *= f),
                (None, Some(magnitude)) => {
                    let factor = scale_to(magnitude.values[i], squares(&row).iter().sum());
                    row.iter_mut().for_each(|value| *value *= factor);
                }
                (None, None) => {}
            }
            out.extend(row.iter().flat_map(|value| value.to_le_bytes()));
        }
        Ok(out)
    }
}

impl fmt::Debug for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = match &self.change {
            Change::LowRank { left: (name, _), .. } | Change::Bias { tensor: name, .. } => name,
        };
        write!(f, "the base's tensor, changed by {by}")
    }
}

/// The rows of a tensor with its change, but for DoRA's lengths.
struct Rows<'a> {
    view: &'a View,
    data: &'a [u8],
    change: Loaded,
}

/// A change whose values are in memory.
enum Loaded {
    LowRank { left: Vec<f32>, right: Vec<f32>, rank: usize, scale: f32 },
    Bias { values: Vec<f32>, scale: f32 },
}

impl Rows<'_> {
    fn read(&self, i: usize, row: &mut [f32]) {
        self.view.read(self.data, i, row);
        match &self.change {
            // A vector is a matrix of one column, see `View`.
            Loaded::Bias { values, scale } => row[0] += scale * values[i],
            Loaded::LowRank { left, right, rank, scale } => {
                let mut delta = vec![0.0; row.len()];
                let left = &left[i * rank..][..*rank];
                for (l, right) in left.iter().zip(right.chunks_exact(row.len())) {
                    delta.iter_mut().zip(right).for_each(|(delta, r)| *delta += l * r);
                }
                row.iter_mut().zip(&delta).for_each(|(value, delta)| *value += scale * delta);
            }
        }
    }
}

impl Changed {
    fn load(&self) -> Result<Loaded> {
        Ok(match &self.change {
            Change::Bias { tensor, scale } => {
                Loaded::Bias { values: self.factor(tensor, false)?, scale: *scale }
            }
            Change::LowRank { left, right, rank, scale, .. } => Loaded::LowRank {
                left: self.factor(&left.0, left.1)?,
                right: self.factor(&right.0, right.1)?,
                rank: *rank,
                scale: *scale,
            },
        })
    }

    /// A tensor of the adapter, its rows made columns or not.
    fn factor(&self, name: &str, transposed: bool) -> Result<Vec<f32>> {
        let tensor = self.adapter.tensor(name);
        let tensor = tensor.ok_or_else(|| Error::Invalid(format!("no `{name}`")))?;
        let values = finite(&self.adapter, tensor)?;
        let &[n_rows, n_cols] = tensor.entry.shape.as_slice() else { return Ok(values) };
        if !transposed {
            return Ok(values);
        }
        let column = |i: usize| (0..n_rows).map(move |row| row * n_cols + i);
        Ok((0..n_cols).flat_map(column).map(|at| values[at]).collect())
    }
}

impl Magnitude {
    /// What each column is multiplied with to get its length.
    fn of_columns(&self, rows: &Rows<'_>, n_rows: usize) -> Vec<f32> {
        let mut sums = vec![0.0f64; self.values.len()];
        let mut row = vec![0.0; sums.len()];
        for i in 0..n_rows {
            rows.read(i, &mut row);
            sums.iter_mut().zip(squares(&row)).for_each(|(sum, square)| *sum += square);
        }
        self.values.iter().zip(sums).map(|(&length, sum)| scale_to(length, sum)).collect()
    }
}

fn squares(row: &[f32]) -> Vec<f64> {
    row.iter().map(|&value| f64::from(value) * f64::from(value)).collect()
}

/// What gives values with this sum of squares a length. Values that are all zero stay so, where PEFT
/// would divide by zero.
fn scale_to(length: f32, squares: f64) -> f32 {
    match squares.sqrt() as f32 {
        0.0 => 0.0,
        now => length / now,
    }
}
