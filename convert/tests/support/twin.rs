//! Checkpoints of other programs beside the safetensors of the same weights.

use super::{data, options, safetensors, weights};
use half::bf16;
use pith_convert::convert;
use serde_json::Value;
use std::{fs, ops::ControlFlow, path::Path};
use tempfile::TempDir;

/// The bytes in a zlib stream beside the tests.
pub fn inflated(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    miniz_oxide::inflate::decompress_to_vec_zlib(&bytes).unwrap()
}

/// A folder of tests/data/make_keras.py as its program wrote it.
pub fn original(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(data().join(name)).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        match name.to_str().unwrap() {
            "manifest.json" => continue,
            name => match name.strip_suffix(".z") {
                Some(name) => fs::write(folder.path().join(name), inflated(&path)).unwrap(),
                None => drop(fs::copy(&path, folder.path().join(name)).unwrap()),
            },
        }
    }
    folder
}

/// The same weights as PyTorch's classes save them.
pub fn twin(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let from = data().join(name);
    fs::copy(from.join("config.json"), folder.path().join("config.json")).unwrap();
    let manifest: Value =
        serde_json::from_slice(&fs::read(from.join("manifest.json")).unwrap()).unwrap();
    let round: fn(f32) -> f32 = match manifest["dtype"].as_str().unwrap() {
        "F32" => |value| value,
        "BF16" => |value| bf16::from_f32(value).to_f32(),
        other => panic!("{other}"),
    };
    let tensor = |line: &Value| {
        let sizes = line[1].as_array().unwrap().iter().map(|dim| dim.as_u64().unwrap() as usize);
        let mut tensor = weights(line[0].as_str().unwrap(), &sizes.collect::<Vec<_>>());
        tensor.values.iter_mut().for_each(|value| *value = round(*value));
        tensor
    };
    let tensors: Vec<_> = manifest["tensors"].as_array().unwrap().iter().map(tensor).collect();
    fs::write(folder.path().join("model.safetensors"), safetensors(&tensors)).unwrap();
    folder
}

/// What a conversion says: the file's bytes, or the error.
pub fn outcome(source: &Path, target: &str) -> Result<Vec<u8>, String> {
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("out.gguf");
    convert(source, &out, &options(target), &mut |_| ControlFlow::Continue(()))
        .map(|_| fs::read(&out).unwrap())
        .map_err(|error| error.to_string())
}
