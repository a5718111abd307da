"""Methods that work on whole tensors: matrices in float64, and users' functions of arrays."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from stockpot.checkpoint.reader import PayloadReader
from stockpot.errors import ExecutionError, Problem, StockpotError
from stockpot.execute.diagnose import alike
from stockpot.execute.evaluate import Bytes, Evaluator, NotFiniteError, Phase, Tick
from stockpot.execute.workspace import Workspace
from stockpot.kernels import convert
from stockpot.kernels.random import philox_block
from stockpot.kernels.sizes import ROW
from stockpot.methods.declare import Blockwise, Floats, Matrix, Resolved
from stockpot.planning.blocks import BLOCK, Grid
from stockpot.planning.model import Compute, Read

__all__ = ["Blocks", "Normals", "Whole", "one_thread"]


_NUMERIC = (ValueError, ArithmeticError, np.linalg.LinAlgError, TypeError)
"""What a matrix method raises for numbers that it cannot work on; a user's function may raise anything."""


def one_thread() -> AbstractContextManager[object]:
    """Linear algebra on one thread for each worker: then results do not depend on how many there are."""
    limits: AbstractContextManager[object] = threadpool_limits(1)
    return limits


class _Arrays(Evaluator):
    """Shared part: inputs as float64 arrays, results from float64 arrays."""

    def widened(self, start: int, n: int, space: Workspace, out: npt.NDArray[np.float64]) -> None:
        """out[i, :n] = elements of operand i; differences to the base where one is subtracted."""
        raw = self.gather(start, n, space)
        zeros = np.zeros(ROW)
        for row, code, values in zip(raw, self.codes, out, strict=True):
            convert.widen_block(row, code, n, values, zeros)
        if self.base >= 0:
            minus = (*(True,) * self.count, *self.node.minus)
            for subtract, values in zip(minus, out, strict=False):
                if subtract:
                    values[:n] -= out[-1, :n]

    def finished(self, values: Floats, start: int, n: int, space: Workspace, out: Bytes, code: int) -> bool:
        """``values`` scaled, the base added, rounded into ``out``."""
        values = values * self.node.scale if self.node.scale != 1.0 else values
        if self.node.anchored and self.base >= 0:
            child = self._children[-1]
            width = self.codes[-1]
            raw = space.take(("base", self.height), (n * 8,), np.uint8)
            if isinstance(child, Read):
                part = raw[: n * child.dtype.itemsize]
                self._reader.read(child.ref, start * child.dtype.itemsize, part.data)
            else:
                part = raw[: n * convert.WIDTHS[width]]
                child.compute(start, n, space, part, int(width))
            base = space.take(("base values",), (n,), np.float64)
            convert.widen_block(part, width, n, base, np.zeros(ROW))
            values = base + values
        return bool(convert.narrow_block(np.ascontiguousarray(values), n, out, code))

    def blamed(self, error: Exception) -> StockpotError:
        """An error of the method itself, with everything that is known."""
        if isinstance(error, StockpotError):
            return error
        tensor, line, name = self.node.key[0], self.node.line, self.node.name
        family = self.node.method.family if self.node.method is not None else None
        if not isinstance(family, Blockwise):
            return ExecutionError(Problem(f"{name}: {error or type(error).__name__}", tensor=tensor, line=line))
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == family.file]
        text = str(error) if isinstance(error, _ShapeError) else f"{type(error).__name__}: {error}".removesuffix(": ")
        where = f", line {lines[-1]} of its file" if lines else ""
        return ExecutionError(Problem(f"{name}{where}: {text}", tensor=tensor, file=family.file, line=line))


class Whole(_Arrays):
    """A method on a whole tensor, which is kept until it is written."""

    def __init__(
        self, node: Compute, grid: Grid, reader: PayloadReader, children: tuple[Evaluator | Read, ...]
    ) -> None:
        super().__init__(node, grid, reader, children)
        self._result: Floats = np.empty(0)

    @classmethod
    def settle(cls, members: tuple[Whole, ...]) -> Iterator[Phase]:
        """One job: reading the tensors and solving."""
        (member,) = members
        yield Phase("solve", 1, member.solve, _nothing)

    def _values(self, space: Workspace) -> Sequence[Floats]:
        """All operands as float64 arrays of their own shapes."""
        sizes = [c.ref.elements if isinstance(c, Read) else self.grid.elements for c in self._children]
        found = []
        for i, size in enumerate(sizes):
            values = np.empty(size)
            for start in range(0, size, BLOCK):
                n = min(BLOCK, size - start)
                self._operand(i, start, n, space, values[start : start + n])
            found.append(values)
        return found

    def _operand(self, i: int, start: int, n: int, space: Workspace, out: Floats) -> None:
        child, code = self._children[i], self.codes[i]
        raw = space.take(("raw", self.height), (n * convert.WIDTHS[code],), np.uint8)
        if isinstance(child, Read):
            self._reader.read(child.ref, start * child.dtype.itemsize, raw.data)
        else:
            child.compute(start, n, space, raw, int(code))
        convert.widen_block(raw, code, n, out, np.zeros(ROW))

    def solve(self, _: int, space: Workspace, tick: Tick) -> None:
        """Compute the whole result."""
        values = list(self._values(space))
        masked = self._masked(values)
        if self.base >= 0:
            for i, minus in enumerate((*(True,) * self.count, *self.node.minus)):
                if minus:
                    values[i] -= values[-1]
        node = self.node
        assert node.method is not None
        assert node.resolved is not None
        arrays = [v.reshape(node.shape) for v in values[: self.count]]
        companions = values[self.count : self.count + len(node.companions)]
        try:
            self._result = _solved(node, arrays, companions, tick).reshape(-1)
        except Exception as error:
            if isinstance(node.method.family, Matrix) and not isinstance(error, _NUMERIC):
                raise
            raise self.blamed(error) from error
        if self._result.size != self.grid.elements:
            raise self.blamed(ValueError(f"{self._result.size} elements were made, {self.grid.elements} are needed"))
        if masked is not None:
            self._result = np.where(masked, np.nan, self._result)  # which puts the infinities back

    def _masked(self, values: Sequence[Floats]) -> npt.NDArray[np.bool_] | None:
        """Where a mask of infinities stands that all inputs share, which count as 0; None where all is finite.

        Raises:
            NotFiniteError: for any other number that is not finite.
        """
        if all(np.isfinite(v).all() for v in values):
            return None
        if not alike(self.node, self._reader):
            raise NotFiniteError
        masked: npt.NDArray[np.bool_] = ~np.isfinite(values[0])
        own = (*values[: self.count], *(values[-1:] if self.base >= 0 else ()))
        for v in own:
            v[masked] = 0.0
        if not all(np.isfinite(v).all() for v in values):
            raise NotFiniteError
        return masked

    def compute(self, start: int, n: int, space: Workspace, out: Bytes, code: int) -> bool:
        """A block of the result."""
        return self.finished(self._result[start : start + n], start, n, space, out, code)


def _solved(node: Compute, arrays: list[Floats], companions: Sequence[Floats], tick: Tick) -> Floats:
    assert node.method is not None
    assert node.resolved is not None
    family = node.method.family
    if isinstance(family, Blockwise):
        return _shaped(family.function(np.stack(arrays), node.resolved), node.shape)
    assert isinstance(family, Matrix)
    rows, columns = node.shape
    units = max(1, family.units(node.resolved, (rows, columns)))
    work = _Work(node, companions, lambda: tick(1.0 / units))
    return family.solve(arrays, node.resolved, work)


class _ShapeError(ValueError):
    """A function returned an array of another shape than that of the tensor."""


def _shaped(values: Floats, shape: tuple[int, ...]) -> Floats:
    result = np.asarray(values, np.float64)
    if result.shape != shape:
        raise _ShapeError(f"the function returned shape {result.shape}, {shape} is needed")
    return result


class Normals:
    """Random numbers of counters that go on from call to call: standard normal ones, by Box and Muller, or even ones.

    Args:
        name, seed: Tensor and seed, of which they are a function.
    """

    def __init__(self, name: str, seed: int) -> None:
        self._name, self._seed, self._drawn = name, seed, 0

    def normal(self, rows: int, columns: int) -> Floats:
        """The next rows × columns, standard normal."""
        count = rows * columns
        words = self._words(2 * count)
        first = (words[:count].astype(np.float64) + 1.0) * 2.0**-32
        second = words[count : 2 * count].astype(np.float64) * 2.0**-32
        values: Floats = np.sqrt(-2.0 * np.log(first)) * np.cos(2.0 * np.pi * second)
        return values.reshape(rows, columns)

    def even(self, count: int) -> Floats:
        """The next ``count``, evenly spread over [0, 1)."""
        found: Floats = self._words(count)[:count].astype(np.float64) * 2.0**-32
        return found

    def _words(self, count: int) -> npt.NDArray[np.uint32]:
        from stockpot.execute.rows import random_key

        blocks = max(1, -(-count // ROW))
        words = np.empty(blocks * ROW, np.uint32)
        philox_block(self._drawn, blocks, *random_key(self._name, self._seed, "normal"), words)
        self._drawn += blocks
        return words


class _Work:
    """What a matrix method is given beside its matrices."""

    def __init__(self, node: Compute, companions: Sequence[Floats], tick: Callable[[], None]) -> None:
        self._node, self._companions, self._tick = node, companions, tick
        self._normals = Normals(*node.key)

    def tick(self) -> None:
        """One unit of work is done."""
        self._tick()

    def normal(self, rows: int, columns: int) -> Floats:
        """Standard normal numbers."""
        return self._normals.normal(rows, columns)

    def companion(self, name: str) -> Sequence[Floats]:
        """The matrices of a companion."""
        method = self._node.method
        assert method is not None
        names = [c.name for c in method.companions for _ in range(len(self._node.inputs) if c.per_model else 1)]
        own = [values for known, values in zip(names, self._companions, strict=True) if known == name]
        gram = next(c.gram for c in method.companions if c.name == name)
        side = self._node.shape[-1]
        return [v.reshape(side, side) if gram else v.reshape(self._node.shape) for v in own]


class Blocks(_Arrays):
    """A user's function of the elements of a block."""

    def compute(self, start: int, n: int, space: Workspace, out: Bytes, code: int) -> bool:
        """The function's values on a block."""
        node = self.node
        assert node.method is not None
        assert isinstance(node.method.family, Blockwise)
        assert node.resolved is not None
        values = space.take(("values", self.height), (len(self._children), n), np.float64)
        self.widened(start, n, space, values)
        try:
            made = self._called(node.method.family, values[: self.count], node.resolved, n)
        except Exception as error:
            raise self.blamed(error) from error
        return self.finished(made, start, n, space, out, code)

    def _called(self, family: Blockwise, values: Floats, resolved: Resolved, n: int) -> Floats:
        with np.errstate(all="ignore"):
            return _shaped(family.function(values, resolved), (n,))


def _nothing() -> None:
    """Solving has no end of its own."""
