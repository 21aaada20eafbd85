#!/usr/bin/env python3
"""Makes the goldens of classification heads: what PyTorch says about the checkpoints of make.py with
a head in the place of the language model's.

    pip install torch transformers safetensors numpy
    python tests/goldens/make_heads.py            # every head
    python tests/goldens/make_heads.py --check    # makes nothing; says whether the committed files agree
    python tests/goldens/make_heads.py --only heads/gpt2-sequence

The blocks' tensors are those of the variant that a head stands on, value for value. Each folder holds
    config.json    as transformers wrote it
    manifest.json  that variant (`base`), and the tensors that it has not
    golden.json    token ids, some of them of a text; after each token that HF's code pools, or each
                   token where tokens are labelled: the head's logits, what its pipeline makes of them,
                   and the label that this picks
"""

import argparse
import base64
import copy
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

import make

HERE = make.HERE
TEXT = "She was very much the thing, then."


def names(*labels, **more):
    """Configuration keys of these labels."""
    return dict(id2label=dict(enumerate(labels)), label2id={l: i for i, l in enumerate(labels)}, **more)


MOODS = names("negative", "neutral", "positive")
TWELVE = names(*(f"kind {i}" for i in range(12)))
TAGS = names("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
MULTI = names("rude", "late", "wrong", "fine", problem_type="multi_label_classification")
SCALES = names("joy", "fear", "anger", problem_type="regression")
ONE = dict(num_labels=1)
TWO = {}  # transformers' own two labels, which it does not write

# head -> the variant of make.py that it stands on, keys of the configuration
HEADS = {
    # Ends of texts are padding here, as for most fine-tunes of GPT-2.
    "gpt2-sequence": ("gpt2", dict(MOODS, pad_token_id=256)),
    "gptneo-sequence": ("gptneo", SCALES),
    "gptj-sequence": ("gptj", TWO),
    "gptneox-sequence": ("gptneox", dict(MULTI, pad_token_id=258)),
    "opt-sequence": ("opt", TWELVE),
    "opt-post-norm-sequence": ("opt-post-norm", MOODS),
    "bloom-sequence": ("bloom", MOODS),
    "llama-sequence": ("llama", MULTI),
    "mistral-sequence": ("mistral-window", dict(MOODS, problem_type="single_label_classification")),
    "qwen2-sequence": ("qwen2", dict(ONE, pad_token_id=256)),
    "qwen3-sequence": ("qwen3", TWELVE),
    "gemma-sequence": ("gemma", MOODS),
    "gemma2-sequence": ("gemma2", MOODS),
    "gemma3-sequence": ("gemma3", MOODS),
    "gpt2-token": ("gpt2", TAGS),
    "gptneo-token": ("gptneo", TAGS),
    "gptneox-token": ("gptneox", TAGS),
    "bloom-token": ("bloom", TAGS),
    "llama-token": ("llama", TWELVE),
    "mistral-token": ("mistral-window", TAGS),
    "qwen2-token": ("qwen2", TAGS),
    "qwen3-token": ("qwen3", TAGS),
    "gemma-token": ("gemma", TAGS),
    "gemma2-token": ("gemma2", TAGS),
}
KINDS = {
    "sequence": transformers.AutoModelForSequenceClassification,
    "token": transformers.AutoModelForTokenClassification,
}


def heads():
    """HEADS, and plain ones on the first variant of each other kind of model that has the classes."""
    yield from HEADS.items()
    seen = {make.VARIANTS[base][0].model_type for base, _ in HEADS.values()}
    for base, (config, *_) in make.VARIANTS.items():
        if config.model_type not in seen:
            seen.add(config.model_type)
            for kind, keys in (("sequence", MOODS), ("token", TAGS)):
                if type(config) in KINDS[kind]._model_mapping:
                    yield f"{base}-{kind}", (base, keys)


def build(base: str, keys, kind: str):
    """The model with its weights, its configuration, and the manifest of what the base has not."""
    config, tokenizer = make.VARIANTS[base]
    config = type(config)(**{**copy.deepcopy(config.to_dict()), "architectures": None, **keys})
    auto = KINDS[kind]
    model = auto.from_config(config, attn_implementation="eager", dtype=torch.float32)
    known = {n: shape for n, shape, *_ in json.loads((HERE / base / "manifest.json").read_text())["tensors"]}
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        model.save_pretrained(tmp)
        own, values = [], {}
        for name, shape in make.saved_tensors(tmp):
            offset, scale = make.rule(name, shape, config.model_type)
            values[name] = make.weights(name, shape, offset, scale)
            if name in known:
                assert known.pop(name) == shape, name
            else:
                own.append([name, shape, offset, scale])
        assert all("lm_head" in name or "embed_out" in name for name in known), known
        save_file({n: torch.from_numpy(v) for n, v in values.items()}, tmp / "model.safetensors",
                  metadata={"format": "pt"})
        model, info = auto.from_pretrained(
            tmp, attn_implementation="eager", dtype=torch.float32, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"], info
        model.save_pretrained(tmp / "again")
        config_json = json.loads((tmp / "again" / "config.json").read_text())
    order = [t[0] for t in own]
    manifest = dict(
        tokenizer=tokenizer, backbone=base, dtype="F32",
        checksum=make.checksum([values[name] for name in order]), tensors=own)
    return model.eval(), config_json, manifest


def sequences(head: str, model, tokenizer):
    """Token ids: those of a text, 24 at random, and the same with padding behind them."""
    ids = make.sequences(head)[0]
    pad = model.config.pad_token_id
    yield TEXT, tokenizer(TEXT)["input_ids"]
    yield None, ids
    if pad is not None:
        yield None, [*ids[:9], pad, *ids[9:14], pad, pad]


def meaning(model, logits):
    """What the pipelines of transformers make of logits (TextClassificationPipeline.postprocess, with
    the loss's rule for a single label: a regression)."""
    problem = model.config.problem_type
    if problem == "regression" or (problem is None and model.config.num_labels == 1):
        return logits
    if problem == "multi_label_classification":
        return torch.sigmoid(logits)
    return torch.softmax(logits, -1)


def floats(x):
    return base64.b64encode(np.ascontiguousarray(x.numpy()).astype("<f4").tobytes()).decode()


def golden(head: str, model, tokenizer):
    rows, worst, margins = [], 0.0, []
    for text, ids in sequences(head, model, tokenizer):
        exact = model.double()(torch.tensor([ids]), use_cache=False).logits[0]
        model.float()
        logits = model(torch.tensor([ids]), use_cache=False).logits[0]
        worst = max(worst, float((logits - exact).abs().max()))
        logits = logits.reshape(-1, model.config.num_labels)
        values = meaning(model, logits)
        if logits.shape[1] > 1:
            top = logits.sort(-1).values
            margins.append(float((top[:, -1] - top[:, -2]).min()))
        rows.append(dict(
            text=text, ids=ids, logits=floats(logits), values=floats(values),
            labels=[model.config.id2label[int(i)] for i in logits.argmax(-1)]))
    print(f"{head:24} |f32 - f64| {worst:.1e}  least margin {min(margins, default=0):.4f}  "
          f"{[len(set(r['labels'])) for r in rows]}")
    return dict(
        made_by=f"tests/goldens/make_heads.py, torch {torch.__version__}, transformers "
                f"{transformers.__version__}, f32, eager attention",
        max_diff_to_f64=float(f"{worst:.1e}"), sequences=rows)


def same_golden(a: str, b: str) -> bool:
    """Whether two goldens agree but for rounding of another build of torch."""
    a, b = (json.loads(x)["sequences"] for x in (a, b))
    for x, y in zip(a, b, strict=True):
        if any(x[key] != y[key] for key in ("text", "ids", "labels")):
            return False
        p, q = (np.frombuffer(base64.b64decode(r["logits"]), "<f4") for r in (x, y))
        if np.abs(p - q).max() > 1e-4:
            return False
    return True


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--check", action="store_true")
    args.add_argument("--only", default="")
    args = args.parse_args()
    only = set(args.only.split(",")) if args.only else {f"heads/{name}" for name, _ in heads()}
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

    for name, (base, keys) in heads():
        if f"heads/{name}" not in only:
            continue
        kind = name.rsplit("-", 1)[1]
        folder = HERE / "heads" / name
        model, config_json, manifest = build(base, keys, kind)
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(HERE / "tokenizers" / manifest["tokenizer"] / "tokenizer.json"))
        put(folder / "config.json", json.dumps(config_json, indent=1) + "\n")
        put(folder / "manifest.json", make.lines(manifest))
        put(folder / "golden.json", make.lines(golden(name, model, tokenizer)), same_golden)
    if stale:
        sys.exit("these differ from what this torch and transformers make:\n  " + "\n  ".join(stale))


if __name__ == "__main__":
    main()
