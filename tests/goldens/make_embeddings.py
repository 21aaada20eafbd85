#!/usr/bin/env python3
"""Makes embeddings.json: PyTorch's final hidden states of token sequences, pooled.

    pip install torch==2.13.0 transformers==5.23.0 safetensors numpy
    python tests/goldens/make_embeddings.py            # writes tests/goldens/embeddings.json
    python tests/goldens/make_embeddings.py --check    # writes nothing; says whether it agrees

Models are variants of make.py, whose weights support/checkpoint.rs repeats; sequences are make.py's.

    ids   token ids
    mean  the mean of `last_hidden_state` over all tokens, f32, rounded to 1e-6
    last  `last_hidden_state` of the last token
"""

import argparse
import json
import sys
from pathlib import Path

import torch
import transformers

import make

HERE = Path(__file__).resolve().parent
# A layer norm and an RMS norm behind the last block, learned positions and rope; a soft cap of
# logits, which must not touch the states.
VARIANTS = ["gpt2", "llama", "opt", "gemma2"]


def rounded(states):
    return [round(float(x), 6) for x in states]


def rows(model, variant):
    for ids in make.sequences(variant):
        for n in (1, len(ids)):
            states = model.base_model(torch.tensor([ids[:n]]), use_cache=False).last_hidden_state[0]
            assert states.dtype == torch.float32
            yield {"ids": ids[:n], "mean": rounded(states.mean(dim=0)), "last": rounded(states[-1])}


def same(a, b) -> bool:
    if a.keys() != b.keys():
        return False
    pairs = [(x, y) for name in a for x, y in zip(a[name], b[name], strict=True)]
    close = lambda p, q: all(abs(x - y) < 1e-5 for x, y in zip(p, q, strict=True))
    return all(x["ids"] == y["ids"] and close(x["mean"], y["mean"]) and close(x["last"], y["last"])
               for x, y in pairs)


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--check", action="store_true")
    args = args.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    made = {}
    for variant in VARIANTS:
        model = make.build(variant, make.VARIANTS[variant][0])[0]
        made[variant] = list(rows(model, variant))
    path = HERE / "embeddings.json"
    if args.check:
        old = json.loads(path.read_text())
        old.pop("made_by")
        sys.exit(None if same(old, made) else f"{path.name} differs from what this torch makes")
    made_by = (f"tests/goldens/make_embeddings.py, torch {torch.__version__}, transformers "
               f"{transformers.__version__}, f32")
    path.write_text(make.lines({"made_by": made_by, **made}))


if __name__ == "__main__":
    main()
