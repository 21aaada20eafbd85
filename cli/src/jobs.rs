//! What the commands over rows share: inputs and output, resumption, progress, the summary.

use std::{
    io::{self, Write},
    path::PathBuf,
    time::{Duration, Instant},
};

use pith::{
    Error, Model, Result, batch, cache,
    session::{self, Session},
};
use pith_jobs::{
    engine::{self, Every, Job, Limits, Status, Summary, Target, Watch},
    journal::{Convert, Start},
    sink::{Choice, Output},
    source::{FileId, Format, Inputs, Position},
    task::Task,
};
use serde_json::{Map, Value, json};

use crate::{End, catch_interrupts, interrupted, progress::Bar, stdout_error, writing::Place};

/// Rows in, rows out.
#[derive(clap::Args)]
#[command(next_help_heading = "Rows")]
pub struct Rows {
    /// Files or patterns of JSON lines, CSV, TSV, Parquet, or lines of text, told by their extensions;
    /// `-` is standard input
    #[arg(value_name = "INPUT")]
    pub inputs: Vec<String>,
    /// The format of the inputs instead: jsonl, csv, tsv, lines, parquet
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    pub format: Option<Format>,
    /// Where rows go; standard output without it. The extension tells the format: .csv, .tsv, .parquet, else
    /// JSON lines
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The format of standard output: jsonl, csv, tsv
    #[arg(long, value_name = "FORMAT", value_parser = output_format, conflicts_with = "output")]
    pub output_format: Option<Output>,
    /// Go on with a job that was interrupted; its model, inputs and options must be the same
    #[arg(long, requires = "output", conflicts_with = "restart")]
    pub resume: bool,
    /// Begin anew, over what an earlier job has left
    #[arg(long, requires = "output")]
    pub restart: bool,
    /// End at the first row that fails; without it a row that fails has an `error` column
    #[arg(long)]
    pub fail_fast: bool,
    /// Keep these columns of the input, in this order [default: all]
    #[arg(long, value_name = "COLUMN,...", value_delimiter = ',')]
    pub keep: Option<Vec<String>>,
    /// A column that names rows: it comes first, and without --keep it is all that is kept
    #[arg(long, value_name = "COLUMN")]
    pub id: Option<String>,
    /// Put this before the names of added columns
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub prefix: String,
    /// Print a summary as JSON at the end: on standard output, or where the rows go there, on standard error
    #[arg(long)]
    pub json: bool,
    /// Write down what is done every so many seconds, so that it outlasts the process
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    pub commit_every: f64,
    /// Most sequences that run side by side; fewer where --max-memory is too little for them
    #[arg(long, value_name = "N", default_value_t = batch::N_SEQ, value_parser = at_least_1)]
    pub sequences: usize,
    /// Tokens of a step
    #[arg(long, value_name = "N", default_value_t = batch::N_BATCH, value_parser = at_least_1)]
    pub batch: usize,
}

fn at_least_1(text: &str) -> std::result::Result<usize, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| "wanted a whole number above 0".into())
}

fn seconds(text: &str) -> std::result::Result<f64, String> {
    let seconds = text.parse().ok().filter(|s: &f64| (0.0..=86400.0).contains(s));
    seconds.ok_or_else(|| "wanted seconds, at most a day".into())
}

fn format(name: &str) -> std::result::Result<Format, String> {
    Format::by_name(name)
        .ok_or_else(|| format!("wanted one of {}", Format::ALL.map(Format::name).join(", ")))
}

fn output_format(name: &str) -> std::result::Result<Output, String> {
    let all = [Output::Jsonl, Output::Csv, Output::Tsv];
    let found = all.into_iter().find(|of| of.name() == name);
    found.ok_or_else(|| format!("wanted one of {}", all.map(Output::name).join(", ")))
}

/// A job before its task is made.
pub struct Prepared<'a> {
    rows: &'a Rows,
    place: &'a Place,
    /// The name of the command.
    name: &'static str,
    model_path: &'a PathBuf,
    inputs: Inputs,
    /// How keys and values are kept.
    cache: cache::Type,
    /// Whether a row's record is the task's columns alone.
    is_bare: bool,
}

impl<'a> Prepared<'a> {
    /// Looks at what was asked for, before a model is opened.
    pub fn new(
        name: &'static str,
        model_path: &'a PathBuf,
        rows: &'a Rows,
        place: &'a Place,
    ) -> Result<Prepared<'a>> {
        let inputs = Inputs::new(&rows.inputs, rows.format)?;
        if rows.resume && !inputs.is_resumable() {
            return Err(Error::Invalid(
                "--resume wants inputs that can be read again: files, no pipe and no standard input".into(),
            ));
        }
        let cache = place.cache_type.unwrap_or(cache::Type::F16);
        Ok(Prepared { rows, place, name, model_path, inputs, cache, is_bare: false })
    }

    /// The same, with another way to keep keys and values where none was asked for.
    pub fn with_cache(self, cache: cache::Type) -> Prepared<'a> {
        Prepared { cache: self.place.cache_type.unwrap_or(cache), ..self }
    }

    /// The same, for a task whose columns are all that a record has, as JSON lines.
    ///
    /// # Errors
    /// Another format was asked for.
    pub fn bare(self) -> Result<Prepared<'a>> {
        match self.output() {
            Output::Jsonl => Ok(Prepared { is_bare: true, ..self }),
            _ => Err(Error::Invalid(
                "answers in OpenAI's form are JSON lines: name a file *.jsonl".into(),
            )),
        }
    }

    /// The rows' files.
    pub fn inputs(&self) -> &Inputs {
        &self.inputs
    }

    /// The options of the sessions that the task runs: as many sequences as memory is there for.
    pub fn session(&self, model: &Model) -> Result<session::Options> {
        let options = session::Options {
            n_seq: self.rows.sequences,
            n_batch: self.rows.batch,
            cache: self.cache,
            ..self.place.options()?
        };
        let Some(limit) = options.max_memory else { return Ok(options) };
        // What is left for rows that wait.
        let limit = limit.saturating_sub(self.limits().bytes as u64);
        let options = session::Options { max_memory: Some(limit), ..options };
        fitting(model, options)
    }

    fn limits(&self) -> Limits {
        let limits = Limits::default();
        match self.place.max_memory {
            None => limits,
            Some(mib) => Limits {
                bytes: limits.bytes.min((mib.saturating_mul(1 << 20) / 4) as usize),
                ..limits
            },
        }
    }

    /// Does the job.
    pub fn run(&self, task: &mut dyn Task) -> Result<End> {
        catch_interrupts()?;
        let began = Instant::now();
        match self.job(task, began) {
            Ok(summary) => self.report(&summary, began.elapsed()),
            Err(Error::Stopped) => {
                if let Some(path) = &self.rows.output {
                    eprintln!("pith: stopped; --resume goes on with {}", path.display());
                }
                Ok(End::Interrupted)
            }
            Err(error) => Err(error),
        }
    }

    fn job(&self, task: &mut dyn Task, began: Instant) -> Result<Summary> {
        let mut bar = Bar::rows();
        let output = self.output();
        let mut job = Job {
            open: Box::new(|from: Position| self.inputs.open(from)),
            header: self.inputs.columns()?,
            sizes: self.inputs.sizes()?,
            choice: self.choice(),
            output,
            target: self.target(task, output, &mut bar)?,
            fail_fast: self.rows.fail_fast,
            limits: self.limits(),
            every: Every {
                time: Duration::from_secs_f64(self.rows.commit_every),
                ..Every::default()
            },
        };
        engine::run(&mut job, task, &mut Progress { bar, began, first: None })
    }
}

impl Prepared<'_> {
    fn output(&self) -> Output {
        match (self.rows.output_format, self.rows.output.as_deref().map(Format::of)) {
            (Some(output), _) => output,
            (None, Some(Format::Csv)) => Output::Csv,
            (None, Some(Format::Tsv)) => Output::Tsv,
            (None, _) => Output::Jsonl,
        }
    }

    fn target<'t>(&'t self, task: &dyn Task, output: Output, bar: &mut Bar) -> Result<Target<'t>> {
        let Some(path) = &self.rows.output else {
            return Ok(Target::Stream(Box::new(io::stdout().lock())));
        };
        let start = match (self.rows.resume, self.rows.restart) {
            (true, _) => Start::Resume,
            (_, true) => Start::Restart,
            _ => Start::Fresh,
        };
        let to_parquet = Format::of(path) == Format::Parquet;
        let format = if to_parquet { Format::Parquet.name() } else { output.name() };
        let convert = if to_parquet { Some(self.to_parquet(task)?) } else { None };
        let fingerprint = self.fingerprint(task, format, bar)?;
        Ok(Target::File { path: path.clone(), start, fingerprint, convert })
    }

    /// Makes a Parquet file of the rows when all are there.
    #[cfg(feature = "parquet")]
    fn to_parquet(&self, task: &dyn Task) -> Result<Box<Convert<'static>>> {
        use pith_jobs::{sink::parquet, source};
        let keep = self.choice().kept();
        let typed = match self.inputs.format() {
            Format::Parquet => source::parquet::columns(self.inputs.paths())?,
            _ => None,
        };
        let kept = match (typed, keep) {
            (Some(fields), None) => parquet::Kept::Typed(fields),
            (Some(fields), Some(keep)) => parquet::Kept::Typed(
                keep.iter().filter_map(|name| Some(fields.find(name)?.1.clone())).collect(),
            ),
            (None, Some(keep)) => parquet::Kept::Named(keep),
            (None, None) => parquet::Kept::Found,
        };
        let prefix = self.rows.prefix.clone();
        let mut added = task.columns();
        added.iter_mut().for_each(|column| column.name.insert_str(0, &prefix));
        Ok(Box::new(move |spool, out| {
            parquet::write(spool, out, &kept, &added, &format!("{prefix}error"))
        }))
    }

    #[cfg(not(feature = "parquet"))]
    fn to_parquet(&self, _: &dyn Task) -> Result<Box<Convert<'static>>> {
        Err(Error::Unsupported(
            "Parquet: this pith was built without it (feature `parquet`)".into(),
        ))
    }

    fn choice(&self) -> Choice {
        Choice {
            keep: if self.is_bare { Some(Vec::new()) } else { self.rows.keep.clone() },
            id: self.rows.id.clone(),
            prefix: self.rows.prefix.clone(),
        }
    }

    /// All that decides the output's bytes.
    fn fingerprint(
        &self,
        task: &dyn Task,
        format: &str,
        bar: &mut Bar,
    ) -> Result<Map<String, Value>> {
        let model =
            std::fs::metadata(self.model_path).map_err(Error::io("open", self.model_path))?;
        let adapters = self.place.lora.iter().map(|lora| (lora.path.clone(), lora.scale));
        let adapters: Vec<(PathBuf, f32)> = adapters.collect();
        let total = model.len() + self.inputs.sizes()?.iter().sum::<u64>();
        let mut done = 0;
        let mut progress = |n: u64| {
            done += n;
            bar.show(done, total.max(done), "looking at the files");
            !interrupted()
        };
        let file =
            |file: &FileId| json!({"name": file.name, "bytes": file.bytes, "sha256": file.sha256});
        let mut all = Map::new();
        all.insert("pith".into(), env!("CARGO_PKG_VERSION").into());
        all.insert("task".into(), self.name.into());
        all.insert("model".into(), file(&FileId::of(self.model_path, &mut progress)?));
        let mut of_adapter = |(path, scale): &(PathBuf, f32)| {
            let mut adapter = file(&FileId::of(path, &mut progress)?);
            adapter["scale"] = (*scale).into();
            Ok(adapter)
        };
        let adapters = adapters.iter().map(&mut of_adapter).collect::<Result<Vec<_>>>()?;
        all.insert("adapters".into(), adapters.into());
        let inputs: Vec<Value> = match self.inputs.is_resumable() {
            true => self.inputs.fingerprint(&mut progress)?.iter().map(file).collect(),
            false => vec![json!("read once")],
        };
        all.insert("inputs".into(), inputs.into());
        all.insert("input_format".into(), self.inputs.format().name().into());
        all.insert("output_format".into(), format.into());
        all.insert("keep".into(), self.rows.keep.clone().into());
        all.insert("id".into(), self.rows.id.clone().into());
        all.insert("prefix".into(), self.rows.prefix.clone().into());
        all.insert("ctx".into(), self.place.ctx.into());
        all.insert("cache_type".into(), self.cache.name().into());
        all.insert("options".into(), task.options());
        Ok(all)
    }

    fn report(&self, summary: &Summary, time: Duration) -> Result<End> {
        if summary.was_done && !self.rows.json {
            eprintln!("pith: the job was done before; the output is as it was left");
        }
        if let Some(bad) = &summary.bad_row {
            eprintln!("pith: {bad}");
        }
        if self.rows.json {
            let seconds = time.as_secs_f64();
            let new = summary.rows - summary.resumed_at_row;
            let object = json!({
                "rows": summary.rows,
                "failed": summary.failed,
                "resumed_at_row": summary.resumed_at_row,
                "was_done": summary.was_done,
                "tokens": summary.tokens,
                "seconds": seconds,
                "rows_per_second": new as f64 / seconds,
                "tokens_per_second": summary.tokens as f64 / seconds,
            });
            match self.rows.output {
                Some(_) => writeln!(io::stdout(), "{object}").map_err(stdout_error)?,
                None => eprintln!("{object}"),
            }
        } else if summary.failed > 0 {
            let Summary { rows, failed, .. } = summary;
            eprintln!("pith: {failed} of {rows} rows failed: their `error` column says why");
        }
        let failed = summary.failed > 0 || summary.bad_row.is_some();
        Ok(if failed { End::RowsFailed } else { End::Done })
    }
}

/// As many sequences as `options` names or as fit its ceiling, whatever a task asks of them.
fn fitting(model: &Model, mut options: session::Options) -> Result<session::Options> {
    const N_TOP: usize = 64;
    let score = model.classifier().is_none();
    loop {
        let n_logits = options.n_logits.max(options.n_seq);
        let most = session::Options { score, n_logits, n_top: N_TOP, ..options.clone() };
        let needed = Session::plan_memory(model, &most)?.total();
        match options.max_memory.filter(|&limit| needed > limit) {
            Some(_) if options.n_seq > 1 => options.n_seq /= 2,
            Some(limit) => return Err(Error::Memory { needed, limit }),
            None => return Ok(options),
        }
    }
}

/// The bar, and Ctrl-C.
struct Progress {
    bar: Bar,
    began: Instant,
    /// Rows that were there when the job was resumed.
    first: Option<u64>,
}

impl Watch for Progress {
    fn go_on(&mut self, status: &Status) -> bool {
        let seconds = self.began.elapsed().as_secs_f64();
        let first = *self.first.get_or_insert(status.rows);
        let (rows, tokens) =
            ((status.rows - first) as f64 / seconds, status.tokens as f64 / seconds);
        let failed = match status.failed {
            0 => String::new(),
            n => format!(", {n} failed"),
        };
        let what = format!("{} rows{failed}, {rows:.0} rows/s, {tokens:.0} tok/s", status.rows);
        self.bar.show(status.done, status.total.unwrap_or(0), &what);
        !interrupted()
    }
}
