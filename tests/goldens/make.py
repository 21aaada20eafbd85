#!/usr/bin/env python3
"""Makes the goldens: what PyTorch says about one tiny seeded random checkpoint per family.

    pip install torch transformers safetensors numpy
    python tests/goldens/make.py            # every variant (and the two pytorch_model.bin fixtures)
    python tests/goldens/make.py --check    # makes nothing; says whether the committed files agree
    python tests/goldens/make.py --only llama,gemma3
    python tests/goldens/make.py --keep DIR # also leaves the checkpoints there, as save_pretrained

Weights are not committed. Each is a function of its tensor's name and index that
support/checkpoint.rs repeats bit for bit, so a test needs no Python: see `weights`.

Each variant's folder holds
    config.json    as transformers wrote it
    manifest.json  tensors in the order of the safetensors header: [name, shape, offset, scale]
    golden.json    token ids, the most likely next token of every position, all logits of some
"""

import argparse
import base64
import json
import math
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers import (
    BloomConfig, CodeGenConfig, FalconConfig, Gemma2Config, Gemma3TextConfig, GemmaConfig, GPT2Config, GPTJConfig,
    GPTBigCodeConfig, GPTNeoConfig, GPTNeoXConfig, LlamaConfig, MistralConfig, MptConfig, OPTConfig,
    PhiConfig, Qwen2Config, Qwen3Config, Starcoder2Config,
)
from transformers import (
    Olmo2Config, Olmo3Config, OlmoConfig, Phi3Config, SmolLM3Config, StableLmConfig,
)

from foundry import FoundryConfig

HERE = Path(__file__).resolve().parent
N_VOCAB = 264
# 256 bytes and 3 specials: rows 259..263 have no token, as in most checkpoints (tokenizers/bpe).
BPE = dict(vocab_size=N_VOCAB, bos_token_id=257, eos_token_id=256)
# <unk> <s> </s>, then bytes and a few pieces (tokenizers/spm).
SPM = dict(vocab_size=N_VOCAB, bos_token_id=1, eos_token_id=2)
# <pad> <eos> <bos> <unk>, then bytes and a few pieces (tokenizers/gemma).
GEM = dict(vocab_size=N_VOCAB, pad_token_id=0, eos_token_id=1, bos_token_id=2)
GPT2 = dict(n_positions=64, n_embd=64, n_layer=2, n_head=4, n_inner=96)
LLAMA = dict(
    max_position_embeddings=64, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, intermediate_size=96,
)
GEMMA = {**LLAMA, **GEM, "head_dim": 32}
LLAMA3_ROPE = dict(
    rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0,
    high_freq_factor=4.0, original_max_position_embeddings=32,
)
FALCON = dict(
    max_position_embeddings=64, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
    ffn_hidden_size=96,
)
MPT = dict(max_seq_len=64, d_model=64, n_layers=2, n_heads=4)
OPT = dict(
    max_position_embeddings=64, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
    ffn_dim=96, pad_token_id=258,
)

# variant -> (configuration, tokenizer)
VARIANTS = {
    "gpt2": (GPT2Config(**GPT2, **BPE), "bpe"),
    "gpt2-erf-untied": (
        GPT2Config(**GPT2, **BPE, activation_function="gelu", tie_word_embeddings=False), "bpe"),
    # What the scores are multiplied with, layer by layer.
    "gpt2-scores": (
        GPT2Config(**{**GPT2, "n_layer": 3}, **BPE, scale_attn_by_inverse_layer_idx=True,
                   scale_attn_weights=False), "bpe"),
    "gptneo": (
        GPTNeoConfig(
            max_position_embeddings=64, hidden_size=64, num_layers=2, num_heads=4,
            intermediate_size=96, attention_types=[[["global", "local"], 1]], window_size=8, **BPE),
        "bpe"),
    "gptj": (
        GPTJConfig(n_positions=64, n_embd=64, n_layer=2, n_head=4, n_inner=96, rotary_dim=8, **BPE),
        "bpe"),
    "gptneox": (
        GPTNeoXConfig(
            max_position_embeddings=64, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=96, **BPE),
        "bpe"),
    "gptneox-sequential": (
        GPTNeoXConfig(
            max_position_embeddings=64, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=96, use_parallel_residual=False,
            rope_parameters=dict(
                rope_type="default", rope_theta=2000.0, partial_rotary_factor=0.5),
            **BPE),
        "bpe"),
    "opt": (OPTConfig(**OPT, **BPE), "bpe"),
    "opt-post-norm": (
        OPTConfig(**OPT, **BPE, do_layer_norm_before=False, word_embed_proj_dim=32), "bpe"),
    "opt-no-bias": (
        OPTConfig(**OPT, **BPE, enable_bias=False, layer_norm_elementwise_affine=False), "bpe"),
    "bloom": (BloomConfig(hidden_size=64, n_layer=2, n_head=4, **BPE), "bpe"),
    # Six heads: ALiBi's slopes where the number of heads is no power of two.
    "bloom-6-heads": (BloomConfig(hidden_size=96, n_layer=2, n_head=6, **BPE), "bpe"),
    "codegen": (
        CodeGenConfig(n_positions=64, n_embd=64, n_layer=2, n_head=4, n_inner=96, rotary_dim=8, **BPE),
        "bpe"),
    # Two heads to a slice.
    "codegen-8-heads": (
        CodeGenConfig(n_positions=64, n_embd=64, n_layer=2, n_head=8, rotary_dim=6, **BPE,
                      tie_word_embeddings=True), "bpe"),
    "falcon-7b": (FalconConfig(**FALCON, **BPE), "bpe"),
    "falcon-40b": (
        FalconConfig(**FALCON, **BPE, new_decoder_architecture=True, num_kv_heads=2,
                     tie_word_embeddings=False), "bpe"),
    "falcon-11b": (
        FalconConfig(**FALCON, **BPE, new_decoder_architecture=True, num_kv_heads=2,
                     num_ln_in_parallel_attn=1, activation="gelu_pytorch_tanh",
                     rope_parameters=dict(rope_type="default", rope_theta=500042.0)), "bpe"),
    # Six heads, whose slopes are exact in the bfloat16 to which transformers rounds them.
    "falcon-rw": (
        FalconConfig(**{**FALCON, "hidden_size": 96, "num_attention_heads": 6}, **BPE, alibi=True,
                     multi_query=False, parallel_attn=False, bias=True), "bpe"),
    "mpt": (
        MptConfig(**MPT, **BPE, attn_config=dict(softmax_scale=0.4), tie_word_embeddings=False),
        "bpe"),
    "mpt-6-heads": (
        MptConfig(**{**MPT, "d_model": 48, "n_heads": 6}, **BPE, attn_config=dict(clip_qkv=1.5)),
        "bpe"),
    "mpt-foundry": (
        FoundryConfig(**MPT, **BPE, no_bias=False, attn_config=dict(
            kv_n_heads=2, qk_ln=True, clip_qkv=2.0, alibi_bias_max=16)), "bpe"),
    "mpt-foundry-positions": (FoundryConfig(**MPT, **BPE, attn_config=dict(alibi=False)), "bpe"),
    "starcoder": (GPTBigCodeConfig(**GPT2, **BPE), "bpe"),
    "starcoder-mha": (
        GPTBigCodeConfig(**{**GPT2, "n_head": 16, "n_inner": None}, **BPE, multi_query=False,
                         activation_function="gelu", scale_attn_weights=False,
                         tie_word_embeddings=False), "bpe"),
    "starcoder2": (Starcoder2Config(**LLAMA, **BPE), "bpe"),
    "starcoder2-window": (
        Starcoder2Config(**{**LLAMA, "num_key_value_heads": 4}, **BPE, sliding_window=10,
                         use_bias=False, hidden_act="gelu", tie_word_embeddings=False,
                         rope_parameters=dict(rope_type="default", rope_theta=100000.0)), "bpe"),
    "phi": (PhiConfig(**LLAMA, **BPE), "bpe"),
    "phi-qk-norm": (
        PhiConfig(**{**LLAMA, "num_key_value_heads": 4}, **BPE, qk_layernorm=True,
                  hidden_act="gelu", tie_word_embeddings=True,
                  rope_parameters=dict(
                      rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.4)),
        "bpe"),
    "llama": (LlamaConfig(**LLAMA, **SPM, tie_word_embeddings=True), "spm"),
    "llama-llama3-rope": (
        LlamaConfig(**LLAMA, **SPM, rope_parameters=LLAMA3_ROPE, rms_norm_eps=1e-5), "spm"),
    "llama-bias": (
        LlamaConfig(**LLAMA, **SPM, head_dim=32, attention_bias=True, mlp_bias=True), "spm"),
    # Rows of 256, so that K-quants apply to every matrix.
    "llama-256": (
        LlamaConfig(**{**LLAMA, "hidden_size": 256, "intermediate_size": 512}, **SPM), "spm"),
    "mistral-window": (MistralConfig(**LLAMA, **SPM, sliding_window=10), "spm"),
    "qwen2": (Qwen2Config(**LLAMA, **BPE, tie_word_embeddings=True), "bpe"),
    "qwen3": (Qwen3Config(**LLAMA, **BPE, head_dim=32), "bpe"),
    "gemma": (GemmaConfig(**GEMMA), "gemma"),
    # Caps and windows small enough to matter.
    "gemma2": (
        Gemma2Config(
            **GEMMA, sliding_window=12, attn_logit_softcapping=5.0, final_logit_softcapping=10.0,
            query_pre_attn_scalar=24),
        "gemma"),
    "gemma3": (
        Gemma3TextConfig(
            **{**GEMMA, "num_hidden_layers": 7}, sliding_window=12, query_pre_attn_scalar=32,
            rope_parameters={
                "full_attention": dict(rope_type="linear", factor=8.0, rope_theta=1000000.0),
                "sliding_attention": dict(rope_type="default", rope_theta=10000.0),
            }),
        "gemma"),
}

# Stretched from 16 positions; a small base spreads the ramp over several dimensions.
YARN = dict(
    rope_type="yarn", rope_theta=200.0, factor=4.0, original_max_position_embeddings=16)
# Sequences of up to 32 positions get the short factors, longer ones the long ones.
LONGROPE = dict(
    rope_type="longrope", original_max_position_embeddings=32,
    short_factor=[1.0, 1.0, 1.05, 1.1, 1.2, 1.4, 1.7, 2.0],
    long_factor=[1.0, 1.1, 1.4, 2.0, 3.0, 4.5, 7.0, 9.0])
SHORTER = {k: [f * 1.03125 for f in v[:6]] if k.endswith("_factor") else v
           for k, v in LONGROPE.items()}
VARIANTS |= {
    "llama-yarn": (LlamaConfig(**LLAMA, **SPM, rope_parameters=YARN), "spm"),
    "llama-yarn-all": (
        LlamaConfig(**LLAMA, **SPM, rope_parameters={
            **YARN, "beta_fast": 3, "beta_slow": 0.5, "mscale": 1.5, "mscale_all_dim": 0.75,
            "truncate": False}),
        "spm"),
    "qwen2-yarn": (
        Qwen2Config(**LLAMA, **BPE, rope_parameters={**YARN, "attention_factor": 1.25}), "bpe"),
    "llama-longrope": (
        LlamaConfig(**LLAMA, **SPM, rope_parameters={**LONGROPE, "factor": 5.0}), "spm"),
    # Phi-3-mini-4k, and Phi-4-mini.
    "phi3": (
        Phi3Config(**{**LLAMA, "num_key_value_heads": 4}, **SPM, pad_token_id=0, sliding_window=10),
        "spm"),
    "phi3-longrope": (
        Phi3Config(**LLAMA, **BPE, pad_token_id=258, original_max_position_embeddings=32,
                   tie_word_embeddings=True, rope_parameters=SHORTER, partial_rotary_factor=0.75),
        "bpe"),
    # The last layer of 4 has no rope.
    "smollm3": (
        SmolLM3Config(**{**LLAMA, "num_hidden_layers": 4}, **BPE, pad_token_id=258), "bpe"),
    # 1.6B and 12B.
    "stablelm": (
        StableLmConfig(**{**LLAMA, "num_key_value_heads": 4}, **BPE, use_qkv_bias=True), "bpe"),
    "stablelm-parallel": (
        StableLmConfig(**LLAMA, **BPE, qk_layernorm=True, use_parallel_residual=True,
                       partial_rotary_factor=0.5),
        "bpe"),
    "olmo": (
        OlmoConfig(**LLAMA, **BPE, pad_token_id=258, clip_qkv=1.5, tie_word_embeddings=True), "bpe"),
    "olmo2": (Olmo2Config(**LLAMA, **BPE, pad_token_id=258), "bpe"),
    # Layer 3 of 5 sees everything, and it alone has YaRN.
    "olmo3": (
        Olmo3Config(**{**LLAMA, "num_hidden_layers": 5}, **BPE, pad_token_id=258, sliding_window=10,
                    rope_parameters={
                        "full_attention": YARN,
                        "sliding_attention": dict(rope_type="default", rope_theta=200.0)}),
        "bpe"),
}

# Checkpoints that are committed as pytorch_model.bin: variant -> (configuration, tokenizer, dtype).
BINS = {
    "gpt2-bin": (
        GPT2Config(n_positions=16, n_embd=32, n_layer=1, n_head=2, n_inner=64, **BPE),
        "bpe", torch.float16),
    "llama-bin": (
        LlamaConfig(
            **{**LLAMA, "hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64}, **SPM),
        "spm", torch.bfloat16),
}


def fnv1a(data: bytes) -> int:
    """FNV-1a, 64 bits."""
    h = 0xCBF29CE484222325
    for b in data:
        h = (h ^ b) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return h


def splitmix64(x: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64 (Steele et al. 2014) of state x."""
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def weights(name: str, shape, offset: float, scale: float) -> np.ndarray:
    """Element i is offset + scale * v in f32, each operation rounded once, where v in [-1, 1) is
    made of the top 24 bits of splitmix64(fnv1a(name) + i)."""
    n = math.prod(shape)
    with np.errstate(over="ignore"):
        u = splitmix64(np.uint64(fnv1a(name.encode())) + np.arange(n, dtype=np.uint64))
    v = (u >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
    return (np.float32(offset) + np.float32(scale) * v).reshape(shape)


def rule(name: str, shape, model_type: str):
    """Offset and scale of a tensor: logits spread over several units, attention is not uniform."""
    leaf, stem = name.rsplit(".", 1)[1], name.rsplit(".", 1)[0].rsplit(".", 1)[-1]
    if leaf == "bias":
        return 0.0, 0.2
    gemma = model_type.startswith("gemma")
    if len(shape) == 1:
        # Gemma's norms multiply with 1 + w. A factor of 4 in the last one spreads the logits.
        return (3.0 if stem == "norm" else 0.0) if gemma else 1.0, 0.2
    if stem in ("wte", "embed_in", "embed_tokens", "word_embeddings"):
        # Gemma multiplies it with sqrt(n_embd): smaller, or the head would only see the input.
        return 0.0, 0.12 if gemma else 0.75
    if stem in ("wpe", "embed_positions"):
        return 0.0, 0.375
    fan_in = shape[0] if model_type == "gpt2" and stem != "lm_head" else shape[1]
    gain = 2.0
    if stem in ("lm_head", "embed_out"):
        gain = 5.0
    elif stem in ("c_proj", "out_proj", "fc_out", "dense", "dense_4h_to_h", "fc2", "o_proj", "down_proj"):
        gain = 4.0
    elif stem in ("q_proj", "k_proj") and model_type != "gpt_neo":
        gain = 3.0
    return 0.0, round(gain / math.sqrt(fan_in), 3)


def checksum(arrays) -> str:
    """Sum of (i + 1) * bits of the i-th value, modulo 2^64, over all tensors in order."""
    total, at = 0, 1
    for a in arrays:
        bits = a.reshape(-1).view(np.uint32).astype(np.uint64)
        with np.errstate(over="ignore"):
            index = np.arange(at, at + bits.size, dtype=np.uint64)
            total = (total + int((index * bits).sum(dtype=np.uint64))) % 2**64
        at += bits.size
    return f"{total:016x}"


def saved_tensors(folder: Path):
    """Names and shapes in the order of the header of the folder's model.safetensors."""
    raw = (folder / "model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    return [(n, t["shape"]) for n, t in header.items() if n != "__metadata__"]


def build(variant: str, config, dtype=torch.float32):
    """The model with its weights, and the manifest of what save_pretrained wrote."""
    # The library's eager Falcon adds ALiBi twice: to the scores, and in the mask.
    attention = "sdpa" if getattr(config, "alibi", False) else "eager"
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation=attention, dtype=torch.float32).eval()
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        model.save_pretrained(tmp)
        tensors, arrays = [], []
        for name, shape in saved_tensors(tmp):
            offset, scale = rule(name, shape, config.model_type)
            arrays.append(weights(name, shape, offset, scale))
            tensors.append([name, shape, offset, scale])
        values = {t[0]: torch.from_numpy(a) for t, a in zip(tensors, arrays)}
        save_file({n: v.to(dtype) for n, v in values.items()}, tmp / "model.safetensors",
                  metadata={"format": "pt"})
        # What from_pretrained reads back is what a user would run; names may differ inside.
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            tmp, attn_implementation=attention, dtype=torch.float32, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"], info
        model.save_pretrained(tmp / "again")
        config_json = (tmp / "again" / "config.json").read_text()
    config_json = json.loads(config_json)
    config_json["dtype"] = str(dtype).removeprefix("torch.")
    manifest = dict(
        dtype={torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[dtype],
        checksum=checksum(arrays), tensors=tensors)
    return model.eval(), config_json, manifest, values


def sequences(variant: str):
    """Two sequences of token ids, of 24 and 40 tokens."""
    out = []
    for i, n in enumerate((24, 40)):
        with np.errstate(over="ignore"):
            u = splitmix64(np.uint64(fnv1a(f"{variant}/{i}".encode())) + np.arange(n, dtype=np.uint64))
        out.append([int(x) for x in u % np.uint64(N_VOCAB)])
    return out


def golden(variant: str, model):
    """What the model says in f32, and how far f64 is from it."""
    rows, worst, spread = [], 0.0, []
    exact = [model.double()(torch.tensor([ids]), use_cache=False).logits[0].float().numpy()
             for ids in sequences(variant)]
    model.float()
    for ids, want in zip(sequences(variant), exact):
        logits = model(torch.tensor([ids]), use_cache=False).logits[0].numpy()
        worst = max(worst, float(np.abs(logits - want).max()))
        spread.append(float(logits.std(axis=1).mean()))
        at = [len(ids) - 1]
        top = np.sort(logits, axis=1)
        rows.append(dict(
            ids=ids,
            top1=[int(x) for x in logits.argmax(axis=1)],
            margin=round(float((top[:, -1] - top[:, -2]).min()), 5),
            logits=[dict(at=i, f32=base64.b64encode(logits[i].astype("<f4").tobytes()).decode())
                    for i in at]))
    print(f"{variant:20} spread {min(spread):6.2f}  |f32 - f64| {worst:.1e}  "
          f"least margin {min(r['margin'] for r in rows)}  distinct top-1 "
          f"{[len(set(r['top1'])) for r in rows]}, the input again "
          f"{[sum(a == b for a, b in zip(r['ids'], r['top1'])) for r in rows]}")
    return dict(
        made_by=f"tests/goldens/make.py, torch {torch.__version__}, transformers "
                f"{transformers.__version__}, f32, {model.config._attn_implementation} attention",
        max_diff_to_f64=float(f"{worst:.1e}"), sequences=rows)


def lines(value) -> str:
    """JSON with one line per element of the outer containers."""
    out = ["{"]
    for i, (k, v) in enumerate(value.items()):
        comma = "," if i + 1 < len(value) else ""
        if isinstance(v, list) and v and isinstance(v[0], (dict, list)):
            body = ",\n".join("  " + json.dumps(x, separators=(",", ":")) for x in v)
            out.append(f" {json.dumps(k)}: [\n{body}\n ]{comma}")
        else:
            out.append(f" {json.dumps(k)}: {json.dumps(v)}{comma}")
    return "\n".join(out + ["}"]) + "\n"


def byte_chars():
    """GPT-2's printable stand-ins for the 256 bytes."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = iter(range(256, 512))
    return [chr(b) if b in keep else chr(next(rest)) for b in range(256)]


def added(ids_and_texts):
    return [dict(id=i, content=t, single_word=False, lstrip=False, rstrip=False, normalized=False,
                 special=True) for i, t in ids_and_texts]


def tokenizers():
    """Three small tokenizers: byte-level BPE, SentencePiece-like with a space prefix, Gemma-like."""
    base = dict(version="1.0", truncation=None, padding=None)
    model = dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None,
                 end_of_word_suffix=None, fuse_unk=False, byte_fallback=False, ignore_merges=False)
    level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
    specials = [(256, "<|endoftext|>"), (257, "<|begin|>"), (258, "<|pad|>")]
    vocab = {c: i for i, c in enumerate(byte_chars())} | {t: i for i, t in specials}
    yield "bpe", dict(
        **base, added_tokens=added(specials), normalizer=None, pre_tokenizer=level,
        post_processor=level, decoder=level, model={**model, "vocab": vocab, "merges": []}), dict(
        tokenizer_class="GPT2Tokenizer", bos_token="<|begin|>", eos_token="<|endoftext|>",
        pad_token="<|pad|>", add_bos_token=False)
    pieces = {
        "spm": (["<unk>", "<s>", "</s>"], ["\u2581", "t", "h", "e", "th"]),
        "gemma": (["<pad>", "<eos>", "<bos>", "<unk>"], ["\u2581", "t", "h", "th"]),
    }
    for kind, (special, rest) in pieces.items():
        all_ = special + [f"<0x{b:02X}>" for b in range(256)] + rest
        assert len(all_) == N_VOCAB
        bos = "<s>" if kind == "spm" else "<bos>"
        replace = dict(type="Replace", pattern=dict(String=" "), content="\u2581")
        back = [dict(type="Replace", pattern=dict(String="\u2581"), content=" "),
                dict(type="ByteFallback"), dict(type="Fuse")]
        if kind == "spm":
            replace = dict(type="Sequence", normalizers=[
                dict(type="Prepend", prepend="\u2581"), replace])
            back.append(dict(type="Strip", content=" ", start=1, stop=0))
        yield kind, dict(
            **base, added_tokens=added(list(enumerate(special))), normalizer=replace,
            pre_tokenizer=None,
            post_processor=dict(
                type="TemplateProcessing",
                single=[dict(SpecialToken=dict(id=bos, type_id=0)), dict(Sequence=dict(id="A", type_id=0))],
                pair=[dict(Sequence=dict(id="A", type_id=0)), dict(Sequence=dict(id="B", type_id=1))],
                special_tokens={bos: dict(id=bos, ids=[special.index(bos)], tokens=[bos])}),
            decoder=dict(type="Sequence", decoders=back),
            model={**model, "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
                   "vocab": {t: i for i, t in enumerate(all_)}, "merges": [["t", "h"]]}), dict(
            tokenizer_class="LlamaTokenizer" if kind == "spm" else "GemmaTokenizer",
            bos_token=bos, eos_token="</s>" if kind == "spm" else "<eos>", unk_token="<unk>",
            add_bos_token=True, add_eos_token=False)


def write_bin(folder: Path, variant: str, values, dtype):
    """The checkpoint as torch.save writes it: GPT-2 in one file with a tied alias and the mask
    buffers of old versions, Llama untied in two shards."""
    state = {n: v.to(dtype) for n, v in values.items()}
    if variant == "gpt2-bin":
        state["lm_head.weight"] = state["transformer.wte.weight"]
        n_ctx = 16
        mask = torch.tril(torch.ones(n_ctx, n_ctx, dtype=torch.uint8)).view(1, 1, n_ctx, n_ctx)
        state["transformer.h.0.attn.bias"] = mask
        state["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
        torch.save(state, folder / "pytorch_model.bin")
        return
    names = list(state)
    shards = [names[: len(names) // 2], names[len(names) // 2 :]]
    where = {}
    for i, part in enumerate(shards):
        file = f"pytorch_model-{i + 1:05}-of-{len(shards):05}.bin"
        # Views of one storage are saved with all of it: a copy keeps each file to its own tensors.
        torch.save({n: state[n].clone() for n in part}, folder / file)
        where |= {n: file for n in part}
    size = sum(t.numel() * t.element_size() for t in state.values())
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps(dict(metadata=dict(total_size=size), weight_map=where), indent=1) + "\n")


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--check", action="store_true")
    args.add_argument("--only", default="")
    args.add_argument("--keep", type=Path)
    args = args.parse_args()
    only = set(args.only.split(",")) if args.only else set(VARIANTS) | set(BINS)
    unknown = only - set(VARIANTS) - set(BINS)
    if unknown:
        sys.exit(f"no such variant: {', '.join(sorted(unknown))}")
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    stale = []

    def put(path: Path, text: str, same=lambda a, b: a == b):
        if not args.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif not path.exists() or not same(path.read_text(), text):
            stale.append(str(path.relative_to(HERE)))

    for kind, tokenizer, settings in tokenizers():
        folder = HERE / "tokenizers" / kind
        put(folder / "tokenizer.json", json.dumps(tokenizer, ensure_ascii=True) + "\n")
        put(folder / "tokenizer_config.json", json.dumps(settings, indent=1) + "\n")
    variants = {n: (c, t, torch.float32) for n, (c, t) in VARIANTS.items()} | BINS
    for variant, (config, tokenizer, dtype) in variants.items():
        if variant not in only:
            continue
        folder = HERE / variant
        model, config_json, manifest, values = build(variant, config, dtype)
        manifest = dict(tokenizer=tokenizer, **manifest)
        put(folder / "config.json", json.dumps(config_json, indent=1) + "\n")
        put(folder / "manifest.json", lines(manifest))
        if variant in BINS:
            if not args.check:
                write_bin(folder, variant, values, dtype)
        else:
            put(folder / "golden.json", lines(golden(variant, model)), same_golden)
        if args.keep:
            out = args.keep / variant
            model.to(dtype).save_pretrained(out)
            for f in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(HERE / "tokenizers" / tokenizer / f, out)
    if stale:
        sys.exit("these differ from what this torch and transformers make:\n  " + "\n  ".join(stale))


def same_golden(a: str, b: str) -> bool:
    """Whether two goldens agree but for rounding of another build of torch."""
    a, b = (json.loads(x)["sequences"] for x in (a, b))
    for x, y in zip(a, b, strict=True):
        if x["ids"] != y["ids"] or x["top1"] != y["top1"]:
            return False
        for p, q in zip(x["logits"], y["logits"], strict=True):
            p, q = (np.frombuffer(base64.b64decode(r["f32"]), "<f4") for r in (p, q))
            if np.abs(p - q).max() > 1e-4:
                return False
    return True


if __name__ == "__main__":
    main()
