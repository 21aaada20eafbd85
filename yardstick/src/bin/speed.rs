//! Prompt, generation and batched generation speed of a GGUF model, by llama.cpp (as mapped and
//! repacked) and by pith, taking turns; the figure to read is the median of the ratios to the faster
//! of llama.cpp's two.

use std::path::{Path, PathBuf};

use pith::gguf::Gguf;
use pith::kernel::Kernels;
use yardstick::args::Args;
use yardstick::limits::Limits;
use yardstick::llama::{Load, Model};
use yardstick::speed::{Runner, Task};
use yardstick::stats::median;
use yardstick::{machine, results};

const USAGE: &str = "speed MODEL.gguf [--prompt 512] [--gen 128] [--depth 0,1000,4000] \
                     [--batch 8,16] [--batch-gen 32] [--threads 2] [--repeat 5] [--kernels NAME] \
                     [--n-batch 64] [--csv FILE | --save]; 0 for --prompt, --gen or --batch leaves \
                     those tasks out, --save writes benches/results/MACHINE-speed.csv";

const HEADER: &str = "model,task,threads,kernels,ratio,pith_tokens_per_s,mapped_tokens_per_s,\
                      repacked_tokens_per_s,pith_weights_gb_per_s,percent_of_read";
/// Fields of a line that say what was measured.
const N_KEY: usize = 4;

struct Options {
    n_threads: usize,
    n_repeat: usize,
    n_batch: Option<usize>,
    kernels: &'static Kernels,
    limits: Limits,
}

/// The same file, loaded by all.
struct Models {
    mapped: Model,
    repacked: Model,
    pith: pith::Model,
    /// Bytes of weights that a step reads.
    n_bytes: usize,
}

fn main() -> Result<(), String> {
    let mut args = Args::of_program();
    let tasks = tasks(&mut args)?;
    let n_threads = args.option("--threads")?.unwrap_or(2);
    let n_repeat = args.option("--repeat")?.unwrap_or(5);
    let n_batch = args.option("--n-batch")?;
    let kernels = match args.option::<String>("--kernels")? {
        None => Kernels::best(),
        Some(name) => Kernels::by_name(&name).ok_or_else(|| format!("no kernels {name} here"))?,
    };
    let csv: Option<PathBuf> = args.option("--csv")?;
    let saved = || results::folder().join(format!("{}-speed.csv", machine::slug()));
    let csv = csv.or_else(|| args.flag("--save").then(saved));
    let [path] = args.positional(USAGE)?;
    let path = Path::new(&path);
    let models = Models::load(path)?;
    let limits = Limits::measure(n_threads);
    println!("{}; kernels {}; {limits}", machine::name(), kernels.name());
    println!(
        "{:<12} {:>6} {:>9} {:>9} {:>9} tokens/s {:>7} GB/s",
        "task", "ratio", "pith", "mapped", "repacked", "weights"
    );
    let options = Options { n_threads, n_repeat, n_batch, kernels, limits };
    let stem = path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into());
    for task in tasks {
        let fields = measure(&task, &models, &options)?;
        if let Some(csv) = &csv {
            let line = format!("{stem},{task},{n_threads},{},{fields}", kernels.name());
            results::merge(csv, HEADER, N_KEY, &[line]).map_err(|e| e.to_string())?;
        }
    }
    Ok(())
}

fn tasks(args: &mut Args) -> Result<Vec<Task>, String> {
    let prompt: usize = args.option("--prompt")?.unwrap_or(512);
    let n: usize = args.option("--gen")?.unwrap_or(128);
    let depths: Option<String> = args.option("--depth")?;
    let batches: Option<String> = args.option("--batch")?;
    let batch_n: usize = args.option("--batch-gen")?.unwrap_or(32);
    let numbers = |list: Option<String>, default: &str| -> Result<Vec<usize>, String> {
        let list = list.unwrap_or_else(|| default.to_string());
        list.split(',').map(|word| word.parse().map_err(|_| format!("{word}: no number"))).collect()
    };
    let mut tasks = vec![Task::Prompt { n: prompt }];
    tasks.extend(
        numbers(depths, "0,1000,4000")?.into_iter().map(|depth| Task::Generate { n, depth }),
    );
    let batches = numbers(batches, "8,16")?.into_iter();
    tasks.extend(batches.map(|n_seq| Task::Batch { n: batch_n, n_seq }));
    tasks.retain(|task| task.n_ctx() * task.n_seq() > 0 && task.n_steps() != Some(0));
    Ok(tasks)
}

impl Models {
    fn load(path: &Path) -> Result<Models, String> {
        let pith = pith::Model::open(path).map_err(|e| e.to_string())?;
        let gguf = Gguf::parse(pith.bytes()).map_err(|e| e.to_string())?;
        // Of an embedding that isn't the head too, a step reads a row for each token.
        let apart = gguf.tensor("output.weight").is_some();
        let tensors = gguf.tensors().iter().filter(|t| !apart || t.name != "token_embd.weight");
        let n_bytes = tensors.map(|tensor| tensor.data.len()).sum();
        let load = |repack| Model::load(path, Load { repack, ..Load::default() });
        Ok(Models { mapped: load(false)?, repacked: load(true)?, n_bytes, pith })
    }
}

/// Measures a task, prints it and returns its fields for the file.
fn measure(task: &Task, models: &Models, options: &Options) -> Result<String, String> {
    let Options { n_threads, n_repeat, kernels, limits, .. } = *options;
    let (n_ctx, n_seq) = (task.n_ctx(), task.n_seq());
    let defaults = pith::session::Options::default();
    let n_batch = options.n_batch.unwrap_or(defaults.n_batch).max(n_seq);
    let kernels = Some(kernels);
    let session = pith::session::Options {
        n_ctx,
        n_seq,
        n_batch,
        n_logits: n_seq,
        n_threads,
        kernels,
        ..defaults
    };
    let mut pith = pith::Session::new(&models.pith, &session).map_err(|e| e.to_string())?;
    let mut mapped = models.mapped.batch_context(n_seq, n_ctx, n_threads)?;
    let mut repacked = models.repacked.batch_context(n_seq, n_ctx, n_threads)?;
    let runners: [&mut dyn Runner; 3] = [&mut pith, &mut mapped, &mut repacked];
    let [pith, mapped, repacked] = sample(task, runners, n_repeat)?;

    let theirs = mapped.iter().zip(&repacked).map(|(a, b)| a.max(*b));
    let ratio = median(pith.iter().zip(theirs).map(|(ours, theirs)| ours / theirs));
    let [ours, mapped, repacked] = [pith, mapped, repacked].map(median);
    let weights = task.n_steps().map(|_| models.n_bytes as f64 * ours / n_seq as f64);
    let field = |number: Option<f64>| number.map_or_else(String::new, |n| format!("{n:.1}"));
    let (gb, percent) = (weights.map(|w| w / 1e9), weights.map(|w| 100.0 * w / limits.read));
    println!(
        "{:<12} {ratio:>6.2} {ours:>9.1} {mapped:>9.1} {repacked:>9.1} {:>16} {:>5}%",
        task.to_string(),
        field(gb),
        percent.map_or_else(String::new, |percent| format!("{percent:.0}"))
    );
    let rates = format!("{ours:.1},{mapped:.1},{repacked:.1}");
    Ok(format!("{ratio:.3},{rates},{},{}", field(gb), field(percent)))
}

/// Rounds in which everyone has a turn, after a short one that warms up.
fn sample(
    task: &Task,
    mut runners: [&mut dyn Runner; 3],
    n_repeat: usize,
) -> Result<[Vec<f64>; 3], String> {
    let warm = match *task {
        Task::Prompt { n } => Task::Prompt { n: n.min(16) },
        Task::Generate { n, depth } => Task::Generate { n: n.min(4), depth },
        Task::Batch { n, n_seq } => Task::Batch { n: n.min(2), n_seq },
    };
    for runner in &mut runners {
        warm.measure(*runner)?;
    }
    let mut samples = [const { Vec::new() }; 3];
    for _ in 0..n_repeat.max(1) {
        for (runner, samples) in runners.iter_mut().zip(&mut samples) {
            samples.push(task.measure(*runner)?);
        }
    }
    Ok(samples)
}
