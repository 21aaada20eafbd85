//! What needs no model: help and usage.

use std::process::{Command, Output};

fn pith(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pith")).args(args).output().expect("pith starts")
}

#[test]
fn help_of_every_command_has_examples() {
    for command in ["convert", "run", "chat", "classify", "inspect", "bench", "kernels", "demo"] {
        let output = pith(&[command, "--help"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success());
        assert!(text.contains("Example") && text.contains(&format!("pith {command}")), "{text}");
    }
}

#[test]
fn families_are_listed_with_their_classes() {
    let output = pith(&["convert", "--list-families"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1 + pith_models::FAMILIES.len());
    for (line, family) in text.lines().skip(1).zip(pith_models::FAMILIES) {
        let rest = line.strip_prefix(family.title).expect(line);
        let mut words = rest.split_whitespace().map(|word| word.trim_end_matches(','));
        assert_eq!(words.next(), Some(family.arch));
        assert_eq!(words.next(), Some(if family.stock { "yes" } else { "no" }));
        assert_eq!(words.collect::<Vec<_>>(), family.classes);
    }
    // It needs no source, and a conversion does.
    assert_eq!(pith(&["convert"]).status.code(), Some(2));
    assert_eq!(pith(&["convert", "--list-families", "x"]).status.code(), Some(2));
}

#[test]
fn help_names_the_exit_codes() {
    let text = String::from_utf8(pith(&["--help"]).stdout).unwrap();
    for code in ["0 ", "1 ", "2 ", "3 ", "4 ", "5 ", "130 "] {
        assert!(
            text.lines().any(|line| line.trim_start().starts_with(code)),
            "no {code:?} in\n{text}"
        );
    }
}

#[test]
fn unknown_arguments_are_usage_errors() {
    assert_eq!(pith(&[]).status.code(), Some(2));
    assert_eq!(pith(&["run", "model.gguf", "--prompt", "x", "--colour"]).status.code(), Some(2));
    assert_eq!(pith(&["run", "model.gguf", "--prompt", "x", "--file", "y"]).status.code(), Some(2));
    for bad in [["--temp", "-1"], ["--temp", "nan"], ["--top-p", "2"], ["--repeat-penalty", "0"]] {
        let output = pith(&[&["run", "model.gguf", "--prompt", "x"][..], &bad].concat());
        assert_eq!(output.status.code(), Some(2), "{bad:?}");
    }
    for bad in [["--cache-type", "q4_0"], ["--cache-type", ""]] {
        let output = pith(&[&["run", "model.gguf", "--prompt", "x"][..], &bad].concat());
        assert_eq!(output.status.code(), Some(2), "{bad:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("f16, f32, q8_0"), "{text}");
    }
    for bad in [["--batch", "0"], ["--repeat", "0"], ["--prompt", "1,x"], ["--batch", "65537"]] {
        let output = pith(&[&["bench", "model.gguf"][..], &bad].concat());
        assert_eq!(output.status.code(), Some(2), "{bad:?}");
    }
    assert_eq!(pith(&["juggle"]).status.code(), Some(2));
}
