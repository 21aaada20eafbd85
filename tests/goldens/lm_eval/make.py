#!/usr/bin/env python3
"""Makes results.json: what lm-evaluation-harness says about sample.json.

    pip install lm_eval==0.4.13 torch==2.13.0 transformers==5.23.0 accelerate
    python tests/goldens/lm_eval/make.py            # writes results.json
    python tests/goldens/lm_eval/make.py --check    # writes nothing; says whether it agrees

`sample.json` is written by hand: pairs of context and continuation, whole texts, and questions with
choices. Two models see it, in f32: the demo checkpoint, whose tokenizer adds nothing, and `llama` of
../make.py, whose tokenizer begins every text with a BOS and puts a space in front. Each is run with
its own context and with shorter ones, so that contexts are cut and texts need several windows.

Definitions, as the source of lm_eval 0.4.13 has them (api/model.py, models/huggingface.py, utils.py,
api/task.py), and as this script asserts by doing the same by hand:

- Prefix token: the tokenizer's BOS, else its EOS (HFLM.prefix_token_id; eot_token_id is its EOS).
- Pair with a context (TemplateLM._encode_pair): all white space at the context's end (str.rstrip, not
  only spaces) moves to the front of the continuation. Then `whole` = encode(context + continuation)
  and `c` = encode(context), both with what the tokenizer adds; the tokens are `c` followed by
  whole[len(c):], of which the latter are scored. Where a token spans the seam, the two encodings
  differ before len(c): the model still reads `c`, and what is scored is not the whole continuation.
  What leaves no token to score, or a context of white space alone where the tokenizer adds nothing,
  is an AssertionError there.
- Pair without a context: encode(continuation) with nothing added, behind the prefix token. If it begins
  with the prefix token already, that one is the context and isn't scored.
- A text that begins with the prefix token's text is encoded with nothing added (has_bos_prefix).
- Window: the model reads at most max_length tokens; of context and continuation the last
  max_length + 1 are kept, the last of which is only predicted. A continuation alone may not be longer
  than max_length.
- Log-likelihood: the sum over the continuation's tokens of log_softmax (here in f64, by HFLM's
  softmax_dtype; its default is the logits' type). is_greedy: each of them is the argmax.
- logits_cache (on by default there, off here): requests whose tokens but the last are the same share
  one answer of the model. Where they are cut at different places, lm_eval 0.4.13 then reads the
  shorter continuation's log-probabilities from the longer one's first positions: "Mr. Knight", "ley"
  in company of "Mr.", " Knightley" gets a wrong sum.
- Rolling (loglikelihood_rolling): tokens are encode(text), with what the tokenizer adds, so that a BOS
  that it adds is itself predicted, from the prefix token. get_rolling_token_windows with context_len 1:
  the first window predicts the first max_length tokens behind the prefix token; each later one the
  next max_length (the last: what is left), reading the max_length tokens before its last. Its last
  window thus sees as much as fits: make_disjoint_window only splits it into context and predicted
  tokens. The answer is the sum of all windows. An empty text has none and sums to 0.
- Multiple choice (ConfigurableTask.process_results): pairs of the question and " " + choice
  (target_delimiter); acc is the argmax of the log-likelihoods; acc_norm the argmax of each divided by
  the choice's length in *characters*, acc_bytes by its length in UTF-8 bytes, both of the choice
  without the delimiter. np.argmax: the first of equals. acc_mutual_info subtracts the log-likelihoods of
  the choices without a context ("", delimiter + choice).
- byte_perplexity: exp(-sum / UTF-8 bytes) of the text, bits_per_byte: -sum / bytes / ln 2,
  word_perplexity: words are re.split(r"\\s+", text), which counts an empty word before leading and
  after trailing white space.
"""

import argparse
import json
import logging
import math
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import make as goldens  # noqa: E402

import lm_eval  # noqa: E402
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.api.metrics import bits_per_byte, weighted_perplexity  # noqa: E402
from lm_eval.api.task import ConfigurableTask  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402

DEMO = HERE.parents[2] / "models" / "demo"
DELIMITER = " "


def hflm(model, tokenizer, max_length):
    return HFLM(pretrained=model, tokenizer=tokenizer, max_length=max_length, batch_size=4,
                softmax_dtype="float64", logits_cache=False, backend="causal", device="cpu")


def instances(kind, arguments):
    return [Instance(request_type=kind, doc={}, arguments=a, idx=i) for i, a in enumerate(arguments)]


def by_hand(lm, context_ids, continuation_ids):
    """Sum and is_greedy, from the definitions above."""
    ids = (context_ids + continuation_ids)[-(lm.max_length + 1):]
    logits = lm.model(torch.tensor([ids[:-1]]), use_cache=False).logits[0][-len(continuation_ids):]
    wanted = torch.tensor(continuation_ids)
    log_probs = torch.log_softmax(logits.double(), dim=-1).gather(1, wanted[:, None])
    return float(log_probs.sum()), bool((logits.argmax(dim=-1) == wanted).all())


def encode_pair(lm, context, continuation):
    """Ids of a pair, from the definitions above."""
    encode = lm.tokenizer.encode
    if context:
        kept = context.rstrip()
        continuation = context[len(kept):] + continuation
        c = encode(kept)
        return c, encode(kept + continuation)[len(c):]
    ids = encode(continuation, add_special_tokens=False)
    prefix = lm.prefix_token_id
    return (ids[:1], ids[1:]) if ids[0] == prefix else ([prefix], ids)


def windows(lm, ids):
    """Windows of a text, from the definitions above: what is read before the predicted ids, and those."""
    n = lm.max_length
    for at in range(0, len(ids), n):
        wanted = ids[at:at + n]
        before = [lm.prefix_token_id] if at == 0 else ids[max(0, at + len(wanted) - n - 1):at]
        yield before, wanted


def pairs(lm, sample):
    """Results of the pairs that fit."""
    encoded = [encode_pair(lm, *pair) for pair in sample]
    # What lm_eval can't score: see the definitions.
    fit = [bool(c) and 0 < len(k) <= lm.max_length for c, k in encoded]
    arguments = [tuple(pair) for pair, fit in zip(sample, fit) if fit]
    answers = iter(lm.loglikelihood(instances("loglikelihood", arguments), disable_tqdm=True))
    for (context_ids, continuation_ids), fit in zip(encoded, fit):
        if not fit:
            yield None
            continue
        (total, greedy), wanted = next(answers), by_hand(lm, context_ids, continuation_ids)
        assert abs(total - wanted[0]) < 1e-3 and greedy == wanted[1], (total, greedy, wanted)
        yield dict(context=context_ids, continuation=continuation_ids, sum=round(total, 6),
                   greedy=greedy)


def rolling(lm, texts):
    answers = lm.loglikelihood_rolling(
        instances("loglikelihood_rolling", [(text,) for text in texts]), disable_tqdm=True)
    for text, total in zip(texts, answers):
        ids = lm.tok_encode(text)
        cut = list(windows(lm, ids))
        wanted = sum(by_hand(lm, before, wanted)[0] for before, wanted in cut)
        assert abs(total - wanted) < 1e-3 * max(1, len(cut)), (total, wanted)
        measured = {}
        if text:
            n_bytes = ConfigurableTask.count_bytes(text)
            measured = dict(byte_perplexity=weighted_perplexity([(total, n_bytes)]),
                            bits_per_byte=bits_per_byte([(total, n_bytes)]),
                            word_perplexity=weighted_perplexity(
                                [(total, ConfigurableTask.count_words(text))]))
        yield dict(n_tokens=len(ids), windows=[[len(a), len(b)] for a, b in cut],
                   sum=round(float(total), 6), **{k: round(v, 6) for k, v in measured.items()})


def choices(lm, questions):
    """What a multiple-choice task picks, by the lines of ConfigurableTask.process_results."""
    for question in questions:
        texts = question["choices"]
        behind = [(question["question"], DELIMITER + choice) for choice in texts]
        alone = [("", DELIMITER + choice) for choice in texts]
        answers = lm.loglikelihood(instances("loglikelihood", behind + alone), disable_tqdm=True)
        sums = np.array([total for total, _ in answers])
        lls, unconditional = sums[:len(texts)], sums[len(texts):]
        characters = np.array([float(len(choice)) for choice in texts])
        n_bytes = np.array([float(len(choice.encode("utf-8"))) for choice in texts])
        ranked = [lls, lls / characters, lls / n_bytes, lls - unconditional]
        for scores in ranked:
            best = np.sort(scores)[::-1]
            assert best[0] - best[1] > 1e-3, ("a near tie", question, scores)
        picks = [int(np.argmax(scores)) for scores in ranked]
        yield dict(sums=[round(float(x), 6) for x in lls],
                   unconditional=[round(float(x), 6) for x in unconditional],
                   **dict(zip(["acc", "acc_norm", "acc_bytes", "acc_mutual_info"], picks)))


def models():
    """Name, model, tokenizer and contexts; tokenizers as their files say, whatever class transformers
    would make of their configurations."""
    token = dict(bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(DEMO / "tokenizer.json"), **token)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        DEMO, dtype=torch.float32, attn_implementation="eager").eval()
    yield "demo", model, tokenizer, [512, 16]
    path = HERE.parent / "tokenizers" / "spm" / "tokenizer.json"
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(path), bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    model = goldens.build("llama", goldens.VARIANTS["llama"][0])[0]
    yield "llama", model, tokenizer, [64, 24]


def same(a, b) -> bool:
    """Whether two results agree but for rounding of another build of torch."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return abs(a - b) <= 1e-3 * max(1, abs(a)) if isinstance(a, float) else a == b


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--check", action="store_true")
    args = args.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    sample = json.loads((HERE / "sample.json").read_text())
    runs = []
    for name, model, tokenizer, contexts in models():
        for max_length in contexts:
            lm = hflm(model, tokenizer, max_length)
            run = dict(model=name, max_length=max_length, pairs=list(pairs(lm, sample["pairs"])),
                       texts=list(rolling(lm, sample["texts"])))
            if max_length == contexts[0]:
                run["choices"] = list(choices(lm, sample["choices"][name]))
            runs.append(run)
            scored = [pair for pair in run["pairs"] if pair]
            print(f"{name} {max_length}: {len(scored)} of {len(run['pairs'])} pairs, "
                  f"{sum(p['greedy'] for p in scored)} greedy; windows "
                  f"{[len(t['windows']) for t in run['texts']]}; picks "
                  f"{[[c[k] for k in c if k.startswith('acc')] for c in run.get('choices', [])]}")
    path = HERE / "results.json"
    if args.check:
        sys.exit(None if same(json.loads(path.read_text())["runs"], runs)
                 else f"{path.name} differs from what this lm_eval makes")
    made_by = (f"tests/goldens/lm_eval/make.py, lm_eval {lm_eval.__version__}, torch "
               f"{torch.__version__}, transformers {transformers.__version__}, f32")
    body = ",\n".join(indented(run) for run in runs)
    path.write_text(f'{{"made_by": {json.dumps(made_by)}, "runs": [\n{body}\n]}}\n')


def indented(run) -> str:
    """A run with a line for each of its rows."""
    def compact(x):
        return json.dumps(x, separators=(",", ":"))
    fields = [f"  {json.dumps(k)}: " + ("[\n" + ",\n".join("   " + compact(x) for x in v) + "\n  ]"
              if isinstance(v, list) else compact(v)) for k, v in run.items()]
    return " {\n" + ",\n".join(fields) + "\n }"


if __name__ == "__main__":
    main()
