"""Families of merges with one number: WiSE-FT, and sums, negations and analogies of task vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from stockpot.evaluate.blend import Blend
from stockpot.evaluate.candidates import Candidate
from stockpot.functions import task_arithmetic
from stockpot.search.line import Line
from stockpot.search.recipes import stored_model, written

__all__ = ["SWEEPS", "Kind", "Make"]

Make: TypeAlias = Callable[[float, str], Candidate]
"""(number, name) → the point."""


@dataclass(frozen=True)
class Kind:
    """A family of merges with one number.

    Args:
        about: What a point is.
        method: The method that its recipes name.
        parameter: What the number is called.
        models: How many are needed: at least, at most.
        step: Of the values from 0 to 1 that are tried by default.
        line: Models → what points lie on; they are read once.
        recipe: Models and a value → the recipe of that point; empty where models have no names to write.
        sign: -1 where the line is gone along backwards.
    """

    about: str
    method: str
    parameter: str
    models: tuple[int, float]
    step: float
    line: Callable[[Sequence[Candidate]], Blend | Line]
    recipe: Callable[[Sequence[Candidate], float], str]
    sign: int = 1

    def name(self, value: float) -> str:
        """How tables call a point; no two numbers are told alike."""
        return f"{self.parameter} {value!r}".removesuffix(".0")

    def make(self, models: Sequence[Candidate]) -> Make:
        """The points of ``models``."""
        return self.along(self.line(models))

    def along(self, line: Blend | Line) -> Make:
        """The points on a line."""
        return lambda value, name: line.candidate(self.sign * value or 0.0, name)  # not -0.0


def _between(models: Sequence[Candidate]) -> Blend:
    start, end = models
    return Blend.of(start, end, threads=start.limits.get("threads"))


def _sum(models: Sequence[Candidate]) -> Line:
    base, *others = map(stored_model, models)
    return Line.of(models[0], base + task_arithmetic(*(other - base for other in others)))


def _analogy(models: Sequence[Candidate]) -> Line:
    a, b, c = map(stored_model, models)
    return Line.of(models[2], c + task_arithmetic(b - a))


def _sum_recipe(models: Sequence[Candidate], value: float) -> str:
    return written("task_arithmetic", [(m, 1.0) for m in models[1:]], base=models[0], **{"lambda": value})


SWEEPS: Mapping[str, Kind] = MappingProxyType(
    {
        "interpolate": Kind(
            "(1 - alpha) A + alpha B; WiSE-FT where A is the start of B (Wortsman et al., 2022)",
            "wise_ft",
            "alpha",
            (2, 2),
            0.1,
            _between,
            lambda models, value: written("wise_ft", [(models[1], None)], base=models[0], alpha=value),
        ),
        "add": Kind(
            "base + lambda (sum of task vectors) (Ilharco et al., 2023)",
            "task_arithmetic",
            "lambda",
            (2, math.inf),
            0.05,
            _sum,
            _sum_recipe,
        ),
        "negate": Kind(
            "base - lambda (task vector): what was learned is removed (Ilharco et al., 2023)",
            "task_arithmetic",
            "lambda",
            (2, 2),
            0.05,
            _sum,
            lambda models, value: _sum_recipe(models, 0.0 - value),
            sign=-1,
        ),
        "analogy": Kind(
            "C + lambda (B - A): A is to B as C is to the result (Ilharco et al., 2023)",
            "task_arithmetic",
            "lambda",
            (3, 3),
            0.1,
            _analogy,
            lambda m, value: written("task_arithmetic", [(m[1], value), (m[2], 1.0)], base=m[0]),
        ),
    }
)
"""Name → kind of sweep."""
