//! PEFT adapters end to end: what PEFT computes with base and adapter (tests/goldens/adapters.py
//! says with which versions) is what a file gives into which the adapter was merged, and what the
//! base's file gives with the adapter's beside it.

use std::{fs, ops::ControlFlow, path::Path, sync::Arc};

use pith::{
    Lora, Model, Session, bytes::Bytes, cache, gguf::Gguf, kernel::Kernels, lora::Adapter,
    quant::Format, sampler::argmax, session::Options,
};
use pith_convert::{Report, Target, source::Source};

#[path = "../../tests/goldens/support/checkpoint.rs"]
mod checkpoint;
use checkpoint::{Checkpoint, Layout, adapters, checksum};

/// The adapter's base in `BASE`, the adapter in `ADAPTER`.
fn write(folder: &Path, adapter: &str) {
    let adapter = Checkpoint::open(adapter);
    let base = Checkpoint::open(adapter.base.as_deref().unwrap());
    for (name, checkpoint) in [("base", &base), ("adapter", &adapter)] {
        fs::create_dir_all(folder.join(name)).unwrap();
        assert_eq!(checksum(&checkpoint.tensors), checkpoint.checksum, "{}", checkpoint.variant);
    }
    base.write(&folder.join("base"), Layout::PLAIN);
    adapter.write_adapter(&folder.join("adapter"));
}

fn options(target: Format) -> pith_convert::Options {
    pith_convert::Options { target: Target::Format(target), ..Default::default() }
}

fn merge(folder: &Path, target: Format) -> pith::Result<Report> {
    let options =
        pith_convert::Options { adapters: vec![folder.join("adapter")], ..options(target) };
    let out = folder.join("merged.gguf");
    pith_convert::convert(&folder.join("base"), &out, &options, &mut |_| ControlFlow::Continue(()))
}

/// The largest difference to the golden's logits; the likeliest ids must be the same.
fn compare(session: &mut Session<'_>, adapter: &str) -> f32 {
    let n_vocab = session.model().hparams().n_vocab;
    let mut worst = 0.0f32;
    for golden in Checkpoint::open(adapter).goldens() {
        let mut all = Vec::new();
        session.truncate(0, 0);
        session.eval_all(0, &golden.ids, |_, some| all.extend_from_slice(some)).unwrap();
        for (at, wanted) in &golden.logits {
            let got = &all[at * n_vocab..][..n_vocab];
            worst = got.iter().zip(wanted).fold(worst, |m, (a, b)| m.max((a - b).abs()));
        }
        let top: Vec<u32> = all.chunks_exact(n_vocab).map(argmax).collect();
        assert_eq!(top, golden.top1, "{adapter}");
    }
    worst
}

fn in_f32() -> Options {
    Options { cache: cache::Type::F32, n_logits: 8, n_threads: 2, ..Options::default() }
}

#[test]
fn merged_files_give_pefts_logits() {
    let adapters = adapters();
    assert!(adapters.len() >= 17, "goldens are missing: {adapters:?}");
    for adapter in adapters {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &adapter);
        let report = merge(folder.path(), Format::F32).unwrap();
        assert!(report.adapters[0].1 > 0, "{adapter}");
        let model = Model::open(&folder.path().join("merged.gguf")).unwrap();
        let worst = compare(&mut Session::new(&model, &in_f32()).unwrap(), &adapter);
        assert!(worst < 2e-4, "{adapter}: a logit differs by {worst:e}");
    }
}

/// What an adapter's file can't hold: the word that the error must have.
const MERGED_ONLY: &[(&str, &str)] = &[
    ("gpt2-dora", "use_dora"),
    ("gpt2-bias", "c_attn.base_layer.bias"),
    ("llama-dora", "use_dora"),
    ("llama-embedding-dora", "use_dora"),
    ("llama-saved", "embed_tokens.weight"),
    ("llama-saved-head", "lm_head.weight"),
    ("gptneox-bias", "final_layer_norm"),
    ("qwen2-lora-bias", "lora_bias"),
];

fn alone(folder: &Path, target: Format) -> pith::Result<Report> {
    let out = folder.join("adapter.gguf");
    let (adapter, base) = (folder.join("adapter"), folder.join("base"));
    let go = &mut |_: pith_convert::Progress<'_>| ControlFlow::Continue(());
    pith_convert::convert_adapter(&adapter, &base, &out, &options(target), go)
}

/// The base's file, and the adapter's.
fn base_and_adapter(folder: &Path, target: Format) -> (Model, Arc<Lora>) {
    let out = folder.join("base.gguf");
    let go = &mut |_: pith_convert::Progress<'_>| ControlFlow::Continue(());
    pith_convert::convert(&folder.join("base"), &out, &options(target), go).unwrap();
    alone(folder, Format::F32).unwrap();
    let lora = Lora::open(&folder.join("adapter.gguf")).unwrap();
    (Model::open(&out).unwrap(), Arc::new(lora))
}

/// Adapters that a file can hold.
fn alone_ones() -> impl Iterator<Item = String> {
    let held = |name: &String| !MERGED_ONLY.iter().any(|(other, _)| name.ends_with(other));
    adapters().into_iter().filter(held)
}

#[test]
fn a_base_with_an_adapter_beside_it_gives_pefts_logits() {
    assert!(alone_ones().count() >= 8);
    for adapter in alone_ones() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &adapter);
        let (model, lora) = base_and_adapter(folder.path(), Format::F32);
        let adapters = vec![Adapter { lora, scale: 1.0 }];
        let mut session = Session::new(&model, &Options { adapters, ..in_f32() }).unwrap();
        let worst = compare(&mut session, &adapter);
        assert!(worst < 2e-4, "{adapter}: a logit differs by {worst:e}");
    }
}

#[test]
fn what_a_file_cannot_hold_is_refused_by_name() {
    for (adapter, word) in MERGED_ONLY {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &format!("adapters/{adapter}"));
        let error = alone(folder.path(), Format::F32).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("--adapter"), "{adapter}: {error}");
        assert!(!folder.path().join("adapter.gguf").exists());
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// A quantized base, whose products read codes, beside an adapter of floats.
#[test]
fn threads_chunks_and_instruction_sets_do_not_change_a_bit() {
    for adapter in alone_ones() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &adapter);
        let (model, lora) = base_and_adapter(folder.path(), Format::Q8_0);
        let ids = Checkpoint::open(&adapter).goldens().remove(0).ids;
        let adapters = vec![
            Adapter { lora: lora.clone(), scale: 0.75 },
            Adapter { lora: lora.clone(), scale: -0.25 },
        ];
        let run = |adapters: &[Adapter], n_threads, n_batch, kernels| {
            let (n_logits, adapters) = (n_batch, adapters.to_vec());
            let options =
                Options { n_threads, n_batch, n_logits, kernels, adapters, ..Options::default() };
            let mut session = Session::new(&model, &options).unwrap();
            let mut all = Vec::new();
            session.eval_all(0, &ids, |_, some| all.extend_from_slice(some)).unwrap();
            bits(&all)
        };
        let wanted = run(&adapters, 1, 64, Kernels::by_name("scalar"));
        for &kernels in Kernels::available() {
            for (n_threads, n_batch) in [(1, 1), (2, 7), (3, 64), (4, 16)] {
                let got = run(&adapters, n_threads, n_batch, Some(kernels));
                let name = kernels.name();
                assert!(got == wanted, "{adapter}, {name}, {n_threads} threads, {n_batch}");
            }
        }
        assert_ne!(run(&[], 1, 64, None), wanted, "{adapter} changes nothing");
        let nothing = [Adapter { lora, scale: 0.0 }];
        let zeros = |bits: Vec<u32>| -> Vec<f32> { bits.into_iter().map(f32::from_bits).collect() };
        assert_eq!(zeros(run(&[], 1, 64, None)), zeros(run(&nothing, 1, 64, None)));
    }
}

/// The first writes each file; the second runs both adapters beside the base.
#[test]
fn several_adapters_are_merged_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut folders = Vec::new();
    let mut loras = Vec::new();
    for adapter in ["adapters/llama-lora", "adapters/llama-rslora", "adapters/llama-head"] {
        write(folder.path(), adapter);
        let (_, lora) = base_and_adapter(folder.path(), Format::F32);
        loras.push(Adapter { lora, scale: 1.0 });
        let own = folder.path().join(adapter.replace('/', "-"));
        fs::rename(folder.path().join("adapter"), &own).unwrap();
        folders.push(own);
    }
    let out = folder.path().join("merged.gguf");
    let options = pith_convert::Options { adapters: folders, ..options(Format::F32) };
    let go = &mut |_: pith_convert::Progress<'_>| ControlFlow::Continue(());
    let report = pith_convert::convert(&folder.path().join("base"), &out, &options, go).unwrap();
    assert_eq!(report.adapters.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [14, 8, 3]);
    let (merged, base) = (Model::open(&out), Model::open(&folder.path().join("base.gguf")));
    let (merged, base) = (merged.unwrap(), base.unwrap());
    let ids: Vec<u32> = (40..70).collect();
    let mut one = Session::new(&merged, &in_f32()).unwrap();
    let mut two = Session::new(&base, &Options { adapters: loras, ..in_f32() }).unwrap();
    let (one, two) = (one.eval(0, &ids).unwrap(), two.eval(0, &ids).unwrap());
    let worst = one.iter().zip(two).fold(0.0f32, |m, (a, b)| m.max((*a - *b).abs()));
    assert!(worst < 2e-4, "a logit differs by {worst:e}");
}

/// One alpha says the scale of all matrices where they agree, and then no factor is touched.
#[test]
fn factors_keep_their_bits_where_one_alpha_fits() {
    for (adapter, alpha) in [("gpt2-lora", 6.0), ("llama-rslora", (3.0 * 6f64.sqrt()) as f32)] {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &format!("adapters/{adapter}"));
        let out = folder.path().join("adapter.gguf");
        let options =
            pith_convert::Options { target: Target::Source, ..pith_convert::Options::default() };
        let go = &mut |_: pith_convert::Progress<'_>| ControlFlow::Continue(());
        let (from, base) = (folder.path().join("adapter"), folder.path().join("base"));
        pith_convert::convert_adapter(&from, &base, &out, &options, go).unwrap();
        let file = Bytes::map(&out).unwrap();
        let gguf = Gguf::parse(&file).unwrap();
        assert_eq!(gguf.require_f32("adapter.lora.alpha").unwrap(), alpha);
        assert_eq!(gguf.require_str("general.type").unwrap(), "adapter");
        let source = Source::open(&from.join("adapter_model.safetensors")).unwrap();
        let (module, name, dims) = match adapter {
            "gpt2-lora" => ("transformer.h.1.attn.c_attn", "blk.1.attn_qkv", [64, 192]),
            _ => ("model.layers.1.self_attn.v_proj", "blk.1.attn_v", [64, 32]),
        };
        let rank = if adapter == "gpt2-lora" { 4 } else { 6 };
        for (end, half, shape) in [("A", "a", [dims[0], rank]), ("B", "b", [rank, dims[1]])] {
            let theirs = format!("base_model.model.{module}.lora_{end}.weight");
            let theirs = source.load(source.tensor(&theirs).unwrap()).unwrap();
            let ours = gguf.tensor(&format!("{name}.weight.lora_{half}")).unwrap();
            assert_eq!(ours.data, &*theirs, "{}", ours.name);
            assert_eq!(ours.dims[..2], shape);
        }
    }
}

/// Scores make the head's product a few ids at a time, changes included.
#[test]
fn scores_are_those_of_the_logits() {
    for adapter in ["adapters/llama-head", "adapters/gpt2-lora"] {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), adapter);
        let (model, lora) = base_and_adapter(folder.path(), Format::Q8_0);
        let ids = Checkpoint::open(adapter).goldens().remove(0).ids;
        let adapters =
            vec![Adapter { lora: lora.clone(), scale: 1.0 }, Adapter { lora, scale: 0.5 }];
        let options =
            Options { score: true, n_top: 2, n_logits: 8, adapters, ..Options::default() };
        let mut session = Session::new(&model, &options).unwrap();
        let n_vocab = model.hparams().n_vocab;
        let mut all = Vec::new();
        session.eval_all(0, &ids, |_, some| all.extend_from_slice(some)).unwrap();
        session.truncate(0, 0);
        let targets = &ids[1..];
        let mut n = 0;
        let check = |i: usize, score: pith::session::Score<'_>| {
            let logits = &all[i * n_vocab..][..n_vocab];
            assert_eq!(score.logit.to_bits(), logits[targets[i] as usize].to_bits());
            assert_eq!(score.top[0].id, argmax(logits));
            n += 1;
        };
        session.score(0, &ids[..ids.len() - 1], targets, check).unwrap();
        assert_eq!(n, targets.len());
    }
}
