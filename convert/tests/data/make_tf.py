#!/usr/bin/env python3
"""Makes the TensorFlow 1 checkpoints in tf/: python convert/tests/data/make_tf.py

Python 3.11, tensorflow-cpu 2.21.0 (tf.compat.v1.train.Saver), tokenizers 0.22.0, python-snappy 0.7.3.
Values depend on the Hugging Face name of a tensor alone, by the generator that tests/support has.
"""

import json
import os
import struct
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import snappy
import tensorflow as tf
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

tf1 = tf.compat.v1
tf1.disable_eager_execution()
HERE = Path(__file__).resolve().parent / "tf"
N_EMBD, N_CTX, N_HEAD = 16, 16, 4
END = "<|endoftext|>"


def weights(name: str, shape: list[int]) -> np.ndarray:
    """tests/support/mod.rs, `weights`."""
    state = 0x9E3779B9
    for byte in name.encode():
        state = ((state ^ byte) * 16_777_619) & 0xFFFFFFFF
    values = []
    for _ in range(int(np.prod(shape))):
        state = (state * 1_664_525 + 1_013_904_223) & 0xFFFFFFFF
        values.append(np.float32(state >> 8) / np.float32(1 << 24) - np.float32(0.5))
    return np.array(values, np.float32).reshape(shape)


def gpt2(n_layer: int, n_vocab: int) -> dict[str, np.ndarray]:
    """OpenAI's names (gpt-2/src/model.py), each with the values of its Hugging Face twin."""
    wide = {"attn/c_attn": 3 * N_EMBD, "attn/c_proj": N_EMBD, "mlp/c_fc": 4 * N_EMBD, "mlp/c_proj": N_EMBD}
    out = {
        "model/wte": weights("wte.weight", [n_vocab, N_EMBD]),
        "model/wpe": weights("wpe.weight", [N_CTX, N_EMBD]),
        "model/ln_f/g": weights("ln_f.weight", [N_EMBD]),
        "model/ln_f/b": weights("ln_f.bias", [N_EMBD]),
    }
    for il in range(n_layer):
        for norm in ["ln_1", "ln_2"]:
            out[f"model/h{il}/{norm}/g"] = weights(f"h.{il}.{norm}.weight", [N_EMBD])
            out[f"model/h{il}/{norm}/b"] = weights(f"h.{il}.{norm}.bias", [N_EMBD])
        for name, n_out in wide.items():
            n_in = 4 * N_EMBD if name == "mlp/c_proj" else N_EMBD
            twin = f"h.{il}.{name.replace('/', '.')}"
            out[f"model/h{il}/{name}/w"] = weights(f"{twin}.weight", [1, n_in, n_out])
            out[f"model/h{il}/{name}/b"] = weights(f"{twin}.bias", [n_out])
    return out


def save(folder: str, build, **options) -> None:
    """Variables that `build` makes, saved as OpenAI's code does."""
    (HERE / folder).mkdir(parents=True, exist_ok=True)
    with tf1.Graph().as_default():
        build()
        config = tf1.ConfigProto(device_count={"CPU": 2})
        with tf1.Session(config=config) as session:
            session.run(tf1.global_variables_initializer())
            saver = tf1.train.Saver(save_relative_paths=True, **options)
            saver.save(session, str(HERE / folder / "model.ckpt"), write_meta_graph=False)


def hparams(folder: str, n_layer: int, n_vocab: int) -> None:
    numbers = {"n_vocab": n_vocab, "n_ctx": N_CTX, "n_embd": N_EMBD, "n_head": N_HEAD, "n_layer": n_layer}
    (HERE / folder / "hparams.json").write_text(json.dumps(numbers, indent=2) + "\n")


def plain() -> None:
    """Variables and nothing else, as released."""
    for name, value in gpt2(2, 264).items():
        tf1.get_variable(name, initializer=value)


def adam() -> None:
    """Half precision, on two devices, in training: slots and counters beside the weights."""
    variables = []
    for i, (name, value) in enumerate(gpt2(1, 40).items()):
        with tf1.device(f"/cpu:{i % 2}"):
            variables.append(tf1.get_variable(name, initializer=value.astype(np.float16)))
    step = tf1.train.get_or_create_global_step()
    loss = tf.add_n([tf.reduce_sum(tf.cast(v, tf.float32) ** 2) for v in variables])
    tf1.train.AdamOptimizer().minimize(loss, step)


def sliced() -> None:
    """A variable in two parts."""
    split = tf1.fixed_size_partitioner(2)
    tf1.get_variable("model/wte", initializer=tf.zeros([4, 2]), partitioner=split)


def types() -> None:
    """A value of every type that a checkpoint may have."""
    for name in ["float32", "float64", "float16", "bfloat16", "int8", "uint8", "int32", "int64", "bool"]:
        tf1.get_variable(f"a/{name}", initializer=tf.cast([[1], [0]], name))
    tf1.get_variable("a/string", initializer=tf.constant("text"))
    tf1.get_variable("a/scalar", initializer=tf.constant(0.25))
    tf1.get_variable("a/empty", initializer=tf.zeros([0, 3]))


def bpe() -> None:
    """OpenAI's two files: encoder.json, and vocab.bpe with its version line."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=263, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(["the quick brown fox and the lazy dog, then the other there"], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    (HERE / "plain/encoder.json").write_text(json.dumps(model["vocab"] | {END: len(model["vocab"])}))
    lines = [" ".join(merge) for merge in model["merges"]]
    (HERE / "plain/vocab.bpe").write_text("\n".join(["#version: 0.2", *lines, ""]))


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def snappy_index() -> None:
    """types' index with its one data block compressed: TensorFlow reads such tables and writes none."""
    whole = (HERE / "types/model.ckpt.index").read_bytes()

    def read_varint(at):
        value, shift = 0, 0
        while True:
            byte = whole[at]
            value |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80:
                return value, at

    at = len(whole) - 48
    _, at = read_varint(at)
    _, at = read_varint(at)
    index_at, at = read_varint(at)
    index_len, _ = read_varint(at)
    # The index block's one entry: 0 shared, key length, value length, key, the block's handle.
    key_len, value_len = whole[index_at + 1], whole[index_at + 2]
    key = whole[index_at + 3 : index_at + 3 + key_len]
    first, at = read_varint(index_at + 3 + key_len)
    length, _ = read_varint(at)
    assert first == 0

    def block(data, kind):
        return data + bytes([kind]) + struct.pack("<I", crc32c(data + bytes([kind])))

    data = snappy.compress(whole[:length])
    out = block(data, 1)
    meta = len(out)
    out += block(struct.pack("<II", 0, 1), 0)
    handle = varint(0) + varint(len(data))
    index = bytes([0, len(key), len(handle)]) + key + handle + struct.pack("<II", 0, 1)
    index_at = len(out)
    out += block(index, 0)
    out += (varint(meta) + varint(8) + varint(index_at) + varint(len(index))).ljust(40, b"\0")
    out += struct.pack("<Q", 0xDB4775248B80FB57)
    (HERE / "snappy.index").write_bytes(out)


save("plain", plain)
hparams("plain", 2, 264)
bpe()
save("adam", adam, sharded=True)
hparams("adam", 1, 40)
save("sliced", sliced)
save("types", types)
snappy_index()
