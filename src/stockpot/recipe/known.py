"""Methods and parameters that recipes may name: the registry's, and mergekit's still to come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from types import MappingProxyType

from stockpot.methods.declare import Base, Method
from stockpot.methods.registry import METHODS

__all__ = ["MERGEKIT", "PENDING", "Pending", "known_parameters", "known_words", "method_names", "nearest", "takes"]


@dataclass(frozen=True)
class Pending:
    """A method of mergekit that the registry may lack: enough of it to check a recipe's keys.

    Args:
        base: What ``base_model`` means to it.
        whole: Names of parameters of the whole merge.
        each: Names of parameters that each model has.
    """

    base: Base
    whole: tuple[str, ...] = ()
    each: tuple[str, ...] = ()

    @property
    def parameters(self) -> tuple[str, ...]:
        """All names."""
        return (*self.each, *self.whole)


_GTA = ("normalize", "rescale", "lambda", "int8_mask")
_CRUMBS = Pending(Base.REQUIRED, _GTA, ("weight", "density", "gamma"))
_DELLA = Pending(Base.REQUIRED, _GTA, ("weight", "density", "epsilon"))

MERGEKIT: Mapping[str, Pending] = MappingProxyType(
    {
        "breadcrumbs": _CRUMBS,
        "breadcrumbs_ties": _CRUMBS,
        "della": _DELLA,
        "della_linear": _DELLA,
        "karcher": Pending(Base.NONE, ("max_iter", "tol")),
        "multislerp": Pending(Base.OPTIONAL, ("normalize_weights", "eps"), ("weight",)),
        "nearswap": Pending(Base.REQUIRED, ("t",)),
        "arcee_fusion": Pending(Base.REQUIRED),
        "ram": Pending(Base.REQUIRED, ("epsilon",)),
        "ramplus_tl": Pending(Base.REQUIRED, ("epsilon", "r", "alpha")),
        "sce": Pending(Base.REQUIRED, ("select_topk", "int8_mask")),
    }
)
"""Methods of mergekit beyond the first ones, with mergekit's own parameter names."""

PENDING: Mapping[str, Pending] = MappingProxyType({n: p for n, p in MERGEKIT.items() if n not in METHODS})
"""Those that the registry does not have yet; empties itself as the registry grows."""

_LAMBDA = "factor of the merged difference before it is added to the base"
_NO_DOC = "a parameter of mergekit"
_DOCS = {
    "gamma": "share of the largest entries that is dropped too",
    "epsilon": "half-width of the range of keep probabilities, or a threshold",
    "max_iter": "most iterations",
    "tol": "where iterations stop",
    "select_topk": "share of entries of highest variance that is kept",
}


@cache
def known_parameters() -> Mapping[str, str]:
    """Parameter name → one line, for every parameter that some method takes."""
    found = {p.name: p.doc for method in METHODS.values() for p in method.parameters}
    found.setdefault("lambda", _LAMBDA)
    for pending in MERGEKIT.values():
        for name in pending.parameters:
            found.setdefault(name, _DOCS.get(name, _NO_DOC))
    return MappingProxyType(found)


@cache
def known_words() -> Mapping[str, tuple[str, ...]]:
    """Parameter name → the words that it may be in some method, for every parameter that is a choice somewhere."""
    found: dict[str, tuple[str, ...]] = {}
    for method in METHODS.values():
        for p in method.parameters:
            if p.kind == "choice":
                found[p.name] = tuple(dict.fromkeys((*found.get(p.name, ()), *p.choices)))
    return MappingProxyType(found)


def takes(method: Method | Pending) -> tuple[str, ...]:
    """Names of the parameters that ``method`` takes in a recipe."""
    if isinstance(method, Pending):
        return method.parameters
    names = tuple(p.name for p in method.parameters)
    return (*names, "lambda") if method.scaled and "lambda" not in names else names


@cache
def method_names() -> tuple[str, ...]:
    """Every name that ``merge_method`` may have, aliases and methods still to come included."""
    aliases = [alias for method in METHODS.values() for alias in method.aliases]
    return (*METHODS, *aliases, *PENDING)


def nearest(name: str, known: Iterable[str], cutoff: float = 0.7) -> str | None:
    """The known name most like ``name``, if any is like it."""
    found = get_close_matches(name.lower(), list(known), n=1, cutoff=cutoff)
    return found[0] if found else None
