//! A caller's pointers, checked as far as they can be: not null, aligned, not longer than memory.

use std::{
    ffi::{CStr, c_char},
    path::Path,
    slice, str,
};

#[cfg(unix)]
use std::ffi::OsStr;

use crate::error::Fault;

/// `n` values from `data` on; none may have any address.
fn check<T>(data: *const T, n: usize, name: &'static str) -> Result<(), Fault> {
    match (data.is_null(), data.is_aligned(), n.checked_mul(size_of::<T>())) {
        (true, _, _) => Err(Fault::Null(name)),
        (_, false, _) => Err(Fault::Invalid("an array of numbers isn't aligned as they must be")),
        (_, _, Some(n_bytes)) if n_bytes <= isize::MAX as usize => Ok(()),
        _ => Err(Fault::Invalid("a length is more than memory has")),
    }
}

/// A caller's array.
///
/// # Safety
/// `data` has `n` values, which stay as they are for `'a`, or can't be that by [`check`].
pub unsafe fn values<'a, T>(
    data: *const T,
    n: usize,
    name: &'static str,
) -> Result<&'a [T], Fault> {
    if n == 0 {
        return Ok(&[]);
    }
    check(data, n, name)?;
    // SAFETY: it isn't null, is aligned, is no longer than memory, and by this function's contract.
    Ok(unsafe { slice::from_raw_parts(data, n) })
}

/// A caller's array to write into.
///
/// # Safety
/// `data` has room for `n` values that nobody else uses for `'a`, or can't be that by [`check`].
pub unsafe fn values_mut<'a, T>(
    data: *mut T,
    n: usize,
    name: &'static str,
) -> Result<&'a mut [T], Fault> {
    if n == 0 {
        return Ok(&mut []);
    }
    check(data, n, name)?;
    // SAFETY: it isn't null, is aligned, is no longer than memory, and by this function's contract; what
    // a C caller's memory holds are numbers of some value.
    Ok(unsafe { slice::from_raw_parts_mut(data, n) })
}

/// A caller's text.
///
/// # Safety
/// As [`values`].
pub unsafe fn text<'a>(text: *const c_char, n_bytes: usize) -> Result<&'a str, Fault> {
    // SAFETY: by this function's contract.
    let bytes = unsafe { values(text.cast::<u8>(), n_bytes, "text") }?;
    str::from_utf8(bytes).map_err(|error| Fault::NotUtf8 { at: error.valid_up_to() })
}

/// A caller's path.
///
/// # Safety
/// `path` is null, or a text that ends with a NUL.
pub unsafe fn path<'a>(path: *const c_char) -> Result<&'a Path, Fault> {
    if path.is_null() {
        return Err(Fault::Null("path"));
    }
    // SAFETY: it isn't null, and by this function's contract.
    let path = unsafe { CStr::from_ptr(path) };
    #[cfg(unix)]
    return Ok(Path::new(<OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(path.to_bytes())));
    #[cfg(not(unix))]
    return path
        .to_str()
        .map(Path::new)
        .map_err(|error| Fault::NotUtf8 { at: error.valid_up_to() });
}

/// Where a result goes: a caller's variable, or nowhere.
pub struct Place<T>(*mut T);

impl<T: Copy> Place<T> {
    /// A caller's variable, which gets `none` to begin with: what it has where the function fails.
    ///
    /// # Safety
    /// `at` is null or has room for a value as long as this is in use.
    pub unsafe fn new(at: *mut T, none: T) -> Place<T> {
        let place = Place(at);
        place.set(none);
        place
    }

    /// Fails where there is none.
    pub fn needed(&self, name: &'static str) -> Result<(), Fault> {
        if self.0.is_null() { Err(Fault::Null(name)) } else { Ok(()) }
    }

    /// Gives the caller a value.
    pub fn set(&self, value: T) {
        if !self.0.is_null() {
            // SAFETY: it isn't null, and was promised to have room; it may lie anywhere.
            unsafe { self.0.write_unaligned(value) };
        }
    }
}
