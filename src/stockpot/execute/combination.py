"""Linear combinations: by given factors, or by those that a span method finds from inner products."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from stockpot.checkpoint.reader import PayloadReader
from stockpot.errors import ExecutionError, Problem
from stockpot.execute.evaluate import Bytes, Evaluator, OrderedSum, Phase, Tick
from stockpot.execute.population import Population
from stockpot.execute.workspace import Workspace
from stockpot.kernels import combine, gram
from stockpot.kernels.sizes import ROW
from stockpot.methods.declare import Floats, Matrix, Span, axis_of
from stockpot.planning.blocks import Grid
from stockpot.planning.model import Compute, Read

__all__ = ["Combination"]


class Combination(Evaluator):
    """A linear combination of the inputs."""

    def __init__(
        self, node: Compute, grid: Grid, reader: PayloadReader, children: tuple[Evaluator | Read, ...]
    ) -> None:
        super().__init__(node, grid, reader, children)
        self.axis = axis_of(node.method, node.resolved)
        self.factors = np.array(node.factors, np.float64)
        self._divisor = 1.0
        family = node.method.family if node.method is not None else None
        self.measures = isinstance(family, Span) and family.gram
        if isinstance(family, Span) and node.resolved is not None:
            self._divisor = family.divisor(node.resolved)
            if not family.gram:
                self.factors = self.solve(None)
        elif isinstance(family, Matrix) and node.resolved is not None:
            self.factors = np.ascontiguousarray(family.otherwise(node.resolved), np.float64)

    def solve(self, products: Floats | None) -> Floats:
        """The coefficients of a span method, from inner products where it needs them."""
        node = self.node
        assert node.method is not None
        assert isinstance(node.method.family, Span)
        assert node.resolved is not None
        try:
            return np.ascontiguousarray(node.method.family.coefficients(products, node.resolved), np.float64)
        except ValueError as error:
            raise ExecutionError(Problem(f"{node.name}: {error}", tensor=node.key[0], line=node.line)) from error

    @classmethod
    def settle(cls, members: tuple[Combination, ...]) -> Iterator[Phase]:
        """One pass for the inner products of all pairs of inputs."""
        if not members[0].measures:
            return
        population = Population(members)
        parts: dict[int, npt.NDArray[np.float64]] = {}
        sums = OrderedSum()
        axis = members[0].axis

        def run(block: int, space: Workspace, _: Tick) -> None:
            _place, member, start, n = population.at(block)
            part = population.part(member, member.products(start, n, space))
            if axis == "row":
                parts[block] = part
            else:
                sums.add(block, part)

        def finish() -> None:
            total = sums.total
            if axis == "row":
                total = np.concatenate([parts[block] for block in range(population.blocks)])
            elif axis == "column":
                total = np.moveaxis(total, -1, 0)
            total = population.settled(_mirrored(total))
            for member in members:
                member.settle_factors(total, population.elements)

        yield Phase("angles", population.blocks, run, finish)

    def products(self, start: int, n: int, space: Workspace) -> npt.NDArray[np.float64]:
        """Inner products over a block: (groups, inputs, inputs), or (inputs, inputs, columns)."""
        raw = self.gather(start, n, space)
        scratch = space.take(("scratch",), (self.count + 3, ROW), np.float64)
        if self.axis == "column":
            part = np.empty((self.count, self.count, self.length))
            gram.gram_columns(raw, self.codes, n // self.length, self.length, self.base, self.count, part, scratch)
            return part
        groups = n // self.length if self.axis == "row" else 1
        part = np.zeros((groups, self.count, self.count))
        gram.gram_rows(raw, self.codes, groups, n // groups, self.base, self.count, part, scratch)
        return part

    def _alone(self, elements: int) -> Floats | None:
        """Coefficients where vectors have a single element, if there are such; None where they have more."""
        method, resolved = self.node.method, self.node.resolved
        assert method is not None
        assert resolved is not None
        length = {"tensor": elements, "row": self.length, "column": elements // self.length}[self.axis]
        line = method.family.line if isinstance(method.family, Span) else None
        return line(resolved) if line is not None and length == 1 and not resolved.compat else None

    def settle_factors(self, total: npt.NDArray[np.float64], elements: int) -> None:
        """Coefficients from the inner products of all ``elements``."""
        alone = self._alone(elements)
        factors = self.solve(total) if alone is None else np.tile(alone, (len(total), 1))
        if self.axis == "tensor":
            factors = factors.reshape(-1)
        self.factors = np.ascontiguousarray(factors.T) if self.axis == "column" else factors

    def adopt(self, other: Evaluator) -> None:
        """Take the factors that were settled for the same tensor before."""
        assert isinstance(other, Combination)
        self.factors = other.factors

    def compute(self, start: int, n: int, space: Workspace, out: Bytes, code: int) -> bool:
        """The combination of a block."""
        raw = self.gather(start, n, space)
        node = self.node
        scratch = space.take(("scratch",), (4, ROW), np.float64)
        if self.factors.ndim == 1:
            return bool(
                combine.combine_tensor(
                    raw,
                    self.codes,
                    n,
                    self.base,
                    node.anchored,
                    node.scale,
                    self._divisor,
                    self.factors,
                    out,
                    code,
                    scratch,
                )
            )
        kernel, factors = combine.combine_rows, self.factors
        if self.axis == "column":
            kernel = combine.combine_columns
        else:
            first = start // self.length
            factors = factors[first : first + n // self.length]
        return bool(
            kernel(
                raw,
                self.codes,
                n // self.length,
                self.length,
                self.base,
                node.anchored,
                node.scale,
                self._divisor,
                factors,
                out,
                code,
                scratch,
            )
        )


def _mirrored(products: Floats) -> Floats:
    """Inner products of which only the upper half is filled, with both halves."""
    upper = np.triu(np.ones(products.shape[1:]), 1) > 0
    return np.where(upper.T, np.swapaxes(products, 1, 2), products)
