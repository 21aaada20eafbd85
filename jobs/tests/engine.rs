//! The loop of a job, with tasks that answer as awkwardly as they may.

mod fakes;

use std::{
    fs,
    io::{self, ErrorKind, Write},
    time::Duration,
};

use fakes::*;
use pith::{Error, Result};
use pith_jobs::{
    engine::{Every, Job, Limits, Status, Target, Watch, run},
    journal::Start,
    row::{Row, RowError},
    sink::{Choice, Output},
    task::{Answer, Column, Pulse, Task},
};
use serde_json::Value;

fn keep(names: &[&str]) -> Choice {
    let keep = Some(names.iter().map(|name| (*name).to_owned()).collect());
    Choice { keep, ..Choice::default() }
}

fn fault<T>(result: Result<T>) -> String {
    result.err().expect("an error").to_string()
}

/// Rows of all kinds: `made`, one after the other, that `n` of them can be told by eye.
fn kinds(i: u64) -> Read {
    match i {
        0 => row(&[("id", raw("1.50")), ("text", text("a")), ("more", raw("{\"b\": [1]}"))]),
        1 => unread("json"),
        2 => row(&[("id", raw("null")), ("text", text("refused")), ("more", raw("[\n1]"))]),
        3 => row(&[("id", text("\u{1}\"")), ("text", text("fails")), ("more", raw("2"))]),
        4 => row(&[("id", raw("4")), ("more", raw("2"))]),
        _ => row(&[("id", raw("5")), ("text", text("b,c")), ("more", text(""))]),
    }
}

#[test]
fn records_are_json_objects_in_order() {
    let (out, summary) = streamed(6, kinds, Output::Jsonl, Fake::default(), |_| {});
    let wanted = r#"{"id":1.50,"text":"a","more":{"b": [1]},"label":"<a>","score":97.50}
{"line":"line 2","label":null,"score":null,"error":"json: no row"}
{"id":null,"text":"refused","more":[ 1],"label":null,"score":null,"error":"too_long: it's refused"}
{"id":"\u0001\"","text":"fails","more":2,"label":null,"score":null,"error":"context: it failed"}
{"id":4,"more":2,"label":null,"score":null,"error":"missing_column: no text"}
{"id":5,"text":"b,c","more":"","label":"<b,c>","score":241.50}
"#;
    assert_eq!(out, wanted);
    let summary = summary.unwrap();
    assert_eq!((summary.rows, summary.failed, summary.resumed_at_row), (6, 4, 0));
    assert!(summary.tokens > 0 && !summary.was_done && summary.bad_row.is_none());
}

#[test]
fn records_are_lines_of_a_table() {
    let wanted = "id,text,more,label,score,error
1.50,a,\"{\"\"b\"\": [1]}\",<a>,97.50,
,,,,,json: line 2: no row
,refused,\"[\n1]\",,,too_long: it's refused
\"\u{1}\"\"\",fails,2,,,context: it failed
4,,2,,,missing_column: no text
5,\"b,c\",,\"<b,c>\",241.50,
";
    let (out, _) = streamed(6, kinds, Output::Csv, Fake::default(), |_| {});
    assert_eq!(out, wanted);
    let (out, _) =
        streamed(6, kinds, Output::Tsv, Fake::default(), |job| job.choice = keep(&["text"]));
    assert!(
        out.starts_with("text\tlabel\tscore\terror\na\t<a>\t97.50\t\n\t\t\tjson: line 2"),
        "{out}"
    );
    assert!(out.ends_with("\nb,c\t<b,c>\t241.50\t\n"), "{out}");
}

#[test]
fn the_order_of_answers_changes_nothing() {
    for output in [Output::Jsonl, Output::Csv] {
        let (wanted, _) = streamed(100, made, output, Fake::default(), |_| {});
        assert_eq!(wanted.matches("error").count(), if output == Output::Csv { 1 } else { 27 });
        for room in [1, 2, 7, 1000] {
            for (backwards, holds) in [(true, false), (false, true), (true, true)] {
                for rows in [1, 3, 64] {
                    let fake = Fake { room, batch: room, backwards, holds, ..Fake::default() };
                    let (out, summary) = streamed(100, made, output, fake, |job| {
                        job.limits.rows = rows;
                    });
                    assert_eq!(summary.unwrap().rows, 100);
                    assert_eq!(out, wanted, "{room} {backwards} {holds} {rows}");
                }
            }
        }
    }
}

#[test]
fn what_is_in_flight_is_bound() {
    let most = |limits: Limits, holds| {
        let fake = Fake { room: usize::MAX, holds, ..Fake::default() };
        let mut worker = Worker::new(fake);
        let mut job = job(2000, made, Output::Jsonl, Target::Stream(Box::new(io::sink())));
        job.limits = limits;
        let summary = run(&mut job, &mut worker, &mut Patient).unwrap();
        assert_eq!((summary.rows, worker.rows.len()), (2000, 0));
        worker.most
    };
    for holds in [false, true] {
        let few = most(Limits { rows: 50, bytes: usize::MAX }, holds);
        assert!((40..=50).contains(&few), "{few}");
        let few = most(Limits { rows: usize::MAX, bytes: 10_000 }, holds);
        assert!((30..=80).contains(&few), "{few}");
        assert_eq!(most(Limits { rows: 0, bytes: 0 }, holds), 1, "one row is always taken");
    }
}

#[test]
fn failing_fast_ends_at_the_first_bad_row() {
    for output in [Output::Jsonl, Output::Csv] {
        for (skip, n, bad) in [(0, 3, "line 4: json: no row"), (4, 1, "line 6: too_long")] {
            let make = if skip == 0 { made } else { |i| if i < 5 { made(0) } else { made(i) } };
            let (out, summary) = streamed(100, make, output, Fake::default(), |job| {
                job.fail_fast = true;
            });
            let summary = summary.unwrap();
            assert_eq!(summary.failed, 0);
            assert_eq!(summary.rows, n + skip);
            assert!(summary.bad_row.unwrap().starts_with(bad));
            assert!(!out.contains("json"), "{out}");
        }
        let (out, summary) = streamed(
            9,
            |_| unread("utf8"),
            output,
            Fake::default(),
            |job| {
                job.fail_fast = true;
            },
        );
        assert_eq!((out.as_str(), summary.unwrap().rows), ("", 0));
    }
}

fn clashing(i: u64) -> Read {
    match i {
        1 => row(&[("text", text("a")), ("score", raw("1")), ("error", raw("2"))]),
        _ => row(&[("text", text("a"))]),
    }
}

#[test]
fn a_column_that_is_there_already_is_the_rows_error() {
    let (out, _) = streamed(3, clashing, Output::Jsonl, Fake::default(), |_| {});
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], r#"{"text":"a","label":"<a>","score":97.50}"#);
    assert_eq!(lines[2], lines[0]);
    let bad = r#"{"text":"a","score":1,"label":null,"error":"column_clash: the input has a column \"score\","#;
    assert!(lines[1].starts_with(bad) && lines[1].contains("--prefix"), "{}", lines[1]);

    let (out, _) = streamed(3, clashing, Output::Jsonl, Fake::default(), |job| {
        job.choice.prefix = "p_".to_owned();
    });
    let line = r#"{"text":"a","score":1,"error":2,"p_label":"<a>","p_score":97.50}"#;
    assert_eq!(out.lines().nth(1), Some(line));

    // A table has the same columns in each row: there is nothing to gain from going on.
    let header = |job: &mut Job<'_>| job.header = Some(vec!["text".to_owned(), "label".to_owned()]);
    let (out, result) = streamed(3, clashing, Output::Jsonl, Fake::default(), header);
    assert!(fault(result).contains("--prefix") && out.is_empty());
    let first = |_| row(&[("label", text("a"))]);
    let (_, result) = streamed(3, first, Output::Csv, Fake::default(), |_| {});
    assert!(fault(result).contains("\"label\""));
    for choice in [keep(&["text", "score"]), keep(&["error"]), keep(&["a", "a"])] {
        let (_, result) = streamed(3, clashing, Output::Jsonl, Fake::default(), |job| {
            job.choice = choice;
        });
        assert!(matches!(result, Err(Error::Invalid(_))));
    }
}

#[test]
fn columns_are_chosen() {
    let chosen = |choice: Choice| {
        let (out, _) =
            streamed(6, kinds, Output::Jsonl, Fake::default(), |job| job.choice = choice);
        out.lines().map(str::to_owned).collect::<Vec<String>>()
    };
    let id = Some("id".to_owned());
    let lines = chosen(keep(&["more", "none", "id"]));
    assert_eq!(lines[0], r#"{"more":{"b": [1]},"id":1.50,"label":"<a>","score":97.50}"#);
    let lines = chosen(Choice { id: id.clone(), ..keep(&["text", "id"]) });
    assert_eq!(lines[5], r#"{"id":5,"text":"b,c","label":"<b,c>","score":241.50}"#);
    let lines = chosen(Choice { id, ..Choice::default() });
    assert_eq!(lines[5], r#"{"id":5,"label":"<b,c>","score":241.50}"#);
    let lines = chosen(keep(&[]));
    assert_eq!(lines[0], r#"{"label":"<a>","score":97.50}"#);
    let lines = chosen(Choice { id: Some("text".to_owned()), ..Choice::default() });
    assert!(
        lines[4].contains("missing_column: no column \\\"text\\\", which --id names"),
        "{lines:?}"
    );

    let (_, result) = streamed(6, kinds, Output::Jsonl, Fake::default(), |job| {
        (job.choice, job.header) = (keep(&["txt"]), Some(vec!["id".into(), "text".into()]));
    });
    assert_eq!(fault(result), "no column \"txt\": the input has id, text");
}

#[test]
fn a_table_learns_its_columns_from_the_first_good_row() {
    let make = |i| match i {
        0 | 1 => unread("json"),
        2 => row(&[("a", raw("1")), ("text", text("x"))]),
        3 => row(&[("text", text("y"))]),
        4 => row(&[("text", text("z")), ("a", raw("2"))]),
        _ => row(&[("text", text("z")), ("b", raw("2"))]),
    };
    let (out, summary) = streamed(6, make, Output::Csv, Fake::default(), |_| {});
    let wanted = "a,text,label,score,error
,,,,json: line 1: no row
,,,,json: line 2: no row
1,x,<x>,120.50,
,y,<y>,121.50,
2,z,<z>,122.50,
,z,,,\"column_unknown: the table has no column \"\"b\"\", for the first row had none: name all with --keep\"
";
    assert_eq!(out, wanted);
    assert_eq!(summary.unwrap().failed, 3);

    let bad = |_| unread("json");
    let (out, _) = streamed(1, bad, Output::Csv, Fake::default(), |_| {});
    assert_eq!(out, "label,score,error\n,,json: line 1: no row\n");
    let (out, _) = streamed(0, bad, Output::Csv, Fake::default(), |job| {
        job.header = Some(vec!["a".to_owned()]);
    });
    assert_eq!(out, "a,label,score,error\n");
    let few = |job: &mut Job<'_>| job.limits.rows = 10;
    let (_, result) = streamed(100, bad, Output::Csv, Fake::default(), few);
    assert!(fault(result).contains("none of the first 10 rows"));
    let (out, _) = streamed(100, bad, Output::Csv, Fake::default(), |job| {
        few(job);
        job.choice = keep(&["a"]);
    });
    assert_eq!(out.lines().count(), 101, "chosen columns need no row");
}

/// Stops after so many looks, and keeps what it saw.
struct Stop(usize, Vec<Status>);

impl Watch for Stop {
    fn go_on(&mut self, status: &Status) -> bool {
        self.1.push(*status);
        self.1.len() <= self.0
    }
}

#[test]
fn a_watch_sees_progress_and_stops_the_job() {
    let (wanted, _) = streamed(100, made, Output::Jsonl, Fake::default(), |_| {});
    let mut looks = 0;
    loop {
        let mut bytes = Vec::new();
        let mut job = job(100, made, Output::Jsonl, Target::Stream(Box::new(&mut bytes)));
        let mut stop = Stop(looks, Vec::new());
        let fake = Fake { backwards: false, ..Fake::default() };
        let result = run(&mut job, &mut Worker::new(fake), &mut stop);
        drop(job);
        let last = *stop.1.last().unwrap();
        assert!(stop.1.is_sorted_by_key(|s| (s.rows, s.failed, s.tokens, s.done)));
        assert!(wanted.as_bytes().starts_with(&bytes));
        if let Ok(summary) = result {
            assert_eq!(wanted.len(), bytes.len());
            assert_eq!((last.rows, last.failed), (summary.rows, summary.failed));
            assert_eq!((last.done, last.total), (1000 - 10, Some(1000)), "one row ends a file");
            break;
        }
        assert!(matches!(result, Err(Error::Stopped)));
        let n_lines = bytes.iter().filter(|byte| **byte == b'\n').count();
        assert!(n_lines as u64 <= last.rows && last.rows < n_lines as u64 + 16);
        looks += 1;
    }
    assert!(looks > 20);
}

/// A task that does what none may.
struct Liar(fn(&mut dyn FnMut(u64, Answer)));

impl Task for Liar {
    fn columns(&self) -> Vec<Column> {
        Vec::new()
    }
    fn options(&self) -> Value {
        Value::Null
    }
    fn has_room(&self) -> bool {
        true
    }
    fn push(&mut self, _: u64, _: &Row) -> std::result::Result<(), RowError> {
        Ok(())
    }
    fn work(
        &mut self,
        _: bool,
        _: &mut dyn FnMut(Pulse) -> bool,
        done: &mut dyn FnMut(u64, Answer),
    ) -> Result<()> {
        (self.0)(done);
        Ok(())
    }
}

#[test]
fn a_task_that_breaks_its_promises_writes_no_wrong_row() {
    type Lie = fn(&mut dyn FnMut(u64, Answer));
    let lies: [Lie; 4] = [
        |_| {},
        |done| done(3, Ok(Vec::new())),
        |done| (0..2).for_each(|_| done(0, Ok(Vec::new()))),
        |done| done(0, Ok(vec![text("x")])),
    ];
    for (i, lie) in lies.into_iter().enumerate() {
        let mut bytes = Vec::new();
        let mut job = job(3, kinds, Output::Jsonl, Target::Stream(Box::new(&mut bytes)));
        let result = run(&mut job, &mut Liar(lie), &mut Patient);
        assert!(fault(result).contains("a fault of pith"), "lie {i}");
        drop(job);
        assert!(bytes.is_empty() || i == 2, "lie {i}");
    }
}

struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_closed_pipe_is_an_io_error() {
    let mut job = job(100, made, Output::Jsonl, Target::Stream(Box::new(Closed)));
    let result = run(&mut job, &mut Worker::new(Fake::default()), &mut Patient);
    let kind = |error: &Error| match error {
        Error::Io { source, .. } => Some(source.kind()),
        _ => None,
    };
    assert_eq!(kind(&result.unwrap_err()), Some(ErrorKind::BrokenPipe));
}

#[test]
fn a_long_work_commits_on_its_way() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.jsonl");
    // One call of `work` for all rows.
    let fake = Fake { room: 100, holds: true, backwards: false, ..Fake::default() };
    for (every, least) in [
        (Every { time: Duration::ZERO, bytes: usize::MAX }, 25),
        (Every { time: Duration::MAX, bytes: 1000 }, 5),
        (Every { time: Duration::MAX, bytes: usize::MAX }, 1),
    ] {
        let mut job = job(100, made, Output::Jsonl, file(&out, Start::Restart));
        job.every = every;
        run(&mut job, &mut Worker::new(fake), &mut Patient).unwrap();
        let manifest = fs::read_to_string(folder.path().join("out.jsonl.manifest.json")).unwrap();
        let n = manifest.matches("{\"commit\"").count();
        assert!(n >= least && (n < 2 * least), "{n} commits, {least} wanted");
    }
}
