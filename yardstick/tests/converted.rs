//! Files that pith converts run in llama.cpp: it loads them and names the next tokens that PyTorch
//! named (tests/goldens); with an adapter's file, those that PEFT named.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use pith::{quant::Format, tokenizer::Encode};
use pith_convert::{Options, Target};
use yardstick::{
    llama::{Load, Logits, Model},
    score::argmax,
};

#[path = "../../tests/goldens/support/checkpoint.rs"]
mod checkpoint;
use checkpoint::{Checkpoint, Layout};

/// The variants whose architecture llama.cpp computes as PyTorch does. Its GELU is the tanh form in
/// every graph, which keeps the top-1 ids of Falcon and MPT, but not of GPT-NeoX; its Gemma 2 takes
/// the score scale from the number of layers, not from the file, and its Phi-3 has no windows. Of
/// YaRN's keys its graphs read factor, first context and `attn_factor`, which rules out
/// `llama-yarn-all`.
const VARIANTS: &[&str] = &[
    "gpt2",
    "gpt2-scores",
    "falcon-7b",
    "falcon-40b",
    "falcon-11b",
    "mpt",
    "mpt-6-heads",
    "mpt-foundry-positions",
    "starcoder",
    "starcoder-mha",
    "starcoder2",
    "phi",
    "phi3-longrope",
    "llama",
    "llama-256",
    "llama-llama3-rope",
    "llama-yarn",
    "llama-longrope",
    "smollm3",
    "qwen2",
    "qwen2-yarn",
    "qwen3",
    "gemma",
    "gemma3",
    "stablelm",
    "stablelm-parallel",
    "olmo",
    "olmo2",
    "olmo3",
];

/// What llama.cpp's graphs lack it refuses to load: it never runs one of our files as something else.
const REFUSED: &[&str] =
    &["codegen", "falcon-rw", "phi-qk-norm", "mpt-foundry", "starcoder2-window"];

fn convert(folder: &Path, checkpoint: &Checkpoint) -> PathBuf {
    let source = folder.join(&checkpoint.variant);
    std::fs::create_dir_all(&source).unwrap();
    checkpoint.write(&source, Layout::PLAIN);
    let out = folder.join(format!("{}.gguf", checkpoint.variant));
    let target = Target::Format(Format::F32);
    // By a name with `phi3` in it, llama.cpp looks for that model's special tokens.
    let options = Options { target, name: Some("test".into()), ..Options::default() };
    pith_convert::convert(&source, &out, &options, &mut |_| ControlFlow::Continue(())).unwrap();
    out
}

#[test]
fn llama_cpp_refuses_what_it_lacks() {
    let folder = tempfile::tempdir().unwrap();
    for variant in REFUSED {
        let out = convert(folder.path(), &Checkpoint::open(variant));
        assert!(Model::load(&out, Load::default()).is_err(), "{variant}");
    }
}

#[test]
fn llama_cpp_runs_converted_files() {
    let folder = tempfile::tempdir().unwrap();
    for &variant in VARIANTS {
        let checkpoint = Checkpoint::open(variant);
        let out = convert(folder.path(), &checkpoint);
        let model = Model::load(&out, Load::default()).unwrap_or_else(|e| panic!("{variant}: {e}"));
        let n_vocab = model.n_vocab();
        let mut context = model.context(64, 1).unwrap();
        let (mut same, mut n) = (0, 0);
        // A context of 256 is the shortest that llama.cpp makes: LongRoPE's long factors.
        let n_short = if variant.ends_with("longrope") { 32 } else { 0 };
        for golden in checkpoint.goldens().into_iter().filter(|golden| golden.ids.len() > n_short) {
            context.clear();
            let logits = context.decode(&golden.ids, Logits::All).unwrap();
            for (row, top) in logits.chunks_exact(n_vocab).zip(&golden.top1) {
                same += usize::from(argmax(row) == *top);
                n += 1;
            }
        }
        // One near-tie may go either way: llama.cpp rounds keys and values to f16.
        assert!(n - same <= 1, "{variant}: {same} of {n} top-1 ids");
    }
}

/// Adapters of architectures that llama.cpp computes as PyTorch does, for what it has as matrices:
/// where a head is the embedding, llama.cpp can't change one of the two. All of GPT-2's matrices
/// (Conv1D), Llama's rope permuted, ranks and scales that differ from matrix to matrix.
const ADAPTERS: [&str; 4] = ["gpt2-lora", "llama-lora", "llama-rslora", "llama-patterns"];

#[test]
fn llama_cpp_runs_adapters() {
    let folder = tempfile::tempdir().unwrap();
    for name in ADAPTERS {
        let adapter = Checkpoint::open(&format!("adapters/{name}"));
        let base = Checkpoint::open(adapter.base.as_deref().unwrap());
        let at = |end: &str| folder.path().join(format!("{name}{end}"));
        for end in ["-base", "-adapter"] {
            std::fs::create_dir_all(at(end)).unwrap();
        }
        base.write(&at("-base"), Layout::PLAIN);
        adapter.write_adapter(&at("-adapter"));
        let target = Target::Format(pith::quant::Format::F32);
        let options = Options { target, ..Options::default() };
        let go = &mut |_: pith_convert::Progress<'_>| ControlFlow::Continue(());
        let (model, lora) = (at(".gguf"), at("-lora.gguf"));
        pith_convert::convert(&at("-base"), &model, &options, go).unwrap();
        pith_convert::convert_adapter(&at("-adapter"), &at("-base"), &lora, &options, go).unwrap();

        let model = Model::load(&model, Load::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let n_vocab = model.n_vocab();
        let lora = model.adapter(&lora).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut context = model.context(64, 1).unwrap();
        let (mut same, mut changed, mut n) = (0, 0, 0);
        for golden in adapter.goldens() {
            let plain = context.decode(&golden.ids, Logits::All).unwrap().to_vec();
            context.clear();
            context.adapt(&lora, 1.0).unwrap();
            let logits = context.decode(&golden.ids, Logits::All).unwrap();
            let rows = logits.chunks_exact(n_vocab).zip(plain.chunks_exact(n_vocab));
            for ((row, plain), top) in rows.zip(&golden.top1) {
                same += usize::from(argmax(row) == *top);
                changed += usize::from(argmax(plain) != *top);
                n += 1;
            }
        }
        assert!(n - same <= 1, "{name}: {same} of {n} top-1 ids");
        assert!(changed > n / 2, "{name}: the base says the same {} times", n - changed);
    }
}

/// Unigram tokenizers, of a SentencePiece model and of a `tokenizer.json`: llama.cpp reads the same keys
/// and cuts ordinary text as pith does.
#[test]
fn llama_cpp_cuts_text_into_the_same_unigram_pieces() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/tokenizer");
    let folder = tempfile::tempdir().unwrap();
    for from in ["ug_t5", "ug_plain"] {
        let source = folder.path().join(from);
        let shape = yardstick::checkpoint::Shape { n_embd: 64, n_layer: 1, n_vocab: 423 };
        yardstick::checkpoint::write(&source, shape, &fixtures.join("ug_t5")).unwrap();
        if from == "ug_plain" {
            for name in ["tokenizer.json", "tokenizer_config.json"] {
                std::fs::remove_file(source.join(name)).unwrap();
            }
            let model = fixtures.join(from).join("tokenizer.model");
            std::fs::copy(model, source.join("tokenizer.model")).unwrap();
        }
        let out = folder.path().join(format!("{from}.gguf"));
        let options = Options {
            target: Target::Format(Format::F32),
            name: Some("test".into()),
            ..Options::default()
        };
        pith_convert::convert(&source, &out, &options, &mut |_| ControlFlow::Continue(())).unwrap();
        let (theirs, ours) =
            (Model::load(&out, Load::default()).unwrap(), pith::Model::open(&out).unwrap());
        for text in [
            "",
            "Everyone has the right to life, liberty and the security of person.",
            "  Two  spaces   and a\ttab, a line\nand an end ",
            "Ｆｕｌｌ ｗｉｄｔｈ １２３, ﬁne ½ e\u{301}",
            "すべての人間は、生まれながらにして自由であり",
            "Les êtres humains ☃☃ naissent 🦙 libres",
        ] {
            let opts = Encode { add_special: true, parse_special: false };
            let wanted = theirs.tokenize(text, true, false).unwrap();
            assert_eq!(ours.tokenizer().encode(text, opts), wanted, "{from} {text:?}");
        }
    }
}
