//! Log-probabilities of given tokens: those that PyTorch computes on the same f32 weights
//! (tests/goldens/make_scores.py), and those of lm-evaluation-harness by its definitions
//! (tests/goldens/lm_eval/make.py says what they are).

use std::{fs, ops::ControlFlow, path::Path};

use pith::{
    Model,
    batch::{Request, Scored, Scorer},
    cache,
    quant::Format,
    session::Options,
    tokenizer::Encode,
};
use pith_convert::Target;
use serde_json::Value;

#[path = "../../tests/goldens/support/checkpoint.rs"]
mod checkpoint;
use checkpoint::{Checkpoint, Layout, goldens};

/// What the sums may differ by.
const BOUND: f64 = 1e-3;

/// A model in f32: the one of models/demo, or a variant of tests/goldens.
fn model(folder: &Path, name: &str) -> Model {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo");
    let tiny = folder.join(name);
    if name != "demo" {
        fs::create_dir_all(&tiny).unwrap();
        Checkpoint::open(name).write(&tiny, Layout::PLAIN);
    }
    let source = if name == "demo" { demo } else { tiny };
    let out = folder.join(format!("{name}.gguf"));
    let options =
        pith_convert::Options { target: Target::Format(Format::F32), ..Default::default() };
    pith_convert::convert(&source, &out, &options, &mut |_| ControlFlow::Continue(())).unwrap();
    Model::open(&out).unwrap()
}

/// Few sequences and small steps: requests wait for each other, and are run in pieces.
fn scorer(model: &Model, n_ctx: usize) -> Scorer<'_> {
    let cache = cache::Type::F32; // PyTorch rounds neither keys nor values
    let options = Options { n_ctx, n_seq: 3, n_batch: 48, n_top: 1, cache, ..Options::default() };
    Scorer::new(model, &options).unwrap()
}

fn read(path: &str) -> Value {
    serde_json::from_slice(&fs::read(goldens().join(path)).unwrap()).unwrap()
}

fn rows(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    rows(value).iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The score of each sequence of ids, from so many on.
fn score(scorer: &mut Scorer<'_>, sequences: &[(Vec<u32>, usize)]) -> Vec<Scored> {
    let requests: Vec<Request<'_>> =
        sequences.iter().map(|&(ref ids, from)| Request { ids, from }).collect();
    scorer.score(&requests, |_| true).unwrap()
}

#[test]
fn log_probabilities_are_pytorchs() {
    let folder = tempfile::tempdir().unwrap();
    let scores = read("scores.json");
    let named = scores.as_object().unwrap().iter().filter(|(name, _)| *name != "made_by");
    let mut n_models = 0;
    for (name, wanted) in named {
        n_models += 1;
        let model = model(folder.path(), name);
        let mut scorer = scorer(&model, 0);
        let wanted = rows(wanted);
        let sequences: Vec<(Vec<u32>, usize)> = wanted
            .iter()
            .map(|row| (ids(&row["ids"]), row["from"].as_u64().unwrap() as usize))
            .collect();
        let together = score(&mut scorer, &sequences);
        for ((sequence, got), row) in sequences.iter().zip(&together).zip(wanted) {
            let each = rows(&row["log_probs"]);
            assert_eq!(got.log_probs.len(), each.len(), "{name}");
            for (got, wanted) in got.log_probs.iter().zip(each) {
                let wanted = wanted.as_f64().unwrap();
                assert!((got - wanted).abs() < 1e-4, "{name}: {got}, wanted {wanted}");
            }
            let sum = row["sum"].as_f64().unwrap();
            assert!((got.sum() - sum).abs() < BOUND, "{name}: {}, wanted {sum}", got.sum());
            assert_eq!(got.is_greedy(), row["greedy"].as_bool().unwrap(), "{name}");
            // Whoever shares its context, and whatever steps it was cut into.
            let alone = score(&mut scorer, std::slice::from_ref(sequence));
            assert_eq!(alone, std::slice::from_ref(got), "{name}");
        }
        if name == "demo" {
            for row in wanted.iter().filter(|row| row["text"].is_array()) {
                let [context, continuation] = rows(&row["text"]) else { panic!("a pair") };
                let context = context.as_str().unwrap();
                let whole = format!("{context}{}", continuation.as_str().unwrap());
                assert_eq!(encode(&model, &whole, true), ids(&row["ids"]));
                assert_eq!(
                    encode(&model, context, true).len() as u64,
                    row["from"].as_u64().unwrap()
                );
            }
        }
    }
    assert!(n_models >= 5, "goldens are missing");
}

fn encode(model: &Model, text: &str, add_special: bool) -> Vec<u32> {
    model.tokenizer().encode(text, Encode { add_special, parse_special: false })
}

/// What a text without a context is scored behind.
fn prefix(model: &Model) -> u32 {
    let tokenizer = model.tokenizer();
    tokenizer.bos().or(tokenizer.eos()).unwrap()
}

/// Ids of a context and of what is scored, as lm_eval encodes a pair.
fn pair(model: &Model, context: &str, continuation: &str) -> (Vec<u32>, Vec<u32>) {
    if context.is_empty() {
        let ids = encode(model, continuation, false);
        return match ids.first() == Some(&prefix(model)) {
            true => (ids[..1].to_vec(), ids[1..].to_vec()),
            false => (vec![prefix(model)], ids),
        };
    }
    let kept = context.trim_end();
    let whole = encode(model, &format!("{context}{continuation}"), true);
    let context = encode(model, kept, true);
    let rest = whole.get(context.len()..).unwrap_or_default().to_vec();
    (context, rest)
}

/// The sequence of a pair, with what fits of its context; `None` for one that lm_eval refuses.
fn fit(n_ctx: usize, (context, rest): (Vec<u32>, Vec<u32>)) -> Option<(Vec<u32>, usize)> {
    let fits = !context.is_empty() && (1..=n_ctx).contains(&rest.len());
    let n = context.len() + rest.len();
    let ids = [context, rest.clone()].concat().split_off(n.saturating_sub(n_ctx + 1));
    fits.then(|| (ids.clone(), ids.len() - rest.len()))
}

/// Windows of a text, as lm_eval's rolling log-likelihood cuts it.
fn windows(n_ctx: usize, prefix: u32, ids: &[u32]) -> Vec<(Vec<u32>, usize)> {
    let window = |at: usize| {
        let end = (at + n_ctx).min(ids.len());
        match at {
            0 => ([&[prefix], &ids[..end]].concat(), 1),
            _ => (ids[end - n_ctx - 1..end].to_vec(), at + n_ctx + 1 - end),
        }
    };
    (0..ids.len()).step_by(n_ctx).map(window).collect()
}

/// The index of the first of the largest.
fn argmax(values: impl IntoIterator<Item = f64>) -> u64 {
    let first = (0, f64::NEG_INFINITY);
    (0..).zip(values).fold(first, |best, next| if next.1 > best.1 { next } else { best }).0
}

fn check_pairs(model: &Model, scorer: &mut Scorer<'_>, sample: &[Value], run: &Value, about: &str) {
    let n_ctx = scorer.session().n_ctx();
    let (mut sequences, mut results) = (Vec::new(), Vec::new());
    for (texts, result) in sample.iter().zip(rows(&run["pairs"])) {
        let [context, continuation] = rows(texts) else { panic!("a pair") };
        let encoded = pair(model, context.as_str().unwrap(), continuation.as_str().unwrap());
        if !result.is_null() {
            assert_eq!(encoded.0, ids(&result["context"]), "{about}: {texts}");
            assert_eq!(encoded.1, ids(&result["continuation"]), "{about}: {texts}");
            results.push(result);
        }
        let sequence = fit(n_ctx, encoded);
        assert_eq!(sequence.is_some(), !result.is_null(), "{about}: {texts}");
        sequences.extend(sequence);
    }
    assert!(results.len() > 25, "{about}");
    for (scored, result) in score(scorer, &sequences).iter().zip(results) {
        let wanted = result["sum"].as_f64().unwrap();
        let got = scored.sum();
        assert!((got - wanted).abs() < BOUND, "{about}: {got}, wanted {wanted}");
        assert_eq!(scored.is_greedy(), result["greedy"].as_bool().unwrap(), "{about}");
    }
}

fn check_texts(model: &Model, scorer: &mut Scorer<'_>, sample: &[Value], run: &Value, about: &str) {
    let n_ctx = scorer.session().n_ctx();
    for (text, result) in sample.iter().zip(rows(&run["texts"])) {
        let text = text.as_str().unwrap();
        let ids = encode(model, text, true);
        assert_eq!(ids.len() as u64, result["n_tokens"].as_u64().unwrap(), "{about}");
        let windows = windows(n_ctx, prefix(model), &ids);
        let lengths: Vec<[usize; 2]> =
            windows.iter().map(|(ids, from)| [*from, ids.len() - from]).collect();
        assert_eq!(serde_json::json!(lengths), result["windows"], "{about}");
        let got: f64 = score(scorer, &windows).iter().map(Scored::sum).sum();
        let wanted = result["sum"].as_f64().unwrap();
        assert!((got - wanted).abs() < BOUND, "{about}: {got}, wanted {wanted}");
        if let Some(wanted) = result["bits_per_byte"].as_f64() {
            let got = -got / text.len() as f64 / std::f64::consts::LN_2;
            assert!((got - wanted).abs() < BOUND, "{about}: {got} bits, wanted {wanted}");
        }
    }
}

fn check_choices(model: &Model, scorer: &mut Scorer<'_>, sample: &[Value], run: &Value) {
    let n_ctx = scorer.session().n_ctx();
    let results = rows(&run["choices"]);
    assert_eq!(sample.len(), results.len());
    for (question, result) in sample.iter().zip(results) {
        let choices = rows(&question["choices"]).iter().map(|choice| choice.as_str().unwrap());
        let mut sums = |context: &str, wanted: &Value| {
            let sequence = |text| fit(n_ctx, pair(model, context, &format!(" {text}"))).unwrap();
            let sequences: Vec<_> = choices.clone().map(sequence).collect();
            let sums: Vec<f64> = score(scorer, &sequences).iter().map(Scored::sum).collect();
            for (got, wanted) in sums.iter().zip(rows(wanted)) {
                let wanted = wanted.as_f64().unwrap();
                assert!((got - wanted).abs() < BOUND, "{question}: {got}, wanted {wanted}");
            }
            sums
        };
        let behind = sums(question["question"].as_str().unwrap(), &result["sums"]);
        let alone = sums("", &result["unconditional"]);
        let per = |of: fn(&str) -> usize| {
            argmax(behind.iter().zip(choices.clone()).map(|(sum, text)| sum / of(text) as f64))
        };
        let picks = [
            ("acc", argmax(behind.iter().copied())),
            ("acc_norm", per(|text| text.chars().count())),
            ("acc_bytes", per(str::len)),
            ("acc_mutual_info", argmax(behind.iter().zip(&alone).map(|(a, b)| a - b))),
        ];
        for (name, pick) in picks {
            assert_eq!(result[name].as_u64(), Some(pick), "{question}: {name}");
        }
    }
}

#[test]
fn log_likelihoods_are_those_of_lm_evaluation_harness() {
    let folder = tempfile::tempdir().unwrap();
    let (sample, results) = (read("lm_eval/sample.json"), read("lm_eval/results.json"));
    let mut n_choices = 0;
    for run in rows(&results["runs"]) {
        let name = run["model"].as_str().unwrap();
        let n_ctx = run["max_length"].as_u64().unwrap() as usize;
        let about = format!("{name} {n_ctx}");
        let model = model(folder.path(), name);
        let mut scorer = scorer(&model, n_ctx);
        check_pairs(&model, &mut scorer, rows(&sample["pairs"]), run, &about);
        check_texts(&model, &mut scorer, rows(&sample["texts"]), run, &about);
        if !run["choices"].is_null() {
            check_choices(&model, &mut scorer, rows(&sample["choices"][name]), run);
            n_choices += 1;
        }
    }
    assert_eq!(n_choices, 2);
}
