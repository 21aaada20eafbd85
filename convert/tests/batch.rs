//! Many sequences at once give each what it gets alone.

use std::{ops::ControlFlow, path::Path};

use pith::{
    Error, Model, Session,
    batch::{End, Generator, Heads, Next, Prompt, Request, Scored, Scorer},
    classify::classify,
    quant::Format,
    sampler::{self, Sampler},
    session::Options,
};
use pith_convert::Target;

#[path = "../../tests/goldens/support/checkpoint.rs"]
mod checkpoint;
use checkpoint::{Checkpoint, Layout};

/// Sequences, tokens of a step, threads.
const WAYS: [(usize, usize, usize); 6] =
    [(1, 1, 1), (1, 64, 2), (3, 7, 2), (4, 32, 1), (16, 256, 2), (5, 100, 3)];

fn model(folder: &Path, variant: &str, format: Format) -> Model {
    let source = match variant {
        "demo" => Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo"),
        _ => {
            let source = folder.join(variant);
            std::fs::create_dir_all(&source).unwrap();
            Checkpoint::open(variant).write(&source, Layout::PLAIN);
            source
        }
    };
    let out = folder.join("model.gguf");
    let options = pith_convert::Options { target: Target::Format(format), ..Default::default() };
    pith_convert::convert(&source, &out, &options, &mut |_| ControlFlow::Continue(())).unwrap();
    Model::open(&out).unwrap()
}

fn options((n_seq, n_batch, n_threads): (usize, usize, usize)) -> Options {
    Options { n_seq, n_batch, n_threads, n_top: 3, ..Options::default() }
}

/// Sequences with much in common: prefixes of each other, twins, ones that part at any place.
fn sequences(model: &Model) -> Vec<Vec<u32>> {
    let n_vocab = model.hparams().n_vocab as u64;
    let mut state = 1u64;
    let mut random = |n: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % n
    };
    let trunk: Vec<u32> = (0..30).map(|_| random(n_vocab) as u32).collect();
    let mut all: Vec<Vec<u32>> = Vec::new();
    for _ in 0..40 {
        let mut ids = match random(4) {
            0 if !all.is_empty() => all[random(all.len() as u64) as usize].clone(),
            _ => trunk.clone(),
        };
        ids.truncate(random(ids.len() as u64 + 1) as usize);
        let more = random(12) as usize + 2;
        ids.extend((0..more).map(|_| random(n_vocab.min(5)) as u32));
        all.push(ids);
    }
    all.extend_from_within(3..6);
    all
}

/// One sequence alone, by the plain path.
fn alone(session: &mut Session<'_>, request: &Request<'_>) -> Scored {
    let Request { ids, from } = *request;
    let mut scored = Scored { log_probs: vec![], is_best: vec![], top: vec![] };
    session.truncate(0, 0);
    let n = ids.len() - 1;
    session
        .score(0, &ids[..n], &ids[1..], |i, score| {
            if i + 1 >= from {
                let log_prob = |logit: f32| f64::from(logit) - score.log_sum_exp;
                scored.log_probs.push(score.log_prob());
                scored.is_best.push(score.top[0].id == ids[i + 1]);
                scored.top.push(score.top.iter().map(|c| (c.id, log_prob(c.logit))).collect());
            }
        })
        .unwrap();
    scored
}

#[test]
fn scores_are_those_of_sequences_alone() {
    let folder = tempfile::tempdir().unwrap();
    for (variant, format) in [
        ("demo", Format::Q4_K),
        ("gemma2", Format::Q8_0),
        ("mpt", Format::F16),
        ("gpt2", Format::F32),
    ] {
        let model = model(folder.path(), variant, format);
        let sequences = sequences(&model);
        let requests: Vec<Request<'_>> = (sequences.iter().zip(0..))
            .map(|(ids, i)| Request { ids, from: 1 + i * 7 % (ids.len() - 1) })
            .collect();
        let plain = Options { score: true, ..options((1, 64, 2)) };
        let mut session = Session::new(&model, &plain).unwrap();
        let wanted: Vec<Scored> =
            requests.iter().map(|request| alone(&mut session, request)).collect();
        for way in WAYS {
            let mut scorer = Scorer::new(&model, &options(way)).unwrap();
            let mut n_tokens = 0;
            let got = scorer
                .score(&requests, |n| {
                    assert!(n <= way.1);
                    n_tokens += n;
                    true
                })
                .unwrap();
            assert!(got == wanted, "{variant}: {way:?}");
            let mut prefixes: Vec<&[u32]> =
                sequences.iter().flat_map(|ids| (1..ids.len()).map(|n| &ids[..n])).collect();
            prefixes.sort();
            prefixes.dedup();
            assert_eq!(n_tokens, prefixes.len(), "what is shared is run once");
            // Twice, and in another order, by a session that holds other things.
            let again: Vec<Request<'_>> = requests.iter().rev().copied().collect();
            let mut again = scorer.score(&again, |_| true).unwrap();
            again.reverse();
            assert!(again == wanted, "{variant}: {way:?}, again");
            let owned = requests.iter().map(|request| (request.ids.to_vec(), request.from));
            let with_a_bad_one = [(vec![1], 1)].into_iter().chain(owned.clone()).chain(owned);
            let mut stream = scorer.scores(with_a_bad_one.cycle().take(800));
            assert!(stream.next().unwrap().is_err());
            for wanted in wanted.iter().chain(&wanted) {
                assert!(stream.next().unwrap().unwrap() == *wanted, "{variant}: {way:?}, streamed");
            }
            assert_eq!(stream.count(), 800 - 1 - 2 * wanted.len());
        }
    }
}

#[test]
fn what_can_not_be_scored_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path(), "gpt2", Format::F32);
    let mut scorer = Scorer::new(&model, &options((2, 8, 1))).unwrap();
    let n_ctx = scorer.session().n_ctx();
    for (ids, from) in
        [(vec![1], 1), (vec![1, 2], 0), (vec![1, 2], 2), (vec![1, 9999], 1), (vec![], 0)]
    {
        let error = scorer.score(&[Request { ids: &ids, from }], |_| true).unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{ids:?} {from}: {error}");
    }
    // The last token is not run.
    let fits = vec![1; n_ctx + 1];
    let scored = scorer.score(&[Request { ids: &fits, from: n_ctx }], |_| true).unwrap();
    assert_eq!(scored[0].log_probs.len(), 1);
    let long = vec![1; n_ctx + 2];
    let error = scorer.score(&[Request { ids: &long, from: 1 }], |_| true).unwrap_err();
    assert!(matches!(error, Error::ContextFull { .. }), "{error}");
    let stopped = scorer.score(&[Request { ids: &fits, from: 1 }], |_| false).unwrap_err();
    assert!(matches!(stopped, Error::Stopped));
    assert!(scorer.score(&[], |_| true).unwrap().is_empty());
}

#[test]
fn heads_say_what_they_say_of_texts_alone() {
    let folder = tempfile::tempdir().unwrap();
    for head in ["heads/gpt2-sequence", "heads/llama-sequence", "heads/gpt2-token"] {
        let model = model(folder.path(), head, Format::Q8_0);
        let texts = sequences(&model);
        let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let mut session = Session::new(&model, &Options::default()).unwrap();
        let wanted: Vec<_> = texts.iter().map(|ids| classify(&mut session, ids).unwrap()).collect();
        for way in WAYS {
            let mut heads = Heads::new(&model, &options(way)).unwrap();
            assert!(heads.classify(&texts, |_| true).unwrap() == wanted, "{head}: {way:?}");
        }
    }
}

/// A way to choose, made of a number.
fn choice(i: usize) -> sampler::Options {
    let off = sampler::Options { top_k: 0, top_p: 1.0, min_p: 0.0, ..Default::default() };
    let seed = i as u64;
    match i % 5 {
        0 => sampler::Options { temp: 0.0, ..off },
        1 => sampler::Options { seed, top_k: 3, ..off },
        2 => sampler::Options { seed, top_k: 40, top_p: 0.9, ..off },
        3 => sampler::Options { seed, repeat_penalty: 1.3, ..off },
        _ => sampler::Options { seed, ..off },
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Written {
    ids: Vec<u32>,
    log_probs: Vec<Option<f64>>,
    top: Vec<Vec<(u32, f64)>>,
    end: Option<End>,
}

/// One continuation alone, by the plain path.
fn write_alone(session: &mut Session<'_>, prompt: &Prompt) -> Written {
    let mut sampler = Sampler::new(prompt.sampler.clone());
    let mut written = Written::default();
    let n_vocab = session.model().hparams().n_vocab;
    session.truncate(0, 0);
    let mut next = prompt.ids.clone();
    loop {
        let mut logits = session.eval(0, &next).unwrap().to_vec();
        let sum = logits.iter().map(|&l| f64::from(l).exp()).sum::<f64>().ln();
        let raw = logits.clone();
        let history = session.ids(0).to_vec();
        let id = sampler.sample(&mut logits, &history);
        written.ids.push(id);
        written.log_probs.push(prompt.log_probs.then(|| f64::from(raw[id as usize]) - sum));
        let mut best: Vec<usize> = (0..n_vocab).collect();
        best.sort_by(|&a, &b| raw[b].partial_cmp(&raw[a]).unwrap());
        let best = best[..3].iter().map(|&id| (id as u32, f64::from(raw[id]) - sum));
        written.top.push(if prompt.log_probs { best.collect() } else { vec![] });
        written.end = match () {
            () if session.model().tokenizer().is_eog(id) => Some(End::Token),
            () if written.ids.len() == prompt.n_predict => Some(End::Limit),
            () if session.ids(0).len() == session.n_ctx() => Some(End::Full),
            () => None,
        };
        if written.end.is_some() {
            return written;
        }
        next = vec![id];
    }
}

#[test]
fn continuations_are_those_of_sequences_alone() {
    let folder = tempfile::tempdir().unwrap();
    for (variant, format) in [("demo", Format::Q4_K), ("llama", Format::Q8_0)] {
        let model = model(folder.path(), variant, format);
        let prompts: Vec<Prompt> = (sequences(&model).into_iter().zip(0..))
            .map(|(ids, i)| Prompt {
                ids,
                n_predict: 1 + i * 5 % 23,
                sampler: choice(i),
                log_probs: i % 2 == 0,
            })
            .collect();
        let mut session = Session::new(&model, &options((1, 64, 2))).unwrap();
        let wanted: Vec<Written> =
            prompts.iter().map(|prompt| write_alone(&mut session, prompt)).collect();
        let mut first: Option<Vec<Written>> = None;
        for way in WAYS {
            // All at once, and only those that need not see all logits.
            for scored in [false, true] {
                let mut generator = Generator::new(&model, &options(way)).unwrap();
                let mut got = vec![Written::default(); prompts.len()];
                let mut left = (0..prompts.len()).filter(|i| !scored || i % 5 < 2).peekable();
                loop {
                    while generator.has_room()
                        && let Some(i) = left.next()
                    {
                        generator.push(i as u64, prompts[i].clone()).unwrap();
                    }
                    let n = generator.step(|chosen| {
                        let written = &mut got[chosen.tag as usize];
                        assert_eq!(written.end, None);
                        written.ids.push(chosen.id);
                        written.log_probs.push(chosen.log_prob);
                        written.top.push(chosen.top.to_vec());
                        written.end = chosen.end;
                        Next::GoOn
                    });
                    assert!(n <= way.1);
                    if n == 0 && left.peek().is_none() {
                        break;
                    }
                }
                let all = got.iter().zip(&wanted).zip(0..).filter(|(_, i)| !scored || i % 5 < 2);
                for ((got, wanted), i) in all {
                    assert_eq!(got.ids, wanted.ids, "{variant}, {i}: {way:?}");
                    assert_eq!(got.end, wanted.end, "{variant}, {i}: {way:?}");
                    let close = |a: f64, b: f64| (a - b).abs() < 1e-4;
                    for (a, b) in got.log_probs.iter().zip(&wanted.log_probs) {
                        assert!(a.zip(*b).map_or(a == b, |(a, b)| close(a, b)), "{a:?} {b:?}");
                    }
                    for (a, b) in got.top.iter().flatten().zip(wanted.top.iter().flatten()) {
                        assert!(a.0 == b.0 && close(a.1, b.1), "{a:?} {b:?}");
                    }
                    assert_eq!(got.top.concat().len(), wanted.top.concat().len());
                    // Log-probabilities are the same bits in every company.
                    if let Some(first) = &first {
                        assert!(*got == first[i], "{variant}, {i}: {way:?}");
                    }
                }
                if first.is_none() {
                    first = Some(got);
                }
            }
        }
    }
}

#[test]
fn a_caller_may_end_a_sequence() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path(), "llama", Format::Q8_0);
    let mut generator = Generator::new(&model, &options((2, 16, 1))).unwrap();
    let prompt =
        |n_predict| Prompt { ids: vec![1, 2, 3], n_predict, sampler: choice(1), log_probs: false };
    for tag in 0..5 {
        generator.push(tag, prompt(50)).unwrap();
    }
    let mut n = [0; 5];
    while generator.step(|chosen| {
        n[chosen.tag as usize] += 1;
        if n[chosen.tag as usize] > chosen.tag { Next::Enough } else { Next::GoOn }
    }) > 0
    {}
    assert_eq!(n, [1, 2, 3, 4, 5]);
    assert!(generator.push(9, prompt(0)).is_err());
    assert!(generator.push(9, Prompt { ids: vec![], ..prompt(1) }).is_err());
}
