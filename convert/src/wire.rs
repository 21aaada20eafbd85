//! protobuf's wire format, as far as checkpoints and SentencePiece models use it: a message is read
//! field by field, in place, and nothing is built from it here.
//!
//! Format: <https://protobuf.dev/programming-guides/encoding/>.

use pith::{Error, Result};

/// A field's value. Groups, which nobody has written for twenty years, are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field<'a> {
    /// An integer, flag or enum.
    Varint(u64),
    /// 64 bits.
    Fixed64(u64),
    /// 32 bits.
    Fixed32(u32),
    /// A string, bytes or a message.
    Bytes(&'a [u8]),
}

/// The fields of one message, in order, with their numbers.
pub(crate) struct Message<'a> {
    rest: &'a [u8],
    /// What the message is, for errors.
    what: &'static str,
}

impl<'a> Message<'a> {
    /// The message that is all of `bytes`.
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Message<'a> {
        Message { rest: bytes, what }
    }

    fn fault(&self, fault: &str) -> Error {
        Error::malformed("protobuf", format!("{}: {fault}", self.what))
    }

    /// The next field; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Field<'a>)>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).ok().filter(|&n| n != 0 && n < 1 << 29);
        let number = number.ok_or_else(|| self.fault("a field has no valid number"))?;
        let field = match key & 7 {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let len = self.varint()?;
                let len = usize::try_from(len).ok().filter(|&len| len <= self.rest.len());
                let len = len.ok_or_else(|| self.fault(&format!("field {number} is cut short")))?;
                let (bytes, rest) = self.rest.split_at(len);
                self.rest = rest;
                Field::Bytes(bytes)
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.array()?)),
            kind => {
                return Err(self.fault(&format!("field {number} has the wire type {kind}")));
            }
        };
        Ok(Some((number, field)))
    }

    fn varint(&mut self) -> Result<u64> {
        let (value, rest) =
            varint(self.rest).ok_or_else(|| self.fault("a number is cut short or too long"))?;
        self.rest = rest;
        Ok(value)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (array, rest) =
            self.rest.split_first_chunk().ok_or_else(|| self.fault("it is cut short"))?;
        self.rest = rest;
        Ok(*array)
    }
}

/// The number at the start of `bytes`, seven bits a byte, lowest first, and what follows it. `None`
/// where it is cut short or has more than 64 bits.
pub(crate) fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (i, &byte) in bytes.iter().enumerate().take(10) {
        if i == 9 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return Some((value, &bytes[i + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_at_most_64_bits() {
        assert_eq!(varint(&[0x96, 1, 7]), Some((150, &[7][..])));
        let most = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(varint(&most), Some((u64::MAX, &[][..])));
        assert_eq!(varint(&[0xff; 9]), None);
        assert_eq!(varint(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]), None);
        assert_eq!(varint(&[0x80; 20]), None);
    }

    #[test]
    fn fields_are_read_and_damage_is_named() {
        let bytes =
            [0x08, 0x96, 1, 0x15, 1, 0, 0, 0, 0x1a, 2, b'a', b'b', 0x21, 1, 0, 0, 0, 0, 0, 0, 0];
        let mut message = Message::new(&bytes, "test");
        assert_eq!(message.next().unwrap(), Some((1, Field::Varint(150))));
        assert_eq!(message.next().unwrap(), Some((2, Field::Fixed32(1))));
        assert_eq!(message.next().unwrap(), Some((3, Field::Bytes(b"ab"))));
        assert_eq!(message.next().unwrap(), Some((4, Field::Fixed64(1))));
        assert_eq!(message.next().unwrap(), None);
        for (bytes, wanted) in [
            (&[0x1a, 3, b'a'][..], "field 3 is cut short"),
            (
                &[0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
                "field 3 is cut short",
            ),
            (&[0x15, 1], "cut short"),
            (&[0x0b], "wire type 3"),
            (&[0], "no valid number"),
            (&[0x80], "cut short"),
        ] {
            let error = Message::new(bytes, "test").next().unwrap_err().to_string();
            assert!(error.contains(wanted) && error.contains("test"), "{error}");
        }
    }
}
