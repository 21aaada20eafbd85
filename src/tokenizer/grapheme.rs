//! Where short grapheme clusters end, which `tokenizers` looks up in a map of characters as a whole:
//! those of at most five bytes. That leaves out what needs tables of its own: Hangul syllables, flags,
//! emoji sequences and Indic conjuncts are longer. Of those only this is lost: their later parts are
//! taken for beginnings, which tells nothing apart unless such a part has a rule and a mark of two
//! bytes behind it.
//!
//! Unicode 17, annex 29: rules GB3 to GB5, GB9, GB9a and GB9b.

use unicode_general_category::{GeneralCategory as Gc, get_general_category};

/// Where the cluster that `text` begins with ends; 0 for no text.
pub(super) fn end(text: &str) -> usize {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return 0 };
    let second = chars.clone().next();
    if first == '\r' && second == Some('\n') {
        return 2;
    }
    // Most text: nothing joins these.
    if first.is_ascii() && second.is_none_or(|c| c.is_ascii()) || is_control(first) {
        return first.len_utf8();
    }
    let (mut end, mut last) = (first.len_utf8(), first);
    for c in chars {
        let joins = follows(c) || precedes(last) && !is_control(c);
        if !joins {
            break;
        }
        end += c.len_utf8();
        last = c;
    }
    end
}

/// `Control`, CR and LF: nothing joins them.
fn is_control(c: char) -> bool {
    match c {
        '\u{200c}' | '\u{200d}' | '\u{e0020}'..='\u{e007f}' => false,
        // Not assigned, and not shown.
        '\u{2065}' | '\u{fff0}'..='\u{fff8}' | '\u{e0000}' | '\u{e0002}'..='\u{e001f}' => true,
        '\u{e0080}'..='\u{e00ff}' | '\u{e01f0}'..='\u{e0fff}' => true,
        _ => {
            let category = get_general_category(c);
            let control = matches!(
                category,
                Gc::Control | Gc::Format | Gc::LineSeparator | Gc::ParagraphSeparator
            );
            control && !precedes(c)
        }
    }
}

/// `Extend`, `ZWJ` and `SpacingMark`: they join what is before them.
fn follows(c: char) -> bool {
    match c {
        '\0'..='\u{2ff}' => false,
        '\u{e33}' | '\u{eb3}' | '\u{200c}' | '\u{200d}' | '\u{ff9e}' | '\u{ff9f}' => true,
        '\u{1f3fb}'..='\u{1f3ff}' | '\u{e0020}'..='\u{e007f}' => true,
        // Of Unicode 17.
        '\u{1acf}'..='\u{1add}' | '\u{1ae0}'..='\u{1aeb}' | '\u{10efa}' | '\u{10efb}' => true,
        '\u{11b60}'..='\u{11b67}' | '\u{1e6e3}' | '\u{1e6e6}' | '\u{1e6ee}' | '\u{1e6ef}' => true,
        '\u{1e6f5}' => true,
        // Burmese, Tai and Ahom vowels and tones that stand alone.
        '\u{102b}' | '\u{102c}' | '\u{1038}' | '\u{1062}'..='\u{1064}' => false,
        '\u{1067}'..='\u{106d}' | '\u{1083}' | '\u{1087}'..='\u{108c}' | '\u{108f}' => false,
        '\u{109a}'..='\u{109c}' | '\u{1a61}' | '\u{1a63}' | '\u{1a64}' => false,
        '\u{aa7b}' | '\u{aa7d}' | '\u{11720}' | '\u{11721}' => false,
        _ => matches!(
            get_general_category(c),
            Gc::NonspacingMark | Gc::EnclosingMark | Gc::SpacingMark
        ),
    }
}

/// `Prepend`: what is behind them joins them.
fn precedes(c: char) -> bool {
    matches!(c,
        '\u{600}'..='\u{605}' | '\u{6dd}' | '\u{70f}' | '\u{890}' | '\u{891}' | '\u{8e2}'
        | '\u{d4e}' | '\u{110bd}' | '\u{110cd}' | '\u{111c2}' | '\u{111c3}' | '\u{113d1}'
        | '\u{1193f}' | '\u{11941}' | '\u{11a84}'..='\u{11a89}' | '\u{11d46}' | '\u{11f02}')
}
