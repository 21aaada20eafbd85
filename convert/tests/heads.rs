//! Classification heads end to end: a tiny checkpoint with a head becomes a GGUF, the GGUF runs, and
//! its labels and probabilities are PyTorch's (tests/goldens/make_heads.py says with which versions).

use std::{ops::ControlFlow, path::Path};

use pith::{
    Error, Model, Session, cache, classify::classify, kernel::Kernels, quant::Format,
    session::Options, tokenizer::Encode,
};
use pith_convert::Target;
use pith_models::{ClassifierKind, Problem};

#[path = "../../tests/goldens/support/checkpoint.rs"]
mod checkpoint;
use checkpoint::{Checkpoint, Layout, heads};

fn model(folder: &Path, head: &str, format: Format) -> Model {
    let source = folder.join(head);
    std::fs::create_dir_all(&source).unwrap();
    Checkpoint::open(head).write(&source, Layout::PLAIN);
    let out = folder.join(format!("{}.gguf", head.replace('/', "-")));
    let options = pith_convert::Options { target: Target::Format(format), ..Default::default() };
    pith_convert::convert(&source, &out, &options, &mut |_| ControlFlow::Continue(())).unwrap();
    Model::open(&out).unwrap()
}

/// The largest differences of logits and values, after asserting the labels.
fn compare(model: &Model, head: &str) -> (f32, f32) {
    let cache = cache::Type::F32; // PyTorch rounds neither keys nor values
    let options = Options { n_threads: 2, n_batch: 16, cache, ..Options::default() };
    let mut session = Session::new(model, &options).unwrap();
    let labels = model.classifier().unwrap().labels();
    let (mut worst, mut worst_value) = (0.0f32, 0.0f32);
    for golden in Checkpoint::open(head).head_goldens() {
        if let Some(text) = &golden.text {
            let encode = Encode { add_special: true, parse_special: true };
            assert_eq!(model.tokenizer().encode(text, encode), golden.ids, "{head}");
        }
        let answers = classify(&mut session, &golden.ids).unwrap();
        assert_eq!(answers.len(), golden.labels.len(), "{head}");
        let n = labels.len();
        let wanted = golden.logits.chunks_exact(n).zip(golden.values.chunks_exact(n));
        for ((answer, label), (logits, values)) in answers.iter().zip(&golden.labels).zip(wanted) {
            assert_eq!(&labels[answer.best()], label, "{head} after token {}", answer.at);
            let differ = |a: &[f32], b: &[f32], worst: f32| {
                a.iter().zip(b).fold(worst, |m, (a, b)| m.max((a - b).abs()))
            };
            worst = differ(&answer.logits, logits, worst);
            worst_value = differ(&answer.values, values, worst_value);
        }
    }
    (worst, worst_value)
}

#[test]
fn f32_files_give_pytorchs_labels_and_probabilities() {
    let folder = tempfile::tempdir().unwrap();
    let heads = heads();
    assert!(heads.len() >= 24, "goldens are missing: {heads:?}");
    for head in heads {
        let (worst, worst_value) = compare(&model(folder.path(), &head, Format::F32), &head);
        assert!(worst < 1e-4, "{head}: a logit differs by {worst:e}");
        assert!(worst_value < 1e-4, "{head}: a value differs by {worst_value:e}");
    }
}

/// F16 rounds every weight: what that moves, without the activations' rounding of quantized files.
#[test]
fn f16_files_stay_close_to_pytorchs_probabilities() {
    let folder = tempfile::tempdir().unwrap();
    for head in heads().iter().filter(|head| head.ends_with("-sequence")) {
        let (worst, _) = compare(&model(folder.path(), head, Format::F16), head);
        assert!(worst < 0.02, "{head}: a logit differs by {worst:e}");
    }
}

#[test]
fn a_file_says_what_its_head_is() {
    let folder = tempfile::tempdir().unwrap();
    let of = |head: &str| model(folder.path(), &format!("heads/{head}"), Format::Q4_0);
    let gpt2 = of("gpt2-sequence");
    let head = gpt2.classifier().unwrap();
    assert_eq!(head.labels(), ["negative", "neutral", "positive"]);
    assert_eq!((head.kind(), head.problem()), (ClassifierKind::Sequence, Problem::SingleLabel));
    assert_eq!(gpt2.weight("cls.output.weight").unwrap().format, Format::F32);
    let opt = of("opt-sequence");
    let labels = opt.classifier().unwrap().labels();
    assert_eq!((labels[2].as_str(), labels[10].as_str()), ("kind 2", "kind 10"));
    let problem = |head: &str| of(head).classifier().unwrap().problem();
    assert_eq!(problem("llama-sequence"), Problem::MultiLabel);
    assert_eq!(problem("qwen2-sequence"), Problem::Regression);
    let token = of("gptneox-token");
    assert_eq!(token.classifier().unwrap().kind(), ClassifierKind::Token);
    assert!(token.vector("cls.output.bias").is_some() && token.weight("output.weight").is_none());
}

/// Bits of all logits of some texts, each in a sequence of its own.
fn bits(session: &mut Session<'_>, texts: &[Vec<u32>]) -> Vec<(usize, usize, Vec<u32>)> {
    let texts: Vec<_> = texts.iter().enumerate().map(|(seq, ids)| (seq, ids.as_slice())).collect();
    let mut all = Vec::new();
    let each = |text, at, logits: &[f32]| {
        all.push((text, at, logits.iter().map(|x| x.to_bits()).collect()));
    };
    session.classify(&texts, each).unwrap();
    all
}

#[test]
fn threads_chunks_batches_and_instruction_sets_do_not_change_a_bit() {
    let folder = tempfile::tempdir().unwrap();
    for head in heads() {
        let model = model(folder.path(), &head, Format::Q8_0);
        let mut texts: Vec<_> =
            Checkpoint::open(&head).head_goldens().into_iter().map(|golden| golden.ids).collect();
        texts.push(texts[0][..1].to_vec());
        let n_seq = texts.len();
        let session = |n_threads, n_batch, kernels| {
            let options = Options { n_threads, n_batch, n_seq, kernels, ..Options::default() };
            Session::new(&model, &options).unwrap()
        };
        let scalar = Kernels::by_name("scalar");
        // Each text alone.
        let alone = texts.iter().enumerate().flat_map(|(text, ids)| {
            let mut session = session(1, 64, scalar);
            let answers = bits(&mut session, std::slice::from_ref(ids));
            answers.into_iter().map(move |(_, at, logits)| (text, at, logits))
        });
        let wanted: Vec<_> = alone.collect();
        for &kernels in Kernels::available() {
            for (n_threads, n_batch) in [(1, 1), (1, 128), (2, 7), (3, 64), (4, 16)] {
                let got = bits(&mut session(n_threads, n_batch, Some(kernels)), &texts);
                let name = kernels.name();
                assert!(got == wanted, "{head}, {name}, {n_threads} threads, chunks of {n_batch}");
            }
        }
    }
}

#[test]
fn a_classifier_does_not_generate_and_a_generator_does_not_classify() {
    let folder = tempfile::tempdir().unwrap();
    let classifier = model(folder.path(), "heads/gpt2-sequence", Format::Q8_0);
    let options = Options { score: true, n_seq: 2, ..Options::default() };
    let mut session = Session::new(&classifier, &options).unwrap();
    for error in [
        session.eval(0, &[1, 2]).map(|_| ()),
        session.eval_all(0, &[1, 2], |_, _| ()),
        session.eval_batch(&[(0, &[1, 2])]).map(|_| ()),
        session.sync(0, &[1, 2]).map(|_| ()),
        session.score(0, &[1, 2], &[2, 3], |_, _| ()),
    ] {
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Unsupported(_)), "{error}");
        assert!(error.to_string().contains("pith classify"), "{error}");
    }
    assert!(session.ids(0).is_empty());
    for wrong in [&[(0, &[][..])][..], &[(0, &[1][..]), (0, &[2])], &[(7, &[1])], &[(0, &[9999])]] {
        assert!(session.classify(wrong, |_, _, _| panic!("an answer")).is_err(), "{wrong:?}");
    }
    let long = vec![1; session.n_ctx() + 1];
    assert!(matches!(classify(&mut session, &long), Err(Error::ContextFull { .. })));

    let generator = model(folder.path(), "gpt2", Format::Q8_0);
    assert!(generator.classifier().is_none());
    let mut session = Session::new(&generator, &Options::default()).unwrap();
    let error = classify(&mut session, &[1, 2]).unwrap_err().to_string();
    assert!(error.contains("no classification head") && error.contains("pith run"), "{error}");
}

/// A text may go on where the sequence is: its answer is that of both parts together.
#[test]
fn a_shared_beginning_is_read_once() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path(), "heads/llama-sequence", Format::Q8_0);
    let ids = Checkpoint::open("heads/llama-sequence").head_goldens().remove(1).ids;
    let mut session = Session::new(&model, &Options { n_seq: 2, ..Options::default() }).unwrap();
    let whole = bits(&mut session, std::slice::from_ref(&ids));
    session.truncate(0, 0);
    bits(&mut session, &[ids[..10].to_vec()]);
    session.fork(0, 1);
    let mut rest = Vec::new();
    let each = |_, _, logits: &[f32]| rest = logits.iter().map(|x| x.to_bits()).collect();
    session.classify(&[(1, &ids[10..])], each).unwrap();
    assert_eq!(whole[0].2, rest);
}
