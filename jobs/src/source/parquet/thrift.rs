//! What must be known of a file's Thrift structures before the `parquet` crate reads them, for it trusts
//! them further than a stranger's file deserves: how deep the schema is, which the crate descends into by
//! recursion, and how long a page says that it is, which is what the crate allocates.
//!
//! The compact protocol: <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>;
//! the structures: <https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift>.

/// Structures inside structures that are walked over.
const MAX_NESTING: usize = 32;

const TRUE: u8 = 1;
const FALSE: u8 = 2;
const I8: u8 = 3;
const I16: u8 = 4;
const I32: u8 = 5;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
const STRUCT: u8 = 12;

/// What a footer says of the whole file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Footer {
    /// The most groups that a column lies in, the root among them.
    pub depth: usize,
    /// Whether some columns are encrypted.
    pub is_encrypted: bool,
}

/// What a page says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    /// 0: data, 2: dictionary, 3: data of version 2.
    pub kind: i64,
    /// Bytes that it decompresses to.
    pub plain_bytes: i64,
    /// Bytes in the file.
    pub bytes: i64,
}

/// Walks over a `FileMetaData`; `None` where it isn't one.
pub(super) fn footer(bytes: &[u8]) -> Option<Footer> {
    const SCHEMA: i64 = 2;
    const ENCRYPTION_ALGORITHM: i64 = 8;
    let (mut walk, mut footer) = (Walk { bytes }, Footer::default());
    let mut id = 0;
    while let Some(kind) = walk.field(&mut id)? {
        match (id, kind) {
            (SCHEMA, LIST) => footer.depth = walk.schema()?,
            _ => {
                footer.is_encrypted |= id == ENCRYPTION_ALGORITHM;
                walk.skip(kind, 0)?;
            }
        }
    }
    Some(footer)
}

/// Walks over the beginning of a `PageHeader`, whose sizes every writer puts first.
pub(super) fn page(bytes: &[u8]) -> Option<Page> {
    let (mut walk, mut page) = (Walk { bytes }, Page::default());
    let mut id = 0;
    for (wanted, value) in [(1, &mut page.kind), (2, &mut page.plain_bytes), (3, &mut page.bytes)] {
        if walk.field(&mut id)? != Some(I32) || id != wanted {
            return None;
        }
        *value = walk.signed()?;
    }
    Some(page)
}

/// The bytes that are left.
pub(super) struct Walk<'a> {
    pub bytes: &'a [u8],
}

impl<'a> Walk<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: u64) -> Option<&'a [u8]> {
        let (first, rest) = self.bytes.split_at_checked(usize::try_from(n).ok()?)?;
        self.bytes = rest;
        Some(first)
    }

    fn pass(&mut self, n: u64) -> Option<()> {
        self.take(n).map(|_| ())
    }

    /// A number in groups of seven bits, the lowest first.
    pub fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    /// A number whose lowest bit is its sign.
    pub fn signed(&mut self) -> Option<i64> {
        let number = self.number()?;
        Some((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    /// The next field's type, its number in `id`; an inner `None` at the structure's end.
    fn field(&mut self, id: &mut i64) -> Option<Option<u8>> {
        let byte = self.byte()?;
        if byte == 0 {
            return Some(None);
        }
        *id = match byte >> 4 {
            0 => self.signed()?,
            more => id.checked_add(i64::from(more))?,
        };
        Some(Some(byte & 0x0f))
    }

    /// A list's length and its elements' type. An element takes a byte or more, so that a longer list
    /// than there are bytes is none.
    fn list(&mut self) -> Option<(u64, u8)> {
        let byte = self.byte()?;
        let n = match byte >> 4 {
            15 => self.number()?,
            n => u64::from(n),
        };
        (n <= self.bytes.len() as u64).then_some((n, byte & 0x0f))
    }

    fn skip(&mut self, kind: u8, nesting: usize) -> Option<()> {
        if nesting > MAX_NESTING {
            return None;
        }
        match kind {
            TRUE | FALSE => Some(()),
            I8 => self.pass(1),
            I16 | I32 | I64 => self.number().map(|_| ()),
            DOUBLE => self.pass(8),
            BINARY => {
                let n = self.number()?;
                self.pass(n)
            }
            LIST | SET => {
                let (n, kind) = self.list()?;
                (0..n).try_for_each(|_| self.element(kind, nesting))
            }
            MAP => {
                let n = self.number()?;
                let kinds = if n == 0 { 0 } else { self.byte()? };
                (0..n).try_for_each(|_| {
                    self.element(kinds >> 4, nesting)?;
                    self.element(kinds & 0x0f, nesting)
                })
            }
            STRUCT => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    self.skip(kind, nesting + 1)?;
                }
                Some(())
            }
            _ => None,
        }
    }

    /// Skips an element, where a truth value has a byte, which it hasn't as a field.
    fn element(&mut self, kind: u8, nesting: usize) -> Option<()> {
        match kind {
            TRUE | FALSE => self.pass(1),
            _ => self.skip(kind, nesting + 1),
        }
    }

    /// The depth of a list of `SchemaElement`s, which are a tree in depth-first order.
    fn schema(&mut self) -> Option<usize> {
        let (n, kind) = self.list()?;
        let (mut open, mut depth) = (Vec::new(), 0);
        for _ in 0..n {
            let n_children = if kind == STRUCT { self.schema_element()? } else { return None };
            while open.last() == Some(&0) {
                open.pop();
            }
            if let Some(left) = open.last_mut() {
                *left -= 1;
            }
            if n_children > 0 {
                open.push(n_children);
                depth = depth.max(open.len());
            }
        }
        Some(depth)
    }

    /// The number of an element's children.
    fn schema_element(&mut self) -> Option<i64> {
        const NUM_CHILDREN: i64 = 5;
        let (mut id, mut n_children) = (0, 0);
        while let Some(kind) = self.field(&mut id)? {
            match (id, kind) {
                (NUM_CHILDREN, I32) => n_children = self.signed()?.max(0),
                _ => self.skip(kind, 0)?,
            }
        }
        Some(n_children)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_its_sizes() {
        let header = [0x15, 0x06, 0x15, 0x80, 0x01, 0x15, 0x0a, 0x00];
        assert_eq!(page(&header), Some(Page { kind: 3, plain_bytes: 64, bytes: 5 }));
        assert_eq!(page(&header[..6]), None);
        assert_eq!(page(&[0x15, 0x06, 0x25, 0x0a, 0x15, 0x0a]), None, "a field is left out");
    }

    #[test]
    fn a_schema_has_a_depth() {
        // version 1; a root of two groups, of which the second has a group of a column
        let element = |n_children: u8| [0x48, 0x01, b'x', 0x15, 2 * n_children, 0x00];
        let mut bytes = vec![0x15, 0x02, 0x19, 0x6c];
        [2, 1, 0, 1, 1, 0].into_iter().for_each(|n| bytes.extend(element(n)));
        bytes.push(0);
        assert_eq!(footer(&bytes), Some(Footer { depth: 3, is_encrypted: false }));
        for end in 0..bytes.len() {
            assert_eq!(footer(&bytes[..end]), None, "{end}");
        }
        *bytes.last_mut().unwrap() = 0x6c; // an empty structure, six fields on
        bytes.extend([0, 0]);
        assert!(footer(&bytes).unwrap().is_encrypted);
    }

    #[test]
    fn structures_nest_so_deep_and_lists_are_so_long() {
        let mut nested = vec![0x9c]; // field 9
        nested.extend([0x1c; 10_000]);
        assert_eq!(footer(&nested), None);
        assert_eq!(footer(&[0x99, 0xf5, 0xff, 0xff, 0xff, 0xff, 0x0f, 1, 0]), None);
    }
}
