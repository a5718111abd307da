"""A tensor with normal numbers added to it, any range of elements at a time."""

from __future__ import annotations

import numpy as np

from stockpot.checkpoint.reader import PayloadReader
from stockpot.execute.evaluate import Bytes, Evaluator
from stockpot.execute.rows import random_key
from stockpot.execute.workspace import Workspace
from stockpot.kernels import convert
from stockpot.kernels.random import philox_block
from stockpot.kernels.sizes import ROW
from stockpot.methods.declare import Floats
from stockpot.planning.blocks import Grid
from stockpot.planning.forms import Noise
from stockpot.planning.model import Compute, Read

__all__ = ["Noisy", "normal_numbers"]


def normal_numbers(start: int, n: int, name: str, seed: int, label: str) -> Floats:
    """Standard normal numbers ``start`` … ``start + n`` of a sequence, by Box and Muller.

    A pure function of its arguments: number i is made of word i of two Philox streams, keyed by name, seed and label.

    >>> bool((normal_numbers(0, 9, "w", 0, "a")[5:] == normal_numbers(5, 4, "w", 0, "a")).all())
    True
    """
    first, last = start // ROW, -(-(start + n) // ROW)
    places = slice(start - first * ROW, start - first * ROW + n)
    words = np.empty(max(1, last - first) * ROW, np.uint32)
    philox_block(first, last - first, *random_key(name, seed, f"{label} radius"), words)
    radius = np.sqrt(-2.0 * np.log((words[places].astype(np.float64) + 1.0) * 2.0**-32))
    philox_block(first, last - first, *random_key(name, seed, f"{label} angle"), words)
    values: Floats = radius * np.cos(2.0 * np.pi * (words[places].astype(np.float64) * 2.0**-32))
    return values


class Noisy(Evaluator):
    """Its input plus noise, times a factor."""

    def __init__(
        self, node: Compute, grid: Grid, reader: PayloadReader, children: tuple[Evaluator | Read, ...]
    ) -> None:
        super().__init__(node, grid, reader, children)
        assert isinstance(node.form, Noise)
        self._noise = node.form

    def compute(self, start: int, n: int, space: Workspace, out: Bytes, code: int) -> bool:
        """A block of (input + deviation · normal) · factor."""
        values: Floats = space.take(("noisy", self.height), (n,), np.float64)
        convert.widen_block(self.gather(start, n, space)[0], int(self.codes[0]), n, values, np.zeros(ROW))
        name, seed = self.node.key
        values += self._noise.deviation * normal_numbers(start, n, name, seed, self.node.labels[0])
        values *= self._noise.factor
        return bool(convert.narrow_block(values, n, out, code))
