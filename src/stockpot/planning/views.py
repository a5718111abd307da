"""Expressions as models: which tensors they have, and how each is computed.

A view lists tensor names with dtype and shape and lowers one name at a time to an operand. All problems
are collected, none is raised, so that a plan reports everything at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from stockpot.checkpoint.dtypes import DType
from stockpot.checkpoint.model import Checkpoint
from stockpot.errors import Problem
from stockpot.expression import Apply, Expression
from stockpot.planning.model import Compute, Operand
from stockpot.vocabulary.model import Vocabulary

__all__ = ["Context", "Meta", "Scope", "Sliced", "Surveyed", "View", "Wrapped"]


@dataclass(frozen=True)
class Meta:
    """Dtype and shape of a tensor."""

    dtype: DType
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Sliced:
    """The stack that layers were taken from, and what in its first layer belongs to the place, not to the layer."""

    stack: str
    firsts: frozenset[str] = frozenset()


@dataclass
class Context:
    """What building views shares: opened checkpoints, the seed, and the problems found so far.

    Args:
        mismatched: Whether tensors that do not fit the base's are to be the base's.
        scope: What is done to every model; ``outer`` is the context without it.
        scopes: What is done to the models of each node that does something to them, by the node's identity.
        vocabularies: Those that were read, by the hash of their files: most models of a merge have the same.
        vocabularies_read: Bytes of the files of each.
    """

    checkpoints: Mapping[tuple[str, str | None, int], Checkpoint]
    seed: int = 0
    mismatched: bool = False
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    cache: dict[int, View] = field(default_factory=dict)
    groups: list[Surveyed] = field(default_factory=list)
    scope: Scope | None = None
    outer: Context | None = None
    scopes: dict[int, Any] = field(default_factory=dict)
    vocabularies: dict[str, Vocabulary] = field(default_factory=dict)
    vocabularies_read: list[int] = field(default_factory=list)

    @property
    def plain(self) -> Context:
        """The context in which models are as they are stored."""
        return self if self.outer is None else self.outer

    def within(self, scope: Scope) -> Context:
        """The context in which ``scope`` sees to every model."""
        return replace(self.plain, cache={}, scope=scope, outer=self.plain)

    def group(self, view: Surveyed) -> int:
        """A number for the statistics of the whole model that ``view`` may need, from 1; inner merges come first."""
        self.groups.append(view)
        return len(self.groups)

    def problem(self, message: str, **where: Any) -> None:
        """Remember one problem, once."""
        found = Problem(message, **where)
        if found not in self.problems:
            self.problems.append(found)

    def note(self, message: str, **where: Any) -> None:
        """Remember something worth telling, once."""
        found = Problem(message, **where)
        if found not in self.notes:
            self.notes.append(found)


class Scope(Protocol):
    """What is done to every model of a merge before it is merged."""

    def seen(self, expression: Expression, view: View) -> View:
        """``view``, which is that of the model ``expression``, as it is merged."""


class Surveyed(Protocol):
    """A merge that may need statistics of the whole model."""

    node: Apply

    def members(self) -> Mapping[str, Compute]:
        """What they are taken over."""


class Wrapped:
    """What a view of one other, ``of``, takes over from it. Abstract."""

    of: View

    @property
    def config(self) -> Mapping[str, Any]:
        return self.of.config

    @property
    def sliced(self) -> Sliced | None:
        return self.of.sliced


class View(Protocol):
    """An expression seen as a set of named tensors."""

    @property
    def label(self) -> str:
        """How the user wrote it."""

    @property
    def names(self) -> Mapping[str, Meta]:
        """Name → dtype and shape, in order."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The config that goes with it."""

    @property
    def sliced(self) -> Sliced | None:
        """Where layers were taken from; None for a whole model."""

    def lower(self, name: str) -> Operand:
        """How tensor ``name`` is computed."""

    def origin(self, name: str) -> tuple[Mapping[str, Any], str]:
        """Config of the (first) checkpoint that tensor ``name`` comes from, and its name there."""
