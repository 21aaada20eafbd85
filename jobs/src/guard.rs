//! Control tokens are the template's to write, never the row's. A row's text may hold the text of a
//! control token, or become one by a filter, or by being joined to its neighbours; so what is
//! watched is not the rows but the template: the control texts that it writes itself are marked in
//! its source by noncharacters, and after rendering a control text counts if its marks are still
//! around it. All other text is plain, whatever it looks like.
//!
//! A text that holds such a mark itself is refused where marks are in use.

use std::{ops::Range, sync::Arc};

use minijinja::Value;
use pith::tokenizer::{Encode, Specials, Tokenizer};

use crate::{literals::literals, row::RowError};

/// Before a control text. This and the others are noncharacters: no text has them by right.
const OPEN: char = '\u{fdd0}';
/// Behind a control text.
const CLOSE: char = '\u{fdd1}';
/// Before the beginning of a control text that the template goes on with from a name.
const BEGIN: char = '\u{fdd2}';
const MARKS: [char; 3] = [OPEN, CLOSE, BEGIN];

/// Bytes from which on the end of a text in a template is taken for the beginning of a control text:
/// a single `<` or `[` says nothing.
const MIN_BEGIN: usize = 2;

/// What a guard must know of a vocabulary.
#[derive(Clone)]
pub struct Guard {
    specials: Arc<Specials>,
}

impl Guard {
    /// The guard of a vocabulary.
    pub fn new(tokenizer: &Tokenizer) -> Guard {
        Guard { specials: Arc::new(tokenizer.specials()) }
    }

    /// A template's source with marks around its control texts; `None` where it has none. With
    /// `begun` also those count that it begins with a text of its own and goes on from a value, such
    /// as `'<|' + message['role'] + '|>'`: only for values that are names from a list.
    pub(crate) fn mark_source(&self, source: &str, begun: bool) -> Option<String> {
        let mut marked = String::with_capacity(source.len());
        let mut done = 0;
        for range in literals(source) {
            marked.push_str(&source[done..range.start]);
            marked.push_str(&self.mark(&source[range.clone()], begun));
            done = range.end;
        }
        marked.push_str(&source[done..]);
        (marked.len() > source.len()).then_some(marked)
    }

    /// A trusted text with marks around its control texts.
    pub(crate) fn mark(&self, text: &str, begun: bool) -> String {
        let mut marked = String::with_capacity(text.len());
        let mut done = 0;
        for place in self.specials.places(text) {
            marked.push_str(&text[done..place.start]);
            marked.push(OPEN);
            marked.push_str(&text[place.clone()]);
            marked.push(CLOSE);
            done = place.end;
        }
        let rest = &text[done..];
        let begins = if begun { self.specials.begun_at_end_of(rest) } else { 0 };
        if begins >= MIN_BEGIN {
            marked.push_str(&rest[..rest.len() - begins]);
            marked.push(BEGIN);
            marked.push_str(&rest[rest.len() - begins..]);
        } else {
            marked.push_str(rest);
        }
        marked
    }

    /// Takes the marks out of a rendered text; the places of control texts that had theirs.
    pub(crate) fn unmark(&self, marked: &str) -> (String, Vec<Range<usize>>) {
        let mut text = String::with_capacity(marked.len());
        let (mut places, mut begun, mut open) = (Vec::new(), Vec::new(), None);
        for piece in marked.split_inclusive(MARKS) {
            text.push_str(piece.trim_end_matches(MARKS));
            match piece.chars().next_back() {
                Some(OPEN) => open = Some(text.len()),
                Some(BEGIN) => begun.push(text.len()),
                Some(CLOSE) => {
                    let place = open.take().map(|open| open..text.len());
                    places.extend(place.filter(|place| self.specials.is_one(&text[place.clone()])));
                }
                _ => {}
            }
        }
        for from in begun {
            let len = self.specials.at_start_of(&text[from..]);
            places.extend(len.map(|len| from..from + len));
        }
        places.sort_by_key(|place| (place.start, place.end));
        let mut end = 0;
        places.retain(|place| {
            let is_apart = place.start >= end;
            end = end.max(place.end);
            is_apart
        });
        (text, places)
    }

    /// Where all control texts of `text` are.
    pub(crate) fn places(&self, text: &str) -> Vec<Range<usize>> {
        self.specials.places(text)
    }
}

/// Refuses a text that holds a mark.
pub(crate) fn check_text(text: &str) -> Result<(), RowError> {
    match text.chars().find(|c| MARKS.contains(c)) {
        None => Ok(()),
        Some(mark) => Err(RowError::new(
            "text",
            format!(
                "the noncharacter U+{:04X} can't be used where a template writes control tokens",
                u32::from(mark)
            ),
        )),
    }
}

/// The same for all texts of a value.
pub(crate) fn check_value(value: &Value) -> Result<(), RowError> {
    if let Some(text) = value.as_str() {
        return check_text(text);
    }
    // A dictionary gives its keys.
    for item in value.try_iter().into_iter().flatten() {
        check_value(&item)?;
        if value.kind() == minijinja::value::ValueKind::Map {
            check_value(&value.get_item(&item).unwrap_or_default())?;
        }
    }
    Ok(())
}

/// Which control texts of a prompt are control tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Control {
    All,
    At(Vec<Range<usize>>),
}

/// A text on its way to ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The text.
    pub text: String,
    control: Control,
    /// The text has the tokens that begin and end a sequence, if it is to have any.
    is_whole: bool,
}

impl Prompt {
    /// A text without control tokens, whatever it looks like.
    pub fn plain(text: impl Into<String>) -> Prompt {
        Prompt::at(text.into(), Vec::new())
    }

    /// A text whose control texts are all meant.
    pub fn trusted(text: impl Into<String>) -> Prompt {
        Prompt { text: text.into(), control: Control::All, is_whole: false }
    }

    /// A text whose control texts are meant at these places.
    pub(crate) fn at(text: String, places: Vec<Range<usize>>) -> Prompt {
        Prompt { text, control: Control::At(places), is_whole: false }
    }

    /// The same, but neither BOS nor EOS is put around it: chat templates write them themselves.
    pub(crate) fn whole(self) -> Prompt {
        Prompt { is_whole: true, ..self }
    }

    /// Whether it has the tokens that begin and end a sequence, if it is to have any.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Both texts, one behind the other.
    pub fn joined(&self, other: &Prompt) -> Prompt {
        let control = match (&self.control, &other.control) {
            (Control::At(own), Control::At(others)) => {
                let n = self.text.len();
                let others = others.iter().map(|place| place.start + n..place.end + n);
                Control::At(own.iter().cloned().chain(others).collect())
            }
            _ => Control::All,
        };
        let text = format!("{}{}", self.text, other.text);
        Prompt { text, control, is_whole: self.is_whole }
    }

    /// The text without whitespace at its end.
    pub(crate) fn trimmed(&self) -> Prompt {
        let text = self.text.trim_end().to_owned();
        let control = match &self.control {
            Control::All => Control::All,
            Control::At(places) => {
                let inside = places.iter().filter(|place| place.end <= text.len());
                Control::At(inside.cloned().collect())
            }
        };
        Prompt { text, control, is_whole: self.is_whole }
    }

    /// The ids: BOS before and EOS behind where the model wants them, but no second BOS before one
    /// that the template has written.
    pub fn encode(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        let add_special = !self.is_whole;
        let mut ids = match &self.control {
            Control::All => {
                tokenizer.encode(&self.text, Encode { add_special, parse_special: true })
            }
            Control::At(places) => tokenizer.encode_guarded(&self.text, add_special, places),
        };
        let added = if add_special && tokenizer.add_bos() { tokenizer.bos() } else { None };
        if let (Some(bos), [first, second, ..]) = (added, &ids[..])
            && [*first, *second] == [bos; 2]
        {
            ids.remove(0);
        }
        ids
    }
}
