//! The texts that a Jinja template writes out itself: what lies between its tags, and the strings
//! inside them. Found without understanding the rest, for marking the texts that are trusted.

use std::ops::Range;

/// The texts in order. What is no template is cut in some way; compiling it says what is wrong.
pub(crate) fn literals(source: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < source.len() {
        let open = tag(source, at);
        found.extend((at < open).then_some(at..open));
        at = match source[open..].get(..2) {
            None => source.len(),
            Some("{#") => behind(source, open, "#}"),
            Some(kind) => {
                let end =
                    strings(source, open + 2, if kind == "{{" { b'}' } else { b'%' }, &mut found);
                let inside = source.get(open + 2..end.saturating_sub(2)).unwrap_or("");
                if kind == "{%" && word(inside) == "raw" {
                    let to = end_of_raw(source, end);
                    found.extend((end < to).then_some(end..to));
                    to
                } else {
                    end
                }
            }
        };
    }
    found
}

/// Where the next tag or comment begins, from `at`; the end where none does.
fn tag(source: &str, at: usize) -> usize {
    let mut braces = source[at..].match_indices('{').map(|(i, _)| at + i);
    let opens = |&i: &usize| matches!(source.as_bytes().get(i + 1), Some(b'{' | b'%' | b'#'));
    braces.find(opens).unwrap_or(source.len())
}

/// Behind the next `end`, from `at`.
fn behind(source: &str, at: usize, end: &str) -> usize {
    source[at..].find(end).map_or(source.len(), |i| at + i + end.len())
}

/// What a tag says, without the marks for whitespace.
fn word(inside: &str) -> &str {
    inside.trim_matches(['-', '+']).trim()
}

fn end_of_raw(source: &str, from: usize) -> usize {
    let mut tags = source[from..].match_indices("{%").map(|(i, _)| from + i);
    let ends = |&at: &usize| {
        let rest = &source[at + 2..];
        word(&rest[..rest.find("%}").unwrap_or(0)]) == "endraw"
    };
    tags.find(ends).unwrap_or(source.len())
}

/// Adds the strings of a tag whose inside begins at `at`, and returns where the tag ends. `close` is
/// its last character but one: brackets inside a tag are closed before it is.
fn strings(source: &str, mut at: usize, close: u8, found: &mut Vec<Range<usize>>) -> usize {
    let bytes = source.as_bytes();
    let mut depth = 0usize;
    while at < bytes.len() {
        match bytes[at] {
            byte if byte == close && depth == 0 && bytes.get(at + 1) == Some(&b'}') => {
                return at + 2;
            }
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            quote @ (b'"' | b'\'') => {
                let from = at + 1;
                at = from;
                while at < bytes.len() && bytes[at] != quote {
                    at += 1 + usize::from(bytes[at] == b'\\');
                }
                let to = at.min(bytes.len());
                // Behind a backslash at the very end there is no whole character.
                if source.is_char_boundary(to) && from < to {
                    found.push(from..to);
                }
            }
            _ => {}
        }
        at += 1;
    }
    source.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<&str> {
        literals(source).into_iter().map(|range| &source[range]).collect()
    }

    #[test]
    fn texts_and_strings_are_found() {
        for (source, wanted) in [
            ("", &[][..]),
            ("a{{ b }}c", &["a", "c"]),
            ("{{ 'a' + \"b\" ~ c['d'] }}", &["a", "b", "d"]),
            ("{# 'a' #}b{%- if x == '%}' -%}c{% endif %}", &["b", "%}", "c"]),
            ("{{ {'a': {'b': 1}} }}c", &["a", "b", "c"]),
            (r"{{ 'a\'b' }}{{ '\\' }}", &[r"a\'b", r"\\"]),
            ("{% raw %}{{ 'a' }}{%- endraw %}b", &["{{ 'a' }}", "b"]),
            ("{ 'a' } {", &["{ 'a' } {"]),
            ("{{ 'a", &["a"]),
            ("{{ 'é\\", &["é\\"]),
            ("{%", &[]),
        ] {
            assert_eq!(texts(source), wanted, "{source}");
        }
    }
}
