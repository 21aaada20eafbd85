//! The links of a group: a B-tree of symbol tables with a heap of names, or link messages, in the
//! object itself or, where there are many, in a fractal heap.

use super::{
    fault,
    file::{Cursor, File},
    heap, join,
    object::{self, Message, kind},
};
use pith::{Error, Result};

/// A link's name and the address of its object.
pub(super) type Link = (String, u64);

/// The links of the object with these messages, called `path`; `None` if it is no group.
pub(super) fn links(
    file: &File<'_>,
    messages: &[Message<'_>],
    path: &str,
) -> Result<Option<Vec<Link>>> {
    if let Some(mut table) = object::find(messages, kind::SYMBOL_TABLE)? {
        let (tree, names) = (table.u64()?, table.u64()?);
        return Ok(Some(old_links(file, tree, names, path)?));
    }
    let Some(mut info) = object::find(messages, kind::LINK_INFO)? else {
        return Ok(None);
    };
    let mut links = Vec::new();
    for message in messages.iter().filter(|message| message.kind == kind::LINK) {
        links.push(link(message.body()?, path)?);
    }
    info.version(0, "a group")?;
    let ordered = info.u8()? & 1 != 0;
    info.skip(if ordered { 8 } else { 0 })?;
    if let (Some(heap), Some(names)) = (info.address()?, info.address()?) {
        for body in heap::links(file, heap, names)? {
            links.push(link(body, path)?);
        }
    }
    Ok(Some(links))
}

fn refuse(path: &str, name: &str, what: &str) -> Error {
    let name = join(path, name).unwrap_or_default();
    Error::Unsupported(format!("`{name}` is {what}; h5repack or h5py can copy what it points to"))
}

/// A link message.
fn link(mut body: Cursor<'_>, path: &str) -> Result<Link> {
    body.version(1, "a link")?;
    let flags = body.u8()?;
    let kind = if flags & 1 << 3 != 0 { body.u8()? } else { 0 };
    body.skip(if flags & 1 << 2 != 0 { 8 } else { 0 })?; // creation order
    body.skip(if flags & 1 << 4 != 0 { 1 } else { 0 })?; // character set
    let len = body.size(1 << (flags & 3))?;
    let name = text(body.take(len)?)?;
    match kind {
        0 => Ok((name, body.u64()?)),
        1 => Err(refuse(path, &name, "a soft link")),
        64 => Err(refuse(path, &name, "a link into another file")),
        _ => Err(refuse(path, &name, "a link of a kind that HDF5 doesn't define")),
    }
}

fn text(name: &[u8]) -> Result<String> {
    let name = std::str::from_utf8(name);
    name.map(str::to_owned).map_err(|_| fault("a link's name is no UTF-8"))
}

/// The links of a group of the old kind.
fn old_links(file: &File<'_>, tree: u64, heap: u64, path: &str) -> Result<Vec<Link>> {
    let mut head = file.span(heap, 32)?;
    head.signature(b"HEAP")?;
    head.version(0, "a heap of names")?;
    head.skip(3)?;
    let len = head.size(8)?;
    head.skip(8)?;
    let names = head.u64()?;
    file.span(names, len)?;
    let mut links = Vec::new();
    for leaf in leaves(file, tree)? {
        let mut head = file.span(leaf, 8)?;
        head.signature(b"SNOD")?;
        head.version(1, "a symbol table")?;
        head.skip(1)?;
        let n = head.size(2)?;
        let mut symbols = file.span(leaf.saturating_add(8), 40 * n)?;
        for _ in 0..n {
            let (at, object, cached) = (symbols.size(8)?, symbols.u64()?, symbols.u32()?);
            symbols.skip(20)?;
            let left = len.checked_sub(at).ok_or_else(|| fault("a name outside its heap"))?;
            let name = text(file.until_zero(names.saturating_add(at as u64), left)?)?;
            if cached == 2 {
                return Err(refuse(path, &name, "a soft link"));
            }
            links.push((name, object));
        }
    }
    Ok(links)
}

/// The symbol tables of a B-tree, in order.
fn leaves(file: &File<'_>, root: u64) -> Result<Vec<u64>> {
    let mut leaves = Vec::new();
    let mut todo = vec![(root, None)];
    while let Some((at, wanted)) = todo.pop() {
        let (level, mut entries, n) = node(file, at, 0, 8)?;
        if wanted.is_some_and(|wanted| wanted != level) {
            return Err(fault("a B-tree whose levels don't descend"));
        }
        let mut children = Vec::new();
        for _ in 0..n {
            entries.skip(8)?; // a key: the first name, as we read them all anyway
            children.push(entries.u64()?);
        }
        match level.checked_sub(1) {
            None => leaves.extend(children),
            Some(below) => todo.extend(children.into_iter().rev().map(|at| (at, Some(below)))),
        }
    }
    Ok(leaves)
}

/// A node of a version 1 B-tree: its level, its entries (each a key of `key` bytes and a child),
/// their number.
pub(super) fn node<'a>(
    file: &File<'a>,
    at: u64,
    kind: u8,
    key: usize,
) -> Result<(u8, Cursor<'a>, usize)> {
    let mut head = file.span(at, 24)?;
    head.signature(b"TREE")?;
    if head.u8()? != kind {
        return Err(fault("a B-tree of the wrong kind"));
    }
    let (level, n) = (head.u8()?, head.size(2)?);
    Ok((level, file.span(at.saturating_add(24), n * (key + 8))?, n))
}
