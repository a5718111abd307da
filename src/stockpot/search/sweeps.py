"""Sweeps over one number: WiSE-FT's alpha, the lambda of sums of task vectors, of negation and of analogies."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

from stockpot.errors import Problem, RecipeError
from stockpot.evaluate.blend import Blend
from stockpot.evaluate.cache import Cache
from stockpot.evaluate.candidates import Candidate, named
from stockpot.evaluate.ensemble import Ensemble
from stockpot.evaluate.results import Cell, Result
from stockpot.evaluate.suite import Suite
from stockpot.functions import task_arithmetic
from stockpot.search.judge import Judge, Tell
from stockpot.search.line import Line
from stockpot.search.objective import Objective, objective_of
from stockpot.search.recipes import stored_model, written

__all__ = ["SWEEPS", "Kind", "Sweep", "negatable", "sweep"]

_Make: TypeAlias = Callable[[float, str], Candidate]


@dataclass(frozen=True)
class Kind:
    """A family of merges with one number.

    Args:
        about: What a point is.
        parameter: What the number is called.
        models: How many are needed: at least, at most.
        step: Of the values from 0 to 1 that are tried by default.
        make: Models → the point at a value, under a name.
        recipe: Models and a value → the recipe of that point; empty where models have no names to write.
    """

    about: str
    parameter: str
    models: tuple[int, float]
    step: float
    make: Callable[[Sequence[Candidate]], _Make]
    recipe: Callable[[Sequence[Candidate], float], str]

    def name(self, value: float) -> str:
        """How tables call a point; no two numbers are told alike."""
        return f"{self.parameter} {value!r}".removesuffix(".0")


def _between(models: Sequence[Candidate]) -> _Make:
    start, end = models
    return Blend.of(start, end, threads=start.limits.get("threads")).candidate


def _sum(models: Sequence[Candidate]) -> _Make:
    base, *others = map(stored_model, models)
    return Line.of(models[0], base + task_arithmetic(*(other - base for other in others))).candidate


def _negated(models: Sequence[Candidate]) -> _Make:
    point = _sum(models)
    return lambda value, name: point(-value, name)


def _analogy(models: Sequence[Candidate]) -> _Make:
    a, b, c = map(stored_model, models)
    return Line.of(models[2], c + task_arithmetic(b - a)).candidate


def _sum_recipe(models: Sequence[Candidate], value: float) -> str:
    return written("task_arithmetic", [(m, 1.0) for m in models[1:]], base=models[0], **{"lambda": value})


SWEEPS: Mapping[str, Kind] = MappingProxyType(
    {
        "interpolate": Kind(
            "(1 - alpha) A + alpha B; WiSE-FT where A is the start of B (Wortsman et al., 2022)",
            "alpha",
            (2, 2),
            0.1,
            _between,
            lambda models, value: written("wise_ft", [(models[1], None)], base=models[0], alpha=value),
        ),
        "add": Kind(
            "base + lambda (sum of task vectors) (Ilharco et al., 2023)",
            "lambda",
            (2, math.inf),
            0.05,
            _sum,
            _sum_recipe,
        ),
        "negate": Kind(
            "base - lambda (task vector): what was learned is removed (Ilharco et al., 2023)",
            "lambda",
            (2, 2),
            0.05,
            _negated,
            lambda models, value: _sum_recipe(models, -value),
        ),
        "analogy": Kind(
            "C + lambda (B - A): A is to B as C is to the result (Ilharco et al., 2023)",
            "lambda",
            (3, 3),
            0.1,
            _analogy,
            lambda m, value: written("task_arithmetic", [(m[1], value), (m[2], 1.0)], base=m[0]),
        ),
    }
)
"""Name → kind of sweep."""


@dataclass(frozen=True)
class Sweep:
    """A curve over one number.

    Args:
        kind: One of :data:`SWEEPS`.
        models: Names of the models, in order.
        values: The numbers.
        names: The point of each, as tables call it.
        objective: What chooses (for ``negate``, what is to fall).
        control: For ``negate``: what must be kept, and the share of it.
        axes: What the scatter shows: target data and shifted data; None with one task.
        chosen: The number that was chosen; None where nothing was, as on report data, or nothing qualifies.
        recipe: Of the chosen point, as YAML; empty without one.
        curve: All points.
        report: Start, models that are no points, end and chosen point on untouched data; None without such data, and
            when the curve is on it.
    """

    kind: str
    models: tuple[str, ...]
    values: tuple[float, ...]
    names: tuple[str, ...]
    objective: Objective
    control: tuple[Objective, float] | None
    axes: tuple[Objective, Objective] | None
    chosen: float | None
    recipe: str
    curve: Result
    report: Result | None

    @property
    def parameter(self) -> str:
        """What the number is called."""
        return SWEEPS[self.kind].parameter

    @property
    def failed(self) -> tuple[Cell, ...]:
        """The cells that failed, on either data."""
        return self.curve.failed + (() if self.report is None else self.report.failed)

    def as_data(self) -> dict[str, Any]:
        """Everything as JSON data; each point with its figures of what chooses, what is kept, and both axes."""
        axes = dict(zip("xy", self.axes or (), strict=False))
        wanted = {"objective": self.objective, **({"control": self.control[0]} if self.control else {}), **axes}
        points = [
            {"value": value, "name": name, **{key: o.value(self.curve, name) for key, o in wanted.items()}}
            for value, name in zip(self.values, self.names, strict=True)
        ]
        told = {key: getattr(self, key) for key in ("kind", "parameter", "models", "chosen", "recipe")}
        return {
            "format": 1,
            **told,
            **{key: asdict(o) for key, o in wanted.items()},
            "keep": self.control[1] if self.control else None,
            "points": points,
            "curve": self.curve.as_data(),
            "report": None if self.report is None else self.report.as_data(),
        }


def sweep(
    kind: str,
    models: Sequence[Candidate],
    suite: Suite,
    *,
    values: Sequence[float] = (),
    split: str = "select",
    metrics: Sequence[str] = (),
    control: Sequence[str] = (),
    keep: float = 0.95,
    axes: tuple[Sequence[str], Sequence[str]] = ((), ()),
    cache: Cache | None = None,
    device: str | None = None,
    tell: Tell | None = None,
) -> Sweep:
    """Measure a family of merges at many values of its number. What they are made of is read once.

    On select (or tune) data a value is chosen: the best by ``metrics``, of equal ones the nearest to 0; for ``negate``
    the largest that keeps the control. Start, end, choice, and models that are no points of the sweep are then measured
    on report data.

    Args:
        kind: One of :data:`SWEEPS`.
        models: ``interpolate``: A, B. ``add``: base and fine-tunes of it. ``negate``: base, fine-tune. ``analogy``: A,
            B, C. No recipes.
        values: Any finite numbers; by default from 0 to 1. ``negate`` always has 0, the base.
        split: The data of the curve; on ``report`` nothing is chosen.
        metrics, control: TASK.METRIC, or several for their mean; see :func:`objective_of`.
        keep: Share of the base's control that must be kept, in (0, 1].
        axes: TASK.METRIC of target data and of shifted data; by default the first task, and the others.
        cache, device, tell: As for :func:`stockpot.evaluate.evaluate`.

    Raises:
        RecipeError: for an unknown kind or figure, a wrong number of models, values that are not finite.
        StockpotError: when the models cannot be read or do not fit. A point that fails alone is a failed row.
    """
    found, numbers = _checked(kind, models, values, control, split, keep)
    objective = objective_of(suite, metrics, split=split)
    kept = (objective_of(suite, control, split=split), keep) if control else None
    drawn = _axes(suite, axes, split)
    names = tuple(map(found.name, numbers))
    choosing = None if split == "report" else f"{found.parameter} of {kind}"
    with Judge.of(suite, cache, device, tell, choosing) as judge:
        make = found.make(models)
        points = {value: make(value, name) for value, name in zip(numbers, names, strict=True)}
        first = sorted(points, key=lambda value: value != 0)  # the start, which differences are to
        curve = judge.chosen([points[value] for value in first], suite.for_choosing() if choosing else suite, split)
        chosen = _chosen(curve, points, objective, kept) if choosing else None
        told_at = dict.fromkeys([0.0, 1.0, *([] if chosen is None else [chosen])])
        start, *ends = (points.get(value) or make(value, found.name(value)) for value in told_at)
        others = _others(kind, models)
        rows = [start, *others, *ends]
        beside = _ensembles({"interpolate": [start, ends[0]], "add": others}.get(kind, []))
        told = judge.report(rows, beside, compared=kind == "interpolate") if choosing else None
    recipe = "" if chosen is None else found.recipe(models, chosen)
    given = tuple(m.name for m in models)
    return Sweep(kind, given, numbers, names, objective, kept, drawn, chosen, recipe, curve, told)


def _others(kind: str, models: Sequence[Candidate]) -> list[Candidate]:
    """The models that are no points of their sweep, for the report."""
    given = named(models)
    return {"interpolate": [], "analogy": given[:2]}.get(kind, given[1:])


def _ensembles(members: Sequence[Candidate]) -> list[Ensemble]:
    """The mean outputs of what a sweep averages; none of fewer than two."""
    names = tuple(member.name for member in members)
    return [Ensemble(f"ensemble of {len(names)}", names)] if len(names) > 1 else []


def negatable(values: Sequence[tuple[float, float | None]], better: str, keep: float) -> float | None:
    """The largest λ that keeps a share of the control that the base, at λ = 0, has; None where none does.

    What is kept is value / base, or base / value where lower is better.

    >>> negatable([(0, 0.9), (0.5, 0.87), (1, 0.5)], "higher", 0.95)
    0.5
    """
    base = next((value for at, value in values if at == 0), None)
    if base is None:
        return None
    least = [
        at
        for at, value in values
        if value is not None and (value >= keep * base if better == "higher" else keep * value <= base)
    ]
    return max(least, default=None)


def _chosen(
    curve: Result, points: Mapping[float, Candidate], objective: Objective, kept: tuple[Objective, float] | None
) -> float | None:
    if kept is not None:
        control, share = kept
        found = [(value, control.value(curve, one.name)) for value, one in points.items()]
        return negatable(found, control.better, share)
    scores = {value: objective.score(curve, one.name) for value, one in points.items()}
    best = max(scores, key=lambda value: (scores[value], -abs(value), value))
    return best if scores[best] > -math.inf else None


def _checked(
    kind: str, models: Sequence[Candidate], values: Sequence[float], control: Sequence[str], split: str, keep: float
) -> tuple[Kind, tuple[float, ...]]:
    if kind not in SWEEPS:
        raise RecipeError(Problem(f"unknown kind of sweep {kind!r}", fix=f"one of {', '.join(SWEEPS)}"))
    found = SWEEPS[kind]
    least, most = found.models
    if not least <= len(models) <= most:
        count = f"{least}" if least == most else f"at least {least}"
        raise RecipeError(Problem(f"{kind} takes {count} models, not {len(models)}", fix=found.about))
    for one in models:
        stored_model(one)
    if (kind == "negate" and split != "report") != bool(control):
        fix = "name what must be kept, such as --control TASK.METRIC" if not control else "leave --control out"
        raise RecipeError(Problem(f"{kind} on {split} data {'needs a' if not control else 'has no'} control", fix=fix))
    if not 0 < keep <= 1:
        raise RecipeError(Problem(f"keep = {keep} is no share in (0, 1]"))
    numbers = [float(v) + 0.0 for v in values] or [round(i * found.step, 6) for i in range(round(1 / found.step) + 1)]
    if not all(map(math.isfinite, numbers)):
        raise RecipeError(Problem("values must be finite numbers"))
    return found, tuple(sorted({*numbers, *([0.0] if kind == "negate" else [])}))


def _axes(suite: Suite, wanted: tuple[Sequence[str], Sequence[str]], split: str) -> tuple[Objective, Objective] | None:
    """What the scatter shows, if there is something to show."""
    if not any(wanted):
        tasks = [f"{t.name}.{t.task.metrics[0].name}" for t in suite.having(split)]
        shifted = [t for t in tasks[1:] if t.rpartition(".")[2] == tasks[-1].rpartition(".")[2]]
        wanted = (tasks[:1], shifted)
        if not shifted:
            return None
    if not all(wanted):
        raise RecipeError(Problem("a scatter has two axes", fix="--target TASK.METRIC --shifted TASK.METRIC"))
    target, shifted_data = (objective_of(suite, names, split=split) for names in wanted)
    return target, shifted_data
