//! `pith kernels`: which instruction set multiplies which format here.

use std::io::{self, Write};

use pith::{Result, kernel::Kernels, quant::Format};
use serde_json::{Map, Value, json};

use crate::{End, stdout_error};

/// Show which kernels this machine runs, format by format
///
/// A table of kernels has a product for each tensor format, its own or that of a table below it; the
/// scalar table is the reference, and runs everywhere. Whichever is used, the results are the same.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  pith kernels
  pith kernels --json | jq '.formats.Q4_K'
  pith run model.gguf --prompt \"It is\" --kernels scalar")]
pub struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<End> {
    let text = if args.json { format!("{}\n", json()) } else { table() };
    io::stdout().lock().write_all(text.as_bytes()).map_err(stdout_error)?;
    Ok(End::Done)
}

fn table() -> String {
    let available = Kernels::available();
    let mut lines = vec![format!("Kernels of this build for {}:", std::env::consts::ARCH)];
    lines.extend(Kernels::built().map(|name| {
        let what = match Kernels::by_name(name) {
            None => "not on this CPU",
            Some(_) if name == Kernels::best().name() => "runs here, chosen",
            Some(_) => "runs here",
        };
        format!("  {name:<12} {what}")
    }));
    lines.push(String::new());
    let names: String = available.iter().map(|table| format!(" {:<12}", table.name())).collect();
    lines.push(format!("{:<8}{names}", "format").trim_end().to_owned());
    lines.extend(Format::ALL.iter().map(|&format| {
        let cells = available.iter().map(|table| {
            let from = table.product(format);
            let own = if from == table.name() { "own".into() } else { format!("as {from}") };
            format!(" {own:<12}")
        });
        format!("{:<8}{}", format.name(), cells.collect::<String>()).trim_end().to_owned()
    }));
    lines.join("\n") + "\n"
}

fn json() -> Value {
    let tables: Vec<Value> = Kernels::built()
        .map(|name| json!({"name": name, "available": Kernels::by_name(name).is_some()}))
        .collect();
    let product = |format: Format| -> Map<String, Value> {
        let of = |table: &&Kernels| (table.name().to_owned(), table.product(format).into());
        Kernels::available().iter().map(of).collect()
    };
    let formats: Map<String, Value> =
        Format::ALL.iter().map(|&f| (f.name().to_owned(), product(f).into())).collect();
    json!({
        "architecture": std::env::consts::ARCH,
        "chosen": Kernels::best().name(),
        "kernels": tables,
        "formats": formats,
    })
}
