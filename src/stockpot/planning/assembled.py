"""A model of which each module is computed in a way of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from stockpot.architecture.modules import Modules
from stockpot.planning.matching import relaid_as
from stockpot.planning.model import Operand
from stockpot.planning.views import Context, Meta, Sliced, View

__all__ = ["AssembledView"]


class AssembledView:
    """The tensors of each module from its view, all others from ``rest``, which is told.

    Args:
        parts: Module → its view, which is that of a whole model.
        rest: The model that gives names of modules, and what no module holds.
    """

    def __init__(self, parts: Sequence[tuple[str, View]], rest: View, context: Context, line: int | None) -> None:
        self.label = ", ".join(dict.fromkeys(view.label for _, view in parts))
        self._rest = rest
        modules = Modules.of([module for module, _ in parts], rest.names, rest.config)
        for module, prefix in modules.prefixes.items():
            if not prefix:
                message = f"{rest.label} has no module {module}, or more than one"
                context.problem(message, line=line, fix=f"its parts are {', '.join(modules.parts[:12])}")
        self._parts = {module: relaid_as(view, rest, context, line) for module, view in parts}
        self._mapped: dict[str, View] = {n: rest for n in rest.names if modules.owner(n) is None}
        self._tell_of_rest(context, line)
        for module, view in self._parts.items():
            self._mapped |= {name: view for name in view.names if modules.owner(name) == module}

    def _tell_of_rest(self, context: Context, line: int | None) -> None:
        """What no module holds is that of the base."""
        tops = list(dict.fromkeys(name.removesuffix(".weight") for name in self._mapped))
        if tops:
            more = f", and {len(tops) - 8} more" if len(tops) > 8 else ""
            message = f"no module holds {', '.join(tops[:8])}{more}: these tensors are those of {self._rest.label}"
            context.note(message, line=line)

    @cached_property
    def names(self) -> Mapping[str, Meta]:
        order = {name: place for place, name in enumerate(self._rest.names)}
        names = sorted(self._mapped, key=lambda name: order.get(name, len(order)))
        return {name: self._mapped[name].names[name] for name in names}

    @property
    def config(self) -> Mapping[str, Any]:
        return self._rest.config

    @property
    def sliced(self) -> Sliced | None:
        taken = [view.sliced for view in self._parts.values() if view.sliced is not None]
        return Sliced(taken[0].stack, frozenset[str]().union(*(s.firsts for s in taken))) if taken else None

    def lower(self, name: str) -> Operand:
        return self._mapped[name].lower(name)

    def origin(self, name: str) -> tuple[Mapping[str, Any], str]:
        return self._mapped[name].origin(name)
