//! `pith bench`: how fast a model reads and writes here, over context lengths and numbers of
//! sequences, and how near that is to what the machine can read.

mod limits;
mod print;

use std::{path::PathBuf, time::Instant};

use pith::{Error, Model, Result, Session, plan::Op, session::Options};

use crate::{End, catch_interrupts, interrupted, progress::Bar, writing::Place};

/// Tokens that are evaluated between two looks at Ctrl-C while a context is filled.
const FILL: usize = 256;
/// Ceiling on a measurement's memory where `--max-memory` says none, in bytes.
const MAX_MEMORY: u64 = 1 << 30;
/// The most of anything that is asked for.
const MAX_COUNT: usize = 1 << 16;

/// Measure how fast a model runs on this machine
///
/// Prompts of several lengths, a text that is scored (every token's probability given those before
/// it), then generation at several depths of context for one and for several
/// sequences at once. Each figure is the median of --repeat runs after one that is not counted.
/// GB/s are the weights and the cache that generation reads; beside it is how much that is of what
/// as many threads can read from the file's own pages, measured first.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  pith bench model.gguf
  pith bench model.gguf --prompt 512 --depth 0 --batch 1,16 --threads 2
  pith bench model.gguf --kernels scalar --repeat 1
  pith bench model.gguf --json | jq '.results[] | {task, tokens_per_second}'")]
pub struct Args {
    /// The model, a GGUF file
    model: PathBuf,
    /// Lengths of the prompts
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "128,512")]
    #[arg(value_parser = count)]
    prompt: Vec<usize>,
    /// Lengths of the texts that are scored
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "512")]
    #[arg(value_parser = count)]
    score: Vec<usize>,
    /// Tokens in the context when generation begins; left out where the context is shorter
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "0,1024,4096")]
    depth: Vec<usize>,
    /// Sequences that generate together
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1,8,16")]
    #[arg(value_parser = count)]
    batch: Vec<usize>,
    /// Tokens that each sequence generates in a run
    #[arg(short, long = "tokens", value_name = "N", default_value_t = 32)]
    #[arg(value_parser = count)]
    n: usize,
    /// Runs that are counted
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = count)]
    repeat: usize,
    /// Print one JSON object
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print comma-separated values
    #[arg(long)]
    csv: bool,
    #[command(flatten)]
    place: Place,
}

fn count(text: &str) -> std::result::Result<usize, String> {
    let number = text.parse().ok().filter(|n| (1..=MAX_COUNT).contains(n));
    number.ok_or_else(|| format!("wanted a number from 1 to {MAX_COUNT}"))
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Task {
    Prompt,
    Scoring,
    Generation,
}

impl Task {
    fn name(self) -> &'static str {
        match self {
            Task::Prompt => "prompt",
            Task::Scoring => "scoring",
            Task::Generation => "generation",
        }
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
struct Cell {
    task: Task,
    /// Tokens of each sequence in a run.
    n_tokens: usize,
    n_seq: usize,
    /// Tokens in the context before.
    depth: usize,
}

/// What came of one.
struct Outcome {
    cell: Cell,
    /// Tokens per second of all sequences together, slowest run first; at least one.
    rates: Vec<f64>,
    /// Bytes of weights and cache that a token of generation reads, on average.
    bytes_per_token: Option<f64>,
    /// Multiply-adds with weights for one token, in which only wanted logits are counted.
    macs_per_token: f64,
}

impl Outcome {
    /// The middle of the rates, the slower one of two.
    fn median(&self) -> f64 {
        self.rates[(self.rates.len() - 1) / 2]
    }

    fn gigabytes_per_second(&self) -> Option<f64> {
        self.bytes_per_token.map(|bytes| bytes * self.median() / 1e9)
    }

    fn gigamacs_per_second(&self) -> f64 {
        self.macs_per_token * self.median() / 1e9
    }
}

/// All that is printed.
struct Results {
    model: String,
    kernels: &'static str,
    n_threads: usize,
    /// Bytes per second that the threads can read.
    read: f64,
    outcomes: Vec<Outcome>,
    /// What was asked for and can't be measured, with the reason.
    left_out: Vec<(Cell, String)>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<End> {
    catch_interrupts()?;
    let model = Model::open(&args.model)?;
    model.require_language_model()?;
    let mut bench = Bench {
        args,
        model: &model,
        bar: Bar::steps(),
        n_cells: args.prompt.len() + args.score.len() + args.depth.len() * args.batch.len(),
        outcomes: Vec::new(),
        left_out: Vec::new(),
    };
    let one = bench.session(Task::Prompt, 1, bench.n_ctx().min(FILL))?;
    let (kernels, n_threads) = (one.kernels().name(), one.n_threads());
    drop(one);
    bench.show("reading the file");
    let read = limits::read_bandwidth(model.bytes(), n_threads);
    let end = bench.all()?;
    let Bench { bar, outcomes, left_out, .. } = bench;
    drop(bar);
    let model = args.model.file_name().unwrap_or(args.model.as_os_str());
    let model = model.to_string_lossy().into_owned();
    let results = Results { model, kernels, n_threads, read, outcomes, left_out };
    print::print(&results, args.json, args.csv)?;
    Ok(end)
}

struct Bench<'a> {
    args: &'a Args,
    model: &'a Model,
    bar: Bar,
    n_cells: usize,
    outcomes: Vec<Outcome>,
    left_out: Vec<(Cell, String)>,
}

impl<'a> Bench<'a> {
    /// The longest context that is allowed.
    fn n_ctx(&self) -> usize {
        let most = self.model.hparams().n_ctx;
        if self.args.place.ctx == 0 { most } else { most.min(self.args.place.ctx) }
    }

    fn session(&self, task: Task, n_seq: usize, n_ctx: usize) -> Result<Session<'a>> {
        let options = self.args.place.options()?;
        Session::new(
            self.model,
            &Options {
                n_ctx,
                n_seq,
                n_batch: options.n_batch.max(n_seq),
                n_logits: n_seq,
                score: task == Task::Scoring,
                max_memory: options.max_memory.or(Some(MAX_MEMORY)),
                ..options
            },
        )
    }

    fn show(&mut self, what: &str) {
        let done = self.outcomes.len() + self.left_out.len();
        self.bar.show(done as u64, self.n_cells as u64, what);
    }

    /// Measures what there is to measure, until Ctrl-C.
    fn all(&mut self) -> Result<End> {
        let mut end = self.texts(Task::Prompt, &self.args.prompt)?;
        if end != End::Interrupted {
            end = self.texts(Task::Scoring, &self.args.score)?;
        }
        for n_seq in ascending(&self.args.batch) {
            if end == End::Interrupted || self.generation(n_seq)? == End::Interrupted {
                return Ok(End::Interrupted);
            }
        }
        Ok(end)
    }

    /// Texts from an empty context: prompts, or what is scored.
    fn texts(&mut self, task: Task, lengths: &[usize]) -> Result<End> {
        let cell = |n_tokens| Cell { task, n_tokens, n_seq: 1, depth: 0 };
        let cells = ascending(lengths).map(cell).collect();
        let Some((mut session, cells)) = self.fitting(cells)? else { return Ok(End::Done) };
        for cell in cells {
            let ids: Vec<u32> = (0..cell.n_tokens).map(|i| self.id(0, i)).collect();
            let end = self.measure(&mut session, cell, |session| {
                session.truncate(0, 0);
                match task {
                    Task::Scoring => session.score(0, &ids, &ids, |_, _| ()),
                    _ => session.eval(0, &ids).map(|_| ()),
                }
            })?;
            if end == End::Interrupted {
                return Ok(end);
            }
        }
        Ok(End::Done)
    }

    fn generation(&mut self, n_seq: usize) -> Result<End> {
        let n_tokens = self.args.n;
        let cell = |depth| Cell { task: Task::Generation, n_tokens, n_seq, depth };
        let cells = ascending(&self.args.depth).map(cell).collect();
        let Some((mut session, cells)) = self.fitting(cells)? else { return Ok(End::Done) };
        for cell in cells {
            if !self.fill(&mut session, cell.depth)? {
                return Ok(End::Interrupted);
            }
            (1..n_seq).for_each(|seq| session.fork(0, seq));
            let ids: Vec<Vec<u32>> = (0..n_seq)
                .map(|seq| (0..n_tokens).map(|i| self.id(seq, cell.depth + i)).collect())
                .collect();
            let end = self.measure(&mut session, cell, |session| {
                (0..n_seq).for_each(|seq| session.truncate(seq, cell.depth));
                for i in 0..n_tokens {
                    let step: Vec<_> = ids.iter().map(|ids| &ids[i..=i]).enumerate().collect();
                    session.eval_batch(&step)?;
                }
                Ok(())
            })?;
            if end == End::Interrupted {
                return Ok(end);
            }
        }
        Ok(End::Done)
    }

    /// Those of the cells, shortest first, whose tokens fit the model and whose memory is allowed,
    /// and a session for them.
    fn fitting(&mut self, mut cells: Vec<Cell>) -> Result<Option<(Session<'a>, Vec<Cell>)>> {
        while let Some(&last) = cells.last() {
            let n_ctx = last.depth.saturating_add(last.n_tokens);
            let why = match self.n_ctx() {
                most if n_ctx > most => format!("the context holds {most} tokens"),
                _ => match self.session(last.task, last.n_seq, n_ctx) {
                    Ok(session) => return Ok(Some((session, cells))),
                    Err(error @ (Error::Memory { .. } | Error::OutOfMemory { .. })) => {
                        error.to_string()
                    }
                    Err(error) => return Err(error),
                },
            };
            self.left_out.push((last, why));
            cells.pop();
        }
        Ok(None)
    }

    /// Some id, the same in every run; other ones in other sequences.
    fn id(&self, seq: usize, position: usize) -> u32 {
        ((position * 7919 + seq * 31) % self.model.hparams().n_vocab) as u32
    }

    /// Makes the first sequence `depth` tokens long. `false` when interrupted.
    fn fill(&mut self, session: &mut Session<'_>, depth: usize) -> Result<bool> {
        session.truncate(0, depth);
        while session.ids(0).len() < depth {
            let from = session.ids(0).len();
            self.show(&format!("filling the context: {from} of {depth}"));
            if interrupted() {
                return Ok(false);
            }
            let ids: Vec<u32> = (from..depth.min(from + FILL)).map(|i| self.id(0, i)).collect();
            session.eval(0, &ids)?;
        }
        Ok(true)
    }

    /// Times `run`, which takes the cell's tokens.
    fn measure(
        &mut self,
        session: &mut Session<'_>,
        cell: Cell,
        mut run: impl FnMut(&mut Session<'_>) -> Result<()>,
    ) -> Result<End> {
        self.show(&match cell.task {
            Task::Prompt => format!("prompt of {}", cell.n_tokens),
            Task::Scoring => format!("scoring of {}", cell.n_tokens),
            Task::Generation => format!("generation at {}, {} at once", cell.depth, cell.n_seq),
        });
        let mut rates = Vec::with_capacity(self.args.repeat);
        for i in 0..=self.args.repeat {
            if interrupted() {
                return Ok(End::Interrupted);
            }
            let began = Instant::now();
            run(session)?;
            if i > 0 {
                let seconds = began.elapsed().as_secs_f64();
                rates.push((cell.n_tokens * cell.n_seq) as f64 / seconds);
            }
        }
        rates.sort_by(f64::total_cmp);
        self.outcomes.push(Outcome {
            cell,
            rates,
            bytes_per_token: (cell.task == Task::Generation)
                .then(|| bytes_per_token(session, cell)),
            macs_per_token: macs_per_token(session, cell),
        });
        Ok(End::Done)
    }
}

/// Each number once, in order.
fn ascending(numbers: &[usize]) -> impl Iterator<Item = usize> + use<> {
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable();
    numbers.dedup();
    numbers.into_iter()
}

/// Bytes that a generated token reads: its share of the weights, which a step reads once for all
/// sequences, and the cache at the positions that each layer sees.
fn bytes_per_token(session: &Session<'_>, cell: Cell) -> f64 {
    let weights = session.plan().weight_bytes() as f64 / cell.n_seq as f64;
    let windows: Vec<Option<usize>> = session
        .plan()
        .ops
        .iter()
        .filter_map(|op| if let Op::Attend(attend) = op { Some(attend.window) } else { None })
        .collect();
    let positions = (cell.n_seq * session.n_ctx() * windows.len()) as f64;
    let bytes_per_position = session.memory().kv as f64 / positions;
    let seen = |held: usize| -> usize {
        windows.iter().map(|window| window.map_or(held, |window| held.min(window))).sum()
    };
    let seen: usize = (1..=cell.n_tokens).map(|i| seen(cell.depth + i)).sum();
    weights + seen as f64 / cell.n_tokens as f64 * bytes_per_position
}

/// Multiply-adds with weights for one token: those of the logits once for a prompt.
fn macs_per_token(session: &Session<'_>, cell: Cell) -> f64 {
    let plan = session.plan();
    let of_logits = |op: &&Op| op.writes().is_some_and(|out| plan.buffers[out.0].per_logit);
    let all: usize = plan.ops.iter().map(Op::macs).sum();
    let logits: usize = plan.ops.iter().filter(of_logits).map(Op::macs).sum();
    let times = match cell.task {
        Task::Prompt => 1.0 / cell.n_tokens as f64,
        Task::Scoring | Task::Generation => 1.0,
    };
    (all - logits) as f64 + logits as f64 * times
}
