//! What `tests/` hold a module against: how a model goes on after a prompt, greedily, and a hash of all
//! logits on the way (FNV-1a over their 32-bit words).
//! `cargo run --release -p pith-wasm --example fingerprint -- MODEL PROMPT N`

use std::{env, error::Error};

use pith::{Model, Session, sampler::argmax, session::Options, tokenizer::Encode};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [path, prompt, n] = &args[..] else { return Err("wanted MODEL PROMPT N".into()) };
    let model = Model::open(path.as_ref())?;
    let mut session = Session::new(&model, &Options::default())?;
    let mut ids =
        model.tokenizer().encode(prompt, Encode { add_special: true, parse_special: true });
    let n_prompt = ids.len();
    let mut hash = 0x811c_9dc5_u32;
    for _ in 0..n.parse()? {
        let logits = session.sync(0, &ids)?;
        for logit in &*logits {
            hash = (hash ^ logit.to_bits()).wrapping_mul(0x0100_0193);
        }
        let id = argmax(logits);
        if model.tokenizer().is_eog(id) {
            break;
        }
        ids.push(id);
    }
    println!("{hash:08x}\n{}", model.tokenizer().decode(&ids[n_prompt..]));
    Ok(())
}
