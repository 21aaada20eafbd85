//! Start of a process to the first token, and its anonymous memory: pith's own command, and a small
//! program around llama.cpp (this one, as a child) that loads, tokenizes, decodes and samples. They
//! take turns; the file is in the page cache.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use yardstick::args::Args;
use yardstick::llama::{Load, Logits, Model};
use yardstick::machine;
use yardstick::process::{ended_well, memory};
use yardstick::score::argmax;
use yardstick::stats::median;

const USAGE: &str = "startup MODEL.gguf [--pith COMMAND] [--prompt TEXT] [--gen 1] [--ctx 4096] \
                     [--threads 2] [--repeat 9]";

/// The word on the command line that makes this program llama.cpp's side.
const CHILD: &str = "llama-child";

fn main() -> Result<(), String> {
    let mut args = Args::of_program();
    if args.flag(CHILD) {
        return child(args);
    }
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/pith");
    let pith: PathBuf = args.option("--pith")?.unwrap_or(built);
    let prompt = args.option("--prompt")?.unwrap_or_else(|| "The capital of France is".to_string());
    let [n_gen, n_ctx, n_threads] =
        [("--gen", 1), ("--ctx", 4096), ("--threads", 2)].map(|(name, default)| {
            args.option::<usize>(name).map(|n| n.unwrap_or(default).to_string())
        });
    let (n_gen, n_ctx, n_threads) = (n_gen?, n_ctx?, n_threads?);
    let n_repeat: usize = args.option("--repeat")?.unwrap_or(9);
    let [model] = args.positional(USAGE)?;
    if !pith.exists() {
        return Err(format!("{} is not there: cargo build --release", pith.display()));
    }

    let common = ["--ctx", &n_ctx, "--threads", &n_threads, "--prompt", &prompt];
    let this = std::env::current_exe().map_err(|e| e.to_string())?;
    let ours = ["run", &model, "--temp", "0", "-n", &n_gen];
    let theirs = |mode| [CHILD, model.as_str(), "--gen", &n_gen, "--mode", mode];
    let commands = [
        ("pith", command(&pith, &ours, &common)),
        ("llama.cpp, mapped", command(&this, &theirs("mapped"), &common)),
        ("llama.cpp, repacked", command(&this, &theirs("repacked"), &common)),
    ];
    println!("{}; {n_threads} threads, context {n_ctx}, {n_gen} tokens", machine::name());
    measure(commands, n_repeat)
}

fn command(program: &Path, words: &[&str], common: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(words).args(common).stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(Stdio::null());
    command
}

fn measure(mut commands: [(&str, Command); 3], n_repeat: usize) -> Result<(), String> {
    let mut samples = [const { Vec::new() }; 3];
    for round in 0..=n_repeat.max(1) {
        for ((name, command), samples) in commands.iter_mut().zip(&mut samples) {
            let seconds = first_byte(command).map_err(|e| format!("{name}: {e}"))?;
            if round > 0 {
                samples.push(seconds);
            }
        }
    }
    for ((name, command), samples) in commands.iter_mut().zip(&samples) {
        let (anonymous, peak) = memory(command).map_err(|e| format!("{name}: {e}"))?;
        let seconds = median(samples.iter().copied());
        println!(
            "{name:<20} first token after {seconds:6.3} s; memory at most {anonymous:7.1} MB \
             anonymous, {peak:7.1} MB resident"
        );
    }
    let [ours, mapped, repacked] = &samples;
    let theirs = mapped.iter().zip(repacked).map(|(a, b)| a.min(*b));
    let ratio = median(ours.iter().zip(theirs).map(|(ours, theirs)| theirs / ours));
    println!("pith is {ratio:.2} times as fast as the faster of llama.cpp's two");
    Ok(())
}

/// Seconds from the start of a process to the first byte that it prints.
fn first_byte(command: &mut Command) -> Result<f64, String> {
    let start = Instant::now();
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    let mut out = child.stdout.take().ok_or("no pipe")?;
    let mut byte = [0];
    let read = out.read_exact(&mut byte);
    let seconds = start.elapsed().as_secs_f64();
    let rest = out.read_to_end(&mut Vec::new());
    ended_well(&mut child)?;
    read.and(rest).map_err(|e| e.to_string())?;
    Ok(seconds)
}

/// llama.cpp's side: the likeliest tokens, each printed at once.
fn child(mut args: Args) -> Result<(), String> {
    let number = |args: &mut Args, name: &str| -> Result<usize, String> {
        args.option(name)?.ok_or_else(|| format!("no {name}"))
    };
    let (n_gen, n_ctx) = (number(&mut args, "--gen")?, number(&mut args, "--ctx")?);
    let n_threads = number(&mut args, "--threads")?;
    let prompt: String = args.option("--prompt")?.ok_or("no prompt")?;
    let repack = args.option::<String>("--mode")?.as_deref() == Some("repacked");
    let [model] = args.positional(USAGE)?;
    let model = Model::load(Path::new(&model), Load { repack, ..Load::default() })?;
    let mut context = model.context(n_ctx, n_threads)?;
    let mut ids = model.tokenize(&prompt, true, true)?;
    let mut out = std::io::stdout().lock();
    for _ in 0..n_gen {
        let next = argmax(context.decode(&ids, Logits::Last)?);
        let piece = model.piece(next)?;
        out.write_all(&piece).and_then(|()| out.flush()).map_err(|e| e.to_string())?;
        ids = vec![next];
    }
    Ok(())
}
