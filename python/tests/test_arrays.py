"""Arrays: their numbers, their types, and whose memory they are."""

import sys

import numpy as np
import pytest

import pith


def test_logits_are_the_next_tokens(model):
    ids = model.tokenize("It is a truth universally")
    logits = model.logits(ids)
    assert logits.dtype == np.float32 and logits.shape == (model.info.n_vocab,)
    generation = model.generate(ids, max_tokens=1, temperature=0)
    list(generation)
    assert int(logits.argmax()) == generation.ids[0]


def test_logits_after_all_are_those_after_each(model):
    ids = model.tokenize("It is a truth universally acknowledged, that a single man " * 3)
    assert len(ids) > 33
    logits = model.logits(ids, all=True)
    assert logits.dtype == np.float32 and logits.shape == (len(ids), model.info.n_vocab)
    for n in (1, 2, 32, 33, len(ids)):
        assert (logits[n - 1] == model.logits(ids[:n])).all()


@pytest.mark.parametrize("all", [False, True])
def test_an_array_is_the_only_one_to_hold_its_memory(model, all):
    ids = model.tokenize("It is a truth")
    logits = model.logits(ids, all=all)
    assert logits.flags.c_contiguous and logits.flags.aligned and logits.flags.writeable
    # A view of memory that was written once: nobody has copied it into an array of numpy's own.
    assert not logits.flags.owndata and type(logits.base) is bytearray
    assert len(logits.base) == logits.nbytes
    # The array, getrefcount's argument, and the attribute's value.
    assert sys.getrefcount(logits.base) <= 3
    wanted = logits.copy()
    logits.fill(0)
    again = model.logits(ids, all=all)
    assert (again == wanted).all()
    model.logits(ids[:2], all=all)
    model.complete(ids, max_tokens=5)
    assert (again == wanted).all()


def test_embeddings(model):
    texts = ["A house by the sea.", "A house by the sea.", "Quarterly results", "x"]
    vectors = model.embed(texts)
    assert vectors.dtype == np.float32 and vectors.shape == (4, model.info.n_embd)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert (vectors[0] == vectors[1]).all() and not (vectors[0] == vectors[2]).all()
    assert (model.embed(texts[2:3])[0] == vectors[2]).all()
    assert type(vectors.base) is bytearray
    assert model.embed([]).shape == (0, model.info.n_embd)
    raw = model.embed(texts, normalize=False)
    norms = np.linalg.norm(raw.astype(np.float64), axis=1, keepdims=True)
    assert np.allclose(raw / norms, vectors, atol=1e-6)
    last = model.embed(texts, pooling="last")
    assert not np.allclose(last[2], vectors[2])
    with pytest.raises(pith.InvalidError, match="pooling"):
        model.embed(texts, pooling="max")
    with pytest.raises(pith.ContextFullError, match="text 1"):
        model.embed(["x", "word " * 20_000])


def test_a_mean_is_of_the_texts_tokens(model):
    text = next(t for t in map(chr, range(97, 123)) if len(model.tokenize(t)) == 1)
    assert (model.embed([text]) == model.embed([text], pooling="last")).all()
