//! What can go wrong, as Python has it: each error is a `pith.Error`, and also what a Python user expects
//! of its kind, so that `except FileNotFoundError` and `except ValueError` do what they say.

use std::io;

use pyo3::{
    PyErrArguments,
    prelude::*,
    sync::PyOnceLock,
    types::{PyDict, PyTuple, PyType},
};
use runtime::Error;

/// A class of errors.
#[derive(Clone, Copy)]
enum Class {
    Error,
    File,
    NotFound,
    Format,
    Unsupported,
    Invalid,
    Memory,
    ContextFull,
}

/// In the order of [`Class`]: a name, the class of pith's that it is one of, the builtin one, a docstring.
const CLASSES: [(&str, Option<Class>, &str, &str); 8] = [
    ("Error", None, "Exception", "What can go wrong in pith."),
    ("FileError", Some(Class::Error), "OSError", "The system refused to open, map or read a file."),
    ("NotFoundError", Some(Class::File), "FileNotFoundError", "There is no such file."),
    (
        "FormatError",
        Some(Class::Error),
        "ValueError",
        "A file is not what it claims to be: truncated, inconsistent or hostile.",
    ),
    (
        "UnsupportedError",
        Some(Class::Error),
        "NotImplementedError",
        "The file is sound, but pith, or this model, can't do what is asked for.",
    ),
    ("InvalidError", Some(Class::Error), "ValueError", "An argument makes no sense here."),
    (
        "OutOfMemoryError",
        Some(Class::Error),
        "MemoryError",
        "More memory is needed than max_memory allows or the system has.",
    ),
    (
        "ContextFullError",
        Some(Class::Error),
        "ValueError",
        "More tokens are wanted than the context holds.",
    ),
];

/// In the order of [`CLASSES`].
static TYPES: PyOnceLock<Vec<Py<PyType>>> = PyOnceLock::new();

fn types(py: Python<'_>) -> PyResult<&Vec<Py<PyType>>> {
    TYPES.get_or_try_init(py, || {
        let mut types: Vec<Py<PyType>> = Vec::with_capacity(CLASSES.len());
        for (name, parent, builtin, doc) in CLASSES {
            let parent = parent.map(|parent| types[parent as usize].clone_ref(py).into_any());
            let builtin = py.import("builtins")?.getattr(builtin)?.unbind();
            let bases: Vec<Py<PyAny>> = parent.into_iter().chain([builtin]).collect();
            let bases = PyTuple::new(py, bases)?;
            let dict = PyDict::new(py);
            dict.set_item("__module__", "pith")?;
            dict.set_item("__doc__", doc)?;
            let class = py.get_type::<PyType>().call1((name, bases, dict))?;
            types.push(class.cast_into::<PyType>()?.unbind());
        }
        Ok(types)
    })
}

/// Adds the classes to the module.
pub fn add_to(module: &Bound<'_, PyModule>) -> PyResult<()> {
    for ((name, ..), class) in CLASSES.iter().zip(types(module.py())?) {
        module.add(*name, class)?;
    }
    Ok(())
}

fn of_class(py: Python<'_>, class: Class, args: impl PyErrArguments + 'static) -> PyErr {
    match types(py) {
        Ok(types) => PyErr::from_type(types[class as usize].bind(py).clone(), args),
        Err(error) => error,
    }
}

/// An argument that makes no sense.
pub fn invalid(py: Python<'_>, fault: impl Into<String>) -> PyErr {
    of_class(py, Class::Invalid, fault.into())
}

/// The same error for Python. Where the runtime speaks of the command's options, this speaks of arguments.
fn translated(py: Python<'_>, error: Error) -> PyErr {
    let text = error.to_string();
    match error {
        Error::Io { action, path, source } => {
            let class = match source.kind() {
                io::ErrorKind::NotFound => Class::NotFound,
                _ => Class::File,
            };
            let Some(number) = source.raw_os_error() else { return of_class(py, class, text) };
            let reason = source.to_string();
            let reason = reason.strip_suffix(&format!(" (os error {number})")).unwrap_or(&reason);
            of_class(
                py,
                class,
                (number, format!("cannot {action}: {reason}"), path.into_os_string()),
            )
        }
        Error::Malformed { .. } => of_class(py, Class::Format, text),
        Error::Unsupported(_) => of_class(py, Class::Unsupported, text),
        Error::Invalid(_) => of_class(py, Class::Invalid, text),
        Error::Memory { needed, limit } => of_class(
            py,
            Class::Memory,
            format!(
                "{needed} bytes of memory are needed, over max_memory={limit}; load the model with a \
                 smaller n_ctx or n_seq, or a larger max_memory"
            ),
        ),
        Error::OutOfMemory { wanted } => of_class(
            py,
            Class::Memory,
            format!(
                "the system refuses {wanted} bytes of memory; load the model with a smaller n_ctx or \
                 n_seq, or free some"
            ),
        ),
        Error::ContextFull { n_ctx, wanted } => of_class(
            py,
            Class::ContextFull,
            format!(
                "the context is full: {wanted} tokens wanted, {n_ctx} fit; load the model with a larger \
                 n_ctx, or shorten the text"
            ),
        ),
        // The enum may grow.
        _ => of_class(py, Class::Error, text),
    }
}

/// Results of the runtime as Python's.
pub trait OrRaise<T> {
    /// The value, or the exception.
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;

    /// The same, and the message names the text that is at fault.
    fn or_raise_of(self, py: Python<'_>, text: usize) -> PyResult<T>;
}

impl<T> OrRaise<T> for runtime::Result<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| translated(py, error))
    }

    fn or_raise_of(self, py: Python<'_>, text: usize) -> PyResult<T> {
        self.or_raise(py).map_err(|error| {
            let message = format!("text {text}: {}", error.value(py));
            PyErr::from_type(error.get_type(py), message)
        })
    }
}
