//! Conversions from F16, beside llama.cpp's quantizer on the same weights: the `pith` command, as it is
//! released, from a checkpoint, and `llama_model_quantize`, in this process, from a GGUF of it. They
//! take turns; both read from the page cache. What pith's self-check adds, and its peak of anonymous
//! memory, are told apart.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use yardstick::args::Args;
use yardstick::checkpoint::{self, Shape};
use yardstick::llama::{self, FileType};
use yardstick::stats::median;
use yardstick::{machine, process};

const USAGE: &str = "convert_speed FOLDER [--pith COMMAND] [--types Q8_0,Q4_0,Q4_K_S] [--width 1024] \
                     [--layers 16] [--vocab 32000] [--threads 2] [--repeat 5] [--memory-only]";

fn main() -> Result<(), String> {
    let mut args = Args::of_program();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let pith: PathBuf = args.option("--pith")?.unwrap_or(root.join("target/release/pith"));
    let types: String = args.option("--types")?.unwrap_or_else(|| "Q8_0,Q4_0,Q4_K_S".to_string());
    let shape = Shape {
        n_embd: args.option("--width")?.unwrap_or(1024),
        n_layer: args.option("--layers")?.unwrap_or(16),
        n_vocab: args.option("--vocab")?.unwrap_or(32_000),
    };
    let n_threads: usize = args.option("--threads")?.unwrap_or(2);
    let n_repeat: usize = args.option("--repeat")?.unwrap_or(5);
    let memory_only = args.flag("--memory-only");
    let [folder] = args.positional(USAGE)?;
    if !pith.exists() {
        return Err(format!("{} is not there: cargo build --release", pith.display()));
    }
    let folder = Path::new(&folder);
    let source = folder.join("checkpoint");
    checkpoint::write(&source, shape, &root.join("models/demo")).map_err(|e| e.to_string())?;
    let ours = Ours { pith, source, out: folder.join("pith.gguf"), n_threads };
    let megabytes = shape.n_bytes() as f64 / 1e6;
    println!("{}; {n_threads} threads, {megabytes:.0} MB of F16", machine::name());

    let halves = folder.join("f16.gguf");
    if !memory_only {
        process::ended_well(&mut start(&mut ours.command("f16", false))?)?;
        std::fs::rename(&ours.out, &halves).map_err(|e| e.to_string())?;
    }
    for of in types.split(',') {
        if !memory_only {
            compare(&ours, &halves, of, megabytes, n_repeat)?;
        }
        let (anonymous, _) = process::memory(&mut ours.command(of, true))?;
        let largest = shape.largest() as f64 / 1e6;
        println!(
            "{of:<8} at most {anonymous:.1} MB anonymous; the largest tensor has {largest:.1}"
        );
    }
    Ok(())
}

/// pith's side.
struct Ours {
    pith: PathBuf,
    source: PathBuf,
    out: PathBuf,
    n_threads: usize,
}

impl Ours {
    /// A conversion to the format of one of llama.cpp's types.
    fn command(&self, of: &str, check: bool) -> Command {
        let mut command = Command::new(&self.pith);
        command.arg("convert").arg(&self.source).arg("-o").arg(&self.out);
        let format = of.trim_end_matches("_S").to_lowercase();
        command.args(["--type", &format, "--threads", &self.n_threads.to_string()]);
        if !check {
            command.arg("--no-check");
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }
}

fn start(command: &mut Command) -> Result<std::process::Child, String> {
    command.spawn().map_err(|e| e.to_string())
}

fn compare(
    ours: &Ours,
    halves: &Path,
    of: &str,
    megabytes: f64,
    n_repeat: usize,
) -> Result<(), String> {
    let file_type: FileType = of.parse()?;
    let target = halves.with_file_name("llama.gguf");
    let run_ours = |check| -> Result<f64, String> {
        let start_of_it = Instant::now();
        process::ended_well(&mut start(&mut ours.command(of, check))?)?;
        Ok(start_of_it.elapsed().as_secs_f64())
    };
    let run_theirs = || -> Result<f64, String> {
        let start_of_it = Instant::now();
        llama::quantize(halves, &target, file_type, ours.n_threads)?;
        Ok(start_of_it.elapsed().as_secs_f64())
    };
    let mut samples = Vec::new();
    for _ in 0..n_repeat.max(1) {
        samples.push((run_ours(false)?, run_ours(true)?, run_theirs()?));
    }
    let rate = |seconds: &dyn Fn(&(f64, f64, f64)) -> f64| {
        median(samples.iter().map(|sample| megabytes / seconds(sample)))
    };
    let ratio = median(samples.iter().map(|(ours, _, theirs)| theirs / ours));
    let checked = median(samples.iter().map(|(_, checked, theirs)| theirs / checked));
    println!(
        "{of:<8} pith {:6.0} MB/s, checked {:6.0}; llama.cpp {:6.0}: {ratio:.2} times, checked \
         {checked:.2}",
        rate(&|s| s.0),
        rate(&|s| s.1),
        rate(&|s| s.2)
    );
    Ok(())
}
