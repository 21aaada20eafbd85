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
    column::page::{Page, PageIterator, PageMetadata, PageReader},
    errors::{ParquetError, Result},
    file::{
        metadata::{ParquetMetaData, RowGroupMetaData},
        reader::{ChunkReader, Length},
        serialized_reader::SerializedPageReader,
    },
    schema::types::ColumnDescPtr,
};

use super::{claims, thrift};

/// The most bytes that a page decompresses to. Writers end a page at about 1 MB, or after some 1,000 rows.
const MAX_PAGE: u64 = 512 << 20;

/// What codecs make of a byte at most: Zstandard makes a block of 128 KB of four.
const SNAPPY_RATIO: u64 = 22;
const LZ4_RATIO: u64 = 255;
const GZIP_RATIO: u64 = 1032;
const ZSTD_RATIO: u64 = 1 << 15;
/// And of a few bytes more than that.
const SLACK: u64 = 1 << 10;

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
        let pages = Checked { pages, column: column.column_descr_ptr() };
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

/// The pages of a column, each looked at before it is decoded.
struct Checked {
    pages: SerializedPageReader<Chunk>,
    column: ColumnDescPtr,
}

impl Checked {
    fn check(&self, page: Option<Page>) -> Result<Option<Page>> {
        if let Some(page) = &page {
            claims::check(page, &self.column, MAX_PAGE).map_err(fault)?;
        }
        Ok(page)
    }
}

impl PageReader for Checked {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.pages.get_next_page()?;
        self.check(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }

    fn supports_deferred_dictionary(&self) -> bool {
        self.pages.supports_deferred_dictionary()
    }

    fn take_deferred_dictionary(&mut self) -> Result<Option<Page>> {
        let page = self.pages.take_deferred_dictionary()?;
        self.check(page)
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.pages.at_record_boundary()
    }
}

impl Iterator for Checked {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

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
        let ratio = match self.codec {
            Compression::UNCOMPRESSED => 1,
            Compression::SNAPPY => SNAPPY_RATIO,
            Compression::LZ4 | Compression::LZ4_RAW => LZ4_RATIO,
            Compression::GZIP(_) => GZIP_RATIO,
            _ => ZSTD_RATIO,
        };
        let (plain, bytes) = (page.plain_bytes, page.bytes.max(0));
        let limit = MAX_PAGE.min(ratio * bytes as u64 + SLACK);
        if plain > limit as i64 {
            return wrong(format!("a page of {plain} bytes in {bytes}; at most {limit} are read"));
        }
        // In a page of version 2 the compressed bytes begin somewhere inside, where nobody looks at them.
        let limit = MAX_PAGE / GZIP_RATIO;
        let is_gzip = matches!(self.codec, Compression::GZIP(_));
        if is_gzip && page.kind == 3 && bytes > limit as i64 {
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
