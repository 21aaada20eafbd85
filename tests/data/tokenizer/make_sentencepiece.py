"""Makes sp_llama and sp_gemma: SentencePiece models of type BPE, trained on make.py's text, with the ids that
the library itself gives to some texts. Made with Python 3.11 and sentencepiece 0.2.3:  python make_sentencepiece.py
"""

import io
import json
import pathlib
import random

import sentencepiece

HERE = pathlib.Path(__file__).parent
TEXT = (HERE / "make.py").read_text().split('TEXT = """')[1].split('""" * 3')[0]
FRAGMENTS = ["the ", "quick", " Menschen", "it's", "hello", " ", "  ", "    ", "\t", "\n", "\n\n", "\r\n", "1234", "!", "...", "—",
             "é", "e\u0301", "人人生而自由", "カタカナ", "مرحبا", "हिन्दी", "👍🏽", "🦙", "\u200d", "𠮷", "\u00a0", "\u3000", "<tool>",
             "▁", "▁▁", "<0x41>", "\0", "\ufeff", "\ufffd", "def f(x):\n        return x\n"]


def make(name: str, **options) -> None:
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.strip().split("\n") * 3), model_writer=model, model_type="bpe",
        normalization_rule_name="identity", remove_extra_whitespaces=False, num_threads=1,
        minloglevel=2, **options)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    rng = random.Random(1)
    texts = ["", " ", "  a", "a ", *TEXT.strip().split("\n")[::3]]
    texts += ["".join(rng.choices(FRAGMENTS, k=rng.randint(1, 8))) for _ in range(120)]
    lines = [[text, processor.encode(text)] for text in texts]
    (folder / "ids.json").write_text(json.dumps(lines, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(name, processor.vocab_size(), len(lines))


make("sp_llama", vocab_size=700, byte_fallback=True, character_coverage=0.98)
make("sp_gemma", vocab_size=500, character_coverage=0.98, add_dummy_prefix=False, pad_id=0, eos_id=1, bos_id=2, unk_id=3,
     bos_piece="<bos>", eos_piece="<eos>", user_defined_symbols=["<tool>", "\n\n", "▁▁", "▁▁▁▁"])
