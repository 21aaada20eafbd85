//! The tiny checkpoints behind the goldens, made again from their manifests: the same names, shapes
//! and bits that make.py gave to PyTorch. A test includes this file:
//!
//! ```ignore
//! #[path = "goldens/support/checkpoint.rs"]
//! mod checkpoint;
//! ```
#![allow(dead_code)] // each test uses a part

use serde_json::{Map, Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A variant of a family, as tests/goldens/VARIANT describes it.
pub struct Checkpoint {
    pub variant: String,
    /// The folder of the variant.
    pub folder: PathBuf,
    /// The variant that an adapter changes.
    pub base: Option<String>,
    /// "F32", "F16" or "BF16".
    pub dtype: String,
    pub tensors: Vec<Tensor>,
    /// How many of them are another variant's, on which a head stands: they come first.
    pub n_base: usize,
    /// What make.py found of the rest: see [`checksum`].
    pub checksum: u64,
    tokenizer: PathBuf,
}

/// A tensor of a manifest.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    /// PyTorch's shape: slowest first.
    pub shape: Vec<usize>,
    offset: f32,
    scale: f32,
    /// Whose values it has: another tensor's, for a head that is written although it is tied, and
    /// for what an adapter's manifest says.
    seed: String,
}

/// What PyTorch said about one sequence.
pub struct Golden {
    pub ids: Vec<u32>,
    /// The most likely next token after each position.
    pub top1: Vec<u32>,
    /// All logits, `[n_vocab]`, after some positions.
    pub logits: Vec<(usize, Vec<f32>)>,
}

/// What PyTorch said of one text with a head on top.
pub struct HeadGolden {
    pub text: Option<String>,
    pub ids: Vec<u32>,
    /// `[n_answers, n_labels]`
    pub logits: Vec<f32>,
    /// What the library's pipeline makes of them.
    pub values: Vec<f32>,
    /// The likeliest label of each answer.
    pub labels: Vec<String>,
}

/// How [`Checkpoint::write`] lays out a folder.
#[derive(Clone, Copy)]
pub struct Layout {
    /// Files over which tensors are spread; more than one get an index.
    pub shards: usize,
    /// Whether a tied head is written too, as a copy of the embedding.
    pub tied_head: bool,
}

impl Layout {
    /// One file, as `save_pretrained` writes it.
    pub const PLAIN: Layout = Layout { shards: 1, tied_head: false };
}

/// The folder tests/goldens, from whichever crate of the workspace.
pub fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|a| a.join("tests/goldens"))
        .find(|p| p.join("make.py").exists())
        .expect("tests/goldens above this crate")
}

/// All variants that have goldens, sorted by name.
pub fn variants() -> Vec<String> {
    with_goldens(&goldens())
}

/// All classification heads that have goldens, sorted by name: variants of make_heads.py.
pub fn heads() -> Vec<String> {
    with_goldens(&goldens().join("heads")).iter().map(|name| format!("heads/{name}")).collect()
}

fn with_goldens(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap());
    let mut names: Vec<String> = entries
        .filter(|e| e.path().join("golden.json").exists())
        .map(|e| e.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The adapters that have goldens, as variants: `adapters/NAME`.
pub fn adapters() -> Vec<String> {
    let entries = fs::read_dir(goldens().join("adapters")).unwrap().map(|e| e.unwrap());
    let mut names: Vec<String> =
        entries.map(|e| format!("adapters/{}", e.file_name().to_str().unwrap())).collect();
    names.sort();
    names
}

impl Checkpoint {
    /// Reads the manifest of a variant.
    pub fn open(variant: &str) -> Checkpoint {
        let folder = goldens().join(variant);
        let manifest = read_json(&folder.join("manifest.json"));
        let own = manifest["tensors"].as_array().unwrap().iter().map(Tensor::from_json);
        let mut tensors = match manifest["backbone"].as_str() {
            Some(base) => Checkpoint::open(base).tensors,
            None => Vec::new(),
        };
        tensors.retain(|t| !["lm_head.", "embed_out."].iter().any(|head| t.name.starts_with(head)));
        let n_base = tensors.len();
        tensors.extend(own);
        Checkpoint {
            variant: variant.into(),
            base: manifest["base"].as_str().map(str::to_owned),
            dtype: manifest["dtype"].as_str().unwrap().into(),
            checksum: u64::from_str_radix(manifest["checksum"].as_str().unwrap(), 16).unwrap(),
            tokenizer: goldens().join("tokenizers").join(manifest["tokenizer"].as_str().unwrap()),
            tensors,
            n_base,
            folder,
        }
    }

    /// The configuration.
    pub fn config(&self) -> Value {
        read_json(&self.folder.join("config.json"))
    }

    /// What PyTorch said.
    pub fn goldens(&self) -> Vec<Golden> {
        let golden = read_json(&self.folder.join("golden.json"));
        golden["sequences"].as_array().unwrap().iter().map(Golden::from_json).collect()
    }

    /// What PyTorch said with a head on top.
    pub fn head_goldens(&self) -> Vec<HeadGolden> {
        let golden = read_json(&self.folder.join("golden.json"));
        golden["sequences"].as_array().unwrap().iter().map(HeadGolden::from_json).collect()
    }

    /// Writes config.json, the tokenizer and the weights as safetensors into a folder that exists.
    pub fn write(&self, to: &Path, layout: Layout) {
        self.write_without_weights(to);
        let mut tensors = self.tensors.clone();
        if layout.tied_head {
            tensors.push(self.tied_head());
        }
        if layout.shards == 1 {
            self.write_safetensors(&to.join("model.safetensors"), &tensors);
            return;
        }
        let mut weight_map = Map::new();
        let per_shard = tensors.len().div_ceil(layout.shards);
        for (i, part) in tensors.chunks(per_shard).enumerate() {
            let file = format!("model-{:05}-of-{:05}.safetensors", i + 1, layout.shards);
            self.write_safetensors(&to.join(&file), part);
            weight_map.extend(part.iter().map(|t| (t.name.clone(), json!(file))));
        }
        let total: usize = tensors.iter().map(|t| self.encode(&t.values()).len()).sum();
        let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
        fs::write(to.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }

    /// Writes config.json, the tokenizer and the committed `pytorch_model*.bin` of a `-bin` variant.
    pub fn write_bin(&self, to: &Path) {
        self.write_without_weights(to);
        let entries = fs::read_dir(&self.folder).unwrap().map(|e| e.unwrap());
        for entry in entries {
            if entry.file_name().to_str().unwrap().starts_with("pytorch_model") {
                fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
    }

    /// Writes an adapter's configuration and its weights, as PEFT does, into a folder that exists:
    /// the committed `adapter_model.bin` of a `-bin` adapter.
    pub fn write_adapter(&self, to: &Path) {
        fs::copy(self.folder.join("adapter_config.json"), to.join("adapter_config.json")).unwrap();
        let bin = "adapter_model.bin";
        match self.folder.join(bin) {
            committed if committed.exists() => {
                fs::copy(committed, to.join(bin)).unwrap();
            }
            _ => self.write_safetensors(&to.join("adapter_model.safetensors"), &self.tensors),
        }
    }

    fn write_without_weights(&self, to: &Path) {
        fs::copy(self.folder.join("config.json"), to.join("config.json")).unwrap();
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            fs::copy(self.tokenizer.join(file), to.join(file)).unwrap();
        }
    }

    fn tied_head(&self) -> Tensor {
        let embeddings = ["wte.weight", "embed_tokens.weight", "word_embeddings.weight"];
        let mut tensors = self.tensors.iter();
        let embedding = tensors.find(|t| embeddings.iter().any(|e| t.name.ends_with(e)));
        Tensor { name: "lm_head.weight".into(), ..embedding.expect("an embedding").clone() }
    }

    fn write_safetensors(&self, to: &Path, tensors: &[Tensor]) {
        let (mut header, mut data) = (Map::new(), Vec::new());
        header.insert("__metadata__".into(), json!({"format": "pt"}));
        for tensor in tensors {
            let begin = data.len();
            data.extend(self.encode(&tensor.values()));
            let entry = json!({
                "dtype": self.dtype,
                "shape": tensor.shape,
                "data_offsets": [begin, data.len()],
            });
            header.insert(tensor.name.clone(), entry);
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header);
        file.extend(data);
        fs::write(to, file).unwrap();
    }

    fn encode(&self, values: &[f32]) -> Vec<u8> {
        match self.dtype.as_str() {
            "F32" => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            "F16" => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
            "BF16" => values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
            other => panic!("{}: dtype {other}", self.variant),
        }
    }
}

impl Tensor {
    fn from_json(row: &Value) -> Tensor {
        let name = row[0].as_str().unwrap();
        Tensor {
            name: name.into(),
            shape: row[1]
                .as_array()
                .unwrap()
                .iter()
                .map(|n| n.as_u64().unwrap() as usize)
                .collect(),
            offset: row[2].as_f64().unwrap() as f32,
            scale: row[3].as_f64().unwrap() as f32,
            seed: row[4].as_str().unwrap_or(name).into(),
        }
    }

    /// The values, row-major, before rounding to the checkpoint's type: make.py's `weights`.
    pub fn values(&self) -> Vec<f32> {
        let seed = fnv1a(self.seed.as_bytes());
        let n = self.shape.iter().product::<usize>() as u64;
        (0..n)
            .map(|i| {
                let u = splitmix64(seed.wrapping_add(i)) >> 40;
                let v = u as f32 * (1.0 / 8_388_608.0) - 1.0;
                self.offset + self.scale * v
            })
            .collect()
    }
}

impl HeadGolden {
    fn from_json(row: &Value) -> HeadGolden {
        let labels = row["labels"].as_array().unwrap().iter();
        HeadGolden {
            text: row["text"].as_str().map(str::to_owned),
            ids: ids(&row["ids"]),
            logits: floats(&row["logits"]),
            values: floats(&row["values"]),
            labels: labels.map(|label| label.as_str().unwrap().into()).collect(),
        }
    }
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    let bytes = base64(value.as_str().unwrap());
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

impl Golden {
    fn from_json(row: &Value) -> Golden {
        let logits = row["logits"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| (r["at"].as_u64().unwrap() as usize, floats(&r["f32"])));
        Golden { ids: ids(&row["ids"]), top1: ids(&row["top1"]), logits: logits.collect() }
    }
}

/// Sum of (i + 1) * bits of the i-th value, modulo 2^64, over all tensors in order.
pub fn checksum(tensors: &[Tensor]) -> u64 {
    let bits = tensors.iter().flat_map(|t| t.values()).map(|v| u64::from(v.to_bits()));
    bits.zip(1u64..).fold(0, |sum, (b, i)| sum.wrapping_add(i.wrapping_mul(b)))
}

/// FNV-1a, 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

/// The output function of SplitMix64 (Steele et al. 2014) of state x.
fn splitmix64(x: u64) -> u64 {
    let z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Base64 with padding (RFC 4648), of a file that we wrote.
fn base64(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut n_bits) = (0u32, 0);
    for c in text.trim_end_matches('=').bytes() {
        let digit = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => panic!("base64: {}", c as char),
        };
        bits = bits << 6 | u32::from(digit);
        n_bits += 6;
        if n_bits >= 8 {
            n_bits -= 8;
            out.push((bits >> n_bits) as u8);
        }
    }
    out
}

fn read_json(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
