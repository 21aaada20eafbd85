//! Every family end to end: a tiny checkpoint becomes a GGUF, the GGUF runs, and its logits are those
//! that PyTorch computed (tests/goldens/make.py says with which versions).
//!
//! And the contract on whole models: the same bits for any thread count, any cutting of the prompt,
//! any batch, and every instruction set.

use std::{ops::ControlFlow, path::Path};

use pith::{
    Model, Session, cache,
    kernel::Kernels,
    quant::Format,
    sampler::argmax,
    session::{OnFull, Options},
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
    pith_convert::convert(&source, &out, &options, &mut |_| ControlFlow::Continue(())).unwrap();
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
    let (mut worst, mut same, mut n) = (0.0f32, 0, 0);
    for golden in Checkpoint::open(variant).goldens() {
        // As long as the sequence: LongRoPE's factors are chosen by the session's context here, by
        // the sequence in PyTorch, and one golden is on each side.
        let options = Options { n_ctx: golden.ids.len(), ..options.clone() };
        let mut session = Session::new(model, &options).unwrap();
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

/// Rounding alone moves these logits by up to 2e-5; the erf form of GELU for the tanh form, or a
/// wrong epsilon, by 6e-4 or more.
#[test]
fn f32_files_give_pytorchs_logits() {
    let folder = tempfile::tempdir().unwrap();
    let variants = variants();
    assert!(variants.len() >= 33, "goldens are missing: {variants:?}");
    for variant in variants {
        let (worst, same) = compare(&model(folder.path(), &variant, Format::F32), &variant);
        assert!(worst < 1e-4, "{variant}: a logit differs by {worst:e}");
        assert_eq!(same, 1.0, "{variant}: top-1 ids");
    }
}

/// The bound at Q8_0, weights and activations: these logits spread over about 10 units, and random
/// weights make the worst case for rounding.
#[test]
fn q8_0_files_stay_close_to_pytorchs_logits() {
    let folder = tempfile::tempdir().unwrap();
    for variant in variants() {
        let (worst, same) = compare(&model(folder.path(), &variant, Format::Q8_0), &variant);
        assert!(worst < 1.0, "{variant}: a logit differs by {worst}");
        assert!(same > 0.9, "{variant}: {} % of the top-1 ids", 100.0 * same);
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// A format that keeps each variant on the integer kernels: K-quants where rows allow it.
fn format_for(variant: &str) -> Format {
    match variant {
        "llama-256" => Format::Q4_K,
        "gpt2" => Format::Q4_0,
        "gemma3" => Format::Q4_1,
        _ => Format::Q8_0,
    }
}

#[test]
fn threads_chunks_and_instruction_sets_do_not_change_a_bit() {
    let folder = tempfile::tempdir().unwrap();
    for variant in variants() {
        let model = model(folder.path(), &variant, format_for(&variant));
        let ids = Checkpoint::open(&variant).goldens().remove(0).ids;
        for &cache in cache::Type::ALL {
            let run = |n_threads, n_batch, kernels| {
                let n_logits = n_batch;
                let options =
                    Options { n_threads, n_batch, n_logits, cache, kernels, ..Options::default() };
                let mut session = Session::new(&model, &options).unwrap();
                bits(&logits(&mut session, &ids))
            };
            let wanted = run(1, 64, Kernels::by_name("scalar"));
            for &kernels in Kernels::available() {
                for (n_threads, n_batch) in [(1, 1), (1, 64), (2, 7), (3, 64), (4, 1), (4, 16)] {
                    let got = run(n_threads, n_batch, Some(kernels));
                    let (cache, name) = (cache.name(), kernels.name());
                    assert!(
                        got == wanted,
                        "{variant}, {cache}, {name}, {n_threads} threads, chunks of {n_batch}"
                    );
                }
            }
        }
    }
}

/// The bound of a Q8_0 cache alone: what it changes in logits that spread over about 10 units.
#[test]
fn a_q8_0_cache_stays_close_to_one_of_f32() {
    let folder = tempfile::tempdir().unwrap();
    let (mut all, mut all_same) = (0, 0);
    for variant in variants() {
        let model = model(folder.path(), &variant, Format::F32);
        let ids = Checkpoint::open(&variant).goldens().remove(0).ids;
        let run = |cache| {
            let options = Options { cache, n_logits: 8, ..Options::default() };
            logits(&mut Session::new(&model, &options).unwrap(), &ids)
        };
        let (wanted, got) = (run(cache::Type::F32), run(cache::Type::Q8_0));
        let worst = got.iter().zip(&wanted).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
        let n_vocab = model.hparams().n_vocab;
        let rows = got.chunks_exact(n_vocab).zip(wanted.chunks_exact(n_vocab));
        let same = rows.filter(|(got, wanted)| argmax(got) == argmax(wanted)).count();
        assert!(worst > 0.0, "{variant}: the cache wasn't rounded");
        assert!(worst < 0.6, "{variant}: a logit differs by {worst}");
        all += ids.len();
        all_same += same;
    }
    assert!(all_same as f32 / all as f32 > 0.98, "{all_same} of {all} top-1 ids");
}

/// Sixteen sequences of different lengths share steps, prompt tokens of some beside single tokens
/// of others; each gets the logits that it gets alone.
#[test]
fn a_batch_of_sixteen_sequences_gives_each_what_it_gets_alone() {
    let folder = tempfile::tempdir().unwrap();
    for (i, variant) in variants().into_iter().enumerate() {
        let model = model(folder.path(), &variant, format_for(&variant));
        let n_vocab = model.hparams().n_vocab;
        let ids = Checkpoint::open(&variant).goldens().remove(0).ids;
        let sequences: Vec<Vec<u32>> =
            (0..16).map(|s| ids[s % 5..][..8 + s % 9].to_vec()).collect();
        // In turns, so that every type meets every kind of attention.
        let cache = cache::Type::ALL[i % cache::Type::ALL.len()];
        let options = Options { cache, ..Options::default() };
        let mut alone = Session::new(&model, &options).unwrap();
        let wanted = sequences.iter().map(|ids| {
            alone.truncate(0, 0);
            bits(alone.eval(0, ids).unwrap())
        });
        let wanted: Vec<_> = wanted.collect();
        let options = Options { n_seq: 16, n_logits: 16, n_threads: 3, ..options };
        let mut session = Session::new(&model, &options).unwrap();
        let mut done = [0; 16];
        let mut got = vec![Vec::new(); 16];
        for round in 0.. {
            let mut batch = Vec::new();
            for (seq, ids) in sequences.iter().enumerate() {
                let n = [1, 3, 4][(seq + round) % 3].min(ids.len() - done[seq]);
                if n > 0 {
                    batch.push((seq, &ids[done[seq]..done[seq] + n]));
                    done[seq] += n;
                }
            }
            if batch.is_empty() {
                break;
            }
            let logits = session.eval_batch(&batch).unwrap();
            for ((seq, _), logits) in batch.iter().zip(logits.chunks_exact(n_vocab)) {
                got[*seq] = bits(logits);
            }
        }
        for (seq, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
            assert!(got == wanted, "{variant}, sequence {seq}");
        }
    }
}

#[test]
fn forks_truncations_and_shifts_are_those_of_a_fresh_sequence() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path(), "llama", Format::Q8_0);
    let ids = Checkpoint::open("llama").goldens().remove(0).ids;
    for &cache in cache::Type::ALL {
        let options = Options { n_seq: 2, n_ctx: 24, cache, ..Options::default() };
        let mut session = Session::new(&model, &options).unwrap();
        let mut fresh = Session::new(&model, &options).unwrap();
        session.eval(0, &ids[..10]).unwrap();
        session.fork(0, 1);
        session.eval(0, &ids[10..14]).unwrap();
        let forked = bits(session.eval(1, &ids[2..5]).unwrap());
        let path: Vec<u32> = ids[..10].iter().chain(&ids[2..5]).copied().collect();
        assert_eq!(forked, bits(fresh.eval(0, &path).unwrap()));
        session.truncate(1, 10);
        let again = bits(session.eval(1, &ids[10..14]).unwrap());
        assert_eq!(again, bits(fresh.sync(0, &ids[..14]).unwrap()));

        session.truncate(0, 0);
        session.eval(0, &ids[..20]).unwrap();
        assert!(matches!(
            session.eval(0, &ids[..5]),
            Err(pith::Error::ContextFull { n_ctx: 24, wanted: 25 })
        ));
        assert!(session.make_room(0, 5, OnFull::Error).is_err());
        session.make_room(0, 5, OnFull::Shift { keep: 2 }).unwrap();
        let kept: Vec<u32> = ids[..2].iter().chain(&ids[11..20]).copied().collect();
        assert_eq!(session.ids(0), kept);
        let shifted = bits(session.eval(0, &ids[..5]).unwrap());
        let path: Vec<u32> = kept.iter().chain(&ids[..5]).copied().collect();
        assert_eq!(shifted, bits(fresh.sync(0, &path).unwrap()));
    }
}

#[test]
fn a_session_over_its_ceiling_is_refused_with_the_figures() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path(), "gpt2", Format::Q8_0);
    let options = Options { max_memory: Some(1000), ..Options::default() };
    let error = Session::new(&model, &options).err().unwrap();
    assert!(matches!(error, pith::Error::Memory { limit: 1000, needed } if needed > 1000));
    let bad = Options { n_ctx: 1 << 40, ..Options::default() };
    assert!(Session::new(&model, &bad).is_err());
    let mut session = Session::new(&model, &Options::default()).unwrap();
    assert!(session.eval(0, &[]).is_err() && session.eval(1, &[1]).is_err());
    assert!(session.eval(0, &[u32::MAX]).is_err());
}
