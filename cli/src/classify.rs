//! `pith classify`: texts in, labels with probabilities out.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    path::PathBuf,
};

use pith::{
    Error, Model, Result, Session, batch, cache,
    classify::{Answer, classify},
    model::Classifier,
    session,
    tokenizer::{Encode, Tokenizer},
};
use pith_jobs::{
    guard::Prompt,
    prompt::{From, Reader},
    row::{Cell, Row},
    source::{Inputs, Position},
    task::Task,
    tasks::{
        self,
        classify::spans,
        labels::{By, Labels, examples},
    },
};
use pith_models::{ClassifierKind, Problem};
use serde_json::{Value, json};

use crate::{
    End, catch_interrupts,
    inspect::shown,
    interrupted,
    jobs::{Prepared, Rows},
    stdout_error,
    writing::{Place, require_tokenizer},
};

/// Label texts, by a model's classification head or by how probable labels are
///
/// A model that ends in a head labels a text by its last token, or each of its tokens; for a regression
/// the labels have values. Any other model compares the labels given by --labels: how probable is each
/// behind the prompt?
#[derive(clap::Args)]
#[command(
    override_usage = "pith classify [OPTIONS] <MODEL> <--text <TEXT>...|INPUT...>",
    after_help = "\
Examples:
  pith classify moods.gguf --text \"What a day!\" --top 1
  pith classify moods.gguf reviews.csv --column review -o labelled.csv
  cat lines.txt | pith classify moods.gguf - --format lines | jq -r .label
  pith classify gpt.gguf --labels good,bad --template \"Review: {{text}}\\nMood:\" --text \"What a day!\"
  pith classify gpt.gguf rows.jsonl --labels-file words.txt --by pmi --few-shot known.jsonl -o out.jsonl

`pith inspect MODEL` shows a model's labels."
)]
pub struct Args {
    /// The model, a GGUF file
    model: PathBuf,
    #[command(flatten)]
    rows: Rows,
    /// A text, whose labels are printed (may be given several times)
    #[arg(short, long, value_name = "TEXT", required_unless_present = "inputs", conflicts_with_all = ["inputs", "output"])]
    text: Vec<String>,
    /// The column that holds the text
    #[arg(long, value_name = "COLUMN", default_value = "text")]
    column: String,
    /// The text, or with labels the prompt, made of columns: \"{{title}}\\n{{body}}\" (\\n is a new line)
    #[arg(long, value_name = "TEXT")]
    template: Option<String>,
    /// Tell the N likeliest labels; 0 is all [default: all, but 1 for each token, and 5 of labels given]
    #[arg(long, value_name = "N")]
    top: Option<usize>,
    /// Leave out the first tokens of a text that is longer than the context, which is else an error
    #[arg(long)]
    truncate_left: bool,
    /// Let the texts of rows hold control tokens such as <|endoftext|>
    #[arg(long)]
    parse_special: bool,
    #[command(flatten)]
    given: Given,
    #[command(flatten)]
    place: Place,
}

/// Labels for a model without a head.
#[derive(clap::Args)]
#[command(next_help_heading = "Labels for a model without a head")]
struct Given {
    /// The labels
    #[arg(long, value_name = "LABEL,...", value_delimiter = ',')]
    labels: Vec<String>,
    /// The labels, one a line
    #[arg(long, value_name = "FILE", conflicts_with = "labels")]
    labels_file: Option<PathBuf>,
    /// Compare the sum of log-probabilities, the mean by token or by byte, or pmi: the sum less that behind
    /// a prompt that says nothing
    #[arg(long, value_name = "WHAT", default_value = "sum", value_parser = by)]
    by: By,
    /// What stands between a prompt and a label
    #[arg(long, value_name = "TEXT", default_value = " ")]
    delimiter: String,
    /// The prompt that says nothing, for --by pmi [default: the template with empty columns]
    #[arg(long, value_name = "TEXT")]
    prior: Option<String>,
    /// Rows with a column `label`, shown before each prompt
    #[arg(long, value_name = "FILE")]
    few_shot: Option<String>,
}

fn by(name: &str) -> std::result::Result<By, String> {
    By::by_name(name).ok_or_else(|| {
        let names: Vec<_> = By::ALL.iter().map(|by| by.name()).collect();
        format!("wanted one of {}", names.join(", "))
    })
}

/// Runs the command.
pub fn run(args: &Args) -> Result<End> {
    let has_labels = !args.given.labels.is_empty() || args.given.labels_file.is_some();
    let model = Model::open(&args.model)?;
    require_tokenizer(&model)?;
    match (model.classifier().is_some(), has_labels) {
        (true, true) => Err(Error::Invalid(
            "the model ends in a classification head, which has its own labels: leave --labels out"
                .into(),
        )),
        (false, false) => Err(Error::Unsupported(
            "the model has no classification head: name labels with --labels or --labels-file, or \
             write with it by `pith run`"
                .into(),
        )),
        (true, false) if args.rows.inputs.is_empty() => by_head(args, &model),
        (false, true) if args.rows.inputs.is_empty() => {
            let session = session::Options { n_seq: batch::N_SEQ, ..args.place.options()? };
            by_labels(args, &mut labels(args, &model, &session)?)
        }
        (is_head, _) => {
            let prepared = Prepared::new("classify", &args.model, &args.rows, &args.place)?;
            // As for texts of the command line: the same labels to the last bit.
            let prepared = if is_head { prepared.with_cache(cache::Type::F32) } else { prepared };
            let session = prepared.session(&model)?;
            match is_head {
                true => prepared.run(&mut head(args, &model, &session)?),
                false => prepared.run(&mut labels(args, &model, &session)?),
            }
        }
    }
}

/// Where a row's text is.
fn text_of(args: &Args, reader: &Reader<'_>) -> Result<From> {
    match &args.template {
        Some(source) => reader.template(&source.replace("\\n", "\n")),
        None => Ok(From::Column(args.column.clone())),
    }
}

fn head<'m>(
    args: &Args,
    model: &'m Model,
    session: &session::Options,
) -> Result<tasks::classify::Classify<'m>> {
    let is_token = model.require_classifier()?.kind() == ClassifierKind::Token;
    let options = tasks::classify::Options {
        text: text_of(args, &Reader::new(model.tokenizer(), args.parse_special))?,
        truncate_left: args.truncate_left,
        top: args.top.unwrap_or(if is_token { 1 } else { 0 }),
        parse_special: args.parse_special,
    };
    tasks::classify::Classify::new(model, options, session)
}

fn labels<'m>(args: &Args, model: &'m Model, session: &session::Options) -> Result<Labels<'m>> {
    let Given { labels, labels_file, by, delimiter, prior, few_shot } = &args.given;
    let labels = match labels_file {
        None => labels.clone(),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
            text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
        }
    };
    let reader = Reader::new(model.tokenizer(), args.parse_special);
    let prompt = text_of(args, &reader)?;
    let few_shot = match few_shot {
        None => Prompt::plain(""),
        Some(file) => {
            let inputs = Inputs::new(std::slice::from_ref(file), None)?;
            let mut rows = inputs.open(Position::default())?;
            examples(&reader, &prompt, delimiter, &mut *rows)?
        }
    };
    let prior = match prior {
        Some(text) => reader.plain(text.replace("\\n", "\n")),
        None => reader.empty(&prompt).map_err(|fault| {
            Error::Invalid(format!("the template refuses empty columns ({fault}): give --prior"))
        })?,
    };
    let options = tasks::labels::Options {
        prompt,
        few_shot,
        labels,
        delimiter: delimiter.clone(),
        by: *by,
        prior,
        top: args.top.unwrap_or(5),
        parse_special: args.parse_special,
    };
    Labels::new(model, options, session)
}

/// Prints what a model's head says of texts.
fn by_head(args: &Args, model: &Model) -> Result<End> {
    catch_interrupts()?;
    let head = model.require_classifier()?;
    // One text at a time: its keys and values are few, and need not be rounded.
    let cache = args.place.cache_type.unwrap_or(cache::Type::F32);
    let options = session::Options { cache, ..args.place.options()? };
    let mut session = Session::new(model, &options)?;
    let mut out = io::stdout().lock();
    for (i, text) in args.text.iter().enumerate() {
        if interrupted() {
            return Ok(End::Interrupted);
        }
        let ids = model.tokenizer().encode(text, Encode { add_special: true, parse_special: true });
        if ids.is_empty() {
            return Err(Error::Invalid(format!("text {} is empty: nothing to classify", i + 1)));
        }
        let answers = classify(&mut session, &ids)?;
        let said = Said { head, tokenizer: model.tokenizer(), text, ids: &ids, answers: &answers };
        let printed = match args.rows.json {
            true => format!("{}\n", said.json(args.top)),
            false => titled(args, i, said.text(args.top)),
        };
        out.write_all(printed.as_bytes()).and_then(|()| out.flush()).map_err(stdout_error)?;
    }
    Ok(End::Done)
}

/// Prints how labels compare behind texts.
fn by_labels(args: &Args, task: &mut Labels<'_>) -> Result<End> {
    catch_interrupts()?;
    let mut answers = Vec::new();
    for (text, at) in args.text.iter().zip(0..) {
        let mut row = Row::default();
        row.push(args.column.as_str(), Cell::Text(text.clone()));
        task.push(at, &row).map_err(|fault| Error::Invalid(format!("text {}: {fault}", at + 1)))?;
    }
    task.work(true, &mut |_| !interrupted(), &mut |at, answer| answers.push((at, answer)))?;
    for (at, answer) in answers {
        let cells = answer.map_err(|fault| Error::Invalid(fault.to_string()))?;
        let text = &args.text[at as usize];
        let mut object = json!({"text": text});
        for (column, cell) in task.columns().into_iter().zip(cells) {
            object[column.name] = match cell {
                Cell::Text(text) => text.into(),
                Cell::Json(json) => serde_json::from_str(json.get()).unwrap_or_default(),
            };
        }
        let labels = object["labels"].as_array().map_or(&[][..], Vec::as_slice);
        let name = |label: &Value| shown(label["label"].as_str().unwrap_or_default());
        let width = labels.iter().map(|label| name(label).chars().count()).max().unwrap_or(0);
        let lines = labels.iter().map(|label| {
            let [probability, log_prob] =
                ["probability", "log_prob"].map(|key| label[key].as_f64());
            let (probability, log_prob) = (probability.unwrap_or(0.0), log_prob.unwrap_or(0.0));
            format!("{:<width$}  {probability:.4}  {log_prob:9.4}\n", name(label))
        });
        let printed = match args.rows.json {
            true => format!("{object}\n"),
            false => titled(args, at as usize, lines.collect()),
        };
        io::stdout().write_all(printed.as_bytes()).map_err(stdout_error)?;
    }
    Ok(End::Done)
}

/// What is printed of text `i`: below the text itself where there are several.
fn titled(args: &Args, i: usize, lines: String) -> String {
    let title = (args.text.len() > 1).then(|| format!("{}\n", shown(&args.text[i])));
    let gap = if i > 0 { "\n" } else { "" };
    format!("{gap}{}{lines}", title.unwrap_or_default())
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
                let spans = spans(self.tokenizer, self.text, self.ids, 0);
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
