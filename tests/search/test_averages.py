"""The running average is the merge, bit for bit, and one addition a model."""

from __future__ import annotations

import tracemalloc

import ml_dtypes
import numpy as np
import pytest

import stockpot as sp
from stockpot.errors import ExecutionError, PlanError
from stockpot.evaluate import candidate
from stockpot.search import RunningAverage


def model(seed, dtype=np.float32, **changed):
    rng = np.random.default_rng(seed)
    return {
        "w": rng.normal(size=(30, 40)).astype(dtype),
        "half": rng.normal(size=17).astype(np.float16),
        "count": np.array([seed, 7]),
    } | changed


def opened(arrays):
    return candidate(sp.open(arrays)).opened()


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16], ids=lambda d: d.__name__)
def test_it_is_a_linear_merge_bit_for_bit(dtype):
    """Of every number of models in order, those that were not kept left out; integers are those of the first."""
    models = [model(i, dtype) for i in range(7)]
    running = RunningAverage(opened(models[0]))
    members = [models[0]]
    for i, theta in enumerate(models[1:], 1):
        mean = sp.compute(running.tried(opened(theta)))
        wanted = sp.compute(sp.linear(*(sp.open(m, name=str(j)) for j, m in enumerate([*members, theta]))))
        assert list(mean) == list(wanted)
        for name in wanted:
            assert mean[name].dtype == wanted[name].dtype
            assert mean[name].tobytes() == wanted[name].tobytes()
        if i != 3:
            running.keep()
            members.append(theta)


def test_bfloat16_is_rounded_once():
    """(1 + 2^-8 + 2^-30) is above a tie of bfloat16, and would be on it after a stop at float32."""
    one, other = (np.array([v], np.float64) for v in (1.0, 1 + 2**-7 + 2**-29))
    first = opened({"w": one.astype(ml_dtypes.bfloat16)})
    mean = sp.compute(RunningAverage(first).tried(opened({"w": other})))["w"]
    assert float(mean[0]) == 1 + 2**-7


def test_memory_does_not_grow_with_the_number_of_models():
    """At its peak, eleven models take what three take."""

    def peak(count):
        tracemalloc.start()
        running = RunningAverage(opened(large(0)))
        for i in range(1, count):
            sp.compute(running.tried(opened(large(i))))
            running.keep()
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    def large(seed):
        return {"w": np.full(1_000_000, seed, np.float32)}

    peak(2)  # what is compiled or imported at first
    assert peak(11) < peak(3) + 8_000_000  # eight more models are 32 MB


@pytest.mark.parametrize(
    ("changed", "kind", "told"),
    [
        ({"w": np.zeros((30, 41), np.float32)}, PlanError, r"\(30, 40\) and \(30, 41\)"),
        ({"more": np.zeros(3, np.float32)}, PlanError, r"absent and \(3,\)"),
        ({"w": np.full((30, 40), np.nan, np.float32)}, ExecutionError, "NaN"),
    ],
    ids=["shape", "name", "nan"],
)
def test_models_that_do_not_fit(changed, kind, told):
    """Are errors that name the tensor; the sum is as it was."""
    running = RunningAverage(opened(model(0)))
    with pytest.raises(kind, match=told) as caught:
        running.tried(opened(model(1, **changed)))
    assert caught.value.problems[0].tensor in changed
    mean = sp.compute(running.tried(opened(model(1))))
    assert np.array_equal(mean["w"], sp.compute(sp.linear(sp.open(model(0)), sp.open(model(1), name="b")))["w"])
