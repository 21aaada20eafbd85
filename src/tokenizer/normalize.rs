//! How the text of a Unigram vocabulary is changed before pieces are looked for: by SentencePiece's
//! own rules, or by the stages of a `tokenizer.json`, which are like them but not the same.

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization;

use super::{
    SPACE_MARK,
    charsmap::Charsmap,
    grapheme,
    rules::{Marks, Rules, Stage},
    trie::Trie,
    vocab::SpacePrefix,
};

/// By SentencePiece's rules (`Normalizer::Normalize` in `src/normalizer.cc`): the map's longest rule at
/// each place, but pieces in `whole` stay as they are; spaces become marks.
pub(super) fn sentencepiece(
    text: &str,
    map: Option<&Charsmap>,
    whole: &Trie,
    (add_space, collapse): (bool, bool),
) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 2);
    let mut rest = text;
    if collapse {
        while let Some((" ", more)) = step(rest, map, whole) {
            rest = more;
        }
    }
    if rest.is_empty() {
        return out;
    }
    if add_space {
        out.push(SPACE_MARK);
    }
    let mut after_space = collapse;
    while let Some((mut part, more)) = step(rest, map, whole) {
        if after_space {
            part = part.trim_start_matches(' ');
        }
        for c in part.chars() {
            out.push(if c == ' ' { SPACE_MARK } else { c });
        }
        if !part.is_empty() {
            after_space = collapse && part.ends_with(' ');
        }
        rest = more;
    }
    if collapse {
        out.truncate(out.trim_end_matches(SPACE_MARK).len());
    }
    out
}

/// What the beginning of `text` becomes, and the rest; `None` at the end.
fn step<'a>(text: &'a str, map: Option<&'a Charsmap>, whole: &Trie) -> Option<(&'a str, &'a str)> {
    let first = text.chars().next()?;
    if let Some((len, _)) = whole.prefixes(text.as_bytes()).last() {
        return Some(text.split_at(len));
    }
    match map.and_then(|map| map.longest(text)) {
        Some((len, becomes)) => Some((becomes, &text[len..])),
        None => Some(text.split_at(first.len_utf8())),
    }
}

/// By the stages of a `tokenizer.json`, in order.
pub(super) fn stages<'a>(text: &'a str, map: Option<&Charsmap>, stages: &[Stage]) -> Cow<'a, str> {
    let mut text = Cow::Borrowed(text);
    for stage in stages {
        text = match stage {
            Stage::Precompiled => match map {
                Some(map) => Cow::Owned(precompiled(&text, map)),
                None => continue,
            },
            Stage::StripLeft => Cow::Owned(text.trim_start().to_owned()),
            Stage::StripRight => Cow::Owned(text.trim_end().to_owned()),
            Stage::SqueezeToSpace => Cow::Owned(squeeze(&text, ' ')),
            Stage::SqueezeToMark => Cow::Owned(squeeze(&text, SPACE_MARK)),
            Stage::MarkSpaces => Cow::Owned(text.replace(' ', "▁")),
            Stage::Nfc => Cow::Owned(form(&text, |part| part.nfc().collect())),
            Stage::Nfd => Cow::Owned(form(&text, |part| part.nfd().collect())),
            Stage::Nfkc => Cow::Owned(form(&text, |part| part.nfkc().collect())),
            Stage::Nfkd => Cow::Owned(form(&text, |part| part.nfkd().collect())),
            Stage::Nmt => text.chars().filter_map(nmt).collect(),
            Stage::Lowercase => text.chars().flat_map(char::to_lowercase).collect(),
        };
    }
    text
}

/// A short grapheme cluster becomes what the shortest rule for its beginning says, as a whole; else
/// each character does (the crate `spm_precompiled`).
fn precompiled(text: &str, map: &Charsmap) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let (cluster, more) = rest.split_at(grapheme::end(rest));
        match map.shortest(cluster).filter(|_| cluster.len() < 6) {
            Some(becomes) => out.push_str(becomes),
            None => {
                for part in cluster.split_inclusive(|_| true) {
                    out.push_str(map.shortest(part).unwrap_or(part));
                }
            }
        }
        rest = more;
    }
    out
}

/// `to` for each run of two spaces or more.
fn squeeze(text: &str, to: char) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("  ") {
        out.push_str(&rest[..at]);
        out.push(to);
        rest = rest[at..].trim_start_matches(' ');
    }
    out.push_str(rest);
    out
}

/// A form of Unicode, as `tokenizers` has it.
fn form(text: &str, of: impl Fn(&str) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    for part in text.split_inclusive(is_newer) {
        let end = part.trim_end_matches(is_newer).len();
        out.push_str(&of(&part[..end]));
        out.push_str(&part[end..]);
    }
    out
}

/// Characters that become others since Unicode 10 and later: `tokenizers` knows the forms of Unicode 9
/// (the crate `unicode-normalization-alignments`), and leaves these as they are.
fn is_newer(c: char) -> bool {
    matches!(c,
        '\u{558}' | '\u{58b}' | '\u{58c}' | '\u{209d}'..='\u{209f}' | '\u{32ff}'
        | '\u{a7f1}'..='\u{a7f4}' | '\u{ab69}' | '\u{105c9}' | '\u{105e4}'
        | '\u{10781}'..='\u{10785}' | '\u{10787}'..='\u{107b0}' | '\u{107b2}'..='\u{107bf}'
        | '\u{11383}' | '\u{11385}' | '\u{1138e}' | '\u{11391}' | '\u{113c5}' | '\u{113c7}'
        | '\u{113c8}' | '\u{11938}' | '\u{16121}'..='\u{16128}' | '\u{16d68}'..='\u{16d6a}'
        | '\u{1b123}'..='\u{1b126}' | '\u{1ccd6}'..='\u{1ccf9}' | '\u{1d6a6}' | '\u{1df95}'
        | '\u{1dfcd}'..='\u{1dfff}' | '\u{1e030}'..='\u{1e06d}' | '\u{1f16c}'
        | '\u{1fbf0}'..='\u{1fbf9}')
}

/// The `Nmt` stage: control characters go, other white space becomes a space.
fn nmt(c: char) -> Option<char> {
    match c {
        '\u{1}'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}' | '\u{8f}' | '\u{9f}' => None,
        '\t'
        | '\n'
        | '\u{c}'
        | '\r'
        | '\u{1680}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'
        | '\u{2029}'
        | '\u{2581}'
        | '\u{feff}'
        | '\u{fffd}' => Some(' '),
        c => Some(c),
    }
}

/// Calls `word` with each word of text that has been changed, as `rules` cut it: SentencePiece's own
/// rules don't.
pub(super) fn words(
    text: &str,
    rules: &Rules,
    prefix: SpacePrefix,
    at_start: bool,
    word: &mut impl FnMut(&str),
) {
    let Rules::Stages { whitespace, marks, .. } = rules else { return word(text) };
    let prefix = match prefix {
        SpacePrefix::Never => false,
        SpacePrefix::First => at_start,
        SpacePrefix::Every | SpacePrefix::Missing => true,
    };
    let mut marked = |text: &str| match marks {
        Marks::Kept => word(text),
        Marks::Whole | Marks::Split => {
            let mut text = text.replace(' ', "▁");
            if prefix && !text.starts_with(SPACE_MARK) {
                text.insert(0, SPACE_MARK);
            }
            if *marks == Marks::Split { at_marks(&text, word) } else { word(&text) }
        }
    };
    match whitespace {
        true => text.split_whitespace().for_each(marked),
        false => marked(text),
    }
}

/// Cuts `text` before each mark.
fn at_marks(text: &str, word: &mut impl FnMut(&str)) {
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after = first.len_utf8();
        let end = rest[after..].find(SPACE_MARK).map_or(rest.len(), |at| after + at);
        let (head, tail) = rest.split_at(end);
        word(head);
        rest = tail;
    }
}
