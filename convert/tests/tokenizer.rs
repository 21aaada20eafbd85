//! The whole way of a tokenizer, import to GGUF to runtime, against the `tokenizers` crate: ids and
//! texts equal on a seeded multilingual corpus, for each family's structure. The vocabularies are
//! made by `tests/data/tokenizer/make.py`.

mod support;

use std::{fs, path::Path};

use pith::{gguf::OwnedValue, tokenizer::Encode};
use pith_convert::tokenizer::{Imported, import};
use serde_json::{Value, json};
use support::{
    table::{bytes, number},
    texts::{changed, compare, corpus, fixture, get, runtime},
};
use tokenizers::Tokenizer as Reference;

const ALL: [&str; 10] =
    ["gpt2", "smollm", "llama3", "qwen2", "neox", "bloom", "falcon", "llama2", "mistral", "gemma"];
const N_VOCAB: usize = 1000;

#[test]
fn ids_and_texts_are_those_of_the_tokenizers_crate() {
    for name in ALL {
        let folder = fixture(name);
        let tokenizer = runtime(import(&folder, N_VOCAB, &[]).unwrap());
        let mut reference = Reference::from_file(folder.join("tokenizer.json")).unwrap();
        compare(name, &tokenizer, &mut reference);
    }
}

#[test]
fn a_space_in_front_and_unknown_characters() {
    let folder = changed("gpt2", |json| json["pre_tokenizer"]["add_prefix_space"] = true.into());
    let mut reference = Reference::from_file(folder.path().join("tokenizer.json")).unwrap();
    compare(
        "gpt2 with a space",
        &runtime(import(folder.path(), N_VOCAB, &[]).unwrap()),
        &mut reference,
    );

    // Without byte tokens, characters that are no pieces become the unknown token.
    let folder = changed("gemma", |json| json["model"]["byte_fallback"] = false.into());
    let mut reference = Reference::from_file(folder.path().join("tokenizer.json")).unwrap();
    let tokenizer = runtime(import(folder.path(), N_VOCAB, &[]).unwrap());
    for text in corpus(9) {
        let wanted = reference.encode(text.as_str(), false).unwrap();
        let got = tokenizer.encode(&text, Encode { add_special: false, parse_special: true });
        assert_eq!(got, wanted.get_ids(), "{text:?}");
    }
    reference.set_encode_special_tokens(true);
}

/// OPT has only the two old files; transformers makes this tokenizer of them.
#[test]
fn opt_without_tokenizer_json() {
    let folder = fixture("opt");
    let vocab: Value =
        serde_json::from_str(&fs::read_to_string(folder.join("vocab.json")).unwrap()).unwrap();
    let merges = fs::read_to_string(folder.join("merges.txt")).unwrap();
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true});
    let added = |id: u32, text: &str| {
        json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let whole = json!({
        "version": "1.0",
        "added_tokens": [added(1, "<pad>"), added(2, "</s>")],
        "pre_tokenizer": bytes, "decoder": bytes,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "</s>", "type_id": 0}},
                       {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}},
        },
        "model": {"type": "BPE", "vocab": vocab,
                  "merges": merges.lines().skip(1).collect::<Vec<_>>()},
    });
    let mut reference: Reference = whole.to_string().parse().unwrap();
    let tokenizer = runtime(import(&folder, N_VOCAB, &[]).unwrap());
    assert_eq!((tokenizer.bos(), tokenizer.add_bos()), (Some(2), true));
    compare("opt", &tokenizer, &mut reference);
}

#[test]
fn scores_stand_for_the_merges_where_they_can() {
    for (name, by_scores) in [("llama2", true), ("gemma", true), ("mistral", false)] {
        let imported = import(&fixture(name), N_VOCAB, &[]).unwrap();
        assert_eq!(get(&imported, "tokenizer.ggml.merges").is_none(), by_scores, "{name}");
    }
}

#[test]
fn settings_become_keys() {
    let imported = import(&fixture("smollm"), 650, &[]).unwrap();
    let OwnedValue::Strings(tokens) = get(&imported, "tokenizer.ggml.tokens").unwrap() else {
        panic!("tokens are no strings")
    };
    assert_eq!((imported.n_tokens, tokens.len(), &*tokens[649]), (641, 650, "[PAD649]"));
    let template = get(&imported, "tokenizer.chat_template").unwrap();
    assert!(matches!(template, OwnedValue::String(t) if t.starts_with("{% for")));
    let json = fs::read_to_string(fixture("smollm").join("tokenizer.json")).unwrap();
    assert_eq!(get(&imported, "tokenizer.huggingface.json"), Some(&OwnedValue::String(json)));
    let tokenizer = runtime(imported);
    assert!(tokenizer.is_unused(649) && tokenizer.is_special(0) && !tokenizer.is_special(640));
    assert_eq!(
        (tokenizer.bos(), tokenizer.eos(), tokenizer.padding()),
        (Some(1), Some(2), Some(2))
    );
    assert!(tokenizer.is_eog(2) && tokenizer.is_eog(0) && !tokenizer.is_eog(1));
}

#[test]
fn an_embedding_that_is_too_small() {
    let imported = import(&fixture("gemma"), 905, &[]).unwrap();
    assert_eq!(imported.dropped, ["<end_of_turn>", "\n\n"]);
    runtime(imported);
    let refused = import(&fixture("gemma"), 900, &[]).unwrap_err().to_string();
    assert!(refused.contains("has no row in the embedding of 900"), "{refused}");
}

#[test]
fn what_pith_cannot_reproduce_is_refused_by_name() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change, &str); 10] = [
        ("gpt2", |j| j["surprise"] = 1.into(), "surprise = 1"),
        ("gpt2", |j| j["model"]["surprise"] = 1.into(), "model.surprise = 1"),
        ("gpt2", |j| j["model"]["type"] = "WordPiece".into(), "WordPiece"),
        ("gpt2", |j| j["model"]["dropout"] = 0.1.into(), "dropout"),
        ("gpt2", |j| j["normalizer"] = json!({"type": "Lowercase"}), "Lowercase"),
        ("gpt2", |j| j["added_tokens"][0]["single_word"] = true.into(), "single_word"),
        ("gpt2", |j| j["added_tokens"][0]["id"] = 5.into(), "contradicts"),
        (
            "llama3",
            |j| j["pre_tokenizer"]["pretokenizers"][0]["pattern"] = json!({"Regex": "x+"}),
            "x+",
        ),
        ("llama2", |j| j["decoder"]["decoders"][3]["start"] = 2.into(), "decoder"),
        ("llama2", |j| j["post_processor"]["type"] = "RobertaProcessing".into(), "Roberta"),
    ];
    for (name, change, part) in cases {
        let refused = import(changed(name, change).path(), N_VOCAB, &[]).unwrap_err().to_string();
        assert!(refused.contains(part), "{refused}");
    }
    let folder = changed("gpt2", |_| ());
    fs::write(folder.path().join("tokenizer_config.json"), r#"{"surprise": true}"#).unwrap();
    let refused = import(folder.path(), N_VOCAB, &[]).unwrap_err().to_string();
    assert!(refused.contains("tokenizer_config.json: surprise"), "{refused}");
    let empty = tempfile::tempdir().unwrap();
    let refused = import(empty.path(), N_VOCAB, &[]).unwrap_err().to_string();
    assert!(refused.contains("wanted tokenizer.json"), "{refused}");
}

/// Ids that the sentencepiece library itself gave (tests/data/tokenizer/make_sentencepiece.py).
#[test]
fn ids_of_a_model_file_are_those_of_sentencepiece() {
    for (name, n_vocab) in [("sp_llama", 704), ("sp_gemma", 500)] {
        let folder = fixture(name);
        let tokenizer = runtime(import(&folder, n_vocab, &[]).unwrap());
        assert!(tokenizer.add_bos() && !tokenizer.add_eos());
        let texts = fs::read_to_string(folder.join("ids.json")).unwrap();
        let texts: Vec<(String, Vec<u32>)> = serde_json::from_str(&texts).unwrap();
        assert!(texts.len() > 120);
        for (text, wanted) in texts {
            let got = tokenizer.encode(&text, Encode { add_special: false, parse_special: false });
            assert_eq!(got, wanted, "{name} {text:?}");
        }
    }
    let imported = import(&fixture("sp_gemma"), 500, &[]).unwrap();
    for (key, id) in [("bos", 2), ("eos", 1), ("unknown", 3), ("padding", 0)] {
        let key = format!("tokenizer.ggml.{key}_token_id");
        assert_eq!(get(&imported, &key), Some(&OwnedValue::U32(id)), "{key}");
    }
}

/// A SentencePiece model of these parts: pieces as text, type and score, then the trainer's and the
/// normalizer's parts.
fn sentencepiece(pieces: &[(&str, u64)], trainer: &[u8], normalizer: &[u8]) -> Vec<u8> {
    let mut model = Vec::new();
    for (i, (text, kind)) in pieces.iter().enumerate() {
        let score = [vec![0x15], (-(i as f32)).to_le_bytes().to_vec()].concat();
        model.extend(bytes(1, &[bytes(1, text.as_bytes()), score, number(3, *kind)].concat()));
    }
    model.extend(bytes(2, trainer));
    model.extend(bytes(3, normalizer));
    model
}

const PIECES: &[(&str, u64)] =
    &[("<unk>", 2), ("<s>", 3), ("</s>", 3), ("▁a", 1), ("▁", 1), ("a", 1)];

fn import_model(folder: &Path, model: &[u8]) -> pith::Result<Imported> {
    fs::write(folder.join("tokenizer.model"), model).unwrap();
    import(folder, 8, &[])
}

#[test]
fn model_files_that_pith_cannot_reproduce_are_refused_by_name() {
    let (bpe, plain) = (number(3, 2), number(4, 0));
    // A field of two bytes' key: number 16 and more.
    let far =
        |field: u64, value: u64| [number(0, field << 3)[1..].to_vec(), vec![value as u8]].concat();
    let folder = tempfile::tempdir().unwrap();
    let good = sentencepiece(PIECES, &bpe, &plain);
    let tokenizer = runtime(import_model(folder.path(), &good).unwrap());
    let opts = Encode { add_special: true, parse_special: true };
    assert_eq!(tokenizer.encode("a aé", opts), [1, 3, 3, 0]);
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));
    let with = |pieces: &[(&str, u64)]| {
        let pieces: Vec<_> = PIECES.iter().chain(pieces).copied().collect();
        sentencepiece(&pieces, &bpe, &plain)
    };
    let trainer = |field: Vec<u8>| sentencepiece(PIECES, &[&*bpe, &*field].concat(), &plain);
    let normalizer = |field: Vec<u8>| sentencepiece(PIECES, &bpe, &[&*plain, &*field].concat());
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (sentencepiece(PIECES, &number(3, 4), &plain), "type is Char"),
        (sentencepiece(PIECES, &bpe, &[]), "one space of several"),
        (
            normalizer([bytes(1, b"nmt_nfkc"), bytes(2, b"map")].concat()),
            "changes characters (nmt_nfkc)",
        ),
        (normalizer(number(5, 0)), "plain spaces"),
        (normalizer(number(7, 0)), "field 7 of the normalizer"),
        (trainer(far(24, 1)), "spaces go behind words"),
        (trainer(far(35, 1)), "0 pieces for 256 bytes"),
        (trainer(far(60, 1)), "field 60 of the trainer"),
        (with(&[("b", 5)]), "piece 6 is unused"),
        (with(&[("b", 9)]), "piece 6 is of type 9"),
        (with(&[("<0x00>", 6)]), "1 pieces for 256 bytes"),
        (with(&[("other", 2)]), "not one unknown piece"),
        (with(&[("a", 1)]), "\"a\" is there twice"),
        (with(&[("", 1)]), "piece 6 has no text"),
        ([good.clone(), bytes(1, &bytes(1, b"\xff"))].concat(), "UTF-8"),
        ([good.clone(), number(6, 1)].concat(), "field 6 of the model"),
        ([good.clone(), bytes(5, &bytes(2, b"map"))].concat(), "what is generated"),
        (with(&[("b", 1), ("c", 1), ("d", 1)]), "no row in the embedding of 8"),
        (b"IQ== 0\nIg== 1\n".to_vec(), "tiktoken"),
        (sentencepiece(PIECES, &number(3, 3), &plain), "type is Word"),
        (Vec::new(), "not one unknown piece"),
    ];
    for (model, wanted) in cases {
        let error = import_model(folder.path(), &model).expect_err(wanted).to_string();
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
    let class = r#"{"tokenizer_class": "XGLMTokenizer"}"#;
    fs::write(folder.path().join("tokenizer_config.json"), class).unwrap();
    let error = import_model(folder.path(), &good).unwrap_err().to_string();
    assert!(error.contains("tokenizer.model of a XGLMTokenizer"), "{error}");
    // Cut or flipped, it is refused or is another model, but never panics.
    fs::remove_file(folder.path().join("tokenizer_config.json")).unwrap();
    for cut in 0..good.len() {
        let _ = import_model(folder.path(), &good[..cut]);
    }
    for bit in 0..8 * good.len() {
        let mut model = good.clone();
        model[bit / 8] ^= 1 << (bit % 8);
        let _ = import_model(folder.path(), &model);
    }
}

#[test]
fn settings_count_for_a_model_file() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(fixture("sp_llama").join("tokenizer.model"), folder.path().join("tokenizer.model"))
        .unwrap();
    let config = r#"{"tokenizer_class": "LlamaTokenizer", "legacy": false, "add_bos_token": false,
        "add_eos_token": true, "eos_token": "</s>", "chat_template": "x"}"#;
    fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
    fs::write(folder.path().join("added_tokens.json"), r#"{"<more>": 700}"#).unwrap();
    let imported = import(folder.path(), 701, &[]).unwrap();
    let prefix = get(&imported, "pith.tokenizer.space_prefix");
    assert_eq!(prefix, Some(&OwnedValue::String("first".into())));
    let tokenizer = runtime(imported);
    assert!(!tokenizer.add_bos() && tokenizer.add_eos());
    let opts = Encode { add_special: true, parse_special: true };
    let ids = tokenizer.encode("the <more>", opts);
    assert_eq!((ids[ids.len() - 2], ids[ids.len() - 1]), (700, 2));
}

/// OpenAI's names for GPT-2's files (convert/tests/data/make_tf.py made them).
#[test]
fn openai_names_give_the_keys_of_hugging_faces() {
    let source = support::data().join("tf/plain");
    let imported = import(&source, 264, &[]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (from, to) in [("encoder.json", "vocab.json"), ("vocab.bpe", "merges.txt")] {
        fs::copy(source.join(from), folder.path().join(to)).unwrap();
    }
    assert_eq!(imported.keys, import(folder.path(), 264, &[]).unwrap().keys);
    for key in ["bos", "eos"] {
        let id = get(&imported, &format!("tokenizer.ggml.{key}_token_id"));
        assert_eq!(id, Some(&OwnedValue::U32(263)));
    }
    let vocab: Value =
        serde_json::from_str(&fs::read_to_string(source.join("encoder.json")).unwrap()).unwrap();
    let merges = fs::read_to_string(source.join("vocab.bpe")).unwrap();
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true});
    let whole = json!({
        "version": "1.0", "pre_tokenizer": bytes, "decoder": bytes,
        "added_tokens": [{"id": 263, "content": "<|endoftext|>", "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
        "model": {"type": "BPE", "vocab": vocab,
                  "merges": merges.lines().skip(1).collect::<Vec<_>>()},
    });
    let mut reference: Reference = whole.to_string().parse().unwrap();
    compare("openai", &runtime(imported), &mut reference);
    fs::remove_file(folder.path().join("merges.txt")).unwrap();
    let error = import(folder.path(), 264, &[]).unwrap_err().to_string();
    assert!(error.contains("vocab.json without merges.txt"), "{error}");
}

#[test]
fn unknown_keys_pass_where_they_are_allowed() {
    let folder = changed("gpt2", |json| json["surprise"] = 1.into());
    fs::write(folder.path().join("tokenizer_config.json"), r#"{"wonder": true}"#).unwrap();
    fs::write(folder.path().join("special_tokens_map.json"), r#"{"wonder": 2}"#).unwrap();
    let allow = |keys: &[&str]| {
        let keys: Vec<String> = keys.iter().map(|key| key.to_string()).collect();
        import(folder.path(), N_VOCAB, &keys)
    };
    assert_eq!(allow(&["wonder", "surprise", "absent"]).unwrap().allowed, ["surprise", "wonder"]);
    let error = allow(&["wonder"]).unwrap_err().to_string();
    assert!(
        error.contains("surprise = 1") && error.contains("--allow-unknown surprise"),
        "{error}"
    );
    // A stage changes ids: nothing allows it.
    let folder = changed("gpt2", |json| json["normalizer"] = json!({"type": "Lowercase"}));
    assert!(import(folder.path(), N_VOCAB, &["normalizer".into(), "type".into()]).is_err());
}
