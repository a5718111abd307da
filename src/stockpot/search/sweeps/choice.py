"""Which value of a sweep is chosen, and what a sweep may be asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from stockpot.errors import Problem, RecipeError
from stockpot.evaluate.candidates import Candidate
from stockpot.evaluate.results import Result
from stockpot.evaluate.suite import Suite
from stockpot.search.objective import Objective, objective_of
from stockpot.search.recipes import stored_model
from stockpot.search.sweeps.kinds import SWEEPS, Kind
from stockpot.search.sweeps.normalised import Normalised

__all__ = ["Aim", "axes_of", "check_options", "checked", "chosen_of", "negatable"]

Aim: TypeAlias = Objective | Normalised
"""What chooses."""


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


def chosen_of(
    curve: Result, points: Mapping[float, Candidate], aim: Aim, kept: tuple[Objective, float] | None
) -> float | None:
    """The value that is best by ``aim``, or the largest that keeps the control; None where nothing can be chosen."""
    if kept is not None:
        control, share = kept
        found = [(value, control.value(curve, one.name)) for value, one in points.items()]
        return negatable(found, control.better, share)
    scores = {value: aim.score(curve, one.name) for value, one in points.items()}
    best = max(scores, key=lambda value: (scores[value], -abs(value), value))
    return best if scores[best] > -math.inf else None


def checked(
    kind: str, models: Sequence[Candidate], values: Sequence[float], control: Sequence[str], split: str, keep: float
) -> tuple[Kind, tuple[float, ...]]:
    """The kind and its values in order.

    Raises:
        RecipeError: for an unknown kind, a wrong number of models, a control too much or too little, no finite values.
    """
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


def check_options(kind: str, normalised: bool | None, own: Mapping[str, str], random_control: bool | None) -> None:
    """Raise RecipeError for options that have no meaning for a kind of sweep."""
    if kind != "add" and (normalised or own):
        fix = "leave --normalised and --own out"
        raise RecipeError(Problem(f"{kind} has no fine-tuned models that figures could be relative to", fix=fix))
    if own and normalised is False:
        raise RecipeError(Problem("owners of tasks have a meaning for normalised figures only", fix="leave --own out"))
    if random_control and kind not in ("add", "negate"):
        raise RecipeError(Problem(f"{kind} has no random control", fix="leave --random-control out"))


def axes_of(
    suite: Suite, wanted: tuple[Sequence[str], Sequence[str]], split: str
) -> tuple[Objective, Objective] | None:
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
