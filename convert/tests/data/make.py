#!/usr/bin/env python3
"""Makes the torch.save files beside it: python convert/tests/data/make.py (torch 2.13 and
transformers 5.23 made them). The keys in legacy streams are addresses: those files differ each time.

The values of those in this folder are small integers that tests/torch.rs repeats. The folders are
whole models, each with `hf`, what Hugging Face's code saves of the same weights: see programs.py.
"""

import os
from pathlib import Path

import torch

import programs

HERE = Path(__file__).resolve().parent


def save(name: str, value, **options) -> None:
    torch.save(value, HERE / name, **options)


def views() -> dict:
    """One storage seen in several ways, every float type, a parameter, a buffer, an integer."""
    base = torch.arange(24, dtype=torch.float32).view(4, 6)
    return {
        "middle": base[1:3],
        "transposed": base.t(),
        "every_other": base[:, ::2],
        "repeated": torch.tensor([5.0]).expand(3, 2),
        "parameter": torch.nn.Parameter(torch.tensor([1.0, -2.0])),
        "buffer": torch.nn.Buffer(torch.tensor([3.0])),
        "half": torch.tensor([0.5, -1.5], dtype=torch.float16),
        "bfloat": torch.tensor([0.5, -1.5], dtype=torch.bfloat16),
        "double": torch.tensor([0.25], dtype=torch.float64),
        "scalar": torch.tensor(7.0),
        "mask": torch.ones(2, dtype=torch.bool),
        "empty": torch.empty(0),
    }


class Evil:
    """What an attacker would put into a checkpoint."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


def of_names(*names: str) -> dict:
    return {name: torch.full((2,), float(i)) for i, name in enumerate(names)}


def legacy_views() -> dict:
    """What legacy streams must get right: storages shared by views, and none shared by chance."""
    shared = views()
    shared["again"] = shared["middle"]
    return shared


torch.manual_seed(0)
save("views.bin", views())
save("protocol4.bin", views(), pickle_protocol=4)
save("module.bin", torch.nn.Linear(2, 2, bias=False).to(torch.float16).state_dict())
save("wrapped.bin", {
    "epoch": 3,
    "lr": 0.1,
    "args": {"sizes": [1, (2, 3)], "none": None, "dtype": torch.float16,
             "size": torch.Size([1, 2]), "device": torch.device("cpu")},
    "model": {"module._orig_mod.a": torch.ones(2), "module._orig_mod.b": torch.zeros(1)},
})
save("entry.bin", {"a": torch.ones(2), "steps": 3})
save("evil.bin", {"a": torch.ones(2), "b": Evil()})
save("legacy.bin", legacy_views(), _use_new_zipfile_serialization=False)
save("legacy4.bin", legacy_views(), _use_new_zipfile_serialization=False, pickle_protocol=4)
save("whole.bin", torch.nn.Linear(1, 1))
save("tutorial.bin", {"epoch": 1, "model_state_dict": of_names("module.wte", "module.wpe"),
                      "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 0.1}]}})
save("merged.bin", of_names("base_model.model.transformer.wte", "base_model.model.lm_head.weight"))
save("lora.bin", of_names("base_model.model.lm_head.weight", "base_model.model.h.lora_A.weight"))
save("attribute.bin", {"state_dict": of_names("net.model.embed_tokens", "net.lm_head.weight")})
save("both.bin", {"model": {"n_layer": 1}, "state_dict": of_names("wte", "wpe")})
programs.save_all(HERE)
