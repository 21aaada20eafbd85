//! `pith classify`: texts in, labels with probabilities out.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    ops::Range,
    path::{Path, PathBuf},
};

use pith::{
    Error, Model, Result, Session, cache,
    classify::{Answer, classify},
    model::Classifier,
    session,
    tokenizer::{Encode, Tokenizer},
};
use pith_models::{ClassifierKind, Problem};
use serde_json::{Value, json};

use crate::{
    End, catch_interrupts,
    generate::{Place, require_tokenizer},
    inspect::shown,
    interrupted,
    run::read_text,
    stdout_error,
};

/// Label texts, or their tokens, with a model that ends in a classification head
///
/// Prints labels with their probabilities, the likeliest first (for a regression, values). A text
/// is labelled by its last token; models that label tokens print a line for each.
#[derive(clap::Args)]
#[command(
    override_usage = "pith classify [OPTIONS] <MODEL> <--text <TEXT>...|--file <FILE>|->",
    after_help = "\
Examples:
  pith classify moods.gguf --text \"What a day!\"
  pith classify moods.gguf --text \"What a day!\" --text \"Oh no.\" --top 1
  pith classify moods.gguf --file lines.txt --json | jq -r .label
  echo \"Anna lives in Oslo\" | pith classify names.gguf -

`pith inspect MODEL` shows a model's labels."
)]
pub struct Args {
    /// The model, a GGUF file
    model: PathBuf,
    #[command(flatten)]
    input: Input,
    /// Print the N likeliest labels only; 0 means all [default: all, but 1 for each token]
    #[arg(long, value_name = "N")]
    top: Option<usize>,
    /// Print one JSON object for each text, in a line of its own; places of tokens are in bytes
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Input {
    /// A text (may be given several times)
    #[arg(short, long, value_name = "TEXT")]
    text: Vec<String>,
    /// A file with a text in each line
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// `-`: standard input, with a text in each line
    #[arg(value_name = "-", value_parser = ["-"], hide_possible_values = true)]
    stdin: Option<String>,
}

impl Input {
    fn texts(&self) -> Result<Vec<String>> {
        let lines = |text: String| text.lines().map(str::to_owned).collect();
        match &self.file {
            Some(path) => {
                let file = fs::File::open(path).map_err(Error::io("open", path))?;
                read_text(file, path).map(lines)
            }
            None if self.stdin.is_some() => {
                read_text(io::stdin().lock(), Path::new("standard input")).map(lines)
            }
            None => Ok(self.text.clone()),
        }
    }
}

/// Runs the command.
pub fn run(args: &Args) -> Result<End> {
    let texts = args.input.texts()?;
    catch_interrupts()?;
    let model = Model::open(&args.model)?;
    let head = model.require_classifier()?;
    require_tokenizer(&model)?;
    // One text at a time: its keys and values are few, and need not be rounded.
    let cache = args.place.cache_type.unwrap_or(cache::Type::F32);
    let options = session::Options { cache, ..args.place.options()? };
    let mut session = Session::new(&model, &options)?;
    let mut out = io::stdout().lock();
    for (i, text) in texts.iter().enumerate() {
        if interrupted() {
            return Ok(End::Interrupted);
        }
        let ids = model.tokenizer().encode(text, Encode { add_special: true, parse_special: true });
        if ids.is_empty() {
            return Err(Error::Invalid(format!("text {} is empty: nothing to classify", i + 1)));
        }
        let answers = classify(&mut session, &ids)?;
        let said = Said { head, tokenizer: model.tokenizer(), text, ids: &ids, answers: &answers };
        let printed = match args.json {
            true => format!("{}\n", said.json(args.top)),
            false => {
                let title = (texts.len() > 1).then(|| format!("{}\n", shown(text)));
                let gap = if i > 0 { "\n" } else { "" };
                format!("{gap}{}{}", title.unwrap_or_default(), said.text(args.top))
            }
        };
        out.write_all(printed.as_bytes()).and_then(|()| out.flush()).map_err(stdout_error)?;
    }
    Ok(End::Done)
}

/// What a head says of one text.
struct Said<'a> {
    head: &'a Classifier,
    tokenizer: &'a Tokenizer,
    text: &'a str,
    ids: &'a [u32],
    answers: &'a [Answer],
}

impl Said<'_> {
    /// Labels of an answer, the likeliest first.
    fn ranked<'a>(&self, answer: &'a Answer, top: usize) -> Vec<(&str, &'a Answer, usize)> {
        let ranked =
            answer.ranked().into_iter().map(|i| (self.head.labels()[i].as_str(), answer, i));
        ranked.take(if top == 0 { usize::MAX } else { top }).collect()
    }

    fn text(&self, top: Option<usize>) -> String {
        let mut out = String::new();
        match self.head.kind() {
            ClassifierKind::Sequence => {
                let answers = self.answers.iter();
                let rows: Vec<_> =
                    answers.flat_map(|answer| self.ranked(answer, top.unwrap_or(0))).collect();
                let width = rows.iter().map(|(label, ..)| shown(label).chars().count()).max();
                for (label, answer, i) in rows {
                    let width = width.unwrap_or(0);
                    let _ = writeln!(out, "{:<width$}  {:.4}", shown(label), answer.values[i]);
                }
            }
            ClassifierKind::Token => {
                for answer in self.answers {
                    let ranked = self.ranked(answer, top.unwrap_or(1)).into_iter();
                    let labels: Vec<_> = ranked
                        .map(|(label, answer, i)| {
                            format!("{}  {:.4}", shown(label), answer.values[i])
                        })
                        .collect();
                    let token = format!("{:?}", self.token(answer.at));
                    let _ = writeln!(out, "{token:<16}  {}", labels.join("  "));
                }
            }
        }
        out
    }

    fn json(&self, top: Option<usize>) -> Value {
        match self.head.kind() {
            ClassifierKind::Sequence => {
                let mut object = json!({"text": self.text});
                for answer in self.answers {
                    self.labels_json(answer, top.unwrap_or(0), &mut object);
                }
                object
            }
            ClassifierKind::Token => {
                let spans = spans(self.tokenizer, self.text, self.ids);
                let tokens = self.answers.iter().map(|answer| {
                    let span = spans[answer.at].as_ref();
                    let mut object = json!({
                        "token": self.token(answer.at),
                        "id": self.ids[answer.at],
                        "start": span.map(|span| span.start),
                        "end": span.map(|span| span.end),
                    });
                    self.labels_json(answer, top.unwrap_or(1), &mut object);
                    object
                });
                json!({"text": self.text, "tokens": tokens.collect::<Vec<_>>()})
            }
        }
    }

    fn labels_json(&self, answer: &Answer, top: usize, object: &mut Value) {
        let value = match self.head.problem() {
            Problem::Regression => "value",
            Problem::SingleLabel | Problem::MultiLabel => {
                object["label"] = self.head.labels()[answer.best()].as_str().into();
                "probability"
            }
        };
        let labels = self.ranked(answer, top).into_iter().map(|(label, answer, i)| {
            json!({"label": label, value: answer.values[i], "logit": answer.logits[i]})
        });
        object["labels"] = labels.collect();
    }

    fn token(&self, at: usize) -> String {
        String::from_utf8_lossy(self.tokenizer.piece(self.ids[at])).into_owned()
    }
}

/// Which bytes of the text each token is. `None` for a token that the text does not hold, and for
/// all that follow a place where the tokenizer has changed the text.
fn spans(tokenizer: &Tokenizer, text: &str, ids: &[u32]) -> Vec<Option<Range<usize>>> {
    let text = text.as_bytes();
    let mut at = Some(0);
    let is_added = |i: usize| {
        let first = i == 0 && tokenizer.add_bos() && tokenizer.bos() == Some(ids[i]);
        first || i + 1 == ids.len() && tokenizer.add_eos() && tokenizer.eos() == Some(ids[i])
    };
    let mut next = |(i, &id): (usize, &u32)| {
        let start = at.filter(|_| !is_added(i))?;
        let piece = tokenizer.piece(id);
        // Some vocabularies put a space before a text.
        let held = match piece.strip_prefix(b" ") {
            Some(rest) if start == 0 && !text.starts_with(b" ") => rest,
            _ => piece,
        };
        at = text[start..].starts_with(held).then_some(start + held.len());
        at.map(|end| start..end)
    };
    ids.iter().enumerate().map(&mut next).collect()
}
