//! Continues every line of a file, many at once:
//! `cargo run --release --example generate -- MODEL.gguf PROMPTS.txt`

use std::{env, error::Error, fs, time::Instant};

use pith::{
    Model,
    batch::{self, Generator, Next, Prompt},
    sampler,
    session::Options,
    tokenizer::Encode,
};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [model, lines] = &args[..] else { return Err("wanted MODEL FILE".into()) };
    let model = Model::open(model.as_ref())?;
    let lines = fs::read_to_string(lines)?;
    let lines: Vec<&str> = lines.lines().filter(|line| !line.is_empty()).collect();

    let options = Options {
        n_seq: batch::N_SEQ,
        n_batch: batch::N_BATCH,
        // Room for what the sampler draws from: no step then writes logits.
        n_top: sampler::Options::default().top_k,
        ..Options::default()
    };
    let mut generator = Generator::new(&model, &options)?;
    let encode = Encode { add_special: true, parse_special: false };
    for (line, tag) in lines.iter().zip(0..) {
        // A text depends on its own seed, whoever is written beside it.
        let sampler = sampler::Options { seed: tag, ..sampler::Options::default() };
        let ids = model.tokenizer().encode(line, encode);
        generator.push(tag, Prompt { ids, n_predict: 64, sampler, log_probs: false })?;
    }
    let mut texts = vec![Vec::new(); lines.len()];
    let (mut n_tokens, began) = (0, Instant::now());
    loop {
        let n = generator.step(|chosen| {
            texts[chosen.tag as usize].push(chosen.id);
            Next::GoOn
        });
        if n == 0 {
            break;
        }
        n_tokens += n;
    }
    let time = began.elapsed().as_secs_f64();

    for (line, ids) in lines.iter().zip(&texts) {
        println!("{line}{}\n", model.tokenizer().decode(ids));
    }
    eprintln!("{} texts, {n_tokens} tokens, {:.0} tok/s", texts.len(), n_tokens as f64 / time);
    Ok(())
}
