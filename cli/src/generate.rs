//! `pith generate`: a text for each row.

use std::path::PathBuf;

use pith::{Error, Model, Result};
use pith_jobs::{
    prompt::{From, Reader},
    source::Position,
    tasks::{
        generate::{Generate, Options},
        openai::OpenAi,
    },
    writer::Settings,
};

use crate::{
    End,
    jobs::{Prepared, Rows},
    writing::{Place, Sampling, require_tokenizer},
};

/// Write a text for each row, many at once
///
/// Adds to each row completion, finish_reason (stop or length) and n_tokens. A row's text is the same
/// whatever is written beside it: it draws by --seed and by what the row says.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  pith generate model.gguf prompts.jsonl -o texts.jsonl
  pith generate model.gguf words.txt --template \"Define: {{text}}\\n\" --temp 0 -n 40 -o words.csv
  pith generate chat.gguf questions.csv --chat --column question --stop \"\\n\\n\" -o answers.csv
  pith generate model.gguf rows.jsonl --per-row temp,seed,stop --log-probs 3 -o texts.jsonl
  pith generate chat.gguf batch.jsonl --openai -o answers.jsonl

--openai reads and writes OpenAI's batch files: /v1/completions and /v1/chat/completions.")]
pub struct Args {
    /// The model, a GGUF file
    model: PathBuf,
    #[command(flatten)]
    rows: Rows,
    /// The column that holds the prompt
    #[arg(long, value_name = "COLUMN", default_value = "text")]
    column: String,
    /// The prompt, made of columns: \"Define: {{word}}\\n\" (\\n is a new line)
    #[arg(long, value_name = "TEXT")]
    template: Option<String>,
    /// The prompt is what a user says: put it into the model's chat template
    #[arg(long)]
    chat: bool,
    /// What the chat's system says, for --chat
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    /// The rows are requests of an OpenAI batch file
    #[arg(long, conflicts_with_all = ["template", "chat", "per_row", "log_probs", "keep", "id", "prefix"])]
    openai: bool,
    /// Columns that are options of their rows: tokens, temp, top_k, top_p, min_p, repeat_penalty, seed, stop
    #[arg(long, value_name = "COLUMN,...", value_delimiter = ',')]
    per_row: Vec<String>,
    /// Add a column `tokens`: each token with its log-probability, and the N likeliest in its place
    #[arg(long, value_name = "N")]
    log_probs: Option<usize>,
    /// Leave out the first tokens of a prompt that is longer than the context, which is else an error
    #[arg(long)]
    truncate_left: bool,
    /// Let the texts of rows hold control tokens such as <|im_end|>
    #[arg(long)]
    parse_special: bool,
    #[command(flatten)]
    sampling: Sampling,
    #[command(flatten)]
    place: Place,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<End> {
    let prepared = Prepared::new("generate", &args.model, &args.rows, &args.place)?;
    let model = Model::open(&args.model)?;
    require_tokenizer(&model)?;
    let session = prepared.session(&model)?;
    let Sampling { n, seed, ref stop, .. } = args.sampling;
    if n == 0 {
        return Err(Error::Invalid("--tokens is 0: there is nothing to generate".into()));
    }
    // A job without a seed is the same each time, too.
    let sampler = args.sampling.options(seed.unwrap_or(0));
    let settings = Settings { n_predict: n, sampler, stop: stop.clone() };
    if args.openai {
        let prepared = prepared.bare()?;
        let name = args.model.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let open = Box::new(|| prepared.inputs().open(Position::default()));
        let mut task = OpenAi::new(&model, name, settings, args.parse_special, &session, open)?;
        return prepared.run(&mut task);
    }
    let reader = Reader::new(model.tokenizer(), args.parse_special);
    let mut prompt = match &args.template {
        Some(source) => reader.template(&source.replace("\\n", "\n"))?,
        None => From::Column(args.column.clone()),
    };
    if args.chat {
        prompt = reader.chat(&model, args.system.clone(), prompt)?;
    }
    let options = Options {
        prompt,
        settings,
        columns: args.per_row.clone(),
        id: args.rows.id.clone(),
        log_probs: args.log_probs,
        truncate_left: args.truncate_left,
        parse_special: args.parse_special,
    };
    prepared.run(&mut Generate::new(&model, options, &session)?)
}
