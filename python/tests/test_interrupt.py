"""Ctrl-C. Signals are sent by timers or by the process itself, each in an interpreter of its own."""

import pytest

HEAD = """
import os, signal, sys, threading, time
import pith
model = pith.Model.load(sys.argv[1], n_threads=1)

def alarm(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, alarm)

def interrupted(call, after=0.05):
    "What an interruption of a call leaves: whether there was one."
    signal.setitimer(signal.ITIMER_REAL, after)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return False

wanted = model.complete("It is a truth", max_tokens=8, temperature=0)
"""

CALLS = {
    "generate": "lambda: [model.complete('It is', max_tokens=1000, temperature=1) for _ in range(10**6)]",
    # Prompts that differ from their first token, so that nothing of one is held already.
    "a long prompt": "lambda: [next(model.generate([7 + i % 99] + list(range(100, 340)) * 2)) for i in range(10**6)]",
    "logits": "lambda: [model.logits([7 + i % 99] + [9] * 400) for i in range(10**6)]",
    "all logits": "lambda: [model.logits([9] * 400, all=True) for i in range(10**6)]",
    "score": "lambda: model.score([f'It is {i} truth' for i in range(200_000)])",
    "embed": "lambda: model.embed(['It is a truth ' * 30] * 100_000)",
    "classify": "lambda: model.classify([f'It is {i}' for i in range(50_000)], labels=['a', 'b'])",
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_is_interrupted_and_the_model_stays_usable(demo, python, call):
    done = python(
        HEAD
        + f"""
assert interrupted({call}, 0.4)
assert model.complete("It is a truth", max_tokens=8, temperature=0) == wanted
assert len(model.score(["It is a truth"])) == 1 and model.embed(["It"]).shape[0] == 1
assert model.logits([1, 2, 3]).shape == (model.info.n_vocab,)
""",
        str(demo),
    )
    assert done.returncode == 0, done.stderr


def test_one_long_prompt_is_interrupted_in_its_middle(deep, python):
    # The whole prompt is one call of the runtime: the handler runs while that works, and
    # what it raises comes out of that call, which has chosen no token.
    done = python(
        HEAD
        + """
ids = list(range(100, 600))
began = time.monotonic()
model.logits(ids)
whole = time.monotonic() - began
generation = model.generate([8] + ids[:-1], max_tokens=4)
assert interrupted(lambda: next(generation), whole / 4)
# An answer that was there before the handler ran would have a token.
assert generation.ids == [] and generation.finish_reason is None
try:
    next(generation)
except StopIteration:
    pass
else:
    raise AssertionError("a generation that was interrupted goes on")
assert model.complete("It is a truth", max_tokens=8, temperature=0) == wanted
""",
        str(deep),
    )
    assert done.returncode == 0, done.stderr


def test_sigint_from_outside(demo, python):
    done = python(
        HEAD
        + """
threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
pieces = []
try:
    while True:
        for piece in model.generate("It is", max_tokens=100, seed=1):
            pieces.append(piece)
except KeyboardInterrupt:
    pass
assert pieces
assert model.complete("It is a truth", max_tokens=8, temperature=0) == wanted
print("survived")
""",
        str(demo),
    )
    assert (done.returncode, done.stdout) == (0, "survived\n"), done.stderr


def test_a_handler_may_raise_anything(demo, python):
    done = python(
        HEAD
        + """
class Deadline(Exception):
    pass
def late(*_):
    raise Deadline("too late")
signal.signal(signal.SIGALRM, late)
try:
    interrupted(lambda: model.score([f"It is {i} truth" for i in range(200_000)]), 0.3)
except Deadline as error:
    print(error)
""",
        str(demo),
    )
    assert (done.returncode, done.stdout) == (0, "too late\n"), done.stderr
