//! The pages of one row group. The `parquet` crate decompresses a page whatever it says of its size, and
//! some codecs further than that; here a page is looked at before it gets there.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, ErrorKind, Read},
    iter,
    sync::Arc,
};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use parquet::{
    arrow::arrow_reader::RowGroups,
    basic::Compression,
    column::page::{PageIterator, PageReader},
    errors::{ParquetError, Result},
    file::{
        metadata::{ParquetMetaData, RowGroupMetaData},
        reader::{ChunkReader, Length},
        serialized_reader::SerializedPageReader,
    },
};

use super::thrift;

/// The most bytes that a page decompresses to. Writers end a page at about 1 MB, or after some 1,000 rows.
const MAX_PAGE: u64 = 512 << 20;

/// What deflate and LZ4 make of a byte at most.
const GZIP_RATIO: u64 = 1032;
const LZ4_RATIO: u64 = 255;

/// A row group of a file.
pub(super) struct Group {
    pub file: Arc<File>,
    pub metadata: Arc<ParquetMetaData>,
    pub number: usize,
}

impl Group {
    fn row_group(&self) -> &RowGroupMetaData {
        self.metadata.row_group(self.number)
    }
}

impl RowGroups for Group {
    fn num_rows(&self) -> usize {
        usize::try_from(self.row_group().num_rows()).unwrap_or_default()
    }

    fn column_chunks(&self, i: usize) -> Result<Box<dyn PageIterator>> {
        let column = self.row_group().column(i);
        let chunk = Chunk { file: Arc::clone(&self.file), codec: column.compression() };
        let pages = SerializedPageReader::new(Arc::new(chunk), column, self.num_rows(), None)?;
        Ok(Box::new(Once(Some(Box::new(pages)))))
    }

    fn row_groups(&self) -> Box<dyn Iterator<Item = &RowGroupMetaData> + '_> {
        Box::new(iter::once(self.row_group()))
    }

    fn metadata(&self) -> &ParquetMetaData {
        &self.metadata
    }
}

/// A column has one chunk in a row group.
struct Once(Option<Box<dyn PageReader>>);

impl Iterator for Once {
    type Item = Result<Box<dyn PageReader>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.take().map(Ok)
    }
}

impl PageIterator for Once {}

/// A file as the crate reads the pages of one column from it.
struct Chunk {
    file: Arc<File>,
    codec: Compression,
}

impl Length for Chunk {
    fn len(&self) -> u64 {
        self.file.len()
    }
}

impl ChunkReader for Chunk {
    type T = Header;

    fn get_read(&self, start: u64) -> Result<Header> {
        Ok(Header {
            bytes: self.file.get_read(start)?,
            start,
            codec: self.codec,
            is_checked: false,
        })
    }

    /// What the crate wants from here is what follows the header.
    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.len()) {
            return Err(fault(format!(
                "a page of {length} bytes at byte {start} ends behind the file"
            )));
        }
        let bytes = self.file.get_bytes(start, length)?;
        match self.codec {
            Compression::GZIP(_) if length as u64 * GZIP_RATIO > MAX_PAGE => {
                check_gzip(&bytes)?;
            }
            Compression::LZ4 if length as u64 * LZ4_RATIO > MAX_PAGE => check_lz4(&bytes)?,
            _ => (),
        }
        Ok(bytes)
    }
}

/// The bytes of a page's header. The crate asks for them even where it has the header already and then is
/// behind it: so they are looked at when they are read.
struct Header {
    bytes: BufReader<File>,
    start: u64,
    codec: Compression,
    is_checked: bool,
}

impl Header {
    fn check(&mut self) -> io::Result<()> {
        let wrong = |what: String| Err(io::Error::new(ErrorKind::InvalidData, what));
        let start = self.start;
        let Some(page) = thrift::page(self.bytes.fill_buf()?) else {
            return wrong(format!("no page begins at byte {start}"));
        };
        if page.plain_bytes > MAX_PAGE as i64 {
            let bytes = page.plain_bytes;
            return wrong(format!("a page of {bytes} bytes; at most {MAX_PAGE} are read"));
        }
        // In a page of version 2 the compressed bytes begin somewhere inside, where nobody looks at them.
        let limit = MAX_PAGE / GZIP_RATIO;
        let is_gzip = matches!(self.codec, Compression::GZIP(_));
        if is_gzip && page.kind == 3 && page.bytes > limit as i64 {
            let bytes = page.bytes;
            return wrong(format!(
                "a page of version 2 with {bytes} bytes of gzip; at most {limit} are read"
            ));
        }
        Ok(())
    }
}

impl Read for Header {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if !self.is_checked {
            self.check()?;
            self.is_checked = true;
        }
        self.bytes.read(to)
    }
}

/// Decompresses the bytes into nothing, for the crate has no limit.
fn check_gzip(bytes: &[u8]) -> Result<()> {
    let mut decoder = MultiGzDecoder::new(bytes);
    let (mut piece, mut left) = (vec![0; 64 << 10], MAX_PAGE);
    loop {
        let n = decoder.read(&mut piece)?;
        if n == 0 {
            return Ok(());
        }
        left = left
            .checked_sub(n as u64)
            .ok_or_else(|| fault(format!("a page of more than {MAX_PAGE} bytes")))?;
    }
}

/// Pages of the old LZ4 codec say their size, unless they are LZ4 frames.
fn check_lz4(bytes: &[u8]) -> Result<()> {
    const MAGIC: [u8; 4] = 0x184d_2204_u32.to_le_bytes();
    match bytes.windows(MAGIC.len()).any(|window| window == MAGIC) {
        true => {
            Err(fault(format!("an LZ4 frame of {} bytes, whose length is unknown", bytes.len())))
        }
        false => Ok(()),
    }
}

fn fault(what: String) -> ParquetError {
    ParquetError::General(what)
}
