//! OpenAI's batch files: what is accepted, what is refused and how, and the shapes of answers.

use pith::{Result, tokenizer::Tokenizer};
use pith_jobs::{
    chat::Message,
    generated::{Candidate, Finish, Generated, GeneratedToken},
    openai::{Input, Line, Prompt, Request, Seen, answer, custom_id, refuse},
    row::{Cell, Row, RowError},
    source::{self, Position, Rows},
};
use proptest::prelude::*;
use serde_json::{Value, json, value::RawValue};

/// A row of the line's keys.
fn row(line: &str) -> Row {
    let line: std::collections::BTreeMap<String, Box<RawValue>> =
        serde_json::from_str(line).unwrap();
    let mut row = Row::default();
    for (key, json) in line {
        let text = serde_json::from_str::<String>(json.get());
        row.push(key, text.map_or(Cell::Json(json), Cell::Text));
    }
    row
}

fn request(url: &str, body: &str) -> std::result::Result<Request, String> {
    let line = format!(r#"{{"custom_id":"a","method":"POST","url":"{url}","body":{body}}}"#);
    Request::parse(&row(&line)).map_err(|fault| format!("{}: {}", fault.code, fault.message))
}

fn completion(body: &str) -> std::result::Result<Request, String> {
    request("/v1/completions", body)
}

fn chat(keys: &str) -> std::result::Result<Request, String> {
    let messages = r#""messages":[{"role":"user","content":"Hi"}]"#;
    request("/v1/chat/completions", &format!("{{{messages}{keys}}}"))
}

fn plain() -> Request {
    Request {
        custom_id: "a".into(),
        input: Input::Prompts(vec![Prompt::Text("x".into())]),
        model: None,
        max_tokens: Some(16),
        temperature: 1.0,
        top_p: 1.0,
        n: 1,
        seed: None,
        stop: vec![],
        logprobs: None,
        echo: false,
    }
}

#[test]
fn completions_that_are_accepted() {
    let prompts = |prompts: &[&str]| {
        Input::Prompts(prompts.iter().map(|text| Prompt::Text(text.to_string())).collect())
    };
    let ids = |lists: &[&[u32]]| {
        Input::Prompts(lists.iter().map(|ids| Prompt::Ids(ids.to_vec())).collect())
    };
    let all = r#"{"prompt":"x","model":"m","max_tokens":7,"temperature":0,"top_p":0.5,"n":2,
        "seed":-3,"stop":["\n","b"],"logprobs":0,"echo":false,"best_of":2,"suffix":"",
        "frequency_penalty":0,"presence_penalty":0.0,"logit_bias":{},"stream":false,"user":"u",
        "metadata":{"a":[[[]]]},"store":true}"#;
    let full = Request {
        model: Some("m".into()),
        max_tokens: Some(7),
        temperature: 0.0,
        top_p: 0.5,
        n: 2,
        seed: Some(-3),
        stop: vec!["\n".into(), "b".into()],
        logprobs: Some(0),
        ..plain()
    };
    let nulls = r#"{"prompt":"x","max_tokens":null,"stop":null,"logprobs":null,"stream_options":null,
        "best_of":null,"suffix":null,"logit_bias":null,"n":null,"seed":null,"echo":null}"#;
    for (body, wanted) in [
        (r#"{"prompt":"x"}"#, plain()),
        (r#"{"prompt":["x", "y\u0000"]}"#, Request { input: prompts(&["x", "y\0"]), ..plain() }),
        (r#"{"prompt": [ 1,2]}"#, Request { input: ids(&[&[1, 2]]), ..plain() }),
        (r#"{"prompt":[ [1],[]]}"#, Request { input: ids(&[&[1], &[]]), ..plain() }),
        (r#"{"prompt":"x","echo":true}"#, Request { echo: true, ..plain() }),
        (r#"{"prompt":"x","stop":"a b"}"#, Request { stop: vec!["a b".into()], ..plain() }),
        (all, full),
        (nulls, plain()),
    ] {
        assert_eq!(completion(body), Ok(wanted), "{body}");
    }
}

#[test]
fn chats_that_are_accepted() {
    let hi = Message { role: "user", content: "Hi".into() };
    let wanted = Request { max_tokens: None, input: Input::Messages(vec![hi]), ..plain() };
    for (keys, wanted) in [
        ("", wanted.clone()),
        (r#","max_tokens":5"#, Request { max_tokens: Some(5), ..wanted.clone() }),
        (
            r#","max_tokens":5,"max_completion_tokens":5"#,
            Request { max_tokens: Some(5), ..wanted.clone() },
        ),
        (r#","logprobs":true"#, Request { logprobs: Some(0), ..wanted.clone() }),
        (r#","logprobs":true,"top_logprobs":20"#, Request { logprobs: Some(20), ..wanted.clone() }),
        (
            r#","logprobs":false,"response_format":{ "type":"text"},"tools":[],"tool_choice":"none","modalities":["text"]"#,
            wanted.clone(),
        ),
    ] {
        assert_eq!(chat(keys), Ok(wanted), "{keys}");
    }
    let body = r#"{"messages":[{"role":"developer","content":"a"},
        {"role":"user","content":[{"type":"text","text":"b"},{"type":"text","text":"c"}]},
        {"role":"assistant","content":"d","refusal":null,"tool_calls":null}]}"#;
    let message = |role, content: &str| Message { role, content: content.into() };
    let turns = vec![message("system", "a"), message("user", "b\nc"), message("assistant", "d")];
    assert_eq!(request("/v1/chat/completions", body).unwrap().input, Input::Messages(turns));
}

#[test]
fn completions_that_are_refused_by_name() {
    for (body, wanted) in [
        ("{}", "missing_required_parameter: prompt: is missing"),
        (r#"{"prompt":null}"#, "missing_required_parameter: prompt"),
        (r#"{"prompt":[]}"#, "invalid_value: prompt: wanted a text, a list of texts"),
        (r#"{"prompt":7}"#, "invalid_value: prompt: wanted"),
        (r#"{"prompt":["a",1]}"#, "invalid_value: prompt: invalid type: integer `1`"),
        (
            r#"{"prompt":[4294967296]}"#,
            "invalid_value: prompt: invalid value: integer `4294967296`",
        ),
        (r#"{"prompt":[-1]}"#, "invalid_value: prompt: wanted"),
        (r#"{"prompt":[[[1]]]}"#, "invalid_value: prompt: invalid type: sequence"),
        (r#"{"prompt":"\ud800"}"#, "invalid_value: prompt: "),
        (r#"{"prompt":"x","max_tokens":0}"#, "invalid_value: max_tokens: 0; wanted 1 to"),
        (
            r#"{"prompt":"x","max_tokens":1e99}"#,
            "invalid_value: max_tokens: invalid type: floating",
        ),
        (r#"{"prompt":"x","max_tokens":99999999999999999999999}"#, "invalid_value: max_tokens"),
        (
            r#"{"prompt":"x","temperature":"hot"}"#,
            "invalid_value: temperature: invalid type: string",
        ),
        (r#"{"prompt":"x","temperature":2.5}"#, "invalid_value: temperature: 2.5; wanted 0 to 2"),
        (
            r#"{"prompt":"x","temperature":1e999}"#,
            "invalid_value: temperature: number out of range",
        ),
        (r#"{"prompt":"x","top_p":-0.1}"#, "invalid_value: top_p: -0.1"),
        (r#"{"prompt":"x","n":129}"#, "invalid_value: n: 129"),
        (
            r#"{"prompt":[[],[],[],[],[],[],[],[],[],[],[],[],[],[],[],[],[]],"n":128}"#,
            "invalid_value: n: 128 answers for each of 17 prompts",
        ),
        (r#"{"prompt":"x","seed":1.5}"#, "invalid_value: seed: invalid type"),
        (
            r#"{"prompt":"x","stop":["a","b","c","d","e"]}"#,
            "invalid_value: stop: wanted at most four",
        ),
        (r#"{"prompt":"x","stop":""}"#, "invalid_value: stop: wanted at most four"),
        (r#"{"prompt":"x","stop":{}}"#, "invalid_value: stop: invalid type: map"),
        (r#"{"prompt":"x","logprobs":6}"#, "invalid_value: logprobs: 6; wanted 0 to 5"),
        (r#"{"prompt":"x","logprobs":true}"#, "invalid_value: logprobs: invalid type: boolean"),
        (r#"{"prompt":"x","logprobs":1,"echo":true}"#, "unsupported_parameter: echo: "),
        (r#"{"prompt":"x","suffix":" "}"#, "unsupported_parameter: suffix: "),
        (r#"{"prompt":"x","best_of":3}"#, "unsupported_parameter: best_of: "),
        (r#"{"prompt":"x","frequency_penalty":0.1}"#, "unsupported_parameter: frequency_penalty: "),
        (r#"{"prompt":"x","presence_penalty":-1}"#, "unsupported_parameter: presence_penalty: "),
        (r#"{"prompt":"x","logit_bias":{"1":2}}"#, "unsupported_parameter: logit_bias: "),
        (r#"{"prompt":"x","stream":true}"#, "unsupported_parameter: stream: "),
        (r#"{"prompt":"x","stream_options":{}}"#, "unsupported_parameter: stream_options: "),
        (r#"{"prompt":"x","model":7}"#, "invalid_value: model: "),
        (
            r#"{"prompt":"x","top_k":7}"#,
            "unsupported_parameter: top_k: an unknown key of a completion's body",
        ),
        (r#"{"prompt":"x","messages":[]}"#, "unsupported_parameter: messages: an unknown key"),
        (r#"{"prompt":"x","prompt":"y"}"#, "invalid_value: body: key \"prompt\" is there twice"),
        ("[]", "invalid_value: body: invalid type: sequence, expected an object"),
        ("\"x\"", "invalid_value: body: a text; wanted an object"),
    ] {
        let error = completion(body).unwrap_err();
        assert!(error.starts_with(wanted), "{body}: {error}");
    }
}

#[test]
fn chats_that_are_refused_by_name() {
    for (keys, wanted) in [
        (
            r#","max_tokens":5,"max_completion_tokens":6"#,
            "invalid_value: max_tokens: 5, but max_completion",
        ),
        (r#","top_logprobs":2"#, "invalid_value: top_logprobs: wants logprobs to be true"),
        (
            r#","logprobs":true,"top_logprobs":21"#,
            "invalid_value: top_logprobs: 21; wanted 0 to 20",
        ),
        (
            r#","logprobs":1"#,
            "invalid_value: logprobs: invalid type: integer `1`, expected a boolean",
        ),
        (
            r#","response_format":{"type":"json_object"}"#,
            "unsupported_parameter: response_format: ",
        ),
        (
            r#","tools":[{"type":"function"}]"#,
            "unsupported_parameter: tools: tools can't be called",
        ),
        (r#","tool_choice":"auto""#, "unsupported_parameter: tool_choice: "),
        (r#","modalities":["text","audio"]"#, "unsupported_parameter: modalities: "),
        (
            r#","reasoning_effort":"low""#,
            "unsupported_parameter: reasoning_effort: an unknown key of a chat",
        ),
        (r#","prompt":"x""#, "unsupported_parameter: prompt: an unknown key"),
        (r#","echo":true"#, "unsupported_parameter: echo: an unknown key"),
    ] {
        let error = chat(keys).unwrap_err();
        assert!(error.starts_with(wanted), "{keys}: {error}");
    }
    for (messages, wanted) in [
        ("[]", "invalid_value: messages: there are none"),
        ("{}", "invalid_value: messages: invalid type: map"),
        ("[7]", "invalid_value: messages: invalid type: integer"),
        (r#"[{"role":"user"}]"#, "missing_required_parameter: messages[0].content: is missing"),
        (r#"[{"content":"a"}]"#, "missing_required_parameter: messages[0].role: is missing"),
        (r#"[{"role":"tool","content":"a"}]"#, "invalid_value: messages[0].role: \"tool\"; wanted"),
        (r#"[{"role":"user","content":7}]"#, "invalid_value: messages[0].content: invalid type"),
        (
            r#"[{"role":"user","content":[{"type":"image_url","image_url":{}}]}]"#,
            "unsupported_parameter: messages[0].content: wanted a text or parts",
        ),
        (
            r#"[{"role":"user","content":"a"},{"role":"user","content":"a","x":1}]"#,
            "unsupported_parameter: messages[1].x: an unknown key of a message",
        ),
        (
            r#"[{"role":"user","content":"a","name":"n"}]"#,
            "unsupported_parameter: messages[0].name: ",
        ),
    ] {
        let error =
            request("/v1/chat/completions", &format!("{{\"messages\":{messages}}}")).unwrap_err();
        assert!(error.starts_with(wanted), "{messages}: {error}");
    }
}

#[test]
fn lines_that_are_no_requests() {
    for (line, wanted) in [
        (r#"{"method":"POST","url":"/v1/completions","body":{}}"#, "custom_id: is missing"),
        (r#"{"custom_id":7}"#, "custom_id: wanted a text"),
        (r#"{"custom_id":"a","method":"GET"}"#, "method: \"GET\"; wanted \"POST\""),
        (r#"{"custom_id":"a","method":"POST"}"#, "url: is missing"),
        (r#"{"custom_id":"a","method":"POST","url":"/v1/completions"}"#, "body: is missing"),
        (
            r#"{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{}}"#,
            "url: \"/v1/embeddings\"; wanted",
        ),
        (r#"{"custom_id":"a","metod":"POST"}"#, "metod: an unknown key of a batch request"),
    ] {
        let fault = Request::parse(&row(line)).unwrap_err();
        assert!(fault.message.starts_with(wanted), "{line}: {}", fault.message);
        assert_eq!(fault.param.as_deref(), wanted.split(':').next(), "{line}");
    }
}

/// What is named in a message may be as long as the line.
#[test]
fn messages_are_short() {
    let long = "é".repeat(1 << 20);
    for body in [
        format!("{{\"{long}\":1,\"prompt\":\"\"}}"),
        format!("{{\"prompt\":\"\",\"n\":\"{long}\"}}"),
    ] {
        assert!(completion(&body).unwrap_err().len() < 1000);
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for key in ["prompt", "stop", "tools", "logit_bias", "n", "messages", "x"] {
        assert!(completion(&format!("{{\"{key}\":{deep}}}")).is_err());
        assert!(chat(&format!(",\"y{key}\":{deep}")).is_err());
    }
    assert!(completion(&format!("{{\"prompt\":\"x\",\"metadata\":{deep}}}")).is_ok());
}

fn candidate(id: u32, bytes: &[u8], log_prob: f64) -> Candidate {
    Candidate { id, bytes: bytes.to_vec(), log_prob }
}

fn generated(finish: Finish) -> Generated {
    let token = |bytes: &[u8], log_prob: f64, top: &[Candidate]| GeneratedToken {
        token: candidate(1, bytes, log_prob),
        top: top.to_vec(),
    };
    Generated {
        text: "aé\"".into(),
        finish,
        n_prompt: 3,
        tokens: vec![
            token("a".as_bytes(), -0.5, &[candidate(2, b"b", -0.25), candidate(3, b"b", -0.75)]),
            token(&[0xc3], f64::NEG_INFINITY, &[candidate(1, &[0xc3], -1.0)]),
            token(&[0xa9, b'"'], -0.1, &[]),
        ],
    }
}

fn parsed(line: &Line<'_>) -> Value {
    let text = line.json();
    assert!(!text.contains('\n'));
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_completions_answer_has_openais_shape() {
    let tokenizer = Tokenizer::none(4).unwrap();
    let request = completion(r#"{"prompt":["x","y"],"n":2,"logprobs":1,"model":"m"}"#).unwrap();
    let (stop, length) = (generated(Finish::Stop), generated(Finish::Length));
    let choices = [stop.clone(), length.clone(), length, stop];
    let line = parsed(&answer(&request, "other", &choices, &tokenizer));
    let hash = line["response"]["request_id"].as_str().unwrap().to_owned();
    assert_eq!(hash.len(), 32);
    let logprobs = json!({
        "tokens": ["a", "bytes:\\xc3", "bytes:\\xa9\\x22"],
        "token_logprobs": [-0.5, -9999.0, -0.1],
        "top_logprobs": [{"b": -0.25, "a": -0.5}, {"bytes:\\xc3": -1.0}, {"bytes:\\xa9\\x22": -0.1}],
        "text_offset": [0, 1, 2],
    });
    let choice = |index, finish| json!({"index": index, "text": "aé\"", "finish_reason": finish, "logprobs": logprobs});
    let wanted = json!({
        "id": format!("batch_req_{hash}"),
        "custom_id": "a",
        "response": {"status_code": 200, "request_id": hash, "body": {
            "id": format!("cmpl-{hash}"),
            "object": "text_completion",
            "created": 0,
            "model": "m",
            "choices": [choice(0, "stop"), choice(1, "length"), choice(2, "length"), choice(3, "stop")],
            "usage": {"prompt_tokens": 6, "completion_tokens": 12, "total_tokens": 18},
            "system_fingerprint": format!("pith-{}", env!("CARGO_PKG_VERSION")),
        }},
        "error": null,
    });
    assert_eq!(line, wanted);
    let request = completion(r#"{"prompt":["x","y"],"echo":true}"#).unwrap();
    let line = parsed(&answer(&request, "other", &choices[..2], &tokenizer));
    let body = &line["response"]["body"];
    assert_eq!(body["model"], "other");
    assert_eq!(body["choices"][1]["text"], "yaé\"");
    assert_eq!(body["choices"][1]["logprobs"], Value::Null);
    let request = completion(r#"{"prompt":"x","logprobs":0}"#).unwrap();
    let line = parsed(&answer(&request, "other", &choices[..1], &tokenizer));
    assert_eq!(line["response"]["body"]["choices"][0]["logprobs"]["top_logprobs"], Value::Null);
}

#[test]
fn a_chats_answer_has_openais_shape() {
    let tokenizer = Tokenizer::none(4).unwrap();
    let choices = [generated(Finish::Length)];
    let request = chat(r#","logprobs":true,"top_logprobs":2"#).unwrap();
    let line = parsed(&answer(&request, "m", &choices, &tokenizer));
    let hash = line["response"]["request_id"].as_str().unwrap().to_owned();
    let b = |log_prob: f64| json!({"token": "b", "logprob": log_prob, "bytes": [98]});
    let wanted = json!({
        "id": format!("chatcmpl-{hash}"),
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": "aé\"", "refusal": null},
            "finish_reason": "length",
            "logprobs": {"refusal": null, "content": [
                {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [b(-0.25), b(-0.75)]},
                {"token": "\u{fffd}", "logprob": -9999.0, "bytes": [195],
                    "top_logprobs": [{"token": "\u{fffd}", "logprob": -1.0, "bytes": [195]}]},
                {"token": "\u{fffd}\"", "logprob": -0.1, "bytes": [169, 34], "top_logprobs": []},
            ]},
        }],
        "usage": {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6},
        "system_fingerprint": format!("pith-{}", env!("CARGO_PKG_VERSION")),
    });
    assert_eq!(line["response"]["body"], wanted);
    let request = chat("").unwrap();
    let answered = answer(&request, "m", &choices, &tokenizer);
    let line = parsed(&answered);
    assert_eq!(line["response"]["body"]["choices"][0]["logprobs"], Value::Null);
    let [id, response] = answered.cells().map(|cell| serde_json::from_str::<Value>(&cell).unwrap());
    assert_eq!((&id, &response), (&line["id"], &line["response"]));
}

#[test]
fn a_failure_has_openais_shape() {
    let request = row(
        r#"{"custom_id":"a\u0000","method":"POST","url":"/v1/completions","body":{"prompt":"x","n":0}}"#,
    );
    let fault = Request::parse(&request).unwrap_err();
    let line = parsed(&refuse(custom_id(&request), true, 7, &fault));
    let hash = line["response"]["request_id"].as_str().unwrap().to_owned();
    let wanted = json!({
        "id": format!("batch_req_{hash}"),
        "custom_id": "a\0",
        "response": {"status_code": 400, "request_id": hash, "body": {"error": {
            "message": "n: 0; wanted 1 to 128",
            "type": "invalid_request_error",
            "param": "n",
            "code": "invalid_value",
        }}},
        "error": null,
    });
    assert_eq!(line, wanted);
    let unread = RowError::new("json", "line 3: no JSON").into();
    let line = parsed(&refuse(None, true, 2, &unread));
    assert_eq!(line["custom_id"], Value::Null);
    assert_eq!(line["response"]["body"]["error"]["code"], "json");
    assert_eq!(line["response"]["body"]["error"]["param"], Value::Null);
}

/// The numbers of FNV's authors, and ids that don't depend on the order of the lines.
#[test]
fn ids_are_hashes_of_the_name() {
    let tokenizer = Tokenizer::none(4).unwrap();
    let id = |line: Line<'_>| parsed(&line)["response"]["request_id"].as_str().unwrap().to_owned();
    let fault = RowError::new("too_long", "x").into();
    let request = completion(r#"{"prompt":"x"}"#).unwrap();
    let answered = id(answer(&request, "m", &[generated(Finish::Stop)], &tokenizer));
    assert_eq!(answered, "d228cb696f1a8caf78912b704e4a8964");
    assert_eq!(id(refuse(Some("a"), true, 1, &fault)), answered);
    let others = [
        id(refuse(Some("a"), false, 1, &fault)),
        id(refuse(Some("a"), false, 2, &fault)),
        id(refuse(None, true, 1, &fault)),
        id(refuse(None, true, 2, &fault)),
        id(refuse(Some(""), true, 2, &fault)),
        answered,
    ];
    assert_eq!(others.iter().collect::<std::collections::HashSet<_>>().len(), others.len());
}

/// Rows from memory.
struct Memory(Vec<std::result::Result<Row, RowError>>, usize);

impl Rows for Memory {
    fn next(&mut self) -> Result<Option<source::Line>> {
        let at = Position { row: self.1 as u64, ..Position::default() };
        let next = Position { row: at.row + 1, ..at };
        let row = self.0.get(self.1).cloned();
        self.1 += 1;
        Ok(row.map(|row| source::Line { at, next, place: String::new(), row }))
    }
}

#[test]
fn the_second_of_a_name_is_found_after_a_resumption_too() {
    let named = |name: &str| Ok(row(&format!("{{\"custom_id\":{name}}}")));
    let rows = vec![
        named("\"a\""),
        Err(RowError::new("json", "x")),
        named("\"b\""),
        named("7"),
        named("\"a\""),
        named("7"),
        named("\"b\""),
        named("\"A\""),
    ];
    let wanted = [true, true, true, true, false, true, false, true];
    let is_first = |seen: &mut Seen, row: &std::result::Result<Row, RowError>| {
        row.as_ref().map_or(true, |row| seen.is_first(row).unwrap())
    };
    for until in 0..rows.len() {
        let mut seen = Seen::default();
        seen.catch_up(&mut Memory(rows.clone(), 0), until as u64).unwrap();
        let got: Vec<bool> = rows[until..].iter().map(|row| is_first(&mut seen, row)).collect();
        assert_eq!(got, wanted[until..], "{until}");
    }
    assert!(Seen::fault(rows[0].as_ref().unwrap()).message.contains("\"a\" names an earlier"));
}

proptest! {
    #[test]
    fn no_body_panics(body in "[\\[\\]{}\",:0-9e.\\-a-c]{0,30}", key in "[a-z_]{1,12}", json in "[\\[\\]{}\",:0-9e\\-]{0,12}") {
        let url = ["/v1/completions", "/v1/chat/completions"];
        for body in [body, format!("{{\"prompt\":\"x\",\"{key}\":{json}}}"), format!("{{\"messages\":{json}}}")] {
            if let Ok(body) = RawValue::from_string(body) {
                let _ = url.map(|url| request(url, body.get()));
            }
        }
    }
}
