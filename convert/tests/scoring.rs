//! Scores of whole models: what a step's logits say, without the logits.

use std::{ops::ControlFlow, path::Path};

use pith::{
    Error, Model, Session,
    kernel::Kernels,
    quant::Format,
    session::{Candidate, Memory, Options},
};
use pith_convert::Target;

#[path = "../../tests/goldens/support/checkpoint.rs"]
mod checkpoint;
use checkpoint::{Checkpoint, Layout, variants};

/// Best ids that are asked for.
const N_TOP: usize = 6;

fn convert(source: &Path, out: &Path, format: Format) -> Model {
    let options = pith_convert::Options { target: Target::Format(format), ..Default::default() };
    pith_convert::convert(source, out, &options, &mut |_| ControlFlow::Continue(())).unwrap();
    Model::open(out).unwrap()
}

/// A tiny model of a family, of 264 ids: a whole tile of them and a small one.
fn tiny(folder: &Path, variant: &str, format: Format) -> Model {
    let source = folder.join(variant);
    std::fs::create_dir_all(&source).unwrap();
    Checkpoint::open(variant).write(&source, Layout::PLAIN);
    convert(&source, &folder.join(format!("{variant}.gguf")), format)
}

/// The model of models/demo, of 2048 ids.
fn demo(folder: &Path, format: Format) -> Model {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo");
    convert(&source, &folder.join("demo.gguf"), format)
}

/// Some ids of the model, and for each one that is asked for after it.
fn text(model: &Model, n: usize) -> (Vec<u32>, Vec<u32>) {
    let n_vocab = model.hparams().n_vocab;
    let id = |i: usize| (i * 7919 % n_vocab) as u32;
    // The last ids, of the last tile, come up too.
    let target = |i: usize| if i.is_multiple_of(5) { n_vocab - 1 - i } else { i * 31 % n_vocab };
    ((0..n).map(id).collect(), (0..n).map(|i| target(i) as u32).collect())
}

/// A score that outlives the session's next step.
#[derive(Clone, Debug, PartialEq)]
struct Score {
    logit: u32,
    log_sum_exp: u64,
    log_prob: f64,
    top: Vec<Candidate>,
}

fn scores(session: &mut Session<'_>, ids: &[u32], targets: &[u32]) -> Vec<Score> {
    let mut all = Vec::new();
    session.truncate(0, 0);
    let each = |i, score: pith::session::Score<'_>| {
        assert_eq!(i, all.len());
        all.push(Score {
            logit: score.logit.to_bits(),
            log_sum_exp: score.log_sum_exp.to_bits(),
            log_prob: score.log_prob(),
            top: score.top.to_vec(),
        });
    };
    session.score(0, ids, targets, each).unwrap();
    assert_eq!(all.len(), ids.len());
    all
}

/// Scores are those of the logits that [`Session::eval_all`] gives.
fn check(model: &Model, name: &str) {
    let n_vocab = model.hparams().n_vocab;
    let (ids, targets) = text(model, 24);
    let options = Options { n_threads: 2, ..Options::default() };
    let with_scores = Options { score: true, n_top: N_TOP, ..options.clone() };
    let scores = scores(&mut Session::new(model, &with_scores).unwrap(), &ids, &targets);
    let mut logits = Vec::new();
    let mut session =
        Session::new(model, &Options { n_logits: ids.len(), ..options.clone() }).unwrap();
    session.eval_all(0, &ids, |_, some| logits.extend_from_slice(some)).unwrap();
    for ((score, row), target) in scores.iter().zip(logits.chunks_exact(n_vocab)).zip(targets) {
        let logit = row[target as usize];
        assert_eq!(score.logit, logit.to_bits(), "{name}");
        let sum: f64 = row.iter().map(|&l| f64::from(l).exp()).sum();
        let wanted = f64::from(logit) - sum.ln();
        assert!((score.log_prob - wanted).abs() < 1e-5, "{name}: {} {wanted}", score.log_prob);
        let mut sorted: Vec<Candidate> =
            (0..).zip(row).map(|(id, &logit)| Candidate { id, logit }).collect();
        sorted.sort_by(|a, b| b.logit.partial_cmp(&a.logit).unwrap());
        assert_eq!(score.top, sorted[..N_TOP], "{name}");
    }
}

#[test]
fn scores_are_those_of_the_logits() {
    let folder = tempfile::tempdir().unwrap();
    for variant in variants() {
        for format in [Format::Q8_0, Format::F32] {
            check(&tiny(folder.path(), &variant, format), &variant);
        }
    }
    check(&demo(folder.path(), Format::Q4_K), "demo");
}

#[test]
fn threads_batches_and_instruction_sets_do_not_change_a_bit() {
    let folder = tempfile::tempdir().unwrap();
    let models = [
        demo(folder.path(), Format::Q4_K),
        tiny(folder.path(), "gemma2", Format::Q8_0), // its logits are capped
        tiny(folder.path(), "gptj", Format::Q8_0),   // its head has a bias
        tiny(folder.path(), "llama", Format::F16),
    ];
    assert!(models[1].hparams().logit_softcap.is_some());
    assert!(models[2].vector("output.bias").is_some());
    for model in &models {
        let (ids, targets) = text(model, 70.min(model.hparams().n_ctx));
        let run = |n_threads, n_batch, kernels| {
            let options = Options { n_threads, n_batch, kernels, ..Options::default() };
            let options = Options { score: true, n_top: N_TOP, ..options };
            scores(&mut Session::new(model, &options).unwrap(), &ids, &targets)
        };
        let wanted = run(1, 64, Kernels::by_name("scalar"));
        for &kernels in Kernels::available() {
            for n_batch in [1, 7, 64] {
                for n_threads in 1..=4 {
                    let got = run(n_threads, n_batch, Some(kernels));
                    let name = kernels.name();
                    assert!(got == wanted, "{name}, {n_threads} threads, batches of {n_batch}");
                }
            }
        }
    }
}

/// Steps with logits and scored ones may take turns.
#[test]
fn a_scored_text_is_in_the_context() {
    let folder = tempfile::tempdir().unwrap();
    let model = demo(folder.path(), Format::Q8_0);
    let (ids, targets) = text(&model, 40);
    let options = Options { score: true, n_batch: 16, ..Options::default() };
    let mut session = Session::new(&model, &options).unwrap();
    let wanted: Vec<u32> = session.eval(0, &ids).unwrap().iter().map(|l| l.to_bits()).collect();
    session.truncate(0, 5);
    session.score(0, &ids[5..39], &targets[5..39], |_, _| ()).unwrap();
    assert_eq!(session.ids(0), &ids[..39]);
    let got: Vec<u32> = session.eval(0, &ids[39..]).unwrap().iter().map(|l| l.to_bits()).collect();
    assert!(got == wanted);
}

/// What scoring adds to a session's memory.
fn added(model: &Model, n_batch: usize, n_top: usize) -> u64 {
    let memory = |score| {
        let options = Options { score, n_top, n_batch, n_threads: 2, ..Options::default() };
        Session::new(model, &options).unwrap().memory()
    };
    let (with, without) = (memory(true), memory(false));
    assert_eq!(with.kv, without.kv);
    let Memory { buffers, scratch, .. } = with;
    buffers + scratch - without.buffers - without.scratch
}

/// Beside the last hidden states of a step's tokens: a tile of logits for each thread, 8 bytes for each
/// tile of the vocabulary, and a question with its answer.
#[test]
fn memory_does_not_hold_the_logits() {
    let folder = tempfile::tempdir().unwrap();
    let (tiny, demo) = (tiny(folder.path(), "gpt2", Format::F16), demo(folder.path(), Format::F16));
    for model in [&tiny, &demo] {
        let hp = model.hparams();
        for n_batch in [1, 64, 500] {
            let n_tiles = hp.n_vocab.div_ceil(256) as u64;
            let hidden = 2 * 4 * hp.n_embd as u64;
            let per_row = 2 * 4 * 256 + 8 * n_tiles + 24 + 4;
            let rows = n_batch as u64;
            assert_eq!(added(model, n_batch, 0), rows * per_row + (rows - 1) * hidden);
            let tops = added(model, n_batch, 10) - added(model, n_batch, 0);
            assert_eq!(tops, rows * (2 + 1) * 10 * 8);
        }
    }
}

#[test]
fn what_cannot_be_scored_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(folder.path(), "llama", Format::Q8_0);
    let mut session = Session::new(&model, &Options::default()).unwrap();
    let refused = session.score(0, &[1], &[2], |_, _| panic!("a score"));
    assert!(matches!(refused, Err(Error::Invalid(why)) if why.contains("Options::score")));
    let options = Options { score: true, n_ctx: 8, ..Options::default() };
    let mut session = Session::new(&model, &options).unwrap();
    let mut refused =
        |seq, ids: &[u32], targets: &[u32]| session.score(seq, ids, targets, |_, _| panic!());
    assert!(refused(0, &[], &[]).is_err() && refused(1, &[1], &[1]).is_err());
    assert!(refused(0, &[1, 2, 3], &[1]).is_err() && refused(0, &[1], &[1, 2]).is_err());
    assert!(refused(0, &[1], &[264]).is_err() && refused(0, &[264], &[1]).is_err());
    let full = refused(0, &[1; 9], &[1; 9]);
    assert!(matches!(full, Err(Error::ContextFull { n_ctx: 8, wanted: 9 })));
    assert!(session.ids(0).is_empty());
}
