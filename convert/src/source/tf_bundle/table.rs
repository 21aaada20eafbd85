//! LevelDB's sorted table, as TensorFlow writes it: blocks of prefix-compressed entries, each with a
//! CRC-32C, an index of them, and a footer.
//!
//! Format: `doc/table_format.md` in google/leveldb; TensorFlow's copy is `tsl/lib/io/table.cc`.

use super::{
    super::checksum::{crc32c, mask},
    fault,
};
use crate::wire::varint;
use pith::{Error, Result};
use std::{borrow::Cow, ops::Range};

/// The last eight bytes, little-endian.
const MAGIC: [u8; 8] = 0xdb47_7524_8b80_fb57_u64.to_le_bytes();
/// Two handles, padded, and the magic.
const FOOTER_LEN: usize = 48;
/// A block's type and its masked CRC-32C follow it.
const TRAILER_LEN: usize = 5;
/// Names are short; a long key that many entries share would grow a file a thousandfold.
const MAX_KEY: usize = 1024;
/// Bytes of all keys together.
const MAX_KEYS: usize = 64 << 20;
/// Snappy writes 64 bytes for three of its own at best, so that no sound block grows more.
const MAX_GROWTH: usize = 22;

/// Whether `file` ends as a table does.
pub(crate) fn is_table(file: &[u8]) -> bool {
    file.len() >= FOOTER_LEN && file.ends_with(&MAGIC)
}

/// All entries of the table `file`, in order of their keys, which ascend.
pub(super) fn entries(file: &[u8], mut each: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
    if !is_table(file) {
        return Err(fault("it doesn't end with a table's magic number"));
    }
    let footer = &file[file.len() - FOOTER_LEN..];
    let body = &file[..file.len() - FOOTER_LEN];
    let (_, rest) = handle(footer, body.len())?;
    let (index, _) = handle(rest, body.len())?;
    // Blocks lie in order and apart, so that all of them are at most the file.
    let (mut end, mut last, mut total) = (0, Vec::<u8>::new(), 0);
    let first_of_index = index.start;
    block_entries(&block(body, index)?, |_, value| {
        let (place, rest) = handle(value, first_of_index)?;
        if place.start < end || !rest.is_empty() {
            return Err(fault("its index names blocks that overlap"));
        }
        end = place.end + TRAILER_LEN;
        block_entries(&block(body, place)?, |key, value| {
            if total > 0 && key <= last.as_slice() {
                return Err(fault(format!("key `{}` is out of order", key.escape_ascii())));
            }
            total += key.len() + 1;
            if total > MAX_KEYS {
                return Err(fault(format!("its keys take more than {MAX_KEYS} bytes")));
            }
            last.clear();
            last.extend(key);
            each(key, value)
        })
    })
}

/// Reads a block's place, which with its trailer must end before `limit`.
fn handle(bytes: &[u8], limit: usize) -> Result<(Range<usize>, &[u8])> {
    let read = || {
        let (at, rest) = varint(bytes)?;
        let (len, rest) = varint(rest)?;
        let (at, len) = (usize::try_from(at).ok()?, usize::try_from(len).ok()?);
        let end = at.checked_add(len)?;
        end.checked_add(TRAILER_LEN).filter(|&end| end <= limit)?;
        Some((at..end, rest))
    };
    read().ok_or_else(|| fault("a block lies outside the file; is it truncated?"))
}

/// The block at `place`, checked and unpacked.
fn block(body: &[u8], place: Range<usize>) -> Result<Cow<'_, [u8]>> {
    let (at, end) = (place.start, place.end);
    let stored = &body[place];
    let (kind, crc) = (body[end], &body[end + 1..end + TRAILER_LEN]);
    if mask(crc32c(&[stored, &[kind]])).to_le_bytes() != crc {
        return Err(Error::malformed_at(
            "TensorFlow checkpoint",
            at as u64,
            "a block of its index has another CRC-32C than it says",
        ));
    }
    match kind {
        0 => Ok(Cow::Borrowed(stored)),
        1 => unpack(stored).map(Cow::Owned),
        kind => Err(Error::Unsupported(format!(
            "a block of the TensorFlow index has the compression {kind}; none (0) and snappy (1) \
             are known"
        ))),
    }
}

fn unpack(stored: &[u8]) -> Result<Vec<u8>> {
    let wrong = |error: snap::Error| fault(format!("a snappy block: {error}"));
    let len = snap::raw::decompress_len(stored).map_err(wrong)?;
    if len > stored.len().saturating_mul(MAX_GROWTH) {
        return Err(fault(format!(
            "a snappy block of {} bytes claims to hold {len}",
            stored.len()
        )));
    }
    snap::raw::Decoder::new().decompress_vec(stored).map_err(wrong)
}

/// The entries of one block: how much of the key before is kept, the lengths of key and value, and
/// these. Behind them are restart points, for searching, and their count.
fn block_entries(block: &[u8], mut each: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
    let cut_short = || fault("a block is cut short");
    let (rest, count) = block.split_last_chunk::<4>().ok_or_else(cut_short)?;
    let restarts = (u32::from_le_bytes(*count) as usize).checked_mul(4);
    let end = restarts.and_then(|n| rest.len().checked_sub(n)).ok_or_else(cut_short)?;
    let mut rest = &rest[..end];
    let mut key = Vec::new();
    while !rest.is_empty() {
        let mut length = || {
            let (value, behind) = varint(rest)?;
            rest = behind;
            usize::try_from(value).ok()
        };
        let (shared, own, value) = (length(), length(), length());
        let lengths = shared.zip(own).zip(value).filter(|&((shared, own), value)| {
            shared <= key.len() && own.checked_add(value).is_some_and(|n| n <= rest.len())
        });
        let ((shared, own), value) = lengths.ok_or_else(cut_short)?;
        if shared + own > MAX_KEY {
            return Err(fault(format!(
                "a key has {} bytes, at most {MAX_KEY} are read",
                shared + own
            )));
        }
        let (entry, behind) = rest.split_at(own + value);
        rest = behind;
        key.truncate(shared);
        key.extend(&entry[..own]);
        each(&key, &entry[own..])?;
    }
    Ok(())
}
