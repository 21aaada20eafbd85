//! A matrix put together from the parts that ranks of tensor parallelism have, with the rows of each
//! head in Hugging Face's order.

use crate::source::{Checksum, Data, Dtype, Entry, Packed};
use pith::{Error, Result, bytes::Bytes};
use std::{fmt, ops::Range, sync::Arc};

/// What one rank has: a matrix in a file.
pub(super) struct Part {
    file: Arc<Bytes>,
    entry: Entry,
}

impl Part {
    pub fn new(file: Arc<Bytes>, entry: Entry) -> Part {
        Part { file, entry }
    }

    fn rows(&self) -> usize {
        self.entry.shape[0]
    }

    fn columns(&self) -> usize {
        self.entry.shape[1]
    }

    /// The bytes that the matrix is a view of, checked.
    fn bytes(&self, range: &Range<usize>, crc: Option<Checksum>) -> Result<&[u8]> {
        let bytes = &self.file[range.clone()];
        if let Some(crc) = crc {
            crc.check(bytes, &self.entry.name, range.start)?;
        }
        Ok(bytes)
    }

    /// Appends a row's values of `size` bytes each.
    fn row(&self, bytes: &[u8], row: usize, size: usize, out: &mut Vec<u8>) {
        let start = self.entry.offset + row * self.entry.strides[0];
        match self.entry.strides[1] {
            1 => out.extend_from_slice(&bytes[start * size..][..self.columns() * size]),
            stride => {
                for column in 0..self.columns() {
                    out.extend_from_slice(&bytes[(start + column * stride) * size..][..size]);
                }
            }
        }
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entry.fmt(f)
    }
}

/// Parts below or beside each other.
#[derive(Debug)]
pub(super) struct Joined {
    parts: Vec<Part>,
    by_columns: bool,
    /// Width of a head, where rows 2i and 2i + 1 of it become i and i + width / 2.
    head: Option<usize>,
}

impl Joined {
    /// Joins `parts`, at least one, beside each other or below each other.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for parts that don't fit together.
    pub fn new(parts: Vec<Part>, by_columns: bool, head: Option<usize>) -> Result<Joined> {
        let entry = &parts[0].entry;
        let fits = |part: &Part| {
            let Entry { dtype, shape, data: Data::Mapped { .. }, .. } = &part.entry else {
                return false;
            };
            let shared = usize::from(!by_columns); // the dimension that isn't cut
            let plain = !matches!(dtype, Dtype::Other { .. });
            let same = shape.get(shared) == entry.shape.get(shared);
            plain && *dtype == entry.dtype && shape.len() == 2 && !shape.contains(&0) && same
        };
        if let Some(part) = parts.iter().find(|part| !fits(part)) {
            let (other, entry) = (&part.entry, &parts[0].entry);
            return Err(Error::Unsupported(format!(
                "tensor `{}` has {} files: {} of shape {:?} doesn't fit {} of shape {:?}",
                entry.name,
                parts.len(),
                other.dtype.name(),
                other.shape,
                entry.dtype.name(),
                entry.shape
            )));
        }
        let joined = Joined { parts, by_columns, head };
        let [rows, _] = joined.shape();
        if let Some(head) = head
            && (head == 0 || !head.is_multiple_of(2) || !rows.is_multiple_of(head))
        {
            return Err(Error::Unsupported(format!(
                "tensor `{}` has {rows} rows, which aren't heads of even width {head}",
                joined.parts[0].entry.name
            )));
        }
        Ok(joined)
    }

    /// Rows and columns of the whole.
    pub fn shape(&self) -> [usize; 2] {
        let (rows, columns) = (self.parts[0].rows(), self.parts[0].columns());
        match self.by_columns {
            true => [rows, self.parts.iter().map(Part::columns).sum()],
            false => [self.parts.iter().map(Part::rows).sum(), columns],
        }
    }

    /// Which of Meta's rows is Hugging Face's row `row`.
    fn row_of(&self, row: usize) -> usize {
        match self.head {
            None => row,
            Some(head) => {
                let (start, at) = (row - row % head, row % head);
                start + at % (head / 2) * 2 + at / (head / 2)
            }
        }
    }
}

impl Packed for Joined {
    fn unpack(&self, _file: &[u8]) -> Result<Vec<u8>> {
        let size = self.parts[0].entry.dtype.bits() / 8;
        let mut sources = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            if let Data::Mapped { range, crc } = &part.entry.data {
                sources.push((part, part.bytes(range, *crc)?));
            }
        }
        let [rows, columns] = self.shape();
        let mut out = Vec::with_capacity(rows * columns * size);
        for row in 0..rows {
            let mut row = self.row_of(row);
            for (part, bytes) in &sources {
                if self.by_columns {
                    part.row(bytes, row, size, &mut out);
                } else if row < part.rows() {
                    part.row(bytes, row, size, &mut out);
                    break;
                } else {
                    row -= part.rows();
                }
            }
        }
        Ok(out)
    }
}
