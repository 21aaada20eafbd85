"""Scores and labels, beside the command's."""

import json
import math

import numpy as np
import pytest

import pith

TEXTS = ["It is a truth", "It is a banana", "She was in want of a wife", "日本 \x00 naïve", "It is a truth"]
CONTEXTS = ["", "He said: ", "It is said ", "Q:", "\n"]


def rows(cli, demo, texts, contexts, *args):
    lines = [json.dumps({"text": t, "context": c}) for t, c in zip(texts, contexts)]
    out = cli("score", str(demo), "-", "--format", "jsonl", "--tokens", *args, stdin="\n".join(lines))
    return [json.loads(line) for line in out.splitlines()]


def check(scores, wanted):
    assert len(scores) == len(wanted)
    for score, row in zip(scores, wanted):
        assert score.log_prob == row["log_prob"]
        assert score.n_tokens == row["n_tokens"] == len(score.ids)
        assert score.ids == [token["id"] for token in row["tokens"]]
        assert score.is_greedy == row["is_greedy"]
        assert score.log_probs.tolist() == [token["log_prob"] for token in row["tokens"]]


def test_scores_are_the_commands_to_the_last_bit(model, demo, cli):
    check(model.score(TEXTS), rows(cli, demo, TEXTS, CONTEXTS))
    with_context = rows(cli, demo, TEXTS[:4], CONTEXTS[:4], "--context", "context")
    check(model.score(TEXTS[:4], CONTEXTS[:4]), with_context)


def test_a_score_is_an_array(model):
    [score] = model.score(["It is a truth universally acknowledged"])
    assert isinstance(score.log_probs, np.ndarray)
    assert score.log_probs.dtype == np.float64 and score.log_probs.shape == (score.n_tokens,)
    assert math.isclose(score.log_probs.sum(), score.log_prob) and score.log_prob < 0
    assert repr(score).startswith("Score(log_prob=-")
    assert model.score([]) == []


def test_company_changes_nothing(model):
    many = TEXTS * 40
    alone = [model.score([text])[0].log_prob for text in TEXTS]
    assert [score.log_prob for score in model.score(many)] == alone * 40


def test_scores_agree_with_logits(model):
    context, text = "It is", " a truth universally"
    ids, n = model.tokenize(context + text), len(model.tokenize(context))
    logits = model.logits(ids, all=True).astype(np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    [score] = model.score([text], [context])
    assert score.ids == ids[n:]
    wanted = log_probs[np.arange(n - 1, len(ids) - 1), ids[n:]]
    assert np.allclose(score.log_probs, wanted, rtol=0, atol=1e-5)


def test_what_cannot_be_scored_is_named(model):
    with pytest.raises(pith.InvalidError, match="text 1"):
        model.score(["It is", ""])
    with pytest.raises(pith.ContextFullError, match="text 2"):
        model.score(["It is", "She", "word " * 20_000])
    with pytest.raises(ValueError, match="1 contexts for 2"):
        model.score(["a", "b"], ["c"])
    assert model.score(["It is"])[0].n_tokens > 0


def test_labels_are_the_commands(model, demo, cli):
    labels = ["truth", "banana", "universally acknowledged"]
    texts = ["It is a", "She ate a"]
    out = cli(
        *["classify", str(demo), "--labels", ",".join(labels), "--json"],
        *[arg for text in texts for arg in ("--text", text)],
    )
    wanted = [json.loads(line) for line in out.splitlines()]
    answers = model.classify(texts, labels=labels)
    assert [answer.label for answer in answers] == [row["label"] for row in wanted]
    for answer, row in zip(answers, wanted):
        # The command reads its own numbers as JSON before it prints them, which may cost the last bit.
        same = lambda numbers: pytest.approx(numbers, rel=1e-15, abs=0)
        assert answer.value == same(row["probability"])
        by_name = {label["label"]: label for label in row["labels"]}
        assert answer.values.tolist() == same([by_name[label]["probability"] for label in labels])
        assert answer.logits.tolist() == same([by_name[label]["log_prob"] for label in labels])
        assert answer.values.dtype == np.float64 and math.isclose(answer.values.sum(), 1)
        assert answer.token is None and answer.span is None


def head_of(cli, path, texts):
    args = [arg for text in texts for arg in ("--text", text)]
    out = cli("classify", str(path), "--json", "--top", "3", *args)
    return [json.loads(line) for line in out.splitlines()]


def check_head(answer, row, labels):
    assert answer.label == row["label"]
    by_name = {label["label"]: label for label in row["labels"]}
    assert answer.values.dtype == answer.logits.dtype == np.float32
    # The command prints the shortest digits that are the same float32.
    for got, name in ((answer.values, "probability"), (answer.logits, "logit")):
        assert got.tolist() == np.float32([by_name[label][name] for label in labels]).tolist()
    assert answer.value == answer.values.max()


def test_a_heads_labels_are_the_commands(heads, cli):
    model = pith.Model.load(heads["Sequence"])
    labels = model.info.labels
    assert labels == ["good", "bad", "naïve"]
    texts = ["It is a truth universally acknowledged.", "x", "It is a truth"]
    answers = model.classify(texts)
    for answer, row in zip(answers, head_of(cli, heads["Sequence"], texts), strict=True):
        check_head(answer, row, labels)
        assert math.isclose(answer.values.sum(), 1, rel_tol=1e-6) and answer.span is None
    assert len({answer.value for answer in answers}) == 3
    assert model.classify(texts[1:2])[0].value == answers[1].value
    assert model.embed(texts).shape == (3, model.info.n_embd)
    with pytest.raises(pith.InvalidError, match="own labels"):
        model.classify(texts, labels=["a", "b"])
    for call in (model.complete, lambda text: model.score([text]), lambda _: model.logits([1])):
        with pytest.raises(pith.UnsupportedError):
            call("It is")
    with pytest.raises(pith.InvalidError, match="text 1"):
        model.classify(["x", ""])


def test_a_head_labels_tokens(heads, cli):
    model = pith.Model.load(heads["Token"])
    texts = ["Naïve 日本 ladies, and gentlemen.", "x"]
    answers = model.classify(texts)
    rows = head_of(cli, heads["Token"], texts)
    for text, tokens, row in zip(texts, answers, rows, strict=True):
        for token, wanted in zip(tokens, row["tokens"], strict=True):
            check_head(token, wanted, model.info.labels)
            assert token.token == wanted["token"]
            start, end = token.span
            part = text.encode()[wanted["start"] : wanted["end"]]
            assert part in text[start:end].encode()
            assert len(text[start:end].encode()) < len(part) + 4
            if "\ufffd" not in token.token:
                assert text[start:end] == token.token
        assert tokens[0].span[0] == 0 and tokens[-1].span[1] == len(text)


def test_labels_must_make_sense(model):
    for labels in (None, [], ["a", "a"], ["a", ""]):
        with pytest.raises(pith.InvalidError):
            model.classify(["It is"], labels=labels)
    assert model.classify([], labels=["a"]) == []
