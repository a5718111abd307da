"""Blocks of many tensors on a few threads: every one once, phases in turn, the first error ends it all."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpot.execute.evaluate import Phase
from stockpot.execute.schedule import run_all

shapes = st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=12)


def recorded(shape, log, fail=None):
    """Phases of one tensor with so many blocks each, which write down what they do."""
    name, counts = shape
    for number, count in enumerate(counts):

        def run(block, _space, _tick, number=number):
            if fail == (name, number, block):
                raise ValueError(f"block {block}")
            log.append(("run", name, number, block))

        def finish(number=number):
            log.append(("finish", name, number))

        yield Phase(f"{name}", count, run, finish)


@given(shapes, st.integers(1, 6))
def test_every_block_runs_once_and_phases_follow_each_other(counts, threads):
    """Each phase's blocks all run, once, before its finish, which comes before the next phase's first block."""
    log = []
    run_all((recorded(shape, log) for shape in enumerate(counts)), threads)
    for name, phases in enumerate(counts):
        own = [e for e in log if e[1] == name]
        for number, blocks in enumerate(phases):
            part, own = own[: blocks + 1], own[blocks + 1 :]
            assert sorted(part[:-1]) == [("run", name, number, b) for b in range(blocks)]
            assert part[-1] == ("finish", name, number)
        assert own == []


def test_tensors_are_worked_on_in_parallel():
    """Four threads wait for each other inside blocks of one tensor; fewer at a time would never end."""
    barrier = threading.Barrier(4, timeout=20)
    phase = Phase("meet", 8, lambda _block, _space, _tick: barrier.wait() and None, lambda: None)
    run_all(iter([iter([phase])]), 4)


def test_tensors_are_begun_lazily():
    """A tensor is begun when its turn comes: a thousand of them are never open together."""
    begun, most = [0], [0]

    def tensor():
        begun[0] += 1

        def finish():
            begun[0] -= 1

        most[0] = max(most[0], begun[0])
        yield Phase("one", 2, lambda _block, _space, _tick: None, finish)

    run_all((tensor() for _ in range(1000)), 3)
    assert begun[0] == 0
    assert most[0] <= 6


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("where", ["run", "finish", "phases", "begin"])
def test_the_first_error_ends_the_work(where, threads):
    """Whatever raises, in whichever thread: run_all raises it, after all threads have stopped."""
    log = []

    def failing():
        if where == "begin":
            raise KeyError("begin")

        def run(block, _space, _tick):
            log.append(block)
            if where == "run" and block == 1:
                raise KeyError("run")

        def finish():
            if where == "finish":
                raise KeyError("finish")

        yield Phase("a", 3, run, finish)
        if where == "phases":
            raise KeyError("phases")

    before = threading.active_count()
    many = (recorded((i, [2] * 3), log) for i in range(2000))

    def runs():
        yield recorded(("first", [1]), log)
        yield failing()
        yield from many

    with pytest.raises(KeyError, match=where):
        run_all(runs(), threads)
    assert threading.active_count() == before
    assert len(log) < 2000


def test_poll_runs_in_the_calling_thread_and_may_stop_the_work():
    """Progress is told from the caller's thread about ten times a second; an interrupt there stops the threads."""
    told = []

    def poll():
        told.append(threading.current_thread())
        if len(told) == 3:
            raise KeyboardInterrupt

    phase = Phase("slow", 10_000, lambda _block, _space, _tick: time.sleep(0.005), lambda: None)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_all(iter([iter([phase])]), 2, poll)
    assert time.monotonic() - started < 10
    assert set(told) == {threading.main_thread()}
