"""What a merge will take: bytes, passes, memory, disk, time. Estimated from the plan, honestly rounded up."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from math import prod
from pathlib import Path

from stockpot.checkpoint.writer import ShardLayout
from stockpot.methods.declare import Blockwise, Elementwise, Matrix, Span, axis_of, solves
from stockpot.methods.elementwise.operation import Ranks
from stockpot.methods.elementwise.program import program_of
from stockpot.planning.blocks import BLOCK, Grid, grid_of, operand_grid, row_length
from stockpot.planning.model import Compute, Cost, Limits, Operand, Read, Step, Survey

__all__ = ["BASELINE", "estimate", "free_bytes", "nearest"]

BASELINE = 190 << 20
"""Resident bytes of the process itself: Python, NumPy, the compiled kernels (measured)."""

RATE = 4e9
"""Bytes per second read or written from and to the page cache that the time estimate assumes."""

FLOPS = 3e10
"""Operations per second of one thread in LAPACK that the time estimate assumes."""

_PER_UNIT = 6.0
"""Operations of a unit of work for rows × columns × the smaller of the two."""

_STEP, _NODE, _READ, _MEMBER = 2600, 1400, 1700, 2400
"""Bytes that a plan and the record of its execution take for each output tensor, each method applied, each tensor
read, each tensor surveyed (measured)."""

_NOTED = 200
"""Bytes that a selection notes of each block of each input."""

_COLLECTED_OF_A_BLOCK = 1 << 20
_COLLECTED = 8 << 20
_COLLECTED_OF_A_MODEL = 32 << 20
"""Bytes of keys that a selection keeps of each input, over a tensor of one block, over any, and over a model."""


def estimate(
    steps: Sequence[Step],
    surveys: Sequence[Survey],
    shards: Sequence[ShardLayout],
    limits: Limits,
    out: Path | None,
    held: int = 0,
) -> Cost:
    """The cost of ``steps``; as many threads as fit the budget, at least one. ``held`` bytes are taken beside."""
    read = sum(s.input_bytes for s in steps) + sum(s.input_bytes for s in surveys)
    written = sum(shard.size for shard in shards)
    needed = _needed(steps, surveys, held)
    threads = next((t for t in range(limits.threads, 1, -1) if needed(t) <= limits.memory), 1)
    return Cost(
        read=read,
        written=written,
        passes=max((s.passes for s in steps), default=0) + sum(s.passes for s in surveys),
        memory=needed(threads),
        threads=threads,
        disk_free=free_bytes(out) if out is not None else None,
        seconds=(read + written) / RATE
        + sum(_solving_seconds(s.source) + s.passes * _forming_seconds(s.source) for s in steps) / threads,
        assumed_rate=RATE,
    )


def _solving_seconds(source: Operand) -> float:
    """Rough time that matrix methods take for their decompositions, on one thread."""
    if isinstance(source, Read):
        return 0.0
    inner = sum(_solving_seconds(child) for child in source.operands)
    if not solves(source.method, source.resolved, source.shape):
        return inner
    assert source.method is not None
    assert isinstance(source.method.family, Matrix)
    assert source.resolved is not None
    rows, columns = source.shape
    units = source.method.family.units(source.resolved, (rows, columns))
    return inner + units * _PER_UNIT * rows * columns * min(rows, columns) / FLOPS


def _forming_seconds(source: Operand) -> float:
    """Rough time that forms take in one pass, on one thread."""
    if isinstance(source, Read):
        return 0.0
    inner = sum(map(_forming_seconds, source.operands))
    return inner if source.form is None else inner + source.form.seconds(source.shape)


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk of ``folder``, or of its nearest existing parent."""
    return shutil.disk_usage(nearest(folder)).free


def nearest(folder: Path) -> Path:
    """``folder`` itself, or its nearest parent that exists (as far as one is allowed to see)."""
    place = folder.resolve()
    while not os.path.lexists(place):
        place = place.parent
    return place


def _needed(steps: Sequence[Step], surveys: Sequence[Survey], held: int) -> Callable[[int], int]:
    """Number of workers → resident bytes. One worker finishes a tensor before the next; more have two under way."""
    fixed = BASELINE + held + _plan_bytes(steps, surveys)
    worker = max(map(_worker_bytes, steps), default=0)
    shared = max(map(_shared_bytes, steps), default=0)
    surveyed = max(map(_surveyed_bytes, surveys), default=0)
    return lambda threads: fixed + max(min(threads, 2) * shared, surveyed) + worker * threads


def _plan_bytes(steps: Sequence[Step], surveys: Sequence[Survey]) -> int:
    """What the plan itself weighs, with what is noted of every tensor: little, unless there are very many."""
    members = sum(len(survey.members) for survey in surveys)
    held = dict(pair for step in steps for pair in _held(step.source))
    own = _STEP * len(steps) + sum(_node_bytes(step.source) for step in steps)
    return own + _MEMBER * members + sum(held.values())


def _held(source: Operand) -> Iterator[tuple[object, int]]:
    """What forms hold below ``source``: key and bytes."""
    if isinstance(source, Compute):
        if source.form is not None:
            yield source.form.held
        for child in source.operands:
            yield from _held(child)


def _node_bytes(source: Operand) -> int:
    return _READ if isinstance(source, Read) else _NODE + sum(map(_node_bytes, source.operands))


def _worker_bytes(step: Step) -> int:
    """A worker's buffers: a block of every input, of every intermediate, of the output, keys of a block, scratch."""
    elements = _block_elements(step)
    searches = _searches(step.source) if step.passes > 1 else 0
    keys = searches * min(_COLLECTED_OF_A_BLOCK, 4 * _widest(step))
    return _block_bytes(step.source, elements) + elements * 8 + keys + (1 << 20)


def _widest(step: Step) -> int:
    """Elements of the tensor that is computed, which may be larger than what is written of it."""
    source = step.source
    if isinstance(source, Read) or source.form is None or source.form.reduced is None:
        return step.elements
    return operand_grid(source, source.inputs[0], Grid(0, 1)).elements


def _block_elements(step: Step) -> int:
    return min(max(1, step.elements), grid_of(step.source, step.shape).size)


def _block_bytes(source: Operand, elements: int) -> int:
    if isinstance(source, Read):
        return 0
    widths = [c.dtype.itemsize if isinstance(c, Read) else 8 for c in source.operands]
    if source.form is not None:
        if source.form.reduced is not None:
            below = operand_grid(source, source.inputs[0], Grid(0, 1))
            elements = min(below.elements, below.size)
        own = source.form.block_bytes(source.shape, widths, elements)
    else:
        own = max(widths, default=8) * len(widths) * elements + _family_bytes(source, elements)
    grid = Grid(elements, elements)
    inner = [(c, max(elements, operand_grid(source, c, grid).size)) for c in source.operands if isinstance(c, Compute)]
    return own + sum(_block_bytes(c, most) + 8 * (most - elements) for c, most in inner)


def _family_bytes(source: Compute, elements: int) -> int:
    """What a method holds beside the bytes of its inputs: keys, prepared numbers, whole matrices."""
    family = source.method.family if source.method is not None else None
    count, size = len(source.inputs), prod(source.shape)
    if isinstance(family, Elementwise):
        return (8 + 4 + (8 if axis_of(source.method, source.resolved) == "row" else 0)) * count * elements
    if isinstance(family, Blockwise):
        return 8 * (2 * count + 2) * (size if family.whole else elements)
    if isinstance(family, Matrix) and solves(source.method, source.resolved, source.shape):
        assert source.resolved is not None
        rows, columns = source.shape
        beside = sum(prod(c.ref.shape) for c in source.companions if isinstance(c, Read))
        return 8 * (count * size + beside + family.copies(source.resolved, (rows, columns)) + size)
    return 4 * count * elements


def _shared_bytes(step: Step) -> int:
    """What is kept per tensor while it is worked on: collected keys; inner products of rows or columns."""
    return _selected_bytes(step) + _products_bytes(step.source) + _formed_bytes(step.source)


def _formed_bytes(source: Operand) -> int:
    """What forms keep of the tensor."""
    if isinstance(source, Read):
        return 0
    inner = sum(map(_formed_bytes, source.operands))
    return inner if source.form is None else inner + source.form.shared_bytes(source.shape)


def _selected_bytes(step: Step) -> int:
    """Keys that selections keep of a tensor, twice where they are sorted, and what they note of its blocks."""
    searches = _searches(step.source) if step.passes > 1 else 0
    if not searches:
        return 0
    elements = _widest(step)
    return (searches + 1) * min(_COLLECTED, 4 * elements) + _NOTED * searches * (elements // BLOCK)


def _searches(source: Operand) -> int:
    """Most searches for order statistics that go on at once in a tensor, those over the whole model left out."""
    if isinstance(source, Read):
        return 0
    own = 0 if source.group else _own_searches(source)
    return max(own, *map(_searches, source.operands))


def _own_searches(source: Compute) -> int:
    """Order statistics that a method needs at once: one of each input for most, two for a band."""
    if source.method is None or source.resolved is None or not isinstance(source.method.family, Elementwise):
        return 0
    operations = program_of(source.method.family, source.resolved, len(source.inputs)).operations
    needs = [need for op in operations for need in op.needs if isinstance(need, Ranks) and not need.idle]
    elements = prod(source.shape)
    return max((len(need.wanted(elements)) for need in needs), default=0)


def _products_bytes(source: Operand) -> int:
    """Inner products of all pairs of inputs, for every row or column."""
    if isinstance(source, Read):
        return 0
    inner = sum(map(_products_bytes, source.operands))
    axis = axis_of(source.method, source.resolved)
    if axis == "tensor" or source.method is None or not isinstance(source.method.family, Span):
        return inner
    shape = source.shape
    groups = prod(shape) // row_length(shape, "row") if axis == "row" else row_length(shape, "column")
    return inner + 3 * groups * len(source.inputs) ** 2 * 8


def _surveyed_bytes(survey: Survey) -> int:
    """What is kept while the whole model is surveyed: collected keys, and a few numbers for each block."""
    elements = sum(prod(m.shape) for m in survey.members.values())
    blocks = sum(grid_of(m, m.shape).count for m in survey.members.values())
    searches = max(map(_own_searches, survey.members.values()))
    kept = (searches + 1) * min(_COLLECTED_OF_A_MODEL, 4 * elements) if searches else 0
    return kept + _NOTED * max(len(m.inputs) for m in survey.members.values()) * blocks
