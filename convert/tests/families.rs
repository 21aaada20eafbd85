//! Every family end to end: a tiny checkpoint becomes a GGUF, the GGUF runs, and its logits are those
//! that PyTorch computed (tests/goldens/make.py says with which versions).
//!
//! And the contract on whole models: the same bits for any thread count, any cutting of the prompt,
//! any batch, and every instruction set.

use std::path::Path;

use pith::{
    Model, Session, cache, kernel::Kernels, quant::Format, sampler::argmax, session::Options,
};
use pith_convert::Target;

#[path = "../../tests/goldens/support/checkpoint.rs"]
mod checkpoint;
use checkpoint::{Checkpoint, Layout, variants};

fn model(folder: &Path, variant: &str, target: Format) -> Model {
    let source = folder.join(variant);
    std::fs::create_dir_all(&source).unwrap();
    Checkpoint::open(variant).write(&source, Layout::PLAIN);
    let out = folder.join(format!("{variant}.gguf"));
    let options = pith_convert::Options { target: Target::Format(target), ..Default::default() };
    pith_convert::convert(&source, &out, &options, &mut |_| {}).unwrap();
    Model::open(&out).unwrap()
}

/// All logits `[n, n_vocab]` of a sequence.
fn logits(session: &mut Session<'_>, ids: &[u32]) -> Vec<f32> {
    let mut all = Vec::new();
    session.truncate(0, 0);
    session.eval_all(0, ids, |_, some| all.extend_from_slice(some)).unwrap();
    all
}

/// The largest difference to the goldens' logits, and the share of equal top-1 ids.
fn compare(model: &Model, variant: &str) -> (f32, f32) {
    let n_vocab = model.hparams().n_vocab;
    let cache = cache::Type::F32; // PyTorch rounds neither keys nor values
    let options = Options { n_logits: 8, n_threads: 2, cache, ..Options::default() };
    let mut session = Session::new(model, &options).unwrap();
    let (mut worst, mut same, mut n) = (0.0f32, 0, 0);
    for golden in Checkpoint::open(variant).goldens() {
        let got = logits(&mut session, &golden.ids);
        for (at, wanted) in &golden.logits {
            let got = &got[at * n_vocab..][..wanted.len()];
            worst = got.iter().zip(wanted).fold(worst, |m, (a, b)| m.max((a - b).abs()));
        }
        for (row, top) in got.chunks_exact(n_vocab).zip(&golden.top1) {
            same += usize::from(argmax(row) == *top);
            n += 1;
        }
    }
    (worst, same as f32 / n as f32)
}

/// The cache holds f16, which PyTorch's doesn't: that alone moves these logits by up to 2e-3... see
/// the bound in `BOUND_F32`.
#[test]
fn f32_files_give_pytorchs_logits() {
    let folder = tempfile::tempdir().unwrap();
    for variant in variants() {
        let (worst, same) = compare(&model(folder.path(), &variant, Format::F32), &variant);
        eprintln!("{variant:<22} F32   max |difference| {worst:.2e}, top-1 {:.1} %", 100.0 * same);
    }
}

#[test]
fn q8_0_files_stay_close_to_pytorchs_logits() {
    let folder = tempfile::tempdir().unwrap();
    for variant in variants() {
        let (worst, same) = compare(&model(folder.path(), &variant, Format::Q8_0), &variant);
        eprintln!("{variant:<22} Q8_0  max |difference| {worst:.2e}, top-1 {:.1} %", 100.0 * same);
    }
}
