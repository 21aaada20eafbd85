//! PEFT adapters end to end: what PEFT computes with base and adapter (tests/goldens/adapters.py
//! says with which versions) is what a file gives into which the adapter was merged.

use std::{fs, ops::ControlFlow, path::Path};

use pith::{Model, Session, cache, quant::Format, sampler::argmax, session::Options};
use pith_convert::{Report, Target};

#[path = "../../tests/goldens/support/checkpoint.rs"]
mod checkpoint;
use checkpoint::{Checkpoint, Layout, adapters, checksum};

/// The adapter's base in `BASE`, the adapter in `ADAPTER`.
fn write(folder: &Path, adapter: &str) {
    let adapter = Checkpoint::open(adapter);
    let base = Checkpoint::open(adapter.base.as_deref().unwrap());
    for (name, checkpoint) in [("base", &base), ("adapter", &adapter)] {
        fs::create_dir_all(folder.join(name)).unwrap();
        assert_eq!(checksum(&checkpoint.tensors), checkpoint.checksum, "{}", checkpoint.variant);
    }
    base.write(&folder.join("base"), Layout::PLAIN);
    adapter.write_adapter(&folder.join("adapter"));
}

fn options(target: Format) -> pith_convert::Options {
    pith_convert::Options { target: Target::Format(target), ..Default::default() }
}

fn merge(folder: &Path, target: Format) -> pith::Result<Report> {
    let options =
        pith_convert::Options { adapters: vec![folder.join("adapter")], ..options(target) };
    let out = folder.join("merged.gguf");
    pith_convert::convert(&folder.join("base"), &out, &options, &mut |_| ControlFlow::Continue(()))
}

/// The largest difference to the golden's logits; the likeliest ids must be the same.
fn compare(session: &mut Session<'_>, adapter: &str) -> f32 {
    let n_vocab = session.model().hparams().n_vocab;
    let mut worst = 0.0f32;
    for golden in Checkpoint::open(adapter).goldens() {
        let mut all = Vec::new();
        session.truncate(0, 0);
        session.eval_all(0, &golden.ids, |_, some| all.extend_from_slice(some)).unwrap();
        for (at, wanted) in &golden.logits {
            let got = &all[at * n_vocab..][..n_vocab];
            worst = got.iter().zip(wanted).fold(worst, |m, (a, b)| m.max((a - b).abs()));
        }
        let top: Vec<u32> = all.chunks_exact(n_vocab).map(argmax).collect();
        assert_eq!(top, golden.top1, "{adapter}");
    }
    worst
}

fn in_f32() -> Options {
    Options { cache: cache::Type::F32, n_logits: 8, n_threads: 2, ..Options::default() }
}

#[test]
fn merged_files_give_pefts_logits() {
    let adapters = adapters();
    assert!(adapters.len() >= 16, "goldens are missing: {adapters:?}");
    for adapter in adapters {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &adapter);
        let report = merge(folder.path(), Format::F32).unwrap();
        assert!(report.adapters[0].1 > 0, "{adapter}");
        let model = Model::open(&folder.path().join("merged.gguf")).unwrap();
        let worst = compare(&mut Session::new(&model, &in_f32()).unwrap(), &adapter);
        assert!(worst < 2e-4, "{adapter}: a logit differs by {worst:e}");
    }
}
