//! Any bytes as JSON lines: rows and errors of rows, each behind the one before, no more than there are bytes.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use pith_jobs::source::{Format, Position, from_reader};

fuzz_target!(|file: &[u8]| {
    let reader = Box::new(Cursor::new(file.to_vec()));
    let Ok(mut rows) = from_reader(Format::Jsonl, "file", reader) else { return };
    let mut last = Position::default();
    while let Some(line) = rows.next().expect("bytes in memory can be read") {
        assert!(line.at.offset >= last.offset && line.at.offset < line.next.offset);
        assert!(line.at.row == last.row && line.next.row == last.row + 1);
        last = line.next;
    }
    assert!(last.offset <= file.len() as u64);
});
