//! The files of a checkpoint: which of a folder it is, the parts of a sharded one, and how files are
//! opened that anybody may have made.

use super::{Entry, Source, Tensor, in_file, tf_bundle};
use pith::{Error, Result, bytes::Bytes};
use serde_json::Value;
use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

/// Weight files of a folder, in the order in which they are looked for; TensorFlow's come last. An
/// index names the parts of a sharded checkpoint.
const FILES: &[&str] = &[
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    FIRST_RANK,
    "ckpt.pt",
    "tf_model.h5.index.json",
    "tf_model.h5",
    "flax_model.msgpack.index.json",
    "flax_model.msgpack",
];
/// The first file of Meta's checkpoints; there is one for each rank of its tensor parallelism.
pub(super) const FIRST_RANK: &str = "consolidated.00.pth";
const MAX_RANKS: usize = 100;

/// The longest JSON file that is read.
const MAX_JSON: u64 = 256 << 20;

impl Source {
    /// Adds the shards of an index. Their names are plain file names; index and shards must agree
    /// on every tensor.
    pub(super) fn add_shards(&mut self, index: &Path) -> Result<()> {
        let fault = |what: String| in_file(Error::malformed("index", what), index);
        let json = read_json(index)?;
        let map = json.get("weight_map").and_then(Value::as_object);
        let map = map.ok_or_else(|| fault("no object `weight_map`".into()))?;
        let mut listed = HashMap::with_capacity(map.len());
        let mut shards = Vec::new();
        for (tensor, shard) in map {
            let shard = shard.as_str().filter(|name| is_plain_name(name)).ok_or_else(|| {
                fault(format!("tensor `{tensor}` lies in {shard}, which is no plain file name"))
            })?;
            if listed.insert(shard_name(tensor), shard).is_some() {
                return Err(fault(format!("tensor `{tensor}` is listed under two names")));
            }
            shards.push(shard);
        }
        shards.sort_unstable();
        shards.dedup();
        let mut seen = HashSet::new();
        for shard in shards {
            let first = self.tensors.len();
            let path = self.folder.join(shard);
            let bytes = map_file(&path)?;
            self.add_file(path, bytes)?;
            for Tensor { entry: Entry { name, .. }, .. } in &self.tensors[first..] {
                if listed.get(name.as_str()) != Some(&shard) {
                    return Err(fault(match listed.get(name.as_str()) {
                        Some(other) => format!("tensor `{name}` lies in {shard}, not in {other}"),
                        None => format!("tensor `{name}` of {shard} isn't listed"),
                    }));
                }
                seen.insert(name.clone());
            }
        }
        match map.keys().map(|name| shard_name(name)).find(|&name| !seen.contains(name)) {
            Some(name) => Err(fault(format!("tensor `{name}` isn't in {}", listed[name]))),
            None => Ok(()),
        }
    }

    /// Adds the other ranks of a checkpoint of Meta's, as far as they lie beside the first.
    pub(super) fn add_ranks(&mut self) -> Result<()> {
        for rank in 1..MAX_RANKS {
            let path = self.folder.join(format!("consolidated.{rank:02}.pth"));
            if !path.exists() {
                break;
            }
            let bytes = map_file(&path)?;
            self.add_file(path, bytes)?;
        }
        Ok(())
    }
}

/// The folder and the weight file (or index) that `path` means.
pub(super) fn locate(path: &Path) -> Result<(PathBuf, PathBuf)> {
    let kind = std::fs::metadata(path).map_err(Error::io("open", path))?;
    if !kind.is_dir() {
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        return Ok((folder.to_owned(), path.to_owned()));
    }
    let found = FILES.iter().map(|name| path.join(name)).find(|file| file.exists());
    let found = match found {
        Some(found) => Some(found),
        None => tf_bundle::find(path)?,
    };
    let found = found.ok_or_else(|| {
        Error::Invalid(format!(
            "no weights in {}: none of {}, model.ckpt.index is there; name the weight file itself \
             if it is called otherwise",
            path.display(),
            FILES.join(", ")
        ))
    })?;
    Ok((path.to_owned(), found))
}

/// The name in its shard of a tensor that an index lists. Of a Keras variable's name transformers
/// leaves out the first part there (version 4, `TFPreTrainedModel.save_pretrained`).
fn shard_name(listed: &str) -> &str {
    match listed.split_once('/') {
        Some((_, rest)) if listed.ends_with(":0") && !listed.contains("model.") => rest,
        _ => listed,
    }
}

pub(super) fn is_plain_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=255).contains(&name.len()) && name.bytes().all(plain) && !matches!(name, "." | "..")
}

/// Maps a regular file. What is none (a pipe, a device) could block or never end. Links are
/// followed: Hugging Face's cache consists of them. An index can't lead out of its folder, for it
/// holds plain names; a link in the folder was put there by whoever may write there.
pub(super) fn map_file(path: &Path) -> Result<Bytes> {
    let kind = std::fs::metadata(path).map_err(Error::io("open", path))?;
    if !kind.is_file() {
        return Err(Error::Invalid(format!("{} is no regular file", path.display())));
    }
    Bytes::map(path)
}

/// Parses a JSON file of bounded length.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let kind = std::fs::metadata(path).map_err(Error::io("open", path))?;
    if !kind.is_file() || kind.len() > MAX_JSON {
        return Err(Error::Invalid(format!(
            "{} is no regular file of at most {MAX_JSON} bytes",
            path.display()
        )));
    }
    let text = std::fs::read(path).map_err(Error::io("read", path))?;
    serde_json::from_slice(&text)
        .map_err(|error| in_file(Error::malformed("JSON", error.to_string()), path))
}
