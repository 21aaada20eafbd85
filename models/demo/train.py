"""Train the demo checkpoint: a 3.8 M parameter GPT-2, pre-trained on general English, then
fine-tuned on the novels of Jane Austen.

    pip install torch transformers tokenizers safetensors numpy
    python train.py --general wikitext-2-raw.test.txt botchan.txt tinyshakespeare.txt \\
                    --work /var/tmp/demo --out models/demo

Texts (none is part of this repository):
  general   plain text files, given on the command line (README.md beside this file names those
            the committed checkpoint saw, with their licences)
  domain    Jane Austen's six novels, public domain, out of Debian's package r-cran-janeaustenr;
            `apt-get download` fetches it, or --austen names the .deb

--work keeps the fetched package and the latest checkpoint. One CPU thread, seeded; bf16 matrix
products (--float32 turns them off) make a run reproducible on one kind of CPU only. --minutes
bounds both parts on a busy machine: the learning rate's schedule then ends at the bound.
"""

import argparse
import json
import math
import re
import subprocess
import time
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel

END = "<|endoftext|>"
N_VOCAB, N_CTX, N_EMBD, N_LAYER, N_HEAD = 2048, 512, 256, 4, 4
BATCH, SEQ = 16, 256  # pre-training; fine-tuning halves the batch and doubles the length
HELD_OUT_CHAPTERS = {"emma": 20, "persuasion": 10, "prideprejudice": 30}
HELD_OUT_BYTES = 20_000


def r_strings(blob):
    """The character vector in an uncompressed R serialization (XDR, version 2 or 3)."""
    word = lambda at: int.from_bytes(blob[at : at + 4], "big")
    at = 2 + 12  # "X\n", version, writer, reader
    if word(2) == 3:
        at += 4 + word(at)  # the native encoding's name
    assert word(at) & 0xFF == 16, "not a character vector"
    count, at, strings = word(at + 4), at + 8, []
    for _ in range(count):
        assert word(at) & 0xFF == 9, "not a string"
        length = word(at + 4)
        strings.append(blob[at + 8 : at + 8 + length].decode())
        at += 8 + length
    return strings


def austen(deb, work):
    """{novel: lines} from the R package's lazy-load database: zlib blobs, each after its size."""
    if deb is None:
        subprocess.run(["apt-get", "download", "r-cran-janeaustenr"], cwd=work, check=True)
        deb = next(work.glob("r-cran-janeaustenr_*.deb"))
    subprocess.run(["dpkg-deb", "-x", deb, work / "austen"], check=True)
    data = (work / "austen/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    names = "emma mansfieldpark northangerabbey persuasion prideprejudice sensesensibility".split()
    novels, at = {}, 0
    for name in names:
        stream = zlib.decompressobj()
        novels[name] = r_strings(stream.decompress(data[at + 4 :]))
        at = len(data) - len(stream.unused_data)
    return novels


def paragraphs(lines):
    """Hard-wrapped lines to one line a paragraph, plain ASCII punctuation, no italics marks."""
    text = "\n".join(line.rstrip() for line in lines).replace("_", "")
    text = text.translate(str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "—": "--"}))
    return [" ".join(p.split()) for p in re.split(r"\n\s*\n", text) if re.search(r"\w", p)]


def chapters(lines):
    """A novel as chapters, each a list of paragraphs; headings and the title page are dropped."""
    heading = re.compile(r"(chapter|volume|finis|the end|by jane austen|\[)", re.I)
    found, current = [], None
    for p in paragraphs(lines):
        if heading.match(p):
            current = [] if p.lower().startswith("chapter") else current
            if current == []:
                found.append(current)
        elif current is not None:
            current.append(p)
    return [c for c in found if c]


def general(path):
    """A general text as documents; WikiText's spaced-out punctuation is put back together."""
    text = path.read_text(encoding="utf-8-sig").replace("\r\n", "\n")
    # What Project Gutenberg puts around a book.
    text = re.sub(r"(?s)\A.*?\*\*\* ?START OF[^\n]*\n", "", text)
    text = re.sub(r"(?s)\n(\*\*\* ?END OF|End of (the )?Project Gutenberg).*\Z", "", text)
    if " @-@ " in text:
        text = re.sub(r" @([-,.])@ ", r"\1", text)
        text = re.sub(r" ([,.;:!?)\]]|'s\b|n't\b|'\w+\b)", r"\1", text)
        text = re.sub(r"([(\[]) ", r"\1", text)
        text = re.sub(r'" ([^"\n]*?) "', r'"\1"', text)
        articles = re.split(r"\n = [^=\n]+ = \n", text)
        kept = ([p.strip() for p in a.split("\n") if p.strip() and not p.startswith(" =")] for a in articles)
        return ["\n\n".join(article) for article in kept]
    if re.search(r"^[A-Z][A-Za-z ]+:$", text, re.M):  # a play: keep its line breaks
        return [text.strip()]
    return ["\n\n".join(paragraphs(text.split("\n")))]


def train_tokenizer(texts, out):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=N_VOCAB,
            special_tokens=[END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.save(str(out / "tokenizer.json"))
    config = {
        "tokenizer_class": "GPT2Tokenizer",
        "bos_token": END,
        "eos_token": END,
        "unk_token": END,
        "add_prefix_space": False,
        "model_max_length": N_CTX,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return tokenizer


def stream(tokenizer, documents):
    """All documents as one row of ids, each after END."""
    end = tokenizer.token_to_id(END)
    ids = []
    for encoded in tokenizer.encode_batch(documents):
        ids += [end] + encoded.ids
    return np.array(ids, dtype=np.int64)


def perplexity(model, ids):
    """Of every id after the first in `ids`, over windows of SEQ with at least SEQ/2 ids before."""
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(ids) - 1, SEQ // 2):
            window = torch.from_numpy(ids[start : start + SEQ + 1])[None]
            logits = model(window[:, :-1]).logits[0]
            skip = 0 if start == 0 else SEQ // 2
            losses = F.cross_entropy(logits[skip:], window[0, 1 + skip :], reduction="sum")
            total, count = total + losses.item(), count + len(logits) - skip
            if start + SEQ + 1 >= len(ids):
                break
    model.train()
    return math.exp(total / count)


def batches(ids, batch, seq, epochs, rng):
    """Batches of [batch, seq + 1] windows; each epoch cuts the row at another offset."""
    for epoch in range(epochs):
        cut = ids[rng.integers(seq) :]
        rows = np.lib.stride_tricks.sliding_window_view(cut, seq + 1)[::seq]
        order = rng.permutation(len(rows))
        for at in range(0, len(rows) - batch + 1, batch):
            yield torch.from_numpy(rows[order[at : at + batch]].copy())


def save(model, out):
    out.mkdir(parents=True, exist_ok=True)
    # GPT-2's attention mask buffers and the tied output matrix are not weights.
    weights = {
        name: tensor.to(torch.float16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight" and not name.endswith((".attn.bias", ".attn.masked_bias"))
    }
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config_json(), indent=2) + "\n")
    generation = {"bos_token_id": 0, "eos_token_id": 0, "do_sample": True, "temperature": 0.7}
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


def config_json():
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "vocab_size": N_VOCAB,
        "n_positions": N_CTX,
        "n_embd": N_EMBD,
        "n_layer": N_LAYER,
        "n_head": N_HEAD,
        "n_inner": None,
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "float16",
    }


def run(model, ids, held_out, args, *, label, batch, seq, epochs, minutes, rate, rng):
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ".h." in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and ".h." in n)]
    muon = torch.optim.Muon(matrices, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    n_steps = epochs * ((len(ids) - seq) // seq // batch)
    began, recent, steps = time.time(), [], 0
    for step, rows in enumerate(batches(ids, batch, seq, epochs, rng)):
        done = max(step / n_steps, (time.time() - began) / (60 * minutes))
        if done >= 1:
            break
        now = rate * min(1.0, (step + 1) / args.warm_up) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))
        for group in muon.param_groups + adam.param_groups:
            group["lr"] = now
        with torch.autocast("cpu", torch.bfloat16, enabled=not args.float32):
            logits = model(rows[:, :-1]).logits
        loss = F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        muon.step()
        adam.step()
        model.zero_grad()
        recent.append(loss.item())
        steps = step + 1
        if steps % 100 == 0:
            held = perplexity(model, held_out)
            print(
                f"{label} step {steps}/{n_steps} loss {np.mean(recent):.3f} "
                f"held-out perplexity {held:.2f} {time.time() - began:.0f} s",
                flush=True,
            )
            recent.clear()
            save(model, args.work / "checkpoint")
    held = perplexity(model, held_out)
    print(f"{label} ended after {steps} of {n_steps} steps, held-out perplexity {held:.3f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--general", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument("--austen", type=Path, metavar="DEB")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--general-epochs", type=int, default=2)
    parser.add_argument("--domain-epochs", type=int, default=4)
    parser.add_argument("--domain-rate", type=float, default=2e-3, help="peak learning rate of fine-tuning")
    parser.add_argument("--warm-up", type=int, default=100, metavar="STEPS")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, nargs=2, default=(math.inf, math.inf), metavar=("GENERAL", "DOMAIN"))
    parser.add_argument("--resume", type=Path, metavar="CHECKPOINT", help="skip pre-training")
    parser.add_argument("--float32", action="store_true")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)

    novels = {name: chapters(lines) for name, lines in austen(args.austen, args.work).items()}
    held = [novels[name].pop(n - 1) for name, n in HELD_OUT_CHAPTERS.items()]
    held_text = ""
    for p in (p for chapter in held for p in chapter):
        if len((held_text + p + "\n\n").encode()) > HELD_OUT_BYTES:
            break
        held_text += p + "\n\n"
    (args.out / "heldout.txt").write_text(held_text)
    domain = ["\n\n".join(chapter) for novel in novels.values() for chapter in novel]
    everything = [document for path in args.general for document in general(path)]

    tokenizer = train_tokenizer(domain + everything, args.out)
    (args.work / "checkpoint").mkdir(exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (args.work / "checkpoint" / name).write_bytes((args.out / name).read_bytes())
    domain_ids, general_ids = stream(tokenizer, domain), stream(tokenizer, everything)
    held_out = stream(tokenizer, [held_text])
    print(f"ids: general {len(general_ids)}, domain {len(domain_ids)}, held out {len(held_out)}", flush=True)

    # No dropout: a few epochs, and attention with dropout takes PyTorch's slow path on a CPU.
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model = GPT2LMHeadModel(GPT2Config(**config_json(), **no_dropout)).float().train()
    common = dict(held_out=held_out, args=args, rng=rng)
    if args.resume:
        weights = load_file(args.resume / "model.safetensors")
        model.load_state_dict(weights, strict=False)  # the tied output matrix is not in the file
        print(f"resumed, held-out perplexity {perplexity(model, held_out):.3f}", flush=True)
    else:
        how = dict(batch=BATCH, seq=SEQ, epochs=args.general_epochs, minutes=args.minutes[0], rate=3e-3)
        run(model, general_ids, label="general", **how, **common)
    how = dict(batch=BATCH // 2, seq=2 * SEQ, epochs=args.domain_epochs, minutes=args.minutes[1])
    run(model, domain_ids, label="domain", rate=args.domain_rate, **how, **common)
    save(model, args.out)


if __name__ == "__main__":
    main()
