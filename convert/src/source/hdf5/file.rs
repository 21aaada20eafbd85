//! Bounded reading: the superblock, spans of the file, a cursor in them, checksums.

use super::fault;
use pith::{Error, Result};
use std::{cell::Cell, ops::Range};

/// Bytes of structure that are read at most, as a multiple of the file's length: in a sound file
/// each is read once or twice.
const BUDGET: usize = 4;
/// The longest name that is looked for.
const MAX_NAME: usize = 1024;
/// "No address".
const UNDEFINED: u64 = u64::MAX;

/// A file whose structure is being read.
pub(super) struct File<'a> {
    bytes: &'a [u8],
    /// Bytes of structure that may still be read.
    left: Cell<usize>,
}

impl<'a> File<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        File { bytes, left: Cell::new(bytes.len().saturating_mul(BUDGET)) }
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// A cursor over the `len` bytes at `at`.
    pub fn span(&self, at: u64, len: usize) -> Result<Cursor<'a>> {
        let Range { start: at, end } = self.data(at, len)?;
        let left = self.left.get().checked_sub(len.max(1));
        self.left.set(left.ok_or_else(|| fault("its structure is read over and over: a loop"))?);
        Ok(Cursor { file: self.bytes, at, end })
    }

    /// The same, whose last four bytes are the checksum of the others: the cursor ends before them.
    pub fn checked(&self, at: u64, len: usize) -> Result<Cursor<'a>> {
        let mut cursor = self.span(at, len)?;
        let bytes = &self.bytes[cursor.at..cursor.end];
        let Some((body, stored)) = bytes.split_last_chunk::<4>() else {
            return Err(fault("a structure is shorter than its checksum"));
        };
        let (got, wanted) = (lookup3(body), u32::from_le_bytes(*stored));
        if got != wanted {
            return Err(Error::malformed_at(
                "HDF5",
                at,
                format!("a checksum is {got:08x}, {wanted:08x} is stored"),
            ));
        }
        cursor.end -= 4;
        Ok(cursor)
    }

    /// The place of `len` bytes of values at `at`.
    pub fn data(&self, at: u64, len: usize) -> Result<Range<usize>> {
        let start = usize::try_from(at).ok();
        let end = start.and_then(|start| start.checked_add(len));
        match (start, end) {
            (Some(start), Some(end)) if end <= self.bytes.len() => Ok(start..end),
            _ => Err(fault(format!(
                "{len} bytes at {at} wanted, in a file of {} bytes",
                self.bytes.len()
            ))),
        }
    }

    /// The bytes from `at` on before the first 0, which must be among the next `max`.
    pub fn until_zero(&self, at: u64, max: usize) -> Result<&'a [u8]> {
        let rest = usize::try_from(at).ok().and_then(|at| self.bytes.get(at..)).unwrap_or_default();
        let n = rest.iter().take(max.min(MAX_NAME)).position(|&byte| byte == 0);
        self.span(at, n.ok_or_else(|| fault("a name has no end"))?)?.rest()
    }

    /// The address of the root group.
    pub fn root(&self) -> Result<u64> {
        let mut head = self.span(0, 9)?;
        head.signature(b"\x89HDF\r\n\x1a\n")?;
        let version = head.u8()?;
        let mut cursor = match version {
            0 | 1 => self.span(9, 87 + 4 * usize::from(version))?,
            2 | 3 => {
                self.checked(0, 48)?;
                self.span(9, 35)?
            }
            _ => {
                return Err(Error::Unsupported(format!(
                    "HDF5 with a superblock of version {version}"
                )));
            }
        };
        if version < 2 {
            cursor.skip(4)?; // versions, all 0
        }
        let sizes = (cursor.u8()?, cursor.u8()?);
        if sizes != (8, 8) {
            return Err(Error::Unsupported(format!(
                "HDF5 with addresses of {} and lengths of {} bytes; 8 are read",
                sizes.0, sizes.1
            )));
        }
        // Flags; before version 2 also widths of B-trees, which their nodes say themselves.
        cursor.skip(if version < 2 { 9 + 4 * usize::from(version) } else { 1 })?;
        let base = cursor.u64()?;
        cursor.skip(8)?; // free space, or the superblock's extension
        let end = cursor.u64()?;
        if base != 0 {
            return Err(Error::Unsupported(format!("HDF5 with a block of {base} bytes before it")));
        }
        if end > self.bytes.len() as u64 {
            return Err(fault(format!(
                "it is cut off: {} bytes of {end} are there",
                self.bytes.len()
            )));
        }
        if version < 2 {
            cursor.skip(16)?; // driver, name of the root
        }
        cursor.u64()
    }
}

/// A little-endian cursor over a span of the file.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    file: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Cursor<'a> {
    /// Where in the file it is.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Bytes that are left.
    pub fn left(&self) -> usize {
        self.end - self.at
    }

    pub fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        if n > self.left() {
            let what = format!("{n} bytes wanted, {} are left", self.left());
            return Err(Error::malformed_at("HDF5", self.at as u64, what));
        }
        let bytes = &self.file[self.at..self.at + n];
        self.at += n;
        Ok(bytes)
    }

    /// All that is left.
    pub fn rest(&mut self) -> Result<&'a [u8]> {
        self.take(self.left())
    }

    /// A cursor over the next `n` bytes.
    pub fn split(&mut self, n: usize) -> Result<Cursor<'a>> {
        let at = self.at;
        self.take(n)?;
        Ok(Cursor { file: self.file, at, end: self.at })
    }

    pub fn skip(&mut self, n: usize) -> Result<()> {
        self.take(n).map(|_| ())
    }

    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    pub fn u16(&mut self) -> Result<u16> {
        Ok(self.uint(2)? as u16)
    }

    pub fn u32(&mut self) -> Result<u32> {
        Ok(self.uint(4)? as u32)
    }

    pub fn u64(&mut self) -> Result<u64> {
        self.uint(8)
    }

    /// An unsigned number of at most eight bytes.
    pub fn uint(&mut self, n: usize) -> Result<u64> {
        let mut bytes = [0; 8];
        match bytes.get_mut(..n) {
            Some(low) => low.copy_from_slice(self.take(n)?),
            None => return Err(fault(format!("a number of {n} bytes"))),
        }
        Ok(u64::from_le_bytes(bytes))
    }

    /// A number that counts or measures something in memory.
    pub fn size(&mut self, n: usize) -> Result<usize> {
        let value = self.uint(n)?;
        usize::try_from(value).map_err(|_| fault(format!("a size of {value}")))
    }

    /// An address, if it is defined.
    pub fn address(&mut self) -> Result<Option<u64>> {
        Ok(Some(self.u64()?).filter(|&address| address != UNDEFINED))
    }

    pub fn signature(&mut self, wanted: &[u8]) -> Result<()> {
        let at = self.at;
        let got = self.take(wanted.len())?;
        if got != wanted {
            let (got, wanted) = (got.escape_ascii(), wanted.escape_ascii());
            let what = format!("`{wanted}` wanted here, `{got}` found");
            return Err(Error::malformed_at("HDF5", at as u64, what));
        }
        Ok(())
    }

    /// A version that must be this one.
    pub fn version(&mut self, wanted: u8, what: &str) -> Result<()> {
        match self.u8()? {
            got if got == wanted => Ok(()),
            got => Err(Error::Unsupported(format!("{what} of version {got}; {wanted} is read"))),
        }
    }
}

/// Jenkins' lookup3 with a start of 0, HDF5's checksum of structures.
fn lookup3(bytes: &[u8]) -> u32 {
    let start = 0xdead_beef_u32.wrapping_add(bytes.len() as u32);
    let [mut a, mut b, mut c] = [start; 3];
    // The last block of up to twelve bytes is mixed otherwise.
    let n_whole = bytes.len().saturating_sub(1) / 12 * 12;
    let (whole, last) = bytes.split_at(n_whole);
    let add = |block: &[u8], state: [u32; 3]| {
        let mut padded = [0; 12];
        padded[..block.len()].copy_from_slice(block);
        let word = |i: usize| u32::from_le_bytes([0, 1, 2, 3].map(|j| padded[4 * i + j]));
        [0, 1, 2].map(|i| state[i].wrapping_add(word(i)))
    };
    for block in whole.chunks_exact(12) {
        [a, b, c] = add(block, [a, b, c]);
        for (turn_a, turn_b, turn_c) in [(4, 6, 8), (16, 19, 4)] {
            a = a.wrapping_sub(c) ^ c.rotate_left(turn_a);
            c = c.wrapping_add(b);
            b = b.wrapping_sub(a) ^ a.rotate_left(turn_b);
            a = a.wrapping_add(c);
            c = c.wrapping_sub(b) ^ b.rotate_left(turn_c);
            b = b.wrapping_add(a);
        }
    }
    if last.is_empty() {
        return c;
    }
    [a, b, c] = add(last, [a, b, c]);
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

#[cfg(test)]
mod tests {
    use super::lookup3;

    /// Values of lookup3.c's own driver (Jenkins 2006), with a start of 0.
    #[test]
    fn lookup3_is_jenkins() {
        assert_eq!(lookup3(b""), 0xdead_beef);
        assert_eq!(lookup3(b"Four score and seven years ago"), 0x1777_0551);
    }
}
