//! Parquet in and out: files that pyarrow wrote (`parquet_python.py`), cell by cell; our own files, read
//! again; broken and hostile files, each an error and nothing else.
#![cfg(feature = "parquet")]

use std::{
    fs,
    io::{Seek, Write},
    path::{Path, PathBuf},
};

use pith::{Error, Result};
use pith_jobs::{
    row::{Cell, Row, RowError},
    sink::parquet::{Kept, write},
    source::{
        Position, Rows,
        parquet::{ParquetFile, ParquetRows, columns},
    },
    task::{Column, Kind},
};
use tempfile::tempdir;

const FEW: [&str; 6] = ["few_none", "few_snappy", "few_gzip", "few_zstd", "few_lz4", "few_v2"];

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn parquet(name: &str) -> PathBuf {
    data(&format!("{name}.parquet.bin"))
}

/// A row as a line of JSON.
fn line(row: &Row) -> String {
    let cells: Vec<String> = row
        .iter()
        .map(|(name, cell)| {
            let value = match cell {
                Cell::Text(text) => serde_json::to_string(text).unwrap(),
                Cell::Json(json) => json.get().to_owned(),
            };
            format!("{}:{value}", serde_json::to_string(name).unwrap())
        })
        .collect();
    format!("{{{}}}\n", cells.join(","))
}

/// The rows from number `from` on.
fn read(path: &Path, from: u64) -> Result<Vec<std::result::Result<String, RowError>>> {
    let mut file = ParquetFile::open(path, from)?;
    let mut rows = Vec::new();
    while let Some(row) = file.next()? {
        rows.push(row.map(|row| line(&row)));
    }
    Ok(rows)
}

fn good(path: &Path, from: u64) -> Vec<String> {
    read(path, from).unwrap().into_iter().map(|row| row.unwrap()).collect()
}

fn fault(path: &Path) -> String {
    read(path, 0).unwrap_err().to_string()
}

fn kinds(path: &Path) -> Vec<(String, String)> {
    let file = ParquetFile::open(path, 0).unwrap();
    file.columns().iter().map(|f| (f.name().clone(), f.data_type().to_string())).collect()
}

#[test]
fn all_types_are_what_pyarrow_wrote() {
    let wanted = fs::read_to_string(data("types.jsonl")).unwrap();
    let wanted: Vec<&str> = wanted.split_inclusive('\n').collect();
    assert_eq!(good(&parquet("types"), 0), wanted);
    assert_eq!(ParquetFile::open(&parquet("types"), 0).unwrap().n_rows(), 7);
}

#[test]
fn all_codecs_and_encodings() {
    let wanted = good(&parquet("few_none"), 0);
    assert_eq!(wanted.len(), 7);
    for name in FEW {
        assert_eq!(good(&parquet(name), 0), wanted, "{name}");
    }
    assert!(good(&parquet("empty"), 0).is_empty());
}

#[test]
fn rows_from_any_place() {
    for name in FEW.into_iter().chain(["types"]) {
        let all = good(&parquet(name), 0);
        for from in 0..=all.len() {
            assert_eq!(good(&parquet(name), from as u64), all[from..], "{name} from {from}");
        }
        let error = read(&parquet(name), 8).unwrap_err().to_string();
        assert!(error.contains("has 7 rows"), "{error}");
    }
}

#[test]
fn files_follow_each_other() {
    let paths = vec![parquet("few_zstd"), parquet("empty"), parquet("few_none")];
    let rows = |from| {
        let mut rows: Box<dyn Rows + Send> =
            Box::new(ParquetRows::new(paths.clone(), from).unwrap());
        let mut lines = Vec::new();
        while let Some(line) = rows.next().unwrap() {
            lines.push(line);
        }
        lines
    };
    let all = rows(Position::default());
    assert_eq!(all.len(), 14);
    assert_eq!(all[7].place, "few_none.parquet.bin, row 1");
    for (number, first) in all.iter().enumerate() {
        assert_eq!(first.at.row, number as u64);
        assert_eq!(first.next.row, number as u64 + 1);
        let rest = rows(first.next);
        assert_eq!(rest.len(), all.len() - number - 1);
        for (a, b) in rest.iter().zip(&all[number + 1..]) {
            assert_eq!(a.place, b.place);
            assert_eq!(line(a.row.as_ref().unwrap()), line(b.row.as_ref().unwrap()));
        }
    }
    assert!(ParquetRows::new(paths, Position { file: 3, ..Position::default() }).is_err());
    let same = columns(&[parquet("few_zstd"), parquet("few_none")]).unwrap().unwrap();
    assert_eq!(same.len(), 5);
    assert_eq!(columns(&[parquet("few_zstd"), parquet("types")]).unwrap(), None);
}

#[test]
fn times_that_have_no_text() {
    let rows = good(&parquet("int96"), 0);
    assert_eq!(rows[0], "{\"when\":\"0001-01-01T00:00:00\"}\n");
    assert_eq!(rows[2], "{\"when\":\"9999-12-31T23:59:59.999999\"}\n");
    let rows = read(&parquet("far"), 0).unwrap();
    assert_eq!(rows[0].as_ref().unwrap(), "{\"when\":\"1970-01-01T00:00:00\"}\n");
    for row in &rows[1..] {
        assert_eq!(row.as_ref().unwrap_err().code, "time");
    }
}

/// 491 bytes that say the same 300,000 letters 3,000 times.
#[test]
fn a_dictionarys_text_is_held_once() {
    let mut file = ParquetFile::open(&parquet("dictionary"), 0).unwrap();
    let mut n = 0;
    while let Some(row) = file.next().unwrap() {
        assert!(
            matches!(row.unwrap().get("text"), Some(Cell::Text(text)) if text.len() == 300_000)
        );
        n += 1;
    }
    assert_eq!(n, 3000);
    assert_memory(400 << 20);
}

#[test]
fn what_is_refused() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let sound = fs::read(parquet("few_none")).unwrap();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = sound.clone();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
        fault(&path)
    };
    let n = sound.len();
    assert!(with(&|bytes| bytes.truncate(11)).contains("11 bytes are too few"));
    assert!(with(&|bytes| bytes[0] = b'Q').contains("begin and end with PAR1"));
    assert!(with(&|bytes| bytes[n - 1] = b'E').contains("is encrypted"));
    assert!(with(&|bytes| bytes[n - 5] = 0xff).contains("a footer of"));
    assert!(with(&|bytes| bytes.truncate(n - 1)).contains("begin and end with PAR1"));
    let error = fault(&parquet("map"));
    assert!(error.contains("column \"m\" holds maps whose keys aren't text"), "{error}");
    let error = fault(&parquet("brotli"));
    assert!(error.contains("column a is compressed with BROTLI"), "{error}");
    assert!(matches!(ParquetFile::open(Path::new("/nowhere/x"), 0), Err(Error::Io { .. })));
}

#[test]
fn what_is_read_is_written_as_it_was() {
    let folder = tempdir().unwrap();
    let [spool, out, again] =
        ["spool", "out.parquet", "again.parquet"].map(|name| folder.path().join(name));
    let rows = good(&parquet("types"), 0);
    fs::write(&spool, rows.concat()).unwrap();
    let fields = ParquetFile::open(&parquet("types"), 0).unwrap().columns().clone();
    let kept = Kept::Typed(fields);
    write(&spool, &out, &kept, &[], "error").unwrap();
    let wanted: Vec<String> =
        rows.iter().map(|row| row.replace("}\n", ",\"error\":null}\n")).collect();
    assert_eq!(good(&out, 0), wanted);
    let types = kinds(&parquet("types"));
    assert_eq!(kinds(&out)[..types.len()], types);
    write(&spool, &again, &kept, &[], "error").unwrap();
    assert_eq!(fs::read(&out).unwrap(), fs::read(&again).unwrap());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "no temporary file is left");
}

#[test]
fn values_tell_types_and_failed_rows_have_no_answer() {
    let folder = tempdir().unwrap();
    let [spool, out] = ["spool", "out.parquet"].map(|name| folder.path().join(name));
    let records = [
        r#"{"line":"x.jsonl, line 1","sum":null,"note":null,"error":"json: broken"}"#,
        r#"{"word":"a","n":1,"mixed":1,"list":[1, 2],"none":null,"sum":0.5,"note":{"k": 1}}"#,
        r#"{"word":"b","n":-9223372036854775808,"mixed":"1","x":2.5,"sum":1e-300,"note":[]}"#,
        r#"{"word":"c","n":2,"x":3,"sum":"the input's","note":1,"error":"column_clash: sum"}"#,
    ];
    fs::write(&spool, records.map(|record| format!("{record}\n")).concat()).unwrap();
    let added = [
        Column { name: "sum".to_owned(), kind: Kind::Float },
        Column { name: "note".to_owned(), kind: Kind::Json },
    ];
    write(&spool, &out, &Kept::Found, &added, "error").unwrap();
    let types = [
        ("word", "Utf8"),
        ("n", "Int64"),
        ("mixed", "Utf8"),
        ("list", "Utf8"),
        ("none", "Utf8"),
        ("x", "Float64"),
        ("sum", "Float64"),
        ("note", "Utf8"),
        ("line", "Utf8"),
        ("error", "Utf8"),
    ];
    assert_eq!(kinds(&out), types.map(|(name, kind)| (name.to_owned(), kind.to_owned())));
    let wanted = [
        r#"{"word":null,"n":null,"mixed":null,"list":null,"none":null,"x":null,"sum":null,"note":null,"line":"x.jsonl, line 1","error":"json: broken"}"#,
        r#"{"word":"a","n":1,"mixed":"1","list":"[1, 2]","none":null,"x":null,"sum":0.5,"note":"{\"k\": 1}","line":null,"error":null}"#,
        r#"{"word":"b","n":-9223372036854775808,"mixed":"1","list":null,"none":null,"x":2.5,"sum":1e-300,"note":"[]","line":null,"error":null}"#,
        r#"{"word":"c","n":2,"mixed":null,"list":null,"none":null,"x":3.0,"sum":null,"note":null,"line":null,"error":"column_clash: sum"}"#,
    ];
    assert_eq!(good(&out, 0), wanted.map(|row| format!("{row}\n")));
    let named = Kept::Named(vec!["x".to_owned(), "word".to_owned()]);
    let error = write(&spool, &out, &named, &added, "error").unwrap_err().to_string();
    assert!(error.contains("column \"n\", which isn't kept"), "{error}");
}

#[test]
fn a_spool_without_records_has_its_columns() {
    let folder = tempdir().unwrap();
    let [spool, out] = ["spool", "out.parquet"].map(|name| folder.path().join(name));
    fs::write(&spool, "").unwrap();
    write(&spool, &out, &Kept::Named(vec!["text".to_owned()]), &[], "error").unwrap();
    assert!(good(&out, 0).is_empty());
    let types = ["text", "error"].map(|name| (name.to_owned(), "Utf8".to_owned()));
    assert_eq!(kinds(&out), types);
    let twice = write(&spool, &out, &Kept::Named(vec!["error".to_owned()]), &[], "error");
    assert!(twice.unwrap_err().to_string().contains("the same name"));
}

/// Rows over several row groups of ours, which end after 65,536 rows or 64 MiB.
#[test]
fn our_row_groups_are_read_from_any_place() {
    let folder = tempdir().unwrap();
    let [spool, out] = ["spool", "out.parquet"].map(|name| folder.path().join(name));
    let rows: Vec<String> = (0..150_000).map(|i| format!("{{\"i\":{i}}}\n")).collect();
    fs::write(&spool, rows.concat()).unwrap();
    write(&spool, &out, &Kept::Found, &[], "error").unwrap();
    for from in [0, 1, 65_535, 65_536, 65_537, 131_072, 149_999, 150_000] {
        let got = good(&out, from);
        assert_eq!(got.len() as u64, 150_000 - from);
        for (at, row) in (from..).zip(got) {
            assert_eq!(row, format!("{{\"i\":{at},\"error\":null}}\n"));
        }
    }
}

/// Every truncation, and bits turned one at a time.
#[test]
fn hostile_files() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let mut file = fs::File::create(&path).unwrap();
    let mut outcomes = [0, 0];
    let mut try_out = |bytes: &[u8]| {
        // Written over: a file that is emptied first, some file systems bring to the disk.
        file.rewind().unwrap();
        file.write_all(bytes).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        outcomes[usize::from(read(&path, 0).is_ok())] += 1;
    };
    for name in ["few_v2", "int96", "dictionary"] {
        let sound = fs::read(parquet(name)).unwrap();
        for end in 0..sound.len() {
            try_out(&sound[..end]);
        }
    }
    let mut seed = 1u64;
    for name in FEW.into_iter().chain(["types", "int96", "far"]) {
        let sound = fs::read(parquet(name)).unwrap();
        for _ in 0..400 {
            let mut bytes = sound.clone();
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let bit = (seed >> 33) as usize % (8 * bytes.len());
            bytes[bit / 8] ^= 1 << (bit % 8);
            try_out(&bytes);
        }
    }
    let [faults, sound] = outcomes;
    assert!(faults > 4000 && sound > 500, "{outcomes:?}");
    assert_memory(400 << 20);
}

/// Fewer repetition levels than values, where rows are passed over: the crate would look for the rest
/// without end.
#[test]
fn levels_that_are_not_there() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let sound = fs::read(parquet("few_none")).unwrap();
    // The levels of `words` in the first row group: four in a run of packed ones.
    let levels = [2, 0, 0, 0, 3, 4];
    let at = sound.windows(6).position(|bytes| bytes == levels).unwrap();
    let mut bytes = sound.clone();
    bytes[at + 4..at + 6].copy_from_slice(&[2, 0]); // one in a run of equal ones
    fs::write(&path, bytes).unwrap();
    for from in 0..3 {
        let error = read(&path, from).unwrap_err().to_string();
        assert!(error.contains("with fewer levels"), "{error}");
    }
}

/// This process has never held more memory than this.
fn assert_memory(most: u64) {
    let Ok(status) = fs::read_to_string("/proc/self/status") else { return };
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak << 10 < most, "{peak} kB");
}

/// Reads what `parquet_python.py make` wrote to the folder PITH_PARQUET, and writes it again for `check`.
#[test]
#[ignore = "needs the files of parquet_python.py"]
fn for_python() {
    let folder = PathBuf::from(std::env::var_os("PITH_PARQUET").expect("a folder"));
    let spool = folder.join("spool");
    let mut n = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "parquet") {
            let rows = good(&path, 0);
            assert_eq!(good(&path, 777), rows[777..]);
            fs::write(&spool, rows.concat()).unwrap();
            let fields = columns(std::slice::from_ref(&path)).unwrap().unwrap();
            write(&spool, &path.with_extension("again"), &Kept::Typed(fields), &[], "pith_error")
                .unwrap();
            n += 1;
        }
    }
    assert_eq!(n, 20);
    let (spool, out) = (folder.join("inferred.jsonl"), folder.join("inferred.again"));
    write(&spool, &out, &Kept::Found, &[], "error").unwrap();
}
