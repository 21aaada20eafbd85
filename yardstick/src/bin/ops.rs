//! Products one by one: pith's against ggml's, in every format, over numbers of tokens and shapes.
//! Samples take turns; the figure to read is the median of the ratios to the best of ggml's modes.

use std::path::PathBuf;

use pith::kernel::Kernels;
use pith::quant::{Format, SUPERBLOCK};
use yardstick::args::Args;
use yardstick::cycles::{self, Sample};
use yardstick::limits::Limits;
use yardstick::mul_mat::{Mode, MulMat};
use yardstick::ours::Ours;
use yardstick::products::{Product, Weights, values};
use yardstick::stats::median;
use yardstick::untiled::{self, Untiled};
use yardstick::{machine, results};

const USAGE: &str = "ops [--format Q4_0,Q8_0] [--n 1,512] [--shape ROWSxCOLUMNS,...] [--threads 1] \
                     [--table NAME] [--repeat 9] [--hot] [--csv FILE | --no-csv]";

const NS: &str = "1,2,4,8,16,64,512";
/// Rows of weights x columns: a small model's matrices, larger ones, a vocabulary.
const SHAPES: &str = "576x576,576x1536,1536x576,2048x2048,4096x11008,49152x576";
/// Seconds for the samples of one cell, if that leaves at least three rounds.
const CELL: f64 = 6.0;
const HEADER: &str = "threads,memory,table,format,n,rows,columns,ratio,best_of_ggml,pith_us,ggml_us,\
                      pith_mac_per_cycle,ggml_mac_per_cycle,pith_gb_per_s,percent_of_read,\
                      percent_of_peak";
/// Fields of a line that say what was measured.
const N_KEY: usize = 7;

struct Options {
    n_threads: usize,
    n_repeat: usize,
    hot: bool,
    kernels: &'static Kernels,
    limits: Limits,
}

fn main() -> Result<(), String> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == untiled::WORD) {
        return untiled::serve(&words[1..]);
    }
    let mut args = Args::of_program();
    let formats = args.option("--format")?.unwrap_or_else(all_formats);
    let ns = args.option("--n")?.unwrap_or_else(|| NS.to_string());
    let shapes = args.option("--shape")?.unwrap_or_else(|| SHAPES.to_string());
    let n_threads = args.option("--threads")?.unwrap_or(1);
    let table: Option<String> = args.option("--table")?;
    let n_repeat = args.option("--repeat")?.unwrap_or(9);
    let csv: Option<PathBuf> = args.option("--csv")?;
    let (hot, no_csv) = (args.flag("--hot"), args.flag("--no-csv"));
    let [] = args.positional(USAGE)?;

    let products = products(&formats, &ns, &shapes)?;
    let kernels = match table {
        None => Kernels::best(),
        Some(name) => Kernels::by_name(&name).ok_or_else(|| format!("no table {name} here"))?,
    };
    let limits = Limits::measure(n_threads);
    println!("{}; kernels {}", machine::name(), kernels.name());
    println!("{limits}");
    println!(
        "{:<8}{:>4} {:>12} {:>7} {:<9} {:>11} {:>11} {:>15} {:>7} {:>6} {:>6}",
        "format",
        "n",
        "shape",
        "ratio",
        "of",
        "pith us",
        "ggml us",
        "MAC/cycle",
        "GB/s",
        "read",
        "peak"
    );
    let options = Options { n_threads, n_repeat, hot, kernels, limits };
    let csv = csv.unwrap_or_else(|| results::folder().join(format!("{}.csv", machine::slug())));
    let mut held: Option<(Product, Weights)> = None;
    for product in &products {
        let same = |of: &Product| Product { n: product.n, ..*of } == *product;
        let weights = match held.take() {
            Some((of, weights)) if same(&of) => weights,
            _ => Weights::new(product, hot),
        };
        let line = cell(product, &weights, &options)?;
        held = Some((*product, weights));
        if !no_csv {
            results::merge(&csv, HEADER, N_KEY, &[line]).map_err(|e| e.to_string())?;
        }
    }
    Ok(())
}

fn all_formats() -> String {
    let names: Vec<&str> = Format::ALL.iter().map(|format| format.name()).collect();
    names.join(",")
}

/// Every format with every shape that has whole blocks, and every number of tokens.
fn products(formats: &str, ns: &str, shapes: &str) -> Result<Vec<Product>, String> {
    let fault = |word: &str| format!("{word}: not understood\nusage: {USAGE}");
    let mut products = Vec::new();
    for format in formats.split(',') {
        let format = Format::by_name(format).ok_or_else(|| fault(format))?;
        for shape in shapes.split(',') {
            let (n_out, n_in) = shape.split_once('x').ok_or_else(|| fault(shape))?;
            let number = |word: &str| word.parse::<usize>().map_err(|_| fault(word));
            let (n_out, n_in) = (number(n_out)?, number(n_in)?);
            if format.block_len() == SUPERBLOCK && n_in % SUPERBLOCK != 0 {
                continue;
            }
            for n in ns.split(',') {
                products.push(Product { format, n: number(n)?, n_out, n_in });
            }
        }
    }
    Ok(products)
}

/// Someone whose passes are timed.
struct Side<'a> {
    name: &'static str,
    pass: Box<dyn FnMut(usize) -> Result<Sample, String> + 'a>,
    samples: Vec<Sample>,
}

impl<'a> Side<'a> {
    fn new(name: &'static str, pass: impl FnMut(usize) -> Result<Sample, String> + 'a) -> Self {
        Side { name, pass: Box::new(pass), samples: Vec::new() }
    }

    fn seconds(&self) -> f64 {
        median(self.samples.iter().map(|sample| sample.seconds))
    }
}

/// Measures one product, prints it and returns its line for the file.
fn cell(product: &Product, weights: &Weights, options: &Options) -> Result<String, String> {
    let &Options { n_threads, hot, kernels, .. } = options;
    let &Product { n, n_out, n_in, .. } = product;
    let x = values(n * n_in, 2);
    let mut out = vec![0.0; n * n_out];
    let mut ours = Ours::new(*product, kernels, n_threads).map_err(|e| e.to_string())?;
    let graphs = |mode| MulMat::new(product, weights, &x, (mode, n_threads, hot));
    let mut mapped = graphs(Mode::Mapped)?.ok_or("no graph")?;
    ours.pass(weights, [0].into_iter(), &x, &mut out);
    mapped.pass(0);
    check(product, &out, &mapped.output())?;

    let mut sides = vec![Side::new("pith", |pass| {
        let copies = product.copies(pass, n_threads, hot);
        Ok(cycles::time(|| ours.pass(weights, copies, &x, &mut out)))
    })];
    // Both read the same copies: half a round apart, or the second would find them in the cache.
    sides.push(ggml("mapped", mapped, product.n_passes(n_threads, hot) / 2));
    if let Some(repacked) = graphs(Mode::Repacked)? {
        sides.push(ggml("repacked", repacked, 0));
    }
    // ggml tiles superblocks only, from eight tokens on.
    if product.format.block_len() == SUPERBLOCK && n >= 8 {
        let mut child = Untiled::new(product, n_threads, hot)?;
        sides.push(Side::new("untiled", move |_| child.pass()));
    }
    sample(&mut sides, options.n_repeat)?;
    Ok(report(product, &sides, options))
}

fn ggml<'a>(name: &'static str, mut mul_mat: MulMat<'a>, ahead: usize) -> Side<'a> {
    Side::new(name, move |pass| {
        let sample = cycles::time(|| mul_mat.pass(pass + ahead));
        mul_mat.rest();
        Ok(sample)
    })
}

/// The same products: nobody is fast at something else. The two round activations differently.
fn check(product: &Product, ours: &[f32], theirs: &[f32]) -> Result<(), String> {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = ours.iter().zip(theirs).map(|(a, b)| square(a - b)).sum();
    let size: f64 = theirs.iter().map(|x| square(*x)).sum();
    let relative = (error / size).sqrt();
    // Not "over": NaN is no agreement.
    if relative < 0.03 { Ok(()) } else { Err(format!("{product:?}: results differ by {relative}")) }
}

/// Rounds in which everyone has a turn, after one that warms up.
fn sample(sides: &mut [Side<'_>], n_repeat: usize) -> Result<(), String> {
    let mut spent = 0.0;
    for round in 0..=n_repeat.max(1) {
        if round > 3 && spent > CELL {
            break;
        }
        for side in &mut *sides {
            let sample = (side.pass)(round)?;
            spent += sample.seconds;
            if round > 0 {
                side.samples.push(sample);
            }
        }
    }
    Ok(())
}

fn report(product: &Product, sides: &[Side<'_>], options: &Options) -> String {
    let Options { n_threads, hot, limits, kernels, .. } = options;
    let (ours, theirs) = (&sides[0], &sides[1..]);
    let best = theirs.iter().min_by(|a, b| a.seconds().total_cmp(&b.seconds()));
    let best = best.expect("ggml takes part");
    let rounds = ours.samples.iter().zip(&best.samples);
    let ratio = median(rounds.map(|(ours, theirs)| theirs.seconds / ours.seconds));

    let per_pass = product.per_pass(*n_threads) as f64;
    let macs = product.macs() * per_pass;
    let per_cycle =
        |side: &Side<'_>| median(side.samples.iter().map(|s| macs / s.cycles / *n_threads as f64));
    let us = |side: &Side<'_>| side.seconds() / per_pass * 1e6;
    let bytes_per_s = product.n_bytes() as f64 * per_pass / ours.seconds();
    let peak = match product.format {
        format if format.is_float() => limits.f32,
        _ => limits.int8,
    };
    let (read, peak) = (100.0 * bytes_per_s / limits.read, 100.0 * macs / ours.seconds() / peak);
    let Product { format, n, n_out, n_in } = product;
    println!(
        "{:<8}{n:>4} {:>12} {ratio:>7.2} {:<9} {:>11.1} {:>11.1} {:>7.2} {:>7.2} {:>7.1} {read:>5.0}% {peak:>5.0}%",
        format.name(),
        format!("{n_out}x{n_in}"),
        best.name,
        us(ours),
        us(best),
        per_cycle(ours),
        per_cycle(best),
        bytes_per_s / 1e9,
    );
    format!(
        "{n_threads},{},{},{},{n},{n_out},{n_in},{ratio:.3},{},{:.2},{:.2},{:.2},{:.2},{:.2},{read:.1},{peak:.1}",
        if *hot { "hot" } else { "cold" },
        kernels.name(),
        format.name(),
        best.name,
        us(ours),
        us(best),
        per_cycle(ours),
        per_cycle(best),
        bytes_per_s / 1e9,
    )
}
