#!/usr/bin/env python3
"""Makes the goldens of adapters: what PEFT says about a tiny base with a tiny adapter of each kind.

    pip install torch==2.13.* transformers==5.23.* peft==0.21.2 safetensors numpy
    python tests/goldens/adapters.py            # every adapter
    python tests/goldens/adapters.py --check    # makes nothing; says whether the files agree
    python tests/goldens/adapters.py --keep DIR # also leaves the adapters there, as PEFT reads them

Bases are those of make.py. Adapters' weights are functions of their names as the bases' are. PEFT
computes base and adapter side by side, not merged. Each folder in adapters/ holds

    adapter_config.json  as PEFT wrote it
    manifest.json        base, and tensors: [name, shape, offset, scale, what the values are made of]
    golden.json          as make.py's
    adapter_model.bin    where the weights are committed as torch.save writes them
"""

import argparse
import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file

import make

HERE = Path(__file__).resolve().parent
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]

# adapter -> (base, configuration, dtype). Alphas and ranks are uneven so that a mistake shows.
ADAPTERS = {
    "gpt2-lora": ("gpt2", dict(target_modules=["c_attn", "c_proj", "c_fc"], lora_alpha=6), "F32"),
    "gpt2-dora": ("gpt2", dict(target_modules=["c_attn", "c_fc"], use_dora=True), "F32"),
    "gpt2-bias": ("gpt2", dict(target_modules=["c_attn"], bias="all"), "F32"),
    "llama-lora": ("llama", dict(target_modules="all-linear", lora_alpha=5), "F32"),
    "llama-rslora": (
        "llama", dict(target_modules=ATTENTION, use_rslora=True, r=6, lora_alpha=3), "BF16"),
    "llama-patterns": (
        "llama",
        dict(target_modules=[*ATTENTION, "down_proj"], r=3,
             rank_pattern={"q_proj": 5, r"layers\.1\.self_attn\.v_proj": 2, "mlp.down_proj": 7},
             alpha_pattern={"^model.layers.0.self_attn.k_proj": 9, "o_proj": 2.5}), "F32"),
    "llama-dora": (
        "llama",
        dict(target_modules=["q_proj", "k_proj", "down_proj"], use_dora=True, use_rslora=True),
        "F32"),
    # The base's head is its embedding: PEFT changes one of the two.
    "llama-embedding": ("llama", dict(target_modules=["embed_tokens", "v_proj"]), "F32"),
    "llama-embedding-dora": ("llama", dict(target_modules=["embed_tokens"], use_dora=True), "F32"),
    "llama-head": ("llama", dict(target_modules=["lm_head", "q_proj"]), "F32"),
    "llama-saved": (
        "llama", dict(target_modules=["q_proj"], modules_to_save=["embed_tokens"]), "F32"),
    "llama-saved-head": (
        "llama", dict(target_modules=["q_proj"], modules_to_save=["lm_head", "norm"]), "F32"),
    "gptneox-lora": ("gptneox", dict(target_modules=["query_key_value", "dense"]), "F16"),
    "gptneox-bias": (
        "gptneox",
        dict(target_modules=["query_key_value", "dense_h_to_4h"], bias="lora_only",
             modules_to_save=["final_layer_norm"]), "F32"),
    "qwen2-lora-bias": ("qwen2", dict(target_modules=["q_proj", "v_proj"], lora_bias=True), "F32"),
    # As older versions of PEFT wrote them.
    "llama-bin": ("llama", dict(target_modules=["v_proj"], r=2), "F16"),
    "gemma-embedding": ("gemma", dict(target_modules=["embed_tokens", "gate_proj", "k_proj"]), "F32"),
}


def rule(adapter, name, shape, base):
    """Offset, scale and seed of an adapter's tensor: a change as large as the base's weights."""
    own = f"{adapter}/{name}"
    plain = name.removeprefix("base_model.model.")
    if plain.endswith(".base_layer.weight"):
        # The base's own: a tied head is made of the embedding.
        plain = plain.replace(".base_layer", "")
        tied = "model.embed_tokens.weight" if plain == "lm_head.weight" else plain
        offset, scale = next((o, s) for n, _, o, s in base["tensors"] if n == tied)
        return offset, scale, tied
    if plain.endswith("lora_magnitude_vector"):
        return (9.0 if shape == [64] and "embed" in plain else 1.75), 0.5, own
    if "lora_" in plain:
        return 0.0, 0.3, own
    if plain.endswith(".bias"):
        return 0.0, 0.2, own
    if len(shape) == 1:
        return 1.0, 0.2, own
    return 0.0, 0.6, own


def build(adapter):
    """The base with its adapter, and what save_pretrained wrote."""
    base, settings, dtype = ADAPTERS[adapter]
    config, tokenizer = make.VARIANTS[base]
    model, _, base_manifest, _ = make.build(base, config)
    settings = dict(dict(r=4, lora_alpha=8), **settings)
    torch_dtype = dict(F32=torch.float32, F16=torch.float16, BF16=torch.bfloat16)[dtype]
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        get_peft_model(model, LoraConfig(**settings)).save_pretrained(tmp)
        raw = (tmp / "adapter_model.safetensors").read_bytes()
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        tensors, arrays = [], []
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            offset, scale, seed = rule(adapter, name, entry["shape"], base_manifest)
            arrays.append(make.weights(seed, entry["shape"], offset, scale))
            tensors.append([name, entry["shape"], offset, scale, seed])
        values = {t[0]: torch.from_numpy(a).to(torch_dtype) for t, a in zip(tensors, arrays)}
        save_file(values, tmp / "adapter_model.safetensors", metadata={"format": "pt"})
        config_json = json.loads((tmp / "adapter_config.json").read_text())
        for key in ("target_modules", "modules_to_save"):  # sets, in whichever order
            if isinstance(config_json[key], list):
                config_json[key].sort()
        config_json["base_model_name_or_path"] = base  # a folder that is gone
        (tmp / "adapter_config.json").write_text(json.dumps(config_json))
        # A base anew: the first one has the adapter that was made up.
        model, _, _, _ = make.build(base, config)
        model = PeftModel.from_pretrained(model, tmp).eval()
        loaded = peft.get_peft_model_state_dict(model)
        assert set(loaded) == set(values), set(loaded) ^ set(values)
        for name, value in values.items():
            assert torch.equal(loaded[name].to(torch_dtype), value), name
    manifest = dict(base=base, tokenizer=tokenizer, dtype=dtype, checksum=make.checksum(arrays),
                    tensors=tensors)
    return model, config_json, manifest, values


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--check", action="store_true")
    args.add_argument("--keep", type=Path)
    args = args.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    stale = []

    def put(path: Path, text: str, same=lambda a, b: a == b):
        if not args.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif not path.exists() or not same(path.read_text(), text):
            stale.append(str(path.relative_to(HERE)))

    for adapter in ADAPTERS:
        model, config_json, manifest, values = build(adapter)
        folder = HERE / "adapters" / adapter
        golden = make.golden(f"adapters/{adapter}", model)
        del golden["sequences"][1:]
        golden["made_by"] = golden["made_by"].replace("make.py", "adapters.py") + (
            f", peft {peft.__version__}")
        put(folder / "adapter_config.json", json.dumps(config_json, indent=1, sort_keys=True) + "\n")
        put(folder / "manifest.json", make.lines(manifest))
        put(folder / "golden.json", make.lines(golden), make.same_golden)
        if adapter.endswith("-bin") and not args.check:
            torch.save(values, folder / "adapter_model.bin")
        if args.keep:
            out = args.keep / adapter
            out.mkdir(parents=True, exist_ok=True)
            save_file(values, out / "adapter_model.safetensors", metadata={"format": "pt"})
            (out / "adapter_config.json").write_text(json.dumps(config_json))
    if stale:
        sys.exit("these differ from what this PEFT makes:\n  " + "\n  ".join(stale))


if __name__ == "__main__":
    main()
