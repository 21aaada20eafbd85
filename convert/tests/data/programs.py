"""Tiny models as other programs save them, each in a folder whose `hf` is Hugging Face's form of the
same weights. That both are the same model is checked here: their logits agree.

nanoGPT: model.py and train.py of github.com/karpathy/nanoGPT. Meta: models/llama3/model.py of
github.com/meta-llama/llama-models (ModelArgs, Attention, FeedForward) and, for two ranks, how
fairscale's ColumnParallelLinear, RowParallelLinear and ParallelEmbedding cut. llama2.c: train.py of
github.com/karpathy/llama2.c. Lightning: dump_checkpoint in trainer/connectors/checkpoint_connector.py.
"""

import json
import math
import shutil
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

N_VOCAB = 20
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def random(model: nn.Module, seed: int) -> nn.Module:
    """Values that float16 and bfloat16 hold exactly, so that a model's dtype changes nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-32, 33, parameter.shape, generator=generator) / 64)
    return model


def same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert torch.allclose(ours, theirs, atol=1e-4), (ours - theirs).abs().max()


def gpt2(**options) -> GPT2LMHeadModel:
    config = GPT2Config(n_positions=8, n_embd=8, n_layer=1, n_head=2, vocab_size=N_VOCAB,
                        bos_token_id=0, eos_token_id=0, **options)
    return random(GPT2LMHeadModel(config), 1).eval()


def llama(n_layers: int = 1, **options) -> LlamaForCausalLM:
    config = LlamaConfig(hidden_size=16, num_hidden_layers=n_layers, num_attention_heads=4,
                         num_key_value_heads=2, vocab_size=N_VOCAB, tie_word_embeddings=False,
                         bos_token_id=1, eos_token_id=2, **options)
    return random(LlamaForCausalLM(config), 2).eval()


# Hugging Face's models in torch.save's containers.

def containers(here: Path) -> None:
    folder = fresh(here / "gpt2")
    model = gpt2()
    # Masks that transformers saved before 4.28.
    masks = {"transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool).tril()}
    model.half().save_pretrained(folder / "hf")
    weights = {**model.state_dict(), **masks}
    torch.save(weights, folder / "legacy.bin", _use_new_zipfile_serialization=False)
    torch.save({
        "epoch": 1,
        "global_step": 10,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"model.{name}": value for name, value in weights.items()},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": []}],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 1e-3, "sizes": [1, 2]},
    }, folder / "lightning.ckpt")

    folder = fresh(here / "llama")
    model = llama(intermediate_size=24, max_position_embeddings=32).to(torch.bfloat16)
    model.save_pretrained(folder / "hf")
    weights = model.state_dict()
    torch.save(weights, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    # Two shards with an index, one in each container.
    index = {}
    for shard in range(2):
        part = dict(list(weights.items())[shard::2])
        name = f"pytorch_model-{shard + 1:05}-of-00002.bin"
        torch.save(part, folder / name, _use_new_zipfile_serialization=shard == 0)
        index |= dict.fromkeys(part, name)
    text = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "pytorch_model.bin.index.json").write_text(text)
    for other in [here / "gpt2", here / "llama"]:
        shutil.copy(other / "hf" / "config.json", other)


# nanoGPT.

class LayerNorm(nn.Module):
    def __init__(self, n: int, bias: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))
        self.bias = nn.Parameter(torch.zeros(n)) if bias else None

    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class SelfAttention(nn.Module):
    def __init__(self, n_embd, n_head, bias):
        super().__init__()
        self.n_head = n_head
        self.c_attn = nn.Linear(n_embd, 3 * n_embd, bias=bias)
        self.c_proj = nn.Linear(n_embd, n_embd, bias=bias)

    def forward(self, x):
        heads = [part.view(*x.shape[:2], self.n_head, -1).transpose(1, 2)
                 for part in self.c_attn(x).split(x.shape[2], dim=2)]
        y = F.scaled_dot_product_attention(*heads, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(x.shape))


class Mlp(nn.Module):
    def __init__(self, n_embd, bias):
        super().__init__()
        self.c_fc = nn.Linear(n_embd, 4 * n_embd, bias=bias)
        self.c_proj = nn.Linear(4 * n_embd, n_embd, bias=bias)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, n_embd, n_head, bias):
        super().__init__()
        self.ln_1 = LayerNorm(n_embd, bias)
        self.attn = SelfAttention(n_embd, n_head, bias)
        self.ln_2 = LayerNorm(n_embd, bias)
        self.mlp = Mlp(n_embd, bias)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class NanoGpt(nn.Module):
    def __init__(self, n_layer, n_head, n_embd, block_size, bias, vocab_size, dropout):
        super().__init__()
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(vocab_size, n_embd),
            "wpe": nn.Embedding(block_size, n_embd),
            "h": nn.ModuleList([Block(n_embd, n_head, bias) for _ in range(n_layer)]),
            "ln_f": LayerNorm(n_embd, bias),
        })
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def forward(self, ids):
        x = self.transformer.wte(ids) + self.transformer.wpe(torch.arange(ids.shape[1]))
        for block in self.transformer.h:
            x = block(x)
        return self.lm_head(self.transformer.ln_f(x))


def nanogpt(folder: Path, bias: bool, compiled: bool) -> None:
    args = dict(n_layer=1, n_head=2, n_embd=4, block_size=8, bias=bias, vocab_size=N_VOCAB,
                dropout=0.0)
    model = random(NanoGpt(**args), 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95))
    loss = F.cross_entropy(model(IDS)[0, :-1], IDS[0, 1:])
    loss.backward()
    optimizer.step()
    # torch.compile compiles when it is called; its names are others at once.
    saved = torch.compile(model) if compiled else model
    torch.save({
        "model": saved.state_dict(),
        "optimizer": optimizer.state_dict(),
        "model_args": args,
        "iter_num": 1,
        "best_val_loss": loss.detach(),
        "config": {"out_dir": "out", "eval_interval": 2000, "learning_rate": 6e-4, "compile": True,
                   "init_from": "scratch", "dtype": "bfloat16"},
    }, fresh(folder) / "ckpt.pt")

    config = GPT2Config(n_positions=8, n_embd=4, n_layer=1, n_head=2, vocab_size=N_VOCAB,
                        activation_function="gelu", bos_token_id=None, eos_token_id=None)
    theirs = GPT2LMHeadModel(config).eval()
    weights = theirs.state_dict()
    ours = model.state_dict()
    for name in weights:
        if name not in ours:
            assert name.endswith(".bias") and not bias, name
            ours[name] = torch.zeros_like(weights[name])
        elif name.split(".")[-2] in ("c_attn", "c_proj", "c_fc") and name.endswith(".weight"):
            ours[name] = ours[name].t().contiguous()
    theirs.load_state_dict(ours)
    logits = model(IDS)
    same(logits, theirs(IDS).logits)
    theirs.save_pretrained(folder / "hf")
    if not bias:  # of the last position
        (folder / "logits.json").write_text(json.dumps(logits[0, -1].tolist()))


# Meta's Llama.

def meta_logits(weights: dict, params: dict, scale) -> torch.Tensor:
    """Transformer.forward of model.py over one sequence."""
    dim, n_heads, n_kv = params["dim"], params["n_heads"], params["n_kv_heads"]
    head, length = dim // n_heads, IDS.shape[1]
    theta = params.get("rope_theta", 10000.0)
    freqs = scale(1.0 / (theta ** (torch.arange(0, head, 2).float() / head)))
    turns = torch.polar(torch.ones(length, head // 2), torch.outer(torch.arange(length), freqs))

    def norm(x, weight):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + params["norm_eps"]) * weight

    def rope(x):  # [length, heads, head]: adjacent pairs are complex numbers
        pairs = torch.view_as_complex(x.reshape(length, -1, head // 2, 2))
        return torch.view_as_real(pairs * turns[:, None, :]).flatten(2)

    x = weights["tok_embeddings.weight"][IDS[0]]
    for i in range(params["n_layers"]):
        w = lambda name: weights[f"layers.{i}.{name}.weight"]
        n = norm(x, w("attention_norm"))
        q, k, v = (n @ w(f"attention.{m}").t() for m in ["wq", "wk", "wv"])
        q, k = rope(q.view(length, n_heads, head)), rope(k.view(length, n_kv, head))
        k, v = (t.view(length, n_kv, head).repeat_interleave(n_heads // n_kv, 1) for t in [k, v])
        q, k, v = (t.transpose(0, 1) for t in [q, k, v])
        scores = q @ k.transpose(1, 2) / math.sqrt(head)
        scores = scores + torch.full((length, length), float("-inf")).triu(1)
        mixed = (scores.softmax(-1) @ v).transpose(0, 1).reshape(length, dim)
        x = x + mixed @ w("attention.wo").t()
        n = norm(x, w("ffn_norm"))
        gate = F.silu(n @ w("feed_forward.w1").t()) * (n @ w("feed_forward.w3").t())
        x = x + gate @ w("feed_forward.w2").t()
    return norm(x, weights["norm.weight"]) @ weights["output.weight"].t()


def llama3_scale(freqs: torch.Tensor) -> torch.Tensor:
    """apply_scaling of model.py."""
    wavelen = 2 * math.pi / freqs
    smooth = (8192 / wavelen - 1) / 3
    between = (1 - smooth) * freqs / 8 + smooth * freqs
    return torch.where(wavelen > 8192, freqs / 8, torch.where(wavelen < 2048, freqs, between))


META_NAMES = {
    "self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv", "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3", "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm", "model.embed_tokens": "tok_embeddings",
    "model.norm": "norm", "lm_head": "output", "model.layers": "layers",
}


def meta_weights(model: LlamaForCausalLM) -> dict:
    """A model of Hugging Face's in Meta's names and order of rows."""
    weights = {}
    for name, value in model.state_dict().items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # halves become pairs
            head = model.config.head_dim
            value = value.view(-1, 2, head // 2, value.shape[1]).transpose(1, 2)
            value = value.reshape(-1, model.config.hidden_size)
        for theirs, ours in META_NAMES.items():
            name = name.replace(theirs, ours)
        weights[name] = value.clone()
    return weights


def cut(weights: dict, rank: int, of: int, embedding_dim: int) -> dict:
    """What rank `rank` of `of` has."""
    dims = {"wq": 0, "wk": 0, "wv": 0, "w1": 0, "w3": 0, "output": 0, "wo": 1, "w2": 1,
            "tok_embeddings": embedding_dim}
    part = {}
    for name, value in weights.items():
        dim = dims.get(name.split(".")[-2])
        part[name] = value if dim is None else value.chunk(of, dim)[rank].clone()
    return part


def meta(folder: Path, params: dict, dtype, ranks: int, scale=lambda f: f, **options) -> None:
    model = llama(params["n_layers"], rms_norm_eps=params["norm_eps"], **options)
    weights = meta_weights(model)
    same(meta_logits(weights, params, scale), model(IDS).logits[0])
    model.to(dtype).save_pretrained(fresh(folder) / "hf")
    weights = {name: value.to(dtype) for name, value in weights.items()}
    if ranks > 1:
        llama2c(weights, params, folder / "ckpt.pt")
    weights["rope.freqs"] = torch.ones(2, dtype=dtype)
    for rank in range(ranks):
        part = cut(weights, rank, ranks, embedding_dim=0 if "rope_theta" in params else 1)
        torch.save(part, folder / f"consolidated.{rank:02}.pth")
    (folder / "params.json").write_text(json.dumps(params))


def llama2c(weights: dict, params: dict, path: Path) -> None:
    """What llama2.c's train.py saves: Meta's names, the arguments beside the weights."""
    torch.save({
        "model": {f"_orig_mod.{name}": value for name, value in weights.items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 5e-4, "params": [0, 1]}]},
        "model_args": dict(dim=params["dim"], n_layers=params["n_layers"],
                           n_heads=params["n_heads"], n_kv_heads=params["n_kv_heads"],
                           vocab_size=N_VOCAB, multiple_of=params["multiple_of"],
                           max_seq_len=4096, dropout=0.0),
        "iter_num": 1,
        "best_val_loss": torch.tensor(1.5),
        "config": {"out_dir": "out", "vocab_source": "llama2"},
    }, path)


def save_all(here: Path) -> None:
    containers(here)
    nanogpt(here / "nanogpt", bias=False, compiled=True)
    nanogpt(here / "nanogpt-bias", bias=True, compiled=False)
    # Llama 3.1's parameters; Llama 2's, whose 70B is cut by ranks.
    meta(here / "meta", dict(dim=16, ffn_dim_multiplier=0.5, multiple_of=8, n_heads=4, n_kv_heads=2,
                             n_layers=2, norm_eps=1e-5, rope_theta=500000.0, use_scaled_rope=True,
                             vocab_size=N_VOCAB),
         torch.bfloat16, 1, llama3_scale, intermediate_size=24, max_position_embeddings=131072,
         rope_parameters=dict(rope_type="llama3", rope_theta=500000.0, factor=8.0,
                              low_freq_factor=1.0, high_freq_factor=4.0,
                              original_max_position_embeddings=8192))
    meta(here / "meta-ranks", dict(dim=16, multiple_of=8, n_heads=4, n_kv_heads=2, n_layers=1,
                                   norm_eps=1e-5, vocab_size=-1),
         torch.float16, 2, intermediate_size=48, max_position_embeddings=4096)
    for generated in here.glob("*/hf/generation_config.json"):
        generated.unlink()
