#!/usr/bin/env python3
"""Makes the torch.save files beside it: python convert/tests/data/make.py (torch 2.13 made them).

Their values are small integers that tests/torch.rs repeats.
"""

import os
from pathlib import Path

import torch

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
save("legacy.bin", {"a": torch.ones(2)}, _use_new_zipfile_serialization=False)
