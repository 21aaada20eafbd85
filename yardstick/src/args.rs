//! The programs' command lines: positional words, `--name value` and bare `--flag`s.

use std::str::FromStr;

/// Words of a command line, taken one by one.
pub struct Args {
    words: Vec<String>,
}

impl Args {
    /// The words after the program's name.
    pub fn of_program() -> Self {
        Args { words: std::env::args().skip(1).collect() }
    }

    /// Takes `--name value`.
    pub fn option<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, String> {
        let Some(at) = self.words.iter().position(|word| word == name) else {
            return Ok(None);
        };
        if at + 1 >= self.words.len() {
            return Err(format!("{name} needs a value"));
        }
        let value = self.words.drain(at..at + 2).nth(1).unwrap_or_default();
        value.parse().map(Some).map_err(|_| format!("{name} {value}: not understood"))
    }

    /// Takes a bare `--name`.
    pub fn flag(&mut self, name: &str) -> bool {
        let at = self.words.iter().position(|word| word == name);
        at.map(|at| self.words.remove(at)).is_some()
    }

    /// The rest: exactly `N` positional words.
    pub fn positional<const N: usize>(self, usage: &str) -> Result<[String; N], String> {
        self.words.try_into().map_err(|_| format!("usage: {usage}"))
    }
}
