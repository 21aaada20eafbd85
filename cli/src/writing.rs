//! What `run` and `chat` share: where a model runs, how ids are drawn, and the loop from ids to
//! text with its timings.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use pith::{
    Error, Lora, Model, Result, cache,
    kernel::Kernels,
    lora::Adapter,
    sampler::{self, Sampler},
    session::{self, Options, Session},
    stops::Stops,
};
use serde_json::{Value, json};

use crate::{interrupted, memory::Peak, progress::Bar};

/// Ids of a prompt from which on there is a bar; fewer are read in a moment.
const BAR_FROM: usize = 256;
/// Generated ids between two looks at this process's memory.
const MEMORY_EVERY: usize = 64;

/// Refuses a model without a tokenizer, which can be given no text.
pub fn require_tokenizer(model: &Model) -> Result<()> {
    if !model.tokenizer().is_none() {
        return Ok(());
    }
    Err(Error::Unsupported(
        "the model has no tokenizer, so that it can't be given a text; convert the checkpoint again, \
         with its tokenizer.json beside it and without --no-tokenizer"
            .into(),
    ))
}

/// Where and within what a model runs.
#[derive(clap::Args)]
#[command(next_help_heading = "Where it runs")]
pub struct Place {
    /// Tokens that the context holds; 0 means the model's own, at most 4096
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub ctx: usize,
    /// Threads; 0 means all cores
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// How keys and values of the context are kept: f16, f32 or q8_0, about half of f16's memory
    /// [default: f16; f32 to classify]
    #[arg(long, value_name = "TYPE", value_parser = cache_type)]
    pub cache_type: Option<cache::Type>,
    /// Kernels by name instead of the best ones this machine has (`scalar` is the reference)
    #[arg(long, value_name = "NAME", value_parser = kernels)]
    pub kernels: Option<&'static Kernels>,
    /// Add an adapter's file (`pith convert ADAPTER --base BASE`), by this factor instead of 1 (may
    /// be given several times)
    #[arg(long, value_name = "FILE[=SCALE]", value_parser = lora)]
    pub lora: Vec<LoraFile>,
    /// Refuse to start over this many MiB of cache and working memory
    #[arg(long, value_name = "MIB")]
    pub max_memory: Option<u64>,
}

impl Place {
    /// A session of one sequence.
    pub fn session<'m>(&self, model: &'m Model) -> Result<Session<'m>> {
        Session::new(model, &self.options()?)
    }

    /// The same as the library's options, adapters opened.
    pub fn options(&self) -> Result<Options> {
        let adapter = |LoraFile { path, scale }: &LoraFile| {
            Ok(Adapter { lora: Arc::new(Lora::open(path)?), scale: *scale })
        };
        Ok(Options {
            n_ctx: self.ctx,
            n_seq: 1,
            cache: self.cache_type.unwrap_or(cache::Type::F16),
            n_threads: self.threads,
            adapters: self.lora.iter().map(adapter).collect::<Result<_>>()?,
            kernels: self.kernels,
            max_memory: self.max_memory.map(|mib| mib.saturating_mul(1 << 20)),
            ..Options::default()
        })
    }
}

/// An adapter's file and a factor on what it adds.
#[derive(Clone)]
pub struct LoraFile {
    /// The file.
    pub path: PathBuf,
    /// The factor.
    pub scale: f32,
}

/// `FILE`, or `FILE=SCALE`: what is behind the last `=` is a factor if it is a number.
fn lora(text: &str) -> std::result::Result<LoraFile, String> {
    let scaled = text.rsplit_once('=').and_then(|(file, scale)| Some((file, scale.parse().ok()?)));
    let (file, scale) = scaled.unwrap_or((text, 1.0f32));
    if file.is_empty() || !scale.is_finite() {
        return Err("wanted FILE or FILE=SCALE, with a finite number".into());
    }
    Ok(LoraFile { path: file.into(), scale })
}

fn cache_type(name: &str) -> std::result::Result<cache::Type, String> {
    cache::Type::by_name(name).ok_or_else(|| {
        let names: Vec<_> = cache::Type::ALL.iter().map(|of| of.name()).collect();
        format!("wanted one of {}", names.join(", "))
    })
}

fn kernels(name: &str) -> std::result::Result<&'static Kernels, String> {
    Kernels::by_name(name).ok_or_else(|| {
        let names: Vec<_> = Kernels::available().iter().map(|kernels| kernels.name()).collect();
        format!("this machine has {}", names.join(", "))
    })
}

fn number(text: &str, fits: fn(f32) -> bool, wanted: &str) -> std::result::Result<f32, String> {
    let number = text.parse().ok().filter(|&x: &f32| x.is_finite() && fits(x));
    number.ok_or_else(|| format!("wanted {wanted}"))
}

fn non_negative(text: &str) -> std::result::Result<f32, String> {
    number(text, |x| x >= 0.0, "a number from 0 on")
}

fn positive(text: &str) -> std::result::Result<f32, String> {
    number(text, |x| x > 0.0, "a number above 0")
}

fn fraction(text: &str) -> std::result::Result<f32, String> {
    number(text, |x| (0.0..=1.0).contains(&x), "a number from 0 to 1")
}

/// How ids are drawn.
#[derive(clap::Args)]
#[command(next_help_heading = "How it writes")]
pub struct Sampling {
    /// Most tokens to generate
    #[arg(short, long = "tokens", value_name = "N", default_value_t = 256)]
    pub n: usize,
    /// Temperature; 0 always takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.8, value_parser = non_negative)]
    pub temp: f32,
    /// Draw from the K likeliest tokens only; 0 means from all
    #[arg(long, value_name = "K", default_value_t = 40)]
    pub top_k: usize,
    /// Draw from the likeliest tokens that together have probability P
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = fraction)]
    pub top_p: f32,
    /// Leave out tokens less likely than P times the likeliest
    #[arg(long, value_name = "P", default_value_t = 0.05, value_parser = fraction)]
    pub min_p: f32,
    /// Make tokens among the last 64 less likely by this factor; 1 means not
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = positive)]
    pub repeat_penalty: f32,
    /// Draw the same way again; without it every run and chat differs, and generate draws by 0
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// End before this text (may be given several times)
    #[arg(long, value_name = "STR")]
    pub stop: Vec<String>,
}

impl Sampling {
    /// The sampler, and the seed it draws by.
    pub fn sampler(&self) -> (Sampler, u64) {
        let seed = self.seed.unwrap_or_else(random_seed);
        (Sampler::new(self.options(seed)), seed)
    }

    /// How a sampler draws by this seed.
    pub fn options(&self, seed: u64) -> sampler::Options {
        sampler::Options {
            temp: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            repeat_last_n: 64,
            seed,
        }
    }
}

/// A seed from the randomness that std gives each hash map; small, so that it can be typed again.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish() >> 32
}

/// What to do when the context is full and there is more to write.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnFull {
    /// Fail with exit code 5
    Error,
    /// End the text there
    Stop,
    /// Forget the older half, compute the newer half anew, and go on
    Shift,
}

/// Why a text ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The model ended it.
    EndOfText,
    /// As many tokens as asked for.
    Limit,
    /// A stop string.
    Stop,
    /// The context is full, and that was to be an end.
    Full,
    /// Ctrl-C.
    Interrupted,
}

impl Why {
    /// One word for JSON.
    pub fn name(self) -> &'static str {
        match self {
            Why::EndOfText => "end",
            Why::Limit => "limit",
            Why::Stop => "stop",
            Why::Full => "full",
            Why::Interrupted => "interrupted",
        }
    }
}

/// How long the two parts took.
#[derive(Default)]
pub struct Timings {
    /// Ids of the prompt that were evaluated.
    pub prompt: usize,
    /// How long they took.
    pub prompt_time: Duration,
    /// Steps of one id each.
    pub steps: usize,
    /// How long those took, sampling and printing included.
    pub steps_time: Duration,
}

impl Timings {
    /// Prompt ids per second.
    pub fn prompt_rate(&self) -> Option<f64> {
        rate(self.prompt, self.prompt_time)
    }

    /// Generated ids per second.
    pub fn rate(&self) -> Option<f64> {
        rate(self.steps, self.steps_time)
    }
}

fn rate(count: usize, time: Duration) -> Option<f64> {
    (count > 0 && !time.is_zero()).then(|| count as f64 / time.as_secs_f64())
}

/// One sequence that is being written.
pub struct Writer<'m> {
    model: &'m Model,
    session: Session<'m>,
    sampler: Sampler,
    logits: Vec<f32>,
    on_full: OnFull,
    /// How long it has taken.
    pub timings: Timings,
    /// Memory seen so far.
    pub peak: Peak,
}

impl<'m> Writer<'m> {
    /// Takes over a session's sequence 0.
    pub fn new(model: &'m Model, session: Session<'m>, sampler: Sampler, on_full: OnFull) -> Self {
        let mut peak = Peak::default();
        peak.sample();
        Writer {
            model,
            session,
            sampler,
            logits: Vec::new(),
            on_full,
            timings: Timings::default(),
            peak,
        }
    }

    /// Makes the context be `ids`: keeps what it has in common with them, forgets the rest and
    /// evaluates what is new. `false` when interrupted.
    ///
    /// # Errors
    /// [`Error::ContextFull`] where they do not fit, [`Error::Invalid`] where there are none.
    pub fn read(&mut self, ids: &[u32]) -> Result<bool> {
        if ids.is_empty() {
            return Err(Error::Invalid("the prompt is empty".into()));
        }
        // Said before the first of several pieces is evaluated.
        let n_ctx = self.session.n_ctx();
        if ids.len() > n_ctx {
            return Err(Error::ContextFull { n_ctx, wanted: ids.len() });
        }
        // At least one id is evaluated, since the logits after the last one are needed.
        let common = self.session.ids(0).iter().zip(ids).take_while(|(a, b)| a == b).count();
        let keep = common.min(ids.len() - 1);
        self.session.truncate(0, keep);
        let began = Instant::now();
        let new = &ids[keep..];
        let mut bar = (new.len() >= BAR_FROM).then(Bar::tokens);
        let mut done = 0;
        // A look at Ctrl-C before every step that the session makes of them.
        for piece in new.chunks(Options::default().n_batch) {
            if interrupted() {
                break;
            }
            if let Some(bar) = &mut bar {
                bar.show(done as u64, new.len() as u64, "reading the prompt");
            }
            let logits = self.session.eval(0, piece)?;
            self.logits.clear();
            self.logits.extend_from_slice(logits);
            done += piece.len();
        }
        self.timings.prompt += done;
        self.timings.prompt_time += began.elapsed();
        self.peak.sample();
        Ok(done == new.len())
    }

    /// Writes up to `n` ids after what was read, handing their text to `print` as it comes.
    ///
    /// # Errors
    /// [`Error::ContextFull`] under [`OnFull::Error`]; what `print` returns.
    pub fn write(
        &mut self,
        n: usize,
        stops: &[String],
        mut print: impl FnMut(&str) -> Result<()>,
    ) -> Result<(Vec<u32>, Why)> {
        let model = self.model;
        let mut stops = Stops::new(stops);
        let mut text = model.tokenizer().stream().after(self.session.ids(0));
        let mut ids = Vec::new();
        let began = Instant::now();
        let why = loop {
            if ids.len() == n {
                break Why::Limit;
            }
            if interrupted() {
                break Why::Interrupted;
            }
            let id = self.sampler.sample(&mut self.logits, self.session.ids(0));
            ids.push(id);
            if model.tokenizer().is_eog(id) {
                break Why::EndOfText;
            }
            let (piece, stopped) = stops.push(text.push(id));
            print(&piece)?;
            if stopped {
                break Why::Stop;
            }
            // The last id's own logits are not needed.
            if ids.len() < n && !self.step(id)? {
                break Why::Full;
            }
            if ids.len() % MEMORY_EVERY == 0 {
                self.peak.sample();
            }
        };
        if why != Why::Stop {
            let (piece, stopped) = stops.push(text.finish());
            print(&piece)?;
            if !stopped {
                print(&stops.finish())?;
            }
        }
        self.timings.steps_time += began.elapsed();
        self.peak.sample();
        Ok((ids, why))
    }

    /// Evaluates one id. `false` where the context is full and that is to be an end.
    fn step(&mut self, id: u32) -> Result<bool> {
        if self.session.ids(0).len() == self.session.n_ctx() {
            let policy = match self.on_full {
                OnFull::Error => session::OnFull::Error,
                OnFull::Stop => return Ok(false),
                OnFull::Shift => session::OnFull::Shift { keep: self.n_kept() },
            };
            self.session.make_room(0, 1, policy)?;
        }
        let logits = self.session.eval(0, &[id])?;
        self.logits.copy_from_slice(logits);
        self.timings.steps += 1;
        Ok(true)
    }

    /// Ids at the start that a shift keeps: the one that begins every text, if the model has one.
    fn n_kept(&self) -> usize {
        let bos = self.model.tokenizer().bos();
        usize::from(bos.is_some() && self.session.ids(0).first().copied() == bos)
    }

    /// Bytes of weights that one generated token reads.
    pub fn weight_bytes(&self) -> usize {
        self.session.plan().weight_bytes()
    }
}

/// Timings as JSON; a rate that could not be measured is null.
pub fn timings_json(writer: &Writer<'_>, load: Duration) -> Value {
    let timings = &writer.timings;
    let memory = writer.peak.get();
    json!({
        "load_ms": load.as_secs_f64() * 1e3,
        "prompt_tokens": timings.prompt,
        "prompt_ms": timings.prompt_time.as_secs_f64() * 1e3,
        "prompt_tokens_per_second": timings.prompt_rate(),
        "generation_steps": timings.steps,
        "generation_ms": timings.steps_time.as_secs_f64() * 1e3,
        "generation_tokens_per_second": timings.rate(),
        "gigabytes_per_second": timings.rate().map(|rate| rate * writer.weight_bytes() as f64 / 1e9),
        "peak_resident_bytes": memory.map(|memory| memory.peak),
        "peak_anonymous_bytes": memory.map(|memory| memory.anonymous),
    })
}

/// Timings in two lines for a person.
pub fn timings_text(writer: &Writer<'_>, load: Duration) -> String {
    let timings = &writer.timings;
    let tokens = |count: usize, rate: Option<f64>| match rate {
        Some(rate) => format!("{count} tokens, {rate:.1} tok/s"),
        None => format!("{count} tokens"),
    };
    let mut text = format!(
        "load {:.1} ms | prompt {} | generation {}",
        load.as_secs_f64() * 1e3,
        tokens(timings.prompt, timings.prompt_rate()),
        tokens(timings.steps, timings.rate()),
    );
    if let Some(rate) = timings.rate() {
        text += &format!(", {:.2} GB/s", rate * writer.weight_bytes() as f64 / 1e9);
    }
    if let Some(memory) = writer.peak.get() {
        let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
        text += &format!(
            "\nmemory: peak {:.1} MiB resident, {:.1} MiB of it anonymous",
            mib(memory.peak),
            mib(memory.anonymous)
        );
    }
    text
}
