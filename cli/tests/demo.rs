//! The command on the demo checkpoint: convert once, then run what it made.

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
};

use serde_json::{Value, json};
use tempfile::TempDir;

fn pith(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pith"));
    command.args(args).stdin(Stdio::null());
    command
}

fn output(args: &[&str]) -> Output {
    pith(args).output().expect("pith starts")
}

fn stdout(args: &[&str]) -> String {
    let output = output(args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "pith {args:?}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn checkpoint() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo")
}

/// The converted model, made once.
fn model() -> &'static str {
    static MODEL: OnceLock<(TempDir, String)> = OnceLock::new();
    let (_, path) = MODEL.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("demo.gguf").to_str().expect("UTF-8").to_owned();
        stdout(&["convert", checkpoint().to_str().expect("UTF-8"), "-o", &path, "--type", "q8_0"]);
        (folder, path)
    });
    path
}

/// `pith run MODEL ARGS --temp 0`'s text.
fn greedy(args: &[&str]) -> String {
    let mut all = vec!["run", model(), "--temp", "0", "-n", "24"];
    all.extend(args);
    stdout(&all)
}

const PROMPT: [&str; 2] = ["--prompt", "She was very much"];

fn code(args: &[&str]) -> (Option<i32>, String) {
    let output = output(args);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn greedy_text_does_not_depend_on_threads() {
    let one = greedy(&[&PROMPT[..], &["--threads", "1"]].concat());
    assert!(one.trim().len() > 20, "{one:?}");
    assert_eq!(one, greedy(&[&PROMPT[..], &["--threads", "2"]].concat()));
}

#[test]
fn greedy_text_does_not_depend_on_the_kernels() {
    let best = greedy(&PROMPT);
    assert_eq!(best, greedy(&[&PROMPT[..], &["--kernels", "scalar"]].concat()));
}

#[test]
fn the_same_seed_draws_the_same_text() {
    let draw = |seed| {
        stdout(&["run", model(), "-n", "24", "--temp", "1", "--prompt", "She", "--seed", seed])
    };
    assert_eq!(draw("1"), draw("1"));
    assert_ne!(draw("1"), draw("2"));
}

#[test]
fn a_prompt_is_the_same_from_argument_file_and_stdin() {
    let argument = greedy(&PROMPT);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompt.txt");
    std::fs::write(&file, PROMPT[1]).unwrap();
    assert_eq!(argument, greedy(&["--file", file.to_str().unwrap()]));

    let mut child = pith(&["run", model(), "-", "--temp", "0", "-n", "24"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(format!("{}\n", PROMPT[1]).as_bytes()).unwrap();
    assert_eq!(argument.as_bytes(), child.wait_with_output().unwrap().stdout);
}

#[test]
fn a_stop_string_ends_the_text_before_itself() {
    let whole = greedy(&PROMPT);
    let stop = whole.trim_end().split(' ').filter(|word| !word.is_empty()).nth(3).expect("words");
    let cut = greedy(&[&PROMPT[..], &["--stop", stop]].concat());
    assert_eq!(cut.trim_end_matches('\n'), &whole[..whole.find(stop).unwrap()]);
}

#[test]
fn json_holds_text_ids_and_timings() {
    let object: Value =
        serde_json::from_str(&greedy(&[&PROMPT[..], &["--json"]].concat())).unwrap();
    assert_eq!(object["text"].as_str().unwrap().trim_end(), greedy(&PROMPT).trim_end());
    assert_eq!(object["ids"].as_array().unwrap().len(), 24);
    assert_eq!(object["ended_by"], "limit");
    let timings = &object["timings"];
    assert_eq!(timings["generation_steps"], 23);
    assert!(timings["generation_tokens_per_second"].as_f64().unwrap() > 0.0);
    if cfg!(target_os = "linux") {
        assert!(timings["peak_resident_bytes"].as_u64().unwrap() > 0);
    }
}

#[test]
fn a_full_context_is_an_error_unless_asked() {
    let run = |policy: &'static str| {
        let args = [
            "run",
            model(),
            "--temp",
            "0",
            "-n",
            "60",
            "--ctx",
            "32",
            "--json",
            "--on-full",
            policy,
        ];
        output(&[&args[..], &PROMPT[..]].concat())
    };
    let error = run("error");
    assert_eq!(error.status.code(), Some(5), "{}", String::from_utf8_lossy(&error.stderr));
    let stop: Value = serde_json::from_slice(&run("stop").stdout).unwrap();
    assert_eq!(stop["ended_by"], "full");
    // The last id drawn needs no place in the context.
    let read = stop["prompt_ids"].as_array().unwrap().len() + stop["ids"].as_array().unwrap().len();
    assert_eq!(read, 33);
    let shift: Value = serde_json::from_slice(&run("shift").stdout).unwrap();
    assert_eq!(shift["ids"].as_array().unwrap().len(), 60);
}

#[test]
fn errors_have_their_exit_codes() {
    let (exit, said) = code(&["run", "/nonexistent/model.gguf", "-p", "x"]);
    assert_eq!((exit, said.contains("/nonexistent/model.gguf")), (Some(4), true), "{said}");

    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("bad.gguf");
    std::fs::write(&bad, b"not a model at all, only text").unwrap();
    let (exit, said) = code(&["run", bad.to_str().unwrap(), "-p", "x"]);
    assert_eq!((exit, said.contains("GGUF")), (Some(3), true), "{said}");

    let whole = std::fs::read(model()).unwrap();
    for len in [10, 1000, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&bad, &whole[..len]).unwrap();
        for command in
            [&["run", bad.to_str().unwrap(), "-p", "x"][..], &["inspect", bad.to_str().unwrap()]]
        {
            let (exit, said) = code(command);
            assert_eq!(exit, Some(3), "cut to {len}: {said}");
            assert!(!said.contains("panicked"), "{said}");
        }
    }

    assert_eq!(code(&["run", model(), "-p", ""]).0, Some(2), "an empty prompt");
    assert_eq!(code(&["run", model()]).0, Some(2), "no prompt");
    assert_eq!(code(&["convert", "/nonexistent", "--type", "q4_k_m"]).0, Some(2));
    assert_eq!(code(&["run", model(), "-p", "x", "--kernels", "abacus"]).0, Some(2));
    assert_eq!(code(&["run", model(), "-p", "x", "--max-memory", "0"]).0, Some(5));
    let long = "She was very much pleased. ".repeat(9);
    assert_eq!(
        code(&["run", model(), "-p", &long, "--ctx", "16", "--on-full", "shift"]).0,
        Some(5)
    );
    assert_eq!(code(&["convert", "/nonexistent"]).0, Some(4));
}

#[test]
fn chat_refuses_a_model_without_template() {
    let (exit, said) = code(&["chat", model()]);
    assert_eq!(exit, Some(3));
    assert!(said.contains("pith run"), "{said}");
}

/// A copy of the demo checkpoint under `folder`, to change.
fn copy_of_checkpoint(folder: &Path) -> PathBuf {
    let copy = folder.join("models/demo");
    std::fs::create_dir_all(&copy).unwrap();
    for entry in std::fs::read_dir(checkpoint()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    copy
}

#[test]
fn chat_takes_a_turn_from_each_line() {
    let folder = tempfile::tempdir().unwrap();
    let copy = copy_of_checkpoint(folder.path());
    let config = copy.join("tokenizer_config.json");
    let mut object: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    object["chat_template"] = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}\
                               {% if add_generation_prompt %}assistant:{% endif %}"
        .into();
    std::fs::write(&config, object.to_string()).unwrap();
    let file = folder.path().join("chat.gguf");
    let file = file.to_str().unwrap();
    stdout(&["convert", copy.to_str().unwrap(), "-o", file, "--type", "q8_0"]);

    let talk = |turns: &str| {
        let mut child = pith(&["chat", file, "--temp", "0", "-n", "8", "--system", "Be brief."])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(turns.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let one = talk("How do you do?\n");
    assert!(one.len() > 1);
    let two = talk("How do you do?\n\nAnd your sister?\n");
    assert!(two.starts_with(&one) && two.len() > one.len(), "{two:?}");
    // What was said before matters, until it is cleared.
    assert_eq!(talk("Good morning.\n/clear\nHow do you do?\n"), talk("Good morning.\n") + &one);
    // The reply to a turn is what `run` writes after the rendered text.
    let rendered = "system: Be brief.\nuser: How do you do?\nassistant:";
    assert_eq!(one, stdout(&["run", file, "--prompt", rendered, "--temp", "0", "-n", "8"]));
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let mut child = pith(&["run", model(), "-p", "She", "-n", "200", "--temp", "0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 4];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    // Its end of the pipe is closed now.
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("panicked"), "{}: {said}", output.status);
}

#[test]
fn inspect_shows_the_same_as_text_and_json() {
    let text = stdout(&["inspect", model(), "--tensors", "--plan", "--tokenizer"]);
    for wanted in ["gpt2", "token_embd.weight", "Q8_0", "KV cache", "general.architecture"] {
        assert!(text.contains(wanted), "no {wanted:?} in\n{text}");
    }
    let object: Value = serde_json::from_str(&stdout(&[
        "inspect",
        model(),
        "--tensors",
        "--plan",
        "--tokenizer",
        "--json",
    ]))
    .unwrap();
    assert_eq!(object["family"]["architecture"], "gpt2");
    assert!(object["plan"].as_array().unwrap().len() > 10);
    let tensors = object["tensors"].as_array().unwrap();
    assert!(tensors.iter().any(|t| t["name"] == "token_embd.weight" && t["shape"][0] == 256));
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_cleanly_with_130() {
    let mut child = pith(&["run", model(), "-p", "She", "-n", "100000", "--on-full", "shift"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut first = [0; 1];
    out.read_exact(&mut first).unwrap();
    let reader = std::thread::spawn(move || out.read_to_end(&mut Vec::new()));
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    reader.join().unwrap().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&output.stderr).contains("tok/s"));
}

/// A model with the demo's tokenizer, one small layer of zeros and room for half a million tokens.
#[cfg(unix)]
fn endless(folder: &Path) -> String {
    let copy = copy_of_checkpoint(folder);
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 2048,
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": 1 << 19,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": true, "torch_dtype": "float32", "bos_token_id": 0, "eos_token_id": 0,
    });
    std::fs::write(copy.join("config.json"), config.to_string()).unwrap();
    let layer = ["q_proj", "k_proj", "v_proj", "o_proj"].map(|name| format!("self_attn.{name}"));
    let layer =
        layer.into_iter().chain(["gate", "up", "down"].map(|name| format!("mlp.{name}_proj")));
    let matrices = layer.map(|name| (format!("model.layers.0.{name}.weight"), vec![32, 32]));
    let norms = ["layers.0.input_layernorm", "layers.0.post_attention_layernorm", "norm"];
    let norms = norms.map(|name| (format!("model.{name}.weight"), vec![32]));
    let embedding = ("model.embed_tokens.weight".to_owned(), vec![2048, 32]);
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in matrices.chain(norms).chain([embedding]) {
        let begin = end;
        end += 4 * shape.iter().product::<usize>();
        header.insert(name, json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}));
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.resize(file.len() + end, 0);
    std::fs::write(copy.join("model.safetensors"), file).unwrap();
    let path = folder.join("endless.gguf").to_str().expect("UTF-8").to_owned();
    stdout(&["convert", copy.to_str().expect("UTF-8"), "-o", &path]);
    path
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_long_prompt_before_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let model = endless(folder.path());
    // One token a word; all of them would take minutes.
    let (prompt, n_words) = ("She".to_owned() + &" was".repeat(400_000), 400_001);
    let file = folder.path().join("prompt.txt");
    std::fs::write(&file, &prompt).unwrap();
    let mut child =
        pith(&["run", &model, "--file", file.to_str().unwrap(), "--ctx", "450000", "--echo"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
    // When the echo has come, the prompt is being read.
    let mut out = child.stdout.take().unwrap();
    let mut echo = vec![0; prompt.len()];
    out.read_exact(&mut echo).unwrap();
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), rest.as_str()), (Some(130), "\n"), "{said}");
    let read = said.split("prompt ").nth(1).and_then(|rest| rest.split(' ').next());
    let read: usize = read.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{said}"));
    let n_batch = pith::session::Options::default().n_batch;
    assert!(read < n_words && read.is_multiple_of(n_batch), "{said}");
}

#[test]
fn the_demo_shows_and_runs_both_commands() {
    let folder = tempfile::tempdir().unwrap();
    copy_of_checkpoint(folder.path());
    let output = pith(&["demo"]).current_dir(folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("$ pith convert models/demo") && said.contains("$ pith run demo.gguf"),
        "{said}"
    );
    assert!(output.stdout.len() > 100);
    assert!(folder.path().join("demo.gguf").is_file());

    let elsewhere = tempfile::tempdir().unwrap();
    let output = pith(&["demo"]).current_dir(elsewhere.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[rustfmt::skip]
const SMALL_BENCH: [&str; 12] = [
    "--prompt", "16,999", "--score", "8,600", "--depth", "0,64", "--batch", "1,2", "-n", "4",
    "--repeat", "2",
];

#[test]
fn bench_measures_what_fits_and_names_what_does_not() {
    let args = [&["bench", model()][..], &SMALL_BENCH].concat();
    let object: Value = serde_json::from_str(&stdout(&[&args[..], &["--json"]].concat())).unwrap();
    assert!(object["read_gigabytes_per_second"].as_f64().unwrap() > 0.0);
    let results = object["results"].as_array().unwrap();
    let cells: Vec<_> = results
        .iter()
        .map(|r| (&r["task"], ["tokens", "sequences", "depth"].map(|key| r[key].as_u64().unwrap())))
        .collect();
    let generation = Value::from("generation");
    let wanted = [
        (&Value::from("prompt"), [16, 1, 0]),
        (&Value::from("scoring"), [8, 1, 0]),
        (&generation, [4, 1, 0]),
        (&generation, [4, 1, 64]),
        (&generation, [4, 2, 0]),
        (&generation, [4, 2, 64]),
    ];
    assert_eq!(cells, wanted);
    for result in results {
        assert_eq!(result["runs"].as_array().unwrap().len(), 2);
        assert!(result["tokens_per_second"].as_f64().unwrap() > 0.0);
        let reads = result["gigabytes_per_second"].as_f64().is_some_and(|rate| rate > 0.0);
        assert_eq!(reads, result["task"] == "generation");
    }
    let left_out = object["left_out"].to_string();
    assert!(left_out.contains("999") && left_out.contains("512"), "{left_out}");
    assert!(left_out.contains("scoring of 600"), "{left_out}");

    let table = stdout(&args);
    assert_eq!(table.lines().filter(|line| line.starts_with("generation")).count(), 4, "{table}");
    assert!(table.contains("left out: prompt of 999 tokens"), "{table}");
    let csv = stdout(&[&args[..], &["--csv", "--kernels", "scalar", "--threads", "1"]].concat());
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows.len(), 7);
    assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{csv}");
    assert!(rows[1..].iter().all(|row| row[4..6] == ["scalar", "1"]), "{csv}");
}

#[test]
fn bench_leaves_out_what_is_over_the_memory_allowed() {
    let args = [
        "bench",
        model(),
        "--prompt",
        "8",
        "--score",
        "8",
        "--batch",
        "1,5000",
        "--depth",
        "0",
        "--max-memory",
        "100",
    ];
    let object: Value =
        serde_json::from_str(&stdout(&[&args[..], &["--json", "--repeat", "1"]].concat())).unwrap();
    assert_eq!(object["results"].as_array().unwrap().len(), 3);
    assert!(object["left_out"].to_string().contains("5000 x"), "{object}");
}

#[test]
fn kernels_names_a_table_for_every_format() {
    let object: Value = serde_json::from_str(&stdout(&["kernels", "--json"])).unwrap();
    let formats = object["formats"].as_object().unwrap();
    let table = stdout(&["kernels"]);
    for format in pith::quant::Format::ALL {
        assert_eq!(formats[format.name()]["scalar"], "scalar");
        assert!(formats[format.name()][object["chosen"].as_str().unwrap()].is_string());
        assert!(table.lines().any(|line| line.starts_with(format.name())), "{table}");
    }
    let available = object["kernels"].as_array().unwrap().iter();
    let available = available.filter(|table| table["available"] == true).count();
    assert_eq!(available, formats["F32"].as_object().unwrap().len());
}
