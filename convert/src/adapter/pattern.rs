//! The patterns of `rank_pattern` and `alpha_pattern`: regular expressions of Python, of which
//! people write names, with dots that stand for themselves, and now and then a wildcard. That part
//! is read here: plain characters, `.`, `\` before a punctuation mark, `\d`, `[...]`, each with
//! `*`, `+` or `?` behind it, and `^` at the start. A pattern with more stops the conversion.

use pith::{Error, Result};

/// The longest pattern that is read, in bytes: a module's whole name is shorter.
const MAX_LEN: usize = 1000;

/// A pattern, ready to be matched.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    /// Whether it begins with `^`.
    anchored: bool,
    atoms: Vec<(Atom, Times)>,
}

#[derive(Clone, Debug)]
enum Atom {
    Any,
    One(char),
    /// Ranges, and whether a character must be outside them.
    Class(Vec<(char, char)>, bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Times {
    Once,
    /// `?`
    Perhaps,
    /// `*`
    Any,
    /// `+`
    Some,
}

impl Pattern {
    /// Reads a pattern, the entry of the dictionary `key`.
    pub fn new(text: &str, key: &str) -> Result<Pattern> {
        let refuse = |what: &str| {
            Error::Unsupported(format!(
                "adapter_config.json: `{key}` has the pattern {text:?} with {what}, which pith \
                 doesn't read; write the names of the modules out"
            ))
        };
        if text.len() > MAX_LEN {
            return Err(refuse("too many characters"));
        }
        let anchored = text.starts_with('^');
        let mut rest = text.strip_prefix('^').unwrap_or(text).chars().peekable();
        let mut atoms = Vec::new();
        while let Some(c) = rest.next() {
            let atom = match c {
                '.' => Atom::Any,
                '\\' => match rest.next() {
                    Some('d') => Atom::Class(vec![('0', '9')], false),
                    Some(c) if c.is_ascii_punctuation() => Atom::One(c),
                    _ => return Err(refuse("an escape")),
                },
                '[' => class(&mut rest).ok_or_else(|| refuse("a set of characters"))?,
                '(' | ')' | '|' | '{' | '}' | '^' | '$' | '*' | '+' | '?' => {
                    return Err(refuse(&format!("`{c}`")));
                }
                c => Atom::One(c),
            };
            let times = match rest.peek() {
                Some('*') => Times::Any,
                Some('+') => Times::Some,
                Some('?') => Times::Perhaps,
                _ => Times::Once,
            };
            if times != Times::Once {
                rest.next();
                if matches!(rest.peek(), Some('*' | '+' | '?')) {
                    return Err(refuse("a repetition of a repetition"));
                }
            }
            atoms.push((atom, times));
        }
        Ok(Pattern { anchored, atoms })
    }

    /// Whether PEFT takes `module` for one that the pattern names: `(.*\.)?(PATTERN)$` matches it,
    /// so the pattern is the whole name or an end of it behind a dot.
    pub fn matches(&self, module: &str) -> bool {
        if self.is(module) {
            return true;
        }
        let ends = module.match_indices('.').map(|(dot, _)| &module[dot + 1..]);
        !self.anchored && ends.into_iter().any(|end| self.is(end))
    }

    /// Whether the pattern is all of `text`. The states of the automaton are followed side by
    /// side, so that no pattern takes longer than its length times the text's.
    fn is(&self, text: &str) -> bool {
        let mut at = vec![false; self.atoms.len() + 1];
        at[0] = true;
        self.skip(&mut at);
        for c in text.chars() {
            let mut next = vec![false; at.len()];
            for (i, (atom, times)) in self.atoms.iter().enumerate() {
                if at[i] && atom.is(c) {
                    next[i + 1] = true;
                    next[i] |= matches!(times, Times::Any | Times::Some);
                }
            }
            self.skip(&mut next);
            at = next;
        }
        at[self.atoms.len()]
    }

    /// Goes on behind atoms that may be absent.
    fn skip(&self, at: &mut [bool]) {
        for (i, (_, times)) in self.atoms.iter().enumerate() {
            if at[i] && matches!(times, Times::Any | Times::Perhaps) {
                at[i + 1] = true;
            }
        }
    }
}

impl Atom {
    fn is(&self, c: char) -> bool {
        match self {
            Atom::Any => c != '\n',
            Atom::One(one) => *one == c,
            Atom::Class(ranges, outside) => {
                ranges.iter().any(|&(from, to)| (from..=to).contains(&c)) != *outside
            }
        }
    }
}

/// A set of characters behind its `[`: letters and digits, ranges of them, `_`, `.`.
fn class(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Atom> {
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
    let outside = rest.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        let from = match rest.next()? {
            ']' if !ranges.is_empty() => return Some(Atom::Class(ranges, outside)),
            c => Some(c).filter(plain)?,
        };
        let to = match rest.next_if_eq(&'-') {
            Some(_) => rest.next().filter(plain)?,
            None => from,
        };
        ranges.push((from, to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, module: &str) -> bool {
        Pattern::new(pattern, "rank_pattern").unwrap().matches(module)
    }

    /// As `re.match(rf"(.*\.)?({pattern})$", module)` says.
    #[test]
    fn names_and_wildcards_match_as_in_peft() {
        let module = "model.layers.10.self_attn.q_proj";
        for yes in [
            "q_proj",
            "self_attn.q_proj",
            "model.layers.10.self_attn.q_proj",
            "^model.layers.10.self_attn.q_proj",
            "layers.1..self_attn.q_proj",
            r"layers\.\d+\.self_attn\.q_proj",
            "layers.[0-9]+.self_attn.[qk]_proj",
            "model.*q_proj",
            ".*",
            "x?q_proj",
        ] {
            assert!(matches(yes, module), "{yes}");
        }
        for no in [
            "proj",
            "_proj",
            "q_pro",
            "k_proj",
            "^q_proj",
            "layers.1.self_attn.q_proj",
            "layers.[^0-9]+.self_attn.q_proj",
            r"model\.q_proj",
            "",
            "x+q_proj",
        ] {
            assert!(!matches(no, module), "{no}");
        }
    }

    #[test]
    fn what_is_not_read_is_refused() {
        for bad in
            ["(q|v)_proj", "a{2}", "q_proj$", "*a", r"\w", r"\", "[", "[]", "[a-", "a**", "[\\d]"]
        {
            assert!(Pattern::new(bad, "rank_pattern").is_err(), "{bad}");
        }
        assert!(Pattern::new(&"a".repeat(MAX_LEN + 1), "rank_pattern").is_err());
        // Exponential for an engine that tries one way after the other.
        assert!(!matches(&"a*".repeat(400), &format!("{}b", "a".repeat(400))));
    }
}
