//! Chat templates: the Jinja text that a model carries, rendered under bounds. A template comes
//! with the model file, so it is as untrusted as the rest of it.

use minijinja::{
    Environment, Error as JinjaError, ErrorKind, Value, context, syntax::SyntaxConfig,
};
use pith::{Error, Result};

/// Steps that one rendering may take. Real templates need a few hundred per message.
const FUEL: u64 = 10_000_000;
/// Bytes of template text that are accepted; the longest known templates have 20 kB.
const MAX_TEMPLATE: usize = 1 << 20;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// "system", "user" or "assistant".
    pub role: &'static str,
    /// What was said.
    pub content: String,
}

/// A compiled chat template.
pub struct Template {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

impl Template {
    /// Compiles `source`; `bos` and `eos` are the texts of those tokens, empty where there are none.
    ///
    /// # Errors
    /// [`Error::Malformed`] where the source is no template, with the line.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Template> {
        if source.len() > MAX_TEMPLATE {
            let fault = format!("{} bytes; {MAX_TEMPLATE} are accepted", source.len());
            return Err(Error::malformed("chat template", fault));
        }
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        // As transformers sets Jinja up.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| Error::Unsupported(error.to_string()))?);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment
            .add_template_owned("chat", without_generation_tags(source))
            .map_err(|error| Error::malformed("chat template", error.to_string()))?;
        Ok(Template { environment, bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// The text of a conversation, up to where the assistant speaks next.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the template's own reason where it refuses the conversation (two
    /// user turns in a row, a system turn), or runs out of steps.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| context! { role => message.role, content => message.content.as_str() })
            .collect();
        self.environment
            .get_template("chat")
            .and_then(|template| {
                template.render(context! {
                    messages => messages,
                    add_generation_prompt => true,
                    bos_token => self.bos.as_str(),
                    eos_token => self.eos.as_str(),
                })
            })
            .map_err(|error| Error::Invalid(format!("the model's chat template says: {error}")))
    }
}

/// How a template refuses a conversation.
fn raise_exception(message: String) -> std::result::Result<Value, JinjaError> {
    Err(JinjaError::new(ErrorKind::InvalidOperation, message))
}

/// Drops `{% generation %}` and `{% endgeneration %}`: marks for training that transformers adds
/// to Jinja, and that render to nothing.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let Some(close) = rest[open..].find("%}").map(|at| open + at + 2) else { break };
        let inside = rest[open + 2..close - 2].trim_matches(['-', '+']).trim();
        if matches!(inside, "generation" | "endgeneration") {
            // An empty comment keeps the tag's whitespace control.
            out.push_str(&rest[..open]);
            let dashes = &rest[open + 2..close - 2];
            out.push_str(if dashes.starts_with('-') { "{#-" } else { "{#" });
            out.push_str(if dashes.ends_with('-') { "-#}" } else { "#}" });
        } else {
            out.push_str(&rest[..close]);
        }
        rest = &rest[close..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' \
        + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

    fn user(content: &str) -> Message {
        Message { role: "user", content: content.into() }
    }

    #[test]
    fn renders_chatml() {
        let text = Template::new(CHATML, "", "").unwrap().render(&[user("Hi {{ x }}")]).unwrap();
        assert_eq!(text, "<|im_start|>user\nHi {{ x }}<|im_end|>\n<|im_start|>assistant\n");
    }

    #[test]
    fn python_methods_and_special_tokens_work() {
        let source =
            "{{ bos_token }}{{ messages[0]['content'].strip().startswith('a') }}{{ eos_token }}";
        let text = Template::new(source, "<s>", "</s>").unwrap().render(&[user("  abc ")]).unwrap();
        assert_eq!(text.to_lowercase(), "<s>true</s>");
    }

    #[test]
    fn generation_tags_are_dropped() {
        let source = "a {%- generation -%} b {% endgeneration %}{% if true %}c{% endif %}";
        assert_eq!(Template::new(source, "", "").unwrap().render(&[]).unwrap(), "ab c");
    }

    #[test]
    fn a_template_can_refuse_and_says_why() {
        let source = "{{ raise_exception('roles must alternate') }}";
        let error = Template::new(source, "", "").unwrap().render(&[]).unwrap_err();
        assert!(error.to_string().contains("roles must alternate"), "{error}");
    }

    #[test]
    fn an_endless_template_runs_out_of_fuel() {
        let source =
            "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
        let error = Template::new(source, "", "").unwrap().render(&[]).unwrap_err();
        assert!(error.to_string().contains("fuel"), "{error}");
    }

    #[test]
    fn a_broken_template_is_malformed() {
        assert!(matches!(Template::new("{% if %}", "", ""), Err(Error::Malformed { .. })));
    }
}
