//! Any bytes as a Parquet file: its rows from the first on, and from the second on.
#![no_main]

use std::{fs, path::PathBuf, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use pith_jobs::source::parquet::ParquetFile;

/// Rows that are read: a few bytes may say the same a billion times.
const MOST: usize = 10_000;

/// Files are read from files; each process has one of its own.
static PATH: LazyLock<PathBuf> =
    LazyLock::new(|| std::env::temp_dir().join(format!("pith-fuzz-{}", std::process::id())));

fuzz_target!(|bytes: &[u8]| {
    fs::write(&*PATH, bytes).expect("a temporary file");
    for from in 0..2 {
        let Ok(mut file) = ParquetFile::open(&PATH, from) else { return };
        let mut n = 0;
        while n < MOST && file.next().is_ok_and(|row| row.is_some()) {
            n += 1;
        }
        assert!(n as u64 + from <= file.n_rows());
    }
});
