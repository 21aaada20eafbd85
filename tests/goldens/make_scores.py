#!/usr/bin/env python3
"""Makes scores.json: how probable PyTorch finds given tokens behind given contexts.

    pip install torch==2.13.0 transformers==5.23.0 safetensors numpy
    python tests/goldens/make_scores.py            # writes tests/goldens/scores.json
    python tests/goldens/make_scores.py --check    # writes nothing; says whether it agrees

Models: the demo checkpoint (models/demo, in f32) and variants of make.py, whose weights
support/checkpoint.rs repeats. A row is a sequence of token ids of which those from `from` on are
scored, each by all before it:

    log_probs  f64 log_softmax of f32 logits, rounded to 1e-7
    sum        their sum, before rounding
    greedy     whether each scored token has the largest logit (no row has a near tie: see `margin`)
    text       for the demo checkpoint: [context, continuation], encoded as one text and cut where
               the context's own tokens end
"""

import argparse
import json
import sys
from pathlib import Path

import torch
import transformers

import make

HERE = Path(__file__).resolve().parent
DEMO = HERE.parents[1] / "models" / "demo"
# Multi-head attention with learned positions; grouped heads with rope; soft caps and a window;
# ALiBi where the number of heads is no power of two.
VARIANTS = ["gpt2", "llama", "gemma2", "bloom-6-heads"]

TEXTS = [
    ("Emma", " Woodhouse"),
    ("Emma Woodhouse, handsome,", " clever, and rich, with a comfortable home and happy disposition"),
    ("It is a truth universally acknowledged, that a single man in possession of a good", " fortune"),
    ("It is a truth universally acknowledged, that a single man in possession of a good", " dog"),
    ("It is a truth universally acknowledged, that a single man in possession of a good", " wife"),
    ("It is a truth universally acknowledged, that a single man in possession of a good",
     " fortune, must be in want of a wife."),
    ("Mr. Darcy", " caf\u00e9 \u2014 na\u00efve \u65e5\u672c\u8a9e \U0001f600"),
    ("\"I am sure,\" said", " she, \"that"),
    ("1815\n\n", "CHAPTER I"),
]


def rows_of_texts(tokenizer):
    """A row of each text, the long one of the held-out text last."""
    heldout = (DEMO / "heldout.txt").read_text(encoding="utf-8")
    for context, continuation in [*TEXTS, (heldout[:400], heldout[400:1200])]:
        whole = tokenizer.encode(context + continuation)
        cut = len(tokenizer.encode(context))
        yield dict(text=[context, continuation], ids=whole, **{"from": cut})


def rows_of_ids(variant):
    """Rows of the sequences of make.py: one token and many, with little and much before them, and
    five continuations of one context."""
    short, long = make.sequences(variant)
    for ids, first in [(short, 1), (short, 23), (long, 1), (long, 20), (long, 39)]:
        yield {"ids": ids, "from": first}
    for n in range(1, 6):
        yield {"ids": long[:12] + short[n:2 * n], "from": 12}


def greedy(model, ids, n):
    """A row that greedy decoding makes."""
    out = list(ids)
    for _ in range(n):
        out.append(int(model(torch.tensor([out]), use_cache=False).logits[0, -1].argmax()))
    return {"ids": out, "from": len(ids)}


def score(model, row):
    """The row with what the model says of it."""
    ids, first = row["ids"], row["from"]
    logits = model(torch.tensor([ids[:-1]]), use_cache=False).logits[0]
    assert logits.dtype == torch.float32
    logits = logits[first - 1:]
    wanted = torch.tensor(ids[first:])
    log_probs = torch.log_softmax(logits.double(), dim=-1).gather(1, wanted[:, None])[:, 0]
    best = logits.topk(2, dim=-1)
    is_best = best.indices[:, 0] == wanted
    # A tie in rounding could change `greedy` only where all the others are the likeliest.
    margin = float((best.values[:, 0] - best.values[:, 1]).min())
    assert margin > 1e-3 or int((~is_best).sum()) > 1, f"a near tie: {margin}"
    return {
        **row, "sum": round(float(log_probs.sum()), 7), "greedy": bool(is_best.all()),
        "log_probs": [round(float(x), 7) for x in log_probs],
    }


def models():
    """Name, model and rows of each."""
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(DEMO / "tokenizer.json"))
    demo = transformers.AutoModelForCausalLM.from_pretrained(
        DEMO, dtype=torch.float32, attn_implementation="eager").eval()
    rows = list(rows_of_texts(tokenizer))
    yield "demo", demo, [*rows, greedy(demo, rows[1]["ids"], 8)]
    for variant in VARIANTS:
        model = make.build(variant, make.VARIANTS[variant][0])[0]
        rows = list(rows_of_ids(variant))
        yield variant, model, [*rows, greedy(model, rows[0]["ids"], 8)]


def same(a, b) -> bool:
    """Whether two files agree but for rounding of another build of torch."""
    if a.keys() != b.keys():
        return False
    for name in a:
        for x, y in zip(a[name], b[name], strict=True):
            if {**x, "sum": 0, "log_probs": 0} != {**y, "sum": 0, "log_probs": 0}:
                return False
            if any(abs(p - q) > 1e-4 for p, q in zip(x["log_probs"], y["log_probs"], strict=True)):
                return False
    return True


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--check", action="store_true")
    args = args.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    scored = {}
    for name, model, rows in models():
        scored[name] = [score(model, row) for row in rows]
        sums = [row["sum"] for row in scored[name]]
        print(f"{name:16} {len(rows)} rows, sums {min(sums):.2f} .. {max(sums):.2f}, "
              f"{sum(row['greedy'] for row in scored[name])} greedy")
    path = HERE / "scores.json"
    if args.check:
        old = json.loads(path.read_text())
        old.pop("made_by")
        sys.exit(None if same(old, scored) else f"{path.name} differs from what this torch makes")
    made_by = (f"tests/goldens/make_scores.py, torch {torch.__version__}, transformers "
               f"{transformers.__version__}, f32, log_softmax in f64")
    path.write_text(make.lines({"made_by": made_by, **scored}))


if __name__ == "__main__":
    main()
