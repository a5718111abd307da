"""How a tensor is cut into blocks."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm, prod

from stockpot.methods.declare import axis_of
from stockpot.planning.model import Compute, Operand

__all__ = ["BLOCK", "Grid", "grid_of", "grid_within", "row_length"]

BLOCK = 1 << 18
"""Elements of a block. It is the unit of every sum over a tensor, so results do not depend on memory
or threads; half a MiB of bf16 per input keeps the working set in the caches."""


@dataclass(frozen=True)
class Grid:
    """A tensor's blocks: ``size`` elements each, the last one shorter."""

    elements: int
    size: int

    @property
    def count(self) -> int:
        """Number of blocks."""
        return -(-self.elements // self.size)

    def block(self, index: int) -> tuple[int, int]:
        """(first element, number of elements) of a block."""
        start = index * self.size
        return start, min(self.size, self.elements - start)


def grid_of(source: Operand, shape: tuple[int, ...]) -> Grid:
    """The blocks in which ``source`` is computed: whole rows where a method works along rows or columns."""
    elements = prod(shape)
    unit = lcm(*_units(source))
    return Grid(elements, max(1, BLOCK // unit) * unit)


def grid_within(grid: Grid, node: Compute, child: Compute) -> Grid:
    """The blocks in which an operand of ``node`` is computed: the same ``grid``, but for other shapes under a form."""
    return grid if child.shape == node.shape or node.form is None else grid_of(child, child.shape)


def row_length(shape: tuple[int, ...], axis: str) -> int:
    """Elements between the starts of two rows: along the last dimension, or all but the first."""
    if not shape:
        return 1
    return max(1, shape[-1] if axis == "row" else prod(shape[1:]))


def _units(source: Operand) -> list[int]:
    if not isinstance(source, Compute):
        return []
    found = [unit for child in source.operands for unit in _units(child)]
    if source.form is not None:
        found.append(max(1, source.form.unit(source.shape)))
    axis = axis_of(source.method, source.resolved)
    if axis != "tensor":
        found.append(row_length(source.shape, axis))
    return found
