"""How a soup came about, and what a sweep chose, as lines of text."""

from __future__ import annotations

from collections.abc import Iterator

from stockpot.evaluate.table import number, percent, shown
from stockpot.search.soups import Soup
from stockpot.search.sweeps import Normalised, Sweep
from stockpot.search.sweeps.choice import Aim

__all__ = ["soup_told", "step_told", "sweep_told"]


def soup_told(found: Soup) -> Iterator[str]:
    """Each step, the members, the recipe; names not yet made safe to print."""
    yield ""
    if found.steps:
        rule = "better" if found.strict else "no worse"
        yield f"{found.name}: a model is kept if the average with it is {rule}, by {found.objective}"
        for i, step in enumerate(found.steps):
            sign = "+" if step.kept else "-"
            yield f"  {sign} {shown(step.name)}: {step_told(found, i)}"
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
    yield from _alike(found)
    yield from _normalised(found)
    if found.curve.split == "report":
        yield f"the curve is on report data: no {found.parameter} was chosen"
        return
    if found.chosen is None:
        yield f"no {found.parameter} was chosen: " + (
            "none keeps the control" if found.control is not None else "no point could be measured"
        )
        return
    name = found.chosen_name or ""
    figure = _figure(found, found.objective, name)
    if found.control is None:
        yield f"{name}: the best by {found.objective} ({figure})"
    else:
        control, keep = found.control
        kept = f"{percent(keep)} of {control}"
        yield f"{name}: the largest that keeps {kept} ({_figure(found, control, name)}); {found.objective} is {figure}"
    yield from _control(found)
    yield from _on_report(found)
    yield from _recipe(found.recipe)


def _alike(found: Sweep) -> Iterator[str]:
    if found.cosines:
        yield "cosines of task vectors; near 0 they hardly meet"
        for one in found.cosines:
            first, second = map(shown, one.models)
            yield f"  {first} and {second}: {'a vector is 0' if one.cosine is None else f'{one.cosine:.4f}'}"
        yield ""


def _normalised(found: Sweep) -> Iterator[str]:
    """The mean normalised figure of each point, and what it is relative to."""
    if not isinstance(found.objective, Normalised):
        return
    owners = ", ".join(f"{task} {shown(model)}" for task, model in found.objective.owners.items())
    yield f"{found.objective}, relative to the fine-tuned model of each task: {owners}"
    for name in found.names:
        value = found.objective.value(found.curve, name)
        yield f"  {name}: {'failed' if value is None else f'{value:.4f}'}" + " ←" * (name == found.chosen_name)
    yield ""


def _on_report(found: Sweep) -> Iterator[str]:
    value = found.normalised_report
    if value is not None:
        yield f"on report data, {found.objective} of {found.chosen_name}: {number(value)}"


def _control(found: Sweep) -> Iterator[str]:
    if found.random is None or not found.chosen:
        return
    value = found.random_value(found.chosen)
    figure = "failed" if value is None else number(value)
    yield f"a random vector of the same norm there: {found.objective} is {figure}"


def _figure(found: Sweep, objective: Aim, name: str) -> str:
    value = objective.value(found.curve, name)
    return "failed" if value is None else number(value)


def _recipe(text: str) -> Iterator[str]:
    if text:
        yield "recipe, to be run from this folder:"
        yield from (f"  {line}" for line in text.splitlines())
