//! Memory that can be refused: `vec![0; n]` and `collect` end the process where the system has no more.
#![allow(unsafe_code)]

use std::{
    alloc::{Layout, alloc_zeroed},
    collections::{HashMap, HashSet, TryReserveError},
    hash::Hash,
};

use crate::{
    Error, Result,
    kernel::{A8, Candidate, Pack, Panel, Softmax},
    memory::enough,
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
/// [`Error::OutOfMemory`], as of all here.
pub(crate) fn room<T>(n: usize) -> Result<Vec<T>> {
    enough()?;
    let mut list = Vec::new();
    list.try_reserve_exact(n).map_err(refused::<T>(n))?;
    Ok(list)
}

/// The error for `n` values.
fn refused<T>(n: usize) -> impl FnOnce(TryReserveError) -> Error {
    move |_| Error::OutOfMemory { wanted: (n as u64).saturating_mul(size_of::<T>() as u64) }
}

/// `n` times the same.
pub(crate) fn filled<T: Clone>(n: usize, value: T) -> Result<Vec<T>> {
    let mut list = room(n)?;
    list.resize(n, value);
    Ok(list)
}

/// Appends to a list.
pub(crate) fn push<T>(list: &mut Vec<T>, value: T) -> Result<()> {
    if list.len() == list.capacity() {
        enough()?;
        list.try_reserve(1).map_err(refused::<T>(list.len()))?;
    }
    list.push(value);
    Ok(())
}

/// What an iterator gives, as a list.
pub(crate) fn gathered<T>(values: impl IntoIterator<Item = T>) -> Result<Vec<T>> {
    let values = values.into_iter();
    let mut list = room(values.size_hint().0)?;
    for value in values {
        push(&mut list, value)?;
    }
    Ok(list)
}

/// The same, as a set.
pub(crate) fn gathered_set<T: Hash + Eq>(
    values: impl ExactSizeIterator<Item = T>,
) -> Result<HashSet<T>> {
    enough()?;
    let mut set = HashSet::new();
    set.try_reserve(values.len()).map_err(refused::<T>(values.len()))?;
    set.extend(values);
    Ok(set)
}

/// An empty map with room for `n`.
pub(crate) fn map<K: Hash + Eq, V>(n: usize) -> Result<HashMap<K, V>> {
    enough()?;
    let mut map = HashMap::new();
    map.try_reserve(n).map_err(refused::<(K, V)>(n))?;
    Ok(map)
}

/// `n` zeros, whose pages the system hands out as they are first touched.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn zeros<T: Zero>(n: usize) -> Result<Vec<T>> {
    enough()?;
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
