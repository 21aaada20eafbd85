//! From a row to a model's tokens.

use std::sync::Arc;

use pith::{Error, Model, Result, tokenizer::Tokenizer};
use serde_json::{Value, json};

use crate::{
    chat::{ChatTemplate, Message},
    continuation::{self, Continuation},
    guard::{Guard, Prompt},
    row::{Cell, Row, RowError},
    template::Template,
};

/// Where a text of a row comes from.
#[derive(Clone)]
pub enum From {
    /// A column.
    Column(String),
    /// A template of columns.
    Template(Arc<Template>),
    /// What a user says to a model that answers.
    Chat {
        /// The model's template of conversations.
        template: Arc<ChatTemplate>,
        /// What the system says before, if anything.
        system: Option<String>,
        /// What the user says.
        user: Box<From>,
    },
}

impl From {
    /// For a manifest.
    pub fn describe(&self) -> Value {
        match self {
            From::Column(name) => json!({"column": name}),
            From::Template(template) => json!({"template": template.source()}),
            From::Chat { system, user, .. } => json!({"chat": user.describe(), "system": system}),
        }
    }
}

/// Reads rows for a model.
pub struct Reader<'m> {
    tokenizer: &'m Tokenizer,
    parse_special: bool,
}

impl<'m> Reader<'m> {
    /// A reader; without `parse_special` no text of a row becomes a control token.
    pub fn new(tokenizer: &'m Tokenizer, parse_special: bool) -> Reader<'m> {
        Reader { tokenizer, parse_special }
    }

    fn guard(&self) -> Option<Guard> {
        (!self.parse_special).then(|| Guard::new(self.tokenizer))
    }

    /// A job's template as this reader's rows need it.
    ///
    /// # Errors
    /// As [`Template::new`].
    pub fn template(&self, source: &str) -> Result<From> {
        Ok(From::Template(Arc::new(Template::new(source, self.guard().as_ref())?)))
    }

    /// What a user says, in the form of the model's conversations.
    ///
    /// # Errors
    /// As [`ChatTemplate::of`]; the model has no such form.
    pub fn chat(&self, model: &Model, system: Option<String>, user: From) -> Result<From> {
        let template = ChatTemplate::of(model, self.guard().as_ref())?.ok_or_else(|| {
            Error::Unsupported("the model's file has no chat template: leave --chat out".into())
        })?;
        Ok(From::Chat { template: Arc::new(template), system, user: Box::new(user) })
    }

    /// A prompt as it is for a row that says nothing.
    ///
    /// # Errors
    /// The template refuses such a row.
    pub fn empty(&self, from: &From) -> std::result::Result<Prompt, RowError> {
        let mut row = Row::default();
        let variables = match from {
            From::Column(name) => std::slice::from_ref(name),
            From::Template(template) => template.variables(),
            From::Chat { user, .. } => return self.empty(user),
        };
        for name in variables {
            row.push(name, Cell::Text(String::new()));
        }
        self.text(from, &row)
    }

    /// A text that is no row's.
    pub fn plain(&self, text: impl Into<String>) -> Prompt {
        if self.parse_special { Prompt::trusted(text) } else { Prompt::plain(text) }
    }

    /// A row's text.
    ///
    /// # Errors
    /// "missing_column"; as [`Template::prompt`].
    pub fn text(&self, from: &From, row: &Row) -> std::result::Result<Prompt, RowError> {
        match from {
            From::Column(name) => Ok(self.plain(row.text(name)?)),
            From::Template(template) => template.prompt(row),
            From::Chat { template, system, user } => {
                let user = self.text(user, row)?.text;
                let system = system.iter().map(|said| ("system", said.clone()));
                let turns = system.chain([("user", user)]);
                let turns = turns.map(|(role, content)| Message { role, content });
                template.prompt(&turns.collect::<Vec<_>>())
            }
        }
    }

    /// Tokens that others may follow: the model's first one before them, where it wants that, and none
    /// that ends texts.
    pub fn encode(&self, text: &Prompt) -> Vec<u32> {
        let mut ids = text.encode(self.tokenizer);
        if !text.is_whole() {
            self.tokenizer.take_end(&mut ids);
        }
        ids
    }

    /// Tokens of a text that is complete.
    pub fn encode_whole(&self, text: &Prompt) -> Vec<u32> {
        text.encode(self.tokenizer)
    }

    /// The sequence of a continuation and what is before it; without a context, of a whole text.
    ///
    /// # Errors
    /// "empty": there is nothing to score.
    pub fn pair(
        &self,
        context: Option<&Prompt>,
        continuation: &Prompt,
    ) -> std::result::Result<Continuation, RowError> {
        let Some(context) = context else {
            return continuation::pair(self.tokenizer, &[], self.encode(continuation));
        };
        let both = self.encode(&context.joined(continuation));
        continuation::pair(self.tokenizer, &self.encode(&context.trimmed()), both)
    }
}
