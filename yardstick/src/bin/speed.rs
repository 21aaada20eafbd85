//! Prompt and generation speed of a GGUF model, by llama.cpp.

use std::path::Path;

use yardstick::args::Args;
use yardstick::llama::{Load, Model};
use yardstick::speed;

const USAGE: &str = "speed MODEL.gguf [--prompt 512] [--gen 128] [--threads 2] [--repeat 5] \
                     [--no-repack]";

fn main() -> Result<(), String> {
    let mut args = Args::of_program();
    let n_prompt: usize = args.option("--prompt")?.unwrap_or(512);
    let n_gen: usize = args.option("--gen")?.unwrap_or(128);
    let n_threads: usize = args.option("--threads")?.unwrap_or(2);
    let n_repeat: usize = args.option("--repeat")?.unwrap_or(5);
    let repack = !args.flag("--no-repack");
    let [model] = args.positional(USAGE)?;

    let model = Model::load(Path::new(&model), Load { repack, ..Load::default() })?;
    let mut context = model.context(n_prompt.max(n_gen).max(1), n_threads)?;
    speed::generation(&mut context, 4)?; // Reads the whole file once.
    let (mut prompt, mut generation) = (Vec::new(), Vec::new());
    for _ in 0..n_repeat.max(1) {
        prompt.push(speed::prompt(&mut context, n_prompt)?);
        generation.push(speed::generation(&mut context, n_gen)?);
    }
    for (what, samples) in [(format!("pp{n_prompt}"), prompt), (format!("tg{n_gen}"), generation)] {
        let (median, best) = speed::median_and_best(&samples);
        println!("llama.cpp {what}: {median:.1} tokens/s (best {best:.1}), {n_threads} threads");
    }
    Ok(())
}
