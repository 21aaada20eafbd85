//! Unigram tokenizers, import to GGUF to runtime: a `tokenizer.json` against the `tokenizers` crate, a
//! SentencePiece model against what the library itself gave (`tests/data/tokenizer/make_unigram.py`).

mod support;

use std::{fs, path::Path};

use pith::{gguf::OwnedValue, tokenizer::Encode};
use pith_convert::tokenizer::{Imported, import};
use serde_json::{Value, json};
use support::{
    table::{bytes, number},
    texts::{Random, changed, corpus, fixture, get, runtime, try_runtime},
};
use tokenizers::Tokenizer as Reference;

const PLAIN: Encode = Encode { add_special: false, parse_special: false };

/// Ids and texts of the tokenizer in `folder` are those of the crate, for every `nth` text. Where special tokens aren't asked
/// for, pith makes no marks: the crate would, of text that is one letter by letter.
fn check(name: &str, folder: &Path, nth: usize) {
    let tokenizer = runtime(import(folder, 700, &[]).unwrap());
    let mut reference = Reference::from_file(folder.join("tokenizer.json")).unwrap();
    for add_special in [false, true] {
        for text in corpus(7).into_iter().step_by(nth) {
            let wanted = reference.encode(text.as_str(), add_special).unwrap();
            let got = tokenizer.encode(&text, Encode { add_special, parse_special: true });
            assert_eq!(got, wanted.get_ids(), "{name} {text:?} {add_special}");
            let wanted = reference.decode(&got, true).unwrap();
            assert_eq!(tokenizer.decode(&got), wanted, "{name} {text:?}");
            let mut stream = tokenizer.stream();
            let streamed: String = got.iter().map(|&id| stream.push(id).to_string()).collect();
            assert_eq!(streamed + stream.finish(), wanted, "{name} {text:?}");
        }
    }
    reference.set_encode_special_tokens(true);
    for text in corpus(8).into_iter().step_by(nth) {
        let got = tokenizer.encode(&text, PLAIN);
        let mark = |id: &u32| tokenizer.is_special(*id) && Some(*id) != tokenizer.unknown();
        assert!(!got.iter().any(mark), "{name} {text:?}");
        let wanted = reference.encode(text.as_str(), false).unwrap();
        let wanted = wanted.get_ids();
        if !wanted.iter().any(mark) {
            assert_eq!(got, wanted, "{name} {text:?}");
        }
    }
}

#[test]
fn ids_and_texts_are_those_of_the_tokenizers_crate() {
    for name in ["ug_t5", "ug_generic", "ug_trained"] {
        check(name, &fixture(name), 1);
    }
}

fn replace(regex: &str, to: &str) -> Value {
    json!({"type": "Replace", "pattern": {"Regex": regex}, "content": to})
}

fn metaspace(scheme: &str, split: bool) -> Value {
    json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split})
}

/// The stages of transformers' converters, and others that do the same by another way.
#[test]
fn all_stages_are_those_of_the_crate() {
    let precompiled = |j: &Value| j["normalizer"].clone();
    let strip = |left, right| json!({"type": "Strip", "strip_left": left, "strip_right": right});
    let sequence = |key: &str, stages: Value| json!({"type": "Sequence", key: stages});
    let old = |add: bool| json!({"type": "Metaspace", "replacement": "▁", "str_rep": "▁", "add_prefix_space": add});
    let mark = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    type Change<'a> = Box<dyn Fn(&mut Value) + 'a>;
    let cases: Vec<(&str, Change<'_>)> = vec![
        (
            "SpmConverter",
            Box::new(|j| {
                let stages = json!([precompiled(j), strip(false, true), replace(" {2,}", "▁")]);
                j["normalizer"] = sequence("normalizers", stages);
                j["pre_tokenizer"] = metaspace("always", true);
            }),
        ),
        (
            "SpmConverter, legacy = false",
            Box::new(|j| {
                let stages = json!([precompiled(j), strip(false, true), replace(" {2,}", "▁")]);
                j["normalizer"] = sequence("normalizers", stages);
                j["pre_tokenizer"] = metaspace("first", true);
                j["decoder"] = metaspace("first", true);
            }),
        ),
        (
            "XGLM",
            Box::new(|j| {
                j["normalizer"] =
                    sequence("normalizers", json!([precompiled(j), replace(" {2,}", " ")]));
                j["pre_tokenizer"] = metaspace("always", true);
            }),
        ),
        (
            "no space, whole",
            Box::new(|j| {
                j["pre_tokenizer"] = metaspace("never", false);
                j["decoder"] = metaspace("never", true);
            }),
        ),
        (
            "a space, whole",
            Box::new(|j| {
                j["normalizer"] = json!({"type": "Lowercase"});
                j["pre_tokenizer"] = metaspace("always", false);
            }),
        ),
        (
            "old keys",
            Box::new(|j| {
                j["normalizer"] =
                    sequence("normalizers", json!([{"type": "NFKC"}, strip(true, true)]));
                j["pre_tokenizer"] = old(true);
                j["decoder"] = old(true);
            }),
        ),
        (
            "decomposed",
            Box::new(|j| {
                j["normalizer"] =
                    sequence("normalizers", json!([{"type": "NFKD"}, strip(true, false)]));
                j["pre_tokenizer"] =
                    sequence("pretokenizers", json!([{"type": "WhitespaceSplit"}]));
                j["decoder"] = sequence("decoders", json!([mark, {"type": "Fuse"}]));
            }),
        ),
        (
            "none at all",
            Box::new(|j| {
                j["normalizer"] = Value::Null;
                j["pre_tokenizer"] = Value::Null;
                let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
                j["decoder"] = sequence("decoders", json!([mark, {"type": "Fuse"}, strip]));
            }),
        ),
    ];
    for (name, change) in cases {
        check(name, changed("ug_t5", |json| change(json)).path(), 4);
    }
    // Every token but the special ones, with spaces and marks in them, looked for before and behind.
    let added = |id: u32, text: &str, normalized: bool| {
        json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": id == 424,
               "normalized": normalized, "special": false})
    };
    let folder = changed("ug_t5", |j| {
        let tokens = j["added_tokens"].as_array_mut().unwrap();
        tokens.extend([added(423, "    ", false), added(424, "AB", true), added(425, "▁▁", false)]);
    });
    check("added tokens", folder.path(), 2);
}

/// Bytes: pieces of their own, and what is unknown as a whole.
#[test]
fn bytes_stand_for_what_is_no_piece() {
    let folder = changed("ug_generic", |j| {
        let stage = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
        j["decoder"]["decoders"].as_array_mut().unwrap().push(stage);
        j["pre_tokenizer"] = metaspace("first", true);
    });
    check("bytes", folder.path(), 2);
}

/// Scores that f32 can't tell apart.
#[test]
fn scores_keep_their_last_bits() {
    let folder = changed("ug_trained", |j| {
        let more = [["ab", "-9.00000000000001"], ["abc", "-13.0"], ["c", "-4.0"], ["d", "-4.0"]];
        let vocab = j["model"]["vocab"].as_array_mut().unwrap();
        vocab.retain(|p| !["a", "b", "c", "d", "ab", "abc"].contains(&p[0].as_str().unwrap()));
        vocab.extend(more.map(|[text, score]| json!([text, score.parse::<f64>().unwrap()])));
        vocab.extend([json!(["a", -4.5]), json!(["b", -4.5])]);
    });
    check("near ties", folder.path(), 4);
    let imported = import(folder.path(), 700, &[]).unwrap();
    assert!(matches!(get(&imported, "pith.tokenizer.scores"), Some(OwnedValue::F64s(_))));
    let reference = Reference::from_file(folder.path().join("tokenizer.json")).unwrap();
    let tokenizer = runtime(imported);
    for text in ["abc", "abcd ab", "ab", "abab"] {
        let wanted = reference.encode(text, false).unwrap();
        assert_eq!(tokenizer.encode(text, PLAIN), wanted.get_ids(), "{text}");
    }
    // Those of SentencePiece are f32 from the start.
    let imported = import(&fixture("ug_t5"), 700, &[]).unwrap();
    assert_eq!(get(&imported, "pith.tokenizer.scores"), None);
}

#[test]
fn ids_and_texts_of_a_model_file_are_those_of_sentencepiece() {
    for (name, n_vocab) in [("ug_plain", 420), ("ug_bytes", 620), ("ug_bare", 400)] {
        let folder = fixture(name);
        let tokenizer = runtime(import(&folder, n_vocab, &[]).unwrap());
        assert!(!tokenizer.add_bos() && !tokenizer.add_eos());
        let texts = fs::read_to_string(folder.join("ids.json")).unwrap();
        let texts: Vec<(String, Vec<u32>, Option<String>)> = serde_json::from_str(&texts).unwrap();
        assert!(texts.len() > 150);
        for (text, wanted, decoded) in texts {
            assert_eq!(tokenizer.encode(&text, PLAIN), wanted, "{name} {text:?}");
            if let Some(decoded) = decoded {
                assert_eq!(tokenizer.decode(&wanted), decoded, "{name} {text:?} {wanted:?}");
            }
        }
    }
}

/// What llama.cpp reads of a file.
#[test]
fn keys_are_those_of_llama_cpp() {
    let imported = import(&fixture("ug_plain"), 420, &[]).unwrap();
    let is = |key: &str, value: OwnedValue| assert_eq!(get(&imported, key), Some(&value), "{key}");
    is("tokenizer.ggml.model", OwnedValue::String("t5".into()));
    is("tokenizer.ggml.add_space_prefix", OwnedValue::Bool(true));
    is("tokenizer.ggml.remove_extra_whitespaces", OwnedValue::Bool(true));
    is("tokenizer.ggml.unknown_token_id", OwnedValue::U32(2));
    is("tokenizer.ggml.eos_token_id", OwnedValue::U32(1));
    is("tokenizer.ggml.padding_token_id", OwnedValue::U32(0));
    is("pith.tokenizer.normalizer", OwnedValue::String("sentencepiece".into()));
    // What a file of ours doesn't name there isn't, unlike in one of llama.cpp's.
    let trained = runtime(import(&fixture("ug_trained"), 700, &[]).unwrap());
    assert_eq!((trained.eos(), trained.padding(), trained.unknown()), (None, None, Some(0)));
    let stock = import(&fixture("ug_plain"), 420, &[]).unwrap();
    let keys = stock.keys.into_iter().filter(|(key, _)| {
        !key.starts_with("pith.") && !key.ends_with("_id") && !key.ends_with("add_eos_token")
    });
    let stock = runtime(Imported { keys: keys.collect(), ..stock });
    assert_eq!((stock.eos(), stock.padding(), stock.unknown()), (Some(1), Some(0), Some(2)));
    assert!(stock.add_eos());
    let ours = runtime(import(&fixture("ug_plain"), 420, &[]).unwrap());
    for text in corpus(7).iter().step_by(5) {
        assert_eq!(stock.encode(text, PLAIN), ours.encode(text, PLAIN), "{text:?}");
        assert_eq!(stock.decode(&ours.encode(text, PLAIN)), ours.decode(&ours.encode(text, PLAIN)));
    }
    let Some(OwnedValue::U8s(map)) = get(&imported, "tokenizer.ggml.precompiled_charsmap") else {
        panic!("no map")
    };
    let size = u32::from_le_bytes(map[..4].try_into().unwrap()) as usize;
    assert!(size.is_multiple_of(1024) && map.len() > size + 4 && map.ends_with(&[0]));
    let json = import(&fixture("ug_t5"), 423, &[]).unwrap();
    assert_eq!(
        get(&json, "tokenizer.ggml.precompiled_charsmap"),
        Some(&OwnedValue::U8s(map.clone()))
    );
}

/// T5's class puts an EOS behind a text, and adds tokens of its own.
#[test]
fn settings_count_for_a_model_file() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("ug_plain").join("tokenizer.model");
    fs::copy(model, folder.path().join("spiece.model")).unwrap();
    let configure = |config: &str| {
        fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
        import(folder.path(), 600, &[])
    };
    let t5 = configure(r#"{"tokenizer_class": "T5Tokenizer"}"#).unwrap();
    assert_eq!(t5.n_tokens, 520);
    let t5 = runtime(t5);
    let opts = Encode { add_special: true, parse_special: true };
    // transformers numbers them from the end.
    assert_eq!(t5.encode("<extra_id_0><extra_id_99>", opts), [519, 420, 1]);
    let rinna = r#"{"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "eos_token": "</s>",
        "add_eos_token": false, "do_lower_case": false, "additional_special_tokens": ["<sep>"]}"#;
    let rinna = runtime(configure(rinna).unwrap());
    // Each stretch of text is SentencePiece's own: `<sep>` parts two.
    let the = rinna.encode("the", PLAIN);
    assert_eq!(rinna.encode("the<sep>the", opts), [&*the, &[420], &the].concat());
    for (config, wanted) in [
        (r#"{"tokenizer_class": "T5Tokenizer", "extra_ids": 99999}"#, "wanted at most 10000"),
        (r#"{"tokenizer_class": "XGLMTokenizer"}"#, "spiece.model of a XGLMTokenizer"),
        (r#"{"tokenizer_class": "T5Tokenizer", "legacy": false}"#, "legacy = false"),
        (r#"{"tokenizer_class": "T5Tokenizer", "do_lower_case": true}"#, "do_lower_case = true"),
    ] {
        let error = configure(config).unwrap_err().to_string();
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
    // Llama's class begins with a BOS, where there is one.
    let folder = fixture("ug_bytes");
    let llama = tempfile::tempdir().unwrap();
    fs::copy(folder.join("tokenizer.model"), llama.path().join("tokenizer.model")).unwrap();
    fs::write(
        llama.path().join("tokenizer_config.json"),
        r#"{"tokenizer_class": "LlamaTokenizer"}"#,
    )
    .unwrap();
    fs::write(llama.path().join("added_tokens.json"), r#"{"<more>": 620}"#).unwrap();
    let llama = runtime(import(llama.path(), 621, &[]).unwrap());
    assert!(llama.add_bos() && !llama.add_eos());
    // A token of its own keeps its place in the text; one that is added begins the text anew.
    assert_eq!(llama.encode("a<more>", PLAIN).last(), Some(&620));
    let (a, tool) = (llama.encode("<more>a", PLAIN), llama.encode("<tool>a", PLAIN));
    assert_ne!(a[1..], tool[2..]);
}

#[test]
fn what_pith_cannot_reproduce_is_refused_by_name() {
    type Change = fn(&mut Value);
    let cases: Vec<(Change, &str)> = vec![
        (
            |j| j["normalizer"] = json!({"type": "StripAccents"}),
            "normalizer [{\"type\":\"StripAccents",
        ),
        (|j| j["normalizer"] = replace(" {3,}", " "), "{3,}"),
        (|j| j["normalizer"]["precompiled_charsmap"] = "!!!!".into(), "wanted base64"),
        (|j| j["normalizer"]["precompiled_charsmap"] = "".into(), "wanted base64"),
        (
            |j| {
                let one = j["normalizer"].clone();
                j["normalizer"] = json!({"type": "Sequence", "normalizers": [one, one]});
            },
            "normalizer [",
        ),
        (
            |j| j["pre_tokenizer"] = json!({"type": "Punctuation"}),
            "pre_tokenizer [{\"type\":\"Punct",
        ),
        (|j| j["pre_tokenizer"]["pretokenizers"][1]["replacement"] = "_".into(), "pre_tokenizer"),
        (|j| j["pre_tokenizer"]["pretokenizers"][1] = metaspace("first", true), "\"first\""),
        (|j| j["pre_tokenizer"]["pretokenizers"][1] = metaspace("last", true), "\"last\""),
        (|j| j["decoder"] = Value::Null, "decoder []"),
        (|j| j["decoder"] = json!({"type": "WordPiece"}), "decoder [{\"type\":\"WordPiece"),
        (|j| j["model"]["byte_fallback"] = true.into(), "decoder"),
        (|j| j["model"]["unk_id"] = 420_000.into(), "420000 is no piece"),
        (|j| j["model"]["vocab"][3] = json!("x"), "a piece and its score"),
        (|j| j["model"]["vocab"][3] = json!(["x", "y"]), "a piece and its score"),
        (|j| j["model"]["vocab"][3] = json!(["</s>", 0.0]), "\"</s>\" is there twice"),
        (|j| j["model"]["surprise"] = 1.into(), "model.surprise = 1"),
    ];
    for (change, part) in cases {
        let refused = import(changed("ug_t5", change).path(), 700, &[]);
        let refused = refused.expect_err(part).to_string();
        assert!(refused.contains(part), "{part}: {refused}");
    }
    let refused = import(&fixture("ug_t5"), 400, &[]).unwrap_err().to_string();
    assert!(refused.contains("has no row in the embedding of 400"), "{refused}");
}

/// A model of these parts: pieces as text, type and score, then the normalizer's part.
fn model(pieces: &[(&str, u64, f32)], normalizer: &[u8]) -> Vec<u8> {
    let piece = |&(text, kind, score): &(&str, u64, f32)| {
        let score = [vec![0x15], score.to_le_bytes().to_vec()].concat();
        bytes(1, &[bytes(1, text.as_bytes()), score, number(3, kind)].concat())
    };
    let pieces: Vec<u8> = pieces.iter().flat_map(piece).collect();
    [pieces, bytes(2, &number(3, 1)), bytes(3, normalizer)].concat()
}

/// Cut, or with bits flipped, a model is refused or is another one.
#[test]
fn broken_models_are_refused_and_never_panic() {
    let pieces =
        [("<unk>", 2, 0.0), ("<s>", 3, 0.0), ("</s>", 3, 0.0), ("▁a", 1, -1.0), ("a", 1, -2.0)];
    // One rule, `A` to `a`: the root's children are at 256.
    let mut units = vec![0u32; 512];
    units[0] = 256 << 10;
    units[256 ^ 0x41] = 0x41 | 1 << 8 | 1 << 10;
    units[256 ^ 0x41 ^ 1] = 1 << 31;
    let array: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let map = [&2048u32.to_le_bytes()[..], &array, b"a\0"].concat();
    let good = model(&pieces, &bytes(2, &map));
    let folder = tempfile::tempdir().unwrap();
    let write = |model: &[u8]| fs::write(folder.path().join("tokenizer.model"), model).unwrap();
    let run = |model: &[u8]| {
        write(model);
        let Ok(imported) = import(folder.path(), 8, &[]) else { return };
        if let Ok(tokenizer) = try_runtime(imported) {
            let ids =
                tokenizer.encode("AaB\u{e9} A", Encode { add_special: true, parse_special: true });
            tokenizer.decode(&ids);
        }
    };
    write(&good);
    let tokenizer = runtime(import(folder.path(), 8, &[]).unwrap());
    assert_eq!(tokenizer.encode(" A  aB", PLAIN), [3, 3, 0]);
    let from = good.len() - map.len();
    for at in (0..from + 8)
        .chain(from + 4 + 4 * 316..from + 4 + 4 * 326)
        .chain(good.len() - 8..good.len())
    {
        run(&good[..at]);
        for bit in 0..8 {
            let mut model = good.clone();
            model[at] ^= 1 << bit;
            run(&model);
        }
    }
    let mut random = Random(3);
    for _ in 0..300 {
        let mut model = good.clone();
        for _ in 0..20 {
            let at = from + 4 + random.below(map.len() - 4);
            model[at] = random.below(256) as u8;
        }
        run(&model);
    }
}
