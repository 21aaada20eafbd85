//! The whole way of a tokenizer, import to GGUF to runtime, against the `tokenizers` crate: ids and
//! texts equal on a seeded multilingual corpus, for each family's structure. The vocabularies are
//! made by `tests/data/tokenizer/make.py`.

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
};

use pith::{
    bytes::Bytes,
    gguf::{Gguf, OwnedValue, Writer},
    tokenizer::{Encode, Tokenizer},
};
use pith_convert::tokenizer::{Imported, import};
use serde_json::{Value, json};
use support::table::{bytes, number};
use tokenizers::Tokenizer as Reference;

const ALL: [&str; 10] =
    ["gpt2", "smollm", "llama3", "qwen2", "neox", "bloom", "falcon", "llama2", "mistral", "gemma"];
const N_TEXTS: usize = 2500;
const N_VOCAB: usize = 1000;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/tokenizer").join(name)
}

/// Through a file on disk, as a run would have it.
fn runtime(imported: Imported) -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.gguf");
    let mut writer = Writer::new(32).unwrap();
    for (key, value) in imported.keys {
        writer.set(&key, value).unwrap();
    }
    writer.create(&path).unwrap().finish().unwrap();
    let bytes = Bytes::map(&path).unwrap();
    Tokenizer::from_gguf(&Gguf::parse(&bytes).unwrap()).unwrap()
}

/// SplitMix64: the corpus is the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % n as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

#[rustfmt::skip]
const FRAGMENTS: &[&[&str]] = &[
    &["the ", "quick", " Menschen", "it's", "THEY'LL", "we'Ve", "'ſ", " 'd", "I'm", "''re", "hello", " world", "HELLO", "a", " b"],
    &[" ", "  ", "   ", "    ", "\t", "\n", "\r\n", "\n\n", " \n ", "\u{a0}", "\u{3000}", "\u{85}", "\u{2028}", "\r", "\t\t ", "        ", "\u{b}"],
    &["1", "12", "123", "1234", "1234567", "3.14", " 42", "½", "²³", "Ⅷ", "٣٤", "㊿", "1a2", "0x1F", "१२"],
    &["!", "...", "?!", "(", ")", "|", "{\"a\": [1]}", "::", "->", "//", "#", "$", "`", "€", "—", "“q”", "،", "۔", "…", "。", "<", "<|", "|>"],
    &["fn main() {\n    let x = 1;\n}\n", "\tif (a && b) {\r\n", "def f(x):\n        return x\n\n\n", "x_y", "a.b.c", "\\n", "'\\''"],
    &["é", "e\u{301}", "ﬁ", "Å", "A\u{30a}", "ñ", "n\u{303}", "\u{301}", "가", "\u{1100}\u{1161}", "ệ", "e\u{323}\u{302}", "é\u{302}", "Å"],
    &["人人生而自由", "カタカナ", "ひらがな", "한국어", "動詞", "，", "！", "ｶﾅ", "𠮷"],
    &["مرحبا", "العربية", "أحرارًا", "שלום", "हिन्दी", "ไทย", "Ελληνικά", "Привет", "ѣ", "ß", "ǅ"],
    &["👍🏽", "👨‍👩‍👧‍👦", "🦙", "🏳️‍🌈", "\u{200d}", "\u{fe0f}", "🇩🇪", "𝔘", "\u{10ffff}", "\u{e000}", "\u{378}"],
    &["\0", "\u{1}", "\u{7f}", "\u{feff}", "\u{fffd}", "\u{202e}", "\u{ad}", "\u{200b}", "\u{180e}"],
    &["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<unk>", "<bos>", "<pad>", "[INST]", "<tool>", "<tool_call>", "<mask>", " <mask> ", "<sep>", "  <sep>  ", "<|begin_of_text|>", "<|eot_id|>", "<start_of_turn>", "<repo_name>", "<0x41>", ">>TITLE<<", "<|endo", "[PAD1]"],
    &["▁", "▁▁", "Ġ", "Ċ", "Ã©", "▁the"],
];

/// Strings of one to a dozen fragments, some doubled many times.
fn corpus(seed: u64) -> Vec<String> {
    let mut random = Random(seed);
    let mut texts = vec![String::new(), " ".into(), "\n".into(), "a".into(), "  a".into()];
    texts.extend((0..300).map(|_| {
        // Single characters from everywhere.
        let n = 1 + random.below(12);
        (0..n).map(|_| char::from_u32(random.below(0x30000) as u32).unwrap_or(' ')).collect()
    }));
    while texts.len() < N_TEXTS {
        let mut text = String::new();
        let common = random.below(FRAGMENTS.len());
        for _ in 0..1 + random.below(12) {
            let class = if random.below(3) == 0 { common } else { random.below(FRAGMENTS.len()) };
            let fragment = random.pick(FRAGMENTS[class]);
            let times = if random.below(12) == 0 { 1 + random.below(20) } else { 1 };
            text.push_str(&fragment.repeat(times));
        }
        texts.push(text);
    }
    texts
}

fn compare(name: &str, tokenizer: &Tokenizer, reference: &mut Reference) {
    for (add_special, parse_special) in [(false, true), (true, true), (false, false)] {
        reference.set_encode_special_tokens(!parse_special);
        for text in corpus(7) {
            let wanted = reference.encode(text.as_str(), add_special).unwrap();
            let got = tokenizer.encode(&text, Encode { add_special, parse_special });
            assert_eq!(got, wanted.get_ids(), "{name} {text:?} {add_special} {parse_special}");
        }
    }
    reference.set_encode_special_tokens(false);
    for text in corpus(8) {
        let ids = tokenizer.encode(&text, Encode { add_special: true, parse_special: true });
        for show_special in [false, true] {
            let wanted = reference.decode(&ids, !show_special).unwrap();
            let got = tokenizer.decode_with(&ids, show_special);
            let mut stream = tokenizer.stream().show_special(show_special);
            let mut streamed: String = ids.iter().map(|&id| stream.push(id).to_string()).collect();
            streamed.push_str(stream.finish());
            assert_eq!(streamed, got, "{name} {text:?} {ids:?}");
            assert_eq!(got, wanted, "{name} {text:?} {ids:?}");
        }
    }
}

#[test]
fn ids_and_texts_are_those_of_the_tokenizers_crate() {
    for name in ALL {
        let folder = fixture(name);
        let tokenizer = runtime(import(&folder, N_VOCAB, &[]).unwrap());
        let mut reference = Reference::from_file(folder.join("tokenizer.json")).unwrap();
        compare(name, &tokenizer, &mut reference);
    }
}

/// A fixture with its `tokenizer.json` changed, in a folder of its own.
fn changed(name: &str, change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(fixture(name).join("tokenizer.json")).unwrap();
    let mut json = serde_json::from_str(&text).unwrap();
    change(&mut json);
    fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    folder
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

fn get<'a>(imported: &'a Imported, key: &str) -> Option<&'a OwnedValue> {
    imported.keys.iter().find(|(k, _)| k == key).map(|(_, value)| value)
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
        ("gpt2", |j| j["model"]["type"] = "Unigram".into(), "Unigram"),
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
        (sentencepiece(PIECES, &[], &plain), "type is Unigram"),
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
        (Vec::new(), "type is Unigram"),
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
