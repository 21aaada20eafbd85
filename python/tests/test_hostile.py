"""Arguments and files that make no sense: always an exception of the right kind."""

import pathlib
import random

import pytest

import pith

LONE = "a\ud800b"


def test_classes_are_what_python_expects():
    for ours, builtin in {
        pith.FileError: OSError,
        pith.NotFoundError: FileNotFoundError,
        pith.FormatError: ValueError,
        pith.UnsupportedError: NotImplementedError,
        pith.InvalidError: ValueError,
        pith.OutOfMemoryError: MemoryError,
        pith.ContextFullError: ValueError,
    }.items():
        assert issubclass(ours, builtin) and issubclass(ours, pith.Error)
        assert ours.__module__ == "pith" and ours.__doc__


def test_files_that_are_not_there(tmp_path):
    absent = tmp_path / "absent.gguf"
    with pytest.raises(FileNotFoundError) as caught:
        pith.Model.load(absent)
    assert isinstance(caught.value, pith.NotFoundError)
    assert caught.value.errno == 2 and caught.value.filename == str(absent)
    assert "No such file" in str(caught.value)
    for path in (tmp_path, tmp_path / "a\0b", "", str(tmp_path / ("x" * 5000))):
        with pytest.raises((pith.Error, ValueError)):
            pith.Model.load(path)
    for path in (None, 3, [], b"\xff\0".decode("latin1").encode()):
        with pytest.raises((TypeError, pith.Error)):
            pith.Model.load(path)


def test_damaged_files(demo: pathlib.Path, tmp_path):
    whole = demo.read_bytes()
    path = tmp_path / "damaged.gguf"
    for damaged in (b"", b"GGUF", b"not a model at all", whole[:100], whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(pith.FormatError):
            pith.Model.load(path)
    chance = random.Random(7)
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(4):
            damaged[chance.randrange(3000)] = chance.randrange(256)
        path.write_bytes(damaged)
        # It may be sound still, but for a name.
        try:
            model = pith.Model.load(path)
            model.complete("It is", max_tokens=2)
        except pith.Error:
            pass
    with pytest.raises(pith.Error):
        pith.Model.load(demo, adapters=[(demo, 1.0)])
    with pytest.raises(FileNotFoundError):
        pith.Model.load(demo, adapters=[(tmp_path / "absent.gguf", 1.0)])


def test_options_that_make_no_sense(demo):
    for options in (
        {"n_ctx": 10**9},
        {"n_seq": 0},
        {"n_threads": 10**9},
        {"cache": "f64"},
        {"max_memory": 0},
    ):
        with pytest.raises(pith.Error):
            pith.Model.load(demo, **options)
    for options in (
        {"n_ctx": -1},
        {"n_ctx": 2**64},
        {"n_ctx": "many"},
        {"cache": 3},
        {"adapters": "x"},
        {"adapters": [("x",)]},
        {"bogus": 1},
    ):
        with pytest.raises((TypeError, OverflowError, ValueError)):
            pith.Model.load(demo, **options)
    with pytest.raises(TypeError):
        pith.Model()


def test_texts_that_are_none(model):
    for call in (
        lambda: model.tokenize(LONE),
        lambda: model.complete(LONE),
        lambda: model.score([LONE]),
        lambda: model.score(["a"], [LONE]),
        lambda: model.embed([LONE]),
        lambda: model.classify(["a"], labels=[LONE, "b"]),
        lambda: model.generate("a", stop=[LONE]),
    ):
        with pytest.raises((UnicodeEncodeError, TypeError)):
            call()
    for call in (
        lambda: model.tokenize(None),
        lambda: model.tokenize(b"bytes"),
        lambda: model.complete(3),
        lambda: model.complete(None),
        lambda: model.complete(["a"]),
        lambda: model.score("a text, not texts"),
        lambda: model.score([1]),
        lambda: model.embed("a text"),
        lambda: model.logits("ids"),
        lambda: model.logits([1.5]),
        lambda: model.detokenize(5),
        lambda: model.generate("a", stop="not a list"),
        lambda: model.generate("a", max_tokens=1.5),
        lambda: model.complete("a", bogus=1),
    ):
        with pytest.raises(TypeError):
            call()
    # NUL is a character as any other.
    text = "a\0b"
    assert model.detokenize(model.tokenize(text, add_special=False)) == text
    assert isinstance(model.complete(text, max_tokens=3), str)
    assert model.score([text])[0].n_tokens > 0


def test_ids_that_are_none(model):
    n = model.info.n_vocab
    for call in (model.detokenize, model.logits, model.complete, lambda ids: model.logits(ids, all=True)):
        for ids in ([n], [0, 2**32 - 1]):
            with pytest.raises(pith.InvalidError, match="of a vocabulary of"):
                call(ids)
        for ids in ([-1], [2**32], [2**80]):
            with pytest.raises((OverflowError, TypeError)):
                call(ids)
    for call in (model.logits, model.complete, lambda ids: model.logits(ids, all=True)):
        with pytest.raises(pith.InvalidError):
            call([])
    assert model.detokenize([]) == ""
    with pytest.raises(pith.InvalidError):
        model.complete("")
    for all in (False, True):
        with pytest.raises(pith.ContextFullError):
            model.logits([1] * 20_000, all=all)


def test_numbers_that_make_no_sense(model):
    for options in (
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 1.5},
        {"top_p": float("nan")},
        {"min_p": -0.1},
        {"repeat_penalty": 0.0},
    ):
        with pytest.raises(pith.InvalidError, match=next(iter(options))):
            model.generate("It is", **options)
    for options in ({"top_k": -1}, {"max_tokens": -1}, {"seed": -1}, {"seed": 2**64}):
        with pytest.raises(OverflowError):
            model.generate("It is", **options)
    with pytest.raises(pith.InvalidError):
        model.plan("fly")
    assert model.complete("It is", max_tokens=2, top_k=2**40, temperature=1.0)


def test_a_head_is_asked_for_where_there_is_none(model):
    assert model.info.labels is None
    with pytest.raises(pith.InvalidError, match="labels"):
        model.classify(["It is"])


def test_nothing_can_be_changed(model):
    with pytest.raises(AttributeError):
        model.info.n_ctx = 3
    with pytest.raises(AttributeError):
        model.path = "x"
    with pytest.raises(TypeError):
        pith.Generation()
    assert "Model(" in repr(model) and "n_vocab=" in repr(model.info) and "kv=" in repr(model.plan())
