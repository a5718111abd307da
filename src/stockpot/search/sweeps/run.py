"""Measuring a family of merges at many values of its number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stockpot.errors import Problem, RecipeError
from stockpot.evaluate.cache import Cache
from stockpot.evaluate.candidates import Candidate, named
from stockpot.evaluate.ensemble import Ensemble
from stockpot.evaluate.results import Result
from stockpot.evaluate.suite import Suite
from stockpot.search.judge import Judge, Tell
from stockpot.search.line import Line
from stockpot.search.objective import objective_of
from stockpot.search.sweeps.choice import Aim, axes_of, check_options, checked, chosen_of
from stockpot.search.sweeps.cosines import cosines
from stockpot.search.sweeps.kinds import Kind, Make
from stockpot.search.sweeps.normalised import normalised_of, parts_of
from stockpot.search.sweeps.result import RANDOM, Sweep

__all__ = ["sweep"]


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
    normalised: bool | None = None,
    own: Mapping[str, str] | None = None,
    random_control: bool | None = None,
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
        normalised: For ``add``: whether the mean of figures relative to fine-tuned models chooses, each task's to the
            model that is best at it. None: if no ``metrics`` are named and all ranking metrics are better higher.
        own: Task → the model that its figures are relative to, instead of the best.
        random_control: For ``add`` and ``negate``: whether points along a random vector, of the same norm in each
            tensor, are measured too. None: for ``negate``.
        axes: TASK.METRIC of target data and of shifted data; by default the first task, and the others.
        cache, device, tell: As for :func:`stockpot.evaluate.evaluate`.

    Raises:
        RecipeError: for an unknown kind or figure, a wrong number of models, values that are not finite.
        ExecutionError: when figures are to be relative to a model's that is not positive or could not be measured.
        StockpotError: when the models cannot be read or do not fit. A point that fails alone is a failed row.
    """
    check_options(kind, normalised, own or {}, random_control)
    found, numbers = checked(kind, models, values, control, split, keep)
    parts = parts_of(suite, metrics, split, normalised) if kind == "add" else ()
    if own and not parts:
        raise RecipeError(Problem("no normalised figures choose, so no model owns a task", fix="leave --own out"))
    plain = None if parts else objective_of(suite, metrics, split=split)
    kept = (objective_of(suite, control, split=split), keep) if control else None
    drawn = axes_of(suite, axes, split)
    names = tuple(map(found.name, numbers))
    choosing = None if split == "report" else f"{found.parameter} of {kind}"
    alike = cosines(models) if kind == "add" and len(models) > 2 else ()
    with Judge.of(suite, cache, device, tell, choosing) as judge:
        data = suite.for_choosing() if choosing else suite
        tunes = judge.chosen(named(models)[1:], data, split) if parts else None
        aim: Aim | None = plain if tunes is None else normalised_of(parts, tunes, own or {}, models)
        assert aim is not None
        line = found.line(models)
        make = found.along(line)
        points = {value: make(value, name) for value, name in zip(numbers, names, strict=True)}
        first = sorted(points, key=lambda value: value != 0)  # the start, which differences are to
        curve = judge.chosen([points[value] for value in first], data, split)
        chosen = chosen_of(curve, points, aim, kept) if choosing else None
        chance = _chance(found, line, models) if _has_control(kind, random_control) else None
        start = points.get(0.0) or make(0.0, found.name(0.0))
        random = None if chance is None else _random(found, chance, judge, [start], numbers, data, split)
        told = _report(kind, found, models, judge, points | {0.0: start}, make, chance, chosen) if choosing else None
    recipe = "" if chosen is None else found.recipe(models, chosen)
    given = tuple(m.name for m in models)
    return Sweep(kind, given, numbers, names, aim, kept, drawn, chosen, recipe, curve, told, tunes, random, alike)


def _has_control(kind: str, asked: bool | None) -> bool:
    return kind == "negate" if asked is None else asked


def _chance(found: Kind, line: object, models: Sequence[Candidate]) -> Make:
    """Points along a random vector of the same norm in each tensor."""
    assert isinstance(line, Line)
    return found.along(line.randomised(models[0].limits.get("seed") or 0))


def _random(
    found: Kind,
    chance: Make,
    judge: Judge,
    start: Sequence[Candidate],
    numbers: Sequence[float],
    data: Suite,
    split: str,
) -> Result:
    points = [chance(value, RANDOM + found.name(value)) for value in numbers if value != 0]
    return judge.chosen([*start, *points], data, split)


def _report(
    kind: str,
    found: Kind,
    models: Sequence[Candidate],
    judge: Judge,
    points: Mapping[float, Candidate],
    make: Make,
    chance: Make | None,
    chosen: float | None,
) -> Result | None:
    """Start, models that are no points, end and choice, the random vector at the choice, and ensembles."""
    told_at = dict.fromkeys([0.0, 1.0, *([] if chosen is None else [chosen])])
    start, *ends = (points.get(value) or make(value, found.name(value)) for value in told_at)
    others = _others(kind, models)
    if chance is not None and chosen:
        ends.append(chance(chosen, RANDOM + found.name(chosen)))
    beside = _ensembles({"interpolate": [start, ends[0]], "add": others}.get(kind, []))
    return judge.report([start, *others, *ends], beside, compared=kind == "interpolate")


def _others(kind: str, models: Sequence[Candidate]) -> list[Candidate]:
    """The models that are no points of their sweep, for the report."""
    given = named(models)
    return {"interpolate": [], "analogy": given[:2]}.get(kind, given[1:])


def _ensembles(members: Sequence[Candidate]) -> list[Ensemble]:
    """The mean outputs of what a sweep averages; none of fewer than two."""
    names = tuple(member.name for member in members)
    return [Ensemble(f"ensemble of {len(names)}", names)] if len(names) > 1 else []
