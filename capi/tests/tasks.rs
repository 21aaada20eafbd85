//! Scores, labels, embeddings and adapters through the C functions are the runtime's, bit for bit.
#![allow(unsafe_code)]

use std::{ffi::CStr, fs, ops::ControlFlow, ptr, sync::Arc};

use pith::{
    Lora,
    classify::classify,
    lora::Adapter,
    session::{Options, Pooling},
};
use pith_c::*;
use pith_convert::Target;

mod support;
use support::{
    checkpoint::{Checkpoint, heads},
    *,
};

fn runtime<'m>(model: &'m pith::Model) -> pith::Session<'m> {
    let options =
        Options { n_ctx: 64, n_batch: 16, n_threads: 1, score: true, ..Options::default() };
    pith::Session::new(model, &options).unwrap()
}

const IDS: [u32; 40] = {
    let mut ids = [0; 40];
    let mut i = 0;
    while i < ids.len() {
        ids[i] = (i as u32 * 37 + 11) % 200;
        i += 1;
    }
    ids
};

#[test]
fn scores_are_the_runtimes_for_texts_of_any_length() {
    let (model, of) = (Model::open(demo()), pith::Model::open(demo()).unwrap());
    let session = model.session(&session_options());
    // A step has 16 tokens: the last token alone in one, and with others.
    for n in [1, 2, 16, 17, 18, 33, 40] {
        let ids = &IDS[..n];
        let (mut got, mut wanted) = (vec![7.0; n], vec![7.0; n]);
        // SAFETY: all of it lives.
        unsafe {
            ok(|e| pith_truncate(session.0, 0, 0, e));
            ok(|e| pith_score(session.0, 0, ids.as_ptr(), n, got.as_mut_ptr(), e));
        }
        assert_eq!(session.tokens(0), ids);
        let mut other = runtime(&of);
        if n > 1 {
            let each = |i: usize, score: pith::session::Score<'_>| wanted[i] = score.log_prob();
            other.score(0, &ids[..n - 1], &ids[1..], each).unwrap();
        }
        assert_eq!(got, wanted, "{n}");
        // What comes behind goes on from all of it.
        let (mut after, mut one) = (ptr::null(), runtime(&of));
        let next = one.eval(0, &[ids, &[3]].concat()).unwrap();
        // SAFETY: all of it lives, and logits are used before the next call.
        unsafe {
            ok(|e| pith_feed(session.0, 0, [3].as_ptr(), 1, &mut after, e));
            assert_eq!(std::slice::from_raw_parts(after, next.len()), next, "{n}");
        }
    }
}

#[test]
fn embeddings_are_the_runtimes() {
    let (model, of) = (Model::open(demo()), pith::Model::open(demo()).unwrap());
    let session = model.session(&session_options());
    let n_embd = of.hparams().n_embd;
    for (pooling, same) in [(POOL_MEAN, Pooling::Mean), (POOL_LAST, Pooling::Last)] {
        let (mut got, mut wanted) = (vec![0f32; n_embd], vec![0f32; n_embd]);
        runtime(&of).embed(0, &IDS, same, &mut wanted).unwrap();
        let embed = |normalize, to: &mut [f32]| {
            // SAFETY: all of it lives.
            ok(|e| unsafe {
                pith_embed(session.0, 1, IDS.as_ptr(), 40, pooling, normalize, to.as_mut_ptr(), e)
            });
        };
        embed(0, &mut got);
        assert_eq!(got, wanted);
        embed(1, &mut got);
        let length = got.iter().map(|x| x * x).sum::<f32>();
        let along = got.iter().zip(&wanted).map(|(a, b)| a * b).sum::<f32>();
        let whole = wanted.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!((length - 1.0).abs() < 1e-5 && (along / whole - 1.0).abs() < 1e-5);
        assert_eq!(session.tokens(1), IDS);
    }
}

#[test]
fn labels_are_the_runtimes() {
    let mut kinds = [0; 2];
    for head in heads().iter().take(8) {
        let folder = tempfile::tempdir().unwrap();
        let path = golden(head, folder.path(), None);
        let (model, of) = (Model::open(&path), pith::Model::open(&path).unwrap());
        let session = model.session(&PithSessionOptions { n_ctx: 0, ..session_options() });
        let (labels, ids) = (of.classifier().unwrap().labels(), &[1, 2, 3, 4, 5]);
        let mut other = pith::Session::new(&of, &Options::default()).unwrap();
        let answers = classify(&mut other, ids).unwrap();
        let wanted: Vec<f32> = answers.iter().flat_map(|answer| answer.values.clone()).collect();
        let (mut got, mut n_rows) = (vec![0f32; wanted.len()], 0);
        // SAFETY: all of it lives.
        unsafe {
            let (s, at) = (session.0, ids.as_ptr());
            let error =
                fails(BUFFER, |e| pith_classify(s, 0, at, 5, ptr::null_mut(), 0, &mut n_rows, e));
            assert_eq!((n_rows, error.needed), (answers.len(), wanted.len() as u64));
            let room = got.len();
            // Twice, since the text takes the place of what was there.
            for _ in 0..2 {
                ok(|e| pith_classify(s, 0, at, 5, got.as_mut_ptr(), room, &mut n_rows, e));
                assert_eq!((n_rows, &got), (answers.len(), &wanted), "{head}");
            }
            fails(UNSUPPORTED, |e| pith_feed(s, 0, at, 5, ptr::null_mut(), e));
            for (label, i) in labels.iter().zip(0..) {
                assert_eq!(CStr::from_ptr(pith_model_label(model.0, i)).to_str(), Ok(&label[..]));
            }
            assert!(pith_model_label(model.0, labels.len() as u32).is_null());
        }
        assert_eq!(session.tokens(0), ids);
        kinds[usize::from(n_rows > 1)] += 1;
    }
    assert!(kinds[0] > 0 && kinds[1] > 0, "{kinds:?}");
}

#[test]
fn adapters_are_added_with_their_scales() {
    let name = "adapters/llama-lora";
    let folder = tempfile::tempdir().unwrap();
    let adapter = Checkpoint::open(name);
    let (from, source) = (folder.path().join("base"), folder.path().join("adapter"));
    fs::create_dir_all(&from).unwrap();
    fs::create_dir_all(&source).unwrap();
    let base = golden(adapter.base.as_deref().unwrap(), &from, None);
    adapter.write_adapter(&source);
    let lora = folder.path().join("adapter.gguf");
    let options =
        pith_convert::Options { target: Target::by_name("f16").unwrap(), ..Default::default() };
    pith_convert::convert_adapter(&source, &from, &lora, &options, &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    let of = pith::Model::open(&base).unwrap();
    let file = Arc::new(Lora::open(&lora).unwrap());
    let (model, path, mut handle) = (Model::open(&base), c_path(&lora), ptr::null_mut());
    // SAFETY: all of it lives.
    ok(|e| unsafe { pith_adapter_open(path.as_ptr(), &mut handle, e) });
    let ids = [1, 2, 3];
    let mut seen: Vec<Vec<f32>> = Vec::new();
    for scales in [vec![], vec![1.0], vec![0.5], vec![0.5, -0.25]] {
        let all: Vec<*const PithAdapter> = scales.iter().map(|_| handle.cast_const()).collect();
        let options = PithSessionOptions {
            n_ctx: 0,
            adapters: all.as_ptr(),
            adapter_scales: if scales == [1.0] { ptr::null() } else { scales.as_ptr() },
            n_adapters: all.len(),
            ..session_options()
        };
        let session = model.session(&options);
        let adapters = scales.iter().map(|&scale| Adapter { lora: file.clone(), scale }).collect();
        let options = Options { adapters, n_threads: 1, ..Options::default() };
        let mut other = pith::Session::new(&of, &options).unwrap();
        let (wanted, mut logits) = (other.eval(0, &ids).unwrap(), ptr::null());
        // SAFETY: all of it lives, and logits are used before the next call.
        let got = unsafe {
            ok(|e| pith_feed(session.0, 0, ids.as_ptr(), 3, &mut logits, e));
            std::slice::from_raw_parts(logits, wanted.len())
        };
        assert_eq!(got, wanted, "{scales:?}");
        assert!(!seen.iter().any(|other| other == got), "{scales:?} changes nothing");
        seen.push(got.to_vec());
    }
    // Sessions keep what they need of it.
    let options = PithSessionOptions {
        n_ctx: 0,
        adapters: &handle.cast_const(),
        n_adapters: 1,
        ..session_options()
    };
    let session = model.session(&options);
    // SAFETY: freed once.
    unsafe { pith_adapter_free(handle) };
    drop(model);
    session.feed(0, &ids);
}
