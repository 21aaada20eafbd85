//! Chat templates: the Jinja text that a model carries. It comes with the model file, so it is as
//! untrusted as the rest of it.

use minijinja::{Value, context};
use pith::{Error, Model, Result, gguf::Gguf};

use crate::{
    guard::{Guard, Prompt, check_text},
    jinja::Jinja,
    row::RowError,
    template::same_text,
};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// "system", "user" or "assistant".
    pub role: &'static str,
    /// What was said.
    pub content: String,
}

/// A compiled chat template.
pub struct ChatTemplate {
    plain: Form,
    /// With marks around its control texts.
    marked: Option<(Guard, Form)>,
}

impl ChatTemplate {
    /// The template of a model's file; `None` where it has none, and so was not made for
    /// conversations. See [`ChatTemplate::new`].
    ///
    /// # Errors
    /// Those of [`ChatTemplate::new`] and [`Gguf::parse`].
    pub fn of(model: &Model, guard: Option<&Guard>) -> Result<Option<ChatTemplate>> {
        let gguf = Gguf::parse(model.bytes())?;
        let source = gguf.get("tokenizer.chat_template").and_then(|value| value.as_str());
        let tokenizer = model.tokenizer();
        let text = |id: Option<u32>| {
            let piece = id.map(|id| String::from_utf8_lossy(tokenizer.piece(id)).into_owned());
            piece.unwrap_or_default()
        };
        let (bos, eos) = (text(tokenizer.bos()), text(tokenizer.eos()));
        source.map(|source| ChatTemplate::new(source, &bos, &eos, guard)).transpose()
    }

    /// Compiles `source`; `bos` and `eos` are the texts of those tokens, empty where there are none.
    /// With a guard the control texts that the template writes are control tokens, and those in what
    /// was said are text; without one all are control tokens.
    ///
    /// # Errors
    /// [`Error::Malformed`] where the source is no template, with the line;
    /// [`Error::Unsupported`] where a guard can't follow how the template writes its control tokens.
    pub fn new(source: &str, bos: &str, eos: &str, guard: Option<&Guard>) -> Result<ChatTemplate> {
        let source = without_generation_tags(source);
        let plain = Form::new(&source, bos, eos)?;
        let Some(guard) = guard else { return Ok(ChatTemplate { plain, marked: None }) };
        let mark = |text: &str| guard.mark(text, false);
        // Roles are names from a list, so that templates may make control texts of them.
        let marked = guard.mark_source(&source, true).unwrap_or(source);
        let marked = Form::new(&marked, &mark(bos), &mark(eos))?;
        let template = ChatTemplate { plain, marked: Some((guard.clone(), marked)) };
        template.check(guard)?;
        Ok(template)
    }

    /// Whether the marks find all control tokens of a conversation that has none itself. One that
    /// the template refuses shows nothing.
    fn check(&self, guard: &Guard) -> Result<()> {
        let turn = |role| Message { role, content: "x".into() };
        let turns = [turn("system"), turn("user"), turn("assistant"), turn("user")];
        for turns in [&turns[..], &turns[1..], &turns[1..2]] {
            let Ok(prompt) = self.prompt(turns) else { continue };
            let places = guard.places(&prompt.text);
            if prompt != Prompt::at(prompt.text.clone(), places).whole() {
                return Err(Error::Unsupported(
                    "the model's chat template makes control tokens in a way that can't be told \
                     from a message's text; --parse-special takes all control texts for control \
                     tokens, those in messages too"
                        .into(),
                ));
            }
        }
        Ok(())
    }

    /// The prompt of a conversation, up to where the assistant speaks next. Nothing is put around
    /// its ids: chat templates write BOS themselves.
    ///
    /// # Errors
    /// "chat" with the template's own reason where it refuses the conversation (two user turns in a
    /// row, a system turn), or runs out of steps; those of [`crate::template::Template::prompt`].
    pub fn prompt(&self, messages: &[Message]) -> std::result::Result<Prompt, RowError> {
        let text = self.plain.render(messages)?;
        let Some((guard, marked)) = &self.marked else { return Ok(Prompt::trusted(text).whole()) };
        messages.iter().try_for_each(|message| check_text(&message.content))?;
        let (same, places) = guard.unmark(&marked.render(messages)?);
        same_text(&text, &same)?;
        Ok(Prompt::at(text, places).whole())
    }
}

/// The template as it is, or with marks.
struct Form {
    jinja: Jinja,
    bos: String,
    eos: String,
}

impl Form {
    fn new(source: &str, bos: &str, eos: &str) -> Result<Form> {
        let jinja = Jinja::new(source, "chat template", false)?;
        Ok(Form { jinja, bos: bos.to_owned(), eos: eos.to_owned() })
    }

    fn render(&self, messages: &[Message]) -> std::result::Result<String, RowError> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| context! { role => message.role, content => message.content.as_str() })
            .collect();
        let context = context! {
            messages => messages,
            add_generation_prompt => true,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
        };
        let fault = |error| format!("the model's chat template says: {error}");
        self.jinja.render(context).map_err(|error| RowError::new("chat", fault(error)))
    }
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

    fn render(source: &str, messages: &[Message]) -> std::result::Result<String, RowError> {
        let template = ChatTemplate::new(source, "<s>", "</s>", None).unwrap();
        template.prompt(messages).map(|prompt| prompt.text)
    }

    #[test]
    fn renders_chatml() {
        let text = render(CHATML, &[user("Hi {{ x }}")]).unwrap();
        assert_eq!(text, "<|im_start|>user\nHi {{ x }}<|im_end|>\n<|im_start|>assistant\n");
    }

    #[test]
    fn python_methods_and_special_tokens_work() {
        let source =
            "{{ bos_token }}{{ messages[0]['content'].strip().startswith('a') }}{{ eos_token }}";
        let text = render(source, &[user("  abc ")]).unwrap();
        assert_eq!(text.to_lowercase(), "<s>true</s>");
    }

    #[test]
    fn generation_tags_are_dropped() {
        let source = "a {%- generation -%} b {% endgeneration %}{% if true %}c{% endif %}";
        assert_eq!(render(source, &[]).unwrap(), "ab c");
    }

    #[test]
    fn a_template_can_refuse_and_says_why() {
        let error = render("{{ raise_exception('roles must alternate') }}", &[]).unwrap_err();
        assert!(error.to_string().contains("roles must alternate"), "{error}");
    }

    #[test]
    fn an_endless_template_runs_out_of_fuel() {
        let source =
            "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
        let error = render(source, &[]).unwrap_err();
        assert!(error.to_string().contains("fuel"), "{error}");
    }

    #[test]
    fn a_broken_template_is_malformed() {
        let template = ChatTemplate::new("{% if %}", "", "", None);
        assert!(matches!(template, Err(Error::Malformed { .. })));
    }
}
