"""How a tensor is cut into blocks."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm, prod

from stockpot.methods.declare import axis_of
from stockpot.planning.model import Compute, Operand

__all__ = ["BLOCK", "Grid", "grid_of", "operand_grid", "row_length"]

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
    form = source.form if isinstance(source, Compute) else None
    if isinstance(source, Compute) and form is not None and form.reduced is not None:
        each, become = form.reduced
        most = operand_grid(source, source.inputs[0], Grid(elements, 1)).size // each * become
        return Grid(elements, most if become else max(1, elements))
    return _grid(elements, lcm(*_units(source)))


def operand_grid(node: Compute, operand: Operand, grid: Grid) -> Grid:
    """The blocks in which an operand of ``node`` is computed, which itself is computed in those of ``grid``.

    They are the same, but under a form that moves elements, and under one whose result is smaller: block i of that is
    made of block i of its operand.
    """
    if node.form is None:
        return grid
    shape = operand.shape if isinstance(operand, Compute) else operand.ref.shape
    if node.form.reduced is not None:
        return _grid(prod(shape), lcm(node.form.reduced[0], *_units(operand)))
    return grid_of(operand, shape) if node.form.moves else grid


def _grid(elements: int, unit: int) -> Grid:
    return Grid(elements, max(1, BLOCK // unit) * unit)


def row_length(shape: tuple[int, ...], axis: str) -> int:
    """Elements between the starts of two rows: along the last dimension, or all but the first."""
    if not shape:
        return 1
    return max(1, shape[-1] if axis == "row" else prod(shape[1:]))


def _units(source: Operand) -> list[int]:
    if not isinstance(source, Compute):
        return []
    apart = source.form is not None and source.form.moves
    found = [] if apart else [unit for child in source.operands for unit in _units(child)]
    if source.form is not None:
        found.append(max(1, source.form.unit(source.shape)))
    axis = axis_of(source.method, source.resolved)
    if axis != "tensor":
        found.append(row_length(source.shape, axis))
    return found
