"""The vocabulary in which a method is declared: parameters, citation, spaces, laws.

A declaration is data. The recipe checker, the planner, the documentation, the JSON Schema and the
tests of the laws all read the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "REQUIRED",
    "Axis",
    "Base",
    "Citation",
    "Elementwise",
    "Floats",
    "Law",
    "Method",
    "Parameter",
    "Resolved",
    "Space",
    "Span",
    "axis_of",
]

Floats = npt.NDArray[np.float64]


class Space(Enum):
    """What an expression is: a model, or a difference of two."""

    WEIGHTS = "Weights"
    DELTA = "Delta"


class Base(Enum):
    """What ``base_model`` in a recipe means to a method."""

    NONE = "takes no base"
    OPTIONAL = "with a base, works on differences to it"
    REQUIRED = "works on differences to the base"
    MEMBER = "the base is the first of its models"


class Law(Enum):
    """What a method promises; each is tested over the whole registry."""

    IDEMPOTENT = "copies of one model give that model back"
    ORDER_FREE = "the order of the models does not matter"
    ZERO_DELTA = "models equal to the base give the base back"
    ENDPOINTS = "a weight of 1 (and 0 elsewhere) returns that model exactly"
    KEEPS_EXACTLY = "density keeps exactly round(density x n) entries, ties by index"
    DETERMINISTIC = "no random numbers are drawn"


REQUIRED = object()
"""Marks a parameter that has no default."""


@dataclass(frozen=True)
class Parameter:
    """One named parameter.

    Args:
        name: As written in recipes (``lambda`` is spelled ``lambda_`` in Python).
        doc: One line, with units and meaning.
        default: Its default, or ``REQUIRED``.
        per_model: Whether each model has a value of its own.
        kind: ``float``, ``bool`` or ``ignored`` (accepted from other tools, changes nothing).
        low, high: Closed range of allowed values; None is unbounded.
        open_low: Whether ``low`` itself is excluded.
    """

    name: str
    doc: str
    default: Any = REQUIRED
    per_model: bool = False
    kind: Literal["float", "bool", "ignored"] = "float"
    low: float | None = None
    high: float | None = None
    open_low: bool = False

    @property
    def python_name(self) -> str:
        """The keyword in Python: ``lambda`` becomes ``lambda_``."""
        return self.name + "_" if self.name == "lambda" else self.name


@dataclass(frozen=True)
class Citation:
    """Where a method comes from."""

    authors: str
    title: str
    year: int
    place: str
    equation: str

    def __str__(self) -> str:
        return f"{self.authors} ({self.year}), {self.title}, {self.place}, {self.equation}"


@dataclass(frozen=True)
class Resolved:
    """Parameters of one tensor, all explicit.

    Args:
        one: Name → value, for parameters of the whole method.
        each: Name → one value per model.
        models: Number of models (inputs, the base not counted).
        compat: Whether mergekit's behaviour is asked for.
        variant: Name of the variant, or None for the default.
    """

    one: Mapping[str, float | bool]
    each: Mapping[str, tuple[float, ...]]
    models: int
    compat: bool = False
    variant: str | None = None

    def __getitem__(self, name: str) -> Any:
        return self.each[name] if name in self.each else self.one[name]


Axis = Literal["tensor", "row", "column"]


@dataclass(frozen=True)
class Span:
    """A method whose output is a linear combination of its inputs.

    Args:
        coefficients: (Gram matrix of shape (groups, models, models) or None, parameters) →
            coefficients of shape (models,) or (groups, models).
        gram: Whether (parameters) → the Gram matrix is needed, which costs a pass.
        divisor: (parameters) → number that the sum is divided by, after it was summed: Σ w x / Σ w is
            closer than a sum with rounded quotients.
        axis: (parameters) → over what the Gram matrix is taken: the whole tensor, each vector along
            the last dimension (``row``) or along the first (``column``).
    """

    coefficients: Callable[[Floats | None, Resolved], Floats]
    gram: bool = False
    divisor: Callable[[Resolved], float] = lambda _: 1.0
    axis: Callable[[Resolved], Axis] = lambda _: "tensor"


def axis_of(method: Method | None, resolved: Resolved | None) -> Axis:
    """Over what a method's angles are taken; ``tensor`` for all that have none."""
    if method is None or resolved is None or not isinstance(method.family, Span):
        return "tensor"
    return method.family.axis(resolved)


@dataclass(frozen=True)
class Elementwise:
    """A method made of atoms that act on each element of all inputs: sparsify → elect → combine.

    ``build`` maps parameters to the atoms (see :mod:`stockpot.methods.elementwise.atoms`).
    """

    build: Callable[[Resolved], Sequence[Any]]


@dataclass(frozen=True)
class Method:
    """One merging method: everything that is known about it, in one place.

    Args:
        name: As written in recipes and in Python.
        summary: One line.
        formula: Plain-text formula.
        cites: Its source.
        family: The executable part.
        base: What ``base_model`` means to it.
        on: Space of its inputs: ``weights``, ``delta`` or ``either`` (then all inputs share one).
        at_least, at_most: Number of inputs, the base counted only when it is a MEMBER.
        parameters: Its parameters.
        laws: What it promises.
        aliases: Other names.
        variants: Name → what it does differently.
        scaled: Whether recipes may scale the resulting difference by ``lambda``.
    """

    name: str
    summary: str
    formula: str
    cites: Citation
    family: Span | Elementwise
    base: Base
    on: Literal["weights", "delta", "either"]
    at_least: int = 1
    at_most: int | None = None
    parameters: tuple[Parameter, ...] = ()
    laws: frozenset[Law] = frozenset()
    aliases: tuple[str, ...] = ()
    variants: Mapping[str, str] | None = None
    scaled: bool = False

    @property
    def random(self) -> bool:
        """Whether it draws random numbers."""
        return Law.DETERMINISTIC not in self.laws
