"""Checkpoints that are opened once for many plans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from stockpot.checkpoint.model import Checkpoint
from stockpot.expression import Leaf

__all__ = ["Inputs"]


@dataclass(frozen=True, eq=False)
class Inputs:
    """What plans that are made one after another, or side by side, have opened: the candidates of a search.

    Headers and configs are read once. A file that is changed later is not opened again: whatever reads it then fails.
    """

    _found: dict[tuple[str, str | None, int], Checkpoint] = field(default_factory=dict)

    def opened(self, leaf: Leaf, opened: Callable[[], Checkpoint]) -> Checkpoint:
        """The checkpoint of ``leaf``, by ``opened`` the first time."""
        if leaf.checkpoint is not None:  # known by its place in memory, which may be another's later
            return opened()
        found = self._found.get(leaf.key)
        return found if found is not None else self._found.setdefault(leaf.key, opened())
