//! Values that don't lie in the file as they are: chunks with their filters, and big-endian numbers.

use super::{
    MAX_EXPANSION, fault,
    file::{Cursor, File},
    group,
};
use crate::source::Packed;
use miniz_oxide::inflate;
use pith::{Error, Result};
use std::ops::Range;

/// More filters than any dataset has.
const MAX_FILTERS: usize = 8;

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

/// What was done to each chunk when it was written, in this order.
#[derive(Clone, Debug, Default)]
pub(super) struct Filters(Vec<Filter>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filter {
    Deflate,
    /// Bytes of a value: all first bytes of the values come first, then all second ones.
    Shuffle(usize),
    Fletcher32,
}

impl Filters {
    pub fn read(mut body: Cursor<'_>) -> Result<Self> {
        let version = body.u8()?;
        let n = body.size(1)?;
        match version {
            1 => body.skip(6)?,
            2 => {}
            _ => return Err(Error::Unsupported(format!("filters of version {version}"))),
        }
        if n > MAX_FILTERS {
            return Err(fault(format!("{n} filters")));
        }
        (0..n).map(|_| Filter::read(&mut body, version)).collect::<Result<_>>().map(Filters)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The `wanted` bytes of a chunk whose filters were not skipped by `mask`.
    fn undo(&self, stored: &[u8], mask: u32, wanted: usize) -> Result<Vec<u8>> {
        let mut bytes = stored.to_vec();
        // Checksums may lie inside what is compressed.
        let limit = wanted.saturating_add(4 * self.0.len());
        for (i, filter) in self.0.iter().enumerate().rev() {
            if mask >> i & 1 != 0 {
                continue;
            }
            bytes = match *filter {
                Filter::Deflate => inflate::decompress_to_vec_zlib_with_limit(&bytes, limit)
                    .map_err(|error| fault(format!("a chunk can't be inflated: {error}")))?,
                Filter::Shuffle(width) => unshuffle(&bytes, width),
                Filter::Fletcher32 => checked(bytes)?,
            };
        }
        match bytes.len() == wanted {
            true => Ok(bytes),
            false => Err(fault(format!("a chunk of {} bytes, {wanted} wanted", bytes.len()))),
        }
    }
}

impl Filter {
    fn read(body: &mut Cursor<'_>, version: u8) -> Result<Filter> {
        let id = body.u16()?;
        let name = if version == 1 || id >= 256 { body.size(2)? } else { 0 };
        body.skip(2)?; // whether it may fail
        let n_values = body.size(2)?;
        body.skip(if version == 1 { name.next_multiple_of(8) } else { name })?;
        let mut values = body.split(4 * n_values)?;
        body.skip(if version == 1 && n_values % 2 == 1 { 4 } else { 0 })?;
        match id {
            1 => Ok(Filter::Deflate),
            2 => match values.size(4)? {
                0 => Err(fault("a shuffle of values without bytes")),
                width => Ok(Filter::Shuffle(width)),
            },
            3 => Ok(Filter::Fletcher32),
            _ => Err(Error::Unsupported(format!(
                "filter {id} ({}); gzip, shuffle and Fletcher-32 are read: h5repack can rewrite it",
                ["nothing", "gzip", "shuffle", "Fletcher-32", "szip", "nbit", "scale-offset"]
                    .get(usize::from(id))
                    .unwrap_or(&"a plugin such as lzf"),
            ))),
        }
    }
}

fn unshuffle(bytes: &[u8], width: usize) -> Vec<u8> {
    let n = bytes.len() / width;
    let mut out = bytes.to_vec(); // what is behind the last whole value stays
    for (i, value) in out.chunks_exact_mut(width).enumerate() {
        for (j, byte) in value.iter_mut().enumerate() {
            *byte = bytes[j * n + i];
        }
    }
    out
}

/// Takes the Fletcher-32 off the end of `bytes`.
fn checked(mut bytes: Vec<u8>) -> Result<Vec<u8>> {
    let stored = bytes.split_last_chunk::<4>().map(|(_, stored)| u32::from_le_bytes(*stored));
    let stored = stored.ok_or_else(|| fault("a chunk is shorter than its checksum"))?;
    bytes.truncate(bytes.len() - 4);
    match fletcher32(&bytes) {
        got if got == stored => Ok(bytes),
        got => Err(fault(format!("a chunk's checksum is {got:08x}, {stored:08x} is stored"))),
    }
}

/// Fletcher's checksum as HDF5 has it: over big-endian words, sums folded and never reduced to 0.
fn fletcher32(bytes: &[u8]) -> u32 {
    let fold = |sum: u32| (sum & 0xffff) + (sum >> 16);
    let (mut a, mut b) = (0u32, 0u32);
    // 360 words can't overflow the sums.
    for block in bytes.chunks(720) {
        for word in block.chunks(2) {
            a += u32::from(word[0]) << 8 | word.get(1).map_or(0, |&low| u32::from(low));
            b += a;
        }
        (a, b) = (fold(a), fold(b));
    }
    (a, b) = (fold(a), fold(b));
    b << 16 | a
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
        // Each chunk takes an entry of an index, or a byte at the least.
        let n_chunks = count(&new.grid()).filter(|&n| n <= file.len());
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
