//! A job's own template: `Translate: {{ text }}`, with the row's columns as variables.

use std::collections::BTreeMap;

use minijinja::{Error as JinjaError, ErrorKind, Value};
use pith::Result;

use crate::{
    guard::{Guard, Prompt, check_value},
    jinja::Jinja,
    row::{Row, RowError},
    value,
};

/// A compiled template.
///
/// Texts are strings; other cells are what their JSON says, whole numbers exact up to 128 bits,
/// dictionaries in the order of their keys. Columns whose name is no name in Jinja can't be used.
pub struct Template {
    source: String,
    plain: Jinja,
    variables: Vec<String>,
    control: Control,
}

/// Which control texts are control tokens.
enum Control {
    /// All, the row's too.
    All,
    /// None: the template has none.
    None,
    /// The template's own, which its second form marks.
    Own(Guard, Box<Jinja>),
}

impl Template {
    /// Compiles `source`. With a guard the control texts that stand in the template are control
    /// tokens, and those in rows are text; without one all are control tokens.
    ///
    /// # Errors
    /// [`pith::Error::Malformed`] where the source is no template, with the line.
    pub fn new(source: &str, guard: Option<&Guard>) -> Result<Template> {
        let compile = |source: &str| Jinja::new(source, "template", true);
        let plain = compile(source)?;
        let marked = guard.map(|guard| (guard, guard.mark_source(source, false)));
        let control = match marked {
            None => Control::All,
            Some((_, None)) => Control::None,
            Some((guard, Some(marked))) => Control::Own(guard.clone(), Box::new(compile(&marked)?)),
        };
        Ok(Template { source: source.to_owned(), variables: plain.variables(), plain, control })
    }

    /// What it was compiled from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The names of the columns that it reads, in order: all that its text has, whether or not they
    /// are needed for a given row.
    pub fn variables(&self) -> &[String] {
        &self.variables
    }

    /// The text for a row.
    ///
    /// # Errors
    /// "missing_column" where the template needs one that the row doesn't have; "value" where a cell
    /// can't be a value; "template" with the template's own reason.
    pub fn render(&self, row: &Row) -> std::result::Result<String, RowError> {
        self.plain.render(self.context(row)?).map_err(|error| self.fault(row, &error))
    }

    /// The prompt for a row.
    ///
    /// # Errors
    /// Those of [`Template::render`]; with a guard and control texts in the template "text" where the
    /// row holds one of the noncharacters that mark them, and "control" where the template compares
    /// its control texts with the row's.
    pub fn prompt(&self, row: &Row) -> std::result::Result<Prompt, RowError> {
        let text = self.render(row)?;
        let (guard, marked) = match &self.control {
            Control::All => return Ok(Prompt::trusted(text)),
            Control::None => return Ok(Prompt::plain(text)),
            Control::Own(guard, marked) => (guard, marked),
        };
        let context = self.context(row)?;
        check_value(&context)?;
        let marked = marked.render(context).map_err(|error| self.fault(row, &error))?;
        let (same, places) = guard.unmark(&marked);
        same_text(&text, &same)?;
        Ok(Prompt::at(text, places))
    }

    /// The columns that the template reads.
    fn context(&self, row: &Row) -> std::result::Result<Value, RowError> {
        let cells = self.variables.iter().filter_map(|name| Some((name, row.get(name)?)));
        let value = |(name, cell)| match value::of(cell) {
            Ok(value) => Ok((name, value)),
            Err(error) => Err(RowError::new("value", format!("column {name:?}: {error}"))),
        };
        let values = cells.map(|(name, cell)| value((name.as_str(), cell)));
        let values: BTreeMap<&str, Value> = values.collect::<std::result::Result<_, RowError>>()?;
        Ok(Value::from(values))
    }

    fn fault(&self, row: &Row, error: &JinjaError) -> RowError {
        let mut missing = self.variables.iter().filter(|name| row.get(name).is_none());
        match missing.next() {
            Some(name) if error.kind() == ErrorKind::UndefinedError => {
                RowError::new("missing_column", missing_column(name, row))
            }
            _ => RowError::new("template", error.to_string()),
        }
    }
}

/// "the template needs ...".
fn missing_column(name: &str, row: &Row) -> String {
    let there: Vec<String> = row.iter().take(20).map(|(name, _)| format!("{name:?}")).collect();
    let more = if row.iter().nth(20).is_some() { ", ..." } else { "" };
    match there.is_empty() {
        true => format!("the template needs {name:?}, the row has no columns"),
        false => format!("the template needs {name:?}, the row has {}{more}", there.join(", ")),
    }
}

/// Refuses a rendering that marks have changed.
pub(crate) fn same_text(plain: &str, marked: &str) -> std::result::Result<(), RowError> {
    match plain == marked {
        true => Ok(()),
        false => Err(RowError::new(
            "control",
            "the template compares or measures control texts, so that its own can't be told from \
             the row's; --parse-special takes all of them for control tokens",
        )),
    }
}
