//! Which columns the output has: what is kept of the input, then the task's, then the error.

use pith::{Error, Result};

use crate::{
    row::{Cell, Row, RowError},
    task::Column,
};

/// What a user says of the output's columns.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// The columns to keep, in this order; all where this is `None`.
    pub keep: Option<Vec<String>>,
    /// A column that comes first, and that every row must have. Alone it is all that is kept.
    pub id: Option<String>,
    /// What stands before the names of added columns.
    pub prefix: String,
}

impl Choice {
    /// The columns of the input that the output has, in order; `None` is all.
    pub fn kept(&self) -> Option<Vec<String>> {
        let mut kept: Option<Vec<String>> = self.id.clone().map(|id| vec![id]);
        for name in self.keep.iter().flatten() {
            if Some(name) != self.id.as_ref() {
                kept.get_or_insert_default().push(name.clone());
            }
        }
        if self.keep.is_some() {
            kept.get_or_insert_default(); // an empty list keeps nothing
        }
        kept
    }
}

/// The columns of the output.
#[derive(Debug)]
pub struct Columns {
    keep: Option<Vec<String>>,
    id: Option<String>,
    added: Vec<String>,
    error: String,
}

impl Columns {
    /// The columns that `choice` makes of an input's and a task's.
    ///
    /// # Errors
    /// A column is named twice, or both kept and added.
    pub fn new(choice: &Choice, task: &[Column]) -> Result<Columns> {
        let added: Vec<String> =
            task.iter().map(|column| format!("{}{}", choice.prefix, column.name)).collect();
        let error = format!("{}error", choice.prefix);
        let keep = choice.kept();
        let columns = Columns { keep, id: choice.id.clone(), added, error };
        columns.check_names()?;
        Ok(columns)
    }

    /// Each name stands for one column.
    fn check_names(&self) -> Result<()> {
        // A task may say itself what was wrong, by the name that rows' errors have.
        let error = Some(&self.error).filter(|error| !self.added.contains(error));
        let added = self.added.iter().chain(error);
        let names: Vec<&String> = self.keep.iter().flatten().chain(added).collect();
        for (i, name) in names.iter().enumerate() {
            if names[..i].contains(name) {
                return Err(Error::Invalid(match self.adds(name) && self.is_kept(name) {
                    true => clash(name),
                    false => format!("the output would have the column {name:?} twice"),
                }));
            }
        }
        Ok(())
    }

    /// Whether no column was chosen, so that all are kept.
    pub fn keeps_all(&self) -> bool {
        self.keep.is_none()
    }

    /// The names of the columns that the task adds.
    pub fn added(&self) -> &[String] {
        &self.added
    }

    /// The name of the error's column.
    pub fn error(&self) -> &str {
        &self.error
    }

    /// Whether the output has a column of this name that isn't the input's.
    pub fn adds(&self, name: &str) -> bool {
        name == self.error || self.added.iter().any(|other| other == name)
    }

    fn is_kept(&self, name: &str) -> bool {
        self.keep.as_ref().is_none_or(|keep| keep.iter().any(|other| other == name))
    }

    /// Checks the choice against an input's columns, where they are known before its rows.
    ///
    /// # Errors
    /// A column to be kept isn't there, or one that is added is.
    pub fn check_input(&self, input: &[String]) -> Result<()> {
        for name in self.keep.iter().flatten() {
            if !input.contains(name) {
                let fault = format!("no column {name:?}: the input has {}", input.join(", "));
                return Err(Error::Invalid(fault));
            }
        }
        self.of_table(input.iter().map(String::as_str)).map(|_| ())
    }

    /// The kept columns of a table whose input has these.
    ///
    /// # Errors
    /// One of them is added too.
    pub(super) fn of_table<'n>(&self, input: impl Iterator<Item = &'n str>) -> Result<Vec<String>> {
        if let Some(keep) = &self.keep {
            return Ok(keep.clone());
        }
        input
            .map(|name| match self.adds(name) {
                true => Err(Error::Invalid(clash(name))),
                false => Ok(name.to_owned()),
            })
            .collect()
    }

    /// Checks that the row has what it must have, and nothing that is added.
    pub(super) fn check(&self, row: &Row) -> std::result::Result<(), RowError> {
        if let Some(id) = self.id.as_ref().filter(|id| row.get(id).is_none()) {
            let fault = format!("no column {id:?}, which --id names");
            return Err(RowError::new("missing_column", fault));
        }
        match row.iter().find(|(name, _)| self.keep.is_none() && self.adds(name)) {
            Some((name, _)) => Err(RowError::new("column_clash", clash(name))),
            None => Ok(()),
        }
    }

    /// What is kept of a row, in order. A column that it lacks is left out.
    pub(super) fn each(&self, row: &Row, mut take: impl FnMut(&str, &Cell)) {
        match &self.keep {
            None => row.iter().for_each(|(name, cell)| take(name, cell)),
            Some(keep) => {
                let cells = keep.iter().filter_map(|name| Some((name, row.get(name)?)));
                cells.for_each(|(name, cell)| take(name, cell));
            }
        }
    }
}

fn clash(name: &str) -> String {
    format!(
        "the input has a column {name:?}, which is added too: put something before the added names \
         with --prefix, or choose other columns with --keep"
    )
}
