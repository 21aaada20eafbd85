//! The zip container of `torch.save`: stored entries, found through the central directory only.
//!
//! Nothing is extracted and no name becomes a path: an entry is a name and a range of the file.
//! PyTorch always stores (never deflates), always writes the zip64 records, and leaves CRC and sizes
//! of a local header zero with a data descriptor behind the data (flag bit 3). What differs from
//! that is refused; what scanners were fooled with (a local header that disagrees with the central
//! one, overlapping or duplicate entries, a comment that hides a second directory) is too.

use super::Checksum;
use pith::{Error, Result};
use std::{collections::HashSet, ops::Range};

/// A stored entry of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Name as the central directory has it.
    pub name: &'a str,
    /// Where its bytes lie in the file.
    pub data: Range<usize>,
    /// CRC-32 of these bytes, as declared; [`Entry::bytes`] checks it.
    pub crc: u32,
}

impl<'a> Entry<'a> {
    /// The entry's bytes in `file`, after checking their CRC-32.
    ///
    /// # Errors
    /// [`Error::Malformed`] where the CRC differs.
    pub fn bytes(&self, file: &'a [u8]) -> Result<&'a [u8]> {
        let bytes = &file[self.data.clone()];
        Checksum::Crc32(self.crc).check(bytes, self.name, self.data.start)?;
        Ok(bytes)
    }
}

const END: u32 = 0x0605_4b50;
const END_LEN: usize = 22;
const LOCATOR: u32 = 0x0706_4b50;
const LOCATOR_LEN: usize = 20;
const END64: u32 = 0x0606_4b50;
const END64_LEN: usize = 56;
const CENTRAL: u32 = 0x0201_4b50;
const CENTRAL_LEN: usize = 46;
const LOCAL: u32 = 0x0403_4b50;
const DESCRIPTOR: u32 = 0x0807_4b50;
/// The only flags that PyTorch sets: data descriptor, UTF-8 names.
const FLAG_DESCRIPTOR: u16 = 1 << 3;
const FLAG_UTF8: u16 = 1 << 11;

fn fault(at: usize, what: impl Into<String>) -> Error {
    Error::malformed_at("zip", at as u64, what)
}

/// A little-endian cursor over the file.
struct Cursor<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.file.len());
        let Some(end) = end else {
            let left = self.file.len().saturating_sub(self.at);
            return Err(fault(self.at, format!("{n} bytes wanted, {left} are left")));
        };
        let bytes = &self.file[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn signature(&mut self, wanted: u32, what: &str) -> Result<()> {
        let at = self.at;
        match self.u32()? {
            got if got == wanted => Ok(()),
            got => Err(fault(at, format!("no {what} here: signature {got:#010x}"))),
        }
    }
}

fn to_usize(value: u64, at: usize, what: &str) -> Result<usize> {
    usize::try_from(value).map_err(|_| fault(at, format!("{what} of {value} is too large")))
}

/// Where the central directory lies and how many entries it has.
struct Directory {
    span: Range<usize>,
    count: usize,
}

/// Lists the entries of the archive `file`.
///
/// # Errors
/// [`Error::Malformed`], naming the entry and what is wrong; [`Error::Unsupported`] for compressed
/// or encrypted entries.
pub fn entries(file: &[u8]) -> Result<Vec<Entry<'_>>> {
    let directory = find_directory(file)?;
    // Each entry takes at least its fixed part, so the count is bounded before anything is kept.
    if directory.count > directory.span.len() / CENTRAL_LEN {
        return Err(fault(
            directory.span.start,
            format!("{} entries in {} bytes", directory.count, directory.span.len()),
        ));
    }
    let mut cursor = Cursor { file: &file[..directory.span.end], at: directory.span.start };
    let mut entries = Vec::with_capacity(directory.count);
    let mut spans = Vec::with_capacity(directory.count);
    let mut names = HashSet::with_capacity(directory.count);
    for _ in 0..directory.count {
        let central = read_central(&mut cursor)?;
        if !names.insert(central.name) {
            return Err(fault(cursor.at, format!("entry `{}` is listed twice", central.name)));
        }
        let (entry, span) = read_local(&file[..directory.span.start], &central)?;
        entries.push(entry);
        spans.push(span);
    }
    if cursor.at != directory.span.end {
        return Err(fault(cursor.at, "the directory is longer than its entries"));
    }
    spans.sort_by_key(|span| span.start);
    if let Some(pair) = spans.windows(2).find(|pair| pair[0].end > pair[1].start) {
        return Err(fault(pair[1].start, "two entries overlap"));
    }
    Ok(entries)
}

/// The end records: `END` closes the file (no comment), behind `END64` and its locator if present.
fn find_directory(file: &[u8]) -> Result<Directory> {
    let end_at = file.len().checked_sub(END_LEN);
    let end_at = end_at.ok_or_else(|| fault(0, "shorter than the end record of an archive"))?;
    let mut end = Cursor { file, at: end_at };
    end.signature(END, "end record without a comment")?;
    let (disk, start_disk) = (end.u16()?, end.u16()?);
    let (on_disk, count) = (end.u16()?, end.u16()?);
    let (size, offset) = (end.u32()?, end.u32()?);
    let comment = end.u16()?;
    if disk != 0 || start_disk != 0 || on_disk != count || comment != 0 {
        return Err(fault(end_at, "an archive of several parts, or with a comment"));
    }
    let locator_at = end_at.checked_sub(LOCATOR_LEN);
    let is_zip64 = locator_at.is_some_and(|at| file[at..].starts_with(&LOCATOR.to_le_bytes()));
    let (close, count, size, offset) = match locator_at.filter(|_| is_zip64) {
        None => (end_at, count.into(), size.into(), offset.into()),
        Some(locator_at) => {
            let (at, count64, size64, offset64) = read_end64(file, locator_at)?;
            let agrees = |short: u64, all_ones: u64, long| short == long || short == all_ones;
            if !agrees(count.into(), 0xffff, count64)
                || !agrees(size.into(), 0xffff_ffff, size64)
                || !agrees(offset.into(), 0xffff_ffff, offset64)
            {
                return Err(fault(end_at, "the end record and its zip64 form disagree"));
            }
            (at, count64, size64, offset64)
        }
    };
    let start = to_usize(offset, end_at, "directory offset")?;
    let len = to_usize(size, end_at, "directory size")?;
    if start.checked_add(len) != Some(close) {
        return Err(fault(
            end_at,
            format!("a directory of {len} bytes at {start} doesn't end at its end record, {close}"),
        ));
    }
    Ok(Directory { span: start..close, count: to_usize(count, end_at, "entry count")? })
}

/// The zip64 end record: its offset, entry count, directory size and directory offset.
fn read_end64(file: &[u8], locator_at: usize) -> Result<(usize, u64, u64, u64)> {
    let mut locator = Cursor { file, at: locator_at };
    locator.signature(LOCATOR, "zip64 locator")?;
    let disk = locator.u32()?;
    let at = locator.u64()?;
    let disks = locator.u32()?;
    let at = to_usize(at, locator_at, "zip64 record offset")?;
    if disk != 0 || disks != 1 || at.checked_add(END64_LEN) != Some(locator_at) {
        return Err(fault(locator_at, "the zip64 locator doesn't point at the record before it"));
    }
    let mut record = Cursor { file, at };
    record.signature(END64, "zip64 end record")?;
    let size = record.u64()?;
    let _versions = record.u32()?;
    let (disk, start_disk) = (record.u32()?, record.u32()?);
    let (on_disk, count) = (record.u64()?, record.u64()?);
    let (dir_size, dir_offset) = (record.u64()?, record.u64()?);
    if size != END64_LEN as u64 - 12 || disk != 0 || start_disk != 0 || on_disk != count {
        return Err(fault(at, "an inconsistent zip64 end record"));
    }
    Ok((at, count, dir_size, dir_offset))
}

/// What the central directory says about one entry.
struct Central<'a> {
    name: &'a str,
    flags: u16,
    crc: u32,
    size: usize,
    local_at: usize,
}

fn read_central<'a>(cursor: &mut Cursor<'a>) -> Result<Central<'a>> {
    let at = cursor.at;
    cursor.signature(CENTRAL, "directory entry")?;
    let _made_by = cursor.u16()?;
    let _needs = cursor.u16()?;
    let (flags, method) = (cursor.u16()?, cursor.u16()?);
    let _time = cursor.u32()?;
    let crc = cursor.u32()?;
    let (packed, size) = (cursor.u32()?, cursor.u32()?);
    let (name_len, extra_len, comment_len) = (cursor.u16()?, cursor.u16()?, cursor.u16()?);
    let disk = cursor.u16()?;
    let _attributes = cursor.take(6)?;
    let local_at = cursor.u32()?;
    let name = cursor.take(name_len.into())?;
    let name = std::str::from_utf8(name)
        .map_err(|_| fault(at, "an entry's name isn't UTF-8"))
        .and_then(|name| match name {
            "" => Err(fault(at, "an entry without a name")),
            name => Ok(name),
        })?;
    if flags & !(FLAG_DESCRIPTOR | FLAG_UTF8) != 0 {
        return Err(Error::Unsupported(format!(
            "zip entry `{name}` is encrypted or uses flags {flags:#06x}, which torch.save never sets"
        )));
    }
    if method != 0 {
        return Err(Error::Unsupported(format!(
            "zip entry `{name}` is compressed (method {method}); torch.save stores: save it again"
        )));
    }
    let extra = cursor.take(extra_len.into())?;
    cursor.take(comment_len.into())?;
    if disk != 0 {
        return Err(fault(at, format!("entry `{name}` lies on another disk")));
    }
    let mut wide = Cursor { file: zip64_extra(extra, at)?, at: 0 };
    let mut widen = |value: u32| match value {
        0xffff_ffff => wide.u64(),
        value => Ok(value.into()),
    };
    // The order of the extra field is fixed: size, packed size, offset.
    let (size, packed, local_at) = (widen(size)?, widen(packed)?, widen(local_at)?);
    if size != packed {
        return Err(fault(at, format!("entry `{name}` stores {size} bytes in {packed}")));
    }
    Ok(Central {
        name,
        flags,
        crc,
        size: to_usize(size, at, "entry size")?,
        local_at: to_usize(local_at, at, "entry offset")?,
    })
}

/// The body of the zip64 extra field, empty if there is none.
fn zip64_extra(extra: &[u8], at: usize) -> Result<&[u8]> {
    let mut cursor = Cursor { file: extra, at: 0 };
    while cursor.at < extra.len() {
        let inside = |_| fault(at, "an entry's extra field is cut short");
        let id = cursor.u16().map_err(inside)?;
        let len = cursor.u16().map_err(inside)?;
        let body = cursor.take(len.into()).map_err(inside)?;
        if id == 1 {
            return Ok(body);
        }
    }
    Ok(&[])
}

/// Checks the local header of an entry; `body` is the file before the directory. Gives the entry
/// and the span that it fills with header and descriptor.
fn read_local<'a>(body: &'a [u8], central: &Central<'a>) -> Result<(Entry<'a>, Range<usize>)> {
    let (name, at) = (central.name, central.local_at);
    let mut local = Cursor { file: body, at };
    local.signature(LOCAL, &format!("local header of entry `{name}`"))?;
    let _needs = local.u16()?;
    let (flags, method) = (local.u16()?, local.u16()?);
    let _time = local.u32()?;
    let crc = local.u32()?;
    let (packed, size) = (local.u32()?, local.u32()?);
    let (name_len, extra_len) = (local.u16()?, local.u16()?);
    let same_name = local.take(name_len.into())? == name.as_bytes();
    local.take(extra_len.into())?;
    let start = local.at;
    local.take(central.size)?;
    let described = flags & FLAG_DESCRIPTOR != 0;
    let same = |got: u32, wanted: usize| {
        u64::from(got) == wanted as u64 || got == u32::MAX || (described && got == 0)
    };
    if !same_name
        || flags != central.flags
        || method != 0
        || !(crc == central.crc || (described && crc == 0))
        || !same(packed, central.size)
        || !same(size, central.size)
    {
        return Err(fault(at, format!("the two headers of entry `{name}` disagree")));
    }
    let data = start..local.at;
    if described {
        read_descriptor(&mut local, central)?;
    }
    Ok((Entry { name, data, crc: central.crc }, at..local.at))
}

/// The data descriptor repeats CRC and sizes, in 32 or (zip64) 64 bits.
fn read_descriptor(cursor: &mut Cursor<'_>, central: &Central<'_>) -> Result<()> {
    let at = cursor.at;
    cursor.signature(DESCRIPTOR, &format!("data descriptor of entry `{}`", central.name))?;
    let crc = cursor.u32()?;
    let (packed, size) = (cursor.u32()?, cursor.u32()?);
    let wanted = central.size as u64;
    let narrow = u64::from(packed) == wanted && u64::from(size) == wanted;
    if !narrow {
        cursor.at = at + 8;
    }
    if crc != central.crc || !(narrow || (cursor.u64()? == wanted && cursor.u64()? == wanted)) {
        return Err(fault(
            at,
            format!("the data descriptor of entry `{}` disagrees with its header", central.name),
        ));
    }
    Ok(())
}
