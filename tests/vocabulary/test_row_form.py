"""Tensors made of rows of others: every element is what a plain reading of the map gives, however they are cut."""

from __future__ import annotations

import numpy as np
import pytest

from stockpot.checkpoint.dtypes import DTYPES
from stockpot.checkpoint.model import from_arrays
from stockpot.execute.local import compute
from stockpot.planning.cost import estimate
from stockpot.planning.model import Compute, Limits, Plan, Read, Step
from stockpot.planning.passes import passes_of
from stockpot.planning.tokens.rows import MEAN, RowMap, SparseRows, row_map


def made(
    arrays: list[np.ndarray], rows: RowMap, *, threads: int = 2, code: str = "F64", mean_of: int = 0, deep: bool = False
) -> np.ndarray:
    """The tensor that ``rows`` of ``arrays`` make, by the whole machinery."""
    columns = int(np.prod(arrays[0].shape[1:]))
    operands: list[Read | Compute] = []
    for i, array in enumerate(arrays):
        read = Read(from_arrays(f"m{i}", {"w": array}).tensors["w"], f"m{i}")
        operands.append(Compute(None, (read,), array.shape, factors=(1.0,)) if deep else read)
    shape = (rows.count, *arrays[0].shape[1:])
    node = Compute(None, tuple(operands), shape, form=SparseRows(rows, columns, mean_of), key=("w", 0))
    step = Step("w", DTYPES[code], shape, node, passes=passes_of(node))
    cost = estimate([step], [], [], Limits(threads=threads), None)
    return np.asarray(compute(Plan((step,), (), (), {}, cost))["w"])


def plain(arrays: list[np.ndarray], rows: RowMap, mean_of: int) -> np.ndarray:
    """The same, entry by entry, in float64."""
    out = np.zeros((rows.count, *arrays[0].shape[1:]))
    for r in range(rows.count):
        for e in range(rows.starts[r], rows.starts[r + 1]):
            source = arrays[rows.operands[e]].astype(np.float64)
            row = source[:mean_of].mean(axis=0) if rows.rows[e] == MEAN else source[rows.rows[e]]
            out[r] = out[r] + rows.factors[e] * row
    return out


def scattered(rng: np.random.Generator, count: int, sizes: list[int], most: int) -> RowMap:
    """A map of runs, single copies, sums of up to ``most`` rows, and rows of zeros."""
    starts, operands, rows, factors = [0], [], [], []
    place = 0
    while len(starts) <= count:
        kind = rng.integers(4)
        if kind == 0:
            for _ in range(int(rng.integers(1, 9))):
                operands.append(0)
                rows.append(place % sizes[0])
                factors.append(1.0)
                starts.append(len(rows))
                place += 1
            continue
        many = {1: 1, 2: int(rng.integers(0, most + 1)), 3: 0}[int(kind)]
        for _ in range(many):
            operand = int(rng.integers(len(sizes)))
            operands.append(operand)
            rows.append(int(rng.integers(sizes[operand])))
            factors.append(1.0 if kind == 1 else float(rng.normal()))
        starts.append(len(rows))
    stop = starts[count]
    return row_map(starts[: count + 1], operands[:stop], rows[:stop], factors[:stop])


@pytest.mark.parametrize("columns", [1, 3, 700])
@pytest.mark.parametrize("deep", [False, True], ids=["stored", "computed"])
def test_every_element_is_the_sum_of_its_rows(columns: int, deep: bool) -> None:
    """Runs, single rows, sums of 64 rows and rows of zeros, of operands of several sizes; stored or computed."""
    rng = np.random.default_rng(columns)
    arrays = [rng.normal(size=(n, columns)) for n in (500, 317, 41)]
    rows = scattered(rng, 1201, [500, 317, 41], 64)
    expected = plain(arrays, rows, 0)
    assert np.array_equal(made(arrays, rows, deep=deep), expected)


def test_blocks_that_end_within_rows_change_nothing() -> None:
    """Blocks of 2^18 elements end within rows of 1000 elements; the result does not depend on threads."""
    rng = np.random.default_rng(5)
    arrays = [rng.normal(size=(900, 1000)).astype(np.float32), rng.normal(size=(60, 1000)).astype(np.float16)]
    rows = scattered(rng, 1000, [900, 60], 5)
    one, three = (made(arrays, rows, threads=t, code="F32") for t in (1, 3))
    assert one.tobytes() == three.tobytes()
    assert np.array_equal(one, plain(arrays, rows, 0).astype(np.float32))


def test_the_mean_row() -> None:
    """Of the first operand's first rows, with a factor or without."""
    rng = np.random.default_rng(6)
    arrays = [rng.normal(size=(37, 20)), rng.normal(size=(5, 20))]
    rows = row_map([0, 1, 2, 4], [0, 0, 0, 1], [3, MEAN, MEAN, 2], [1.0, 1.0, 0.5, 2.0])
    assert np.allclose(made(arrays, rows, mean_of=30), plain(arrays, rows, 30), rtol=1e-15, atol=0)


def test_a_bias_has_rows_of_one_element() -> None:
    """Also one that is stored as a row."""
    bias = np.arange(10.0)
    rows = row_map([0, 1, 2, 2], [0, 0], [9, 0])
    assert made([bias], rows).tolist() == [9.0, 0.0, 0.0]


def test_equal_maps_are_equal_and_say_little() -> None:
    """A plan's fingerprint holds the map's digest, not its arrays."""
    one, other = row_map([0, 1], [0], [4]), row_map([0, 1], [0], [5])
    assert one == row_map([0, 1], [0], [4]) != other
    assert len(repr(SparseRows(one, 8))) < 200
    assert repr(SparseRows(one, 8)) != repr(SparseRows(other, 8))


def test_a_map_that_several_tensors_share_is_counted_once() -> None:
    """In the memory that a plan tells."""
    rows = row_map(range(200_001), [0] * 200_000, range(200_000))
    read = Read(from_arrays("m", {"w": np.zeros((200_000, 1), np.float32)}).tensors["w"], "m")
    steps = [
        Step(name, DTYPES["F32"], (200_000, 1), Compute(None, (read,), (200_000, 1), form=SparseRows(rows, 1)))
        for name in ("a", "b")
    ]
    one, two = (estimate(steps[:n], [], [], Limits(), None).memory for n in (1, 2))
    assert one > rows.nbytes
    assert two - one < 100_000
