"""Makes the Unigram tokenizers in this folder, trained on make.py's text: ug_plain, ug_bytes and ug_bare by SentencePiece, with the ids
and texts that the library itself gives; ug_t5 and ug_generic, two of them as transformers saves them; ug_trained by the tokenizers
package. SentencePiece's rules are cut down to RULES, for a whole map takes 240 KB. Made with Python 3.11, sentencepiece 0.2.3, protobuf
7.36.2, tokenizers 0.23.3 and transformers 5.23.0:  python make_unigram.py
"""

import contextlib
import io
import json
import pathlib
import random
import shutil
import tempfile

import sentencepiece
from tokenizers.implementations import SentencePieceUnigramTokenizer
from transformers import T5Tokenizer
from transformers.convert_slow_tokenizer import SentencePieceExtractor
from transformers.tokenization_utils_tokenizers import TokenizersBackend

HERE = pathlib.Path(__file__).parent.resolve()
TEXT = (HERE / "make.py").read_text().split('TEXT = """')[1].split('""" * 3')[0]
LINES = TEXT.strip().split("\n")
SINGLE = [*range(1, 0x20), *range(0x7f, 0x100), 0x132, *range(0x1680, 0x1681), *range(0x2000, 0x2010), 0x2028, 0x2029, 0x203c,
          0x2122, 0x212b, 0x2139, 0x2160, 0x2167, 0x2581, 0x3000, 0x32bf, 0x337f, *range(0xfb00, 0xfb07), 0xfeff, *range(0xff01, 0xff5f),
          *range(0xff66, 0xffa0), 0xfffd, *range(0x41, 0x5b), 0x1e9e, 0x3a3, 0x130]
JOINED = ["e\u0301", "A\u030a", "n\u0303", "e\u0323", "e\u0323\u0302", "\u1100\u1161", "か\u3099", "ｶﾞ", "ﾊﾟ", "é\u0302", "\u0915\u093c"]
FRAGMENTS = ["the ", "quick", " Menschen", "it's", "hello", " ", "  ", "    ", "\t", "\n", "\n\n", "\r\n", "1234", "!", "...", "—", "é",
             "e\u0301", "e\u0323\u0302", "\u0301", "Å", "ﬁ", "™\u0301", "ａ\u0301", "人人生而自由", "カタカナ", "ｶﾞｶﾅ", "ﾊﾟ", "Ｆｕｌｌ", "ＨＥＬＬＯ", "㍿", "㊿", "½",
             "مرحبا", "हिन्दी", "👍🏽", "👨‍👩‍👧‍👦", "🦙", "\u200d", "\u200b", "𠮷", "\u00a0", "\u3000", "<tool>", "＜ｔｏｏｌ＞", "ＡＢ", "AB", "▁", "▁▁", "<0x41>", "<s>",
             "</s>", "<unk>", "＜ｓ＞", "\0", "\x01", "\x7f", "\ufeff", "\ufffd", "x" * 40, "☃☃", "def f(x):\n        return x\n"]


def rules(name: str) -> str:
    """The part of SentencePiece's rules of this name that SINGLE and JOINED are about, as its trainer reads rules."""
    normalizer = sentencepiece.SentencePieceNormalizer(
        rule_name=name, add_dummy_prefix=False, escape_whitespaces=False, remove_extra_whitespaces=False)
    code = lambda text: " ".join(f"{ord(c):X}" for c in text)
    pairs = [(text, normalizer.normalize(text)) for text in [*map(chr, SINGLE), *JOINED]]
    return "".join(f"{code(a)}\t{code(b)}\n" for a, b in pairs if a != b)


def train(rule: str | None, **options) -> bytes:
    model = io.BytesIO()
    # The model holds the file's name.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        if rule:
            pathlib.Path("rules.tsv").write_text(rules(rule))
            options["normalization_rule_tsv"] = "rules.tsv"
        else:
            options["normalization_rule_name"] = "identity"
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(LINES * 3), model_writer=model, model_type="unigram", num_threads=1, minloglevel=2,
            hard_vocab_limit=False, **options)
    return model.getvalue()


def write(path: pathlib.Path, value) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


def own(name: str, model: bytes) -> None:
    """A model file and what SentencePiece makes of texts: ids, and the text that they come back to (null where the unknown
    piece is among them, which the library shows as a sign of its own)."""
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    rng = random.Random(1)
    texts = ["", " ", "   ", "  a", "a ", " a  b ", "\n", "\t a", "\x01", "\x01 a", "▁", " ▁ a", *LINES[::4], *FRAGMENTS]
    texts += ["".join(rng.choices(FRAGMENTS, k=rng.randint(2, 8))) for _ in range(100)]
    lines = []
    for text in texts:
        ids = processor.encode(text)
        lines.append([text, ids, None if processor.unk_id() in ids else processor.decode(ids)])
    write(folder / "ids.json", lines)
    print(name, processor.vocab_size(), len(model), len(lines))


def compact(folder: pathlib.Path) -> None:
    for path in folder.glob("*.json"):
        write(path, json.loads(path.read_text()))


def t5(model: bytes) -> None:
    folder = HERE / "ug_t5"
    with tempfile.TemporaryDirectory() as temporary:
        path = pathlib.Path(temporary) / "spiece.model"
        path.write_bytes(model)
        parts = SentencePieceExtractor(str(path)).extract(T5Tokenizer.model)
    tokens = [(f"<extra_id_{i}>", 0.0) for i in (2, 1, 0)]
    T5Tokenizer(vocab=parts["vocab"] + tokens, _spm_precompiled_charsmap=parts["_spm_precompiled_charsmap"],
                extra_ids=3).save_pretrained(folder)
    compact(folder)


def generic(model: bytes) -> None:
    folder = HERE / "ug_generic"
    with tempfile.TemporaryDirectory() as temporary:
        (pathlib.Path(temporary) / "tokenizer.model").write_bytes(model)
        (pathlib.Path(temporary) / "tokenizer_config.json").write_text("{}")
        TokenizersBackend.from_pretrained(temporary).save_pretrained(folder)
    compact(folder)


def trained() -> None:
    folder = HERE / "ug_trained"
    folder.mkdir(exist_ok=True)
    tokenizer = SentencePieceUnigramTokenizer()
    tokenizer.train_from_iterator(LINES[:7] * 3, vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    compact(folder)


plain = train("nmt_nfkc", vocab_size=420, character_coverage=0.98, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
own("ug_plain", plain)
t5(plain)
with_bytes = train("nfkc_cf", vocab_size=620, character_coverage=0.98, byte_fallback=True, remove_extra_whitespaces=False,
                   user_defined_symbols=["<tool>", "▁▁", "ＡＢ", "\n"])
own("ug_bytes", with_bytes)
generic(with_bytes)
own("ug_bare", train(None, vocab_size=400, character_coverage=0.98, add_dummy_prefix=False, bos_piece="<bos>", eos_piece="<eos>",
                     user_defined_symbols=["<tool>", "▁▁"]))
trained()
