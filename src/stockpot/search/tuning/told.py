"""How a search went and what it is worth, as lines of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from stockpot.evaluate.table import ARROWS, number, shown
from stockpot.search.tuning.found import ROLES, Search, Told
from stockpot.search.tuning.rounds import Progress
from stockpot.search.tuning.trials import Trial

__all__ = ["counted", "grid_of", "heads", "progress_told", "search_told", "trial_told", "trials_told", "value_told"]

_SHOWN = 5
_STUDIES = {"shared": "one number,", "random": "random search,"}


def progress_told(one: Progress) -> str:
    """A line for a trial that has ended: its figures, the best so far, the time left."""
    study = _STUDIES.get(one.study.split()[0], one.study)
    parts = [f"{study} {one.done} of {one.total}: {trial_told(one.trial)}"]
    if one.best is not None and one.best.figures is not None and len(one.best.figures) == 1:
        parts.append(f"best {number(one.best.figures[0])} (trial {one.best.number})")
    if one.left is not None and one.done < one.total:
        parts.append(f"{_time(one.left)} left")
    return "; ".join(parts)


def trial_told(trial: Trial) -> str:
    """What came of a trial, in words."""
    if trial.state == "failed":
        return f"FAILED: {trial.outcome.error}"
    figures = ", ".join(map(number, trial.outcome.rungs[-1])) if trial.outcome.rungs else ""
    return figures if trial.state == "complete" else f"stopped at {figures}"


def search_told(found: Search) -> Iterator[str]:
    """Rows with their gaps, failed trials, the winner and its recipe; names not yet made safe to print."""
    yield ""
    yield from trials_told(found)
    yield from (f"note: {note}" for note in found.notes)
    for i, objective in enumerate(found.objectives):
        yield f"{objective} {ARROWS[objective.better]}; gap: how much worse on report data"
        yield from _aligned([heads(found), *([row.name, *cells] for row, cells in grid_of(found, i))])
    if len(found.objectives) > 1:
        points = "point" if len(found.front) == 1 else "points"
        yield f"the front on select data has {len(found.front)} {points}; the winner is the nearest to the best of each"
    yield f"{found.winner.name} wins:"
    yield from (f"  {name}: {value_told(value)}" for name, value in (found.winner.values or {}).items())
    if found.recipe.text:
        yield f"recipe, to be run from the folder of {found.name}:"
        yield from (f"  {line}" for line in found.recipe.text.splitlines())


def trials_told(found: Search) -> Iterator[str]:
    """How many trials ended how, and why some failed."""
    yield f"{found.sampler}, seed {found.seed}: {counted(found.trials)}, measured on {found.role} data"
    if found.random:
        yield f"random search: {counted(found.random)}"
    why = Counter(trial.outcome.error or "" for trial in found.failed_trials)
    for message, count in why.most_common(_SHOWN):
        yield f"  {count} failed: {message}"
    for cell in found.candidates.failed:
        yield f"  {cell.model} could not be measured on select data: {cell.task}: {cell.error}"
    if len(why) > _SHOWN:
        yield f"  and {len(why) - _SHOWN} other messages, in the JSON and the page"


def counted(trials: tuple[Trial, ...]) -> str:
    """How many trials ended how."""
    states = Counter(trial.state for trial in trials)
    others = [f"{states[state]} {state}" for state in ("stopped", "failed") if states[state]]
    return f"{len(trials)} trials" + (f" ({', '.join(others)})" if others else "")


def heads(found: Search) -> list[str]:
    """The columns of :func:`grid_of`."""
    roles = _roles(found)
    return ["", *roles, *(f"gap {role}–report" for role in roles if role != "report" and "report" in roles)]


def grid_of(found: Search, objective: int) -> Iterator[tuple[Told, list[str]]]:
    """Each row with its figures of one objective, and its gaps."""
    roles = _roles(found)
    for row in found.rows:
        values = [row.figures[role][objective] for role in roles]
        before = [role for role in roles if role != "report" and "report" in roles]
        gaps = [row.gap(role, found.objectives)[objective] for role in before]
        yield row, [*map(_number, values), *("" if gap is None else f"{gap:+.3g}" for gap in gaps)]


def _roles(found: Search) -> list[str]:
    return [role for role in ROLES if getattr(found, role) is not None]


def _number(value: float | None) -> str:
    return "failed" if value is None else number(value)


def value_told(value: object, digits: int | None = 6) -> str:
    """A value of a dimension, as a recipe writes it; numbers to so many digits, or None for all of them."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.{digits}g}" if isinstance(value, float) and digits is not None else str(value)


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _aligned(rows: list[list[str]]) -> Iterator[str]:
    rows = [[shown(row[0]), *row[1:]] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield ("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip()
