//! The filters of a dataset: what was done to each chunk when it was written, undone.

use super::{fault, file::Cursor};
use miniz_oxide::inflate;
use pith::{Error, Result};

/// More filters than any dataset has.
const MAX_FILTERS: usize = 8;

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
    pub fn undo(&self, stored: &[u8], mask: u32, wanted: usize) -> Result<Vec<u8>> {
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

#[cfg(test)]
mod tests {
    use super::{fletcher32, unshuffle};

    /// The largest sums: each word is 0 modulo 65535, and is never reduced to it.
    #[test]
    fn sums_do_not_overflow() {
        assert_eq!(fletcher32(&[255; 7201]), 0xff00_ff00);
        assert_eq!(fletcher32(&[255; 7200]), u32::MAX);
        assert_eq!(fletcher32(&[0; 9]), 0);
    }

    #[test]
    fn bytes_behind_the_last_value_stay() {
        assert_eq!(unshuffle(&[1, 2, 11, 12, 9], 2), [1, 11, 2, 12, 9]);
        assert_eq!(unshuffle(&[1, 2], 3), [1, 2]);
    }
}
