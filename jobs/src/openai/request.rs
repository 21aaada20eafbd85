//! A line of a batch file to what it asks for.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Fault, Prompt,
    body::{Body, parse},
};
use crate::{
    chat::Message,
    row::{Cell, Row},
};

/// Tokens of a completion that doesn't say how many, as OpenAI's.
const MAX_TOKENS: usize = 16;
/// Answers that one request may ask for, over all its prompts.
const MAX_CHOICES: usize = 2048;

const PROMPT: &str = "wanted a text, a list of texts, a list of token ids or a list of such lists";

/// What a model is to go on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// `/v1/completions`: each prompt is continued.
    Prompts(Vec<Prompt>),
    /// `/v1/chat/completions`: a conversation.
    Messages(Vec<Message>),
}

/// A request.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Its name in the file.
    pub custom_id: String,
    /// What to go on from.
    pub input: Input,
    /// The model that it names; answers name it again, whatever model it was.
    pub model: Option<String>,
    /// Tokens to write at most; `None` is as many as fit.
    pub max_tokens: Option<usize>,
    /// 0 is greedy.
    pub temperature: f64,
    /// Leave out unlikely tokens over this sum of probabilities.
    pub top_p: f64,
    /// Answers for each prompt.
    pub n: usize,
    /// What draws begin with, taken as its 64 bits; `None` leaves it to the job.
    pub seed: Option<i64>,
    /// Texts to end before: at most four, none empty.
    pub stop: Vec<String>,
    /// Report log-probabilities, and those of so many of the likeliest tokens.
    pub logprobs: Option<usize>,
    /// Put the prompt before its continuation.
    pub echo: bool,
}

impl Request {
    /// The request of a line.
    ///
    /// # Errors
    /// What is wrong with it, or what pith can't do, by the name of its key.
    pub fn parse(row: &Row) -> Result<Request, Fault> {
        let known = ["custom_id", "method", "url", "body"];
        if let Some((key, _)) = row.iter().find(|(key, _)| !known.contains(key)) {
            return Err(Fault::unsupported(key, "an unknown key of a batch request"));
        }
        let custom_id = text(row, "custom_id")?;
        match text(row, "method")? {
            "POST" => {}
            other => return Err(Fault::value("method", format!("{other:?}; wanted \"POST\""))),
        }
        let url = text(row, "url")?;
        let json = match row.get("body") {
            Some(Cell::Json(json)) => json,
            Some(Cell::Text(_)) => return Err(Fault::value("body", "a text; wanted an object")),
            None => return Err(missing("body")),
        };
        let body = parse("body", json)?;
        match url {
            "/v1/completions" => completion(custom_id, body),
            "/v1/chat/completions" => chat(custom_id, body),
            other => Err(Fault::value(
                "url",
                format!("{other:?}; wanted \"/v1/completions\" or \"/v1/chat/completions\""),
            )),
        }
    }
}

fn missing(key: &str) -> Fault {
    Fault { code: "missing_required_parameter", ..Fault::value(key, "is missing") }
}

fn text<'r>(row: &'r Row, key: &str) -> Result<&'r str, Fault> {
    match row.get(key) {
        Some(Cell::Text(text)) => Ok(text),
        Some(Cell::Json(_)) => Err(Fault::value(key, "wanted a text")),
        None => Err(missing(key)),
    }
}

fn completion(custom_id: &str, mut body: Body) -> Result<Request, Fault> {
    let prompts = prompts(&body.take("prompt").ok_or_else(|| missing("prompt"))?)?;
    let max_tokens = body.number("max_tokens", 1, usize::MAX)?.or(Some(MAX_TOKENS));
    let logprobs = body.number("logprobs", 0, 5)?;
    let echo = body.get("echo")?.unwrap_or(false);
    if echo && logprobs.is_some() {
        let why =
            "not together with logprobs, which would be the prompt's too: `pith score` has them";
        return Err(Fault::unsupported("echo", why));
    }
    body.only("suffix", &["\"\""], "a text behind what is written can't be regarded")?;
    let request = common(custom_id, Input::Prompts(prompts), &mut body)?;
    let n = request.n.to_string();
    body.only("best_of", &[&n], "several tries to choose from can't be made; wanted n")?;
    body.finish("a completion's body")?;
    Ok(Request { max_tokens, logprobs, echo, ..request })
}

fn chat(custom_id: &str, mut body: Body) -> Result<Request, Fault> {
    let messages = messages(&body.take("messages").ok_or_else(|| missing("messages"))?)?;
    let old = body.number("max_tokens", 1, usize::MAX)?;
    let max_tokens = body.number("max_completion_tokens", 1, usize::MAX)?;
    if let (Some(old), Some(max)) = (old, max_tokens)
        && old != max
    {
        let why = format!("{old}, but max_completion_tokens is {max}");
        return Err(Fault::value("max_tokens", why));
    }
    let wanted = body.get("logprobs")?.unwrap_or(false);
    let top = body.number("top_logprobs", 0, 20)?;
    if top.is_some() && !wanted {
        return Err(Fault::value("top_logprobs", "wants logprobs to be true"));
    }
    body.only(
        "response_format",
        &["{\"type\":\"text\"}"],
        "only {\"type\": \"text\"} can be kept to",
    )?;
    body.only("modalities", &["[\"text\"]"], "only text can be written")?;
    for key in ["tools", "functions"] {
        body.only(key, &["[]"], "tools can't be called")?;
    }
    for key in ["tool_choice", "function_call"] {
        body.only(key, &["\"none\""], "tools can't be called")?;
    }
    body.ignore(&["parallel_tool_calls"]);
    let request = common(custom_id, Input::Messages(messages), &mut body)?;
    body.finish("a chat completion's body")?;
    let logprobs = wanted.then(|| top.unwrap_or(0));
    Ok(Request { max_tokens: max_tokens.or(old), logprobs, ..request })
}

/// What both kinds of request have.
fn common(custom_id: &str, input: Input, body: &mut Body) -> Result<Request, Fault> {
    body.ignore(&[
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
    ]);
    for key in ["frequency_penalty", "presence_penalty"] {
        if body.get::<f64>(key)?.is_some_and(|penalty| penalty != 0.0) {
            return Err(Fault::unsupported(key, "penalties aren't supported; wanted 0"));
        }
    }
    body.only("logit_bias", &["{}"], "biases aren't supported; wanted none")?;
    body.only("stream", &["false"], "a file isn't streamed; wanted false")?;
    body.only("stream_options", &[], "a file isn't streamed")?;
    let n = body.number("n", 1, 128)?.unwrap_or(1);
    let prompts = if let Input::Prompts(prompts) = &input { prompts.len() } else { 1 };
    if n * prompts > MAX_CHOICES {
        let why = format!("{n} answers for each of {prompts} prompts; {MAX_CHOICES} are accepted");
        return Err(Fault::value("n", why));
    }
    Ok(Request {
        custom_id: custom_id.to_owned(),
        input,
        model: body.get("model")?,
        max_tokens: None,
        temperature: body.number("temperature", 0.0, 2.0)?.unwrap_or(1.0),
        top_p: body.number("top_p", 0.0, 1.0)?.unwrap_or(1.0),
        n,
        seed: body.get("seed")?,
        stop: body.take("stop").map_or(Ok(Vec::new()), |json| stops(&json))?,
        logprobs: None,
        echo: false,
    })
}

/// The first character behind `skip` brackets that tells kinds of JSON apart.
fn first(json: &RawValue, skip: usize) -> u8 {
    json.get().bytes().filter(|byte| !byte.is_ascii_whitespace()).nth(skip).unwrap_or(b' ')
}

fn prompts(json: &RawValue) -> Result<Vec<Prompt>, Fault> {
    let wrong = || Fault::value("prompt", PROMPT);
    let texts = |texts: Vec<String>| texts.into_iter().map(Prompt::Text).collect();
    let prompts: Vec<Prompt> = match (first(json, 0), first(json, 1)) {
        (b'"', _) => texts(vec![parse("prompt", json)?]),
        (b'[', b'"') => texts(parse("prompt", json)?),
        (b'[', b'[') => {
            let lists: Vec<Vec<u32>> = parse("prompt", json)?;
            lists.into_iter().map(Prompt::Ids).collect()
        }
        (b'[', b'0'..=b'9') => vec![Prompt::Ids(parse("prompt", json)?)],
        _ => return Err(wrong()),
    };
    match prompts.len() {
        0 => Err(wrong()),
        n if n > MAX_CHOICES => {
            Err(Fault::value("prompt", format!("{n} prompts; {MAX_CHOICES} are accepted")))
        }
        _ => Ok(prompts),
    }
}

fn stops(json: &RawValue) -> Result<Vec<String>, Fault> {
    let stops: Vec<String> = match first(json, 0) {
        b'"' => vec![parse("stop", json)?],
        _ => parse("stop", json)?,
    };
    if stops.len() > 4 || stops.iter().any(String::is_empty) {
        return Err(Fault::value("stop", "wanted at most four texts, none empty"));
    }
    Ok(stops)
}

fn messages(json: &RawValue) -> Result<Vec<Message>, Fault> {
    let list: Vec<Body> = parse("messages", json)?;
    if list.is_empty() {
        return Err(Fault::value("messages", "there are none"));
    }
    let placed = |(at, body)| {
        message(body).map_err(|fault| {
            let param = format!("messages[{at}]");
            let inner = fault.param.map_or(param.clone(), |key| format!("{param}.{key}"));
            Fault { param: Some(inner), message: format!("{param}.{}", fault.message), ..fault }
        })
    };
    list.into_iter().enumerate().map(placed).collect()
}

fn message(mut body: Body) -> Result<Message, Fault> {
    let role: String = body.get("role")?.ok_or_else(|| missing("role"))?;
    let role = match role.as_str() {
        // A later name for the same; templates know the earlier one.
        "system" | "developer" => "system",
        "user" => "user",
        "assistant" => "assistant",
        other => {
            let wanted = "wanted \"system\", \"developer\", \"user\" or \"assistant\"";
            return Err(Fault::value("role", format!("{other:?}; {wanted}")));
        }
    };
    let content = content(&body.take("content").ok_or_else(|| missing("content"))?)?;
    for key in ["tool_calls", "function_call", "audio", "refusal", "name"] {
        body.only(key, &["[]"], "isn't supported in a message")?;
    }
    body.finish("a message")?;
    Ok(Message { role, content })
}

/// A part of a message's content.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    r#type: String,
    text: String,
}

fn content(json: &RawValue) -> Result<String, Fault> {
    if first(json, 0) != b'[' {
        return parse("content", json);
    }
    let parts: Vec<Box<RawValue>> = parse("content", json)?;
    let texts = parts.iter().map(|part| match parse::<Part>("content", part) {
        Ok(part) if part.r#type == "text" => Ok(part.text),
        _ => {
            let wanted = "wanted a text or parts {\"type\": \"text\", \"text\": ...}";
            Err(Fault::unsupported("content", wanted))
        }
    });
    // As vLLM and llama.cpp join them.
    Ok(texts.collect::<Result<Vec<String>, Fault>>()?.join("\n"))
}
