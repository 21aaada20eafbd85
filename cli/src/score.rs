//! `pith score`: how probable texts are.

use std::path::PathBuf;

use pith::{Model, Result, session};
use pith_jobs::{
    prompt::{From, Reader},
    tasks::score::{Options, Score},
    windows::Long,
};

use crate::{
    End,
    jobs::{Prepared, Rows},
    writing::{Place, require_tokenizer},
};

/// Score texts: how probable a model finds them, whole or behind a context
///
/// Adds to each row log_prob (the sum of natural logarithms), n_tokens, log_prob_per_token,
/// log_prob_per_byte, perplexity and is_greedy. What rows begin with in common is run once.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  pith score model.gguf texts.jsonl -o scores.jsonl
  pith score model.gguf new_word_list.txt --template \"A word of English: \" -o words.csv
  pith score model.gguf qa.csv --template \"Q: {{question}}\\nA:\" --column answer -o scored.csv
  pith score model.gguf \"parts/*.jsonl\" -o scores.parquet --resume
  pith score model.gguf texts.jsonl --tokens --top 3 | jq .tokens

Exactly once: a job that was killed goes on with --resume, and its output has the same bytes.")]
pub struct Args {
    /// The model, a GGUF file
    model: PathBuf,
    #[command(flatten)]
    rows: Rows,
    /// The column that is scored
    #[arg(long, value_name = "COLUMN", default_value = "text")]
    column: String,
    /// The column that stands before it, which is not scored
    #[arg(long, value_name = "COLUMN")]
    context: Option<String>,
    /// What stands before it, made of columns: \"Q: {{question}}\\nA:\" (\\n is a new line)
    #[arg(long, value_name = "TEXT", conflicts_with = "context")]
    template: Option<String>,
    /// What becomes of texts that are longer than the context: an error of the row, their first tokens are
    /// left out, or they are scored in windows
    #[arg(long, value_enum, default_value_t = OnLong::Error)]
    long: OnLong,
    /// Tokens from a window to the next, for --long slide [default: half of the context]
    #[arg(long, value_name = "N")]
    stride: Option<usize>,
    /// Add a column `tokens`: each token with its log-probability
    #[arg(long)]
    tokens: bool,
    /// With --tokens, tell the N likeliest tokens in place of each as well
    #[arg(long, value_name = "N", default_value_t = 0, requires = "tokens")]
    top: usize,
    /// Let the texts of rows hold control tokens such as <|endoftext|>
    #[arg(long)]
    parse_special: bool,
    #[command(flatten)]
    place: Place,
}

/// What becomes of long texts.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnLong {
    /// The row's error
    Error,
    /// The first tokens are left out
    TruncateLeft,
    /// Windows that overlap
    Slide,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<End> {
    let prepared = Prepared::new("score", &args.model, &args.rows, &args.place)?;
    let model = Model::open(&args.model)?;
    require_tokenizer(&model)?;
    let session = session::Options { n_top: args.top, ..prepared.session(&model)? };
    let reader = Reader::new(model.tokenizer(), args.parse_special);
    let context = match (&args.context, &args.template) {
        (Some(column), _) => Some(From::Column(column.clone())),
        (None, Some(source)) => Some(reader.template(&source.replace("\\n", "\n"))?),
        (None, None) => None,
    };
    let options = Options {
        context,
        text: From::Column(args.column.clone()),
        long: match args.long {
            OnLong::Error => Long::Error,
            OnLong::TruncateLeft => Long::TruncateLeft,
            OnLong::Slide => Long::Slide { stride: args.stride },
        },
        tokens: args.tokens,
        parse_special: args.parse_special,
    };
    prepared.run(&mut Score::new(&model, options, &session)?)
}
