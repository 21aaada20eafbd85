//! ggml's product without its tiled path. The switch, `GGML_CPU_TILED_MM`, is read once in a
//! process, so a child process runs these passes, one whenever it is asked for.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use pith::quant::Format;

use crate::cycles::{self, Sample};
use crate::mul_mat::{Mode, MulMat};
use crate::products::{Product, Weights, values};

/// The word on the command line that makes a program call [`serve`].
pub const WORD: &str = "untiled-child";

/// A child that waits for passes.
pub struct Untiled {
    child: Child,
    requests: ChildStdin,
    replies: BufReader<ChildStdout>,
}

impl Untiled {
    /// Starts this program again, for passes over one product.
    pub fn new(product: &Product, n_threads: usize, hot: bool) -> Result<Untiled, String> {
        let program = std::env::current_exe().map_err(|e| e.to_string())?;
        let Product { format, n, n_out, n_in } = *product;
        let numbers = [n, n_out, n_in, n_threads, usize::from(hot)].map(|n| n.to_string());
        let mut child = Command::new(program)
            .args([WORD, format.name()])
            .args(numbers)
            .env("GGML_CPU_TILED_MM", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| e.to_string())?;
        let pipes = child.stdin.take().zip(child.stdout.take()).ok_or("no pipes")?;
        let (requests, replies) = (pipes.0, BufReader::new(pipes.1));
        let mut untiled = Untiled { child, requests, replies };
        untiled.reply()?; // its weights are there
        Ok(untiled)
    }

    /// One pass.
    pub fn pass(&mut self) -> Result<Sample, String> {
        self.requests.write_all(b"\n").map_err(|e| e.to_string())?;
        let reply = self.reply()?;
        let mut numbers = reply.split_whitespace().map(str::parse::<f64>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(seconds)), Some(Ok(cycles))) => Ok(Sample { seconds, cycles }),
            _ => Err(format!("the child without tiles says: {reply}")),
        }
    }

    fn reply(&mut self) -> Result<String, String> {
        let mut line = String::new();
        self.replies.read_line(&mut line).map_err(|e| e.to_string())?;
        Ok(line)
    }
}

impl Drop for Untiled {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended by itself
        let _ = self.child.wait();
    }
}

/// The child's life: a line comes for every pass, and its time goes back.
pub fn serve(words: &[String]) -> Result<(), String> {
    let [format, numbers @ ..] = words else { return Err("no format".to_string()) };
    let format = Format::by_name(format).ok_or("no such format")?;
    let numbers: Result<Vec<usize>, _> = numbers.iter().map(|word| word.parse()).collect();
    let Ok([n, n_out, n_in, n_threads, hot]) = numbers.as_deref() else {
        return Err("five numbers".to_string());
    };
    let product = Product { format, n: *n, n_out: *n_out, n_in: *n_in };
    let hot = *hot != 0;
    let weights = Weights::new(&product, hot);
    let x = values(product.n * product.n_in, 2);
    let setting = (Mode::Mapped, *n_threads, hot);
    let mut mul_mat = MulMat::new(&product, &weights, &x, setting)?.ok_or("no graph")?;
    println!("ready");
    for (pass, line) in std::io::stdin().lines().enumerate() {
        line.map_err(|e| e.to_string())?;
        let sample = cycles::time(|| mul_mat.pass(pass));
        mul_mat.rest();
        println!("{} {}", sample.seconds, sample.cycles);
    }
    Ok(())
}
