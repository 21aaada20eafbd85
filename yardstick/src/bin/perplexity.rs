//! Perplexity of a GGUF model on the first tokens of a text, by llama.cpp and by pith, and how often
//! they name the same next token.

use std::path::{Path, PathBuf};

use pith::session::Options;
use yardstick::args::Args;
use yardstick::llama::{Load, Model};
use yardstick::score;

const USAGE: &str = "perplexity MODEL.gguf TEXT [--tokens 2000] [--ctx 512] [--threads 2] \
                     [--no-repack] [--one-by-one] [--out PREFIX]";

fn main() -> Result<(), String> {
    let mut args = Args::of_program();
    let n_tokens: usize = args.option("--tokens")?.unwrap_or(2000);
    let n_ctx: usize = args.option("--ctx")?.unwrap_or(512);
    let n_threads: usize = args.option("--threads")?.unwrap_or(2);
    let out: Option<PathBuf> = args.option("--out")?;
    let repack = !args.flag("--no-repack");
    let one_by_one = args.flag("--one-by-one");
    let [model, text] = args.positional(USAGE)?;
    if n_ctx < 2 || n_tokens < 2 {
        return Err("--ctx and --tokens must be at least 2".to_string());
    }

    let text = std::fs::read_to_string(&text).map_err(|e| format!("{text}: {e}"))?;
    let path = Path::new(&model);
    let model = Model::load(path, Load { repack, ..Load::default() })?;
    let mut ids = model.tokenize(&text, false, false)?;
    ids.truncate(n_tokens);
    let windows = score::windows(&ids, n_ctx, model.bos_to_add());
    let mut context = model.context(n_ctx, n_threads)?;
    let scores = score::llama(&mut context, &windows, n_ctx)?;
    println!("{} predictions in {} windows of {n_ctx}", scores.log_probs.len(), windows.len());
    println!("llama.cpp: perplexity {:.4}", scores.perplexity());
    if one_by_one {
        let again = score::llama(&mut context, &windows, 1)?;
        println!(
            "llama.cpp, one by one: perplexity {:.4}, top-1 agreement with itself {:.2} %",
            again.perplexity(),
            100.0 * again.top1_agreement(&scores)
        );
    }
    drop(context);
    let model = pith::Model::open(path).map_err(|e| e.to_string())?;
    let options = Options { n_ctx, n_threads, score: true, n_top: 1, ..Options::default() };
    let mut session = pith::Session::new(&model, &options).map_err(|e| e.to_string())?;
    let ours = score::pith(&mut session, &windows)?;
    println!(
        "pith:      perplexity {:.4} ({:+.3} %), top-1 agreement {:.2} %",
        ours.perplexity(),
        100.0 * (ours.perplexity() / scores.perplexity() - 1.0),
        100.0 * ours.top1_agreement(&scores)
    );
    if let Some(prefix) = out {
        score::write(&prefix, &windows, &scores)
            .map_err(|e| format!("{}: {e}", prefix.display()))?;
    }
    Ok(())
}
