//! Prompt and generation speed of a GGUF model, by llama.cpp (repacked and as mapped) and by pith,
//! taking turns; the figure to read is the median of the ratios.

use std::path::Path;

use pith::session::Options;
use yardstick::args::Args;
use yardstick::llama::{Load, Model};
use yardstick::speed::{self, median_and_best};

const USAGE: &str = "speed MODEL.gguf [--prompt 512] [--gen 64] [--threads 2] [--repeat 7]";

/// Samples of one task: llama.cpp repacked, llama.cpp as mapped, pith.
type Samples = [Vec<f64>; 3];

fn main() -> Result<(), String> {
    let mut args = Args::of_program();
    let n_prompt: usize = args.option("--prompt")?.unwrap_or(512);
    let n_gen: usize = args.option("--gen")?.unwrap_or(64);
    let n_threads: usize = args.option("--threads")?.unwrap_or(2);
    let n_repeat: usize = args.option("--repeat")?.unwrap_or(7);
    let [path] = args.positional(USAGE)?;
    let path = Path::new(&path);

    let n_ctx = n_prompt.max(n_gen).max(1);
    let repacked = Model::load(path, Load { repack: true, ..Load::default() })?;
    let mapped = Model::load(path, Load { repack: false, ..Load::default() })?;
    let mut llama = [repacked.context(n_ctx, n_threads)?, mapped.context(n_ctx, n_threads)?];
    let model = pith::Model::open(path).map_err(|e| e.to_string())?;
    let options = Options { n_ctx, n_threads, ..Options::default() };
    let mut pith = pith::Session::new(&model, &options).map_err(|e| e.to_string())?;

    let (mut prompt, mut generation) = (Samples::default(), Samples::default());
    for _ in 0..n_repeat.max(1) {
        for (context, i) in llama.iter_mut().zip(0..) {
            prompt[i].push(speed::prompt(context, n_prompt)?);
            generation[i].push(speed::generation(context, n_gen)?);
        }
        prompt[2].push(speed::pith_prompt(&mut pith, n_prompt)?);
        generation[2].push(speed::pith_generation(&mut pith, n_gen)?);
    }
    println!("{} threads, kernels {}", n_threads, pith.kernels().name());
    report(&format!("pp{n_prompt}"), &prompt);
    report(&format!("tg{n_gen}"), &generation);
    Ok(())
}

fn report(task: &str, samples: &Samples) {
    for (who, samples) in ["llama.cpp, repacked", "llama.cpp, mapped", "pith"].iter().zip(samples) {
        let (median, best) = median_and_best(samples);
        println!("{task} {who:<20} median {median:8.1} tokens/s, best {best:8.1}");
    }
    let [repacked, mapped, pith] = samples;
    let theirs = repacked.iter().zip(mapped).map(|(a, b)| a.max(*b));
    let ratios: Vec<f64> = pith.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
    println!("{task} pith / the faster of llama.cpp's two: {:.2}", median_and_best(&ratios).0);
}
