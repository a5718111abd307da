"""How many layers there are where a recipe's parameters stand, from headers alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from stockpot.expression import Apply, Expression, Linear
from stockpot.planning.build import open_all
from stockpot.planning.lowering import build_view
from stockpot.planning.merged import Merged
from stockpot.planning.views import Context
from stockpot.recipe.model import Recipe

__all__ = ["Depths"]


@dataclass(frozen=True)
class Depths:
    """The numbers of layers by (parameter, line of the recipe), and by line alone."""

    by_name: Mapping[tuple[str, int], frozenset[int]]
    by_line: Mapping[int, frozenset[int]]

    @classmethod
    def of(cls, recipe: Recipe) -> Depths:
        """Those of a recipe, whose models are opened.

        Raises:
            StockpotError: when they cannot be.
        """
        expression, checkpoints = open_all(recipe.expression)
        context = Context(checkpoints, recipe.seed, recipe.mismatched)
        by_name: dict[tuple[str, int], frozenset[int]] = {}
        by_line: dict[int, frozenset[int]] = {}
        for node in _nodes(expression):
            lines = set(_lines(node))
            view = build_view(node, context) if lines else None
            counts = frozenset(view.layers.values()) if isinstance(view, Merged) else frozenset[int]()
            for name, line in lines:
                by_name[name, line] = by_name.get((name, line), frozenset()) | counts
                by_line[line] = by_line.get(line, frozenset()) | counts
        return cls(by_name, by_line)

    def at(self, name: str, line: int) -> frozenset[int]:
        """The numbers of layers that values of a parameter are for; steps of chains are known by their line."""
        return self.by_name.get((name, line), self.by_line.get(line, frozenset()))


def _nodes(expression: Expression) -> Iterator[Expression]:
    """Every node once."""
    waiting, seen = [expression], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            waiting += node.children


def _lines(node: Expression) -> Iterator[tuple[str, int]]:
    """The parameters that are written for ``node``, with their lines."""
    if isinstance(node, Linear):
        yield from (("lambda", term.coefficient.line) for term in node.terms if term.coefficient.line is not None)
    if isinstance(node, Apply):
        for levels in (node.one, *node.each):
            for name, settings in levels.items():
                yield from ((name, setting.line) for setting in settings if setting.line is not None)
