//! Texts that tokenizers are tried on, and the whole way of one: import, GGUF, runtime.

use std::{
    fs,
    path::{Path, PathBuf},
};

use pith::{
    bytes::Bytes,
    gguf::{Gguf, OwnedValue, Writer},
    tokenizer::{Encode, Tokenizer},
};
use pith_convert::tokenizer::Imported;
use serde_json::Value;
use tokenizers::Tokenizer as Reference;

const N_TEXTS: usize = 2500;

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/tokenizer").join(name)
}

/// Through a file on disk, as a run would have it.
pub fn runtime(imported: Imported) -> Tokenizer {
    try_runtime(imported).unwrap()
}

/// The same, for what may be refused on the way.
pub fn try_runtime(imported: Imported) -> pith::Result<Tokenizer> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.gguf");
    let mut writer = Writer::new(32)?;
    for (key, value) in imported.keys {
        writer.set(&key, value)?;
    }
    writer.create(&path)?.finish()?;
    let bytes = Bytes::map(&path)?;
    Tokenizer::from_gguf(&Gguf::parse(&bytes)?)
}

/// SplitMix64: the corpus is the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % n as u64) as usize
    }

    pub fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
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
    &["Ｆｕｌｌ", "ＡＢ", "㍿", "™", "™\u{301}", "ａ\u{301}", "ﾊﾟ", "ｶﾞ", "＜ｓ＞", "＜unk＞", "ẞ", "İ", "☃☃", "<extra_id_0>", "\u{1}"],
    &["▁", "▁▁", "Ġ", "Ċ", "Ã©", "▁the"],
];

/// Strings of one to a dozen fragments, some doubled many times.
pub fn corpus(seed: u64) -> Vec<String> {
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

pub fn compare(name: &str, tokenizer: &Tokenizer, reference: &mut Reference) {
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

/// A fixture with its `tokenizer.json` changed, in a folder of its own.
pub fn changed(name: &str, change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(fixture(name).join("tokenizer.json")).unwrap();
    let mut json = serde_json::from_str(&text).unwrap();
    change(&mut json);
    fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    folder
}

pub fn get<'a>(imported: &'a Imported, key: &str) -> Option<&'a OwnedValue> {
    imported.keys.iter().find(|(k, _)| k == key).map(|(_, value)| value)
}
