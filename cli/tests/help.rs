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
