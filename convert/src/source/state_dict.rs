//! The state dict of a pickle, whichever container its storages lie in: wrappers around it are taken
//! off, its tensors become entries, and what else is there is left over.

use super::{
    Dtype, Entry, Leftover,
    pickle::{Node, Pickle, Ref, Tensor},
};
use pith::{Error, Result};
use serde_json::{Map, Value};
use std::collections::HashSet;

/// Keys under which training programs keep the state dict beside other things: PyTorch Lightning,
/// nanoGPT, PyTorch's tutorials, DeepSpeed.
const WRAPPERS: &[&str] = &["state_dict", "model", "model_state_dict", "module"];
/// Wrappers inside each other.
const MAX_WRAPPERS: usize = 4;
/// A view may repeat elements (stride 0); all tensors together may be this often the file.
const MAX_EXPANSION: usize = 4;
/// Tensors; the largest models have a few thousand.
const MAX_TENSORS: usize = 1 << 16;
/// Bytes of a key.
const MAX_NAME: usize = 1024;
/// Things that are no tensors; a checkpoint has a few.
const MAX_LEFTOVERS: usize = 10_000;
/// Leftovers whose value is kept; keys of a dict, and bytes of a string, that are.
const MAX_VALUES: usize = 64;
const MAX_TEXT: usize = 256;

/// The tensors of `pickle`, each found by `resolve`, in order of the state dict, and what else is in
/// it. `file_len` bounds what they may take together.
///
/// # Errors
/// [`Error::Unsupported`] for what is no state dict; [`Error::Malformed`] for names that are no
/// strings, too long, or there twice, and for tensors beyond the file; what `resolve` says.
pub(super) fn read(
    pickle: &Pickle<'_>,
    file_len: usize,
    resolve: impl Fn(&str, &Tensor<'_>) -> Result<Entry>,
) -> Result<(Vec<Entry>, Vec<Leftover>)> {
    let (pairs, mut leftovers) = unwrap(pickle)?;
    let mut names = HashSet::new();
    let mut entries = Vec::new();
    let mut total = 0usize;
    for &(key, value) in pairs {
        let name = key_name(pickle, key)?;
        if !names.insert(name) {
            return Err(Error::malformed("pickle", format!("tensor `{name}` is stored twice")));
        }
        match pickle.get(value) {
            Node::Tensor(_) if entries.len() >= MAX_TENSORS => {
                return Err(Error::malformed("pickle", format!("more than {MAX_TENSORS} tensors")));
            }
            Node::Tensor(tensor) => {
                let entry = resolve(name, tensor)?;
                let bytes =
                    entry.shape.iter().product::<usize>().saturating_mul(entry.dtype.bits());
                total = total.saturating_add(bytes / 8);
                entries.push(entry);
            }
            other => leave(&mut leftovers, pickle, name, other, false)?,
        }
    }
    if total > file_len.saturating_mul(MAX_EXPANSION) {
        return Err(Error::malformed(
            "pickle",
            format!("its tensors take {total} bytes out of a file of {file_len}"),
        ));
    }
    Ok((entries, leftovers))
}

type Pairs = [(Ref, Ref)];

/// Unwraps `{"model": {...}, "epoch": 3}` until the dict of tensors; what lies beside a wrapper is
/// left over.
fn unwrap<'p>(pickle: &'p Pickle<'_>) -> Result<(&'p Pairs, Vec<Leftover>)> {
    let Node::Dict(root) = pickle.root() else {
        let what = describe(pickle.root());
        return Err(Error::Unsupported(format!(
            "the pickle holds {what}, not a dict of tensors; save model.state_dict()"
        )));
    };
    let mut pairs: &Pairs = root;
    let mut leftovers = Vec::new();
    for _ in 0..MAX_WRAPPERS {
        let holds_weights = |inner: &Pairs| {
            inner.iter().any(|&pair| {
                matches!(pickle.get(pair.1), Node::Tensor(_)) || wrapped(pickle, pair).is_some()
            })
        };
        let mut wrapped = pairs
            .iter()
            .filter_map(|&pair| wrapped(pickle, pair))
            .filter(|(_, inner)| holds_weights(inner));
        let Some((wrapper, inner)) = wrapped.next() else {
            break;
        };
        if let Some((second, _)) = wrapped.next() {
            return Err(Error::Unsupported(format!(
                "both `{wrapper}` and `{second}` hold a state dict; save the one that is meant"
            )));
        }
        for &(key, value) in pairs {
            let name = key_name(pickle, key)?;
            if name != wrapper {
                leave(&mut leftovers, pickle, name, pickle.get(value), true)?;
            }
        }
        pairs = inner;
    }
    Ok((pairs, leftovers))
}

/// The dict under one of the wrappers' keys, and the key.
fn wrapped<'p, 'a>(
    pickle: &'p Pickle<'a>,
    (key, value): (Ref, Ref),
) -> Option<(&'a str, &'p Pairs)> {
    match (pickle.get(key), pickle.get(value)) {
        (&Node::Str(name), Node::Dict(inner)) if WRAPPERS.contains(&name) => Some((name, inner)),
        _ => None,
    }
}

fn leave(
    leftovers: &mut Vec<Leftover>,
    pickle: &Pickle<'_>,
    name: &str,
    node: &Node<'_>,
    beside: bool,
) -> Result<()> {
    if leftovers.len() >= MAX_LEFTOVERS {
        return Err(Error::Unsupported(format!(
            "more than {MAX_LEFTOVERS} entries beside the weights; save model.state_dict() alone"
        )));
    }
    let value = match node {
        _ if leftovers.len() >= MAX_VALUES => Value::Null,
        Node::Dict(pairs) if pairs.len() <= MAX_VALUES => dict(pickle, pairs),
        Node::Dict(_) => Value::Null,
        node => plain(node),
    };
    leftovers.push(Leftover { name: name.to_owned(), what: describe(node), value, beside });
    Ok(())
}

/// A small dict of plain values; keys that are no short strings are left out.
fn dict(pickle: &Pickle<'_>, pairs: &Pairs) -> Value {
    let pair = |&(key, value): &(Ref, Ref)| match pickle.get(key) {
        Node::Str(key) if key.len() <= MAX_TEXT => {
            Some(((*key).to_owned(), plain(pickle.get(value))))
        }
        _ => None,
    };
    Value::Object(pairs.iter().filter_map(pair).collect::<Map<_, _>>())
}

/// A number, a flag or a short string as JSON; of anything else, what it is.
fn plain(node: &Node<'_>) -> Value {
    match node {
        &Node::Int(value) => value.into(),
        &Node::Float(value) => value.into(),
        &Node::Bool(value) => value.into(),
        &Node::Str(text) if text.len() <= MAX_TEXT => text.into(),
        Node::None => Value::Null,
        other => format!("({})", describe(other)).into(),
    }
}

fn key_name<'a>(pickle: &Pickle<'a>, key: Ref) -> Result<&'a str> {
    match pickle.get(key) {
        Node::Str(name) if name.len() <= MAX_NAME => Ok(name),
        Node::Str(name) => Err(Error::malformed(
            "pickle",
            format!(
                "a key of the state dict has {} bytes; at most {MAX_NAME} are read",
                name.len()
            ),
        )),
        _ => Err(Error::malformed("pickle", "a key of the state dict is no string")),
    }
}

fn describe(node: &Node<'_>) -> &'static str {
    match node {
        Node::Dict(_) => "a dict",
        Node::List(_) | Node::Tuple(_) => "a list",
        Node::Str(_) => "a string",
        Node::Int(_) | Node::Float(_) | Node::Bool(_) => "a number",
        Node::None => "None",
        Node::Tensor(tensor) if matches!(tensor.storage.dtype, Dtype::Other { .. }) => {
            "an integer tensor"
        }
        Node::Tensor(_) => "a tensor",
        _ => "an object",
    }
}
