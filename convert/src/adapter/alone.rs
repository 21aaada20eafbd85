//! An adapter as a GGUF file of its own, as llama.cpp reads it (ggml-org/llama.cpp,
//! `src/llama-adapter.cpp` and `convert_lora_to_gguf.py`): `NAME.lora_a` `[rank, n_in]` and
//! `NAME.lora_b` `[n_out, rank]` for each matrix `NAME`, of which alpha / rank times b a is added.
//! An embedding has a row of `lora_a` for each token, `[n_vocab, rank]`.
//!
//! Where a matrix's rows lie in another order than in the checkpoint, those of `lora_b` do too.
//! GPT-2's Conv1D needs nothing: PEFT's factors are those of `[n_out, n_in]` already.

use super::{Adapter, LowRank, finite, is_copy};
use crate::{
    config::Config,
    fold::{self, Part},
    mapping::{self, Mapped, Values},
    shapes::{self, Embedding},
    source::{Dtype, Tensor},
    types::{Choice, Target},
    write::Job,
};
use pith::{Error, Result, quant::Format};
use pith_models::{Fold, Hp, TensorRow};
use std::collections::HashSet;

/// What the file can't say is merged.
const MERGE: &str = "merge it into its base: pith convert BASE --adapter ADAPTER";

/// The file's tensors, and its `adapter.lora.alpha`.
///
/// # Errors
/// What the format has no place for, by name; factors of other shapes than the base wants.
pub(crate) fn jobs<'a>(
    adapter: &'a Adapter,
    config: &Config,
    target: Target,
) -> Result<(Vec<Job<'a>>, f32)> {
    refuse(adapter)?;
    adapter.check_layers(config)?;
    let mut pairs = Vec::new();
    let n_layer = config.size(Hp::NLayer);
    for row in config.family.tensors {
        let layers = if row.source.contains("{}") { n_layer } else { 1 };
        for il in 0..layers {
            let il = row.source.contains("{}").then_some(il);
            pairs.extend(pair(adapter, config, row, il)?);
        }
    }
    let used: HashSet<&str> = pairs.iter().map(|pair| pair.module).collect();
    if let Some(left) = adapter.modules.keys().find(|name| !used.contains(name.as_str())) {
        return Err(Error::Unsupported(format!(
            "the adapter changes `{left}`, which the base's {n_layer} layers of {} don't have, or \
             have under another name too",
            config.family.title
        )));
    }
    let alpha = common_alpha(&pairs, adapter.settings.alpha() as f32);
    if !alpha.is_finite() {
        return Err(Error::Unsupported(format!("an adapter with an alpha of {alpha}")));
    }
    let mut jobs = Vec::new();
    for Pair { name, a, b, rank, scale, .. } in pairs {
        // A file has one alpha; what a matrix needs beside it goes into its `lora_b`.
        let factor = (scale * rank as f64) as f32 / alpha;
        jobs.push(job(named(a, &name, "lora_a"), target)?);
        jobs.push(job(scaled(named(b, &name, "lora_b"), adapter, factor)?, target)?);
    }
    Ok((jobs, alpha))
}

/// A matrix's two factors.
struct Pair<'a> {
    module: &'a str,
    name: String,
    a: Mapped<'a>,
    b: Mapped<'a>,
    rank: usize,
    scale: f64,
}

fn refuse(adapter: &Adapter) -> Result<()> {
    let refuse = |what: String| {
        Err(Error::Unsupported(format!("an adapter's file can't hold {what}; {MERGE}")))
    };
    if adapter.settings.dora {
        return refuse("DoRA's magnitudes (`use_dora`)".into());
    }
    if adapter.settings.lora_bias {
        return refuse("biases of B (`lora_bias`)".into());
    }
    match adapter.whole.iter().find(|(_, tensor, _)| !is_copy(tensor)) {
        Some((name, tensor, _)) => refuse(format!("`{tensor}`, which replaces `{name}`")),
        None if adapter.modules.is_empty() => refuse("no change of a matrix".into()),
        None => Ok(()),
    }
}

/// The change of a row's matrix, if the adapter has one.
fn pair<'a>(
    adapter: &'a Adapter,
    config: &Config,
    row: &'static TensorRow,
    il: Option<usize>,
) -> Result<Option<Pair<'a>>> {
    let source = mapping::fill(row.source, il);
    let Some(stem) = source.strip_suffix(".weight") else { return Ok(None) };
    let module = config
        .family
        .prefixes
        .iter()
        .find_map(|prefix| adapter.modules.get_key_value(&format!("{prefix}{stem}")));
    let Some((module, parts)) = module else { return Ok(None) };
    let name = mapping::fill(row.to, il);
    let refuse = |why: &str| {
        Err(Error::Unsupported(format!(
            "an adapter's file can't hold the change of `{module}`: {why}; {MERGE}"
        )))
    };
    let embedding = Embedding { n_vocab: config.size(Hp::NVocab), width: config.size(Hp::NEmbd) };
    let wanted = shapes::wanted(config, embedding, &name);
    let Some(&[n_rows, n_cols]) = wanted.as_deref() else { return refuse("it is no matrix") };
    if row.to == "position_embd.weight" {
        return refuse("it is the table of positions");
    }
    let is_table = row.to == "token_embd.weight";
    if is_table != parts.is_embedding() {
        return refuse("its factors are of the other kind, of embeddings or matrices");
    }
    // A table's row is an input.
    let (n_out, n_in) = if is_table { (n_cols, n_rows) } else { (n_rows, n_cols) };
    let LowRank { a, b, rank, scale } = adapter.low_rank(module, n_out, n_in)?;
    for tensor in [a, b] {
        finite(&adapter.source, tensor)?;
    }
    let fold = match row.fold {
        Fold::Keep | Fold::Transpose => Fold::Keep,
        fold @ (Fold::PermuteQ
        | Fold::PermuteK
        | Fold::SplitHeads
        | Fold::SplitGroups
        | Fold::SplitSlices(_)) => fold,
        _ => return refuse("the base's matrix is changed in conversion"),
    };
    let view = adapter.source.view(a)?;
    let view = if is_table { view.swap(0, 1) } else { view };
    let a = mapped(
        a,
        vec![view.into()],
        Fold::Keep,
        if is_table { [rank, n_in] } else { [n_in, rank] },
    );
    let rows = adapter.source.view(b)?;
    let rows = fold::arrange(rows, fold, config, n_out, &name, &b.entry.name)?;
    let b = mapped(b, fold::scale_queries(rows, config, &name, il), fold, [rank, n_out]);
    Ok(Some(Pair { module, name, a, b, rank, scale }))
}

fn mapped(tensor: &Tensor, parts: Vec<Part>, fold: Fold, dims: [usize; 2]) -> Mapped<'_> {
    let values = Values::Source { tensor, parts, add: 0.0, fold };
    Mapped { name: String::new(), dims: dims.map(|dim| dim as u64).to_vec(), values }
}

fn named<'a>(mapped: Mapped<'a>, name: &str, end: &str) -> Mapped<'a> {
    Mapped { name: format!("{name}.{end}"), ..mapped }
}

/// The alpha that says most scales without a change of B: that of all if they agree, else the
/// configuration's. Readers take an alpha of 0 for none.
fn common_alpha(pairs: &[Pair<'_>], configured: f32) -> f32 {
    let alpha = |pair: &Pair<'_>| (pair.scale * pair.rank as f64) as f32;
    let first = pairs.first().map_or(configured, alpha);
    let common = if pairs.iter().all(|pair| alpha(pair) == first) { first } else { configured };
    if common == 0.0 { 1.0 } else { common }
}

/// B times a factor, which isn't touched where that is 1.
fn scaled<'a>(b: Mapped<'a>, adapter: &Adapter, factor: f32) -> Result<Mapped<'a>> {
    if factor == 1.0 {
        return Ok(b);
    }
    let mut values = vec![0.0; b.n_values()];
    b.read(&b.load(&adapter.source)?, 0, &mut values);
    values.iter_mut().for_each(|value| *value *= factor);
    Ok(Mapped { values: Values::Computed(values), ..b })
}

/// Chooses a factor's type. What was scaled is no longer of the adapter's own.
fn job(mapped: Mapped<'_>, target: Target) -> Result<Job<'_>> {
    let format = match (target, &mapped.values) {
        (Target::Format(format), _) if format.is_float() => format,
        (Target::Format(format), _) => {
            return Err(Error::Invalid(format!(
                "an adapter's factors are f32, f16, bf16 or source, not {}",
                format.name()
            )));
        }
        (Target::Source, Values::Computed(_) | Values::Encoded { .. }) => Format::F32,
        (Target::Source, Values::Source { tensor, .. }) => match tensor.entry.dtype {
            Dtype::F16 => Format::F16,
            Dtype::BF16 => Format::BF16,
            _ => Format::F32,
        },
    };
    Ok(Job { mapped, choice: Choice { format, wanted: format } })
}
