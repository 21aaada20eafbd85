//! A file's bytes, one buffer at a time, with the place in it; lines of bounded length.

use std::{
    fs::File,
    io::{BufRead, BufReader, Cursor, ErrorKind, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use memchr::{memchr, memchr_iter};
use pith::{Error, Result};

use super::Spot;

/// What a `Stream` reads from.
pub(crate) type Reader = Box<dyn Read + Send>;

/// Bytes that a buffer holds.
const BUFFER: usize = 64 << 10;
/// The mark at the beginning of UTF-8 files from Windows; it belongs to no row.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// A file's bytes from some place on.
pub(crate) struct Stream {
    reader: BufReader<Reader>,
    path: PathBuf,
    spot: Spot,
}

/// How a line came out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Whole.
    Whole,
    /// Longer than allowed: skipped.
    TooLong,
    /// There is none: the file has ended.
    End,
}

impl Stream {
    /// A file from its beginning, behind its byte order mark.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for UTF-16; the system's.
    pub fn new(path: &Path, mut reader: Reader) -> Result<Stream> {
        let mut head = Vec::with_capacity(BOM.len());
        let n_head = BOM.len() as u64;
        reader.by_ref().take(n_head).read_to_end(&mut head).map_err(Error::io("read", path))?;
        if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
            let path = path.display();
            return Err(Error::Unsupported(format!("{path} is UTF-16; save it as UTF-8")));
        }
        let n_skipped = if head == BOM { BOM.len() } else { 0 };
        let reader: Reader = Box::new(Cursor::new(head.split_off(n_skipped)).chain(reader));
        Ok(Stream::from(path, reader, Spot { offset: n_skipped as u64, line: 0 }))
    }

    /// A file from a place that an earlier stream came to.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the file is too short; the system's.
    pub fn at(path: &Path, spot: Spot) -> Result<Stream> {
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        let n_bytes = file.metadata().map_err(Error::io("open", path))?.len();
        if n_bytes < spot.offset {
            return Err(Error::Invalid(format!(
                "{} has {n_bytes} bytes, but had {} when the job was here",
                path.display(),
                spot.offset
            )));
        }
        file.seek(SeekFrom::Start(spot.offset)).map_err(Error::io("read", path))?;
        Ok(Stream::from(path, Box::new(file), spot))
    }

    fn from(path: &Path, reader: Reader, spot: Spot) -> Stream {
        Stream { reader: BufReader::with_capacity(BUFFER, reader), path: path.to_owned(), spot }
    }

    /// The file, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the next byte is.
    pub fn spot(&self) -> Spot {
        self.spot
    }

    /// The next bytes, some at least; none at the end.
    pub fn peek(&mut self) -> Result<&[u8]> {
        loop {
            match self.reader.fill_buf() {
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", &self.path)(error)),
            }
        }
        Ok(self.reader.buffer())
    }

    /// Goes on behind `n` bytes of those seen.
    pub fn skip(&mut self, n: usize) {
        self.spot.line += memchr_iter(b'\n', &self.reader.buffer()[..n]).count() as u64;
        self.spot.offset += n as u64;
        self.reader.consume(n);
    }

    /// Reads a line into `line`, without its end (`\n` or `\r\n`). Of a line of more than `limit` bytes nothing is
    /// kept, and `line` never has room for more.
    pub fn line(&mut self, line: &mut Vec<u8>, limit: usize) -> Result<Outcome> {
        line.clear();
        let start = self.spot.offset;
        let mut outcome = Outcome::Whole;
        loop {
            let bytes = self.peek()?;
            if bytes.is_empty() {
                let is_end = self.spot.offset == start;
                return Ok(if is_end { Outcome::End } else { outcome });
            }
            let end = memchr(b'\n', bytes);
            let piece = &bytes[..end.unwrap_or(bytes.len())];
            if line.len() + piece.len() > limit {
                outcome = Outcome::TooLong;
                *line = Vec::new();
            }
            if outcome == Outcome::Whole {
                extend(line, piece, limit);
            }
            let n = piece.len() + usize::from(end.is_some());
            self.skip(n);
            if end.is_some() {
                line.pop_if(|last| *last == b'\r');
                return Ok(outcome);
            }
        }
    }
}

/// Appends `piece`. The room doubles, but never beyond `limit`.
fn extend(line: &mut Vec<u8>, piece: &[u8], limit: usize) {
    let wanted = line.len() + piece.len();
    if wanted > line.capacity() {
        let room = wanted.max(limit.min(2 * line.capacity()));
        line.reserve_exact(room - line.len());
    }
    line.extend_from_slice(piece);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    /// `head`, then `n` times `a`, then `tail`.
    fn long(head: &'static str, n: u64, tail: &'static str) -> Stream {
        let reader = head.as_bytes().chain(io::repeat(b'a').take(n)).chain(tail.as_bytes());
        Stream::new(Path::new("long"), Box::new(reader)).unwrap()
    }

    #[test]
    fn a_line_of_a_gigabyte_is_not_held() {
        let limit = crate::source::MAX_ROW;
        let mut stream = long("before\n", 1 << 30, "\nbehind");
        let (mut line, mut most) = (Vec::new(), 0);
        let mut next = || {
            let outcome = stream.line(&mut line, limit).unwrap();
            most = most.max(line.capacity());
            (outcome, line.clone(), stream.spot().line)
        };
        assert_eq!(next(), (Outcome::Whole, b"before".to_vec(), 1));
        assert_eq!(next(), (Outcome::TooLong, Vec::new(), 2));
        assert_eq!(next(), (Outcome::Whole, b"behind".to_vec(), 2));
        assert_eq!(next(), (Outcome::End, Vec::new(), 2));
        assert!(most <= limit, "{most}");
    }

    #[test]
    fn the_room_of_a_line_ends_at_the_limit() {
        let limit = 100_000;
        for n in [limit - 1, limit, limit + 1] {
            let mut line = Vec::new();
            let outcome = long("", n as u64, "\n").line(&mut line, limit).unwrap();
            assert_eq!(outcome == Outcome::Whole, n <= limit, "{n}");
            assert!(line.capacity() <= limit, "{n}: {}", line.capacity());
        }
        let mut line = Vec::new();
        let mut last = 0;
        for _ in 0..limit {
            extend(&mut line, b"a", limit);
            assert!(line.capacity() >= last && line.capacity() <= limit);
            last = line.capacity();
        }
    }

    #[test]
    fn marks_at_the_beginning() {
        let open = |bytes: &'static [u8]| Stream::new(Path::new("f"), Box::new(bytes));
        assert_eq!(open(b"\xef\xbb\xbfab").unwrap().peek().unwrap(), b"ab");
        assert_eq!(open(b"\xef\xbb\xbf").unwrap().spot().offset, 3);
        assert_eq!(open(b"\xef\xbb").unwrap().peek().unwrap(), b"\xef\xbb");
        assert_eq!(open(b"").unwrap().peek().unwrap(), b"");
        for utf16 in [&b"\xff\xfea\0"[..], b"\xfe\xff\0a", b"\xff\xfe"] {
            let error = open(utf16).err().unwrap().to_string();
            assert!(error.contains("UTF-16"), "{error}");
        }
    }
}
