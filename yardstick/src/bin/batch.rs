//! Files of rows: scoring behind one prompt, scoring without one, and generation, by llama.cpp's API
//! with the settings that are fastest here, and by pith with its defaults, taking turns. The figure to
//! read is the median of the ratios.

use std::path::{Path, PathBuf};
use std::time::Instant;

use pith::batch::{self, Generator, Next, Prompt, Request, Scorer};
use pith::gguf::Gguf;
use pith::{sampler, session, tokenizer::Encode};
use yardstick::args::Args;
use yardstick::limits::Limits;
use yardstick::llama::{Cells, Context, Load, Model, Result, Setup};
use yardstick::rows::Rows;
use yardstick::stats::median;
use yardstick::{machine, packed, results};

const USAGE: &str = "batch MODEL.gguf [--rows 200] [--shared 100] [--prompts 64] [--gen 64] \
                     [--threads 2] [--repeat 3] [--tune-rows 40] [--n-seq N] [--n-batch N] \
                     [--text FILE] [--csv FILE | --save]; 0 for --rows or --prompts leaves those tasks \
                     out, for --tune-rows takes the first of llama.cpp's settings, --save writes benches/results/MACHINE-batch.csv";

const HEADER: &str = "model,task,threads,ratio,pith_tokens_per_s,llama_tokens_per_s,\
                      pith_percent_of_int8,llama_percent_of_int8,llama_settings";
/// Fields of a line that say what was measured.
const N_KEY: usize = 3;

/// How llama.cpp runs.
#[derive(Clone, Copy, Debug)]
struct Way {
    repack: bool,
    /// One cache for all sequences.
    unified: bool,
    flash: bool,
    /// Tokens of a step, and of a call that scores.
    n_ubatch: usize,
    /// Sequences that are continued at once.
    n_seq: usize,
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Way { repack, unified, flash, n_ubatch, n_seq } = *self;
        let repack = if repack { "repacked" } else { "mapped" };
        let cache = if unified { "unified" } else { "apart" };
        let flash = if flash { "flash" } else { "no flash" };
        write!(f, "{repack} {cache} {flash} ubatch {n_ubatch} sequences {n_seq}")
    }
}

/// The way that tuning begins with, and what it tries beside it, one thing after the other.
const FIRST: Way = Way { repack: true, unified: true, flash: true, n_ubatch: 512, n_seq: 32 };
type Change = fn(&mut Way);
const CACHES: &[Change] = &[|way| way.unified = false];
const WEIGHTS: &[Change] = &[|way| way.repack = false];
const FLASH: &[Change] = &[|way| way.flash = false];
const STEPS: &[Change] =
    &[|way| way.n_ubatch = 256, |way| way.n_ubatch = 1024, |way| way.n_ubatch = 2048];
const SEQUENCES: &[Change] = &[|way| way.n_seq = 8, |way| way.n_seq = 16, |way| way.n_seq = 64];

/// What is measured.
enum Work {
    Score { shared: Vec<u32>, rows: Vec<Vec<u32>> },
    Generate { prompts: Vec<Vec<u32>>, n: usize },
}

/// What came of a turn.
struct Turn {
    seconds: f64,
    /// Tokens that were scored or generated.
    n_tokens: usize,
    /// The sum of log-probabilities; 0 of what is generated.
    sum: f64,
}

struct Models {
    mapped: Model,
    repacked: Model,
    pith: pith::Model,
    /// Multiply-adds with weights that a token needs, and that its logits need besides.
    macs: [f64; 2],
}

struct Options {
    n_threads: usize,
    n_repeat: usize,
    n_tune: usize,
    n_seq: usize,
    n_batch: usize,
    limits: Limits,
}

fn main() -> Result<()> {
    let mut args = Args::of_program();
    let n_rows: usize = args.option("--rows")?.unwrap_or(200);
    let n_shared: usize = args.option("--shared")?.unwrap_or(100);
    let n_prompts: usize = args.option("--prompts")?.unwrap_or(64);
    let n_gen: usize = args.option("--gen")?.unwrap_or(64);
    let n_threads = args.option("--threads")?.unwrap_or(2);
    let options = Options {
        n_threads,
        n_repeat: args.option("--repeat")?.unwrap_or(3),
        n_tune: args.option("--tune-rows")?.unwrap_or(40),
        n_seq: args.option("--n-seq")?.unwrap_or(batch::N_SEQ),
        n_batch: args.option("--n-batch")?.unwrap_or(batch::N_BATCH),
        limits: Limits::measure(n_threads),
    };
    let text: Option<PathBuf> = args.option("--text")?;
    let text = text.unwrap_or_else(|| {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo/heldout.txt")
    });
    let csv: Option<PathBuf> = args.option("--csv")?;
    let saved = || results::folder().join(format!("{}-batch.csv", machine::slug()));
    let csv = csv.or_else(|| args.flag("--save").then(saved));
    let [path] = args.positional(USAGE)?;
    let path = Path::new(&path);
    let models = Models::load(path)?;

    let text = std::fs::read_to_string(&text).map_err(|e| format!("{}: {e}", text.display()))?;
    let encode = Encode { add_special: false, parse_special: false };
    let ids = models.pith.tokenizer().encode(&text, encode);
    let n_vocab = models.pith.hparams().n_vocab;
    let mut cut = Rows::of(&ids);
    let rows = cut.take(n_rows, 30, 120, n_vocab)?;
    let prompts = cut.take(n_prompts, 20, 40, n_vocab)?;
    let shared = ids.get(..n_shared).ok_or("a text shorter than --shared")?.to_vec();
    let mut work = Vec::new();
    if n_rows > 0 && n_shared > 0 {
        work.push((
            format!("score{n_rows}@{n_shared}"),
            Work::Score { shared, rows: rows.clone() },
        ));
    }
    if n_rows > 0 {
        work.push((format!("score{n_rows}"), Work::Score { shared: Vec::new(), rows }));
    }
    if n_prompts > 0 && n_gen > 0 {
        work.push((format!("gen{n_gen}x{n_prompts}"), Work::Generate { prompts, n: n_gen }));
    }

    println!("{}; {}", machine::name(), options.limits);
    let stem = path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into());
    for (name, work) in work {
        let fields = measure(&name, &work, &models, &options)?;
        if let Some(csv) = &csv {
            let line = format!("{stem},{name},{n_threads},{fields}");
            results::merge(csv, HEADER, N_KEY, &[line]).map_err(|e| e.to_string())?;
        }
    }
    Ok(())
}

impl Models {
    fn load(path: &Path) -> Result<Models> {
        let pith = pith::Model::open(path).map_err(|e| e.to_string())?;
        let gguf = Gguf::parse(pith.bytes()).map_err(|e| e.to_string())?;
        let weights = |wanted: &dyn Fn(&str) -> bool| -> f64 {
            let tensors = gguf.tensors().iter().filter(|t| wanted(t.name) && t.n_dims > 1);
            tensors.map(|t| t.n_in() as f64 * t.n_rows() as f64).sum()
        };
        let head = match gguf.tensor("output.weight") {
            Some(_) => "output.weight",
            None => "token_embd.weight",
        };
        let macs = [weights(&|name| name.starts_with("blk.")), weights(&|name| name == head)];
        let load = |repack| Model::load(path, Load { repack, ..Load::default() });
        Ok(Models { mapped: load(false)?, repacked: load(true)?, macs, pith })
    }
}

impl Work {
    /// Its first `n` rows, or the first tokens of all its texts.
    fn first(&self, n: usize) -> Work {
        let some = |rows: &[Vec<u32>]| rows[..n.min(rows.len())].to_vec();
        match self {
            Work::Score { shared, rows } => {
                Work::Score { shared: shared.clone(), rows: some(rows) }
            }
            Work::Generate { prompts, n: n_gen } => {
                Work::Generate { prompts: prompts.clone(), n: 12.min(*n_gen) }
            }
        }
    }

    /// Tokens that a sequence holds at most.
    fn n_ctx(&self) -> usize {
        let longest = |rows: &[Vec<u32>]| rows.iter().map(Vec::len).max().unwrap_or(0);
        match self {
            Work::Score { shared, rows } => shared.len() + longest(rows),
            Work::Generate { prompts, n } => n + longest(prompts),
        }
    }

    /// Multiply-adds with weights that it needs if nothing is run twice, and that make `n_tokens` of
    /// answers.
    fn macs(&self, n_tokens: usize, [body, head]: [f64; 2]) -> f64 {
        let n: usize = match self {
            Work::Score { shared, rows } => {
                shared.len() + rows.iter().map(|row| row.len() - 1).sum::<usize>()
            }
            // The last one of each isn't run.
            Work::Generate { prompts, .. } => {
                prompts.iter().map(|prompt| prompt.len() - 1).sum::<usize>() + n_tokens
            }
        };
        n as f64 * body + n_tokens as f64 * head
    }

    /// A context of llama.cpp for it.
    fn context<'m>(&self, models: &'m Models, way: &Way, n_threads: usize) -> Result<Context<'m>> {
        let n_ctx = self.n_ctx();
        let (n_seq, n_batch, n_cells) = match self {
            // Rows of 30 tokens fill a call.
            Work::Score { shared, rows } => {
                let n_seq = (way.n_ubatch / 30).clamp(1, 256).min(rows.len());
                (n_seq, way.n_ubatch.max(shared.len()), shared.len() + way.n_ubatch)
            }
            // All prompts can begin in one call.
            Work::Generate { prompts, .. } => {
                let n_seq = way.n_seq.min(prompts.len());
                (n_seq, way.n_ubatch.max(n_seq * 40), n_seq * n_ctx)
            }
        };
        let cells = if way.unified { Cells::Shared(n_cells) } else { Cells::Apart };
        let setup = Setup {
            n_seq,
            n_ctx,
            cells,
            n_batch,
            n_ubatch: way.n_ubatch,
            flash: Some(way.flash),
            n_threads,
        };
        let model = if way.repack { &models.repacked } else { &models.mapped };
        model.context_of(&setup)
    }

    /// llama.cpp's turn.
    fn theirs(
        &self,
        models: &Models,
        way: &Way,
        context: &mut Context<'_>,
        n_threads: usize,
    ) -> Result<Turn> {
        let start = Instant::now();
        let (n_tokens, sum) = match self {
            Work::Score { shared, rows } => {
                let n_batch = way.n_ubatch.max(shared.len());
                let sums = packed::score(context, n_batch, n_threads, shared, rows)?;
                (n_scored(shared, rows), sums.iter().sum())
            }
            Work::Generate { prompts, n } => {
                let n_batch = way.n_ubatch.max(way.n_seq * 40);
                let is_eog = |id| models.mapped.is_eog(id);
                let texts = packed::generate(context, n_batch, prompts, *n, is_eog)?;
                (texts.iter().map(Vec::len).sum(), 0.0)
            }
        };
        let seconds = start.elapsed().as_secs_f64();
        context.rest();
        Ok(Turn { seconds, n_tokens, sum })
    }

    /// pith's turn.
    fn ours(&self, model: &pith::Model, options: &Options) -> pith::Result<Turn> {
        let &Options { n_threads, n_seq, n_batch, .. } = options;
        let n_ctx = self.n_ctx();
        let defaults = session::Options::default();
        let session = session::Options { n_ctx, n_seq, n_batch, n_threads, ..defaults };
        match self {
            Work::Score { shared, rows } => {
                let whole: Vec<Vec<u32>> =
                    rows.iter().map(|row| [shared.as_slice(), row].concat()).collect();
                let from = shared.len().max(1);
                let requests: Vec<Request<'_>> =
                    whole.iter().map(|ids| Request { ids, from }).collect();
                let mut scorer = Scorer::new(model, &session)?;
                let start = Instant::now();
                let scored = scorer.score(&requests, |_| true)?;
                let seconds = start.elapsed().as_secs_f64();
                let sum = scored.iter().map(|scored| scored.sum()).sum();
                Ok(Turn { seconds, n_tokens: n_scored(shared, rows), sum })
            }
            Work::Generate { prompts, n } => {
                let mut generator = Generator::new(model, &session)?;
                let start = Instant::now();
                for (ids, tag) in prompts.iter().zip(0..) {
                    let sampler = sampler::Options { temp: 0.0, ..sampler::Options::default() };
                    let ids = ids.clone();
                    generator
                        .push(tag, Prompt { ids, n_predict: *n, sampler, log_probs: false })?;
                }
                let mut n_tokens = 0;
                let mut each = |_: batch::Chosen<'_>| {
                    n_tokens += 1;
                    Next::GoOn
                };
                while generator.step(&mut each) > 0 {}
                Ok(Turn { seconds: start.elapsed().as_secs_f64(), n_tokens, sum: 0.0 })
            }
        }
    }
}

/// Ids that have a score.
fn n_scored(shared: &[u32], rows: &[Vec<u32>]) -> usize {
    rows.iter().map(|row| row.len() - usize::from(shared.is_empty())).sum()
}

/// The fastest way of llama.cpp: each thing is tried in turn and kept if it is better.
fn tune(work: &Work, models: &Models, options: &Options) -> Result<Way> {
    if options.n_tune == 0 {
        return Ok(FIRST);
    }
    let some = work.first(options.n_tune);
    let rate = |way: &Way| -> Result<f64> {
        let mut context = some.context(models, way, options.n_threads)?;
        let mut rate = || -> Result<f64> {
            let turn = some.theirs(models, way, &mut context, options.n_threads)?;
            Ok(turn.n_tokens as f64 / turn.seconds)
        };
        let rate = rate()?.max(rate()?);
        println!("  {way}: {rate:.1} tokens/s");
        Ok(rate)
    };
    let mut best = (FIRST, rate(&FIRST)?);
    let last = if matches!(work, Work::Score { .. }) { STEPS } else { SEQUENCES };
    for change in [WEIGHTS, CACHES, last, FLASH].into_iter().flatten() {
        let mut way = best.0;
        change(&mut way);
        let rate = rate(&way)?;
        if rate > best.1 {
            best = (way, rate);
        }
    }
    Ok(best.0)
}

/// Measures a task, prints it and returns its fields for the file.
fn measure(name: &str, work: &Work, models: &Models, options: &Options) -> Result<String> {
    println!("{name}: ways of llama.cpp, on some of the rows");
    let way = tune(work, models, options)?;
    let mut context = work.context(models, &way, options.n_threads)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let ours_first = work.first(4).ours(&models.pith, options);
    ours_first.map_err(|e| e.to_string())?;
    for _ in 0..options.n_repeat.max(1) {
        ours.push(work.ours(&models.pith, options).map_err(|e| e.to_string())?);
        theirs.push(work.theirs(models, &way, &mut context, options.n_threads)?);
    }
    let (a, b) = (&ours[0], &theirs[0]);
    let apart = (a.sum - b.sum).abs() / a.n_tokens as f64;
    if apart > 0.02 {
        return Err(format!("log-probabilities differ by {apart:.4} a token: other work"));
    }
    let rate = |turn: &Turn| turn.n_tokens as f64 / turn.seconds;
    let ratio = median(ours.iter().zip(&theirs).map(|(a, b)| rate(a) / rate(b)));
    let of_limit = |turn: &Turn| {
        100.0 * work.macs(turn.n_tokens, models.macs) / turn.seconds / options.limits.int8
    };
    let [our_rate, their_rate] = [&ours, &theirs].map(|turns| median(turns.iter().map(rate)));
    let [our_part, their_part] = [&ours, &theirs].map(|turns| median(turns.iter().map(of_limit)));
    println!(
        "{name}: ratio {ratio:.2}; pith {our_rate:.1} tokens/s, {our_part:.0} % of int8; llama.cpp \
         {their_rate:.1}, {their_part:.0} %, {way}; {} and {} tokens, log-probabilities {apart:.5} \
         apart",
        a.n_tokens, b.n_tokens
    );
    Ok(format!("{ratio:.3},{our_rate:.1},{their_rate:.1},{our_part:.1},{their_part:.1},{way}"))
}
