"""MPT as llm-foundry computes it (github.com/mosaicml/llm-foundry, llmfoundry/models/layers/attention.py
and models/mpt/modeling_mpt.py, with attn_impl torch): what transformers' MPT leaves out, on top of it.

These are grouped key/value heads, norms of q and k, another bound of ALiBi's slopes, a table of
positions instead of ALiBi, and biases.
"""

import math

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, MptConfig, MptForCausalLM


class FoundryConfig(MptConfig):
    model_type = "mpt_foundry"


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        given, bias = config.attn_config, not config.no_bias
        self.n_heads = config.n_heads
        self.kv_n_heads = getattr(given, "kv_n_heads", None) or config.n_heads
        self.head_dim = config.d_model // config.n_heads
        self.clip_qkv = given.clip_qkv
        self.scale = given.softmax_scale or 1 / math.sqrt(self.head_dim)
        n_kv = self.kv_n_heads * self.head_dim
        self.sizes = [config.d_model, n_kv, n_kv]
        self.Wqkv = nn.Linear(config.d_model, sum(self.sizes), bias=bias)
        self.out_proj = nn.Linear(config.d_model, config.d_model, bias=bias)
        self.qk_ln = given.qk_ln
        if self.qk_ln:
            self.q_ln = nn.LayerNorm(config.d_model, bias=bias)
            self.k_ln = nn.LayerNorm(n_kv, bias=bias)

    def forward(self, x, position_bias, **_):
        n = x.shape[1]
        qkv = self.Wqkv(x)
        if self.clip_qkv:
            qkv = qkv.clamp(min=-self.clip_qkv, max=self.clip_qkv)
        q, k, v = qkv.split(self.sizes, dim=2)
        if self.qk_ln:
            q, k = self.q_ln(q), self.k_ln(k)
        q, k, v = (t.reshape(1, n, -1, self.head_dim).transpose(1, 2) for t in (q, k, v))
        k, v = (t.repeat_interleave(self.n_heads // self.kv_n_heads, dim=1) for t in (k, v))
        scores = q @ k.transpose(2, 3) * self.scale + position_bias[:, :, -n:]
        future = torch.ones(n, n, dtype=torch.bool).triu(1)
        mix = scores.masked_fill(future, -math.inf).softmax(-1) @ v
        return self.out_proj(mix.transpose(1, 2).reshape(1, n, -1)), None


class MPTForCausalLM(MptForCausalLM):
    config_class = FoundryConfig

    def __init__(self, config):
        super().__init__(config)
        bias = not config.no_bias
        norms = [self.transformer.norm_f]
        for block in self.transformer.blocks:
            block.attn = Attention(config)
            block.ffn.up_proj = nn.Linear(config.d_model, 4 * config.d_model, bias=bias)
            block.ffn.down_proj = nn.Linear(4 * config.d_model, config.d_model, bias=bias)
            norms += [block.norm_1, block.norm_2]
        for norm in norms:
            norm.bias = nn.Parameter(torch.zeros(config.d_model)) if bias else None
        if not config.attn_config.alibi:
            self.transformer.wpe = nn.Embedding(config.max_seq_len, config.d_model)
        build = self.transformer.build_mpt_alibi_tensor
        bound = config.attn_config.alibi_bias_max if config.attn_config.alibi else None

        def alibi(heads, length, device=None):
            if bound is None:
                return torch.zeros(heads, 1, length)
            return build(heads, length, alibi_bias_max=bound)

        self.transformer.build_mpt_alibi_tensor = alibi
        self.post_init()

    def forward(self, input_ids, **kwargs):
        x = self.transformer.wte(input_ids)
        if not self.config.attn_config.alibi:
            x = x + self.transformer.wpe(torch.arange(input_ids.shape[1]))
        return super().forward(inputs_embeds=x, **kwargs)


AutoConfig.register("mpt_foundry", FoundryConfig)
AutoModelForCausalLM.register(FoundryConfig, MPTForCausalLM)
