//! A strided view of a tensor, decoded to f32 row by row.
//!
//! Rearranging a tensor (transposing, permuting rope rows, splitting a fused projection) only
//! changes sizes and strides: the values stay where they lie until a row is read. A view holds no
//! bytes, so that what must be unpacked first is in memory only while it is read.

use super::{Dtype, Entry};
use pith::{
    kernel::Kernels,
    quant::{bf16_to_f32, f16_to_f32},
};

/// Values of one tensor in some order: `shape` with the last dimension as the row.
#[derive(Clone, Debug)]
pub struct View {
    dtype: Dtype,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl View {
    /// The tensor of `entry`. Vectors become matrices of one column, so
    /// that every rearrangement of rows works on biases too.
    pub(crate) fn new(entry: &Entry) -> View {
        let (mut shape, mut strides) = (entry.shape.clone(), entry.strides.clone());
        while shape.len() < 2 {
            shape.push(1);
            strides.push(1);
        }
        View { dtype: entry.dtype, offset: entry.offset, shape, strides }
    }

    /// Type of the values as they are stored.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Values in a row.
    pub fn n_in(&self) -> usize {
        self.shape[self.shape.len() - 1]
    }

    /// Size of the first dimension.
    pub(crate) fn n_first(&self) -> usize {
        self.shape[0]
    }

    /// Rows: the product of all dimensions but the last.
    pub fn n_rows(&self) -> usize {
        self.shape[..self.shape.len() - 1].iter().product()
    }

    /// Splits dimension `dim` into `parts`, whose product must be its size.
    pub(crate) fn split(mut self, dim: usize, parts: &[usize]) -> View {
        assert_eq!(self.shape[dim], parts.iter().product::<usize>());
        let stride = self.strides[dim];
        let inner = |i: usize| parts[i + 1..].iter().product::<usize>() * stride;
        let strides: Vec<usize> = (0..parts.len()).map(inner).collect();
        self.shape.splice(dim..=dim, parts.iter().copied());
        self.strides.splice(dim..=dim, strides);
        self
    }

    /// Exchanges two dimensions.
    pub(crate) fn swap(mut self, a: usize, b: usize) -> View {
        self.shape.swap(a, b);
        self.strides.swap(a, b);
        self
    }

    /// Keeps `len` indices of dimension `dim`, from `start` on.
    pub(crate) fn narrow(mut self, dim: usize, start: usize, len: usize) -> View {
        assert!(start + len <= self.shape[dim]);
        self.offset += start * self.strides[dim];
        self.shape[dim] = len;
        self
    }

    /// Element at which a row begins.
    fn row_start(&self, mut row: usize) -> usize {
        let mut at = self.offset;
        for dim in (0..self.shape.len() - 1).rev() {
            at += row % self.shape[dim] * self.strides[dim];
            row /= self.shape[dim];
        }
        at
    }

    /// Decodes the rows from `first` on into `out`, `[n, n_in]`. `data` is what [`Source::load`] gave
    /// for the view's tensor.
    ///
    /// [`Source::load`]: super::Source::load
    ///
    /// # Panics
    /// Panics if `out` isn't whole rows of the view.
    pub fn read(&self, data: &[u8], first: usize, out: &mut [f32]) {
        if out.is_empty() {
            return;
        }
        assert!(out.len().is_multiple_of(self.n_in()));
        match self.dtype {
            Dtype::F64 => self.read_as(data, first, out, |b: [u8; 8]| f64::from_le_bytes(b) as f32),
            Dtype::F32 => self.read_as(data, first, out, f32::from_le_bytes),
            Dtype::F16 if self.strides[self.shape.len() - 1] == 1 => {
                self.read_halves(data, first, out)
            }
            Dtype::F16 => self.read_as(data, first, out, |b| f16_to_f32(u16::from_le_bytes(b))),
            Dtype::BF16 => self.read_as(data, first, out, |b| bf16_to_f32(u16::from_le_bytes(b))),
            Dtype::F8E4M3 => self.read_as(data, first, out, |[b]| e4m3_to_f32(b)),
            Dtype::F8E5M2 => {
                self.read_as(data, first, out, |[b]| f16_to_f32(u16::from_le_bytes([0, b])));
            }
            Dtype::Other { name, .. } => unreachable!("Source::view gives no {name} views"),
        }
    }

    /// Rows of adjacent halves, by the vectors of this machine.
    fn read_halves(&self, data: &[u8], first: usize, out: &mut [f32]) {
        const PIECE: usize = 256;
        let (elements, _) = data.as_chunks::<2>();
        let mut halves = [0; PIECE];
        for (row, out) in out.chunks_exact_mut(self.n_in()).enumerate() {
            let row = &elements[self.row_start(first + row)..][..out.len()];
            for (row, out) in row.chunks(PIECE).zip(out.chunks_mut(PIECE)) {
                let halves = &mut halves[..row.len()];
                halves.iter_mut().zip(row).for_each(|(half, &le)| *half = u16::from_le_bytes(le));
                Kernels::best().from_f16(halves, out);
            }
        }
    }

    fn read_as<const N: usize>(
        &self,
        data: &[u8],
        first: usize,
        out: &mut [f32],
        decode: impl Fn([u8; N]) -> f32,
    ) {
        // The readers checked that the view lies in `data`, which holds whole elements.
        let (elements, _) = data.as_chunks::<N>();
        let n_in = self.n_in();
        let stride = self.strides[self.shape.len() - 1];
        let starts = (first..first + out.len() / n_in).map(|row| self.row_start(row));
        if stride == 1 {
            for (start, out) in starts.zip(out.chunks_exact_mut(n_in)) {
                for (to, &from) in out.iter_mut().zip(&elements[start..start + n_in]) {
                    *to = decode(from);
                }
            }
            return;
        }
        // Neighbouring rows of a transposed matrix are neighbours in memory: walk the columns
        // outside, so that a cache line serves all rows that it holds.
        let starts: Vec<usize> = starts.collect();
        for column in 0..n_in {
            for (row, start) in starts.iter().enumerate() {
                out[row * n_in + column] = decode(elements[start + column * stride]);
            }
        }
    }
}

/// A byte as sign, 4 bits of exponent with bias 7 and 3 of mantissa; only all ones are NaN
/// (Micikevicius et al. 2022, "FP8 formats for deep learning").
fn e4m3_to_f32(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let magnitude = match byte & 0x7f {
        0x7f => f32::NAN,
        0..8 => mantissa * 2f32.powi(-9),
        _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
    };
    if byte < 128 { magnitude } else { -magnitude }
}
