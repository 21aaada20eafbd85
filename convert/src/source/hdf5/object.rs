//! Object headers: the messages that say what an object is.

use super::{
    fault,
    file::{Cursor, File},
};
use pith::{Error, Result};

/// Kinds of messages that are read.
pub(super) mod kind {
    pub const DATASPACE: u16 = 0x01;
    pub const LINK_INFO: u16 = 0x02;
    pub const DATATYPE: u16 = 0x03;
    pub const LINK: u16 = 0x06;
    pub const EXTERNAL: u16 = 0x07;
    pub const LAYOUT: u16 = 0x08;
    pub const FILTERS: u16 = 0x0b;
    pub const CONTINUATION: u16 = 0x10;
    pub const SYMBOL_TABLE: u16 = 0x11;
    /// The last kind that the format knows.
    pub const LAST: u16 = 0x18;
}

/// The message is a pointer to one that other objects share.
const SHARED: u8 = 1 << 1;

/// One message of an object.
pub(super) struct Message<'a> {
    pub kind: u16,
    flags: u8,
    body: Cursor<'a>,
}

impl<'a> Message<'a> {
    pub fn body(&self) -> Result<Cursor<'a>> {
        if self.flags & SHARED != 0 {
            return Err(Error::Unsupported("a type or size that objects share isn't read".into()));
        }
        Ok(self.body.clone())
    }
}

/// The first message of a kind.
pub(super) fn find<'a>(messages: &[Message<'a>], kind: u16) -> Result<Option<Cursor<'a>>> {
    messages.iter().find(|message| message.kind == kind).map(Message::body).transpose()
}

/// The messages of the object at `address`, those of its continuations behind its own.
pub(super) fn messages<'a>(file: &File<'a>, address: u64) -> Result<Vec<Message<'a>>> {
    let mut head = file.span(address, 16)?;
    let (blocks, header) = match head.clone().take(4)? {
        b"OHDR" => new_header(file, address, head)?,
        _ => {
            head.version(1, "an object")?;
            head.skip(7)?; // count of messages, references
            let size = head.size(4)?;
            (file.span(address.saturating_add(16), size)?, Header::Old)
        }
    };
    let mut messages = Vec::new();
    let mut blocks = vec![blocks];
    while let Some(mut block) = blocks.pop() {
        while block.left() >= header.len() {
            let message = header.message(&mut block)?;
            if message.kind > kind::LAST {
                return Err(Error::Unsupported(format!("a message of kind {:#x}", message.kind)));
            }
            if message.kind != kind::CONTINUATION {
                messages.push(message);
                continue;
            }
            let mut body = message.body()?;
            let (at, len) = (body.u64()?, body.size(8)?);
            blocks.push(match header {
                Header::Old => file.span(at, len)?,
                Header::New { .. } => {
                    let mut block = file.checked(at, len)?;
                    block.signature(b"OCHK")?;
                    block
                }
            });
        }
    }
    Ok(messages)
}

/// How messages begin.
#[derive(Clone, Copy)]
enum Header {
    Old,
    New { ordered: bool },
}

impl Header {
    fn len(self) -> usize {
        match self {
            Header::Old => 8,
            Header::New { ordered: false } => 4,
            Header::New { ordered: true } => 6,
        }
    }

    fn message<'a>(self, block: &mut Cursor<'a>) -> Result<Message<'a>> {
        let kind = block.uint(if matches!(self, Header::Old) { 2 } else { 1 })? as u16;
        let (len, flags) = (block.size(2)?, block.u8()?);
        match self {
            Header::Old => block.skip(3)?,
            Header::New { ordered } => block.skip(if ordered { 2 } else { 0 })?,
        }
        Ok(Message { kind, flags, body: block.split(len)? })
    }
}

/// The first block of a header of version 2, which has a checksum.
fn new_header<'a>(
    file: &File<'a>,
    address: u64,
    mut head: Cursor<'a>,
) -> Result<(Cursor<'a>, Header)> {
    head.skip(4)?;
    head.version(2, "an object")?;
    let flags = head.u8()?;
    let times = if flags & 1 << 5 != 0 { 16 } else { 0 };
    let limits = if flags & 1 << 4 != 0 { 4 } else { 0 };
    let width = 1 << (flags & 3);
    let prefix = 6 + times + limits + width;
    let mut head = file.span(address, prefix)?;
    head.skip(prefix - width)?;
    let size = head.size(width)?.checked_add(prefix + 4);
    let size = size.ok_or_else(|| fault("an object without end"))?;
    let mut block = file.checked(address, size)?;
    block.skip(prefix)?;
    Ok((block, Header::New { ordered: flags & 1 << 2 != 0 }))
}
