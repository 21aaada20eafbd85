//! `pith demo`: the two steps from a checkpoint to text, as a person would type them.

use std::path::Path;

use clap::Parser;
use pith::{Error, Result};

use crate::{Cli, End};

const CHECKPOINT: &str = "models/demo";
const FILE: &str = "demo.gguf";

/// Convert the checkpoint in models/demo and let it write: two commands, shown as typed
///
/// Leaves demo.gguf in the current folder.
#[derive(clap::Args)]
#[command(after_help = "\
Examples, from the project's folder:
  pith demo
  pith demo --prompt \"Miss Dashwood\" --seed 2")]
pub struct Args {
    /// The text to continue
    #[arg(short, long, default_value = "It was a fine morning, and")]
    prompt: String,
    /// The same seed writes the same text
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<End> {
    if !Path::new(CHECKPOINT).join("model.safetensors").is_file() {
        return Err(Error::Invalid(format!(
            "no {CHECKPOINT}/model.safetensors here; run `pith demo` from the project's folder"
        )));
    }
    let seed = args.seed.to_string();
    if step(&["pith", "convert", CHECKPOINT, "-o", FILE, "--type", "q4_k"])? == End::Interrupted {
        return Ok(End::Interrupted);
    }
    step(&[
        "pith",
        "run",
        FILE,
        "--prompt",
        &args.prompt,
        "--echo",
        "-n",
        "150",
        "--temp",
        "0.7",
        "--seed",
        &seed,
    ])
}

/// Shows a command, and does what it says: what is shown is what is parsed.
fn step(words: &[&str]) -> Result<End> {
    let shown: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    eprintln!("$ {}", shown.join(" "));
    let cli = Cli::try_parse_from(words).map_err(|error| Error::Invalid(error.to_string()))?;
    let end = crate::dispatch(cli.command);
    eprintln!();
    end
}

/// A word as a POSIX shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("models/demo"), "models/demo");
        assert_eq!(quoted("It's a"), r"'It'\''s a'");
        assert_eq!(quoted(""), "''");
    }
}
