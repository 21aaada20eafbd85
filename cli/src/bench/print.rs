//! Measurements as a table, as JSON and as comma-separated values.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

use pith::Result;
use serde_json::{Value, json};

use super::{Cell, Outcome, Results, Task};
use crate::stdout_error;

/// Prints to standard output.
pub fn print(results: &Results, as_json: bool, as_csv: bool) -> Result<()> {
    let text = match (as_json, as_csv) {
        (true, _) => format!("{}\n", json(results)),
        (_, true) => csv(results),
        _ => table(results),
    };
    io::stdout().lock().write_all(text.as_bytes()).map_err(stdout_error)
}

/// Part of the machine's read bandwidth.
fn fraction(outcome: &Outcome, read: f64) -> Option<f64> {
    outcome.gigabytes_per_second().filter(|_| read > 0.0).map(|rate| rate * 1e9 / read)
}

fn table(results: &Results) -> String {
    let mut out = format!(
        "{}, kernels {}, threads {}, reading at most {:.1} GB/s\n\n",
        results.model,
        results.kernels,
        results.n_threads,
        results.read / 1e9
    );
    let _ = writeln!(
        out,
        "{:<10} {:>6} {:>9} {:>6} {:>9} {:>17} {:>7} {:>8} {:>7}",
        "",
        "tokens",
        "sequences",
        "depth",
        "tok/s",
        "slowest-fastest",
        "GB/s",
        "of limit",
        "GMAC/s"
    );
    for outcome in &results.outcomes {
        let Cell { task, n_tokens, n_seq, depth } = outcome.cell;
        let slowest = outcome.rates.first().copied().unwrap_or_default();
        let fastest = outcome.rates.last().copied().unwrap_or_default();
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        let _ = writeln!(
            out,
            "{:<10} {n_tokens:>6} {n_seq:>9} {depth:>6} {:>9.1} {:>17} {:>7} {:>8} {:>7.1}",
            task.name(),
            outcome.median(),
            format!("{slowest:.1}-{fastest:.1}"),
            or_dash(outcome.gigabytes_per_second().map(|rate| format!("{rate:.2}"))),
            or_dash(fraction(outcome, results.read).map(|part| format!("{:.0} %", part * 100.0))),
            outcome.gigamacs_per_second(),
        );
    }
    for (cell, why) in &results.left_out {
        let _ = writeln!(out, "left out: {}: {why}", described(cell));
    }
    out
}

fn described(cell: &Cell) -> String {
    match cell.task {
        Task::Prompt => format!("prompt of {} tokens", cell.n_tokens),
        Task::Scoring => format!("scoring of {} tokens", cell.n_tokens),
        Task::Generation => {
            format!(
                "{} x {} tokens of generation at depth {}",
                cell.n_seq, cell.n_tokens, cell.depth
            )
        }
    }
}

fn json(results: &Results) -> Value {
    let outcome = |outcome: &Outcome| {
        json!({
            "task": outcome.cell.task.name(),
            "tokens": outcome.cell.n_tokens,
            "sequences": outcome.cell.n_seq,
            "depth": outcome.cell.depth,
            "tokens_per_second": outcome.median(),
            "runs": outcome.rates,
            "gigabytes_per_second": outcome.gigabytes_per_second(),
            "part_of_read_limit": fraction(outcome, results.read),
            "gigamacs_per_second": outcome.gigamacs_per_second(),
        })
    };
    let left_out = |(cell, why): &(Cell, String)| json!({"what": described(cell), "why": why});
    json!({
        "model": results.model,
        "kernels": results.kernels,
        "threads": results.n_threads,
        "read_gigabytes_per_second": results.read / 1e9,
        "results": results.outcomes.iter().map(outcome).collect::<Vec<_>>(),
        "left_out": results.left_out.iter().map(left_out).collect::<Vec<_>>(),
    })
}

fn csv(results: &Results) -> String {
    let mut out = "task,tokens,sequences,depth,kernels,threads,tokens_per_second,slowest,fastest,\
                   gigabytes_per_second,part_of_read_limit,gigamacs_per_second\n"
        .to_owned();
    for outcome in &results.outcomes {
        let Cell { task, n_tokens, n_seq, depth } = outcome.cell;
        let number = |x: Option<f64>| x.map(|x| format!("{x:.4}")).unwrap_or_default();
        let _ = writeln!(
            out,
            "{},{n_tokens},{n_seq},{depth},{},{},{},{},{},{},{},{}",
            task.name(),
            results.kernels,
            results.n_threads,
            number(Some(outcome.median())),
            number(outcome.rates.first().copied()),
            number(outcome.rates.last().copied()),
            number(outcome.gigabytes_per_second()),
            number(fraction(outcome, results.read)),
            number(Some(outcome.gigamacs_per_second())),
        );
    }
    out
}
