"""On-device GPT runtime: one quantized GGUF file, memory-mapped, the same bits everywhere.

Errors are `pith.Error`, and also what Python calls their kind (FileNotFoundError, ValueError, MemoryError).
"""

import os
from collections.abc import Iterator, Sequence
from typing import Literal, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Classification",
    "ContextFullError",
    "Error",
    "FileError",
    "FormatError",
    "Generation",
    "Info",
    "InvalidError",
    "Memory",
    "Model",
    "NotFoundError",
    "OutOfMemoryError",
    "Score",
    "UnsupportedError",
    "__version__",
]

__version__: str

class Error(Exception):
    """What can go wrong in pith."""

class FileError(Error, OSError):
    """The system refused to open, map or read a file."""

class NotFoundError(FileError, FileNotFoundError):
    """There is no such file."""

class FormatError(Error, ValueError):
    """A file is not what it claims to be: truncated, inconsistent or hostile."""

class UnsupportedError(Error, NotImplementedError):
    """The file is sound, but pith, or this model, can't do what is asked for."""

class InvalidError(Error, ValueError):
    """An argument makes no sense here."""

class OutOfMemoryError(Error, MemoryError):
    """More memory is needed than max_memory allows or the system has."""

class ContextFullError(Error, ValueError):
    """More tokens are wanted than the context holds."""

@final
class Info:
    """What a model is."""

    @property
    def family(self) -> str:
        """The family's name in GGUF files: "llama"."""
    @property
    def n_ctx(self) -> int:
        """Longest context that the model was made for, in tokens."""
    @property
    def n_vocab(self) -> int:
        """Tokens of the vocabulary."""
    @property
    def n_embd(self) -> int:
        """Width of hidden states and embeddings."""
    @property
    def n_layer(self) -> int:
        """Blocks."""
    @property
    def labels(self) -> list[str] | None:
        """Labels of the classification head; None for a language model."""
    @property
    def file_bytes(self) -> int:
        """Bytes of the file, which is mapped."""

@final
class Memory:
    """Memory of a session in bytes; the file's weights are mapped, and not counted."""

    @property
    def kv(self) -> int:
        """Keys and values of the context."""
    @property
    def buffers(self) -> int:
        """Buffers of a step."""
    @property
    def scratch(self) -> int:
        """All threads' scratch."""
    @property
    def total(self) -> int:
        """The sum."""

@final
class Generation:
    """A text that is being written: an iterator over its pieces, each of one or more tokens.

    Made by `Model.generate`. It ends after an exception, as generators do; the model stays usable.
    """

    def __iter__(self) -> Iterator[str]: ...
    def __next__(self) -> str: ...
    @property
    def prompt_ids(self) -> list[int]:
        """Token ids of the prompt."""
    @property
    def ids(self) -> list[int]:
        """Token ids generated so far, one that ends the text included."""
    @property
    def finish_reason(self) -> Literal["end", "limit", "stop", "full"] | None:
        """Why the text ended: the model ended it, max_tokens, a stop string, or the context is full.

        None before that, and after an exception.
        """
    @property
    def seed(self) -> int:
        """The seed that it draws by."""

@final
class Score:
    """How probable a text is, by `Model.score`."""

    @property
    def log_prob(self) -> float:
        """Natural logarithm of the text's probability: the sum over its tokens."""
    @property
    def n_tokens(self) -> int:
        """Scored tokens."""
    @property
    def log_probs(self) -> NDArray[np.float64]:
        """Natural logarithm of each scored token's probability, [n_tokens]."""
    @property
    def ids(self) -> list[int]:
        """The scored tokens."""
    @property
    def is_greedy(self) -> bool:
        """Whether greedy decoding would have written this text."""

@final
class Classification:
    """What a model makes of a text, or of one token where tokens are labelled, by `Model.classify`."""

    @property
    def label(self) -> str | None:
        """The likeliest label; None in a regression."""
    @property
    def value(self) -> float:
        """Its probability; in a regression the first value."""
    @property
    def values(self) -> NDArray[np.float32] | NDArray[np.float64]:
        """Probabilities of all labels, in a regression values, [n_labels].

        float32 by a head, float64 for labels that were given.
        """
    @property
    def logits(self) -> NDArray[np.float32] | NDArray[np.float64]:
        """What the values are made of, [n_labels].

        A head's logits; for labels that were given, natural logarithms of their probabilities behind the
        text.
        """
    @property
    def token(self) -> str | None:
        """Where tokens are labelled, the token's text."""
    @property
    def span(self) -> tuple[int, int] | None:
        """Where tokens are labelled, the characters text[start:end] that the token is.

        None for a token that the text doesn't hold.
        """

@final
class Model:
    """A model from one GGUF file. It never changes, and threads may share it.

    All work is done without the GIL. Each text that is written has a session of its own; scores, labels
    and embeddings take turns at one.
    """

    @staticmethod
    def load(
        path: str | os.PathLike[str],
        *,
        adapters: Sequence[tuple[str | os.PathLike[str], float]] = ...,
        n_ctx: int = 0,
        n_seq: int = 16,
        n_threads: int = 0,
        cache: Literal["f16", "f32", "q8_0"] | None = None,
        max_memory: int | None = None,
    ) -> Model:
        """Maps a GGUF file. What is needed beside it is planned now, and allocated at the first use.

        adapters: LoRA files, each with a factor on what it adds (1.0 as it was trained).
        n_ctx: tokens that the context holds; 0 is the model's own, at most 4096.
        n_seq: sequences that calls of many texts run together, or as many as max_memory has room for.
        n_threads: threads of each session; 0 is all cores.
        cache: how keys and values are kept; None is "f16", and "f32" for a model that classifies.
        max_memory: ceiling in bytes on all sessions together; the file's mapping isn't counted.
        """
    @property
    def info(self) -> Info:
        """What the model is."""
    @property
    def n_ctx(self) -> int:
        """Tokens that a text may have, with what is written behind it."""
    @property
    def memory(self) -> int:
        """Bytes of memory that sessions take now; max_memory is a ceiling on it."""
    def plan(
        self, task: Literal["generate", "logits", "score", "classify", "embed"] = "generate"
    ) -> Memory:
        """What the session of a task takes. Nothing is allocated."""
    def tokenize(
        self, text: str, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """Token ids of a text.

        add_special puts the tokens before and behind it that the model wants; parse_special lets the text
        hold control tokens such as <|im_end|>: not for text that isn't trusted.
        """
    def detokenize(self, ids: Sequence[int], show_special: bool = False) -> str:
        """The text of token ids; control tokens are left out unless show_special.

        Bytes that are no UTF-8 become U+FFFD.
        """
    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int = 256,
        temperature: float = 0.8,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        repeat_penalty: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = ...,
        parse_special: bool = True,
    ) -> Generation:
        """Continues a prompt, a text or token ids: an iterator over pieces of text.

        At temperature 0 the text is that of `pith run --temp 0`. Nothing runs before the first piece is
        asked for.

        top_k, top_p, min_p: draw from the likeliest tokens only; 0, 1.0 and 0.0 are off.
        repeat_penalty: makes tokens among the last 64 less likely; 1.0 is off.
        seed: draws the same way again; None is a random one, which Generation.seed tells.
        stop: texts before which it ends.
        parse_special: the prompt may hold control tokens such as <|im_end|>; False for text that isn't
        trusted.
        """
    def complete(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int = 256,
        temperature: float = 0.8,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        repeat_penalty: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = ...,
        parse_special: bool = True,
    ) -> str:
        """All of what `generate` gives by the same arguments, as one text."""
    def score(
        self,
        texts: Sequence[str],
        contexts: Sequence[str] | None = None,
        *,
        parse_special: bool = False,
    ) -> list[Score]:
        """How probable texts are, each as a whole or behind its context.

        What texts begin with in common is run once. Results are the same in any company.
        """
    def classify(
        self,
        texts: Sequence[str],
        *,
        labels: Sequence[str] | None = None,
        delimiter: str = " ",
        parse_special: bool = False,
    ) -> list[Classification] | list[list[Classification]]:
        """Labels texts: by the model's classification head, or of a language model by how probable each
        of `labels` is behind the text and the delimiter.

        One Classification for each text; where the head labels tokens, a list of one for each token.
        """
    def embed(
        self,
        texts: Sequence[str],
        *,
        pooling: Literal["mean", "last"] = "mean",
        normalize: bool = True,
        parse_special: bool = False,
    ) -> NDArray[np.float32]:
        """Embeddings of texts, [n_texts, n_embd].

        The model's last hidden states, their mean or the last token's, of length 1 if normalize.
        """
    def logits(self, ids: Sequence[int], *, all: bool = False) -> NDArray[np.float32]:
        """Logits after the last of some tokens, [n_vocab]; with all=True after each, [n_ids, n_vocab].

        The runtime's numbers are written once, into memory that the array alone refers to (its base): it is
        the caller's own, and writable.
        """
