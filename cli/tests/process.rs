//! Conversion as a process: killed, interrupted, without room, over its own source. What was there
//! before stays, or the whole new file takes its place.
#![cfg(unix)]

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

fn checkpoint() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo")
}

fn convert(source: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pith"));
    command.arg("convert").arg(source).arg("-o").arg(out).args(["--type", "q4_k"]).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn run(command: &mut Command) -> Output {
    command.output().expect("pith starts")
}

/// The bytes of a whole conversion, and how long it took.
fn whole(folder: &TempDir, more: &[&str]) -> (Vec<u8>, Duration) {
    let out = folder.path().join("whole.gguf");
    let start = Instant::now();
    let output = run(&mut convert(&checkpoint(), &out, more));
    let took = start.elapsed();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bytes = fs::read(&out).expect("a file");
    fs::remove_file(&out).expect("a file");
    (bytes, took)
}

/// Names in a folder, but for those given.
fn others(folder: &TempDir, but: &[&str]) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("one"));
    let names = entries.map(|entry| entry.file_name().into_string().expect("UTF-8"));
    names.filter(|name| !but.contains(&name.as_str())).collect()
}

fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    Command::new("kill").args([&format!("-{name}"), &id]).status().expect("kill");
}

#[test]
fn a_kill_at_any_instant_leaves_the_old_file_or_the_whole_new_one() {
    const KILLS: u32 = 20;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (new, took) = whole(&folder, &[]);
    let out = folder.path().join("out.gguf");
    let mut killed = 0;
    for i in 0..KILLS {
        let old = (i % 2 == 0).then_some(b"an older file".to_vec());
        match &old {
            Some(old) => fs::write(&out, old).expect("written"),
            None => _ = fs::remove_file(&out),
        }
        let mut child = convert(&checkpoint(), &out, &[]).spawn().expect("pith starts");
        thread::sleep(took * i / (KILLS - 4));
        let _ = child.kill();
        let status = child.wait().expect("it ends");
        killed += u32::from(status.signal() == Some(9));
        let found = fs::read(&out).ok();
        let is_whole = found.as_ref() == Some(&new);
        assert!(found == old || is_whole, "kill {i}: {} bytes", found.map_or(0, |f| f.len()));
        assert!(is_whole || !status.success());
    }
    assert!(killed > 0, "no conversion was killed");
}

#[test]
fn an_interrupted_conversion_leaves_no_temporary_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (_, took) = whole(&folder, &[]);
    let out = folder.path().join("out.gguf");
    for i in 1..8 {
        fs::write(&out, "older").expect("written");
        let mut child = convert(&checkpoint(), &out, &[]).spawn().expect("pith starts");
        thread::sleep(took * i / 8);
        signal(&child, "INT");
        let status = child.wait().expect("it ends");
        // A signal before the handler is in place ends it as well, before there is a file.
        let known = matches!(status.code(), Some(0 | 130)) || status.signal() == Some(2);
        assert!(known, "{status}");
        assert_eq!(others(&folder, &["out.gguf"]), [""; 0]);
        assert!(status.success() || fs::read(&out).expect("a file") == b"older");
    }
}

/// A limit on the size of files takes the place of a full disk: writing fails at some byte.
#[test]
fn a_full_disk_leaves_the_old_file_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("out.gguf");
    fs::write(&out, "older").expect("written");
    for blocks in ["0", "8", "1000", "3000"] {
        let pith = env!("CARGO_BIN_EXE_pith");
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh", pith, "convert"]).arg(checkpoint()).arg("-o").arg(&out);
        let output = run(command.stdin(Stdio::null()).stderr(Stdio::piped()));
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(4), "{error}");
        assert!(error.contains("cannot write"), "{error}");
        assert_eq!(fs::read(&out).expect("a file"), b"older");
        assert_eq!(others(&folder, &["out.gguf"]), [""; 0]);
    }
}

#[test]
fn threads_do_not_change_a_byte() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (one, _) = whole(&folder, &["--threads", "1"]);
    for threads in ["2", "3"] {
        assert!(whole(&folder, &["--threads", threads]).0 == one, "{threads} threads");
    }
    assert!(whole(&folder, &["--no-check"]).0 == one, "the check changes nothing");
}

#[test]
fn the_source_is_read_only_and_never_written_over() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = folder.path().join("checkpoint");
    fs::create_dir(&source).expect("made");
    let names = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"];
    for name in names {
        fs::copy(checkpoint().join(name), source.join(name)).expect("copied");
    }
    let state = || {
        names.map(|name| {
            let path = source.join(name);
            let times = fs::metadata(&path).expect("there").modified().expect("a time");
            (fs::read(path).expect("bytes"), times)
        })
    };
    let before = state();
    let weights = source.join("model.safetensors");
    let (soft, hard) = (folder.path().join("soft.gguf"), folder.path().join("hard.gguf"));
    std::os::unix::fs::symlink(&weights, &soft).expect("a symbolic link");
    fs::hard_link(&weights, &hard).expect("a link");
    for out in [&weights, &soft, &hard, &source.join("tokenizer.json")] {
        let output = run(&mut convert(&source, out, &[]));
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains("part of the checkpoint"), "{error}");
    }
    let out = folder.path().join("out.gguf");
    assert!(run(&mut convert(&source, &out, &[])).status.success());
    assert!(state() == before, "the checkpoint was changed");
    assert_eq!(others(&folder, &["checkpoint", "soft.gguf", "hard.gguf", "out.gguf"]), [""; 0]);
}

/// All that the report says is in `--json`, and the text has the check.
#[test]
fn the_report_has_the_check() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("out.gguf");
    let say = |more: &[&str]| {
        let output = run(convert(&checkpoint(), &out, more).stdout(Stdio::piped()));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let json: serde_json::Value = serde_json::from_str(&say(&["--json"])).expect("JSON");
    let check = &json["check"];
    assert!(
        check["kl"].as_f64() < check["kl_limit"].as_f64() && check["top1"].as_f64() > Some(0.5)
    );
    assert!(json["folded"].as_array().is_some_and(|folded| !folded.is_empty()));
    let text = say(&[]);
    assert!(text.contains("KL") && text.contains("top-1") && text.contains("transposed"), "{text}");
    assert!(say(&["--no-check"]).contains("not checked"));
    let json: serde_json::Value =
        serde_json::from_str(&say(&["--json", "--no-check"])).expect("JSON");
    assert!(json["check"].is_null());
}
