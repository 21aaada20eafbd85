//! A GGUF file as the source of another: keys stay, tensors get the formats that the rule of
//! [`types`](crate::types) gives to the new type. What has its format already is copied.

use crate::{
    Options, Progress, Report, Target, check,
    mapping::{Mapped, Values},
    metadata::{QUANTIZATION_VERSION, most_common},
    output::{is_same_file, part_of_source, taken},
    source::{Dtype, Source},
    types,
    types::Choice,
    work::Work,
    write::Job,
};
use pith::{
    Error, Result,
    bytes::Bytes,
    gguf::{Gguf, OwnedValue, Tensor, Writer},
};
use pith_models::{Family, HEAD_TENSOR};
use std::{fs::File, io::Read, ops::ControlFlow, path::Path, time::Instant};

const FILE_TYPE: &str = "general.file_type";
const VERSION: &str = "general.quantization_version";
const NAME: &str = "general.name";
/// Tensors that a configuration makes, whatever the family.
const ROPE: &[&str] =
    &["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];
const ALIGNMENT: &str = "general.alignment";

/// Whether `source` is a file that begins as GGUF does.
pub(crate) fn is_gguf(source: &Path) -> Result<bool> {
    let kind = std::fs::metadata(source).map_err(Error::io("open", source))?;
    if !kind.is_file() || kind.len() < 4 {
        return Ok(false);
    }
    let mut magic = [0; 4];
    let mut file = File::open(source).map_err(Error::io("open", source))?;
    file.read_exact(&mut magic).map_err(Error::io("read", source))?;
    Ok(&magic == b"GGUF")
}

/// Writes the GGUF file at `source` with other formats to `out`.
///
/// # Errors
/// What [`Gguf::parse`] says; an architecture or a tensor that no family's row has; a part of a split
/// model; `out` being `source`; what the system refuses.
pub(crate) fn requantize(
    source: &Path,
    out: &Path,
    options: &Options,
    progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<Report> {
    let start = Instant::now();
    let bytes = Bytes::map(source)?;
    let gguf = Gguf::parse(&bytes)?;
    let family = family(&gguf)?;
    if taken(out)?.is_some_and(|out| is_same_file(source, &out)) {
        return Err(part_of_source(out));
    }
    if options.no_tokenizer {
        return Err(Error::Invalid("a GGUF file keeps the tokenizer that it has".into()));
    }
    let jobs = gguf
        .tensors()
        .iter()
        .map(|tensor| job(tensor, family, options.target))
        .collect::<Result<Vec<_>>>()?;
    let writer = metadata(&gguf, options, &jobs)?;
    let requantized =
        gguf.tensors().iter().zip(&jobs).filter(|(tensor, job)| {
            !tensor.format.is_float() && tensor.format != job.choice.format
        });
    let requantized = requantized.map(|(t, _)| (t.name.to_owned(), t.format)).collect();
    let none = Source::default();
    let mut work = Work { source: &none, jobs, writer, out, threads: options.threads };
    let mut checked = None;
    let bytes_out = work.write(progress, |written| {
        if options.check {
            checked = Some(check::compare_files(source, written)?.verdict()?);
        }
        Ok(())
    })?;
    Ok(Report {
        check: checked,
        stock: family.stock && gguf.tensor("cls.output.weight").is_none(),
        tied: gguf.tensor("output.weight").is_none(),
        requantized,
        ..work.report(family, bytes.len() as u64, bytes_out, start)
    })
}

fn family(gguf: &Gguf<'_>) -> Result<&'static Family> {
    let arch = gguf.require_str("general.architecture")?;
    if let Some(count) = gguf.get("split.count").and_then(|value| value.as_u64())
        && count > 1
    {
        return Err(Error::Unsupported(format!(
            "one of {count} files of a split model; merge them with `llama-gguf-split --merge`"
        )));
    }
    pith_models::by_arch(arch).ok_or_else(|| {
        let known: Vec<_> = pith_models::FAMILIES.iter().map(|family| family.arch).collect();
        Error::Unsupported(format!(
            "general.architecture is `{arch}`; pith knows {}",
            known.join(", ")
        ))
    })
}

fn job<'a>(tensor: &Tensor<'a>, family: &Family, target: Target) -> Result<Job<'a>> {
    let name = tensor.name;
    let is_head = name.rsplit_once('.').is_some_and(|(stem, _)| stem == HEAD_TENSOR);
    if family.gguf_row(name).is_none() && !is_head && !ROPE.contains(&name) {
        return Err(Error::Unsupported(format!("{} has no tensor `{name}`", family.title)));
    }
    let dims = tensor.dims[..tensor.n_dims as usize].to_vec();
    let choice = match target {
        Target::Source => Choice { format: tensor.format, wanted: tensor.format },
        target => types::choose(target, name, dims.len(), tensor.n_in(), Dtype::F32),
    };
    let values = Values::Encoded { format: tensor.format, data: tensor.data };
    Ok(Job { mapped: Mapped { name: name.to_owned(), dims, values }, choice })
}

/// The file's keys in their order; those about its formats are set anew.
fn metadata(gguf: &Gguf<'_>, options: &Options, jobs: &[Job<'_>]) -> Result<Writer> {
    let mut writer = Writer::new(gguf.alignment())?;
    let mut anew = Vec::new();
    if options.target != Target::Source {
        let file_type = options.target.file_type(most_common(jobs));
        anew.push((FILE_TYPE, OwnedValue::U32(file_type)));
        anew.push((VERSION, OwnedValue::U32(QUANTIZATION_VERSION)));
    }
    anew.extend(options.name.iter().map(|name| (NAME, OwnedValue::String(name.clone()))));
    for (key, value) in gguf.metadata() {
        match anew.iter().position(|(known, _)| known == key) {
            Some(at) => writer.set(key, anew.swap_remove(at).1)?,
            None if *key == ALIGNMENT => {}
            None => writer.copy(key, value)?,
        }
    }
    anew.into_iter().try_for_each(|(key, value)| writer.set(key, value))?;
    Ok(writer)
}
