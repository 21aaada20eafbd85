//! Heads made by hand: which tensors and keys they may have, and what a file must say of them.

#[path = "../../tests/goldens/support/checkpoint.rs"]
mod checkpoint;
mod support;

use std::{fs, path::Path};

use pith::{
    Error, Model, Session,
    bytes::Bytes,
    classify::classify,
    gguf::{Gguf, OwnedValue, Value, Writer},
    plan::Plan,
    session,
};
use pith_convert::Options;
use pith_models::{ClassifierKind, KIND_KEY, PAD_KEY, PROBLEM_KEY, Problem};
use serde_json::json;
use support::*;

/// GPT-2 with a head of three labels.
fn classifier() -> Checkpoint {
    let mut checkpoint = gpt2();
    checkpoint.config["architectures"] = json!(["GPT2ForSequenceClassification"]);
    checkpoint.config["id2label"] = json!({"0": "no", "1": "maybe", "2": "yes"});
    checkpoint.config["pad_token_id"] = json!(7);
    checkpoint.tensors.push(weights("score.weight", &[3, N_EMBD]));
    checkpoint
}

fn file(checkpoint: &Checkpoint) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    checkpoint.write(folder.path());
    converted(folder.path(), "f32")
}

/// A head of the goldens, which have tokenizers and so run.
fn golden(head: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    checkpoint::Checkpoint::open(head).write(folder.path(), checkpoint::Layout::PLAIN);
    let options = Options { no_tokenizer: false, ..options("f32") };
    convert_in(folder.path(), &options).unwrap();
    fs::read(folder.path().join("out.gguf")).unwrap()
}

fn model(file: &[u8]) -> pith::Result<Model> {
    Model::from_bytes(Bytes::from_vec(file.to_vec()))
}

/// The logits of a text.
fn logits(model: &Model, ids: &[u32]) -> Vec<f32> {
    let mut session = Session::new(model, &session::Options::default()).unwrap();
    classify(&mut session, ids).unwrap().remove(0).logits
}

/// PEFT's adapter of a classifier beside the language model that it was trained on: the head with
/// `labels` rows, and a change of nothing.
fn write_adapter(folder: &Path, task: &str, n_labels: usize) {
    let config = json!({
        "peft_type": "LORA", "task_type": task, "r": 1, "lora_alpha": 1,
        "target_modules": ["c_attn"], "modules_to_save": ["classifier", "score"],
    });
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    let named = |name: String, like: Weights| Weights { name, ..like };
    let head = weights("score.weight", &[n_labels, N_EMBD]);
    let mut tensors = vec![named("base_model.model.score.weight".into(), head)];
    for il in 0..2 {
        let module = format!("base_model.model.transformer.h.{il}.attn.c_attn");
        tensors.push(weights(&format!("{module}.lora_A.weight"), &[1, N_EMBD]));
        let mut b = weights(&format!("{module}.lora_B.weight"), &[3 * N_EMBD, 1]);
        b.values.fill(0.0);
        tensors.push(b);
    }
    fs::write(folder.join("adapter_model.safetensors"), safetensors(&tensors)).unwrap();
}

#[test]
fn an_adapter_makes_a_language_model_the_classifier_that_it_was_trained_as() {
    let folder = tempfile::tempdir().unwrap();
    let merged = |base: &Checkpoint, task: &str| {
        base.write(folder.path());
        write_adapter(&folder.path().join("adapter"), task, 3);
        let options = Options { adapters: vec![folder.path().join("adapter")], ..options("f32") };
        convert_in(folder.path(), &options)
            .map(|_| fs::read(folder.path().join("out.gguf")).unwrap())
    };
    // The base's own labels, where it gives as many.
    let mut base = classifier();
    base.tensors.pop();
    base.config["architectures"] = json!(["GPT2LMHeadModel"]);
    assert!(merged(&base, "SEQ_CLS").unwrap() == file(&classifier()));
    base.config["id2label"] = json!({"0": "LABEL_0", "1": "LABEL_1"});
    base.config["label2id"] = json!({"LABEL_0": 0, "LABEL_1": 1});
    let mut numbered = classifier();
    numbered.config.as_object_mut().unwrap().remove("id2label");
    numbered.config["num_labels"] = json!(3);
    assert!(merged(&base, "SEQ_CLS").unwrap() == file(&numbered));
    numbered.config["architectures"] = json!(["GPT2ForTokenClassification"]);
    assert!(merged(&base, "TOKEN_CLS").unwrap() == file(&numbered));
    let error = merged(&base, "CAUSAL_LM").unwrap_err().to_string();
    assert!(error.contains("`score.weight`"), "{error}");
    let error = merged(&base, "QUESTION_ANS").unwrap_err().to_string();
    assert!(error.contains("`task_type`"), "{error}");
}

#[test]
fn the_same_head_has_the_same_bytes_under_either_name_and_beside_an_output() {
    let plain = file(&classifier());
    let mut named = classifier();
    named.tensor("score.weight").name = "classifier.weight".into();
    assert_eq!(plain, file(&named));
    let mut trained = classifier();
    trained.tensors.push(weights("lm_head.weight", &[N_VOCAB, N_EMBD]));
    trained.config["tie_word_embeddings"] = json!(false);
    assert_eq!(plain, file(&trained));

    let folder = tempfile::tempdir().unwrap();
    trained.write(folder.path());
    let report = convert_in(folder.path(), &options("q4_0")).unwrap();
    let (name, why) = &report.ignored[0];
    assert!(name == "lm_head.weight" && why.contains("classifier"), "{name}: {why}");
    assert!(!report.stock && !report.tied);
    let report = report.to_json();
    assert_eq!(report["classifier"]["labels"], json!(["no", "maybe", "yes"]));
    assert_eq!(report["classifier"]["problem_type"], "single_label_classification");
    let fallbacks = report["fallbacks"].as_array().unwrap();
    assert!(fallbacks.iter().all(|f| f["tensor"] != "cls.output.weight"), "{fallbacks:?}");
}

#[test]
fn a_language_models_file_says_nothing_of_heads() {
    let file = file(&gpt2());
    let gguf = Gguf::parse(&file).unwrap();
    for (key, _) in gguf.metadata() {
        assert!(!key.contains("classifier") && !key.contains("pooling"), "{key}");
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let refused = |change: &dyn Fn(&mut Checkpoint), said: &[&str]| {
        let mut checkpoint = classifier();
        change(&mut checkpoint);
        let error = checkpoint.error();
        assert!(said.iter().all(|said| error.contains(said)), "{said:?} not in: {error}");
    };
    refused(&|c| c.remove("score.weight"), &["score or classifier.weight", "cls.output.weight"]);
    refused(
        &|c| c.tensors.push(weights("classifier.weight", &[3, N_EMBD])),
        &["`score.weight` and `classifier.weight`"],
    );
    refused(
        &|c| {
            c.remove("score.weight");
            c.tensors.push(weights("score.weight", &[2, N_EMBD]));
        },
        &["`score.weight`", "[2, 32]", "[3, 32]"],
    );
    refused(&|c| c.tensors.push(weights("score.bias", &[2])), &["`score.bias`", "[2]", "[3]"]);
    refused(&|c| c.tensors.push(weights("score.scale", &[3])), &["`score.scale`"]);
    refused(
        &|c| c.config["architectures"] = json!(["GPT2LMHeadModel"]),
        &["`score.weight`", "doesn't use"],
    );
    refused(
        &|c| c.config["architectures"] = json!(["GPT2DoubleHeadsModel"]),
        &["GPT2DoubleHeadsModel", "multiple-choice"],
    );
    refused(
        &|c| c.config["architectures"] = json!(["Gemma3ForSequenceClassification"]),
        &["Gemma3TextForSequenceClassification"],
    );
    refused(
        &|c| c.config["architectures"] = json!(["BertForSequenceClassification"]),
        &["`BertForSequenceClassification`", "ForTokenClassification"],
    );
    refused(&|c| c.config["label2id"] = json!({"no": 1}), &["`label2id`"]);
}

/// Mistral's window is that of its language model's class.
#[test]
fn keys_of_a_language_models_class_hold_for_its_heads() {
    let mut checkpoint = llama();
    checkpoint.config["architectures"] = json!(["MistralForTokenClassification"]);
    checkpoint.config["sliding_window"] = json!(4);
    checkpoint.tensors.push(weights("score.weight", &[2, N_EMBD]));
    checkpoint.tensors.push(weights("score.bias", &[2]));
    let mistral = file(&checkpoint);
    let gguf = Gguf::parse(&mistral).unwrap();
    assert_eq!(gguf.require_u64("llama.attention.sliding_window").unwrap(), 4);
    checkpoint.config["architectures"] = json!(["LlamaForTokenClassification"]);
    assert!(checkpoint.error().contains("`sliding_window`"));
}

/// Keys of a file with their values, to be changed.
type Keys = Vec<(String, OwnedValue)>;

fn owned(value: &Value<'_>) -> OwnedValue {
    match value {
        Value::U32(v) => OwnedValue::U32(*v),
        Value::F32(v) => OwnedValue::F32(*v),
        Value::Bool(v) => OwnedValue::Bool(*v),
        Value::String(v) => OwnedValue::String((*v).into()),
        Value::Array(array) => match array.strings() {
            Some(strings) => OwnedValue::Strings(strings.map(str::to_owned).collect()),
            None => OwnedValue::I32s(array.i64s().unwrap().map(|v| v as i32).collect()),
        },
        other => panic!("{other:?}"),
    }
}

/// The same file with other keys, and the head's tensor with other dimensions or none.
fn rewritten(
    file: &[u8],
    folder: &Path,
    change: impl Fn(&mut Keys),
    head: Option<&[u64]>,
) -> Vec<u8> {
    let gguf = Gguf::parse(file).unwrap();
    let mut keys: Keys = gguf.metadata().iter().map(|(k, v)| ((*k).to_owned(), owned(v))).collect();
    change(&mut keys);
    let mut writer = Writer::default();
    keys.into_iter().for_each(|(key, value)| writer.set(&key, value).unwrap());
    let kept = |name: &str| head.is_some() || name != "cls.output.weight";
    let tensors: Vec<_> = gguf.tensors().iter().filter(|tensor| kept(tensor.name)).collect();
    for tensor in &tensors {
        let dims = match head.filter(|_| tensor.name == "cls.output.weight") {
            Some(dims) => dims,
            None => &tensor.dims[..tensor.n_dims as usize],
        };
        writer.declare(tensor.name, tensor.format, dims).unwrap();
    }
    let out = folder.join("rewritten.gguf");
    let mut open = writer.create(&out).unwrap();
    tensors.iter().for_each(|tensor| open.write(tensor.name, tensor.data).unwrap());
    open.finish().unwrap();
    fs::read(out).unwrap()
}

fn set(keys: &mut Keys, key: &str, value: OwnedValue) {
    keys.retain(|(other, _)| other != key);
    keys.push((key.to_owned(), value));
}

const GPT2: &str = "heads/gpt2-sequence";
const HEAD: Option<&[u64]> = Some(&[64, 3]);

/// llama.cpp's files have no keys of ours: pooling says the kind, the number of labels the problem.
#[test]
fn a_head_without_our_keys_is_told_by_llama_cpps() {
    let folder = tempfile::tempdir().unwrap();
    let ours = golden(GPT2);
    let plain = |keys: &mut Keys| keys.retain(|(key, _)| !key.starts_with("pith.classifier."));
    let theirs = model(&rewritten(&ours, folder.path(), plain, HEAD)).unwrap();
    let head = theirs.classifier().unwrap();
    assert_eq!((head.kind(), head.problem()), (ClassifierKind::Sequence, Problem::SingleLabel));
    let ids = [1, 2, 3];
    assert_eq!(logits(&theirs, &ids), logits(&model(&ours).unwrap(), &ids));

    let unnamed = |keys: &mut Keys| {
        plain(keys);
        keys.retain(|(key, _)| key != "gpt2.classifier.output_labels");
    };
    let unnamed = model(&rewritten(&ours, folder.path(), unnamed, HEAD)).unwrap();
    assert_eq!(unnamed.classifier().unwrap().labels(), ["LABEL_0", "LABEL_1", "LABEL_2"]);
}

/// ggml's own writer drops a last dimension of 1.
#[test]
fn a_head_of_one_label_may_have_lost_its_second_dimension() {
    let folder = tempfile::tempdir().unwrap();
    let ours = golden("heads/qwen2-sequence");
    let flat = rewritten(&ours, folder.path(), |_| (), Some(&[64]));
    let flat = model(&flat).unwrap();
    assert_eq!(flat.classifier().unwrap().problem(), Problem::Regression);
    assert_eq!(logits(&flat, &[1, 2]), logits(&model(&ours).unwrap(), &[1, 2]));
}

#[test]
fn a_file_that_contradicts_itself_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let ours = golden(GPT2);
    let strings = |n: usize| OwnedValue::Strings(vec!["x".into(); n]);
    let text = |text: &str| OwnedValue::String(text.into());
    for (key, value) in [
        (KIND_KEY, text("sentence")),
        (KIND_KEY, OwnedValue::U32(1)),
        (PROBLEM_KEY, text("ranking")),
        (PROBLEM_KEY, OwnedValue::Bool(true)),
        (PAD_KEY, text("7")),
        (PAD_KEY, OwnedValue::I64(-1)),
        (PAD_KEY, OwnedValue::U64(1 << 40)),
        ("gpt2.classifier.output_labels", strings(2)),
        ("gpt2.classifier.output_labels", strings(0)),
        ("gpt2.classifier.output_labels", OwnedValue::U32s(vec![1, 2, 3])),
        ("gpt2.classifier.output_labels", text("no")),
    ] {
        let change = |keys: &mut Keys| set(keys, key, value.clone());
        let error = model(&rewritten(&ours, folder.path(), change, HEAD)).err().expect(key);
        assert!(error.to_string().contains(key), "{key} {value:?}: {error}");
    }
    let pooling = |keys: &mut Keys| {
        keys.retain(|(key, _)| key != KIND_KEY);
        set(keys, "gpt2.pooling_type", OwnedValue::U32(1));
    };
    let error = model(&rewritten(&ours, folder.path(), pooling, HEAD)).err().unwrap();
    assert!(error.to_string().contains("gpt2.pooling_type"), "{error}");
    let error = model(&rewritten(&ours, folder.path(), |_| (), None)).err().unwrap();
    assert!(error.to_string().contains("cls.output.weight"), "{error}");
    // Rows of the wrong length are found where the head is planned.
    let transposed = rewritten(&ours, folder.path(), |_| (), Some(&[3, 64]));
    let many = |keys: &mut Keys| {
        set(keys, "gpt2.classifier.output_labels", strings(64));
    };
    assert!(model(&transposed).is_err());
    let transposed = rewritten(&ours, folder.path(), many, Some(&[3, 64]));
    let error = Plan::new(&model(&transposed).unwrap(), &[], 64).unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
}

/// Every bit of the head's keys flipped, and every cut within them.
#[test]
fn damaged_keys_never_panic() {
    let ours = golden(GPT2);
    let find = |text: &str| ours.windows(text.len()).position(|w| w == text.as_bytes()).unwrap();
    let (first, last) = (find("gpt2.classifier."), find(PAD_KEY) + PAD_KEY.len() + 8);
    let try_it = |bytes: Vec<u8>| {
        model(&bytes).is_ok_and(|model| {
            Session::new(&model, &session::Options { n_threads: 1, ..session::Options::default() })
                .is_ok_and(|mut session| {
                    classify(&mut session, &[1, 2]).is_ok_and(|answers| answers.len() == 1)
                })
        })
    };
    assert!(try_it(ours.clone()));
    let mut fine = 0;
    for at in first..last {
        assert!(!try_it(ours[..at].to_vec()));
        for bit in 0..8 {
            let mut bytes = ours.clone();
            bytes[at] ^= 1 << bit;
            fine += usize::from(try_it(bytes));
        }
    }
    // A label with another letter is still a label.
    assert!(fine > 0);
}
