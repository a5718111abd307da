"""How a soup came about, and what a sweep chose, as lines of text."""

from __future__ import annotations

from collections.abc import Iterator

from stockpot.evaluate.table import number, percent, shown
from stockpot.search.mixing.told import mixture_told
from stockpot.search.objective import Objective
from stockpot.search.soups import Soup
from stockpot.search.sweeps import Sweep

__all__ = ["soup_told", "step_told", "sweep_told"]

_PRINTED = 200
"""Lines of a recipe that are still printed."""


def soup_told(found: Soup) -> Iterator[str]:
    """Each step, the members, the recipe; names not yet made safe to print."""
    yield ""
    if found.steps:
        rule = "better" if found.strict else "no worse"
        yield f"{found.name}: a model is kept if the average with it is {rule}, by {found.objective}"
        for i, step in enumerate(found.steps):
            sign = "+" if step.kept else "-"
            yield f"  {sign} {shown(step.name)}: {step_told(found, i)}"
    if found.mixture is not None:
        lead, *lines = mixture_told(found.mixture, found.objective)
        yield f"{found.name}: {lead}"
        yield from lines
    yield f"{found.name}: {len(found.members)} of {len(found.models)} models"
    yield from _recipe(found.recipe.text)


def step_told(found: Soup, i: int) -> str:
    """What came of a step, in words."""
    step = found.steps[i]
    if step.error is not None:
        return f"FAILED: {step.error}"
    value = found.value(step)
    figure = "" if value is None else number(value)
    if i == 0:
        return f"{figure}, the best single model"
    return f"{figure} with it" + ("" if step.kept else ", left out")


def sweep_told(found: Sweep) -> Iterator[str]:
    """The choice and its recipe; names not yet made safe to print."""
    yield ""
    if found.curve.split == "report":
        yield f"the curve is on report data: no {found.parameter} was chosen"
        return
    if found.chosen is None:
        yield f"no {found.parameter} was chosen: " + (
            "none keeps the control" if found.control is not None else "no point could be measured"
        )
        return
    name = found.names[found.values.index(found.chosen)]
    figure = _figure(found, found.objective, name)
    if found.control is None:
        yield f"{name}: the best by {found.objective} ({figure})"
    else:
        control, keep = found.control
        kept = f"{percent(keep)} of {control}"
        yield f"{name}: the largest that keeps {kept} ({_figure(found, control, name)}); {found.objective} is {figure}"
    yield from _recipe(found.recipe)


def _figure(found: Sweep, objective: Objective, name: str) -> str:
    value = objective.value(found.curve, name)
    return "failed" if value is None else number(value)


def _recipe(text: str) -> Iterator[str]:
    lines = text.splitlines()
    if len(lines) > _PRINTED:
        yield f"its recipe has {len(lines)} lines: --json and --html have it"
    elif lines:
        yield "recipe, to be run from this folder:"
        yield from (f"  {line}" for line in lines)
