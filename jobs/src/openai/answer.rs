//! Lines of the answer, in the shapes of OpenAI's openapi.yaml: BatchRequestOutput around
//! CreateCompletionResponse, CreateChatCompletionResponse or an error.

use std::{borrow::Cow, collections::HashSet};

use pith::tokenizer::Tokenizer;
use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{Fault, Input, Prompt, Request, hash};
use crate::generated::{Candidate, Finish, Generated, GeneratedToken};

/// What stands for a probability of 0, whose logarithm JSON doesn't have.
const NEVER: f64 = -9999.0;

/// A line of the answer.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    id: String,
    custom_id: Option<&'a str>,
    response: Response<'a>,
    /// OpenAI's place for requests that never came to be tried.
    error: Option<()>,
}

impl Line<'_> {
    /// The line's JSON, without a line end.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers are JSON")
    }

    /// The JSON of its `id` and of its `response`, for an output of columns.
    pub fn cells(&self) -> [String; 2] {
        [
            serde_json::to_string(&self.id).expect("a text is JSON"),
            serde_json::to_string(&self.response).expect("texts and numbers are JSON"),
        ]
    }
}

#[derive(Debug, Serialize)]
struct Response<'a> {
    status_code: u16,
    request_id: String,
    body: Body<'a>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Body<'a> {
    Answer(Answer<'a>),
    Error { error: ErrorBody<'a> },
}

#[derive(Debug, Serialize)]
struct ErrorBody<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'a str>,
    code: &'static str,
}

#[derive(Debug, Serialize)]
struct Answer<'a> {
    id: String,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<Choice<'a>>,
    usage: Usage,
    system_fingerprint: &'static str,
}

#[derive(Debug, Serialize)]
struct Choice<'a> {
    index: usize,
    #[serde(flatten)]
    content: Content<'a>,
    finish_reason: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text { text: Cow<'a, str>, logprobs: Option<TextProbs<'a>> },
    Message { message: Message<'a>, logprobs: Option<ChatProbs<'a>> },
}

#[derive(Debug, Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
    refusal: Option<()>,
}

#[derive(Debug, Serialize)]
struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
}

#[derive(Debug, Serialize)]
struct TextProbs<'a> {
    tokens: Vec<String>,
    token_logprobs: Vec<f64>,
    /// Nulls where only the tokens' own were asked for.
    top_logprobs: Option<Vec<Top<'a>>>,
    /// Where each token begins in the text, in characters.
    text_offset: Vec<usize>,
}

/// The likeliest tokens of one place, and the one that was drawn if it isn't among them.
#[derive(Debug)]
struct Top<'a>(&'a GeneratedToken);

impl Serialize for Top<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut names = HashSet::new();
        let mut map = serializer.serialize_map(None)?;
        for candidate in self.0.top.iter().chain([&self.0.token]) {
            let name = token_text(&candidate.bytes);
            // Of two tokens with the same bytes the likelier counts.
            if names.insert(name.clone()) {
                map.serialize_entry(&name, &log_prob(candidate))?;
            }
        }
        map.end()
    }
}

#[derive(Debug, Serialize)]
struct ChatProbs<'a> {
    content: Vec<ChatToken<'a>>,
    refusal: Option<()>,
}

#[derive(Debug, Serialize)]
struct ChatToken<'a> {
    #[serde(flatten)]
    token: Token<'a>,
    top_logprobs: Vec<Token<'a>>,
}

#[derive(Debug, Serialize)]
struct Token<'a> {
    token: Cow<'a, str>,
    logprob: f64,
    bytes: &'a [u8],
}

impl<'a> From<&'a Candidate> for Token<'a> {
    fn from(candidate: &'a Candidate) -> Token<'a> {
        Token {
            token: String::from_utf8_lossy(&candidate.bytes),
            logprob: log_prob(candidate),
            bytes: &candidate.bytes,
        }
    }
}

fn log_prob(candidate: &Candidate) -> f64 {
    if candidate.log_prob.is_finite() { candidate.log_prob } else { NEVER }
}

/// A token in a completion: one that is no text is written as its bytes, as OpenAI does.
fn token_text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            let hex: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            format!("bytes:{hex}")
        }
    }
}

/// The answer to a request: `choices` are those of its first prompt, `n` in number, then those of
/// the next. `model` is named where the request names none.
pub fn answer<'a>(
    request: &'a Request,
    model: &'a str,
    choices: &'a [Generated],
    tokenizer: &Tokenizer,
) -> Line<'a> {
    let id = name_hash(&request.custom_id);
    let content = |(index, generated): (usize, &'a Generated)| Choice {
        index,
        content: content(request, index, generated, tokenizer),
        finish_reason: match generated.finish {
            Finish::Stop => "stop",
            Finish::Length => "length",
        },
    };
    // A prompt counts once, however many answers it has.
    let prompt_tokens =
        choices.iter().step_by(request.n.max(1)).map(|choice| choice.n_prompt).sum();
    let completion_tokens = choices.iter().map(|choice| choice.tokens.len()).sum();
    let (prefix, object) = match request.input {
        Input::Prompts(_) => ("cmpl", "text_completion"),
        Input::Messages(_) => ("chatcmpl", "chat.completion"),
    };
    let body = Answer {
        id: format!("{prefix}-{id:032x}"),
        object,
        created: 0,
        model: request.model.as_deref().unwrap_or(model),
        choices: choices.iter().enumerate().map(content).collect(),
        usage: Usage {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
        },
        system_fingerprint: concat!("pith-", env!("CARGO_PKG_VERSION")),
    };
    line(id, Some(&request.custom_id), 200, Body::Answer(body))
}

/// The line of a request on row number `row` that has no answer. `custom_id` is what the line has,
/// if it could be read; `is_first` is [`super::Seen`]'s word on it.
pub fn refuse<'a>(
    custom_id: Option<&'a str>,
    is_first: bool,
    row: u64,
    fault: &'a Fault,
) -> Line<'a> {
    let id = match custom_id {
        Some(name) if is_first => name_hash(name),
        // No name holds this byte, for it is no UTF-8.
        name => hash(&[name.unwrap_or("").as_bytes(), &[0xff], &row.to_le_bytes()]),
    };
    let error = ErrorBody {
        message: &fault.message,
        r#type: "invalid_request_error",
        param: fault.param.as_deref(),
        code: fault.code,
    };
    line(id, custom_id, 400, Body::Error { error })
}

fn name_hash(custom_id: &str) -> u128 {
    hash(&[custom_id.as_bytes()])
}

fn line<'a>(id: u128, custom_id: Option<&'a str>, status_code: u16, body: Body<'a>) -> Line<'a> {
    let response = Response { status_code, request_id: format!("{id:032x}"), body };
    Line { id: format!("batch_req_{id:032x}"), custom_id, response, error: None }
}

fn content<'a>(
    request: &'a Request,
    index: usize,
    generated: &'a Generated,
    tokenizer: &Tokenizer,
) -> Content<'a> {
    let prompts = match &request.input {
        Input::Prompts(prompts) => prompts,
        Input::Messages(_) => {
            let message = Message { role: "assistant", content: &generated.text, refusal: None };
            let logprobs = request.logprobs.map(|_| ChatProbs {
                content: generated.tokens.iter().map(chat_token).collect(),
                refusal: None,
            });
            return Content::Message { message, logprobs };
        }
    };
    let text = match (request.echo, prompts.get(index / request.n.max(1))) {
        (true, Some(Prompt::Text(prompt))) => Cow::Owned(format!("{prompt}{}", generated.text)),
        (true, Some(Prompt::Ids(ids))) => {
            Cow::Owned(format!("{}{}", tokenizer.decode(ids), generated.text))
        }
        _ => Cow::Borrowed(generated.text.as_str()),
    };
    let logprobs = request.logprobs.map(|n_top| text_probs(&generated.tokens, n_top));
    Content::Text { text, logprobs }
}

fn chat_token(token: &GeneratedToken) -> ChatToken<'_> {
    let top_logprobs = token.top.iter().map(Token::from).collect();
    ChatToken { token: Token::from(&token.token), top_logprobs }
}

fn text_probs(tokens: &[GeneratedToken], n_top: usize) -> TextProbs<'_> {
    let mut offset = 0;
    let offsets = tokens.iter().map(|token| {
        let at = offset;
        // Characters that begin in the token: a token may end inside one.
        offset += token.token.bytes.iter().filter(|&&byte| byte & 0xc0 != 0x80).count();
        at
    });
    TextProbs {
        text_offset: offsets.collect(),
        tokens: tokens.iter().map(|token| token_text(&token.token.bytes)).collect(),
        token_logprobs: tokens.iter().map(|token| log_prob(&token.token)).collect(),
        top_logprobs: (n_top > 0).then(|| tokens.iter().map(Top).collect()),
    }
}
