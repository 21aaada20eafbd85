//! `pith classify` on the tiny checkpoints with heads, against what PyTorch said of them.

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

#[path = "../../tests/goldens/support/checkpoint.rs"]
mod checkpoint;
use checkpoint::{Checkpoint, Layout};

fn pith(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pith"));
    command.args(args).stdin(Stdio::null()).output().expect("pith starts")
}

fn stdout(args: &[&str]) -> String {
    let output = pith(args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "pith {args:?}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The error's exit code and text.
fn refused(args: &[&str]) -> (i32, String) {
    let output = pith(args);
    assert!(output.stdout.is_empty(), "{args:?}");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// A converted variant, and what the converter said.
fn converted(folder: &Path, variant: &str) -> (String, String) {
    let name = variant.replace('/', "-");
    let source = folder.join(&name);
    std::fs::create_dir_all(&source).unwrap();
    Checkpoint::open(variant).write(&source, Layout::PLAIN);
    let out = folder.join(format!("{name}.gguf")).to_str().unwrap().to_owned();
    let said = stdout(&["convert", source.to_str().unwrap(), "-o", &out, "--type", "f32"]);
    (out, said)
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_text_gets_pytorchs_labels_and_probabilities() {
    let folder = folder();
    for variant in ["heads/gpt2-sequence", "heads/llama-sequence", "heads/qwen2-sequence"] {
        let (model, said) = converted(folder.path(), variant);
        assert!(said.contains("sequence classifier"), "{said}");
        let golden = Checkpoint::open(variant).head_goldens().remove(0);
        let text = golden.text.unwrap();
        let json = stdout(&["classify", &model, "--text", &text, "--json"]);
        let object: Value = serde_json::from_str(&json).unwrap();
        let value = if golden.values.len() == 1 { "value" } else { "probability" };
        if golden.values.len() > 1 {
            assert_eq!(object["label"], golden.labels[0].as_str());
        }
        let labels = object["labels"].as_array().unwrap();
        let got: Vec<f64> = labels.iter().map(|l| l[value].as_f64().unwrap()).collect();
        let mut wanted: Vec<f64> = golden.values.iter().map(|&v| f64::from(v)).collect();
        wanted.sort_by(|a, b| b.total_cmp(a));
        assert_eq!(got.len(), wanted.len());
        assert!(got.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-4), "{got:?} {wanted:?}");
    }
}

#[test]
fn texts_come_from_arguments_rows_of_a_file_and_of_standard_input() {
    let folder = folder();
    let (model, _) = converted(folder.path(), "heads/gpt2-sequence");
    let lines = folder.path().join("lines.txt");
    std::fs::write(&lines, "one text\r\nanother\n").unwrap();
    let file = stdout(&["classify", &model, lines.to_str().unwrap()]);
    let arguments = ["classify", &model, "--text", "one text", "--text", "another"];
    let text = stdout(&arguments);
    assert_eq!(
        text.lines().filter(|line| line.contains("  0.") || line.contains("  1.")).count(),
        6
    );
    let objects = |text: &str| -> Vec<Value> {
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let (rows, said) = (objects(&file), objects(&stdout(&[&arguments[..], &["--json"]].concat())));
    for (row, said) in rows.iter().zip(&said) {
        assert_eq!((&row["label"], &row["labels"]), (&said["label"], &said["labels"]));
        assert_eq!(row["probability"], said["labels"][0]["probability"]);
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_pith"))
        .args(["classify", &model, "-", "--format", "lines"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"one text\nanother\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), file);
    assert_eq!(rows[1]["text"], "another");
    let top = stdout(&[&arguments[..4], &["--top", "1"]].concat());
    assert_eq!(top.lines().count(), 1);
    let best = rows[0]["label"].as_str().unwrap();
    assert!(top.starts_with(best), "{top}");
}

#[test]
fn tokens_get_labels_with_their_places_in_the_text() {
    let folder = folder();
    for variant in ["heads/gpt2-token", "heads/llama-token", "heads/gemma-token"] {
        let (model, _) = converted(folder.path(), variant);
        let golden = Checkpoint::open(variant).head_goldens().remove(0);
        let text = golden.text.unwrap();
        let args = ["classify", &model, "--text", &text];
        let json: Value =
            serde_json::from_str(&stdout(&[&args[..], &["--json"]].concat())).unwrap();
        let tokens = json["tokens"].as_array().unwrap();
        let labels: Vec<&str> = tokens.iter().map(|t| t["label"].as_str().unwrap()).collect();
        assert_eq!(labels, golden.labels, "{variant}");
        let mut end = 0;
        for (token, id) in tokens.iter().zip(&golden.ids) {
            assert_eq!(token["id"], *id);
            assert_eq!(token["labels"].as_array().unwrap().len(), 1);
            if let Some(start) = token["start"].as_u64() {
                assert_eq!(start, end, "{variant}: {token}");
                end = token["end"].as_u64().unwrap();
                let part = &text[start as usize..end as usize];
                assert_eq!(part.trim_start(), token["token"].as_str().unwrap().trim_start());
            }
        }
        assert_eq!(end, text.len() as u64, "{variant}");
        assert_eq!(stdout(&args).lines().count(), tokens.len());
    }
}

#[test]
fn a_model_of_the_other_kind_is_refused_with_the_next_step() {
    let folder = folder();
    let (classifier, _) = converted(folder.path(), "heads/gpt2-sequence");
    let (generator, _) = converted(folder.path(), "gpt2");
    for args in [
        &["run", &classifier, "--prompt", "x"][..],
        &["chat", &classifier],
        &["bench", &classifier, "--prompt", "4"],
    ] {
        let (code, said) = refused(args);
        assert!(code == 3 && said.contains("pith classify"), "{args:?}: {code} {said}");
    }
    let (code, said) = refused(&["classify", &generator, "--text", "x"]);
    assert!(code == 3 && said.contains("no classification head"), "{code} {said}");
}

#[test]
fn a_file_is_classified_within_a_ceiling_that_is_enough_for_one_text() {
    let folder = folder();
    let (model, _) = converted(folder.path(), "heads/gpt2-sequence");
    let rows = folder.path().join("rows.txt").to_str().unwrap().to_owned();
    std::fs::write(&rows, "one\ntwo and three\nfour\n").unwrap();
    let args = ["classify", &model, &rows];
    let (code, said) = refused(&[&args[..], &["--max-memory", "1"]].concat());
    assert_eq!(code, 5, "{said}");
    let needed = said.split(' ').find(|word| word.parse::<u64>().is_ok()).unwrap();
    assert_eq!(stdout(&[&args[..], &["--max-memory", needed]].concat()), stdout(&args));
}

#[test]
fn what_makes_no_sense_has_its_exit_code() {
    let folder = folder();
    let (model, _) = converted(folder.path(), "heads/gpt2-sequence");
    assert_eq!(refused(&["classify", &model]).0, 2);
    assert_eq!(refused(&["classify", &model, "y.txt", "--text", "x"]).0, 2);
    assert_eq!(refused(&["classify", &model, "--text", "x", "--labels", "a,b"]).0, 2);
    let (code, said) = refused(&["classify", &model, "--text", ""]);
    assert!(code == 2 && said.contains("text 1 is empty"), "{said}");
    assert_eq!(refused(&["classify", &model, "/nonexistent/lines.txt"]).0, 4);
    let long = "x".repeat(65);
    assert_eq!(refused(&["classify", &model, "--text", &long]).0, 5);
}

#[test]
fn inspect_shows_the_head() {
    let folder = folder();
    let (model, _) = converted(folder.path(), "heads/gpt2-sequence");
    let text = stdout(&["inspect", &model]);
    let shown = |label: &str| text.lines().any(|line| line.trim_end().ends_with(label));
    assert!(shown("negative") && shown("single_label_classification"), "{text}");
    let json: Value = serde_json::from_str(&stdout(&["inspect", &model, "--json"])).unwrap();
    assert_eq!(json["classifier"]["labels"][2], "positive");
    assert_eq!(json["classifier"]["kind"], "sequence");
}
