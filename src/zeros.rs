//! Zeroed memory that can be refused: `vec![0; n]` ends the process where the system has no more.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed};

use crate::{
    Error, Result,
    kernel::{A8, Candidate, Pack, Panel, Softmax},
};

/// Numbers, and arrays and structs of them.
///
/// # Safety
/// Bytes that are all zero are a value.
pub(crate) unsafe trait Zero: Copy {}

// SAFETY: numbers.
unsafe impl Zero for i8 {}
// SAFETY: numbers.
unsafe impl Zero for u16 {}
// SAFETY: numbers.
unsafe impl Zero for u32 {}
// SAFETY: numbers.
unsafe impl Zero for f32 {}
// SAFETY: numbers.
unsafe impl Zero for A8 {}
// SAFETY: numbers.
unsafe impl Zero for Panel {}
// SAFETY: numbers.
unsafe impl Zero for Pack {}
// SAFETY: numbers.
unsafe impl Zero for Softmax {}
// SAFETY: numbers.
unsafe impl Zero for Candidate {}

/// An empty list with room for `n`.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn room<T>(n: usize) -> Result<Vec<T>> {
    let mut list = Vec::new();
    let wanted = (n as u64).saturating_mul(size_of::<T>() as u64);
    list.try_reserve_exact(n).map_err(|_| Error::OutOfMemory { wanted })?;
    Ok(list)
}

/// `n` zeros, whose pages the system hands out as they are first touched.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn zeros<T: Zero>(n: usize) -> Result<Vec<T>> {
    let refused =
        |_| Error::OutOfMemory { wanted: (n as u64).saturating_mul(size_of::<T>() as u64) };
    let layout = Layout::array::<T>(n).map_err(refused)?;
    if layout.size() == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: the layout has a size; the memory is a Vec's of this type, from its allocator, with all
    // `n` values there by the trait's promise.
    unsafe {
        let data = alloc_zeroed(layout);
        if data.is_null() {
            return Err(Error::OutOfMemory { wanted: layout.size() as u64 });
        }
        Ok(Vec::from_raw_parts(data.cast(), n, n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_zeros_and_too_many_are_refused() {
        assert_eq!(zeros::<f32>(1000).unwrap(), [0.0; 1000]);
        assert!(zeros::<u16>(0).unwrap().is_empty());
        for n in [usize::MAX, usize::MAX / 4, 1 << 60] {
            assert!(matches!(zeros::<f32>(n), Err(Error::OutOfMemory { .. })), "{n}");
        }
    }
}
