//! Properties of tokenizers that hold for every text and every sequence of ids.

use std::{fs, path::Path};

use pith::tokenizer::{
    Encode, Kind, Leading, Marks, Model, Rules, SpacePrefix, Splitter, Tokenizer, Unigram, Vocab,
};
use proptest::{collection::vec, prelude::*};
use serde_json::Value;

const PLAIN: Encode = Encode { add_special: false, parse_special: false };

/// The vocabulary and merges of a fixture; what else the family has is not needed here.
fn tokenizer(name: &str, model: Model, splitter: Splitter) -> Tokenizer {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokenizer").join(name);
    let text = fs::read_to_string(path.join("tokenizer.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let mut tokens = vec![""; vocab.len()];
    vocab.iter().for_each(|(text, id)| tokens[id.as_u64().unwrap() as usize] = text);
    let part = |merge: &Value, i: usize| merge[i].as_str().unwrap().to_string();
    let merges: Vec<String> = json["model"]["merges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|merge| format!("{} {}", part(merge, 0), part(merge, 1)))
        .collect();
    let sentencepiece = model == Model::SentencePiece;
    let kind = |text: &&str| match sentencepiece && text.starts_with("<0x") {
        true => Kind::Byte,
        false => Kind::Normal,
    };
    let vocab = Vocab {
        splitter,
        kinds: tokens.iter().map(kind).collect(),
        merges: Some(merges.iter().map(String::as_bytes).collect()),
        space_prefix: if sentencepiece { SpacePrefix::Every } else { SpacePrefix::Never },
        ..Vocab::new(model, tokens.iter().map(|text| text.as_bytes()).collect())
    };
    Tokenizer::new(&vocab).unwrap()
}

const SPLITTERS: [Splitter; 8] = [
    Splitter::Gpt2,
    Splitter::Digits,
    Splitter::Tiktoken { digits: 3 },
    Splitter::Tiktoken { digits: 1 },
    Splitter::Bloom,
    Splitter::Falcon,
    Splitter::Spaces,
    Splitter::Whole,
];

proptest! {
    #[test]
    fn words_are_the_whole_text(text in any::<String>(), spaced in "[ \t\r\na1é'(.²]{0,40}") {
        for splitter in SPLITTERS {
            for text in [&text, &spaced] {
                let mut joined = Vec::new();
                splitter.split(text, &mut |word| {
                    assert!(!word.is_empty());
                    joined.extend_from_slice(word);
                });
                prop_assert_eq!(&joined, text.as_bytes());
            }
        }
    }
}

#[test]
fn every_text_comes_back() {
    let byte_level = tokenizer("gpt2", Model::ByteLevel, Splitter::Gpt2);
    let sentencepiece = tokenizer("llama2", Model::SentencePiece, Splitter::Whole);
    proptest!(|(text in any::<String>(), spaced in "[ a-e\r\näß🦙]{0,60}")| {
        for text in [text, spaced] {
            prop_assert_eq!(byte_level.decode(&byte_level.encode(&text, PLAIN)), text.as_str());
            // Space marks in a text become spaces: that is lost in SentencePiece vocabularies.
            let wanted = text.replace('▁', " ");
            prop_assert_eq!(sentencepiece.decode(&sentencepiece.encode(&text, PLAIN)), wanted);
        }
    });
}

/// The pieces and scores of a fixture, under the rules that transformers' own converters write.
fn unigram(name: &str) -> Tokenizer {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokenizer").join(name);
    let text = fs::read_to_string(path.join("tokenizer.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let vocab = json["model"]["vocab"].as_array().unwrap();
    let tokens: Vec<&str> = vocab.iter().map(|piece| piece[0].as_str().unwrap()).collect();
    let byte = |text: &&str| text.starts_with("<0x");
    Tokenizer::new(&Vocab {
        kinds: tokens.iter().map(|t| if byte(t) { Kind::Byte } else { Kind::Normal }).collect(),
        scores: vocab.iter().map(|piece| piece[1].as_f64().unwrap() as f32).collect(),
        unknown: Some(0),
        space_prefix: SpacePrefix::Missing,
        fuse_unknown: true,
        unigram: Unigram {
            rules: Rules::Stages { stages: Vec::new(), whitespace: false, marks: Marks::Split },
            leading: Leading::One,
            ..Unigram::default()
        },
        ..Vocab::new(Model::Unigram, tokens.iter().map(|text| text.as_bytes()).collect())
    })
    .unwrap()
}

/// With bytes for what is no piece, all but a space in front comes back.
#[test]
fn every_text_comes_back_from_unigram_pieces() {
    let tokenizer = unigram("ug_generic");
    proptest!(|(text in any::<String>(), spaced in "[ a-e\r\näß🦙]{0,60}")| {
        for text in [text, spaced] {
            let wanted = text.replace('▁', " ");
            let wanted = wanted.strip_prefix(' ').unwrap_or(&wanted);
            // The text of a byte token is that byte.
            prop_assume!(!text.contains("<0x"));
            prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&text, PLAIN)), wanted);
        }
    });
}

#[test]
fn a_stream_is_the_whole_in_parts() {
    let byte_level = tokenizer("gpt2", Model::ByteLevel, Splitter::Gpt2);
    let sentencepiece = tokenizer("llama2", Model::SentencePiece, Splitter::Whole);
    let unigram = unigram("ug_generic");
    proptest!(|(ids in vec(0u32..1000, 0..60))| {
        for tokenizer in [&byte_level, &sentencepiece, &unigram] {
            let mut stream = tokenizer.stream();
            let mut parts: String = ids.iter().map(|&id| stream.push(id).to_string()).collect();
            parts.push_str(stream.finish());
            let mut paused = tokenizer.stream().pause();
            let mut with_pauses = String::new();
            for &id in &ids {
                let mut stream = tokenizer.resume(paused);
                with_pauses.push_str(stream.push(id));
                paused = stream.pause();
            }
            with_pauses.push_str(tokenizer.resume(paused).finish());
            prop_assert_eq!(&with_pauses, &parts);
            let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.piece(id).to_vec()).collect();
            let whole = String::from_utf8_lossy(&bytes);
            prop_assert_eq!(&parts, &tokenizer.decode(&ids));
            // Decoding may drop one space in front.
            prop_assert!(parts == whole || Some(parts.as_str()) == whole.strip_prefix(' '));
        }
    });
}
