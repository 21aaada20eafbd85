"""Texts that are written, beside the command's."""

import json

import pytest

import pith

PROMPTS = ["It is a truth", "", "Once upon a time there was a Geschäft 日本", " \n x"]


@pytest.mark.parametrize("prompt", [p for p in PROMPTS if p])
def test_greedy_texts_are_the_commands(model, demo, cli, prompt):
    wanted = json.loads(cli("run", str(demo), "--prompt", prompt, "-n", "40", "--temp", "0", "--json"))
    generation = model.generate(prompt, max_tokens=40, temperature=0)
    pieces = list(generation)
    assert "".join(pieces) == wanted["text"]
    assert all(pieces)
    assert generation.ids == wanted["ids"]
    assert generation.prompt_ids == wanted["prompt_ids"]
    assert generation.finish_reason == wanted["ended_by"]
    assert model.complete(prompt, max_tokens=40, temperature=0) == wanted["text"]


def test_drawn_texts_are_the_commands(model, demo, cli):
    options = dict(temperature=1.3, top_k=11, top_p=0.9, min_p=0.01, repeat_penalty=1.2)
    wanted = cli(
        *["run", str(demo), "--prompt", "She", "-n", "60", "--seed", "7", "--json", "--temp", "1.3"],
        *["--top-k", "11", "--top-p", "0.9", "--min-p", "0.01", "--repeat-penalty", "1.2"],
    )
    wanted = json.loads(wanted)["text"]
    assert model.complete("She", max_tokens=60, seed=7, **options) == wanted
    assert model.complete("She", max_tokens=60, seed=8, **options) != wanted


def test_a_stop_string_ends_before_itself(model):
    whole = model.complete("It is", max_tokens=60, temperature=0)
    stop = whole[10:14]
    generation = model.generate("It is", max_tokens=60, temperature=0, stop=[stop])
    assert "".join(generation) == whole[: whole.index(stop)]
    assert generation.finish_reason == "stop"


def test_nothing_runs_before_it_is_asked_for(model):
    generation = model.generate("It is", max_tokens=5, temperature=0)
    assert iter(generation) is generation
    assert generation.ids == [] and generation.finish_reason is None
    first = next(generation)
    assert first and len(generation.ids) >= 1
    rest = list(generation)
    assert first + "".join(rest) == model.complete("It is", max_tokens=5, temperature=0)
    assert len(generation.ids) == 5 and generation.finish_reason == "limit"
    with pytest.raises(StopIteration):
        next(generation)


def test_ids_are_a_prompt_too(model):
    ids = model.tokenize("It is a truth")
    assert model.complete(ids, max_tokens=9, temperature=0) == model.complete(
        "It is a truth", max_tokens=9, temperature=0
    )


def test_no_tokens_are_no_text(model):
    generation = model.generate("It is", max_tokens=0)
    assert list(generation) == [] and generation.finish_reason == "limit" and generation.ids == []


def test_a_full_context_is_an_end(demo):
    model = pith.Model.load(demo, n_ctx=24)
    assert model.n_ctx == 24
    ids = model.tokenize("It is a truth")
    generation = model.generate(ids, max_tokens=100, temperature=0)
    text = "".join(generation)
    assert generation.finish_reason == "full"
    # The last token needs no room.
    assert len(generation.ids) == 24 - len(ids) + 1
    assert pith.Model.load(demo).complete(ids, max_tokens=100, temperature=0).startswith(text)
    with pytest.raises(pith.ContextFullError, match="24 fit"):
        model.complete([5] * 25)
    assert model.complete("It is", max_tokens=3, temperature=0)


def test_a_random_seed_is_told(model):
    generation = model.generate("It is", max_tokens=30, temperature=1.5)
    text = "".join(generation)
    assert model.complete("It is", max_tokens=30, temperature=1.5, seed=generation.seed) == text
    assert model.generate("It is").seed != generation.seed


def test_generations_do_not_disturb_each_other(model):
    prompts = ["It is a truth", "It is a", "She was", "It is a truth universally"]
    wanted = [model.complete(p, max_tokens=20, temperature=0) for p in prompts]
    running = [model.generate(p, max_tokens=20, temperature=0) for p in prompts]
    texts = [""] * len(prompts)
    live = set(range(len(prompts)))
    while live:
        for at in sorted(live):
            piece = next(running[at], None)
            if piece is None:
                live.discard(at)
            else:
                texts[at] += piece
    assert texts == wanted
    # One that is left behind gives its session back.
    abandoned = model.generate("It is", temperature=0)
    next(abandoned)
    del abandoned
    assert model.complete(prompts[0], max_tokens=20, temperature=0) == wanted[0]


def test_control_tokens_of_a_prompt_can_be_text(model):
    special = model.detokenize([i for i in range(model.info.n_vocab)][:1], show_special=True)
    if not special.startswith("<"):
        pytest.skip("the demo's first token is no control token")
    parsed = model.generate(special + "It is").prompt_ids
    plain = model.generate(special + "It is", parse_special=False).prompt_ids
    assert len(parsed) < len(plain)
