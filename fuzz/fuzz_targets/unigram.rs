//! Any bytes as a Unigram tokenizer's map of characters, and any text: refused, or encoded under
//! SentencePiece's rules and under those of `tokenizers`.
//!
//! Input: what the pieces score (1), the length of the map (2, little-endian), the map, the text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pith::tokenizer::{
    Encode, Kind, Leading, Marks, Model, Rules, SpacePrefix, Stage, Tokenizer, Unigram,
    Vocab,
};

const TOKENS: [&str; 8] = ["<unk>", "<s>", "▁", "a", "▁ab", "b▁", "é", "<tool>"];

fuzz_target!(|bytes: &[u8]| {
    let [score, low, high, rest @ ..] = bytes else { return };
    let Some((map, text)) = rest.split_at_checked(u16::from_le_bytes([*low, *high]).into()) else {
        return;
    };
    let text = String::from_utf8_lossy(text);
    let stages = vec![Stage::Precompiled, Stage::StripRight, Stage::SqueezeToMark, Stage::Nfkc];
    for rules in [
        Rules::SentencePiece { collapse: true },
        Rules::Stages { stages, whitespace: false, marks: Marks::Split },
    ] {
        let mut kinds = vec![Kind::Normal; TOKENS.len()];
        (kinds[0], kinds[1], kinds[7]) = (Kind::Unknown, Kind::Control, Kind::User);
        let vocab = Vocab {
            kinds,
            scores: (0..TOKENS.len()).map(|i| -f32::from(score.rotate_left(i as u32))).collect(),
            bos: Some(1),
            unknown: Some(0),
            add_bos: true,
            space_prefix: SpacePrefix::Missing,
            fuse_unknown: true,
            normalized: vec![7],
            unigram: Unigram {
                charsmap: map.to_vec(),
                rules,
                leading: Leading::Each,
                ..Unigram::default()
            },
            ..Vocab::new(Model::Unigram, TOKENS.iter().map(|text| text.as_bytes()).collect())
        };
        let Ok(tokenizer) = Tokenizer::new(&vocab) else { return };
        for parse_special in [false, true] {
            let ids = tokenizer.encode(&text, Encode { add_special: true, parse_special });
            assert!(ids.iter().all(|id| (*id as usize) < TOKENS.len()));
            // Text makes no mark by itself.
            assert!(parse_special || !ids[1..].contains(&1));
            tokenizer.decode(&ids);
        }
    }
});
