//! Groups of many links: a version 2 B-tree, by name, of places in a fractal heap, where the link
//! messages are.

use super::{
    fault,
    file::{Cursor, File},
};
use pith::{Error, Result};

/// Levels of a B-tree: with two children a node, more than any file can hold.
const MAX_LEVELS: usize = 24;

/// The link messages in the heap at `heap` that the B-tree at `tree` lists.
pub(super) fn links<'a>(file: &File<'a>, heap: u64, tree: u64) -> Result<Vec<Cursor<'a>>> {
    let heap = Heap::open(file, heap)?;
    let mut links = Vec::new();
    for mut record in records(file, tree)? {
        record.skip(4)?; // hash of the name
        links.push(heap.object(file, record)?);
    }
    Ok(links)
}

/// Bytes that hold any number up to `max`.
fn width(max: usize) -> usize {
    max.checked_ilog2().unwrap_or(0) as usize / 8 + 1
}

/// The records of a B-tree of links by name (type 5).
fn records<'a>(file: &File<'a>, tree: u64) -> Result<Vec<Cursor<'a>>> {
    let mut head = file.checked(tree, 38)?;
    head.signature(b"BTHD")?;
    head.version(0, "a B-tree")?;
    let kind = head.u8()?;
    let (size, record, levels) = (head.size(4)?, head.size(2)?, head.size(2)?);
    head.skip(2)?;
    let (root, n) = (head.address()?, head.size(2)?);
    if kind != 5 || record < 5 || levels > MAX_LEVELS || size < 10 + record {
        return Err(fault("a B-tree that can't list the links of a group"));
    }
    // Widths of a child's numbers: its records, and all below it, as the fullest tree would need.
    let max = (size - 10) / record;
    let count = width(max);
    let (mut all, mut totals) = (max, vec![0]);
    for _ in 0..levels {
        let pointer = 8 + count + totals[totals.len() - 1];
        let max = size.saturating_sub(10 + pointer) / (record + pointer);
        all = max.saturating_add(1).saturating_mul(all).saturating_add(max);
        totals.push(width(all));
    }
    let mut records = Vec::new();
    let mut todo: Vec<_> = root.map(|root| (root, n, levels)).into_iter().collect();
    while let Some((at, n, level)) = todo.pop() {
        let inner = level > 0;
        let pointer = if inner { 8 + count + totals[level - 1] } else { 0 };
        let len = 6 + n * record + if inner { (n + 1) * pointer } else { 0 } + 4;
        if len > size {
            return Err(fault(format!("a node of {n} records in {size} bytes")));
        }
        let mut node = file.checked(at, len)?;
        node.signature(if inner { b"BTIN" } else { b"BTLF" })?;
        node.version(0, "a B-tree")?;
        if node.u8()? != kind {
            return Err(fault("a B-tree of two kinds"));
        }
        for _ in 0..n {
            records.push(node.split(record)?);
        }
        for _ in 0..if inner { n + 1 } else { 0 } {
            let (child, n) = (node.u64()?, node.size(count)?);
            node.skip(totals[level - 1])?;
            todo.push((child, n, level - 1));
        }
    }
    Ok(records)
}

/// A fractal heap: blocks of doubling sizes in rows of a table, of which big ones are tables again.
struct Heap {
    offset_width: usize,
    length_width: usize,
    /// Blocks in a row.
    columns: usize,
    /// Bytes of a block of the first two rows.
    start: usize,
    /// Rows of a table whose blocks hold data.
    direct_rows: usize,
    root: u64,
    /// Rows of the root, 0 where it is a block of data.
    rows: usize,
}

impl Heap {
    fn open(file: &File<'_>, at: u64) -> Result<Heap> {
        let mut head = file.checked(at, 146)?;
        head.signature(b"FRHP")?;
        head.version(0, "a heap")?;
        head.skip(2)?; // length of an id, which each record has
        let filters = head.size(2)?;
        head.skip(1)?;
        let max_object = head.size(4)?;
        head.skip(12 * 8)?; // huge and tiny objects, free space
        let (columns, start, max_block) = (head.size(2)?, head.size(8)?, head.size(8)?);
        let bits = head.size(2)?;
        head.skip(2)?;
        let root = head.address()?.ok_or_else(|| fault("a heap without blocks"))?;
        let rows = head.size(2)?;
        let powers = columns.is_power_of_two() && start.is_power_of_two();
        if filters != 0 {
            return Err(Error::Unsupported("a group whose names are compressed".into()));
        }
        if !powers || !max_block.is_power_of_two() || max_block < start || bits > 64 || bits == 0 {
            return Err(fault("a heap whose blocks have no sizes"));
        }
        Ok(Heap {
            offset_width: bits.div_ceil(8),
            length_width: width(max_block).min(width(max_object)),
            columns,
            start,
            direct_rows: (max_block.ilog2() - start.ilog2()) as usize + 2,
            root,
            rows,
        })
    }

    /// Bytes of a block in `row`.
    fn block_len(&self, row: usize) -> Result<usize> {
        let len = u32::try_from(row.saturating_sub(1))
            .ok()
            .and_then(|by| self.start.checked_shl(by).filter(|len| len >> by == self.start));
        len.ok_or_else(|| fault("a heap larger than memory"))
    }

    /// The object that a heap id names.
    fn object<'a>(&self, file: &File<'a>, mut id: Cursor<'a>) -> Result<Cursor<'a>> {
        if id.u8()? & 0x30 != 0 {
            return Err(Error::Unsupported("a link too long for its heap".into()));
        }
        let (mut offset, len) = (id.size(self.offset_width)?, id.size(self.length_width)?);
        let (mut at, mut rows) = (self.root, self.rows);
        let mut block = self.start;
        while rows > 0 {
            let (row, column, len) = self.place(&mut offset, rows)?;
            let entry = 13 + self.offset_width + 8 * (row * self.columns + column);
            file.span(at, 4)?.signature(b"FHIB")?;
            let child = file.span(at.saturating_add(entry as u64), 8)?.address()?;
            at = child.ok_or_else(|| fault("a link in a part of a heap that isn't there"))?;
            block = len;
            if row < self.direct_rows {
                break;
            }
            // As many rows as hold `len` bytes: each doubles what those before it hold.
            let row_len = self.start.saturating_mul(self.columns);
            rows = (len / row_len).checked_ilog2().map_or(0, |log| log as usize + 1);
            if rows == 0 {
                return Err(fault("a heap whose tables are empty"));
            }
        }
        if offset.checked_add(len).is_none_or(|end| end > block) {
            return Err(fault("a link outside its heap"));
        }
        file.span(at, 4)?.signature(b"FHDB")?;
        file.span(at.saturating_add(offset as u64), len)
    }

    /// Row, column and length of the block of a table with `rows` rows that holds `offset`, which
    /// becomes the offset in that block.
    fn place(&self, offset: &mut usize, rows: usize) -> Result<(usize, usize, usize)> {
        for row in 0..rows {
            let len = self.block_len(row)?;
            let all = len.checked_mul(self.columns).ok_or_else(|| fault("a heap without end"))?;
            if *offset < all {
                let column = *offset / len;
                *offset %= len;
                return Ok((row, column, len));
            }
            *offset -= all;
        }
        Err(fault("a link outside its heap"))
    }
}
