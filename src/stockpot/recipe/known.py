"""Methods, parameters and companions that a recipe may name: the registry's, the steps', those of its own file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache, cached_property
from types import MappingProxyType

from stockpot.methods.declare import Method, Parameter
from stockpot.methods.pieces import PIECES
from stockpot.methods.registry import METHODS

__all__ = ["STEPS", "Known", "declared_parameters", "known_parameters", "method_names", "nearest", "takes"]

STEPS = "steps"
"""The ``merge_method`` whose steps are written in the recipe."""

_LAMBDA = "factor of the merged difference before it is added to the base"
_ALIASES = {alias: method for method in METHODS.values() for alias in method.aliases}


@dataclass(frozen=True)
class Known:
    """What the names in one document may mean.

    Args:
        own: Methods of the document's method file, by name.
        complete: False when that file was not loaded, so that other names may be methods too.
    """

    own: Mapping[str, Method] = field(default_factory=dict)
    complete: bool = True

    def method(self, name: str) -> Method | None:
        """The method called ``name``, if any; a chain of steps is none before its steps are read."""
        return self.own.get(name) or METHODS.get(name) or _ALIASES.get(name)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that ``merge_method`` may have."""
        return (*self.own, *method_names())

    @cached_property
    def parameters(self) -> Collection[str]:
        """Names of all parameters that some method or step takes."""
        return {*known_parameters(), *(p.name for m in self.own.values() for p in m.parameters)}

    @property
    def companions(self) -> Collection[str]:
        """Names of all companions that some method reads."""
        return _companions()


def declared_parameters() -> list[tuple[str, Parameter]]:
    """(method or ``step NAME``, parameter) of every parameter that is declared."""
    methods = [(m.name, p) for m in METHODS.values() for p in m.parameters]
    return [*methods, *((f"step {piece.name}", p) for piece in PIECES.values() for p in piece.parameters)]


@cache
def known_parameters() -> Mapping[str, str]:
    """Parameter name → what it means: one line, or one for each meaning with the methods that share it."""
    meanings: dict[str, dict[str, list[str]]] = {}
    scaled = [(m.name, Parameter("lambda", _LAMBDA)) for m in METHODS.values() if m.scaled]
    for owner, parameter in (*declared_parameters(), *scaled):
        meanings.setdefault(parameter.name, {}).setdefault(parameter.doc, []).append(owner)
    return MappingProxyType({name: _told(found) for name, found in meanings.items()})


def _told(meanings: Mapping[str, list[str]]) -> str:
    if len(meanings) == 1:
        return next(iter(meanings))
    return "\n".join(f"{', '.join(owners)}: {doc}" for doc, owners in meanings.items())


@cache
def _companions() -> frozenset[str]:
    return frozenset(c.name for method in METHODS.values() for c in method.companions)


@cache
def method_names() -> tuple[str, ...]:
    """Every name that ``merge_method`` may have in any recipe, aliases included."""
    return (*METHODS, *_ALIASES, STEPS)


def takes(method: Method, given: Collection[str] = ()) -> tuple[str, ...]:
    """Names of the parameters that ``method`` takes in a recipe, without those its steps are ``given``."""
    names = tuple(p.name for p in method.parameters if p.name not in given)
    return (*names, "lambda") if method.scaled and "lambda" not in names else names


def nearest(name: str, known: Iterable[str], cutoff: float = 0.7) -> str | None:
    """The known name most like ``name``, if any is like it."""
    found = get_close_matches(name.lower(), list(known), n=1, cutoff=cutoff)
    return found[0] if found else None
