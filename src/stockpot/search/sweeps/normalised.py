"""Normalised figures: what a merge of fine-tunes keeps of each task, relative to the fine-tune that owns it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from stockpot.errors import ExecutionError, Problem, RecipeError
from stockpot.evaluate.candidates import Candidate, named
from stockpot.evaluate.protocol import Direction
from stockpot.evaluate.results import Result
from stockpot.evaluate.suite import Suite

__all__ = ["Normalised", "normalised_of", "parts_of"]

Part = tuple[str, str]
"""(task, metric)."""


@dataclass(frozen=True)
class Normalised:
    """The mean over tasks of figure / figure of the fine-tuned model that owns the task (Ilharco et al., 2023).

    Args:
        parts: (task, metric), at least one, all of them better higher.
        owners: Task → the fine-tuned model that its figures are relative to.
        references: That model's figures, one for each part, positive.
        better: Always ``higher``.
    """

    parts: tuple[Part, ...]
    owners: Mapping[str, str]
    references: tuple[float, ...]
    better: Direction = "higher"

    def __str__(self) -> str:
        metrics = {metric for _, metric in self.parts}
        return f"mean normalised {metrics.pop() if len(metrics) == 1 else 'figure'}"

    def value(self, result: Result, model: str) -> float | None:
        """The mean; None when a part failed."""
        found = [_figure(result, model, part) for part in self.parts]
        shares = [f / r for f, r in zip(found, self.references, strict=True) if f is not None]
        return sum(shares) / len(shares) if len(shares) == len(self.parts) else None

    def score(self, result: Result, model: str) -> float:
        """:meth:`value`; -inf when a part failed."""
        value = self.value(result, model)
        return -math.inf if value is None else value

    def on(self, result: Result) -> Normalised | None:
        """The same relative to the owners' figures in ``result``; None where one is missing or not positive."""
        found = [_figure(result, self.owners[task], (task, metric)) for task, metric in self.parts]
        sound = tuple(figure for figure in found if figure is not None and figure > 0)
        return replace(self, references=sound) if len(sound) == len(self.parts) else None


def parts_of(suite: Suite, wanted: Sequence[str], split: str, asked: bool | None) -> tuple[Part, ...]:
    """The figures of a normalised mean; none where it does not choose.

    Args:
        wanted: TASK.METRIC, …; none is the ranking metric of each task.
        split: The role of the data that figures are taken from.
        asked: Whether it is to choose; None: if nothing else is named, and it can.

    Raises:
        RecipeError: when it is asked for, and a figure is unknown or better lower.
    """
    tasks = suite.having(split)
    known = {f"{t.name}.{m.name}": ((t.name, m.name), m.better) for t in tasks for m in t.task.metrics}
    names = list(dict.fromkeys(wanted)) or [f"{t.name}.{t.task.metrics[0].name}" for t in tasks]
    unknown = [name for name in names if name not in known]
    lower = [name for name in names if name in known and known[name][1] == "lower"]
    if asked is False or (asked is None and (wanted or lower)):
        return ()
    if unknown or lower:
        wrong = f"there is no figure {unknown[0]!r}" if unknown else f"{lower[0]} is better lower: it has no share"
        higher = ", ".join(name for name, (_, better) in known.items() if better == "higher")
        raise RecipeError(Problem(wrong, fix=f"--metric TASK.METRIC, with {split} data, better higher: {higher}"))
    return tuple(known[name][0] for name in names)


def normalised_of(
    parts: Sequence[Part], tunes: Result, own: Mapping[str, str], models: Sequence[Candidate]
) -> Normalised:
    """The mean relative to the owner of each task: the model that is named, else the best at it.

    Args:
        parts: What :func:`parts_of` gave, at least one.
        tunes: The fine-tuned models on the data that choose.
        own: Task → model, as in tables or as it was written.
        models: The base and the fine-tuned models.

    Raises:
        ExecutionError: when an owner's figure is not positive, or could not be measured.
    """
    given = [c.name for c in named(models)[1:]]
    rows = dict(zip(given, (row.name for row in tunes.models), strict=True))  # without the base, names may be shorter
    named_owners = {task: rows[_meant(model, task, parts, models)] for task, model in own.items()}
    owners: dict[str, str] = {}
    references = []
    for task, metric in parts:
        figures = {row.name: _figure(tunes, row.name, (task, metric)) for row in tunes.models}
        sound = {name: figure for name, figure in figures.items() if figure is not None}
        owner = owners.setdefault(task, named_owners.get(task) or max(sound, key=sound.__getitem__, default=""))
        if sound.get(owner, 0.0) <= 0:
            raise ExecutionError(_no_unit(tunes, owner, (task, metric), sound.get(owner)))
        references.append(sound[owner])
    return Normalised(tuple(parts), owners, tuple(references))


def _no_unit(tunes: Result, owner: str, part: Part, figure: float | None) -> Problem:
    """Why figures cannot be told relative to the owner's."""
    task, metric = part
    if figure is not None:
        told = f"{owner}'s {task}.{metric} is {figure:g}"
    else:
        why = next((c.error for c in tunes.failed if c.task == task and owner in ("", c.model)), None)
        told = f"{task} could not be measured: {why}"
    fix = "choose by other figures: --metric TASK.METRIC, or --no-normalised"
    return Problem(f"nothing can be told relative to a fine-tuned model: {told}", fix=fix)


def _meant(model: str, task: str, parts: Sequence[Part], models: Sequence[Candidate]) -> str:
    """The name in tables of the fine-tuned model that is called ``model``."""
    tasks = dict.fromkeys(name for name, _ in parts)
    if task not in tasks:
        fix = f"one of {', '.join(tasks)}"
        raise RecipeError(Problem(f"{model} cannot own {task!r}: no task that chooses is called so", fix=fix))
    found = [c.name for c, given in zip(named(models), models, strict=True) if model in (c.name, given.reference)]
    if not found or found[0] == named(models)[0].name:
        fix = f"one of {', '.join(c.name for c in named(models)[1:])}"
        raise RecipeError(Problem(f"{model!r} is none of the fine-tuned models", fix=fix))
    return found[0]


def _figure(result: Result, model: str, part: Part) -> float | None:
    task, metric = part
    cells = [c for c in result.cells if c.model == model and c.task == task]
    return next((f.value for c in cells for f in c.figures if f.metric == metric), None)
