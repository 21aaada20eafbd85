//! Adapters by the command, on the demo checkpoint: merged, and beside the model.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::{Map, Value, json};

fn pith(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pith"));
    command.args(args).stdin(Stdio::null()).output().expect("pith starts")
}

fn stdout(args: &[&str]) -> String {
    let output = pith(args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "pith {args:?}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn fails(args: &[&str], code: i32) -> String {
    let output = pith(args);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "pith {args:?}: {errors}");
    errors
}

fn demo() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo");
    path.to_str().expect("UTF-8").to_owned()
}

/// A folder of an adapter of rank 2 for every layer's c_attn, in `inside`.
fn adapter(inside: &Path, config: Value) -> PathBuf {
    let folder = inside.join("my-lora");
    fs::create_dir_all(&folder).unwrap();
    let mut all = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4,
        "target_modules": ["c_attn"], "fan_in_fan_out": true, "lora_dropout": 0.1, "bias": "none",
    });
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    fs::write(folder.join("adapter_config.json"), all.to_string()).unwrap();
    let (mut header, mut data) = (Map::new(), Vec::new());
    let mut state = 1u32;
    for il in 0..4 {
        for (end, shape) in [("A", [2, 256]), ("B", [768, 2])] {
            let begin = data.len();
            for _ in 0..shape[0] * shape[1] {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let value = (state >> 8) as f32 / (1 << 24) as f32 - 0.5;
                data.extend((0.3 * value).to_le_bytes());
            }
            let entry = json!({
                "dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()]
            });
            let name = format!("base_model.model.transformer.h.{il}.attn.c_attn.lora_{end}.weight");
            header.insert(name, entry);
        }
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    fs::write(folder.join("adapter_model.safetensors"), file).unwrap();
    folder
}

#[test]
fn merged_and_beside_the_model_it_writes_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (base, merged, alone) = (at("base.gguf"), at("merged.gguf"), at("lora.gguf"));
    let adapter = adapter(folder.path(), json!({}));
    let adapter = adapter.to_str().unwrap();
    stdout(&["convert", &demo(), "-o", &base, "--type", "f32"]);
    let said = stdout(&["convert", &demo(), "--adapter", adapter, "-o", &merged, "--type", "f32"]);
    assert!(said.contains(&format!("merged {adapter}: 4 tensors changed")), "{said}");
    let said = stdout(&["convert", adapter, "--base", &demo(), "-o", &alone, "--json"]);
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(report["formats"], json!([{"format": "F32", "tensors": 8, "bytes": 4 * 4 * 2048}]));

    let write = |args: &[&str]| {
        let prompt = ["--prompt", "She was very much", "--temp", "0", "-n", "40"];
        stdout(&[&["run"], args, &prompt].concat())
    };
    let plain = write(&[&base]);
    let adapted = write(&[&base, "--lora", &alone]);
    assert_ne!(plain, adapted);
    assert_eq!(adapted, write(&[&merged]));
    assert_eq!(adapted, write(&[&base, "--lora", &format!("{alone}=1"), "--threads", "1"]));
    assert_eq!(plain, write(&[&base, "--lora", &format!("{alone}=0")]));
    let (half, other) = (format!("{alone}=0.25"), format!("{alone}=0.75"));
    assert_eq!(adapted, write(&[&base, "--lora", &half, "--lora", &other]));

    let plan = stdout(&["inspect", &base, "--plan", "--lora", &alone]);
    assert!(plan.contains("blk.3.attn_qkv.weight.lora_b F32"), "{plan}");
}

#[test]
fn errors_name_the_next_step() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (base, alone) = (at("base.gguf"), at("lora.gguf"));
    stdout(&["convert", &demo(), "-o", &base]);
    let dora = adapter(folder.path(), json!({"use_dora": true}));
    let dora = dora.to_str().unwrap();
    let said = fails(&["convert", dora, "--base", &demo(), "-o", &alone], 2);
    assert!(said.contains("lora_magnitude_vector"), "{said}");
    let said = fails(&["convert", dora, "-o", &alone], 2);
    assert!(said.contains("--base BASE") && said.contains("--adapter"), "{said}");
    fails(&["convert", dora, "--base", &demo(), "--adapter", dora, "-o", &alone], 2);
    let plain = adapter(folder.path(), json!({}));
    let plain = plain.to_str().unwrap();
    let said = fails(&["convert", plain, "--base", &demo(), "-o", &alone, "--type", "q8_0"], 2);
    assert!(said.contains("f32, f16, bf16 or source"), "{said}");
    fails(&["convert", &demo(), "--adapter", &at("nowhere"), "-o", &alone], 2);
    assert!(!Path::new(&alone).exists());

    let run = |lora: &str| vec!["run".to_owned(), base.clone(), "--lora".into(), lora.into()];
    for (lora, code) in [(base.as_str(), 2), (&at("nowhere.gguf"), 4), ("=2", 2), ("x=inf", 2)] {
        let args = [run(lora), vec!["--prompt".into(), "She".into()]].concat();
        fails(&args.iter().map(String::as_str).collect::<Vec<_>>(), code);
    }
}
