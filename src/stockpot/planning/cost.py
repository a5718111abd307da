"""What a merge will take: bytes, passes, memory, disk, time. Estimated from the plan, honestly rounded up."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from stockpot.checkpoint.writer import ShardLayout
from stockpot.methods.declare import axis_of
from stockpot.methods.registry import METHODS
from stockpot.planning.blocks import grid_of, row_length
from stockpot.planning.model import Compute, Cost, Limits, Operand, Read, Step

__all__ = ["estimate", "free_bytes", "nearest"]

BASELINE = 190 << 20
"""Resident bytes of the process itself: Python, NumPy, the compiled kernels (measured)."""

RATE = 4e9
"""Bytes per second read or written from and to the page cache that the time estimate assumes."""

_COLLECTED = 8 << 20


def estimate(steps: Sequence[Step], shards: Sequence[ShardLayout], limits: Limits, out: Path | None) -> Cost:
    """The cost of ``steps``; as many threads as fit the budget, at least one."""
    read = sum(s.input_bytes for s in steps)
    written = sum(shard.size for shard in shards)
    worker = max((_worker_bytes(s) for s in steps), default=0)
    shared = max((_shared_bytes(s) for s in steps), default=0)
    room = limits.memory - BASELINE - 2 * shared
    threads = max(1, min(limits.threads, room // worker if worker else limits.threads))
    return Cost(
        read=read,
        written=written,
        passes=max((s.passes for s in steps), default=0),
        memory=BASELINE + shared * 2 + worker * threads,
        threads=threads,
        disk_free=free_bytes(out) if out is not None else None,
        seconds=(read + written) / RATE,
        assumed_rate=RATE,
    )


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk of ``folder``, or of its nearest existing parent."""
    return shutil.disk_usage(nearest(folder)).free


def nearest(folder: Path) -> Path:
    """``folder`` itself, or its nearest parent that exists (as far as one is allowed to see)."""
    place = folder.resolve()
    while not os.path.lexists(place):
        place = place.parent
    return place


def _worker_bytes(step: Step) -> int:
    """A worker's buffers: a block of every input, of every intermediate, of the output, and scratch."""
    elements = _block_elements(step)
    return _block_bytes(step.source, elements) + elements * 8 + (1 << 20)


def _block_elements(step: Step) -> int:
    return min(max(1, step.elements), grid_of(step.source, step.shape).size)


def _block_bytes(source: Operand, elements: int) -> int:
    if isinstance(source, Read):
        return 0
    widths = [c.dtype.itemsize if isinstance(c, Read) else 8 for c in source.operands]
    own = max(widths, default=8) * len(widths) * elements
    keys = 4 * len(source.inputs) * elements
    return own + keys + sum(_block_bytes(c, elements) for c in source.operands if isinstance(c, Compute))


def _shared_bytes(step: Step) -> int:
    """What is kept per tensor while it is worked on: collected keys; inner products of rows or columns."""
    source = step.source
    if isinstance(source, Read) or step.passes == 1:
        return 0
    method = METHODS.get(source.method)
    axis = axis_of(method, source.resolved)
    if axis == "tensor":
        return len(source.inputs) * min(_COLLECTED, step.elements * 4)
    groups = step.elements // row_length(step.shape, "row") if axis == "row" else row_length(step.shape, "column")
    return 3 * groups * len(source.inputs) ** 2 * 8
