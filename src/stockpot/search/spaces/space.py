"""Recipes with holes as spaces: values in, a plain recipe out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stockpot.errors import Problem, RecipeError, UnsupportedError
from stockpot.recipe import yaml_nodes
from stockpot.recipe.findings import Findings, in_order
from stockpot.recipe.known import nearest
from stockpot.recipe.model import Recipe
from stockpot.recipe.parse import parse_recipe, recipe_text
from stockpot.recipe.yaml_nodes import Node, compose
from stockpot.search.spaces.depths import Depths
from stockpot.search.spaces.dimensions import Dimension, Value, same_value
from stockpot.search.spaces.layout import Layout, twice

__all__ = ["Space", "load_space"]

_UNNAMED = "<recipe>"
_MOST_TRIALS = 60
"""More than so many ends and choices are tried together: the first of every hole, then the second, and so on."""

_COEFFICIENTS = frozenset({"weight", "lambda", "t", "alpha", "scale"})
"""Keys of recipes whose value is how much of something is taken."""

_EXAMPLE = "write {search: [0, 1]} or {choice: [a, b]} in place of a value, such as weight: {search: [0, 1]}"


@dataclass(frozen=True, eq=False)
class Space:
    """A recipe some of whose values are open. Made by :meth:`of`.

    Args:
        text: As it was written.
        dimensions: What is open, in the order of the text.

    >>> space = Space.of("{merge_method: linear, models: [{model: a, parameters: {weight: {search: [0, 2]}}}]}")
    >>> space.start()
    {'models[0].weight': 1.0}
    >>> space.written({"models[0].weight": 0.25})
    '{merge_method: linear, models: [{model: a, parameters: {weight: 0.25}}]}'
    """

    text: str
    dimensions: tuple[Dimension, ...]
    _layout: Layout = field(repr=False)
    _options: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(
        cls,
        text: str,
        *,
        folder: str | None = None,
        name: str = _UNNAMED,
        lenient: bool = False,
        seed: int | None = None,
        allow_code: bool = False,
    ) -> Space:
        """The space of a recipe; it is tried at its start, with each choice, and at both ends of each range.

        Args:
            text: One or several YAML documents with holes.
            folder, name, lenient, seed, allow_code: As for :func:`stockpot.recipe.parse.parse_recipe`.

        Raises:
            RecipeError: with everything that is wrong in it, holes or not.
            UnsupportedError: when it needs features that this version lacks, each by name.
        """
        findings = Findings(None if name == _UNNAMED else name, lenient)
        options = {"folder": folder, "name": name, "lenient": lenient, "seed": seed, "allow_code": allow_code}
        documents = _documents(text, findings)
        _no_genome(documents, findings)
        layout = Layout.of(text, documents, findings)
        findings.raise_if_any()
        space = cls._checked(layout, options, findings)
        if layout.grouped:
            layout = layout.with_groups(_layers(space, layout, findings))
            space = cls._checked(layout, options, findings)
        _try_ends(space, layout)
        return space

    @classmethod
    def _checked(cls, layout: Layout, options: Mapping[str, Any], findings: Findings) -> Space:
        """The space, whose names differ and whose start can be parsed."""
        dimensions = layout.dimensions
        if not dimensions:
            cls(layout.text, dimensions, layout, options).recipe({})  # which tells of words that are no holes
            raise RecipeError(Problem("nothing in the recipe is left open", file=findings.file, fix=_EXAMPLE))
        double = twice(dimensions)
        if double is not None:
            findings.problem(f"two open values are called {double.name!r}", double.line, "give one of them a name: …")
            findings.raise_if_any()
        space = cls(layout.text, dimensions, layout, options)
        space.recipe(space.start())
        return space

    @property
    def file(self) -> str | None:
        """Where it was read; None for text that came from nowhere."""
        name = str(self._options["name"])
        return None if name == _UNNAMED else name

    def start(self) -> dict[str, Value]:
        """The first guess."""
        return {d.name: d.start for d in self.dimensions}

    @property
    def coefficients(self) -> tuple[Dimension, ...]:
        """The ranges that :meth:`shared` moves: those of coefficients, such as ``weight``; without one, every range."""
        ranges = tuple(d for d in self.dimensions if d.kind != "choice")
        return tuple(d for d in ranges if d.key in _COEFFICIENTS) or ranges

    def shared(self, t: float) -> dict[str, Value]:
        """One number for all: coefficients at the same place ``t`` in [0, 1] of their ranges, the rest at the start."""
        moved = self.coefficients
        return {d.name: d.at(t) if d in moved else d.start for d in self.dimensions}

    def written(self, values: Mapping[str, Value]) -> str:
        """The recipe with ``values`` in its holes: every other character stays, lines keep their numbers.

        Raises:
            RecipeError: when a value is missing, unknown or out of its range.
        """
        problems = tuple(self._wrong(values))
        if problems:
            raise RecipeError(*problems)
        return self._layout.written(values)

    def recipe(self, values: Mapping[str, Value]) -> Recipe:
        """The recipe at ``values``.

        Raises:
            RecipeError: as for :meth:`written`, and when the recipe does not allow them together.
        """
        return parse_recipe(self.written(values), **self._options)

    def _wrong(self, values: Mapping[str, Value]) -> Iterator[Problem]:
        names = {d.name: d for d in self.dimensions}
        for name in values:
            if name not in names:
                near = nearest(name, names)
                fix = f"did you mean {near}?" if near else f"what is open: {', '.join(names)}"
                yield Problem(f"nothing that is open is called {name!r}", fix=fix)
        for name, dimension in names.items():
            wrong = dimension.wrong(values[name]) if name in values else f"{name} has no value"
            if wrong is not None:
                yield Problem(wrong, line=dimension.line, fix="give every open value, inside its range")


def load_space(path: str | os.PathLike[str], **same: Any) -> Space:
    """The space of the recipe in the file ``path``; relative models are relative to its folder.

    Args:
        path: The file, UTF-8.
        same: As for :meth:`Space.of`.

    Raises:
        RecipeError: when the file cannot be read, or with everything that is wrong in it.
    """
    file = Path(path)
    return Space.of(recipe_text(file), folder=str(file.parent), name=str(file), **same)


def _documents(text: str, findings: Findings) -> tuple[Node, ...]:
    try:
        documents, problems = compose(text)
    except RecipeError as error:
        findings.adopt(error.problems)
        findings.raise_if_any()
        raise
    for problem in problems:
        findings.problem(problem.message, problem.line, problem.fix)
    return documents


def _no_genome(documents: tuple[Node, ...], findings: Findings) -> None:
    """Raise for the file of another tool, which would be a recipe with nothing right in it."""
    roots = [one for one in documents if isinstance(one, yaml_nodes.Mapping)]
    for entry in filter(None, (root.get("genome") for root in roots)):
        fix = (
            "write what genome says as a recipe with open values, such as weight: {search: [0, 1], groups: 8}, and its "
            "tasks into a suite; docs/search.md has both side by side"
        )
        findings.problem("this is a configuration of mergekit-evolve, not a recipe", entry.line, fix)
    findings.raise_if_any()


def _layers(space: Space, layout: Layout, findings: Findings) -> dict[int, int]:
    """How many layers each hole with groups is for, whatever else is chosen.

    Raises:
        RecipeError: when that cannot be told.
        StockpotError: when the models cannot be opened.
    """
    start = space.start()
    layers = layout.layers(Depths.of(space.recipe(start)), findings)
    findings.raise_if_any()
    for told, values in _ends(layout):
        if any(name in layout.shaping for name in values):
            other = layout.layers(Depths.of(space.recipe({**start, **values})), findings)
            for number in (n for n in layers if other.get(n, layers[n]) != layers[n]):
                message = f"groups of {layers[number]} layers, which are {other[number]} with {told}"
                findings.problem(message, layout.blanks[number].line, "choose among models of equal depth")
    findings.raise_if_any()
    return layers


def _try_ends(space: Space, layout: Layout) -> None:
    """Parse the recipe with each hole at its ends, or with each of its choices, and with all layers.

    Raises:
        RecipeError: with the problems of all that was tried.
    """
    start = space.start()
    found: dict[Problem, None] = {}
    for told, values in _ends(layout):
        try:
            space.recipe({**start, **values})
        except (RecipeError, UnsupportedError) as error:
            for problem in error.problems:
                found[replace(problem, message=f"{problem.message} (tried: {told})")] = None
    if found:
        raise RecipeError(*in_order(found))


def _ends(layout: Layout) -> list[tuple[str, dict[str, Value]]]:
    """What is tried beside the start: a word for it, and the values that differ. Of many, several at once."""
    singles: list[tuple[int, str, dict[str, Value]]] = []
    for part in layout.parts:
        names = [d.name for own in part.dimensions for d in own]
        first = part.dimensions[0][0]
        ends = first.choices if first.kind == "choice" else (first.at(0.0), first.at(1.0))
        for number, value in enumerate(ends if part.blank.first else ()):
            if not same_value(value, first.start):
                singles.append((number, f"{first.name} = {value}", dict.fromkeys(names, value)))
    if len(singles) > _MOST_TRIALS:
        rounds: dict[int, dict[str, Value]] = {}
        for number, _, values in singles:
            rounds.setdefault(number, {}).update(values)
        singles = [(number, f"value {number + 1} of every hole", values) for number, values in rounds.items()]
    found = [(told, values) for _, told, values in singles]
    if layout.layered:
        found.append(("all layers", {d.name: True for own in layout.layered for d in own.dimensions}))
    return found
