//! Prompt and generation speed beside a busy program of equal priority, as a part of what the same
//! threads do on free cores: of pith, and of llama.cpp as mapped.

use std::os::unix::process::parent_id;
use std::path::Path;
use std::process::{Child, Command};

use yardstick::args::Args;
use yardstick::llama::{Load, Model};
use yardstick::machine;
use yardstick::speed::{Runner, Task};
use yardstick::stats::median;

const USAGE: &str = "company MODEL.gguf [--prompt 512] [--gen 64] [--threads 2] [--repeat 7]";

/// The word that makes this program the busy one.
const BUSY: &str = "busy";

fn main() -> Result<(), String> {
    if std::env::args().nth(1).as_deref() == Some(BUSY) {
        return be_busy();
    }
    let mut args = Args::of_program();
    let prompt: usize = args.option("--prompt")?.unwrap_or(512);
    let n: usize = args.option("--gen")?.unwrap_or(64);
    let n_threads = args.option("--threads")?.unwrap_or(2);
    let n_repeat: usize = args.option("--repeat")?.unwrap_or(7);
    let [path] = args.positional(USAGE)?;
    let path = Path::new(&path);

    let ours = pith::Model::open(path).map_err(|e| e.to_string())?;
    let theirs = Model::load(path, Load { repack: false, ..Load::default() })?;
    let tasks = [Task::Prompt { n: prompt }, Task::Generate { n, depth: 0 }];
    let n_ctx = tasks.iter().map(Task::n_ctx).max().unwrap_or(0);
    let options = pith::session::Options { n_ctx, n_threads, ..Default::default() };
    let mut pith = pith::Session::new(&ours, &options).map_err(|e| e.to_string())?;
    let mut llama = theirs.batch_context(1, n_ctx, n_threads)?;

    println!("{}; {n_threads} threads", machine::name());
    println!("{:<10} {:<10} {:>9} {:>9} {:>6}", "task", "by", "free", "beside", "part");
    for task in tasks {
        let runners: [(&str, &mut dyn Runner); 2] =
            [("pith", &mut pith), ("llama.cpp", &mut llama)];
        for (name, runner) in runners {
            let (mut free, mut beside) = (Vec::new(), Vec::new());
            task.measure(runner)?;
            for _ in 0..n_repeat.max(1) {
                free.push(task.measure(runner)?);
                let _busy = Busy::start()?;
                beside.push(task.measure(runner)?);
            }
            let part = median(free.iter().zip(&beside).map(|(free, beside)| beside / free));
            let (free, beside) = (median(free), median(beside));
            println!("{:<10} {name:<10} {free:>9.1} {beside:>9.1} {part:>6.2}", task.to_string());
        }
    }
    Ok(())
}

/// Wants a core until the parent is gone.
fn be_busy() -> Result<(), String> {
    let parent = parent_id();
    while parent_id() == parent {
        (0..1_000_000).for_each(|_| std::hint::spin_loop());
    }
    Ok(())
}

/// A program that wants a core; gone when dropped.
struct Busy(Child);

impl Busy {
    fn start() -> Result<Busy, String> {
        let program = std::env::current_exe().map_err(|e| e.to_string())?;
        let child = Command::new(program).arg(BUSY).spawn().map_err(|e| e.to_string())?;
        // By then it has had its first time slices.
        std::thread::sleep(std::time::Duration::from_millis(100));
        Ok(Busy(child))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        // It ends with this program at the latest.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
