"""One model, many threads."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import pith


def work(model, at):
    """A bit of everything, which depends on `at`."""
    prompt = "It is a truth " + "so " * (at % 4)
    return (
        model.complete(prompt, max_tokens=24, temperature=0.9, seed=at % 4),
        [score.log_prob for score in model.score([prompt, prompt + " he said"])],
        model.embed([prompt]).tobytes(),
        model.logits(model.tokenize(prompt), all=True).tobytes(),
        model.classify([prompt], labels=["man", "woman"])[0].logits.tobytes(),
    )


def test_eight_threads_get_what_one_gets(demo):
    model = pith.Model.load(demo, n_threads=2)
    wanted = [work(model, at) for at in range(4)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda at: work(model, at), range(24)))
    assert results == [wanted[at % 4] for at in range(24)]


def progress_during(call):
    """How often another thread's Python ran during a call."""
    count, done, ready = 0, threading.Event(), threading.Event()

    def counter():
        nonlocal count
        ready.set()
        while not done.wait(0.0005):
            count += 1

    thread = threading.Thread(target=counter)
    thread.start()
    try:
        ready.wait()
        before = count
        call()
        return count - before
    finally:
        done.set()
        thread.join()


def test_the_gil_is_released(deep):
    # A switch of threads that is forced by time would take longer than the whole test: another thread
    # runs during a call only if the call lets go of the GIL.
    model = pith.Model.load(deep, n_threads=1)
    ids = list(range(100, 400))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        assert progress_during(lambda: sum(range(1_000_000))) == 0
        assert progress_during(lambda: model.logits(ids)) > 0
        assert progress_during(lambda: model.logits(ids, all=True)) > 0
        assert progress_during(lambda: model.score(["It is a truth " * 10])) > 0
        assert progress_during(lambda: model.embed(["It is a truth " * 10])) > 0
        assert progress_during(lambda: model.complete("It is", max_tokens=10)) > 0
    finally:
        sys.setswitchinterval(interval)


def test_a_generation_is_one_threads_at_a_time(model):
    generation = model.generate("It is a truth", max_tokens=200, temperature=0)
    pieces, refusals = [], []

    def run():
        while True:
            try:
                piece = next(generation, None)
            except RuntimeError as error:
                refusals.append(str(error))
                continue
            if piece is None:
                return
            pieces.append(piece)

    threads = [threading.Thread(target=run) for _ in range(3)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len("".join(pieces)) == len(model.complete("It is a truth", max_tokens=200, temperature=0))
    assert all("another thread" in refusal for refusal in refusals)


def test_memory_is_counted_and_bounded(demo):
    model = pith.Model.load(demo, n_ctx=64)
    assert model.memory == 0
    plan = model.plan("generate")
    assert plan.total == plan.kv + plan.buffers + plan.scratch > 0
    model.complete("It is", max_tokens=2)
    assert model.memory == plan.total
    model.embed(["It is"])
    assert model.memory == plan.total + model.plan("embed").total

    # There is room for two texts or one embedding beside one, and idle sessions make room.
    tight = pith.Model.load(demo, n_ctx=64, max_memory=plan.total * 2)
    running = [tight.generate("It is", temperature=0) for _ in range(3)]
    assert next(running[0]) == next(running[1])
    try:
        next(running[2])
    except MemoryError as error:
        assert isinstance(error, pith.OutOfMemoryError) and "max_memory" in str(error)
    else:
        raise AssertionError("a third session was over the ceiling")
    assert tight.memory == plan.total * 2
    del running
    assert isinstance(tight.complete("It is", max_tokens=3), str)
    assert tight.memory <= plan.total * 2

    try:
        pith.Model.load(demo, n_ctx=64, max_memory=plan.total - 1)
    except pith.OutOfMemoryError as error:
        assert str(plan.total) in str(error)
    else:
        raise AssertionError("a model without room for a session was loaded")
    assert pith.Model.load(demo, n_ctx=64, max_memory=plan.total).complete("It", max_tokens=1) is not None


def test_calls_of_many_texts_run_as_many_as_there_is_room_for(demo):
    model = pith.Model.load(demo)
    limit = model.plan("score").total // 2
    bounded = pith.Model.load(demo, max_memory=limit)
    texts = [f"It is a truth {at}" for at in range(40)]
    assert bounded.plan("score").total <= limit
    sums = [score.log_prob for score in bounded.score(texts)]
    assert sums == [score.log_prob for score in model.score(texts)]
    assert bounded.memory <= limit


def test_a_forked_process_can_use_the_model(demo, python):
    done = python(
        """
import os, sys
import pith
model = pith.Model.load(sys.argv[1], n_threads=2)
def work():
    return model.complete("It is", max_tokens=9, seed=1), model.score(["It is"])[0].log_prob
wanted = work()
for _ in range(5):
    child = os.fork()
    if child == 0:
        os._exit(0 if work() == wanted else 1)
    assert os.waitpid(child, 0)[1] == 0
""",
        str(demo),
    )
    assert done.returncode == 0, done.stderr


def test_results_do_not_depend_on_threads_or_cache_reuse(demo):
    one, two = (pith.Model.load(demo, n_threads=n) for n in (1, 2))
    ids = one.tokenize("It is a truth universally acknowledged")
    assert (one.logits(ids) == two.logits(ids)).all()
    # The second time the prompt's beginning is held already.
    assert (one.logits(ids) == one.logits(ids)).all()
    assert np.isfinite(one.logits(ids)).all()
