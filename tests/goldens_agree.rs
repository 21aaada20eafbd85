//! The goldens are what they say: Rust makes the weights that PyTorch had, and the family rows
//! account for every tensor and every configuration key of real `save_pretrained` output.

#[path = "goldens/support/checkpoint.rs"]
mod checkpoint;

use checkpoint::{Checkpoint, Layout, checksum, heads, variants};
use pith_models::{ClassifierKind, Family, Fold, Means, Need, by_config, by_head_class};

/// The variants with goldens, and those that are committed as pytorch_model.bin.
fn all() -> Vec<Checkpoint> {
    let bins = ["gpt2-bin", "llama-bin"].map(String::from);
    variants().into_iter().chain(bins).map(|v| Checkpoint::open(&v)).collect()
}

fn family(c: &Checkpoint) -> &'static Family {
    let config = c.config();
    by_config(config["architectures"][0].as_str().unwrap(), |flag| config[flag] == true).unwrap()
}

#[test]
fn weights_are_the_ones_that_numpy_made() {
    for c in all().into_iter().chain(heads().iter().map(|head| Checkpoint::open(head))) {
        assert_eq!(checksum(&c.tensors[c.n_base..]), c.checksum, "{}", c.variant);
    }
}

#[test]
fn every_family_has_goldens() {
    let archs: Vec<&str> = all().iter().map(|c| family(c).arch).collect();
    for family in pith_models::FAMILIES {
        assert!(archs.contains(&family.arch), "{}", family.arch);
    }
}

/// Families that `transformers` has classifiers of, by kind; make_heads.py adds those that come.
const CLASSIFIERS: [(ClassifierKind, &[&str]); 2] = [
    (
        ClassifierKind::Sequence,
        &[
            "gpt2",
            "gptneo",
            "gptj",
            "gptneox",
            "opt",
            "bloom",
            "llama",
            "qwen2",
            "qwen3",
            "gemma",
            "gemma2",
            "gemma3",
            "falcon",
            "mpt",
            "starcoder",
            "starcoder2",
            "phi2",
            "phi3",
            "smollm3",
            "stablelm",
            "olmo",
            "olmo2",
        ],
    ),
    (
        ClassifierKind::Token,
        &[
            "gpt2",
            "gptneo",
            "gptneox",
            "bloom",
            "llama",
            "qwen2",
            "qwen3",
            "gemma",
            "gemma2",
            "falcon",
            "mpt",
            "starcoder",
            "starcoder2",
            "phi2",
            "phi3",
            "smollm3",
            "stablelm",
        ],
    ),
];

#[test]
fn families_have_goldens_of_their_heads() {
    let class = |head: &String| -> String {
        Checkpoint::open(head).config()["architectures"][0].as_str().unwrap().into()
    };
    let classes: Vec<String> = heads().iter().map(class).collect();
    let known: Vec<_> =
        classes.iter().map(|class| by_head_class(class, |_| false).expect(class)).collect();
    for (kind, families) in CLASSIFIERS {
        for arch in families {
            let there = known.iter().any(|h| h.family.arch == *arch && h.kind == kind);
            assert!(there, "{arch} {kind:?}");
        }
    }
}

#[test]
fn rows_account_for_every_tensor_and_key() {
    for c in all() {
        let config = c.config();
        let family = family(&c);
        for (key, value) in config.as_object().unwrap() {
            let means = family.means(key);
            assert!(means.is_some(), "{}: {key}", c.variant);
            if let Some(Means::Nested) = means {
                for key in value.as_object().unwrap().keys().map(|name| format!("{key}.{name}")) {
                    assert!(family.means(&key).is_some(), "{}: {key}", c.variant);
                }
            }
        }
        for t in &c.tensors {
            assert!(family.source_row(&t.name).is_some(), "{}: {}", c.variant, t.name);
        }
        for row in family.tensors.iter().filter(|r| r.need == Need::Required) {
            let found = c.tensors.iter().filter_map(|t| family.source_row(&t.name));
            let n = found.filter(|(r, _)| r.to == row.to).count();
            assert!(n > 0, "{}: {}", c.variant, row.source);
        }
    }
}

#[test]
fn goldens_are_whole() {
    for variant in variants() {
        let c = Checkpoint::open(&variant);
        let n_vocab = c.config()["vocab_size"].as_u64().unwrap() as usize;
        let n_tokens = c.goldens().iter().map(|g| g.ids.len()).collect::<Vec<_>>();
        assert_eq!(n_tokens, [24, 40], "{variant}");
        for g in c.goldens() {
            assert_eq!(g.ids.len(), g.top1.len());
            assert!(!g.logits.is_empty());
            for (at, logits) in g.logits {
                assert_eq!(logits.len(), n_vocab);
                let best = (0..n_vocab).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
                assert_eq!(best, Some(g.top1[at] as usize), "{variant}");
            }
        }
    }
}

#[test]
fn a_written_folder_holds_every_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let c = Checkpoint::open("gpt2");
    c.write(folder.path(), Layout { shards: 3, tied_head: true });
    let index = std::fs::read(folder.path().join("model.safetensors.index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let map = index["weight_map"].as_object().unwrap();
    assert_eq!(map.len(), c.tensors.len() + 1);
    let mut bytes = 0;
    for shard in 1..=3 {
        let file = format!("model-{shard:05}-of-00003.safetensors");
        let raw = std::fs::read(folder.path().join(&file)).unwrap();
        let n = u64::from_le_bytes(raw[..8].try_into().unwrap()) as usize;
        let header: serde_json::Value = serde_json::from_slice(&raw[8..8 + n]).unwrap();
        assert_eq!(n % 8, 0);
        for name in header.as_object().unwrap().keys().filter(|k| *k != "__metadata__") {
            assert_eq!(map[name], file.as_str());
        }
        bytes += raw.len() - 8 - n;
    }
    assert_eq!(index["metadata"]["total_size"], bytes);
}

#[test]
fn conv1d_is_transposed_in_gpt2_alone() {
    for family in pith_models::FAMILIES {
        let transposes = family.tensors.iter().any(|r| r.fold == Fold::Transpose);
        assert_eq!(transposes, family.arch == "gpt2", "{}", family.arch);
    }
}
