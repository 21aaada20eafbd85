//! The command `pith`: arguments in, text out. What a model is and how it runs is the library's;
//! here are files, the terminal, Ctrl-C and exit codes.

mod bench;
#[cfg(feature = "jobs")]
mod chat;
#[cfg(feature = "jobs")]
mod classify;
#[cfg(feature = "convert")]
mod convert;
#[cfg(feature = "convert")]
mod demo;
#[cfg(feature = "convert")]
mod families;
#[cfg(feature = "jobs")]
mod generate;
mod inspect;
#[cfg(feature = "jobs")]
mod jobs;
mod kernels;
mod memory;
mod progress;
mod run;
#[cfg(feature = "jobs")]
mod score;
mod writing;

use std::{
    io,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use clap::{Parser, Subcommand};
use pith::{Error, Result};

const EXAMPLES: &[&str] = &[
    #[cfg(feature = "convert")]
    "pith convert ./my-gpt -o my-gpt.gguf --type q4_k",
    "pith run my-gpt.gguf --prompt \"Once upon a time\"",
    #[cfg(feature = "convert")]
    "pith demo                 both steps, on the checkpoint in models/demo",
];

const AFTER_HELP: &str = "\
`pith COMMAND --help` has more.

Exit codes:
  0    done
  1    anything not named below
  2    arguments that make no sense
  3    a file is malformed, or holds what pith does not support
  4    the operating system refused to read or write
  5    the plan is over --max-memory, or the context is full
  6    a job is done, but rows of it failed
  130  interrupted by Ctrl-C";

#[derive(Parser)]
#[command(
    name = "pith",
    version,
    about = "Convert a GPT checkpoint to one quantized GGUF file, and run that file",
    after_help = format!("Examples:\n  {}\n\n{AFTER_HELP}", EXAMPLES.join("\n  "))
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[cfg(feature = "convert")]
    Convert(convert::Args),
    Run(run::Args),
    #[cfg(feature = "jobs")]
    Chat(chat::Args),
    #[cfg(feature = "jobs")]
    Score(score::Args),
    #[cfg(feature = "jobs")]
    Classify(classify::Args),
    #[cfg(feature = "jobs")]
    Generate(generate::Args),
    Inspect(inspect::Args),
    Bench(bench::Args),
    Kernels(kernels::Args),
    #[cfg(feature = "convert")]
    Demo(demo::Args),
}

/// How a command ended, where it did not fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Done,
    /// A job is done, with rows that have an error instead of an answer.
    #[cfg(feature = "jobs")]
    RowsFailed,
    Interrupted,
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(End::Done) => ExitCode::SUCCESS,
        #[cfg(feature = "jobs")]
        Ok(End::RowsFailed) => ExitCode::from(6),
        Ok(End::Interrupted) => ExitCode::from(130),
        // `pith run ... | head`: the reader has what it wanted.
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("pith: {error}");
            ExitCode::from(exit_code(&error))
        }
    }
}

fn dispatch(command: Command) -> Result<End> {
    match command {
        #[cfg(feature = "convert")]
        Command::Convert(args) => convert::run(&args),
        Command::Run(args) => run::run(&args),
        #[cfg(feature = "jobs")]
        Command::Chat(args) => chat::run(&args),
        #[cfg(feature = "jobs")]
        Command::Score(args) => score::run(&args),
        #[cfg(feature = "jobs")]
        Command::Classify(args) => classify::run(&args),
        #[cfg(feature = "jobs")]
        Command::Generate(args) => generate::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Kernels(args) => kernels::run(&args),
        #[cfg(feature = "convert")]
        Command::Demo(args) => demo::run(&args),
    }
}

fn exit_code(error: &Error) -> u8 {
    match error {
        Error::Invalid(_) => 2,
        Error::Malformed { .. } | Error::Unsupported(_) => 3,
        Error::Io { .. } => 4,
        Error::Memory { .. } | Error::OutOfMemory { .. } | Error::ContextFull { .. } => 5,
        _ => 1,
    }
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes the first Ctrl-C raise the flag that [`interrupted`] reads, and the second end the
/// process at once. Calls after the first change nothing.
fn catch_interrupts() -> Result<()> {
    static CAUGHT: AtomicBool = AtomicBool::new(false);
    if CAUGHT.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
    .map_err(|error| Error::Unsupported(format!("cannot catch Ctrl-C: {error}")))
}

fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Lowers the flag again, for a chat that goes on after an interrupted reply.
#[cfg(feature = "jobs")]
fn clear_interrupt() {
    INTERRUPTED.store(false, Ordering::Relaxed);
}

/// An error of standard output, in the library's words.
fn stdout_error(source: io::Error) -> Error {
    Error::io("write", "standard output")(source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn errors_map_to_the_documented_codes() {
        assert_eq!(exit_code(&Error::Invalid("x".into())), 2);
        assert_eq!(exit_code(&Error::malformed("GGUF", "x")), 3);
        assert_eq!(exit_code(&Error::Unsupported("x".into())), 3);
        let missing = Error::io("open", "x")(io::ErrorKind::NotFound.into());
        assert_eq!(exit_code(&missing), 4);
        assert_eq!(exit_code(&Error::Memory { needed: 2, limit: 1 }), 5);
        assert_eq!(exit_code(&Error::ContextFull { n_ctx: 1, wanted: 2 }), 5);
    }
}
