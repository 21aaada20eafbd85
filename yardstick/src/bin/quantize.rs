//! Writes a GGUF file of another type with llama.cpp's own quantizer (what `llama-quantize` runs,
//! without an importance matrix), so that what is measured are files that people have.

use std::path::Path;

use yardstick::args::Args;
use yardstick::llama::{self, FileType};

const USAGE: &str = "quantize IN.gguf OUT.gguf Q4_0|Q4_1|Q4_K_M|Q6_K|Q8_0|F16 [--threads 1]";

fn main() -> Result<(), String> {
    let mut args = Args::of_program();
    let n_threads: usize = args.option("--threads")?.unwrap_or(1);
    let [source, target, of] = args.positional(USAGE)?;
    let of: FileType = of.parse()?;
    llama::quantize(Path::new(&source), Path::new(&target), of, n_threads)
}
