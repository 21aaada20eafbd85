//! Vocabularies that are broken or meant to harm: an error that names the fault, never a panic.

mod unigram;

use std::ops::Range;

use super::{
    added::{Allowed, Part},
    *,
};

const PLAIN: Encode = Encode { add_special: true, parse_special: false };

fn byte_level<'a>(tokens: &[&'a str], merges: &[&'a str]) -> Vocab<'a> {
    Vocab {
        splitter: Splitter::Gpt2,
        merges: Some(merges.iter().map(|text| text.as_bytes()).collect()),
        ..Vocab::new(Model::ByteLevel, tokens.iter().map(|text| text.as_bytes()).collect())
    }
}

fn sentencepiece<'a>(tokens: &[&'a str], scores: &[f32]) -> Vocab<'a> {
    Vocab {
        model: Model::SentencePiece,
        splitter: Splitter::Whole,
        scores: scores.to_vec(),
        merges: None,
        space_prefix: SpacePrefix::Every,
        ..byte_level(tokens, &[])
    }
}

#[test]
fn a_broken_vocabulary_is_refused_by_its_fault() {
    type Break = fn(&mut Vocab<'static>);
    let cases: [(Break, &str); 14] = [
        (|v| (v.tokens, v.kinds) = (vec![], vec![]), "has 0 tokens"),
        (|v| v.kinds.truncate(2), "token_type has 2 entries for 4"),
        (|v| v.merges = None, "merges is missing"),
        (|v| v.bos = Some(4), "bos_token_id names token 4"),
        (|v| v.eos = Some(u32::MAX), "eos_token_id names token 4294967295"),
        (|v| v.eog = vec![9], "end-of-generation ids names token 9"),
        (|v| v.lstrip = vec![9], "lstrip names token 9"),
        (|v| v.add_bos = true, "add_bos_token is set"),
        (|v| v.kinds[0] = Kind::Byte, "wanted <0x00>"),
        (
            |v| v.merges = Some(vec!["a z".as_bytes()]),
            "merge 0, \"a z\": its right part is no token",
        ),
        (|v| v.merges = Some(vec!["z a".as_bytes()]), "its left part is no token"),
        (|v| v.merges = Some(vec![b"a b", b"b a"]), "merge 1, \"b a\": its result is no token"),
        (|v| v.merges = Some(vec!["".as_bytes()]), "wanted two tokens and a space"),
        (|v| v.merges = Some(vec!["é".as_bytes()]), "wanted two tokens and a space"),
    ];
    for (change, fault) in cases {
        let mut vocab = byte_level(&["a", "b", "ab", "c"], &["a b"]);
        assert!(Tokenizer::new(&vocab).is_ok());
        change(&mut vocab);
        let error = Tokenizer::new(&vocab).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(fault), "{error:?} lacks {fault:?}");
    }
    let vocab = sentencepiece(&["a", "b"], &[0.0]);
    let error = Tokenizer::new(&vocab).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("scores has 1 entries for 2 tokens"), "{error}");
}

#[test]
fn duplicates_and_missing_bytes_are_tolerated() {
    let mut vocab = byte_level(&["a", "b", "ab", "ab", "a"], &["a b"]);
    let tokenizer = Tokenizer::new(&vocab).unwrap();
    assert_eq!(tokenizer.encode("ab a", PLAIN), [2, 0]);
    assert_eq!(tokenizer.decode(&[3, 4, 99]), "aba");
    vocab.unknown = Some(3);
    assert_eq!(Tokenizer::new(&vocab).unwrap().encode("axyb", PLAIN), [0, 3, 3, 1]);
    vocab.fuse_unknown = true;
    assert_eq!(Tokenizer::new(&vocab).unwrap().encode("axyb", PLAIN), [0, 3, 1]);
}

#[test]
fn any_score_is_a_score() {
    let tokens = [" ", "a", "b", "ab", " a"];
    for (scores, wanted) in [
        ([0.0, 0.0, 0.0, 2.0, 1.0], &[0, 3][..]),
        ([0.0, 0.0, 0.0, -2.0, -1.0], &[4, 2]),
        ([0.0, 0.0, 0.0, f32::NEG_INFINITY, f32::MIN], &[4, 2]),
        ([0.0, 0.0, 0.0, f32::NAN, f32::INFINITY], &[0, 3]),
    ] {
        let tokenizer = Tokenizer::new(&sentencepiece(&tokens, &scores)).unwrap();
        assert_eq!(tokenizer.encode("ab", PLAIN), wanted, "{scores:?}");
        assert_eq!(tokenizer.decode(wanted), "ab");
    }
}

/// Plain text must not become a control token by way of merges.
#[test]
fn merges_make_no_control_tokens() {
    let mut vocab = sentencepiece(&[" ", "<", "s>", "<s>", "s", ">"], &[0.0; 6]);
    vocab.kinds[3] = Kind::Control;
    let tokenizer = Tokenizer::new(&vocab).unwrap();
    assert_eq!(tokenizer.encode("<s>", PLAIN), [0, 1, 2]);
    assert_eq!(tokenizer.encode("<s>", Encode { parse_special: true, ..PLAIN }), [3]);
}

/// A megabyte of one character, whose merges double, and of added tokens that almost match.
#[test]
fn a_megabyte_of_one_character_takes_no_ages() {
    let runs: Vec<String> = (0..9).map(|n| "a".repeat(1 << n)).collect();
    let almost: Vec<String> = (0..300).map(|n| format!("{}{n}", "a".repeat(400))).collect();
    let tokens: Vec<&str> = runs.iter().chain(&almost).map(String::as_str).collect();
    let merges: Vec<String> = runs[..8].iter().map(|run| format!("{run} {run}")).collect();
    let merges: Vec<&str> = merges.iter().map(String::as_str).collect();
    let mut vocab = byte_level(&tokens, &merges);
    vocab.kinds[9..].fill(Kind::User);
    let scores: Vec<f32> = (0..tokens.len()).map(|id| -(id as f32)).collect();
    let mut scored = sentencepiece(&tokens, &scores);
    scored.kinds[9..].fill(Kind::User);
    scored.space_prefix = SpacePrefix::Never;
    let text = "a".repeat(1 << 20);
    for vocab in [vocab, scored] {
        let ids = Tokenizer::new(&vocab).unwrap().encode(&text, PLAIN);
        assert_eq!(ids, vec![8; 1 << 12]);
    }
}

#[test]
fn half_characters_are_held_back() {
    let tokens = ["<0xF0>", "<0x9F>", "<0xA6>", "<0x99>", "a", " "];
    let mut vocab = sentencepiece(&tokens, &[0.0; 6]);
    vocab.kinds[..4].fill(Kind::Byte);
    let tokenizer = Tokenizer::new(&vocab).unwrap();
    let mut stream = tokenizer.stream();
    let parts: Vec<String> =
        [5, 0, 1, 2, 3, 4, 1, 0, 4, 0].map(|id| stream.push(id).to_string()).to_vec();
    assert_eq!(parts, ["", "", "", "", "🦙", "a", "\u{fffd}", "", "\u{fffd}a", ""]);
    assert_eq!(stream.finish(), "\u{fffd}");
}

/// Against the definition, tried at every place: leftmost, then longest, then on from its end.
#[test]
fn added_tokens_are_found_leftmost_longest() {
    let mut random = 1u64;
    let mut word = |longest: u64| {
        let mut next = |n: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % n
        };
        (0..1 + next(longest)).map(|_| if next(3) == 0 { 'b' } else { 'a' }).collect::<String>()
    };
    for _ in 0..500 {
        let texts: Vec<String> = (0..6).map(|_| word(6)).collect();
        let text = word(40);
        let token = |(text, id): (&String, u32)| AddedToken {
            text: text.clone(),
            id,
            special: false,
            lstrip: false,
            rstrip: false,
        };
        let mut got = Vec::new();
        Added::new(texts.iter().zip(0..).map(token).collect()).unwrap().split(
            &text,
            Allowed::None,
            |part| {
                got.push(match part {
                    Part::Id(id) => texts[id as usize].clone(),
                    Part::Text(range) => format!("-{}", &text[range]),
                });
            },
        );
        let (mut wanted, mut rest) = (Vec::new(), &*text);
        while !rest.is_empty() {
            let longest = |at: usize| {
                texts.iter().filter(|t| rest[at..].starts_with(*t)).max_by_key(|t| t.len())
            };
            let found = (0..rest.len()).find_map(|at| Some((at, longest(at)?)));
            let (at, token) = found.map_or((rest.len(), ""), |(at, token)| (at, token));
            wanted.extend((at > 0).then(|| format!("-{}", &rest[..at])));
            wanted.extend((!token.is_empty()).then(|| token.to_string()));
            rest = &rest[at + token.len()..];
        }
        assert_eq!(got, wanted, "{texts:?} in {text:?}");
    }
}

/// Special tokens in the text as it came and in the normalized one, with the space in front that
/// the normalizer puts there.
#[test]
fn special_tokens_are_parsed_at_their_places_only() {
    let tokens = ["<s>", "</s>", " ", "a", "b", "<", "s", ">", "/", " a"];
    for (prefix, normalized) in [
        (SpacePrefix::Never, vec![]),
        (SpacePrefix::Every, vec![]),
        (SpacePrefix::First, vec![1]),
        (SpacePrefix::Never, vec![0, 1]),
    ] {
        let mut vocab = sentencepiece(&tokens, &[0.0; 10]);
        vocab.space_prefix = prefix;
        vocab.kinds[..2].fill(Kind::Control);
        vocab.normalized = normalized;
        let tokenizer = Tokenizer::new(&vocab).unwrap();
        let specials = tokenizer.specials();
        for text in ["<s>a</s>b<s><s>", "▁a<s>", "</s>▁<s>a", "ab", "", "<s<s>></s"] {
            let all = specials.places(text);
            let encode = |parse_special| {
                tokenizer.encode(text, Encode { add_special: false, parse_special })
            };
            let guarded = |places: &[Range<usize>]| tokenizer.encode_guarded(text, false, places);
            assert_eq!(guarded(&all), encode(true), "{text} {prefix:?}");
            assert_eq!(guarded(&[]), encode(false), "{text} {prefix:?}");
            for at in 0..all.len() {
                let marks = guarded(&all[at..at + 1]).iter().filter(|&&id| id < 2).count();
                assert_eq!(marks, 1, "{text} {prefix:?} {at}");
            }
        }
    }
    // Places that make no sense lead to no token and no panic.
    let mut vocab = sentencepiece(&tokens, &[0.0; 10]);
    vocab.kinds[..2].fill(Kind::Control);
    for normalized in [vec![], vec![0, 1]] {
        vocab.normalized = normalized;
        let tokenizer = Tokenizer::new(&vocab).unwrap();
        let plain = tokenizer.encode("▁<s>a", PLAIN);
        let places = [1..2, 0..9, Range { start: 7, end: 3 }, 5..usize::MAX];
        assert_eq!(tokenizer.encode_guarded("▁<s>a", true, &places), plain);
    }
}
