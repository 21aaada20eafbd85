"""Models made of the demo model: one with a head, and one so deep that a step takes long."""

import json
import pathlib
import random
import shutil
import struct


def with_head(demo: pathlib.Path, folder: pathlib.Path, kind: str, labels: list[str]) -> None:
    """Makes the demo's checkpoint one of a GPT2For{kind}Classification, with weights drawn by chance."""
    folder.mkdir()
    shutil.copy(demo / "tokenizer.json", folder)
    config = json.loads((demo / "config.json").read_text())
    config["architectures"] = [f"GPT2For{kind}Classification"]
    config["id2label"] = {str(at): label for at, label in enumerate(labels)}
    config["label2id"] = {label: at for at, label in enumerate(labels)}
    (folder / "config.json").write_text(json.dumps(config))

    data = (demo / "model.safetensors").read_bytes()
    n_header = struct.unpack("<Q", data[:8])[0]
    header, data = json.loads(data[8 : 8 + n_header]), data[8 + n_header :]
    chance = random.Random(5)
    heads = {"Sequence": ["score.weight"], "Token": ["classifier.weight", "classifier.bias"]}
    for name in heads[kind]:
        shape = [len(labels), config["n_embd"]] if name.endswith("weight") else [len(labels)]
        n = shape[0] * (shape[1] if len(shape) == 2 else 1)
        numbers = struct.pack(f"<{n}f", *(chance.gauss(0, 0.1) for _ in range(n)))
        offsets = [len(data), len(data) + len(numbers)]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
        data += numbers
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


class Cursor:
    """Reads a GGUF file's head."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def number(self, form: str) -> int:
        [number] = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize(form)
        return number

    def string(self) -> str:
        n = self.number("Q")
        self.at += n
        return self.data[self.at - n : self.at].decode(errors="surrogateescape")

    def skip_value(self, kind: int) -> None:
        if kind == 8:
            self.string()
        elif kind == 9:
            kind, n = self.number("I"), self.number("Q")
            for _ in range(n):
                self.skip_value(kind)
        else:
            self.at += [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8][kind]


def deepened(model: pathlib.Path, n_layer: int) -> bytes:
    """A GGUF file of `n_layer` layers, a multiple of a model's own, which are those over and over."""
    data = model.read_bytes()
    cursor = Cursor(data)
    cursor.at = 8
    n_tensors, n_keys = cursor.number("Q"), cursor.number("Q")
    keys = b""
    for _ in range(n_keys):
        start = cursor.at
        name, kind = cursor.string(), cursor.number("I")
        value = cursor.at
        cursor.skip_value(kind)
        if name.endswith(".block_count"):
            keys += data[start:value] + struct.pack("<I", n_layer)
            [own] = struct.unpack_from("<I", data, value)
        else:
            keys += data[start : cursor.at]
    tensors = []
    for _ in range(n_tensors):
        name, start = cursor.string(), cursor.at
        cursor.at += 4 + 8 * struct.unpack_from("<I", data, cursor.at)[0] + 4
        shape, offset = data[start : cursor.at], cursor.number("Q")
        tensors.append((name, shape, offset))
    body = data[-(-cursor.at // 32) * 32 :]
    # Tensors may not overlap in a file, so each copy of all layers has its own bytes.
    infos, n_infos = b"", 0
    for copy in range(n_layer // own):
        for name, shape, offset in tensors:
            if name.startswith("blk."):
                _, layer, rest = name.split(".", 2)
                name = f"blk.{copy * own + int(layer)}.{rest}"
            elif copy > 0:
                continue
            infos += struct.pack("<Q", len(name)) + name.encode() + shape
            infos += struct.pack("<Q", copy * len(body) + offset)
            n_infos += 1
    head = data[:8] + struct.pack("<QQ", n_infos, n_keys) + keys + infos
    return head + b"\0" * (-len(head) % 32) + body * (n_layer // own)
