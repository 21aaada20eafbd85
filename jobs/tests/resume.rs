//! A job that was killed, cut short or left without room, and resumed, writes the bytes of one that was
//! not.
#![cfg(unix)]

mod fakes;

use std::{
    cell::Cell,
    env, fs,
    io::Write,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use fakes::*;
use pith::{Error, Result};
use pith_jobs::{
    engine::{Every, Job, Status, Summary, Target, Watch, run},
    journal::Start,
    sink::Output,
};
use serde_json::json;
use tempfile::TempDir;

/// A kind of job: all that the journal tells apart.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Jsonl,
    Csv,
    Converted,
}

const KINDS: [Kind; 3] = [Kind::Jsonl, Kind::Csv, Kind::Converted];

impl Kind {
    fn output(self) -> Output {
        if self == Kind::Csv { Output::Csv } else { Output::Jsonl }
    }
}

/// A conversion, as that of a table to columns: a temporary file that is renamed.
fn convert(part: &Path, out: &Path) -> Result<()> {
    let temporary = out.with_extension("tmp");
    let records = fs::read_to_string(part).map_err(Error::io("read", part))?;
    let whole = format!("{} bytes\n{}", records.len(), records.to_uppercase());
    fs::write(&temporary, whole).map_err(Error::io("write", &temporary))?;
    fs::rename(&temporary, out).map_err(Error::io("rename", out))
}

fn job_of<'a>(kind: Kind, n: u64, out: &Path, start: Start) -> Job<'a> {
    let mut target = file(out, start);
    if let (Kind::Converted, Target::File { convert: by, .. }) = (kind, &mut target) {
        *by = Some(Box::new(convert));
    }
    job(n, made, kind.output(), target)
}

fn go(kind: Kind, n: u64, out: &Path, start: Start) -> Result<Summary> {
    run(&mut job_of(kind, n, out, start), &mut Worker::new(Fake::default()), &mut Patient)
}

/// The bytes of a job that nothing happens to.
fn whole(kind: Kind, n: u64) -> Vec<u8> {
    let folder = Folder::new();
    go(kind, n, &folder.out, Start::Fresh).expect("it runs");
    fs::read(&folder.out).expect("a file")
}

/// A folder with an output's files.
struct Folder {
    folder: TempDir,
    out: PathBuf,
    part: PathBuf,
    manifest: PathBuf,
}

impl Folder {
    fn new() -> Folder {
        // Thousands of commits: in memory, where a system has such a folder.
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { env::temp_dir() };
        let folder = tempfile::tempdir_in(parent).expect("a temporary folder");
        let at = |name| folder.path().join(name);
        let (out, part, manifest) = (at("out"), at("out.part"), at("out.manifest.json"));
        Folder { folder, out, part, manifest }
    }

    /// Makes the files those, or none.
    fn set(&self, out: Option<&[u8]>, part: Option<&[u8]>, manifest: Option<&[u8]>) {
        for (path, bytes) in [(&self.out, out), (&self.part, part), (&self.manifest, manifest)] {
            match bytes {
                Some(bytes) => fs::write(path, bytes).expect("written"),
                None => _ = fs::remove_file(path),
            }
        }
    }

    /// Whether the job is done and left nothing but what it should.
    fn assert_done(&self, wanted: &[u8], why: &str) {
        assert!(fs::read(&self.out).is_ok_and(|out| out == wanted), "{why}");
        let manifest = fs::read_to_string(&self.manifest).expect("a manifest");
        assert!(manifest.lines().last().is_some_and(|line| line.starts_with("{\"done\"")), "{why}");
        let names = fs::read_dir(self.folder.path()).expect("a folder").count();
        assert_eq!(names, 2, "{why}");
    }
}

/// Copies part and manifest whenever it is asked.
struct Copies<'f>(&'f Folder, Vec<(Vec<u8>, Vec<u8>)>);

impl Watch for Copies<'_> {
    fn go_on(&mut self, _: &Status) -> bool {
        let read = |path| fs::read(path).expect("a file");
        self.1.push((read(&self.0.part), read(&self.0.manifest)));
        true
    }
}

/// Part and manifest at each of a job's looks; each is how the next begins.
fn states(kind: Kind, n: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
    let folder = Folder::new();
    let mut copies = Copies(&folder, Vec::new());
    let mut job = job_of(kind, n, &folder.out, Start::Fresh);
    let fake = Fake { room: 1, ..Fake::default() };
    run(&mut job, &mut Worker::new(fake), &mut copies).expect("it runs");
    // Its records are all there, and the manifest's last lines are in the finished one alone.
    let part = copies.1.last().expect("a look").0.clone();
    copies.1.push((part, fs::read(&folder.manifest).expect("a manifest")));
    copies.1
}

#[test]
fn files_torn_at_any_byte_are_resumed() {
    const N: u64 = 6;
    for kind in KINDS {
        let wanted = whole(kind, N);
        let states = states(kind, N);
        let (part, manifest) = states.last().expect("the end");
        // Without its last line, which says that the output is in place.
        let end = manifest.iter().rposition(|byte| *byte == b'{').expect("a line");
        let end = manifest[..end].iter().rposition(|byte| *byte == b'\n').expect("a line") + 1;
        let folder = Folder::new();
        let resumed = |part: &[u8], manifest: &[u8], why: &str| {
            folder.set(None, Some(part), Some(manifest));
            let summary = go(kind, N, &folder.out, Start::Resume).expect(why);
            folder.assert_done(&wanted, why);
            summary.resumed_at_row
        };
        let longer = |bytes: &[u8]| [bytes, b"{\"id\":7,\"te"].concat();
        let mut seen = Vec::new();
        for at in 0..=end {
            let why = format!("{kind:?}, manifest cut at {at}");
            seen.push(resumed(part, &manifest[..at], &why));
        }
        for at in 0..=part.len() {
            let why = format!("{kind:?}, part cut at {at}");
            seen.push(resumed(&part[..at], &manifest[..end], &why));
        }
        for (i, (part, manifest)) in states[..states.len() - 1].iter().enumerate() {
            for (cut_part, cut_manifest) in [(0, 0), (0, 9), (5, 0), (9, 17), (60, 3), (3, 300)] {
                let part = &part[..part.len().saturating_sub(cut_part)];
                let manifest = &manifest[..manifest.len().saturating_sub(cut_manifest)];
                let why = format!("{kind:?}, state {i} less {cut_part} and {cut_manifest}");
                seen.push(resumed(part, manifest, &why));
                seen.push(resumed(&longer(part), &longer(manifest), &why));
            }
            let mut zeros = part.clone();
            let from = zeros.len() * 2 / 3;
            zeros[from..].fill(0);
            seen.push(resumed(&zeros, manifest, &format!("{kind:?}, state {i} with zeros")));
        }
        seen.sort_unstable();
        seen.dedup();
        assert!(seen.len() > 3, "{kind:?} was resumed at rows {seen:?} alone");
        assert_eq!((seen.first(), seen.last()), (Some(&0), Some(&N)));
    }
}

#[test]
fn each_step_of_the_end_is_resumed() {
    for kind in KINDS {
        let wanted = whole(kind, 8);
        let states = states(kind, 8);
        let (part, manifest) = states.last().expect("the end");
        let folder = Folder::new();
        let done = manifest.windows(6).rposition(|six| six == b"{\"done").expect("the last line");
        // The output has its name; its last line is torn.
        for at in done..manifest.len() {
            let part = (kind == Kind::Converted).then_some(part.as_slice());
            folder.set(Some(&wanted), part, Some(&manifest[..at]));
            let summary = go(kind, 8, &folder.out, Start::Resume).expect("resumed");
            folder.assert_done(&wanted, &format!("{kind:?}, cut at {at}"));
            assert_eq!((summary.rows, summary.resumed_at_row), (8, 8));
        }
        // Only its part, which was converted, is still there.
        folder.set(Some(&wanted), Some(part), Some(manifest));
        assert!(go(kind, 8, &folder.out, Start::Resume).expect("resumed").was_done);
        folder.assert_done(&wanted, "done");
        // The end was committed, and the output is another's: it is replaced.
        folder.set(Some(b"old"), Some(part), Some(&manifest[..done]));
        go(kind, 8, &folder.out, Start::Resume).expect("resumed");
        folder.assert_done(&wanted, "replaced");
        // A conversion that fails is tried again.
        if kind == Kind::Converted {
            folder.set(None, None, None);
            let mut job = job_of(kind, 8, &folder.out, Start::Fresh);
            if let Target::File { convert, .. } = &mut job.target {
                *convert = Some(Box::new(|_: &Path, _: &Path| Err(Error::Invalid("no".into()))));
            }
            let result = run(&mut job, &mut Worker::new(Fake::default()), &mut Patient);
            assert_eq!(result.unwrap_err().to_string(), "no");
            assert_eq!(go(kind, 8, &folder.out, Start::Resume).expect("resumed").resumed_at_row, 8);
            folder.assert_done(&wanted, "converted again");
        }
    }
}

#[test]
fn one_file_alone_is_enough_to_begin_again() {
    let wanted = whole(Kind::Csv, 8);
    let states = states(Kind::Csv, 8);
    let (part, manifest) = &states[states.len() - 2];
    let folder = Folder::new();
    for (part, manifest) in [
        (None, None),
        (Some(part.as_slice()), None),
        (None, Some(manifest.as_slice())),
        (Some(&b""[..]), Some(&b""[..])),
        (Some(part), Some(b"")),
        (Some(b""), Some(manifest)),
        (Some(b"\xff\0"), Some(b"\xff\0\n\n")),
    ] {
        folder.set(None, part, manifest);
        assert_eq!(go(Kind::Csv, 8, &folder.out, Start::Resume).unwrap().resumed_at_row, 0);
        folder.assert_done(&wanted, "begun again");
    }
}

#[test]
fn a_job_that_is_done_is_checked_and_left_alone() {
    for kind in KINDS {
        let folder = Folder::new();
        let first = go(kind, 30, &folder.out, Start::Fresh).unwrap();
        let wanted = fs::read(&folder.out).unwrap();
        let opened = Cell::new(false);
        let mut job = job_of(kind, 30, &folder.out, Start::Resume);
        job.open = Box::new(|_| {
            opened.set(true);
            Err(Error::Invalid("opened".to_owned()))
        });
        let again = run(&mut job, &mut Worker::new(Fake::default()), &mut Patient).unwrap();
        assert!(again.was_done && !opened.get());
        assert_eq!((again.rows, again.failed), (first.rows, first.failed));
        folder.assert_done(&wanted, "left alone");

        let refused = |start: Start, words: &str| {
            let error = go(kind, 30, &folder.out, start).unwrap_err();
            assert!(
                matches!(error, Error::Invalid(_)) && error.to_string().contains(words),
                "{error}"
            );
        };
        refused(Start::Fresh, "exists: --restart replaces it, --resume checks it");
        let mut changed = wanted.clone();
        changed[9] ^= 1;
        fs::write(&folder.out, &changed).unwrap();
        refused(Start::Resume, "the file was changed");
        fs::remove_file(&folder.manifest).unwrap();
        refused(Start::Resume, "without its manifest");
        refused(Start::Fresh, "exists");
        assert_eq!(fs::read(&folder.out).unwrap(), changed, "nothing was touched");
        go(kind, 30, &folder.out, Start::Restart).unwrap();
        folder.assert_done(&wanted, "made again");
    }
}

/// Stops at a look.
struct StopAt(usize);

impl Watch for StopAt {
    fn go_on(&mut self, _: &Status) -> bool {
        self.0 = self.0.saturating_sub(1);
        self.0 > 0
    }
}

#[test]
fn a_stopped_job_keeps_what_was_ready() {
    let wanted = whole(Kind::Csv, 60);
    for looks in 1..30 {
        let folder = Folder::new();
        let mut job = job_of(Kind::Csv, 60, &folder.out, Start::Fresh);
        job.every = Every { time: Duration::MAX, bytes: usize::MAX };
        let fake = Fake { backwards: false, ..Fake::default() };
        let result = run(&mut job, &mut Worker::new(fake), &mut StopAt(looks));
        assert!(matches!(result, Err(Error::Stopped)));
        drop(job);
        let part = fs::read(&folder.part).unwrap();
        assert!(wanted.starts_with(&part) && (looks < 4 || !part.is_empty()));
        let error = go(Kind::Csv, 60, &folder.out, Start::Fresh).unwrap_err().to_string();
        assert!(error.contains("was begun: --resume goes on with it, --restart begins"), "{error}");
        let summary = go(Kind::Csv, 60, &folder.out, Start::Resume).unwrap();
        assert!(summary.resumed_at_row > 0 || looks < 4);
        folder.assert_done(&wanted, "resumed");
    }
}

#[test]
fn a_bad_row_that_ended_a_job_is_met_again_or_passed() {
    let folder = Folder::new();
    let quick = |start, fail_fast| {
        let mut job = job_of(Kind::Jsonl, 30, &folder.out, start);
        job.fail_fast = fail_fast;
        run(&mut job, &mut Worker::new(Fake::default()), &mut Patient).unwrap()
    };
    for start in [Start::Fresh, Start::Resume] {
        let summary = quick(start, true);
        assert_eq!((summary.rows, summary.failed), (3, 0));
        assert_eq!(summary.bad_row.as_deref(), Some("line 4: json: no row"));
        assert!(!folder.out.exists());
    }
    assert_eq!(quick(Start::Resume, false).resumed_at_row, 3);
    folder.assert_done(&whole(Kind::Jsonl, 30), "passed");
}

#[test]
fn another_job_is_refused_by_what_differs() {
    let folder = Folder::new();
    let mut job = job_of(Kind::Jsonl, 60, &folder.out, Start::Fresh);
    let stopped = run(&mut job, &mut Worker::new(Fake::default()), &mut StopAt(12));
    assert!(matches!(stopped, Err(Error::Stopped)));
    drop(job);
    let before = (fs::read(&folder.part).unwrap(), fs::read(&folder.manifest).unwrap());
    for (key, value, words) in [
        ("version", json!("0.2.0"), "version was \"0.1.0\", is \"0.2.0\""),
        ("options", json!({"k": 2}), "options.k was 1, is 2"),
        ("options", json!({}), "options.k was 1, is not set"),
        ("model", json!({"name": "m", "bytes": 3, "sha256": "ab"}), "model was m.gguf (sha256 aa"),
        (
            "inputs",
            json!([{"name": "a", "bytes": 30, "sha256": "bc"}]),
            "inputs[0] was a (sha256 bb",
        ),
        ("inputs", json!([]), "(1 values), is [] (0 values)"),
        ("columns", json!(["a"]), "columns was not set, is [\"a\"]"),
    ] {
        let mut job = job_of(Kind::Jsonl, 60, &folder.out, Start::Resume);
        if let Target::File { fingerprint, .. } = &mut job.target {
            fingerprint.insert(key.to_owned(), value);
        }
        let result = run(&mut job, &mut Worker::new(Fake::default()), &mut Patient);
        let error = result.unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("--restart"), "{error}");
        let after = (fs::read(&folder.part).unwrap(), fs::read(&folder.manifest).unwrap());
        assert!(before == after, "{key}: nothing was touched");
    }
    // Files may move.
    let mut job = job_of(Kind::Jsonl, 60, &folder.out, Start::Resume);
    if let Target::File { fingerprint, .. } = &mut job.target {
        fingerprint["model"]["name"] = json!("elsewhere.gguf");
    }
    run(&mut job, &mut Worker::new(Fake::default()), &mut Patient).unwrap();
    folder.assert_done(&whole(Kind::Jsonl, 60), "moved");
}

#[test]
fn what_is_no_file_is_not_replaced() {
    let folder = Folder::new();
    fs::create_dir(&folder.out).unwrap();
    for start in [Start::Fresh, Start::Resume, Start::Restart] {
        let error = go(Kind::Jsonl, 3, &folder.out, start).unwrap_err();
        assert!(error.to_string().contains("no file that can be replaced"), "{error}");
    }
    assert_eq!(fs::read_dir(folder.folder.path()).unwrap().count(), 1);
    let missing = folder.folder.path().join("no folder").join("out");
    assert!(matches!(go(Kind::Jsonl, 3, &missing, Start::Fresh), Err(Error::Io { .. })));
}

/// What a child does: the job that its environment names. As a test it is empty.
#[test]
fn child() {
    let Ok(task) = env::var("PITH_TEST_JOB") else { return };
    let mut words = task.split(' ');
    let mut word = || words.next().expect("a word");
    let (kind, n, slow, out) = (word(), word(), word(), word());
    let kind = *KINDS.iter().find(|one| format!("{one:?}") == kind).expect("a kind");
    let mut job = job_of(kind, n.parse().expect("rows"), Path::new(out), Start::Resume);
    job.every = Every { time: Duration::from_millis(3), bytes: 2000 };
    let slow = Duration::from_micros(slow.parse().expect("a time"));
    let fake = Fake { slow, room: 32, ..Fake::default() };
    if let Err(error) = run(&mut job, &mut Worker::new(fake), &mut Patient) {
        let _ = writeln!(std::io::stderr(), "{error}");
        std::process::exit(4);
    }
}

/// This binary, to do a job; `limit` is a shell's `ulimit -f`.
fn child_of(kind: Kind, n: u64, slow: u32, out: &Path, limit: Option<u32>) -> Command {
    let this = env::current_exe().expect("this binary");
    let mut command = match limit {
        None => Command::new(this),
        Some(blocks) => {
            let mut shell = Command::new("sh");
            let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
            shell.args(["-c", &script, "sh"]).arg(this);
            shell
        }
    };
    command.args(["--exact", "child", "--nocapture"]);
    command.env("PITH_TEST_JOB", format!("{kind:?} {n} {slow} {}", out.display()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn end(child: Child) -> (ExitStatus, String) {
    let output = child.wait_with_output().expect("it ends");
    (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn kills_at_any_instant_change_no_byte() {
    const KILLS: usize = 20; // of each kind of job
    const N: u64 = 2000;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut resumed = 0;
    for kind in KINDS {
        let folder = Folder::new();
        let start = Instant::now();
        let (status, error) =
            end(child_of(kind, N, 50, &folder.out, None).spawn().expect("it starts"));
        let took = start.elapsed().as_micros() as u64;
        assert!(status.success(), "{error}");
        let wanted = fs::read(&folder.out).expect("a file");
        folder.set(None, None, None);
        let mut killed = 0;
        while killed < KILLS {
            let mut child = child_of(kind, N, 50, &folder.out, None).spawn().expect("it starts");
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            sleep(Duration::from_micros(random % (took / 6)));
            let _ = child.kill();
            let (status, error) = end(child);
            // A conversion may be killed with its temporary file in place.
            let _ = fs::remove_file(folder.out.with_extension("tmp"));
            if status.success() {
                folder.assert_done(&wanted, &format!("{kind:?}, {killed} kills"));
                folder.set(None, None, None);
                continue;
            }
            assert_eq!(status.signal(), Some(9), "{status}: {error}");
            killed += 1;
            resumed += usize::from(fs::metadata(&folder.part).is_ok_and(|part| part.len() > 0));
        }
        go(kind, N, &folder.out, Start::Resume).expect("resumed");
        folder.assert_done(&wanted, &format!("{kind:?}, {killed} kills"));
    }
    assert!(resumed > KILLS, "{resumed} kills left something");
}

/// A limit on the size of files takes the place of a full disk: writing fails at some byte.
#[test]
fn a_full_disk_ends_a_job_that_can_be_resumed() {
    for kind in KINDS {
        let wanted = whole(kind, 600);
        let mut lengths = Vec::new();
        for limit in [0, 1, 2, 8, 30] {
            let folder = Folder::new();
            for _ in 0..2 {
                let child = child_of(kind, 600, 0, &folder.out, Some(limit)).spawn();
                let (status, error) = end(child.expect("it starts"));
                assert_eq!(status.code(), Some(4), "{kind:?}, {limit}: {error}");
                assert!(error.contains("cannot write"), "{error}");
                assert!(!folder.out.exists());
            }
            lengths.push(fs::metadata(&folder.part).map_or(0, |part| part.len()));
            go(kind, 600, &folder.out, Start::Resume).expect("resumed");
            folder.assert_done(&wanted, &format!("{kind:?}, {limit}"));
        }
        assert!(lengths.is_sorted() && lengths[0] < lengths[4], "{lengths:?}");
    }
}

#[test]
fn a_second_process_is_refused() {
    let folder = Folder::new();
    let mut child = child_of(Kind::Jsonl, 100_000, 1000, &folder.out, None).spawn().unwrap();
    while !fs::metadata(&folder.part).is_ok_and(|part| part.len() > 0) {
        assert!(child.try_wait().unwrap().is_none(), "it works for long");
        sleep(Duration::from_millis(2));
    }
    for start in [Start::Resume, Start::Restart] {
        let error = go(Kind::Jsonl, 100_000, &folder.out, start).unwrap_err().to_string();
        assert!(error.contains("another process is writing"), "{error}");
    }
    assert!(child.try_wait().unwrap().is_none(), "it works for long");
    child.kill().unwrap();
    child.wait().unwrap();
    go(Kind::Jsonl, 100_000, &folder.out, Start::Restart).unwrap();
}
