"""Tensors computed one after the other by the engine that merges models: for what is not written as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from stockpot.checkpoint.dtypes import DTYPES, DType
from stockpot.checkpoint.reader import PayloadReader
from stockpot.errors import PlanError, Problem
from stockpot.execute.evaluate import Bytes, Evaluator
from stockpot.execute.schedule import run_all
from stockpot.execute.step import step_phases
from stockpot.execute.survey import grids_of, survey_phases
from stockpot.methods.declare import Floats
from stockpot.planning.cost import BASELINE, estimate
from stockpot.planning.model import MIB, Compute, Cost, Limits, Operand, Plan, Step, Survey, reads
from stockpot.planning.passes import passes_of

__all__ = ["Engine", "Progress", "checked", "hashes_of", "step_of"]

Progress = Callable[[int, int], None]

F64 = DTYPES["F64"]


def step_of(name: str, operand: Operand, shape: tuple[int, ...], dtype: DType = F64) -> Step:
    """The step that makes a tensor in ``dtype``."""
    source = operand if isinstance(operand, Compute) else Compute(None, (operand,), shape, factors=(1.0,))
    return Step(name, dtype, shape, source, passes=passes_of(source))


def checked(beside: int, limits: Limits, cost: Cost | None = None) -> int:
    """The memory that a command takes: of the process, or of the engine with it, and what is held ``beside``.

    Raises:
        PlanError: when that is more than the budget.
    """
    needed = beside + (BASELINE if cost is None else cost.memory)
    if needed > limits.memory:
        mib = -(-needed // MIB)
        message = f"needs {mib} MiB of memory, the budget is {limits.memory // MIB} MiB"
        raise PlanError(Problem(message, fix=f"give --memory {mib}MiB or more"))
    return needed


class Engine:
    """Computes single tensors, on as many threads as the budget allows.

    Args:
        steps: What will be asked for.
        surveys: Statistics of the whole model that they need; taken when the first tensor is asked for.
        limits: Of memory and threads.
        beside: Bytes that the caller holds, which the engine leaves alone.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        surveys: Sequence[Survey],
        limits: Limits,
        reader: PayloadReader,
        *,
        beside: int = 0,
        progress: Progress | None = None,
    ) -> None:
        left = Limits(max(1, limits.memory - beside), limits.threads, limits.shard_size)
        self.cost = estimate(steps, surveys, (), left, None)
        self._plan = Plan(tuple(steps), (), (), {}, self.cost, surveys=tuple(surveys))
        self._reader, self._progress = reader, progress
        self._settled: dict[tuple[int, str], Evaluator] | None = None
        self._moved = 0

    def array(self, step: Step) -> Floats:
        """A tensor as float64; ``step`` makes it so."""
        data = np.empty(step.nbytes, np.uint8)

        def sink(_: Step, start: int, part: Bytes) -> None:
            data[start : start + len(part)] = part

        self.run(step, sink)
        found: Floats = data.view(np.float64).reshape(step.shape)
        return found

    def run(self, step: Step, sink: Callable[[Step, int, Bytes], None]) -> None:
        """Give the bytes of a tensor to ``sink``, as they come."""
        settled = self._surveyed()

        def made(step: Step, _digest: str, _told: Mapping[str, Any] | None) -> None:
            self._reader.check(r.ref for r in reads(step.source))

        if prod(step.shape):
            phases = step_phases(step, self._reader, sink, made, self._count, settled)
            run_all(iter((phases,)), self.cost.threads, self._poll)

    def _surveyed(self) -> dict[tuple[int, str], Evaluator]:
        if self._settled is None:
            self._settled, grids = {}, grids_of(self._plan)
            for survey in self._plan.surveys:
                phases = survey_phases(survey, self._reader, self._settled, self._count, grids)
                run_all(iter((phases,)), self.cost.threads, self._poll)
        return self._settled

    def _count(self, nbytes: int) -> None:
        self._moved += nbytes  # for the eye only: a lost update is no matter

    def _poll(self) -> None:
        if self._progress is not None:
            self._progress(min(self._moved, self.cost.read), self.cost.read)


def hashes_of(reader: PayloadReader, operands: Iterable[Operand]) -> dict[tuple[str, str], str]:
    """Key of each stored tensor below ``operands`` → the hash of its bytes."""
    refs = {r.ref.key: r.ref for operand in operands for r in reads(operand) if r.ref.file is not None}
    return {key: reader.hash_of(ref) for key, ref in refs.items()}
