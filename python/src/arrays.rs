//! Arrays for numpy. Their memory is a `bytearray` that only the array refers to: Rust writes numbers
//! into it once, before Python sees it, and the array is a view of it (`array.base`), writable and the
//! caller's own.

use pyo3::{
    exceptions::PyMemoryError,
    prelude::*,
    types::{PyByteArray, PyTuple},
};

/// The numbers of an array in memory, each as its bytes.
pub type Cells<const N: usize> = [[u8; N]];

/// An array of f32 of this shape, filled in the order of C.
pub fn f32s<'py>(
    py: Python<'py>,
    shape: &[usize],
    fill: impl FnOnce(&mut Cells<4>) -> PyResult<()>,
) -> PyResult<Bound<'py, PyAny>> {
    array(py, "float32", shape, fill)
}

/// An array `[n]` of these numbers.
pub fn f64s<'py>(py: Python<'py>, numbers: &[f64]) -> PyResult<Bound<'py, PyAny>> {
    array(py, "float64", &[numbers.len()], |cells| {
        cells.iter_mut().zip(numbers).for_each(|(cell, x)| *cell = x.to_ne_bytes());
        Ok(())
    })
}

/// Writes numbers into the first cells.
pub fn write(cells: &mut Cells<4>, numbers: &[f32]) {
    cells.iter_mut().zip(numbers).for_each(|(cell, x)| *cell = x.to_ne_bytes());
}

fn array<'py, const N: usize>(
    py: Python<'py>,
    dtype: &str,
    shape: &[usize],
    fill: impl FnOnce(&mut Cells<N>) -> PyResult<()>,
) -> PyResult<Bound<'py, PyAny>> {
    let n_bytes = shape.iter().try_fold(N, |n, &m| n.checked_mul(m));
    let n_bytes = n_bytes.filter(|&n| isize::try_from(n).is_ok());
    let n_bytes = n_bytes.ok_or_else(|| PyMemoryError::new_err("an array beyond all memory"))?;
    let numpy = py.import("numpy")?;
    let memory = PyByteArray::new_with(py, n_bytes, |bytes| fill(bytes.as_chunks_mut().0))?;
    numpy.getattr("ndarray")?.call1((PyTuple::new(py, shape)?, dtype, memory))
}
