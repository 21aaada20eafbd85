//! Files that pith converts run in llama.cpp: it loads them and names the next tokens that PyTorch
//! named (tests/goldens); with an adapter's file, those that PEFT named.

use std::ops::ControlFlow;

use pith_convert::{Options, Target};
use yardstick::{
    llama::{Load, Logits, Model},
    score::argmax,
};

#[path = "../../tests/goldens/support/checkpoint.rs"]
mod checkpoint;
use checkpoint::{Checkpoint, Layout};

/// The variants whose architecture and activation llama.cpp computes as PyTorch does; its GELU is
/// the tanh form in every graph, which rules out GPT-NeoX here, and its Gemma 2 takes the score scale
/// from the number of layers, not from the file.
const VARIANTS: [&str; 8] =
    ["gpt2", "llama", "llama-256", "llama-llama3-rope", "qwen2", "qwen3", "gemma", "gemma3"];

#[test]
fn llama_cpp_runs_converted_files() {
    let folder = tempfile::tempdir().unwrap();
    for variant in VARIANTS {
        let checkpoint = Checkpoint::open(variant);
        let source = folder.path().join(variant);
        std::fs::create_dir_all(&source).unwrap();
        checkpoint.write(&source, Layout::PLAIN);
        let out = folder.path().join(format!("{variant}.gguf"));
        let target = Target::Format(pith::quant::Format::F32);
        let options = Options { target, ..Options::default() };
        pith_convert::convert(&source, &out, &options, &mut |_| ControlFlow::Continue(())).unwrap();

        let model = Model::load(&out, Load::default()).unwrap_or_else(|e| panic!("{variant}: {e}"));
        let n_vocab = model.n_vocab();
        let mut context = model.context(64, 1).unwrap();
        let (mut same, mut n) = (0, 0);
        for golden in checkpoint.goldens() {
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
