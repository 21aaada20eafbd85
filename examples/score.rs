//! Scores the lines of a file behind one prompt, many at once:
//! `cargo run --release --example score -- MODEL.gguf "The capital of France is" WORDS.txt`

use std::{env, error::Error, fs, time::Instant};

use pith::{
    Model,
    batch::{self, Request, Scorer},
    session::Options,
    tokenizer::Encode,
};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [model, prompt, lines] = &args[..] else { return Err("wanted MODEL PROMPT FILE".into()) };
    let model = Model::open(model.as_ref())?;
    let lines = fs::read_to_string(lines)?;

    let encode = |text: &str| {
        model.tokenizer().encode(text, Encode { add_special: true, parse_special: false })
    };
    let from = encode(prompt).len();
    let texts = lines.lines().map(|line| (line, encode(&format!("{prompt} {line}"))));
    let texts: Vec<(&str, Vec<u32>)> = texts.filter(|(_, ids)| ids.len() > from).collect();
    let requests: Vec<Request<'_>> = texts.iter().map(|(_, ids)| Request { ids, from }).collect();

    let options = Options { n_seq: batch::N_SEQ, n_batch: batch::N_BATCH, ..Options::default() };
    let mut scorer = Scorer::new(&model, &options)?;
    let (mut n_tokens, began) = (0, Instant::now());
    let scored = scorer.score(&requests, |n| {
        n_tokens += n;
        true
    })?;
    let time = began.elapsed().as_secs_f64();

    for ((line, _), scored) in texts.iter().zip(scored) {
        println!("{:10.4}  {line}", scored.sum());
    }
    eprintln!("{} texts, {n_tokens} tokens, {:.0} tok/s", texts.len(), n_tokens as f64 / time);
    Ok(())
}
