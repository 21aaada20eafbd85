//! How rope is stretched: what the keys of a configuration become, in all of their spellings, what
//! is refused, and which factors a session takes. That the numbers are right is in families.rs.
#![allow(missing_docs)]

use std::{fs, ops::ControlFlow};

use pith::{
    Model, Session,
    bytes::Bytes,
    cache,
    gguf::{Gguf, Value as Stored},
    quant::Format,
    session::Options,
};
use pith_convert::{Report, Target};
use serde_json::{Value, json};

#[path = "../../tests/goldens/support/checkpoint.rs"]
mod checkpoint;
use checkpoint::{Checkpoint, Layout};

/// The converted bytes of a golden's checkpoint after `edit` of its configuration.
fn convert(variant: &str, edit: impl Fn(&mut Value)) -> Result<Vec<u8>, String> {
    reported(variant, edit).map(|(file, _)| file)
}

fn reported(variant: &str, edit: impl Fn(&mut Value)) -> Result<(Vec<u8>, Report), String> {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::open(variant);
    checkpoint.write(folder.path(), Layout::PLAIN);
    let mut config = checkpoint.config();
    edit(&mut config);
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let out = folder.path().join("out.gguf");
    let options = pith_convert::Options {
        target: Target::Format(Format::F32),
        name: Some("test".into()),
        ..Default::default()
    };
    let result =
        pith_convert::convert(folder.path(), &out, &options, &mut |_| ControlFlow::Continue(()));
    result.map(|report| (fs::read(out).unwrap(), report)).map_err(|error| error.to_string())
}

fn converted(variant: &str) -> Vec<u8> {
    convert(variant, |_| {}).unwrap()
}

/// A configuration as version 4 of transformers wrote it: `rope_scaling` with `type`, and the other
/// numbers beside it.
fn old_keys(config: &mut Value) {
    let config = config.as_object_mut().unwrap();
    let mut rope = config.remove("rope_parameters").unwrap();
    if let Some(local) = rope.get("sliding_attention") {
        if config["model_type"] == "gemma3_text" {
            config.insert("rope_local_base_freq".into(), local["rope_theta"].clone());
        }
        rope = rope["full_attention"].take();
    }
    let rope = rope.as_object_mut().unwrap();
    config.insert("rope_theta".into(), rope.remove("rope_theta").unwrap());
    if let Some(part) = rope.remove("partial_rotary_factor") {
        config.insert("partial_rotary_factor".into(), part);
    }
    if config.contains_key("original_max_position_embeddings") {
        rope.remove("original_max_position_embeddings");
    }
    let kind = match rope.remove("rope_type").unwrap() {
        Value::String(kind) if kind == "longrope" => "su".into(),
        kind => kind,
    };
    rope.insert("type".into(), kind.clone());
    let scaling = if kind == "default" { Value::Null } else { Value::Object(rope.clone()) };
    config.insert("rope_scaling".into(), scaling);
}

#[test]
fn old_keys_give_the_bytes_of_new_ones() {
    for variant in [
        "llama",
        "llama-llama3-rope",
        "llama-yarn",
        "llama-yarn-all",
        "llama-longrope",
        "qwen2-yarn",
        "gemma3",
        "phi3",
        "phi3-longrope",
        "stablelm-parallel",
        "olmo3",
    ] {
        let old = convert(variant, |config| {
            old_keys(config);
            assert!(config["rope_theta"].is_number() && config.get("rope_parameters").is_none());
        });
        assert!(old.expect(variant) == converted(variant), "{variant}");
    }
}

fn number(file: &[u8], key: &str) -> Option<f32> {
    Gguf::parse(file).unwrap().get(key).and_then(Stored::as_f32)
}

fn text(file: &[u8], key: &str) -> String {
    Gguf::parse(file).unwrap().require_str(key).unwrap().into()
}

fn close(got: Option<f32>, wanted: f64) {
    assert!((f64::from(got.unwrap()) - wanted).abs() < 1e-6, "{got:?}, wanted {wanted}");
}

/// The keys that llama.cpp reads, and pith's own for what has none.
#[test]
fn keys_are_those_of_llama_cpp() {
    let file = converted("llama-yarn");
    assert_eq!(text(&file, "llama.rope.scaling.type"), "yarn");
    close(number(&file, "llama.rope.scaling.factor"), 4.0);
    for absent in ["attn_factor", "yarn_beta_fast", "yarn_beta_slow"] {
        assert_eq!(number(&file, &format!("llama.rope.scaling.{absent}")), None);
    }
    let gguf = Gguf::parse(&file).unwrap();
    assert_eq!(gguf.require_u64("llama.rope.scaling.original_context_length").unwrap(), 16);
    assert_eq!(gguf.require_u64("llama.context_length").unwrap(), 64);
    assert!(gguf.get("pith.rope.yarn_exact").is_none());

    let own = 1.0 + 0.1 * 4f64.ln();
    let file = converted("llama-yarn-all");
    let by_mscale = (1.0 + 0.15 * 4f64.ln()) / (1.0 + 0.075 * 4f64.ln());
    close(number(&file, "llama.rope.scaling.attn_factor"), by_mscale / own);
    close(number(&file, "llama.rope.scaling.yarn_beta_fast"), 3.0);
    close(number(&file, "llama.rope.scaling.yarn_beta_slow"), 0.5);
    assert!(Gguf::parse(&file).unwrap().require_bool("pith.rope.yarn_exact").unwrap());
    close(number(&converted("qwen2-yarn"), "qwen2.rope.scaling.attn_factor"), 1.25 / own);

    let file = converted("phi3-longrope");
    assert_eq!(text(&file, "phi3.rope.scaling.type"), "longrope");
    // 64 of 32 positions: sqrt(1 + ln 2 / ln 32).
    close(number(&file, "phi3.rope.scaling.attn_factor"), 1.2f64.sqrt());
    assert_eq!(number(&file, "phi3.rope.scaling.factor"), None, "llama.cpp would divide by it");
    let gguf = Gguf::parse(&file).unwrap();
    for name in ["rope_factors_short.weight", "rope_factors_long.weight"] {
        assert_eq!(gguf.tensor(name).unwrap().n_in(), 6);
    }
    let by_factor = (1.0 + 5f64.ln() / 32f64.ln()).sqrt();
    close(number(&converted("llama-longrope"), "llama.rope.scaling.attn_factor"), by_factor);

    // Its window layers turn as before the stretching, and OLMo 2 has none.
    close(number(&converted("olmo3"), "olmo2.rope.freq_base_swa"), 200.0);
    assert_eq!(number(&converted("olmo2"), "olmo2.rope.freq_base_swa"), None);
}

#[test]
fn the_report_says_where_llama_cpp_lacks_something() {
    for (variant, wanted) in [
        ("llama-llama3-rope", true),
        ("llama-longrope", true),
        ("phi3-longrope", true),
        ("qwen2-yarn", true),
        ("llama-yarn-all", false),
    ] {
        assert_eq!(reported(variant, |_| {}).unwrap().1.stock, wanted, "{variant}");
    }
    let (_, report) = reported("qwen2", |config| {
        config["rope_parameters"] =
            Checkpoint::open("llama-longrope").config()["rope_parameters"].take();
    })
    .unwrap();
    assert!(!report.stock);
}

/// Qwen's documentation switches YaRN on with these keys and leaves the rest as it is.
#[test]
fn yarn_switched_on_by_hand_makes_the_context_longer() {
    let by_hand = |factor: Value, orig: Value| {
        let file = convert("qwen3", |config| {
            config["rope_parameters"] = json!(null);
            config["rope_scaling"] = json!({
                "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": orig,
            });
        });
        let file = file.unwrap();
        let n_ctx = Gguf::parse(&file).unwrap().require_u64("qwen3.context_length").unwrap();
        (n_ctx, number(&file, "qwen3.rope.scaling.factor").unwrap())
    };
    assert_eq!(by_hand(json!(4.0), json!(64)), (256, 4.0));
    assert_eq!(by_hand(json!(4.0), json!(null)), (256, 4.0));
    assert_eq!(by_hand(json!(4.0), json!(8)), (64, 4.0));
    assert_eq!(by_hand(json!(null), json!(16)), (64, 4.0));
}

#[test]
fn what_makes_no_sense_stops_by_name() {
    let yarn = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16});
    let long = json!({
        "type": "longrope", "original_max_position_embeddings": 16, "factor": 4.0,
        "short_factor": [1, 1, 1, 1, 1, 1, 1, 1], "long_factor": [1, 2, 3, 4, 5, 6, 7, 8],
    });
    let with = |base: &Value, key: &str, value: Value| {
        let mut scaling = base.clone();
        scaling[key] = value;
        scaling
    };
    let cases = [
        (with(&yarn, "factor", json!(0)), "`factor`"),
        (with(&yarn, "factor", json!("4")), "`factor`"),
        (with(&yarn, "factor", json!(1e-42)), "`factor`"),
        (with(&yarn, "beta_fast", json!(0.5)), "beta_fast"),
        (with(&yarn, "beta_slow", json!(-1.0)), "`beta_slow`"),
        (with(&yarn, "truncate", json!(1)), "truncate"),
        (with(&yarn, "attention_factor", json!(0.0)), "`attention_factor`"),
        (with(&yarn, "attention_factor", json!(1e300)), "`attention_factor`"),
        (with(&yarn, "mscale", json!([])), "`mscale`"),
        (with(&yarn, "short_factor", json!([1.0])), "rope_scaling.short_factor"),
        (with(&yarn, "low_freq_factor", json!(1.0)), "rope_scaling.low_freq_factor"),
        (with(&yarn, "original_max_position_embeddings", json!(0)), "a context of 0"),
        (with(&yarn, "original_max_position_embeddings", json!(-1)), "original_max_position"),
        (with(&long, "short_factor", json!([1, 1, 1])), "3 numbers for 8"),
        (with(&long, "long_factor", json!([1, 0, 1, 1, 1, 1, 1, 1])), "`long_factor`"),
        (with(&long, "long_factor", json!([1, "x"])), "`long_factor`"),
        (with(&long, "long_factor", json!(null)), "`long_factor`"),
        (with(&long, "original_max_position_embeddings", json!(1)), "magnitude"),
        (with(&long, "beta_fast", json!(32)), "rope_scaling.beta_fast"),
        (json!({"type": "dynamic", "factor": 4.0}), "`dynamic`"),
        (json!({"type": 7}), "rope_scaling.type"),
        (json!({"type": "linear", "factor": 2.0, "attention_factor": 1.0}), "attention_factor"),
    ];
    for (scaling, wanted) in cases {
        let edit = |config: &mut Value| {
            let config = config.as_object_mut().unwrap();
            config.remove("rope_parameters");
            config.insert("rope_scaling".into(), scaling.clone());
        };
        let error = convert("llama", edit).expect_err(wanted);
        assert!(error.contains(wanted), "{scaling}: {error}");
    }
    // Two keys that say different things.
    let error = convert("qwen3", |config| config["rope_scaling"] = yarn.clone());
    assert!(error.unwrap_err().contains("`rope_scaling` and `rope_parameters`"));
    let error = convert("phi3-longrope", |config| {
        config["original_max_position_embeddings"] = json!(48);
    });
    assert!(error.unwrap_err().contains("original_context_length"));
}

fn logits(model: &Model, n_ctx: usize, ids: &[u32]) -> Vec<u32> {
    let options = Options { n_ctx, cache: cache::Type::F32, n_threads: 1, ..Options::default() };
    let mut session = Session::new(model, &options).unwrap();
    session.eval(0, ids).unwrap().iter().map(|logit| logit.to_bits()).collect()
}

/// The short factors up to the first context, 32, the long ones above: by what the session may
/// hold, not by what it holds, so that a sequence's early keys never change their meaning.
#[test]
fn longrope_is_chosen_by_the_sessions_context() {
    for variant in ["llama-longrope", "phi3-longrope"] {
        let model = Model::from_bytes(Bytes::from_vec(converted(variant))).unwrap();
        let ids = Checkpoint::open(variant).goldens().remove(0).ids;
        let (short, long) = (logits(&model, 24, &ids), logits(&model, 33, &ids));
        assert!(short == logits(&model, 32, &ids), "{variant}");
        assert!(long == logits(&model, 64, &ids), "{variant}");
        assert!(short != long, "{variant}");
    }
    let model = Model::from_bytes(Bytes::from_vec(converted("llama-yarn"))).unwrap();
    let ids = Checkpoint::open("llama-yarn").goldens().remove(0).ids;
    assert!(logits(&model, 24, &ids) == logits(&model, 64, &ids));
}

/// Overwrites the value behind a key, or a name, where it lies in the file.
fn patch(file: &[u8], name: &str, skip: usize, with: &[u8]) -> Vec<u8> {
    let at = file.windows(name.len()).position(|window| window == name.as_bytes()).expect(name);
    let at = at + skip;
    let mut file = file.to_vec();
    file[at..at + with.len()].copy_from_slice(with);
    file
}

#[test]
fn damaged_files_are_refused_or_run() {
    let yarn = converted("llama-yarn-all");
    let long = converted("phi3-longrope");
    let refused = |file: Vec<u8>, wanted: &str| {
        let error = Model::from_bytes(Bytes::from_vec(file)).err().expect(wanted).to_string();
        assert!(error.contains(wanted), "{wanted}: {error}");
    };
    // A key, its type in four bytes, and its value; a string has eight bytes of length.
    let value = |file: &[u8], key: &str, with: &[u8]| patch(file, key, key.len() + 4, with);
    let kind = "llama.rope.scaling.type";
    refused(patch(&yarn, kind, kind.len() + 12, b"nope"), "`nope`");
    refused(patch(&yarn, "llama.rope.scaling.factor", 0, b"LLAMA"), "rope.scaling.factor");
    for key in ["factor", "attn_factor", "yarn_beta_fast", "yarn_beta_slow"] {
        for bad in [f32::NAN, f32::INFINITY, -1.0, 1e-42] {
            let key = format!("llama.rope.scaling.{key}");
            refused(value(&yarn, &key, &bad.to_le_bytes()), &key);
        }
    }
    let key = "llama.rope.scaling.original_context_length";
    refused(value(&yarn, key, &0u32.to_le_bytes()), key);
    refused(value(&yarn, key, &u32::MAX.to_le_bytes()), key);
    refused(value(&yarn, "llama.rope.freq_base", &0.5f32.to_le_bytes()), "rope.freq_base");
    for name in ["rope_factors_short.weight", "rope_factors_long.weight"] {
        refused(patch(&long, name, 5, b"FACTORS"), "one is missing");
    }
    // What is odd but whole runs.
    for orig in [1u32, 2, 7, 1 << 24] {
        for (fast, slow) in [(32.0f32, 1.0f32), (1.0, 32.0), (1e30, 1e-30), (2.0, 2.0)] {
            let file = value(&yarn, key, &orig.to_le_bytes());
            let file = value(&file, "llama.rope.scaling.yarn_beta_fast", &fast.to_le_bytes());
            let file = value(&file, "llama.rope.scaling.yarn_beta_slow", &slow.to_le_bytes());
            let model = Model::from_bytes(Bytes::from_vec(file)).unwrap();
            let factors = model.hparams().rope.as_ref().unwrap().factors.clone().unwrap();
            assert!(factors.iter().all(|f| (1.0..=4.0).contains(f)), "{orig} {fast}: {factors:?}");
        }
    }
}
