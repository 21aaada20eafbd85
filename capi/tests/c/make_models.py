"""Makes, of the demo checkpoint, a classifier and an adapter with random numbers, as folders to convert.

    python3 make_models.py DEMO OUT     OUT/classifier, OUT/adapter; nothing but the standard library
"""

import json
import random
import shutil
import struct
import sys
from pathlib import Path

LABELS = ["good", "bad", "neither"]


def read(path):
    """A safetensors file's header and its data."""
    data = path.read_bytes()
    (n,) = struct.unpack_from("<Q", data)
    return json.loads(data[8 : 8 + n]), data[8 + n :]


def write(path, header, data):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def add(header, data, name, shape):
    """Appends a tensor of random numbers."""
    n = shape[0] * shape[1]
    numbers = [random.uniform(-0.15, 0.15) for _ in range(n)]
    header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + 4 * n]}
    return data + struct.pack(f"<{n}f", *numbers)


def classifier(demo, out):
    shutil.copytree(demo, out)
    header, data = read(out / "model.safetensors")
    config = json.loads((out / "config.json").read_text())
    config["architectures"] = ["GPT2ForSequenceClassification"]
    config["id2label"] = {str(i): label for i, label in enumerate(LABELS)}
    config["label2id"] = {label: i for i, label in enumerate(LABELS)}
    config["pad_token_id"] = config["eos_token_id"]
    data = add(header, data, "score.weight", [len(LABELS), config["n_embd"]])
    (out / "config.json").write_text(json.dumps(config))
    write(out / "model.safetensors", header, data)


def adapter(demo, out):
    out.mkdir()
    config = json.loads((demo / "config.json").read_text())
    header, data = {}, b""
    for il in range(config["n_layer"]):
        name = f"base_model.model.transformer.h.{il}.attn.c_attn.lora_"
        data = add(header, data, name + "A.weight", [2, config["n_embd"]])
        data = add(header, data, name + "B.weight", [3 * config["n_embd"], 2])
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4,
        "target_modules": ["c_attn"], "fan_in_fan_out": True, "lora_dropout": 0.1, "bias": "none",
    }  # fmt: skip
    (out / "adapter_config.json").write_text(json.dumps(settings))
    write(out / "adapter_model.safetensors", header, data)


random.seed(6)
demo, out = map(Path, sys.argv[1:])
out.mkdir(parents=True, exist_ok=True)
classifier(demo, out / "classifier")
adapter(demo, out / "adapter")
