//! Rows in: good and hostile ones, what comes out around them, and reading on from any place.

use std::{fs, io::Write, path::Path};

use pith::Error;
use pith_jobs::{
    row::{Cell, Row},
    source::{FileId, Format, Inputs, Line, MAX_COLUMNS, MAX_ROW, Position, Rows, from_reader},
};
use proptest::prelude::*;
use tempfile::TempDir;

/// A cell for comparison: text in quotes of its own kind, JSON as it is.
fn shown(cell: &Cell) -> String {
    match cell {
        Cell::Text(text) => format!("<{text}>"),
        Cell::Json(value) => value.get().to_owned(),
    }
}

/// A row for comparison: `a=<text> b=1.50`, or its error.
fn row(line: &Line) -> String {
    match &line.row {
        Ok(row) => {
            let cells = row.iter().map(|(name, cell)| format!("{name}={}", shown(cell)));
            cells.collect::<Vec<_>>().join(" ")
        }
        Err(error) => error.to_string(),
    }
}

fn drain(mut rows: Box<dyn Rows>) -> Vec<Line> {
    let mut lines = Vec::new();
    while let Some(line) = rows.next().expect("reading goes on") {
        lines.push(line);
    }
    lines
}

fn read(format: Format, bytes: impl AsRef<[u8]>) -> Vec<Line> {
    let reader = std::io::Cursor::new(bytes.as_ref().to_vec());
    drain(from_reader(format, "f", Box::new(reader)).expect("opens"))
}

fn rows_of(format: Format, bytes: impl AsRef<[u8]>) -> Vec<String> {
    read(format, bytes).iter().map(row).collect()
}

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn inputs(folder: &Path, names: &[&str], format: Option<Format>) -> pith::Result<Inputs> {
    let args: Vec<String> =
        names.iter().map(|name| folder.join(name).display().to_string()).collect();
    Inputs::new(&args, format)
}

fn refusal<T>(result: pith::Result<T>) -> String {
    result.err().expect("refused").to_string()
}

#[test]
fn jsonl_rows_keep_every_value_as_it_was_written() {
    for (line, wanted) in [
        (r#"{"a":"x"}"#, "a=<x>"),
        (r#" { "b" : 1.50 , "a" : [1,  2] } "#, "b=1.50 a=[1,  2]"),
        (
            r#"{"n":123456789012345678901234567890,"e":1e999,"z":-0}"#,
            "n=123456789012345678901234567890 e=1e999 z=-0",
        ),
        (r#"{"t":true,"f":false,"n":null}"#, "t=true f=false n=null"),
        (r#"{"o":{"k":"\u00e9","k":1}}"#, r#"o={"k":"\u00e9","k":1}"#),
        (r#"{"a":"\u0000\u2028\n\"\\\/"}"#, "a=<\0\u{2028}\n\"\\/>"),
        ("{\"a\":\"\u{2028}\u{feff}\u{85}\"}", "a=<\u{2028}\u{feff}\u{85}>"),
        (r#"{"a":"\ud83d\ude00"}"#, "a=<\u{1f600}>"),
        (r#"{"a":"<|endoftext|>"}"#, "a=<<|endoftext|>>"),
        (r#"{"":"empty","\u0061":""}"#, "=<empty> a=<>"),
        ("{}", ""),
        ("\t{\"a\":1}\t", "a=1"),
    ] {
        assert_eq!(rows_of(Format::Jsonl, line), [wanted], "{line}");
    }
}

/// Hostile rows as JSON lines, and what their error begins with.
fn hostile_jsonl() -> Vec<(Vec<u8>, &'static str)> {
    let deep = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n)).into_bytes();
    let wide = (0..=MAX_COLUMNS).map(|i| format!("\"c{i}\":{i}")).collect::<Vec<_>>().join(",");
    let mut rows: Vec<(Vec<u8>, &'static str)> = [
        (&br#"{"a":1,"a":2}"#[..], "duplicate_key: `a` occurs twice"),
        (br#"{"a":1,"\u0061":2}"#, "duplicate_key: `a` occurs twice"),
        (br#"{"a":"#, "json: EOF while parsing a value (byte 5)"),
        (br#"{"a":1}}"#, "json: trailing characters (byte 8)"),
        (br#"{"a":1}{"a":2}"#, "json: trailing characters"),
        (br#"{"a":1,}"#, "json: trailing comma"),
        (br#"{'a':1}"#, "json: key must be a string"),
        (br#"{"a":NaN}"#, "json: expected value"),
        (br#"{"a":01}"#, "json: "),
        (b"{\"a\":\"\0\"}", "json: control character"),
        (b"{\"a\":\"\t\"}", "json: control character"),
        (b"{\"a\":1}\0", "json: trailing characters"),
        (br#"{"a":"\ud800"}"#, "json: `a`: "),
        (br#"{"a":"\udc00\ud800"}"#, "json: `a`: lone leading surrogate"),
        (br#"{"\ud800":1}"#, "json: "),
        (br#"{"a":"\x"}"#, "json: invalid escape"),
        (b"[1]", "json: not an object: `[1]`"),
        (b"\"text\"", "json: not an object: `\"text\"`"),
        (b"null", "json: not an object: `null`"),
        (b"plain text", "json: not an object: `plain text`"),
        (b"\0", "json: not an object: `\\0`"),
        (b"\x0c", "json: not an object"),
        (b"{\"a\":\"\xff\"}", "utf8: not UTF-8 from byte 7 of the line"),
        (b"\xff\xff", "utf8: not UTF-8 from byte 1 of the line"),
        (b"{\"a\":\"\xed\xa0\x80\"}", "utf8: "),
        (b"\xef\xbb\xbf{}", "json: not an object"),
    ]
    .into_iter()
    .map(|(line, error)| (line.to_vec(), error))
    .collect();
    rows.push((deep(127), "json: `a`: arrays and objects more than 127 deep"));
    rows.push((deep(100_000), "json: `a`: arrays and objects more than 127 deep"));
    rows.push(("[".repeat(100_000).into_bytes(), "json: not an object"));
    rows.push((format!("{{{wide}}}").into_bytes(), "too_many_columns: more than 16384 columns"));
    rows
}

#[test]
fn hostile_json_lines_are_errors_of_their_own_rows() {
    let (mut file, mut wanted) = (Vec::new(), Vec::new());
    for (i, (line, error)) in hostile_jsonl().into_iter().enumerate() {
        file.extend_from_slice(format!("{{\"i\":{i}}}\n").as_bytes());
        file.extend_from_slice(&line);
        file.push(b'\n');
        wanted.push((format!("i={i}"), true));
        wanted.push((error.to_owned(), false));
    }
    let lines = read(Format::Jsonl, file);
    assert_eq!(lines.len(), wanted.len());
    for (i, (line, (wanted, is_row))) in lines.iter().zip(&wanted).enumerate() {
        let got = row(line);
        assert_eq!(line.row.is_ok(), *is_row, "{got}");
        assert!(got.starts_with(wanted.as_str()), "wanted {wanted}, got {got}");
        assert!(got.len() < 300, "{} characters", got.len());
        assert_eq!(line.place, format!("f, line {}", i + 1));
        assert_eq!(line.at.row, i as u64);
    }
}

#[test]
fn blank_lines_count_as_lines_and_are_no_rows() {
    let file = "\u{feff}\n{\"a\":1}\r\n\r\n  \t\n{\"a\":2}";
    let lines = read(Format::Jsonl, file);
    let got: Vec<_> = lines.iter().map(|line| (row(line), line.place.as_str())).collect();
    assert_eq!(got, [("a=1".into(), "f, line 2"), ("a=2".into(), "f, line 5")]);
    assert_eq!(lines[1].next, Position { file: 0, offset: file.len() as u64, line: 4, row: 2 });

    let lines = read(Format::Lines, "\u{feff}\n new \r\n\r\n  \n\u{feff}a\rb\r");
    let got: Vec<_> = lines.iter().map(|line| (row(line), line.place.as_str())).collect();
    assert_eq!(
        got,
        [
            ("text=< new >".into(), "f, line 2"),
            ("text=<  >".into(), "f, line 4"),
            ("text=<\u{feff}a\rb\r>".into(), "f, line 5")
        ]
    );
    for format in [Format::Jsonl, Format::Csv, Format::Tsv, Format::Lines] {
        for nothing in ["", "\n", "\r\n\r\n", "\u{feff}", "\u{feff}\n"] {
            assert_eq!(rows_of(format, nothing).len(), 0, "{format:?} {nothing:?}");
        }
    }
}

#[test]
fn text_lines() {
    let got = rows_of(Format::Lines, b"one\n\xff\xfetwo\n\0\n{\"a\":1}\nthr\xc3\xa9\xe9\n\"q, \n");
    assert_eq!(
        got,
        [
            "text=<one>",
            "utf8: not UTF-8 from byte 1 of the line",
            "text=<\0>",
            "text=<{\"a\":1}>",
            "utf8: not UTF-8 from byte 6 of the line",
            "text=<\"q, >"
        ]
    );
}

#[test]
fn csv_rows() {
    for (file, wanted) in [
        ("a,b\n1,2\n", vec!["a=<1> b=<2>"]),
        ("a,b\r\n1,2\r\n3,4", vec!["a=<1> b=<2>", "a=<3> b=<4>"]),
        ("a,b\r1,2\r3,4\r", vec!["a=<1> b=<2>", "a=<3> b=<4>"]),
        ("\u{feff}\n\na,b\n\n\r\n1,2", vec!["a=<1> b=<2>"]),
        ("a,b\n\"x, \"\"y\"\"\n\r\nz\",\n", vec!["a=<x, \"y\"\n\r\nz> b=<>"]),
        ("a\n\"\"\n\u{feff}x\n", vec!["a=<>", "a=<\u{feff}x>"]),
        ("\u{feff}\u{feff}a\n1", vec!["\u{feff}a=<1>"]),
        ("a,b\n 1 , \"2\" \n", vec!["a=< 1 > b=< \"2\" >"]),
        ("a,b\n1\"2,\"3\"4\"\n", vec!["a=<1\"2> b=<34\">"]),
        ("\"a\nb\",\" c\"\n\0,\t\n", vec!["a\nb=<\0>  c=<\t>"]),
        (
            "a,b\n1\n,\n1,2,3\n4,5\n",
            vec![
                "columns: 2 columns wanted, 1 got",
                "a=<> b=<>",
                "columns: 2 columns wanted, 3 got",
                "a=<4> b=<5>",
            ],
        ),
        (
            "a,b\n1,2\n3,\"4\n5,6\n\n",
            vec![
                "a=<1> b=<2>",
                "quote: a quote of this row is never closed: the file's rest, 3 lines and 10 bytes, is in it",
            ],
        ),
        (
            "a\n\"",
            vec![
                "quote: a quote of this row is never closed: the file's rest, 0 lines and 1 bytes, is in it",
            ],
        ),
    ] {
        assert_eq!(rows_of(Format::Csv, file), wanted, "{file:?}");
    }
    let got = rows_of(Format::Csv, b"a,b\n1,\xff\n\xe9,\n\"x\n\xff\",2\n5,6\n");
    assert_eq!(
        got,
        [
            "utf8: `b`: not UTF-8 from byte 1 of the cell",
            "utf8: `a`: not UTF-8 from byte 1 of the cell",
            "utf8: `a`: not UTF-8 from byte 3 of the cell",
            "a=<5> b=<6>"
        ]
    );
    // Two halves of a character in two cells are no character.
    assert!(rows_of(Format::Csv, b"a,b\n\xc3,\xa9\n")[0].starts_with("utf8: `a`"));
    assert_eq!(rows_of(Format::Tsv, "a\tb\n1,2\t\"x\ty\"\n"), ["a=<1,2> b=<x\ty>"]);
}

#[test]
fn csv_places_are_the_lines_where_rows_begin() {
    let file = "a,b\r\n\r\n1,\"x\r\ny\r\n\"\r\n\r\n2\r\n3,z";
    let lines = read(Format::Csv, file);
    let got: Vec<_> = lines.iter().map(|line| (line.place.as_str(), line.at.offset)).collect();
    assert_eq!(got, [("f, line 3", 7), ("f, line 7", 21), ("f, line 8", 24)]);
}

#[test]
fn names_of_columns_that_end_the_job() {
    let open = |file: &[u8]| {
        let reader = std::io::Cursor::new(file.to_vec());
        refusal(from_reader(Format::Csv, "f.csv", Box::new(reader)))
    };
    let wide = (0..=MAX_COLUMNS).map(|i| format!("c{i}")).collect::<Vec<_>>().join(",");
    for (file, wanted) in [
        (&b"a,b,a\n1,2,3\n"[..], "f.csv, line 1: two columns have the name `a`; rename one"),
        (b"\n\n,a\n", "f.csv, line 3: column 1 has no name; give it one"),
        (b"a,\n", "f.csv, line 1: column 2 has no name"),
        (b"\"\"", "f.csv, line 1: column 1 has no name"),
        (b"a,\xff\n", "f.csv, line 1: column 2's name isn't UTF-8"),
        (b"a,\"b\n1,2\n", "f.csv, line 1: a quote is never closed"),
        (b"\xff\xfea\0", "f.csv is UTF-16"),
        (wide.as_bytes(), "f.csv, line 1: more than 16384 columns"),
    ] {
        let error = open(file);
        assert!(error.contains(wanted), "wanted {wanted}, got {error}");
    }
}

#[test]
fn a_line_over_the_limit_is_one_error() {
    let mut file = b"{\"a\":1}\n{\"a\":\"".to_vec();
    file.resize(file.len() + MAX_ROW, b'x');
    file.extend_from_slice(b"\"}\n{\"a\":2}\n");
    assert_eq!(
        rows_of(Format::Jsonl, &file),
        ["a=1", "too_long_line: longer than 67108864 bytes, and skipped", "a=2"]
    );
    // Ten megabytes are a row.
    let text = "y".repeat(10 << 20);
    let got = rows_of(Format::Jsonl, format!("{{\"a\":\"{text}\"}}"));
    assert_eq!(got[0].len(), text.len() + "a=<>".len());
}

#[test]
fn wide_rows() {
    let mut row = Row::default();
    for i in (0..MAX_COLUMNS).rev() {
        assert!(row.push(format!("c{i}"), Cell::Text(i.to_string())));
    }
    assert_eq!(row.len(), MAX_COLUMNS);
    for i in 0..MAX_COLUMNS {
        assert!(!row.push(format!("c{i}"), Cell::Text(String::new())));
        assert_eq!(row.get(&format!("c{i}")).map(shown), Some(format!("<{i}>")));
    }
    let names: Vec<_> = row.iter().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(names[0], format!("c{}", MAX_COLUMNS - 1));
    assert_eq!(row.get("c").map(shown), None);
}

#[test]
fn files_one_after_the_other() {
    let folder = folder(&[
        ("b.csv", b"\xef\xbb\xbfx\n3\n\n\n"),
        ("a.csv", b"x,y\n1,\n2,\n"),
        ("c.csv", b""),
        ("d.csv", b"z\n4"),
        (".e.csv", b"z\n5"),
    ]);
    let inputs = inputs(folder.path(), &["*.csv"], None).unwrap();
    assert_eq!(
        (inputs.format(), inputs.is_stdin(), inputs.is_resumable()),
        (Format::Csv, false, true)
    );
    let lines = drain(inputs.open(Position::default()).unwrap());
    let got: Vec<_> = lines
        .iter()
        .map(|line| (line.place.as_str(), row(line), line.at.file, line.at.row))
        .collect();
    assert_eq!(
        got,
        [
            ("a.csv, line 2", "x=<1> y=<>".into(), 0, 0),
            ("a.csv, line 3", "x=<2> y=<>".into(), 0, 1),
            ("b.csv, line 2", "x=<3>".into(), 1, 2),
            ("d.csv, line 2", "z=<4>".into(), 3, 3)
        ]
    );
    assert_eq!(drain(inputs.open(lines[3].next).unwrap()).len(), 0);
    let wrong = Position { file: 4, ..Position::default() };
    assert!(refusal(inputs.open(wrong)).contains("file 5 of 4"));
    let wrong = Position { offset: 1000, ..Position::default() };
    assert!(refusal(inputs.open(wrong)).contains("has 10 bytes, but had 1000"));
}

#[test]
fn what_arguments_name() {
    let folder = folder(&[
        ("a.jsonl", b"{}"),
        ("[a].jsonl", b"{}"),
        ("b.csv", b""),
        ("array.json", b"\xef\xbb\xbf \n [{\"a\":1}]"),
        ("lines.json", b"{\"a\":1}\n[1]\n"),
        ("c.csv.gz", b""),
    ]);
    fs::create_dir(folder.path().join("d.csv")).unwrap();
    let open = |names: &[&str], format| inputs(folder.path(), names, format);
    // A file of that very name comes before the pattern.
    assert_eq!(open(&["[a].jsonl"], None).unwrap().paths().len(), 1);
    let paths = open(&["*.jsonl", "b.csv"], Some(Format::Lines)).unwrap().paths().to_vec();
    let names: Vec<_> =
        paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["[a].jsonl", "a.jsonl", "b.csv"]);
    assert_eq!(open(&["lines.json"], None).unwrap().format(), Format::Jsonl);
    for (names, wanted) in [
        (&["a.jsonl", "b.csv"][..], "is jsonl, but"),
        (&["missing.csv"], "cannot open"),
        (&["*.tsv"], "none matches it as a pattern"),
        (&["a***"], "the pattern"),
        (&["d.csv"], "is a folder"),
        (&["?.csv"], "is a folder"),
        (&["array.json"], "is one JSON array"),
        (&["c.csv.gz"], "is compressed"),
    ] {
        let error = refusal(open(names, None));
        assert!(error.contains(wanted), "{names:?}: {error}");
    }
    let stdin = |args: &[&str], format| {
        Inputs::new(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>(), format)
    };
    assert!(refusal(stdin(&[], None)).contains("no input"));
    assert!(refusal(stdin(&["-"], None)).contains("--format (jsonl, csv, tsv, lines, parquet)"));
    assert!(refusal(stdin(&["-", "-"], Some(Format::Lines))).contains("without other inputs"));
    assert!(refusal(stdin(&["-"], Some(Format::Parquet))).contains("can't be Parquet"));
    let stdin = stdin(&["-"], Some(Format::Lines)).unwrap();
    assert_eq!((stdin.is_stdin(), stdin.is_resumable()), (true, false));
    assert!(refusal(stdin.fingerprint(&mut |_| true)).contains("can't be read twice"));
    let somewhere = Position { row: 1, ..Position::default() };
    assert!(refusal(stdin.open(somewhere)).contains("can't be read twice"));
}

#[cfg(unix)]
#[test]
fn a_pipe_is_read_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe.csv");
    let status = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(status.success());
    let inputs = inputs(folder.path(), &["pipe.csv"], None).unwrap();
    assert_eq!((inputs.is_stdin(), inputs.is_resumable()), (false, false));
    assert!(refusal(inputs.fingerprint(&mut |_| true)).contains("can't be read twice"));
    let writer = std::thread::spawn(move || {
        let mut pipe = fs::OpenOptions::new().write(true).open(path).unwrap();
        // Piece by piece, in the middle of names, marks and quotes.
        for piece in ["\u{feff}", "a", ",b\n1,", "\"x", "\ny\"\n3,", "4"] {
            pipe.write_all(piece.as_bytes()).unwrap();
            pipe.flush().unwrap();
            std::thread::yield_now();
        }
    });
    let lines = drain(inputs.open(Position::default()).unwrap());
    writer.join().unwrap();
    assert_eq!(lines.iter().map(row).collect::<Vec<_>>(), ["a=<1> b=<x\ny>", "a=<3> b=<4>"]);
    assert_eq!(lines[1].place, "pipe.csv, line 4");
}

#[test]
fn what_a_file_is() {
    let big = vec![b'a'; (2 << 20) + 1];
    let folder = folder(&[("a.txt", b"abc"), ("b.txt", b""), ("c.txt", &big)]);
    let inputs = inputs(folder.path(), &["a.txt", "b.txt", "c.txt"], None).unwrap();
    let mut n_bytes = 0;
    let mut count = |n| {
        n_bytes += n;
        true
    };
    let ids = inputs.fingerprint(&mut count).unwrap();
    let id = |name: &str, bytes, sha256: &str| FileId {
        name: name.into(),
        bytes,
        sha256: sha256.into(),
    };
    // The first two are FIPS 180's examples; the third is sha256sum's.
    assert_eq!(
        ids,
        [
            id("a.txt", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            id("b.txt", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            id(
                "c.txt",
                big.len() as u64,
                "16a429a1e5162fcf59e3079724763e9afafcef1e2c7f862571e9267b3d959113"
            ),
        ]
    );
    assert_eq!(n_bytes, 3 + big.len() as u64);
    let mut calls = 0;
    let stopped = inputs.fingerprint(&mut |_| {
        calls += 1;
        calls < 2
    });
    assert!(matches!(stopped, Err(Error::Stopped)));
    assert_eq!(calls, 2);
}

/// Everything that a reader says of a row, but the row's own number.
fn said(line: &Line) -> (Position, Position, String, String) {
    (line.at, line.next, line.place.clone(), row(line))
}

/// Reads these files from the beginning, then from every place that was named, and compares the rest.
fn check_every_place(files: &[(&str, &[u8])]) -> Result<(), TestCaseError> {
    let folder = folder(files);
    let names: Vec<_> = files.iter().map(|(name, _)| *name).collect();
    let inputs = inputs(folder.path(), &names, None).expect("the files are there");
    // What is wrong with a file as a whole ends both readings at the same place.
    let read = |from| {
        let mut said_all = Vec::new();
        let mut rows = match inputs.open(from) {
            Ok(rows) => rows,
            Err(error) => return (said_all, Some(error.to_string())),
        };
        loop {
            match rows.next() {
                Ok(Some(line)) => said_all.push(said(&line)),
                Ok(None) => return (said_all, None),
                Err(error) => return (said_all, Some(error.to_string())),
            }
        }
    };
    let (all, end) = read(Position::default());
    let n_bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    prop_assert!(all.len() <= n_bytes);
    for (i, (at, next, ..)) in all.iter().enumerate() {
        prop_assert_eq!(at.row, i as u64);
        prop_assert_eq!(next.row, i as u64 + 1);
        prop_assert!((at.file, at.offset) < (next.file, next.offset));
        prop_assert_eq!(&read(*at), &(all[i..].to_vec(), end.clone()));
        prop_assert_eq!(&read(*next), &(all[i + 1..].to_vec(), end.clone()));
    }
    Ok(())
}

/// Bytes that are often nearly rows.
fn nearly_rows() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            &b"\n"[..],
            b"\n",
            b"\r\n",
            b"\r",
            b",",
            b"\t",
            b"\"",
            b"\"\"",
            b"\xef\xbb\xbf",
            b"\xff",
            b" ",
            b"\0",
            b"a",
            b"a,b\n",
            b"x\ty\n",
            b"{\"a\":1}\n",
            b"{\"a\":\"x\",\"b\":[2]}\n",
            b"{",
            b"}",
            b"[",
            b"1,2\n",
            b"\"q\nq\",2\n",
            b"\xc3\xa9",
            b"\\",
            b"\"\r",
            b"{\"a\":1,\"a\":1}",
        ])
        .prop_map(<[u8]>::to_vec),
        prop::collection::vec(any::<u8>(), 0..6),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn reading_goes_on_from_every_place(first in nearly_rows(), second in nearly_rows()) {
        for names in [["a.jsonl", "b.jsonl"], ["a.txt", "b.txt"]] {
            check_every_place(&[(names[0], &first), (names[1], &second)])?;
        }
        // Sound names, so that rows follow.
        let file = |head: &str, rest: &[u8]| [head.as_bytes(), rest].concat();
        check_every_place(&[("a.csv", &file("\"a\",b\r", &first)), ("b.csv", &file("c\n", &second))])?;
        check_every_place(&[("a.tsv", &file("\u{feff}\r\na\tb\r\n", &first)), ("b.tsv", &second)])?;
    }

    #[test]
    fn json_values_keep_their_characters(
        values in prop::collection::vec(json(), 0..8),
        texts in prop::collection::vec(any::<String>(), 0..4),
    ) {
        let mut cells: Vec<String> =
            values.iter().enumerate().map(|(i, value)| format!("\"v{i}\" :{value} ")).collect();
        for (i, text) in texts.iter().enumerate() {
            cells.push(format!("\"t{i}\":{}", serde_json::to_string(text).unwrap()));
        }
        let lines = read(Format::Jsonl, format!("{{{}}}", cells.join(",")));
        let row = lines[0].row.as_ref().expect("sound JSON");
        prop_assert_eq!(row.len(), cells.len());
        for (i, value) in values.iter().enumerate() {
            prop_assert_eq!(&shown(row.get(&format!("v{i}")).unwrap()), value);
        }
        for (i, text) in texts.iter().enumerate() {
            prop_assert_eq!(shown(row.get(&format!("t{i}")).unwrap()), format!("<{text}>"));
        }
    }

    #[test]
    fn csv_cells_keep_their_characters(
        rows in prop::collection::vec((any::<String>(), "[a\"\r\n, ]*"), 1..6),
    ) {
        let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        let file: String = rows.iter().fold("x,y\n".into(), |file, (x, y)| {
            format!("{file}{},{}\r\n", quoted(x), quoted(y))
        });
        let wanted: Vec<_> = rows.iter().map(|(x, y)| format!("x=<{x}> y=<{y}>")).collect();
        prop_assert_eq!(rows_of(Format::Csv, file), wanted);
    }
}

/// A JSON value that is no text, in characters that a program would not write again.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?",
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4)
                .prop_map(|items| format!("[ {} ]", items.join(" ,"))),
            prop::collection::vec(inner, 0..4).prop_map(|items| {
                let pairs: Vec<_> =
                    items.iter().map(|item| format!("\"\\u006b]}}\" : {item}")).collect();
                format!("{{{}\t}}", pairs.join(","))
            }),
        ]
    })
}
