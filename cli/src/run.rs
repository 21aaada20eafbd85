//! `pith run`: a prompt in, text out.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use pith::{Error, Model, Result, tokenizer::Encode};
use serde_json::json;

use crate::{
    End, catch_interrupts, stdout_error,
    writing::{self, OnFull, Place, Sampling, Why, Writer, require_tokenizer},
};

/// Bytes of prompt that are accepted; far more than any context holds.
const MAX_PROMPT: u64 = 64 << 20;

/// Continue a text with a model
#[derive(clap::Args)]
#[command(
    override_usage = "pith run [OPTIONS] <MODEL> <--prompt <TEXT>|--file <FILE>|->",
    after_help = "\
Examples:
  pith run model.gguf --prompt \"It is a truth\" -n 100
  pith run model.gguf --file question.txt --temp 0 --stop \"\\n\\n\"
  echo \"It is a truth\" | pith run model.gguf -
  pith run model.gguf --lora style.gguf --lora facts.gguf=0.5 --prompt \"It is\"
  pith run model.gguf --prompt \"It is\" --seed 7 --json | jq .text"
)]
pub struct Args {
    /// The model, a GGUF file
    model: PathBuf,
    #[command(flatten)]
    prompt: Prompt,
    /// When the context is full
    #[arg(long, value_enum, default_value_t = OnFull::Error)]
    on_full: OnFull,
    /// Print the prompt before its continuation
    #[arg(long)]
    echo: bool,
    /// Print one JSON object (text, ids, timings) at the end instead of text as it comes
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sampling: Sampling,
    #[command(flatten)]
    place: Place,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Prompt {
    /// The prompt
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,
    /// A file that holds the prompt
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// `-`: the prompt is standard input, less a line end at its very end
    #[arg(value_name = "-", value_parser = ["-"], hide_possible_values = true)]
    stdin: Option<String>,
}

impl Prompt {
    fn text(&self) -> Result<String> {
        match (&self.prompt, &self.file) {
            (Some(text), _) => Ok(text.clone()),
            (None, Some(path)) => {
                let file = fs::File::open(path).map_err(Error::io("open", path))?;
                read_text(file, path)
            }
            (None, None) => {
                let mut text = read_text(io::stdin().lock(), Path::new("standard input"))?;
                let kept =
                    text.strip_suffix('\n').map(|rest| rest.strip_suffix('\r').unwrap_or(rest));
                if let Some(len) = kept.map(str::len) {
                    text.truncate(len);
                }
                Ok(text)
            }
        }
    }
}

/// All of a UTF-8 text of bearable size.
pub fn read_text(from: impl Read, name: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    from.take(MAX_PROMPT + 1).read_to_end(&mut bytes).map_err(Error::io("read", name))?;
    if bytes.len() as u64 > MAX_PROMPT {
        return Err(Error::Invalid(format!(
            "{}: a text of over {MAX_PROMPT} bytes",
            name.display()
        )));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::Invalid(format!("{}: not UTF-8 at byte {at}", name.display()))
    })
}

/// Runs the command.
pub fn run(args: &Args) -> Result<End> {
    let prompt = args.prompt.text()?;
    catch_interrupts()?;
    let began = Instant::now();
    let model = Model::open(&args.model)?;
    model.require_language_model()?;
    require_tokenizer(&model)?;
    let session = args.place.session(&model)?;
    let (sampler, seed) = args.sampling.sampler();
    let load = began.elapsed();

    let mut writer = Writer::new(&model, session, sampler, args.on_full);
    let tokenizer = model.tokenizer();
    let mut ids = tokenizer.encode(&prompt, Encode { add_special: true, parse_special: true });
    tokenizer.take_end(&mut ids);
    let mut text = String::new();
    let mut out = io::stdout().lock();
    if args.echo && !args.json {
        write!(out, "{prompt}").and_then(|()| out.flush()).map_err(stdout_error)?;
    }
    let (generated, why) = if writer.read(&ids)? {
        writer.write(args.sampling.n, &args.sampling.stop, |piece| {
            if args.json {
                text.push_str(piece);
                return Ok(());
            }
            out.write_all(piece.as_bytes()).and_then(|()| out.flush()).map_err(stdout_error)
        })?
    } else {
        (Vec::new(), Why::Interrupted)
    };
    if args.json {
        let object = json!({
            "prompt_ids": ids,
            "ids": generated,
            "text": text,
            "ended_by": why.name(),
            "seed": seed,
            "timings": writing::timings_json(&writer, load),
        });
        writeln!(out, "{object}").map_err(stdout_error)?;
    } else {
        writeln!(out).map_err(stdout_error)?;
        eprintln!("\n{}", writing::timings_text(&writer, load));
        if args.sampling.temp > 0.0 {
            eprintln!("seed: {seed}");
        }
    }
    Ok(if why == Why::Interrupted { End::Interrupted } else { End::Done })
}
