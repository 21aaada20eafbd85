//! Cuts text into the words that byte-level BPE never merges across. One hand-written scanner per
//! published pattern: no regular-expression engine at run time, and every scanner is linear, for
//! none looks further than the run of characters that it is in.
//!
//! `\p{L}`, `\p{N}`, `\p{M}`, `\p{P}` are Unicode general categories, `\s` is `White_Space`.

use unicode_general_category::{GeneralCategory as Gc, get_general_category};

use super::bytes::numeric_stand_in;

/// A family's way of cutting text into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Splitter {
    /// GPT-2: `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
    Gpt2,
    /// Each `\p{N}` alone, then GPT-2 on what lies between (StarCoder, SmolLM).
    Digits,
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,n}| ?[^\s\p{L}\p{N}]+[\r\n]*|`
    /// `\s*[\r\n]+|\s+(?!\S)|\s+` (Llama 3 with n = 3, Qwen 2 with n = 1).
    Tiktoken {
        /// The longest group of digits, n.
        digits: usize,
    },
    /// ` ?[^(\s|.,!?…。，、।۔،)]+`, what lies between as it is (BLOOM).
    Bloom,
    /// Runs of punctuation, then GPT-2, then runs of digits, then threes of digits (Falcon).
    Falcon,
    /// Before each space that follows another character (SentencePiece pieces, where none has a
    /// space inside: nothing merges across such a place, and short words merge faster).
    Spaces,
    /// No cut at all (SentencePiece pieces).
    Whole,
}

impl Splitter {
    /// The splitter that a `tokenizer.ggml.pre` value names.
    pub fn by_name(pre: &str) -> Option<Splitter> {
        Some(match pre {
            "gpt-2" | "phi-2" | "mpt" | "olmo" | "jais" | "gpt-neox" => Splitter::Gpt2,
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => Splitter::Digits,
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "dbrx" | "smaug-bpe" => {
                Splitter::Tiktoken { digits: 3 }
            }
            "qwen2" | "stablelm2" | "deepseek-r1-qwen" => Splitter::Tiktoken { digits: 1 },
            "bloom" | "gpt3-finnish" | "poro-chat" => Splitter::Bloom,
            "falcon" => Splitter::Falcon,
            _ => return None,
        })
    }

    /// Calls `word` with each word of `text`, in order; together they are the whole text. A word
    /// need not be valid UTF-8: Falcon's digit stage works on single bytes.
    pub fn split(self, text: &str, word: &mut impl FnMut(&[u8])) {
        match self {
            Splitter::Gpt2 => each(text, gpt2, word),
            Splitter::Digits => runs(text, char::is_numeric, |part, digits| {
                if digits {
                    part.chars().for_each(|c| word(c.encode_utf8(&mut [0; 4]).as_bytes()));
                } else {
                    each(part, gpt2, word);
                }
            }),
            Splitter::Tiktoken { digits } => each(text, |rest| tiktoken(rest, digits), word),
            Splitter::Bloom => each(text, bloom, word),
            Splitter::Falcon => runs(text, is_punctuation, |part, _| {
                each(part, gpt2, &mut |part: &[u8]| byte_digits(part, word));
            }),
            Splitter::Spaces => each(text, spaces, word),
            Splitter::Whole => each(text, str::len, word),
        }
    }
}

/// Cuts `text` by `next`, which gives the length of the first word of a non-empty text.
fn each(mut text: &str, next: impl Fn(&str) -> usize, word: &mut impl FnMut(&[u8])) {
    while !text.is_empty() {
        let (head, rest) = text.split_at(next(text));
        word(head.as_bytes());
        text = rest;
    }
}

/// Cuts `text` into longest runs of characters that are all `class`, or all not.
fn runs(mut text: &str, class: impl Fn(char) -> bool, mut run: impl FnMut(&str, bool)) {
    while let Some(first) = text.chars().next() {
        let is = class(first);
        let (head, rest) = text.split_at(span(text, |c| class(c) == is));
        run(head, is);
        text = rest;
    }
}

/// Bytes of the longest prefix of `text` that is all `class`.
fn span(text: &str, class: impl Fn(char) -> bool) -> usize {
    text.find(|c| !class(c)).unwrap_or(text.len())
}

fn is_letter(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphabetic();
    }
    matches!(
        get_general_category(c),
        Gc::UppercaseLetter
            | Gc::LowercaseLetter
            | Gc::TitlecaseLetter
            | Gc::ModifierLetter
            | Gc::OtherLetter
    )
}

fn is_number(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_digit();
    }
    matches!(get_general_category(c), Gc::DecimalNumber | Gc::LetterNumber | Gc::OtherNumber)
}

/// `[^\s\p{L}\p{N}]`.
fn is_other(c: char) -> bool {
    !c.is_whitespace() && !is_letter(c) && !is_number(c)
}

/// `\p{P}` or an ASCII symbol.
fn is_punctuation(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_punctuation();
    }
    matches!(
        get_general_category(c),
        Gc::ConnectorPunctuation
            | Gc::DashPunctuation
            | Gc::OpenPunctuation
            | Gc::ClosePunctuation
            | Gc::InitialPunctuation
            | Gc::FinalPunctuation
            | Gc::OtherPunctuation
    )
}

fn gpt2(text: &str) -> usize {
    if let Some(n) = contraction(text, |c| c) {
        return n;
    }
    let space = usize::from(text.starts_with(' '));
    let rest = &text[space..];
    let class: fn(char) -> bool = match rest.chars().next() {
        Some(c) if is_letter(c) => is_letter,
        Some(c) if is_number(c) => is_number,
        Some(c) if is_other(c) => is_other,
        _ => return whitespace(text),
    };
    space + span(rest, class)
}

fn tiktoken(text: &str, digits: usize) -> usize {
    // Without regard to case; of all other characters only U+017F folds to one of these letters.
    let fold = |c: char| if c == 'ſ' { 's' } else { c.to_ascii_lowercase() };
    if let Some(n) = contraction(text, fold) {
        return n;
    }
    let mut chars = text.chars();
    let (first, second) = (chars.next().unwrap_or(' '), chars.next());
    if is_letter(first) {
        return span(text, is_letter);
    }
    if is_number(first) {
        return text.chars().take(digits).take_while(|&c| is_number(c)).map(char::len_utf8).sum();
    }
    if !matches!(first, '\r' | '\n') && second.is_some_and(is_letter) {
        let n = first.len_utf8();
        return n + span(&text[n..], is_letter);
    }
    let space = usize::from(first == ' ');
    let other = span(&text[space..], is_other);
    if other > 0 {
        let n = space + other;
        return n + span(&text[n..], |c| matches!(c, '\r' | '\n'));
    }
    let run = &text[..span(text, char::is_whitespace)];
    match run.rfind(['\r', '\n']) {
        Some(at) => at + 1,
        None => whitespace(text),
    }
}

/// `'s|'t|'re|'ve|'m|'ll|'d`, with characters folded by `fold` first.
fn contraction(text: &str, fold: impl Fn(char) -> char) -> Option<usize> {
    let mut chars = text.strip_prefix('\'')?.chars();
    let first = chars.next()?;
    match fold(first) {
        's' | 't' | 'm' | 'd' => Some(1 + first.len_utf8()),
        'r' | 'v' if fold(chars.next()?) == 'e' => Some(3),
        'l' if fold(chars.next()?) == 'l' => Some(3),
        _ => None,
    }
}

/// `\s+(?!\S)|\s+`: a run of whitespace, less its last character where something follows.
fn whitespace(text: &str) -> usize {
    let run = span(text, char::is_whitespace);
    let last = text[..run].chars().next_back().map_or(0, char::len_utf8);
    if run == text.len() || run == last { run } else { run - last }
}

fn spaces(text: &str) -> usize {
    let run = span(text, |c| c == ' ');
    run + span(&text[run..], |c| c != ' ')
}

fn bloom(text: &str) -> usize {
    let within = |c: char| !c.is_whitespace() && !"(|.,!?…。，、।۔،)".contains(c);
    let space = usize::from(text.starts_with(' '));
    let n = span(&text[space..], within);
    if n > 0 {
        return space + n;
    }
    // What lies between two matches; a match would begin at a space with such a character behind.
    let between = span(text, |c| !within(c));
    if between < text.len() && text[..between].ends_with(' ') { between - 1 } else { between }
}

/// Falcon's last two stages. They see the text after each byte became its stand-in character, of
/// which six outside ASCII count as digits too.
fn byte_digits(text: &[u8], word: &mut impl FnMut(&[u8])) {
    for run in text.chunk_by(|&a, &b| numeric_stand_in(a) == numeric_stand_in(b)) {
        let mut rest = run;
        // Threes of ASCII digits, what lies between two of them in one piece.
        while let Some(at) = rest.windows(3).position(|w| w.iter().all(u8::is_ascii_digit)) {
            let (before, from) = rest.split_at(at);
            if !before.is_empty() {
                word(before);
            }
            word(&from[..3]);
            rest = &from[3..];
        }
        if !rest.is_empty() {
            word(rest);
        }
    }
}
