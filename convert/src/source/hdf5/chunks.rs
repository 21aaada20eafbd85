//! Values that don't lie in the file as they are: chunks and their indexes, and big-endian numbers.

use super::{
    MAX_EXPANSION, fault,
    file::{Cursor, File},
    filters::Filters,
    group,
};
use crate::source::Packed;
use pith::{Error, Result};
use std::ops::Range;

/// Big-endian numbers.
#[derive(Debug)]
pub(super) struct Swapped {
    pub range: Range<usize>,
    /// Bytes of a number.
    pub width: usize,
}

impl Packed for Swapped {
    fn unpack(&self, file: &[u8]) -> Result<Vec<u8>> {
        let mut bytes = file[self.range.clone()].to_vec();
        swap(&mut bytes, self.width);
        Ok(bytes)
    }
}

fn swap(bytes: &mut [u8], width: usize) {
    if width > 1 {
        bytes.chunks_exact_mut(width).for_each(<[u8]>::reverse);
    }
}

/// A chunk as its index has it.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    at: u64,
    len: usize,
    /// Filters that were skipped.
    mask: u32,
}

/// A dataset in chunks of one size; those at an edge reach over it.
#[derive(Debug)]
pub(super) struct Chunked {
    shape: Vec<usize>,
    chunk: Vec<usize>,
    /// Bytes of a value.
    width: usize,
    /// Row by row.
    places: Vec<(Range<usize>, u32)>,
    filters: Filters,
    /// Bytes whose order is turned; 1 for none.
    swap: usize,
}

impl Chunked {
    /// The dataset of this `shape`; `body` is its layout message behind the class.
    pub fn read(
        file: &File<'_>,
        version: u8,
        mut body: Cursor<'_>,
        shape: &[usize],
        width: usize,
        filters: Filters,
        swap: usize,
    ) -> Result<Self> {
        let flags = if version == 3 { 0 } else { body.u8()? };
        let n_dims = body.size(1)?;
        let before = if version == 3 { body.address()? } else { None };
        let size = if version == 3 { 4 } else { body.size(1)? };
        let mut chunk = (0..n_dims).map(|_| body.size(size)).collect::<Result<Vec<_>>>()?;
        // The last is the value's own size.
        if chunk.pop() != Some(width) || chunk.len() != shape.len() || chunk.contains(&0) {
            return Err(fault(format!("chunks of {chunk:?} for a shape of {shape:?}")));
        }
        let mut new =
            Chunked { shape: shape.into(), chunk, width, places: Vec::new(), filters, swap };
        if new.grid().contains(&0) {
            return Ok(new);
        }
        let limit = file.len().saturating_mul(MAX_EXPANSION);
        let n_bytes = new.padded().filter(|&n| n <= limit);
        // Each chunk takes an address in an index, or its values take as much.
        let n_chunks = count(&new.grid()).filter(|&n| n <= file.len() / 8);
        let (Some(_), Some(n_chunks)) = (n_bytes, n_chunks) else {
            return Err(fault(format!(
                "chunks of {:?} for a shape of {shape:?} in a file of {} bytes",
                new.chunk,
                file.len()
            )));
        };
        let chunks = match version {
            3 => new.tree(file, before, n_chunks)?,
            _ => new.new_index(file, version, flags, body, n_chunks)?,
        };
        let plain = new.filters.is_empty();
        let stored = chunks.iter().fold(0usize, |n, chunk| n.saturating_add(chunk.len));
        if stored > file.len() {
            return Err(fault(format!("chunks of {stored} bytes in a file of {}", file.len())));
        }
        for Chunk { at, len, mask } in chunks {
            if plain && len != new.chunk_bytes() {
                return Err(fault(format!("a chunk of {len} bytes, not {}", new.chunk_bytes())));
            }
            new.places.push((file.data(at, len)?, mask));
        }
        Ok(new)
    }

    /// Bytes of all chunks, unpacked.
    pub fn n_bytes(&self) -> usize {
        self.padded().unwrap_or(usize::MAX)
    }

    fn padded(&self) -> Option<usize> {
        let chunk = count(&self.chunk)?.checked_mul(self.width)?;
        count(&self.grid())?.checked_mul(chunk)
    }

    /// Chunks along each dimension.
    fn grid(&self) -> Vec<usize> {
        self.shape.iter().zip(&self.chunk).map(|(dim, chunk)| dim.div_ceil(*chunk)).collect()
    }

    /// Fits, once `padded` does.
    fn chunk_bytes(&self) -> usize {
        self.chunk.iter().product::<usize>() * self.width
    }

    /// The chunks of a version 1 B-tree, whose keys are places in the dataset.
    fn tree(&self, file: &File<'_>, root: Option<u64>, n_chunks: usize) -> Result<Vec<Chunk>> {
        let grid = self.grid();
        let mut found = vec![None; n_chunks];
        let mut todo: Vec<_> = root.map(|root| (root, None)).into_iter().collect();
        while let Some((at, wanted)) = todo.pop() {
            let key = 8 + 8 * (grid.len() + 1);
            let (level, mut entries, n) = group::node(file, at, 1, key)?;
            if wanted.is_some_and(|wanted| wanted != level) {
                return Err(fault("a B-tree whose levels don't descend"));
            }
            for _ in 0..n {
                let (len, mask) = (entries.size(4)?, entries.u32()?);
                let mut index = Some(0);
                for (&n, &chunk) in grid.iter().zip(&self.chunk) {
                    let at = entries.size(8)?;
                    let i = Some(at / chunk).filter(|&i| i < n && at % chunk == 0);
                    index = index.zip(i).map(|(before, i)| before * n + i);
                }
                entries.skip(8)?;
                let at = entries.u64()?;
                if let Some(below) = level.checked_sub(1) {
                    todo.push((at, Some(below)));
                    continue;
                }
                let index = index.ok_or_else(|| fault("a chunk outside the dataset"))?;
                if found[index].replace(Chunk { at, len, mask }).is_some() {
                    return Err(fault("a chunk is stored twice"));
                }
            }
        }
        found.into_iter().map(|chunk| chunk.ok_or_else(missing)).collect()
    }

    /// The chunks of the index of a layout of version 4 or 5.
    fn new_index(
        &self,
        file: &File<'_>,
        version: u8,
        flags: u8,
        mut body: Cursor<'_>,
        n_chunks: usize,
    ) -> Result<Vec<Chunk>> {
        let whole = self.chunk_bytes();
        match body.u8()? {
            1 if n_chunks == 1 => {
                let filtered = flags & 1 << 1 != 0;
                let (len, mask) = if filtered { (body.size(8)?, body.u32()?) } else { (whole, 0) };
                let at = body.address()?.ok_or_else(missing)?;
                Ok(vec![Chunk { at, len, mask }])
            }
            2 if self.filters.is_empty() => {
                let at = body.address()?.ok_or_else(missing)?;
                let chunk =
                    |i| Chunk { at: at.saturating_add((i * whole) as u64), len: whole, mask: 0 };
                Ok((0..n_chunks).map(chunk).collect())
            }
            3 => {
                body.skip(1)?; // bits of a page, which the array says itself
                let at = body.address()?.ok_or_else(missing)?;
                self.fixed_array(file, version, at, n_chunks)
            }
            4 | 5 => Err(Error::Unsupported(
                "chunks of a dataset that may grow; h5repack can give it a fixed size".into(),
            )),
            index => Err(fault(format!("chunks with an index of type {index}"))),
        }
    }

    /// The chunks of a fixed array: one entry for each, in pages where there are many.
    fn fixed_array(
        &self,
        file: &File<'_>,
        version: u8,
        at: u64,
        n_chunks: usize,
    ) -> Result<Vec<Chunk>> {
        let mut head = file.checked(at, 28)?;
        head.signature(b"FAHD")?;
        head.version(0, "an array of chunks")?;
        let filtered = head.u8()? == 1;
        let (entry, page_bits, n) = (head.size(1)?, head.u8()?, head.size(8)?);
        let block = head.address()?.ok_or_else(missing)?;
        // Version 5 has lengths of 8 bytes, version 4 as few as fit: the entry's size says it.
        let len_width = if filtered { entry.saturating_sub(12) } else { 0 };
        let right = if filtered { (1..=8).contains(&len_width) } else { entry == 8 };
        if !right
            || n != n_chunks
            || page_bits == 0
            || page_bits > 32
            || (version == 5 && filtered && len_width != 8)
        {
            return Err(fault(format!("an array of {n} chunks, {n_chunks} wanted")));
        }
        let per_page = 1usize << page_bits;
        let n_pages = if n > per_page { n.div_ceil(per_page) } else { 0 };
        let prefix = 14 + n_pages.div_ceil(8);
        let mut chunks = Vec::new();
        let mut read = |mut entries: Cursor<'_>, n: usize| {
            for _ in 0..n {
                let at = entries.address()?.ok_or_else(missing)?;
                let (len, mask) = match filtered {
                    true => (entries.size(len_width)?, entries.u32()?),
                    false => (self.chunk_bytes(), 0),
                };
                chunks.push(Chunk { at, len, mask });
            }
            Ok::<_, Error>(())
        };
        let all = n.checked_mul(entry).ok_or_else(|| fault("an array without end"))?;
        let held = if n_pages == 0 { all } else { 0 };
        let mut head = file.checked(block, (prefix + 4).saturating_add(held))?;
        head.signature(b"FADB")?;
        head.version(0, "an array of chunks")?;
        head.skip(prefix - 5)?;
        if n_pages == 0 {
            read(head, n)?;
        }
        let mut at = block.saturating_add(prefix as u64 + 4);
        for page in 0..n_pages {
            let n = per_page.min(n - page * per_page);
            read(file.checked(at, n * entry + 4)?, n)?;
            at = at.saturating_add((n * entry + 4) as u64);
        }
        Ok(chunks)
    }

    /// Puts the values of the chunk with this number where they belong.
    fn scatter(&self, index: usize, values: &[u8], out: &mut [u8]) {
        let (mut origin, mut rest) = (vec![0; self.shape.len()], index);
        for (dim, n) in self.grid().iter().enumerate().rev() {
            origin[dim] = rest % n * self.chunk[dim];
            rest /= n;
        }
        let Some(last) = self.shape.len().checked_sub(1) else {
            out.copy_from_slice(values);
            return;
        };
        let inside = |dim: usize| self.chunk[dim].min(self.shape[dim] - origin[dim]);
        let n_rows: usize = (0..last).map(inside).product();
        let n_row = inside(last) * self.width;
        for row in 0..n_rows {
            // The row's place in the chunk and in the dataset, in values.
            let (mut from, mut to, mut rest) = (0, origin[last], row);
            let (mut from_step, mut to_step) = (self.chunk[last], self.shape[last]);
            for dim in (0..last).rev() {
                let i = rest % inside(dim);
                rest /= inside(dim);
                from += i * from_step;
                to += (origin[dim] + i) * to_step;
                from_step *= self.chunk[dim];
                to_step *= self.shape[dim];
            }
            let (from, to) = (from * self.width, to * self.width);
            out[to..to + n_row].copy_from_slice(&values[from..from + n_row]);
        }
    }
}

impl Packed for Chunked {
    fn unpack(&self, file: &[u8]) -> Result<Vec<u8>> {
        let mut out = vec![0; self.shape.iter().product::<usize>() * self.width];
        for (index, (range, mask)) in self.places.iter().enumerate() {
            let values = self.filters.undo(&file[range.clone()], *mask, self.chunk_bytes())?;
            self.scatter(index, &values, &mut out);
        }
        swap(&mut out, self.swap);
        Ok(out)
    }
}

fn count(sizes: &[usize]) -> Option<usize> {
    sizes.iter().try_fold(1usize, |n, &size| n.checked_mul(size))
}

fn missing() -> Error {
    fault("a part of it was never written")
}
