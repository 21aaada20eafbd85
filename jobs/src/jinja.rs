//! Jinja under bounds, for chat templates and for a job's own. A template may come with a model's
//! file and its values with a stranger's rows, so that neither is trusted: steps and output are
//! bounded, there are no files and no other templates to include.

use std::io;

use minijinja::{
    Environment, Error as JinjaError, ErrorKind, UndefinedBehavior, Value, syntax::SyntaxConfig,
};
use pith::{Error, Result};

/// Steps that one rendering may take, 64 bytes of copied text counting as one. Real templates need
/// a few hundred per message.
const FUEL: u64 = 10_000_000;
/// Bytes of template text that are accepted; the longest known templates have 20 kB.
const MAX_TEMPLATE: usize = 1 << 20;
/// Bytes of text that one rendering may give; far more than any context holds.
const MAX_TEXT: usize = 16 << 20;
/// What the one template of an environment is called; its errors name it.
const NAME: &str = "template";

/// A compiled template.
pub(crate) struct Jinja {
    environment: Environment<'static>,
}

impl Jinja {
    /// Compiles `source`. `what` is said where it is no template. A strict one refuses values that
    /// aren't there and keeps a line end at its own end; others are rendered as transformers does.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the line.
    pub(crate) fn new(source: &str, what: &'static str, is_strict: bool) -> Result<Jinja> {
        if source.len() > MAX_TEMPLATE {
            let fault = format!("{} bytes; {MAX_TEMPLATE} are accepted", source.len());
            return Err(Error::malformed(what, fault));
        }
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        if is_strict {
            environment.set_undefined_behavior(UndefinedBehavior::Strict);
        }
        // As transformers sets Jinja up.
        let mut syntax = SyntaxConfig::builder();
        syntax.trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(is_strict);
        let syntax = syntax.build();
        environment.set_syntax(syntax.map_err(|error| Error::Unsupported(error.to_string()))?);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|error| Error::malformed(what, error.to_string()))?;
        Ok(Jinja { environment })
    }

    /// The names that the template reads and doesn't set itself, in order.
    pub(crate) fn variables(&self) -> Vec<String> {
        let is_global = |name: &str| self.environment.globals().any(|(global, _)| global == name);
        let template = self.environment.get_template(NAME);
        let names = template.map(|template| template.undeclared_variables(false));
        let mut names: Vec<String> = names.unwrap_or_default().into_iter().collect();
        names.retain(|name| !is_global(name));
        names.sort_unstable();
        names
    }

    /// The template's text with these values.
    pub(crate) fn render(&self, context: Value) -> std::result::Result<String, JinjaError> {
        let mut text = Text::default();
        let template = self.environment.get_template(NAME)?;
        template.render_captured_to(context, &mut text).map_err(|error| match text.is_full {
            true => {
                let what = format!("the text is longer than {MAX_TEXT} bytes");
                JinjaError::new(ErrorKind::InvalidOperation, what)
            }
            false => error,
        })?;
        String::from_utf8(text.bytes)
            .map_err(|error| JinjaError::new(ErrorKind::WriteFailure, error.to_string()))
    }
}

/// How a template refuses what it is given.
fn raise_exception(message: String) -> std::result::Result<Value, JinjaError> {
    Err(JinjaError::new(ErrorKind::InvalidOperation, message))
}

/// A rendered text on its way, of bounded length.
#[derive(Default)]
struct Text {
    bytes: Vec<u8>,
    is_full: bool,
}

impl io::Write for &mut Text {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + piece.len() > MAX_TEXT {
            self.is_full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> std::result::Result<String, String> {
        let template = Jinja::new(source, "template", true);
        let template = template.map_err(|error| error.to_string())?;
        template.render(Value::UNDEFINED).map_err(|error| error.to_string())
    }

    #[test]
    fn steps_memory_and_output_are_bounded() {
        let long =
            "{% for a in range(9999) %}{{ 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' * 99 }}{% endfor %}";
        for (source, fault) in [
            (
                "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
                "fuel",
            ),
            (
                "{% set n = namespace(x='x') %}{% for a in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
                "fuel",
            ),
            ("{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}", "recursion"),
            (long, "longer than"),
        ] {
            let error = render(source).unwrap_err();
            assert!(error.contains(fault), "{error}");
        }
    }

    #[test]
    fn there_are_no_other_templates() {
        for source in ["{% include 'template' %}", "{% extends 'x' %}", "{% import 'x' as x %}"] {
            assert!(render(source).unwrap_err().contains("unknown statement"), "{source}");
        }
    }

    #[test]
    fn deep_templates_are_refused() {
        let deep = format!("{{{{ {}1{} }}}}", "(".repeat(9999), ")".repeat(9999));
        assert!(render(&deep).unwrap_err().contains("recursion"), "{:?}", render(&deep));
        assert!(render(&"x".repeat(MAX_TEMPLATE + 1)).unwrap_err().contains("are accepted"));
    }
}
