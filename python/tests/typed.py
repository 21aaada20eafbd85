"""What a type checker must accept; checked by mypy, and run."""

import sys

import numpy as np
from numpy.typing import NDArray

import pith


def main(path: str) -> None:
    model: pith.Model = pith.Model.load(path, n_ctx=64, cache="q8_0", adapters=[])
    ids: list[int] = model.tokenize("It is")
    pieces: list[str] = [piece for piece in model.generate(ids, max_tokens=4, stop=["x"])]
    text: str = model.complete("It is", max_tokens=4, temperature=0)
    sums: list[float] = [score.log_prob for score in model.score(["It is"], ["Well: "])]
    each: NDArray[np.float64] = model.score(["It is"])[0].log_probs
    vectors: NDArray[np.float32] = model.embed(["It is"], pooling="last")
    logits: NDArray[np.float32] = model.logits(ids, all=True)
    total: int = model.plan("score").total
    try:
        pith.Model.load("absent.gguf")
    except FileNotFoundError as error:
        absent: str | None = error.filename
        assert absent == "absent.gguf"
    assert pieces and text and sums and each.size and vectors.size and logits.size and total


if __name__ == "__main__":
    main(sys.argv[1])
