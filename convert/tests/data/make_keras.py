#!/usr/bin/env python3
"""Makes the Keras and Flax checkpoints beside it, and `f8.bin`: python convert/tests/data/make_keras.py

transformers' own TF and Flax classes write them, from its PyTorch models (it is transformers that
turns and renames the weights here, so that the converter's way back is checked against it). Made with

    transformers==4.49.0 tensorflow-cpu==2.18.1 tf-keras==2.18.0 flax==0.10.4 jax==0.4.38
    torch==2.13.0 h5py==3.16.0 numpy==2.0.2

A tensor's values depend on its PyTorch name alone, by the generator of tests/support; each folder has
a manifest.json with the names and shapes. The files of the folder `hdf5` are h5py's, of small integers.
HDF5 files are mostly zeros between their values: they are kept as zlib streams (`.z`). A few hold the time.
"""

import json
import math
import os
import shutil
import tempfile
import zlib
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"

import h5py
import numpy as np
import torch
import transformers
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
SMALL = dict(vocab_size=24, bos_token_id=0, eos_token_id=1, pad_token_id=2)
GPT2 = transformers.GPT2Config(**SMALL, n_positions=8, n_embd=8, n_layer=2, n_head=2, n_inner=12)
OPT = transformers.OPTConfig(
    **SMALL, max_position_embeddings=8, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
    ffn_dim=12, word_embed_proj_dim=4, do_layer_norm_before=False)
OPT_PRE = transformers.OPTConfig(
    **SMALL, max_position_embeddings=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
    ffn_dim=12, word_embed_proj_dim=8)
GPTJ = transformers.GPTJConfig(
    **SMALL, n_positions=8, n_embd=8, n_layer=1, n_head=2, rotary_dim=2, n_inner=12)
NEO = transformers.GPTNeoConfig(
    **SMALL, max_position_embeddings=8, hidden_size=8, num_layers=2, num_heads=2,
    intermediate_size=12, attention_types=[[["global", "local"], 1]], window_size=4)
BLOOM = transformers.BloomConfig(**SMALL, hidden_size=8, n_layer=1, n_head=2)
ROPE = dict(
    **SMALL, max_position_embeddings=8, hidden_size=8, num_hidden_layers=1, intermediate_size=12,
    num_attention_heads=2, num_key_value_heads=1)
LLAMA = transformers.LlamaConfig(**ROPE)
MISTRAL = transformers.MistralConfig(**ROPE, sliding_window=4)
GEMMA = transformers.GemmaConfig(**ROPE, head_dim=4, hidden_activation="gelu_pytorch_tanh")


def weights(name: str, shape) -> np.ndarray:
    """`weights` of tests/support/mod.rs."""
    state = 0x9E3779B9
    for byte in name.encode():
        state = (state ^ byte) * 16777619 % 2**32
    values = np.empty(math.prod(shape), np.float32)
    for i in range(values.size):
        state = (state * 1664525 + 1013904223) % 2**32
        values[i] = (state >> 8) / 2**24 - 0.5
    return values.reshape(shape)


def torch_model(folder: Path, name: str, config, dtype=torch.float32):
    """The class `name` with its weights, saved in `folder`; its tensors' names and shapes."""
    model = getattr(transformers, name)(config).to(dtype)
    state = {n: torch.from_numpy(weights(n, tuple(t.shape))).to(dtype)
             for n, t in model.named_parameters()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and not set(missing) & set(state), (missing, unexpected)
    model.save_pretrained(folder)
    return [[n, list(t.shape)] for n, t in state.items()]


def shrink(path: Path) -> None:
    path.with_name(path.name + ".z").write_bytes(zlib.compress(path.read_bytes(), 9))
    path.unlink()


def finish(out: Path, tensors, dtype="F32") -> None:
    config = json.loads((out / "config.json").read_text())
    config.pop("_name_or_path", None)
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    for path in out.glob("*.h5"):
        shrink(path)
    lines = ",\n".join("  " + json.dumps(t) for t in tensors)
    (out / "manifest.json").write_text(
        f'{{\n "dtype": "{dtype}",\n "tensors": [\n{lines}\n ]\n}}\n')
    (out / "generation_config.json").unlink(missing_ok=True)


def keras(folder: str, name: str, config, shard="10GB", weights_only=False) -> None:
    """As TF classes save themselves, or with Keras' own save_weights."""
    out = HERE / "keras" / folder
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory() as tmp:
        tensors = torch_model(Path(tmp), name, config)
        model = getattr(transformers, "TF" + name).from_pretrained(tmp, from_pt=True)
        model.save_pretrained(out, safe_serialization=False, max_shard_size=shard)
        if weights_only:
            (out / "tf_model.h5").unlink()
            model.save_weights(out / "weights.h5")
    finish(out, tensors)


def flax(folder: str, name: str, config, dtype=torch.float32, shard="10GB") -> None:
    out = HERE / "flax" / folder
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory() as tmp:
        tensors = torch_model(Path(tmp), name, config, dtype)
        model = getattr(transformers, "Flax" + name).from_pretrained(tmp, from_pt=True)
        params = model.to_bf16(model.params) if dtype == torch.bfloat16 else None
        model.save_pretrained(out, params=params, max_shard_size=shard)
    finish(out, tensors, "BF16" if dtype == torch.bfloat16 else "F32")


def counting(*shape, dtype="f4"):
    return np.arange(math.prod(shape)).reshape(shape).astype(dtype)


def variants(f: h5py.File) -> None:
    """Every type and every way to lay values out that is read, and values that are none."""
    f.attrs["layer_names"] = ["one", "two"]
    g = f.create_group("a/b_._c")
    for dtype in ("f8", "f4", "f2", ">f8", ">f4", ">f2", "i8", "u1"):
        g.create_dataset(f"{dtype}:0".replace(">", "big_"), data=counting(2, 3, dtype=dtype))
    g.create_dataset("scalar:0", data=np.float32(7))
    g.create_dataset("empty:0", data=counting(0, 3))
    g["f4:0"].attrs["a"] = np.arange(30)
    compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    compact.set_layout(h5py.h5d.COMPACT)
    space, kind = h5py.h5s.create_simple((2, 3)), h5py.h5t.IEEE_F32LE
    made = h5py.h5d.create(g.id, b"compact:0", kind, space, compact)
    made.write(h5py.h5s.ALL, h5py.h5s.ALL, counting(2, 3))
    kind = h5py.h5t.IEEE_F16LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_ebias(127)  # BF16
    made = h5py.h5d.create(g.id, b"bf2:0", kind, space)
    made.write(h5py.h5s.ALL, h5py.h5s.ALL, counting(2, 3))
    c = f.create_group("chunks")
    c.create_dataset("plain:0", data=counting(5, 7), chunks=(2, 3))
    c.create_dataset("whole:0", data=counting(5, 7), chunks=(5, 7))
    c.create_dataset("gzip:0", data=counting(5, 7), chunks=(2, 3), compression="gzip")
    c.create_dataset("one:0", data=counting(5, 7), chunks=(5, 7), compression="gzip")
    c.create_dataset("all:0", data=counting(3, 4, 5), chunks=(2, 2, 4), compression="gzip",
                     shuffle=True, fletcher32=True)
    c.create_dataset("sum:0", data=counting(7), chunks=(3,), fletcher32=True)
    c.create_dataset("big:0", data=counting(5, 7, dtype=">f4"), chunks=(2, 3), shuffle=True)
    o = f.create_group("others")
    o.create_dataset("text", data="words")
    o.create_dataset("flags", data=np.array([True, False]))
    o.create_dataset("none", data=h5py.Empty("f4"))


def tiny(f: h5py.File) -> None:
    """Little, for tests that damage every bit of it."""
    f.create_group("a").create_dataset("plain:0", data=counting(2, 3))
    f.create_dataset("packed:0", data=counting(4), chunks=(3,), compression="gzip", shuffle=True,
                     fletcher32=True)


def many(f: h5py.File, n_chunks: int) -> None:
    """More links than one node or block holds, and more chunks than one page."""
    g = f.create_group("layers")
    for i in range(100):
        g.create_group(f"layer_with_a_long_name_{i}")
    g["layer_with_a_long_name_99"].create_dataset("x:0", data=counting(2))
    f.create_dataset("paged:0", data=counting(n_chunks), chunks=(1,))
    f.create_dataset("packed:0", data=counting(n_chunks), chunks=(1,), fletcher32=True)


def virtual(f: h5py.File) -> None:
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (3,))
    f.create_virtual_dataset("x", layout)


def named_type(f: h5py.File) -> None:
    f["kind"] = np.dtype("f4")
    f.create_dataset("x", data=counting(3), dtype=f["kind"])


REFUSED = {
    "soft": lambda f: f.update(x=h5py.SoftLink("/y")),
    "external-link": lambda f: f.update(x=h5py.ExternalLink("other.h5", "/y")),
    "external": lambda f: f.create_dataset("x", (3,), "f4", external="other.bin"),
    "virtual": virtual,
    "lzf": lambda f: f.create_dataset("x", data=counting(3), chunks=(3,), compression="lzf"),
    "unwritten": lambda f: f.create_dataset("x", (3,), "f4"),
    "unwritten-chunk": lambda f: f.create_dataset("x", (3,), "f4", chunks=(2,)),
    "twice": lambda f: f.update(x=f.create_dataset("y", data=counting(3))),
    "loop": lambda f: f.create_group("a").update(b=f["/"]),
    "named-type": named_type,
    "compound": lambda f: f.create_dataset("x", data=np.zeros(2, "f4,f4")),
    "numbered": lambda f: f.create_dataset("layers/dense/vars/0", data=counting(3)),
    "growing": lambda f: f.create_dataset("x", data=counting(3), chunks=(2,), maxshape=(None,)),
}


def hdf5() -> None:
    """Files that h5py writes when asked for more than Keras asks for."""
    out = HERE / "hdf5"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()

    def write(name: str, fill, libver) -> None:
        with h5py.File(out / name, "w", libver=libver) as f:
            fill(f)
        shrink(out / name)

    for libver, version in (("earliest", "earliest"), ("v110", ("v110", "v110")), ("latest", "latest")):
        write(f"variants-{libver}.h5", variants, version)
        write(f"tiny-{libver}.h5", tiny, version)
        for name, fill in REFUSED.items():
            write(f"{name}-{libver}.h5", fill, version)
    write("many-earliest.h5", lambda f: many(f, 130), "earliest")
    write("many-latest.h5", lambda f: many(f, 1030), "latest")


def float8() -> None:
    """Every byte of the two types, and what torch makes of it."""
    tensors = {}
    for name, dtype in (("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)):
        tensors[name] = torch.arange(256, dtype=torch.uint8).view(dtype)
        tensors[f"{name}.f32"] = tensors[name].float()
    save_file(tensors, HERE / "f8.bin")


def main() -> None:
    float8()
    hdf5()
    keras("gpt2", "GPT2LMHeadModel", GPT2)
    keras("gpt2-weights", "GPT2ForSequenceClassification", GPT2, weights_only=True)
    keras("opt", "OPTForCausalLM", OPT, shard="2KB")
    keras("gptj", "GPTJForCausalLM", GPTJ)
    keras("mistral", "MistralForCausalLM", MISTRAL)
    flax("gpt2", "GPT2LMHeadModel", GPT2, shard="2KB")
    flax("gpt2-bf16", "GPT2LMHeadModel", GPT2, torch.bfloat16)
    flax("gptneo", "GPTNeoForCausalLM", NEO)
    flax("gptj", "GPTJForCausalLM", GPTJ)
    flax("opt", "OPTForCausalLM", OPT_PRE)
    flax("bloom", "BloomForCausalLM", BLOOM)
    flax("llama", "LlamaForCausalLM", LLAMA)
    flax("gemma", "GemmaForCausalLM", GEMMA)
    flax("mistral", "MistralForCausalLM", MISTRAL)


if __name__ == "__main__":
    main()
