//! Unigram: maps of characters that are broken or meant to harm, and the search against its definition.

use proptest::{collection::vec, prelude::*};
use tokenizers::{NormalizedString, Normalizer as _, normalizers::Precompiled};

use super::{super::charsmap::Charsmap, *};

/// A map that makes what each rule says of its text. Units are 256 apart, so that none meet.
fn map(rules: &[(&str, &str)]) -> Vec<u8> {
    let (mut units, mut becomes) = (vec![0u32; 256], Vec::new());
    // A new block of children for the unit at `at`: gives their place.
    fn block(units: &mut Vec<u32>, at: usize) -> usize {
        let place = units.len() ^ (at & 0xff);
        units.extend([0; 256]);
        units[at] |= ((at ^ place) as u32) << 10;
        place
    }
    let mut paths = vec![(String::new().into_bytes(), block(&mut units, 0))];
    for (text, to) in rules {
        let bytes = text.as_bytes();
        for n in 1..=bytes.len() {
            if paths.iter().any(|(path, _)| path == &bytes[..n]) {
                continue;
            }
            let before = paths.iter().find(|(path, _)| path == &bytes[..n - 1]).unwrap().1;
            let at = before ^ usize::from(bytes[n - 1]);
            units[at] = u32::from(bytes[n - 1]);
            let place = block(&mut units, at);
            paths.push((bytes[..n].to_vec(), place));
        }
        let (_, place) = paths.iter().find(|(path, _)| path == bytes).unwrap();
        let before = paths.iter().find(|(path, _)| path == &bytes[..bytes.len() - 1]).unwrap().1;
        units[before ^ usize::from(bytes[bytes.len() - 1])] |= 1 << 8;
        units[*place] = 1 << 31 | becomes.len() as u32;
        becomes.extend_from_slice(to.as_bytes());
        becomes.push(0);
    }
    let array: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    [&(array.len() as u32).to_le_bytes()[..], &array, &becomes].concat()
}

fn unigram<'a>(tokens: &[&'a str], scores: &[f32]) -> Vocab<'a> {
    Vocab {
        model: Model::Unigram,
        space_prefix: SpacePrefix::Never,
        ..sentencepiece(tokens, scores)
    }
}

fn stages(stages: &[Stage], marks: Marks) -> Rules {
    Rules::Stages { stages: stages.to_vec(), whitespace: false, marks }
}

#[test]
fn a_map_has_longest_and_shortest_rules() {
    let rules = [("a", "x"), ("abc", "yz"), ("é", ""), ("\r\n", "n"), ("b", "a")];
    let bytes = map(&rules);
    let map = Charsmap::parse(&bytes).unwrap();
    assert_eq!((map.longest("abcd"), map.shortest("abcd")), (Some((3, "yz")), Some("x")));
    assert_eq!(
        (map.longest("abd"), map.longest("é"), map.longest("c")),
        (Some((1, "x")), Some((2, "")), None)
    );
    let mut vocab = unigram(&["<unk>", "x", "a", "yz"], &[0.0, -1.0, -1.0, -1.0]);
    vocab.unigram.charsmap = bytes;
    assert_eq!(Tokenizer::new(&vocab).unwrap().encode("aéabcb", PLAIN), [1, 3, 2]);
}

/// Every character, joined with what is before and behind, against the crate.
#[test]
fn short_clusters_are_those_of_the_crate() {
    let bytes = map(&[("a", "X"), ("\r", "Y")]);
    let reference = Precompiled::from(&bytes).unwrap();
    let mut vocab = unigram(&["X"], &[0.0]);
    vocab.unigram.charsmap = bytes;
    vocab.unigram.rules = stages(&[Stage::Precompiled], Marks::Kept);
    let tokenizer = Tokenizer::new(&vocab).unwrap();
    for c in ('\0'..='\u{1ffff}').chain('\u{e0000}'..='\u{e0fff}') {
        let mut texts = vec![format!("a{c}"), format!("{c}a\u{301}"), format!("\r{c}")];
        // With a mark of two bytes only where it fits.
        texts.extend((c.len_utf8() < 3).then(|| format!("a{c}\u{301}")));
        for text in texts {
            let mut wanted = NormalizedString::from(text.as_str());
            reference.normalize(&mut wanted).unwrap();
            assert_eq!(tokenizer.normalize(&text), wanted.get(), "{text:?}");
        }
    }
}

#[test]
fn a_broken_map_is_refused() {
    let good = map(&[("ab", "x"), ("é", "y")]);
    let parse = |bytes: &[u8]| Charsmap::parse(bytes).map(|_| ()).map_err(|e| e.to_string());
    parse(&good).unwrap();
    let refused = |bytes: &[u8], wanted: &str| {
        let error = parse(bytes).unwrap_err();
        assert!(error.contains("precompiled_charsmap") && error.contains(wanted), "{error}");
    };
    refused(&[], "it is cut off");
    refused(&good[..100], "its array is cut off");
    refused(&[3, 0, 0, 0, 1, 2, 3], "32-bit words");
    refused(&[0; 4], "path");
    refused(&[&good[..], b"\xff"].concat(), "UTF-8");
    // What the last rule becomes has no end.
    refused(&good[..good.len() - 1], "ends in nothing");
    // `a` leads back to itself: a text of that letter alone would have no end.
    let mut units = vec![0u32; 512];
    units[0] = 256 << 10;
    units[256 ^ 0x61] = 0x61 | 0x61 << 10;
    let array: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    refused(&[&2048u32.to_le_bytes()[..], &array, b"x\0"].concat(), "leads back");
    let (long, too_long) = ("a".repeat(255), "a".repeat(256));
    parse(&map(&[(&long, "x")])).unwrap();
    refused(&map(&[(&too_long, "x")]), "too long");
    // Cut or flipped, it is refused or is another map.
    let texts = ["aab\u{e9}ab", "é\u{301}a", ""];
    for cut in 0..good.len() {
        let _ = parse(&good[..cut]);
    }
    for bit in 0..8 * good.len() {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let Ok(map) = Charsmap::parse(&bytes) else { continue };
        for text in texts {
            map.longest(text);
            map.shortest(text);
        }
    }
}

/// The highest sum of scores over all ways to cut `text`; a character that is no piece costs `unknown`.
fn best(text: &str, pieces: &[(String, f64)], unknown: f64) -> f64 {
    let mut sums = vec![f64::NEG_INFINITY; text.len() + 1];
    sums[0] = 0.0;
    for at in 0..text.len() {
        let rest = &text[at..];
        let whole = pieces.iter().any(|(piece, _)| piece == &rest[..1]);
        let one = (!whole).then(|| (rest[..1].to_string(), unknown));
        for (piece, score) in
            pieces.iter().chain(&one).filter(|(piece, _)| rest.starts_with(&**piece))
        {
            let to = at + piece.len();
            sums[to] = sums[to].max(sums[at] + score);
        }
    }
    sums[text.len()]
}

proptest! {
    #[test]
    fn no_other_way_has_a_higher_sum(
        pieces in vec(("[ab]{1,4}", -20i32..0), 1..8),
        text in "[abc]{1,30}",
    ) {
        let mut pieces: Vec<(String, f64)> =
            pieces.into_iter().map(|(piece, score)| (piece, f64::from(score) / 4.0)).collect();
        pieces.sort_by(|a, b| a.0.cmp(&b.0));
        pieces.dedup_by(|b, a| a.0 == b.0);
        let unknown = pieces.iter().map(|(_, score)| *score).fold(f64::INFINITY, f64::min) - 10.0;
        let tokens: Vec<&str> = pieces.iter().map(|p| p.0.as_str()).chain(["<unk>"]).collect();
        let scores: Vec<f32> = pieces.iter().map(|p| p.1 as f32).chain([0.0]).collect();
        let mut vocab = unigram(&tokens, &scores);
        vocab.kinds[pieces.len()] = Kind::Unknown;
        vocab.unknown = Some(pieces.len() as u32);
        for rules in [stages(&[], Marks::Kept), Rules::SentencePiece { collapse: false }] {
            vocab.unigram.rules = rules;
            let ids = Tokenizer::new(&vocab).unwrap().encode(&text, PLAIN);
            let known = || ids.iter().filter_map(|&id| pieces.get(id as usize));
            // A run of unknown characters is one token: what is not known says how many there are.
            let n_unknown = text.len() - known().map(|(piece, _)| piece.len()).sum::<usize>();
            let sum = known().map(|(_, score)| score).sum::<f64>() + n_unknown as f64 * unknown;
            prop_assert_eq!(sum, best(&text, &pieces, unknown));
        }
    }

    #[test]
    fn any_map_and_any_text(
        units in vec((0usize..600, prop_oneof![any::<u32>(), (0u32..256, 0u32..600, any::<bool>())
            .prop_map(|(byte, offset, ends)| byte | offset << 10 | u32::from(ends) << 8)]), 0..40),
        becomes in "[a ▁\0]{0,20}",
        text in "[\u{0}-\u{ff}▁]{0,20}",
    ) {
        let mut array = vec![0u32; 600];
        array[0] = 256 << 10;
        units.into_iter().for_each(|(at, unit)| array[at] = unit);
        let bytes: Vec<u8> = array.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let map = [&2400u32.to_le_bytes()[..], &bytes, becomes.as_bytes(), &[0]].concat();
        let mut vocab = unigram(&["<unk>", "a", "▁"], &[0.0, -1.0, -2.0]);
        vocab.unigram.charsmap = map;
        for rules in [
            Rules::SentencePiece { collapse: true },
            stages(&[Stage::Precompiled, Stage::SqueezeToMark], Marks::Split),
        ] {
            vocab.unigram.rules = rules;
            if let Ok(tokenizer) = Tokenizer::new(&vocab) {
                tokenizer.decode(&tokenizer.encode(&text, PLAIN));
            }
        }
    }
}

/// Longer than what is held at once: the ids come in parts, and a run of unknown characters is one.
#[test]
fn long_texts_are_written_in_parts() {
    let mut vocab = unigram(&["<unk>", "ab", "aba", "c"], &[0.0, -1.0, -1.5, -1.0]);
    vocab.kinds[0] = Kind::Unknown;
    vocab.unknown = Some(0);
    for rules in [stages(&[], Marks::Kept), Rules::SentencePiece { collapse: false }] {
        vocab.unigram.rules = rules;
        let tokenizer = Tokenizer::new(&vocab).unwrap();
        let n = 100_000;
        assert_eq!(tokenizer.encode(&"abc".repeat(n), PLAIN), [1, 3].repeat(n));
        assert_eq!(tokenizer.encode(&format!("ab{}ab", "☃".repeat(n)), PLAIN), [1, 0, 1]);
    }
}

#[test]
fn a_megabyte_of_one_letter_takes_no_ages() {
    let runs: Vec<String> = (0..9).map(|n| "a".repeat(1 << n)).collect();
    let tokens: Vec<&str> = runs.iter().map(String::as_str).collect();
    let scores: Vec<f32> = (0..9).map(|n| -10.0 - n as f32).collect();
    let mut vocab = unigram(&tokens, &scores);
    vocab.unigram.charsmap = map(&[("ab", "x"), ("b", "a")]);
    let text = "a".repeat(1 << 20);
    for rules in
        [stages(&[Stage::Precompiled], Marks::Split), Rules::SentencePiece { collapse: true }]
    {
        vocab.unigram.rules = rules;
        assert_eq!(Tokenizer::new(&vocab).unwrap().encode(&text, PLAIN), vec![8; 1 << 12]);
    }
}

/// Text doesn't become a mark by itself, not even after its characters have changed.
#[test]
fn a_mark_is_made_on_request_alone() {
    let mut vocab = unigram(&["<s>", "<", "s", ">"], &[0.0, -1.0, -1.0, -1.0]);
    vocab.kinds[0] = Kind::Control;
    vocab.unigram.charsmap = map(&[("＜", "<")]);
    vocab.unigram.rules = stages(&[Stage::Precompiled], Marks::Kept);
    let tokenizer = Tokenizer::new(&vocab).unwrap();
    let asked = Encode { parse_special: true, ..PLAIN };
    for text in ["<s>", "＜s>"] {
        assert_eq!(tokenizer.encode(text, PLAIN), [1, 2, 3]);
        // As `tokenizers`, to which a mark is a piece like others.
        assert_eq!(tokenizer.encode(text, asked), [0]);
    }
    vocab.unigram.rules = Rules::SentencePiece { collapse: false };
    let tokenizer = Tokenizer::new(&vocab).unwrap();
    assert_eq!(tokenizer.encode("<s>", asked), [0]);
    assert_eq!(tokenizer.encode("＜s>", asked), [1, 2, 3]);
}

/// Any score: no panic, and a way to the end.
#[test]
fn any_score_leads_to_the_end() {
    for score in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 0.0, -2e5, 2e5] {
        let mut vocab = unigram(&["<unk>", "a", "ab", "▁"], &[score, score, -1.0, 1.0]);
        vocab.unknown = Some(0);
        for rules in [stages(&[], Marks::Whole), Rules::SentencePiece { collapse: false }] {
            vocab.unigram.rules = rules;
            let tokenizer = Tokenizer::new(&vocab).unwrap();
            assert!(!tokenizer.encode(&"abcab a".repeat(50), PLAIN).is_empty(), "{score}");
        }
    }
}

#[test]
fn spaces_in_front_go_as_the_source_does() {
    let tokens = ["▁", "▁a", "▁▁b▁c", "  ", "<0x20>", "d"];
    let mut vocab = unigram(&tokens, &[0.0; 6]);
    vocab.kinds[3] = Kind::User;
    vocab.kinds[4] = Kind::Byte;
    for (leading, wanted) in [
        (Leading::Keep, ["  a", "  b c a", "   a", "  a"]),
        (Leading::One, [" a", " b c a", "  a", " a"]),
        (Leading::Token, [" a", "bc a", "   a", " a"]),
        (Leading::Each, ["a", " b c a", "  a", "  a"]),
    ] {
        vocab.unigram.leading = leading;
        let tokenizer = Tokenizer::new(&vocab).unwrap();
        for (ids, wanted) in [[0, 1], [2, 1], [3, 1], [4, 1]].iter().zip(wanted) {
            assert_eq!(tokenizer.decode(ids), wanted, "{leading:?} {ids:?}");
        }
    }
}

#[test]
fn a_vocabulary_that_contradicts_itself_is_refused() {
    type Break = fn(&mut Vocab<'static>);
    let cases: [(Break, &str); 4] = [
        (|v| v.scores.truncate(1), "tokenizer.ggml.scores has 1 entries for 2"),
        (|v| v.unigram.scores = vec![0.0], "pith.tokenizer.scores has 1 entries for 2"),
        (|v| v.unigram.cut = vec![2], "pith.tokenizer.cut names token 2"),
        (|v| v.unigram.charsmap = vec![1, 2], "precompiled_charsmap"),
    ];
    for (change, fault) in cases {
        let mut vocab = unigram(&["a", "b"], &[0.0, 0.0]);
        change(&mut vocab);
        let error = Tokenizer::new(&vocab).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(fault), "{error:?} lacks {fault:?}");
    }
}
