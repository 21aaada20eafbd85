"""Makes the tokenizers in this folder: small vocabularies, trained on the text below, inside the
exact normalizer, pre-tokenizer, decoder and post-processor of each family's published
tokenizer.json. Made with Python 3.11 and tokenizers 0.23.3:  python make.py
"""

import json
import pathlib

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).parent

TEXT = """
The quick brown fox jumps over the lazy dog, and it's what they'd've said: we'll see, I'm sure you're right.
All human beings are born free and equal in dignity and rights; nobody should be held in slavery or servitude.
Everyone has the right to life, liberty and the security of person. In 2024 there were 1234567 of them, or 89.5 %.
Alle Menschen sind frei und gleich an Würde und Rechten geboren. Übermäßige Größe, schöne Grüße, süße Äpfel.
Tous les êtres humains naissent libres et égaux en dignité et en droits. L'été où l'œuvre fut achevée, garçon.
Todos los seres humanos nacen libres e iguales en dignidad y derechos. ¿Qué pasó mañana? ¡El niño corrió!
Все люди рождаются свободными и равными в своём достоинстве и правах. Они наделены разумом и совестью.
Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.
すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。カタカナとひらがな。
人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。
모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.
يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق، وقد وهبوا عقلاً وضميرًا۔
सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।
มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ
Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi.
👍🏽 👨‍👩‍👧‍👦 🦙 🏳️‍🌈 ½ ² ³ Ⅷ ٣ ㊿ ∑ √ € £ № … “quoted” ‘single’ — dash – dash
fn main() {
    let x = vec![1, 2, 3];
    for i in 0..x.len() {
        println!("{}: {:?}", i, x[i]); // a comment
    }
}
def f(a, b=None, *args, **kwargs):
\treturn {"a": a, "b": [b, *args]}  # tabs and spaces


if __name__ == "__main__":
        print(f(1, 2), end="\\n")
""" * 3

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"


def byte_level(regex=True):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": regex}


def split(regex):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def sequence(key, *stages):
    return {"type": "Sequence", key: list(stages)}


def added(text, special=True, **flags):
    token = {"content": text, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": not special, "special": special}
    return token | flags


def template(before, ids):
    return {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": before, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {before: {"id": before, "ids": ids, "tokens": [before]}},
    }


def finish(name, whole, vocab, tokens, config):
    """Numbers the added tokens and writes the folder."""
    for token in tokens:
        token["id"] = vocab.get(token["content"], None)
        if token["id"] is None:
            token["id"] = max(max(vocab.values()), max((t.get("id") or 0) for t in tokens)) + 1
    whole["added_tokens"] = sorted(tokens, key=lambda t: t["id"])
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    dump = dict(ensure_ascii=False, separators=(",", ":"))
    Tokenizer.from_str(json.dumps(whole))
    (folder / "tokenizer.json").write_text(json.dumps(whole, **dump) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, **dump) + "\n")
    print(name, len(vocab), len(whole["model"]["merges"]))


def train(pre_tokenizer, normalizer, n_vocab, alphabet, special=(), initial=()):
    """A BPE model's vocabulary and merges."""
    start = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
             "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": None,
             "decoder": None, "model": {"type": "BPE", "vocab": {}, "merges": []}}
    tokenizer = Tokenizer.from_str(json.dumps(start))
    trainer = trainers.BpeTrainer(vocab_size=n_vocab, initial_alphabet=alphabet, limit_alphabet=400,
                                  special_tokens=list(special), show_progress=False)
    tokenizer.train_from_iterator(TEXT.split("\n\n\n") if alphabet else TEXT.split("\n"), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], model["merges"]


def byte_level_family(name, pre_tokenizer, tokens, normalizer=None, post=None, config=None,
                      n_vocab=640, special=(), **model):
    vocab, merges = train(pre_tokenizer, normalizer, n_vocab, pre_tokenizers.ByteLevel.alphabet(), special)
    if model.get("ignore_merges"):
        # Words that only `ignore_merges` finds.
        merges = [m for i, m in enumerate(merges) if i % 5]
    whole = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
        "post_processor": post or byte_level(), "decoder": byte_level(),
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
                  "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": merges}
        | {"model": None},
    }
    del whole["model"]["model"]
    whole["model"] |= model
    finish(name, whole, vocab, tokens, config or {})


def sentencepiece_merges(vocab, skip):
    """Every pair that makes a token: by the token's place, then by the ids of the parts. The order
    in which transformers turns SentencePiece scores into merges."""
    merges = []
    for text, at in sorted(vocab.items(), key=lambda item: item[1]):
        if text not in skip:
            pairs = [(text[:i], text[i:]) for i in range(1, len(text))]
            pairs = [(a, b) for a, b in pairs if a in vocab and b in vocab and not {a, b} & skip]
            merges += sorted(pairs, key=lambda p: (vocab[p[0]], vocab[p[1]]))
    return [list(m) for m in merges]


def sentencepiece_family(name, specials, normalizer, pre_tokenizer, strip, before, complete,
                         tokens=(), config=None):
    marks = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    to_train = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, marks]}
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    splits = {"type": "Split", "pattern": {"String": "▁"}, "behavior": "MergedWithNext", "invert": False}
    vocab, merges = train(splits, to_train, 900, [], [*specials, *bytes_])
    for run in ["▁▁", "▁▁▁▁", "▁▁▁", "▁▁▁▁▁▁▁▁"] if complete else []:
        vocab.setdefault(run, len(vocab))
    if complete:
        merges = sentencepiece_merges(vocab, {*specials, *bytes_})
    decoders = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"}]
    if strip:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    whole = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
        "post_processor": template(before, [vocab[before]]),
        "decoder": sequence("decoders", *decoders),
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>",
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
                  "byte_fallback": True, "ignore_merges": False, "vocab": vocab, "merges": merges},
    }
    finish(name, whole, vocab, [added(t) for t in specials] + list(tokens), config or {})


END = "<|endoftext|>"
byte_level_family("gpt2", byte_level(), [added(END)], special=[END],
                  config={"bos_token": END, "eos_token": END, "unk_token": END,
                          "add_prefix_space": False, "tokenizer_class": "GPT2Tokenizer",
                          "model_max_length": 1024})
byte_level_family("smollm", sequence("pretokenizers", {"type": "Digits", "individual_digits": True}, byte_level()),
                  [added(END), added("<|im_start|>"), added("<|im_end|>"), added("<repo_name>", special=False)],
                  special=[END, "<|im_start|>", "<|im_end|>"],
                  config={"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": END,
                          "pad_token": "<|im_end|>", "clean_up_tokenization_spaces": False,
                          "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"})
byte_level_family("llama3", sequence("pretokenizers", split(CL100K.replace("DIGITS", "{1,3}")), byte_level(False)),
                  [added("<|begin_of_text|>"), added("<|end_of_text|>"), added("<|eot_id|>")],
                  post=sequence("processors", byte_level(), template("<|begin_of_text|>", [640])),
                  ignore_merges=True,
                  config={"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>",
                          "tokenizer_class": "PreTrainedTokenizerFast"})
byte_level_family("qwen2", sequence("pretokenizers", split(CL100K.replace("DIGITS", "")), byte_level(False)),
                  [added(END), added("<|im_start|>"), added("<|im_end|>"),
                   added("<tool_call>", special=False, normalized=False)],
                  normalizer={"type": "NFC"},
                  config={"bos_token": None, "eos_token": "<|im_end|>", "pad_token": END,
                          "add_bos_token": False, "add_prefix_space": False, "errors": "replace",
                          "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer"})
byte_level_family("neox", byte_level(),
                  [added(END), added("<|padding|>"), added("<mask>", lstrip=True), added("<sep>", rstrip=True)]
                  + [added(" " * n, special=False) for n in range(24, 1, -1)] + [added("é̂", special=False)],
                  normalizer={"type": "NFC"}, special=[END, "<|padding|>"],
                  config={"bos_token": END, "eos_token": END, "tokenizer_class": "GPTNeoXTokenizer"})
byte_level_family("bloom", sequence("pretokenizers", split(BLOOM), byte_level(False)),
                  [added("<unk>"), added("<s>"), added("</s>"), added("<pad>")],
                  special=["<unk>", "<s>", "</s>", "<pad>"],
                  config={"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"})
byte_level_family("falcon",
                  sequence("pretokenizers", {"type": "Punctuation", "behavior": "Contiguous"}, byte_level(),
                           {"type": "Digits", "individual_digits": False}, split("[0-9][0-9][0-9]")),
                  [added(END), added(">>TITLE<<")],
                  special=[END, ">>TITLE<<"], config={"eos_token": END})

PREPEND = {"type": "Prepend", "prepend": "▁"}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
sentencepiece_family("llama2", ["<unk>", "<s>", "</s>"], sequence("normalizers", PREPEND, REPLACE), None,
                     True, "<s>", True, [added("[INST]", special=False), added("<tool>", special=False, normalized=False)],
                     {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "add_eos_token": False,
                      "legacy": False, "tokenizer_class": "LlamaTokenizer"})
sentencepiece_family("mistral", ["<unk>", "<s>", "</s>"], None,
                     {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
                     True, "<s>", False, [added("[INST]")],
                     {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "LlamaTokenizer"})
sentencepiece_family("gemma", ["<pad>", "<eos>", "<bos>", "<unk>"], REPLACE,
                     {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
                     False, "<bos>", True,
                     [added("<start_of_turn>"), added("<end_of_turn>"), added("\n\n", special=False, normalized=False)],
                     {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>",
                      "tokenizer_class": "GemmaTokenizer"})

# OPT, as published: GPT-2's merges with fairseq's special tokens, in the two old files.
vocab, merges = train(byte_level(), None, 500, pre_tokenizers.ByteLevel.alphabet(),
                      ["<s>", "<pad>", "</s>", "<unk>"])
folder = HERE / "opt"
folder.mkdir(exist_ok=True)
(folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False, separators=(",", ":")) + "\n")
(folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
(folder / "tokenizer_config.json").write_text(json.dumps(
    {"errors": "replace", "unk_token": {"content": "</s>", "__type": "AddedToken"},
     "bos_token": {"content": "</s>", "__type": "AddedToken"},
     "eos_token": {"content": "</s>", "__type": "AddedToken"}, "pad_token": "<pad>",
     "add_prefix_space": False, "add_bos_token": True, "tokenizer_class": "GPT2Tokenizer"},
    separators=(",", ":")) + "\n")
