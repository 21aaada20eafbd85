//! Jobs over rows, by the real binary: the same bytes whatever the company, and after any kill.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pith"));
    command.args(args).stdin(Stdio::null());
    command
}

fn pith(args: &[&str]) -> Output {
    command(args).output().expect("pith starts")
}

fn ok(args: &[&str]) -> String {
    let output = pith(args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "pith {args:?}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Converts the demo checkpoint.
fn demo(folder: &Path, format: &str) -> String {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo");
    let out = folder.join("demo.gguf").to_str().unwrap().to_owned();
    ok(&["convert", source.to_str().unwrap(), "-o", &out, "--type", format, "--no-check"]);
    out
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().unwrap().to_owned()
}

/// Rows with texts of some words, many of which begin alike.
fn rows(n: usize) -> Vec<Value> {
    let words = ["the", "King", "and", "love", "shall", "not", "speak", "of", "war", "my", "lord"];
    let mut state = 7u64;
    let mut random = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    (0..n)
        .map(|i| {
            let begin = if random(2) == 0 { "Good morrow to you, sir: " } else { "" };
            let some = (0..3 + random(12)).map(|_| words[random(words.len())]);
            json!({"id": i, "text": format!("{begin}{}", some.collect::<Vec<_>>().join(" "))})
        })
        .collect()
}

fn write(path: &str, rows: &[Value]) {
    fs::write(path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
}

/// The commands, without model, input and output.
const COMMANDS: [&[&str]; 4] = [
    &["score", "--tokens", "--top", "2"],
    &["score", "--template", "He said: ", "--long", "slide"],
    &[
        "classify",
        "--labels",
        "love,war,peace of mind",
        "--by",
        "pmi",
        "--template",
        "{{text}}\\nAbout:",
    ],
    &["generate", "-n", "12", "--log-probs", "2", "--seed", "3"],
];

fn job(command: &[&str], model: &str, input: &str, output: &str, more: &[&str]) -> Vec<String> {
    let (name, options) = (command[0], &command[1..]);
    let all = [&[name, model, input, "-o", output][..], options, more].concat();
    all.into_iter().map(str::to_owned).collect()
}

fn done(args: &[String]) {
    ok(&args.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn company_threads_and_order_change_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let model = demo(folder, "q8_0");
    let mut rows = rows(40);
    let (input, shuffled) = (path(folder, "rows.jsonl"), path(folder, "shuffled.jsonl"));
    write(&input, &rows);
    rows.sort_by_key(|row| row["id"].as_u64().unwrap() * 17 % 41);
    write(&shuffled, &rows);
    for (i, command) in COMMANDS.iter().enumerate() {
        let out = |name: &str| path(folder, &format!("{i}-{name}.jsonl"));
        let plain = out("plain");
        done(&job(command, &model, &input, &plain, &[]));
        let wanted = fs::read_to_string(&plain).unwrap();
        assert_eq!(wanted.lines().count(), rows.len());
        for (way, more) in [
            ["--sequences", "1", "--batch", "256", "--threads", "1"],
            ["--sequences", "4", "--batch", "7", "--threads", "2"],
            ["--sequences", "32", "--batch", "64", "--threads", "3"],
        ]
        .iter()
        .enumerate()
        {
            let out = out(&way.to_string());
            done(&job(command, &model, &input, &out, more));
            assert!(fs::read_to_string(&out).unwrap() == wanted, "{command:?} {more:?}");
        }
        let out = out("shuffled");
        done(&job(command, &model, &shuffled, &out, &[]));
        let mut lines: Vec<String> =
            fs::read_to_string(&out).unwrap().lines().map(str::to_owned).collect();
        let id = |line: &String| serde_json::from_str::<Value>(line).unwrap()["id"].as_u64();
        lines.sort_by_key(id);
        assert!(lines.concat() == wanted.replace('\n', ""), "{command:?} shuffled");
    }
}

/// Kills a job, which takes about this `time`, at random instants until it is done; how often that was.
/// All its lives but the last take about the whole time together.
fn kill(args: &[String], n_kills: usize, time: Duration, seed: u64) -> usize {
    let mut state = seed;
    for killed in 0.. {
        let mut child = command(&[]);
        let mut child = child.args(args).stderr(Stdio::piped()).spawn().expect("pith starts");
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        if killed < n_kills {
            let part = (state >> 40) as f64 / (1u64 << 24) as f64 * 2.0 / n_kills as f64;
            thread::sleep(time.mul_f64(part));
            child.kill().unwrap();
        }
        let ended = child.wait_with_output().unwrap();
        if ended.status.success() {
            return killed;
        }
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(killed < n_kills && said.is_empty(), "it fails by itself: {said}");
    }
    unreachable!("the job is done at last")
}

fn killed_jobs_end_alike(n_rows: usize, n_kills: usize) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let model = demo(folder, "q8_0");
    let input = path(folder, "rows.jsonl");
    write(&input, &rows(n_rows));
    let mut killed = 0;
    for (i, command) in COMMANDS.iter().enumerate() {
        let (plain, again) =
            (path(folder, &format!("{i}.jsonl")), path(folder, &format!("{i}-k.jsonl")));
        let began = Instant::now();
        done(&job(command, &model, &input, &plain, &[]));
        let time = began.elapsed();
        let args = job(command, &model, &input, &again, &["--resume", "--commit-every", "0"]);
        killed += kill(&args, n_kills, time, i as u64 + 1);
        assert!(fs::read(&plain).unwrap() == fs::read(&again).unwrap(), "{command:?}");
        assert!(!PathBuf::from(format!("{again}.part")).exists());
    }
    assert!(killed > 0, "no job was killed in time");
    eprintln!("{killed} kills");
}

#[test]
fn a_killed_job_goes_on_to_the_same_bytes() {
    killed_jobs_end_alike(300, 4);
}

#[test]
#[ignore = "takes minutes: fifty kills of each command"]
fn fifty_kills_change_no_byte() {
    killed_jobs_end_alike(3000, 50);
}

/// Bytes that a command needs at least: what it says where it may have one.
fn least(args: &[&str]) -> String {
    let output = pith(&[args, &["--max-memory", "1"]].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(5), "{said}");
    said.split(' ').find(|word| word.parse::<u64>().is_ok()).unwrap().to_owned()
}

#[test]
fn a_ceiling_takes_sequences_away_and_changes_no_byte() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let model = demo(folder, "q4_0");
    let input = path(folder, "rows.jsonl");
    write(&input, &rows(20));
    for (i, command) in COMMANDS.iter().enumerate() {
        let [free, bound] =
            ["free", "bound"].map(|name| path(folder, &format!("{i}-{name}.jsonl")));
        done(&job(command, &model, &input, &free, &[]));
        let args = job(command, &model, &input, &bound, &[]);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        ok(&[&args[..], &["--max-memory", &least(&args)]].concat());
        assert_eq!(fs::read(&free).unwrap(), fs::read(&bound).unwrap(), "{command:?}");
    }
}

#[test]
fn a_row_that_fails_loses_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let model = demo(folder, "f32");
    let input = path(folder, "rows.jsonl");
    let deep = format!("{{\"text\":{}1{}}}", "[".repeat(500), "]".repeat(500));
    let long = format!("{{\"text\":\"{}\"}}", "word ".repeat(400_000));
    let mut bytes = Vec::new();
    for line in [
        b"{\"text\":\"a good row\",\"kept\":1.50}".as_slice(),
        b"{\"text\":\"bad \xff utf\"}",
        b"not json",
        b"{\"other\":\"no text\"}",
        b"{\"text\":\"nul \\u0000 inside\"}",
        deep.as_bytes(),
        long.as_bytes(),
        b"{\"text\":\"<|endoftext|> typed\"}",
        b"{\"text\":\"\"}",
        b"{\"text\":\"another good row\"}",
    ] {
        bytes.extend_from_slice(line);
        bytes.push(b'\n');
    }
    fs::write(&input, bytes).unwrap();
    let output = pith(&["score", &model, &input]);
    assert_eq!(output.status.code(), Some(6));
    let rows: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let errors: Vec<&str> = rows
        .iter()
        .map(|row| row["error"].as_str().map_or("", |e| e.split(':').next().unwrap()))
        .collect();
    assert_eq!(
        errors,
        ["", "utf8", "json", "missing_column", "", "json", "too_long", "", "empty", ""]
    );
    assert!(rows.iter().all(|row| row["error"].is_null() == row["log_prob"].is_number()));
    // Text of a control token is text: more than one token, each scored.
    assert!(rows[7]["n_tokens"].as_u64() > Some(4));
    let failed = pith(&["score", &model, &input, "--fail-fast"]);
    assert_eq!(failed.status.code(), Some(6));
    assert_eq!(String::from_utf8(failed.stdout).unwrap().lines().count(), 1);
}

#[test]
fn what_changed_is_named_and_nothing_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let model = demo(folder, "q8_0");
    let (input, out) = (path(folder, "rows.jsonl"), path(folder, "out.jsonl"));
    write(&input, &rows(3));
    ok(&["score", &model, &input, "-o", &out]);
    let first = fs::read(&out).unwrap();
    ok(&["score", &model, &input, "-o", &out, "--resume"]);
    for (more, wanted) in [
        (&["--resume", "--tokens"][..], "tokens"),
        (&["--resume", "--context", "text"], "context"),
        (&["--resume", "--prefix", "x"], "prefix"),
        (&["--resume", "--cache-type", "f32"], "cache_type"),
        (&[], "--restart"),
    ] {
        let output = pith(&[&["score", &model, &input, "-o", &out][..], more].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains(wanted), "{more:?}: {said}");
    }
    write(&input, &rows(4));
    let output = pith(&["score", &model, &input, "-o", &out, "--resume"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && said.contains("inputs"), "{said}");
    assert!(fs::read(&out).unwrap() == first);
    ok(&["score", &model, &input, "-o", &out, "--restart"]);
    assert_eq!(fs::read_to_string(&out).unwrap().lines().count(), 4);
}

#[test]
fn labels_are_those_of_scores_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let model = demo(folder, "f32");
    let (input, pairs) = (path(folder, "rows.jsonl"), path(folder, "pairs.jsonl"));
    let labels = ["love", "war", "the King", "the Kingdom", "a", "sorrow and joy"];
    let rows = rows(5);
    write(&input, &rows);
    let row =
        |row: &Value, label: &&str| json!({"text": row["text"], "label": format!(" {label}")});
    let all: Vec<Value> =
        rows.iter().flat_map(|r| labels.iter().map(move |label| row(r, label))).collect();
    write(&pairs, &all);
    let parse = |text: String| -> Vec<Value> {
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let list = labels.join(",");
    let got = parse(ok(&[
        "classify",
        &model,
        &input,
        "--labels",
        &list,
        "--top",
        "0",
        "--cache-type",
        "f32",
    ]));
    let scored = parse(ok(&[
        "score",
        &model,
        &pairs,
        "--context",
        "text",
        "--column",
        "label",
        "--sequences",
        "1",
        "--cache-type",
        "f32",
    ]));
    for (row, scored) in got.iter().zip(scored.chunks(labels.len())) {
        let best = scored.iter().max_by(|a, b| {
            a["log_prob"].as_f64().unwrap().total_cmp(&b["log_prob"].as_f64().unwrap())
        });
        assert_eq!(
            format!(" {}", row["label"].as_str().unwrap()),
            best.unwrap()["label"].as_str().unwrap()
        );
        let mut sum = 0.0;
        for label in row["labels"].as_array().unwrap() {
            let at = labels.iter().position(|l| label["label"] == *l).unwrap();
            assert_eq!(label["log_prob"], scored[at]["log_prob"]);
            assert_eq!(label["log_prob_per_token"], scored[at]["log_prob_per_token"]);
            sum += label["probability"].as_f64().unwrap();
        }
        assert!((sum - 1.0).abs() < 1e-12);
    }
}

#[test]
fn a_text_is_classified_by_labels_and_examples() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let model = demo(folder, "q8_0");
    let shots = path(folder, "shots.csv");
    fs::write(&shots, "text,label\nWe fought all day,war\nMy heart is thine,love\n").unwrap();
    let args = ["classify", &model, "--labels", "love,war", "--text", "To arms!", "--json"];
    let plain: Value = serde_json::from_str(&ok(&args)).unwrap();
    let shot: Value =
        serde_json::from_str(&ok(&[&args[..], &["--few-shot", &shots]].concat())).unwrap();
    assert_ne!(plain["labels"][0]["log_prob"], shot["labels"][0]["log_prob"]);
    let text = ok(&args[..args.len() - 1]);
    assert_eq!(text.lines().count(), 2, "{text}");
    let refused = pith(&["classify", &model, "--text", "x"]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("--labels"));
}

#[test]
fn tables_come_out_as_tables() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let model = demo(folder, "q8_0");
    let (input, out) = (path(folder, "rows.csv"), path(folder, "out.csv"));
    fs::write(&input, "id,text,note\n1,\"O, \"\"sir\"\"\",x\n2,my lord,\n").unwrap();
    ok(&["generate", &model, &input, "--id", "id", "-n", "3", "--temp", "0", "-o", &out]);
    let text = fs::read_to_string(&out).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("id,completion,finish_reason,n_tokens,error"));
    assert!(lines.next().unwrap().starts_with("1,"), "{text}");
    let summary = ok(&["score", &model, &input, "-o", &path(folder, "o.csv"), "--json"]);
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert_eq!((&summary["rows"], &summary["failed"]), (&json!(2), &json!(0)));
    // Words of a list, behind one beginning.
    let words = path(folder, "new_word_list.txt");
    fs::write(&words, "sword\nlove\n\nmorrow\n").unwrap();
    let scored = ok(&["score", &model, &words, "--template", "A word: ", "--output-format", "csv"]);
    assert_eq!(scored.lines().count(), 4, "{scored}");
}

#[test]
fn parquet_comes_out_and_goes_in() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let model = demo(folder, "q8_0");
    let (input, parquet, again) =
        (path(folder, "rows.jsonl"), path(folder, "o.parquet"), path(folder, "again.jsonl"));
    write(&input, &rows(10));
    let plain = ok(&["score", &model, &input]);
    ok(&["score", &model, &input, "-o", &parquet]);
    // Its rows are rows again: scored once more, beside the first scores.
    ok(&["score", &model, &parquet, "--prefix", "new_", "-o", &again]);
    for (line, first) in fs::read_to_string(&again).unwrap().lines().zip(plain.lines()) {
        let (line, first): (Value, Value) =
            (serde_json::from_str(line).unwrap(), serde_json::from_str(first).unwrap());
        assert_eq!(line["id"], first["id"]);
        for column in ["log_prob", "perplexity", "n_tokens"] {
            assert_eq!(line[column], first[column], "{line}");
            assert_eq!(line[format!("new_{column}")], first[column]);
        }
    }
    let typed = path(folder, "typed.parquet");
    ok(&["score", &model, &parquet, "--keep", "id", "-o", &typed]);
    assert!(fs::metadata(&typed).unwrap().len() > 100);
    ok(&["score", &model, &parquet, "--keep", "id", "-o", &typed, "--resume"]);
}

#[test]
fn openais_batches_are_answered_in_kind() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let model = demo(folder, "q8_0");
    let (input, out) = (path(folder, "batch.jsonl"), path(folder, "answers.jsonl"));
    let request = |id: &str, body: Value| json!({"custom_id": id, "method": "POST", "url": "/v1/completions", "body": body});
    write(
        &input,
        &[
            request(
                "a",
                json!({"model": "m", "prompt": "My lord", "max_tokens": 5, "temperature": 0}),
            ),
            request(
                "b",
                json!({"model": "m", "prompt": ["The King", "He"], "n": 2, "logprobs": 2, "seed": 1}),
            ),
            request("a", json!({"model": "m", "prompt": "again"})),
            request("c", json!({"model": "m", "prompt": "x", "tools": []})),
            json!({"custom_id": "d", "method": "POST", "url": "/v1/chat/completions",
                   "body": {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}}),
        ],
    );
    fs::write(&input, fs::read_to_string(&input).unwrap() + "no json\n").unwrap();
    let output = pith(&["generate", &model, &input, "--openai", "-o", &out]);
    assert_eq!(output.status.code(), Some(6), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<Value> = fs::read_to_string(&out)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let status: Vec<_> = lines.iter().map(|l| l["response"]["status_code"].as_u64()).collect();
    assert_eq!(status, [Some(200), Some(200), Some(400), Some(400), Some(400), None]);
    assert!(lines[..5].iter().all(|line| line["error"].is_null()));
    assert!(lines[5]["error"].as_str().unwrap().starts_with("json"));
    let b = &lines[1]["response"]["body"];
    assert_eq!(b["choices"].as_array().unwrap().len(), 4);
    // The token that was drawn is named too, where it is none of the two.
    let top = &b["choices"][0]["logprobs"]["top_logprobs"][0];
    assert!((2..=3).contains(&top.as_object().unwrap().len()), "{top}");
    assert_eq!(lines[0]["response"]["body"]["usage"]["completion_tokens"], json!(5));
    // The same text as a row's.
    let rows = path(folder, "rows.jsonl");
    write(&rows, &[json!({"text": "My lord"})]);
    let row: Value =
        serde_json::from_str(&ok(&["generate", &model, &rows, "-n", "5", "--temp", "0"])).unwrap();
    assert_eq!(row["completion"], lines[0]["response"]["body"]["choices"][0]["text"]);
    // A resumed job finds what was there before it.
    let (again, first) = (path(folder, "again.jsonl"), fs::read(&out).unwrap());
    let args =
        ["generate", &model, &input, "--openai", "--resume", "--commit-every", "0", "-o", &again];
    let args: Vec<String> = args.iter().map(|arg| arg.to_string()).collect();
    for wait in [50, 100] {
        let mut child = command(&[]).args(&args).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(wait));
        let _ = child.kill();
        let _ = child.wait();
    }
    assert_eq!(command(&[]).args(&args).output().unwrap().status.code(), Some(6));
    assert!(fs::read(&again).unwrap() == first);
}
