"""The vocabulary in which a method is declared: parameters, citation, spaces, laws.

A declaration is data. The recipe checker, the planner, the documentation, the JSON Schema and the
tests of the laws all read the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

__all__ = [
    "REQUIRED",
    "SCOPE",
    "Axis",
    "Base",
    "Blockwise",
    "Citation",
    "Companion",
    "Elementwise",
    "Family",
    "Floats",
    "Law",
    "Matrix",
    "Method",
    "Parameter",
    "Resolved",
    "Scope",
    "Space",
    "Span",
    "Work",
    "axis_of",
    "scope_of",
    "solves",
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
        kind: ``float``, ``int``, ``bool``, ``choice`` or ``ignored`` (accepted from other tools, changes nothing).
        low, high: Closed range of allowed values; None is unbounded.
        open_low: Whether ``low`` itself is excluded.
        choices: The words that a ``choice`` may be.
    """

    name: str
    doc: str
    default: Any = REQUIRED
    per_model: bool = False
    kind: Literal["float", "int", "bool", "choice", "ignored"] = "float"
    low: float | None = None
    high: float | None = None
    open_low: bool = False
    choices: tuple[str, ...] = ()

    @property
    def python_name(self) -> str:
        """The keyword in Python: ``lambda`` becomes ``lambda_``."""
        return self.name + "_" if self.name == "lambda" else self.name


SCOPE = Parameter(
    "scope",
    "what statistics are taken over: each tensor on its own, or the whole model in a pass of its own",
    default="tensor",
    kind="choice",
    choices=("tensor", "model"),
)
"""The parameter that methods with a whole-model form share."""


@dataclass(frozen=True)
class Companion:
    """Another checkpoint that a method reads beside its models, with tensors of the same names.

    Args:
        name: Key under ``parameters`` in recipes, keyword in Python.
        doc: One line.
        per_model: Whether each model has one of its own.
        required: Whether it must be given.
        delta: Whether the base is subtracted from it.
        gram: Whether its tensor is a Gram matrix of inputs, of shape (columns, columns); else of the models' shape.
    """

    name: str
    doc: str
    per_model: bool = False
    required: bool = True
    delta: bool = False
    gram: bool = False


@dataclass(frozen=True)
class Citation:
    """Where a method comes from.

    Args:
        authors: In BibTeX's form, in Unicode: ``Prateek Yadav and Derek Tam and others``. Braces keep a name of
            several words together: ``{Free Software Foundation}``.
        title: As published.
        year: Of the version cited.
        place: ``arXiv:2306.01708``, or journal, or address of the code.
        equation: The equation, algorithm or section that defines the method.
    """

    authors: str
    title: str
    year: int
    place: str
    equation: str

    @property
    def surnames(self) -> tuple[str, ...]:
        """Of all authors, in order; ``others`` where some are left out.

        >>> Citation("Yadav et al.", "", 2023, "", "").surnames
        ('Yadav', 'others')
        """
        return tuple(_surname(name) for name in self.authors.replace(" et al.", " and others").split(" and "))

    @property
    def short(self) -> str:
        """Surnames: ``Yadav et al.``, ``Matena and Raffel``.

        >>> Citation("Michael S. Matena and Colin Raffel", "", 2022, "", "").short
        'Matena and Raffel'
        """
        names = self.surnames
        return f"{names[0]} et al." if len(names) > 2 or names[-1] == "others" else " and ".join(names)

    def __str__(self) -> str:
        return f"{self.short} ({self.year}), {self.title}, {self.place}, {self.equation}"

    @property
    def bibtex(self) -> str:
        """A BibTeX entry; :func:`stockpot.methods.bibtex.bibliography` keeps the keys of several apart."""
        from stockpot.methods.bibtex import bibliography

        return bibliography([self])[self]


def _surname(name: str) -> str:
    """``Tam`` of ``Derek Tam`` and of ``Tam, Derek``; all of a name in braces."""
    if name.startswith("{"):
        return name.strip("{}")
    return name.partition(",")[0] if "," in name else name.rpartition(" ")[2]


@dataclass(frozen=True)
class Resolved:
    """Parameters of one tensor, all explicit.

    Args:
        one: Name → value, for parameters of the whole method.
        each: Name → one value per model.
        models: Number of models (inputs, the base not counted).
        compat: Whether mergekit's behaviour is asked for.
        variant: Name of the variant, or None for the default.
        depth: Place of the tensor in the model: 0 for the first layer (and embeddings) to 1 for the last (and head).
        companions: Names of the companions that were given.
    """

    one: Mapping[str, float | bool | str]
    each: Mapping[str, tuple[float, ...]]
    models: int
    compat: bool = False
    variant: str | None = None
    depth: float = 0.0
    companions: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Any:
        return self.each[name] if name in self.each else self.one[name]


Axis = Literal["tensor", "row", "column"]
Scope = Literal["tensor", "model"]


def _undivided(_: Resolved) -> float:
    return 1.0


def _tensor_axis(_: Resolved) -> Axis:
    return "tensor"


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
        line: (parameters) → coefficients for vectors of a single element, which has a sign but no direction
            (a scalar in a model); None where ``coefficients`` holds for them too.
    """

    coefficients: Callable[[Floats | None, Resolved], Floats]
    gram: bool = False
    divisor: Callable[[Resolved], float] = _undivided
    axis: Callable[[Resolved], Axis] = _tensor_axis
    line: Callable[[Resolved], Floats] | None = None


def solves(method: Method | None, resolved: Resolved | None, shape: tuple[int, ...]) -> bool:
    """Whether a matrix method works on a tensor of ``shape`` as a matrix; others get its linear combination."""
    if method is None or resolved is None or not isinstance(method.family, Matrix):
        return False
    given = all(c.name in resolved.companions for c in method.companions if c.required)
    return len(shape) == 2 and 0 not in shape and given and bool(resolved.one.get("matrix", True))


def scope_of(method: Method | None, resolved: Resolved | None) -> Scope:
    """What a method's statistics are taken over; of a chain, those of any step that says so itself."""
    if method is None or resolved is None:
        return "tensor"
    own = (value for name, value in resolved.one.items() if name.partition(" of step ")[0] == SCOPE.name)
    return "model" if "model" in own else "tensor"


def axis_of(method: Method | None, resolved: Resolved | None) -> Axis:
    """Over what a method's angles are taken; ``tensor`` for all that have none."""
    if method is None or resolved is None or not isinstance(method.family, Span | Elementwise):
        return "tensor"
    return method.family.axis(resolved)


@dataclass(frozen=True)
class Elementwise:
    """A method made of atoms that act on each element of all inputs: sparsify → elect → combine.

    Args:
        build: Parameters → its atoms (see :mod:`stockpot.methods.elementwise.atoms`).
        axis: ``row`` where an atom needs whole rows.
    """

    build: Callable[[Resolved], Sequence[Any]]
    axis: Callable[[Resolved], Axis] = _tensor_axis


class Work(Protocol):
    """What a matrix method is given beside its matrices."""

    def tick(self) -> None:
        """One unit of work is done; for progress."""

    def normal(self, rows: int, columns: int) -> Floats:
        """Standard normal numbers, a function of seed and tensor name alone."""

    def companion(self, name: str) -> Sequence[Floats]:
        """The matrices of a companion: one per model, or a single one."""


@dataclass(frozen=True)
class Matrix:
    """A method that works on whole matrices, one tensor at a time.

    Args:
        solve: (one float64 matrix of shape (rows, columns) per model, parameters, work) → matrix of that shape.
            It may not change its inputs.
        otherwise: Parameters → coefficients of shape (models,) of the linear combination that tensors of
            another rank than 2 get.
        units: (parameters, (rows, columns)) → how often ``solve`` ticks.
        copies: (parameters, (rows, columns)) → float64 numbers that ``solve`` holds at its peak, inputs not counted.
    """

    solve: Callable[[Sequence[Floats], Resolved, Work], Floats]
    otherwise: Callable[[Resolved], Floats]
    units: Callable[[Resolved, tuple[int, int]], int]
    copies: Callable[[Resolved, tuple[int, int]], int]


@dataclass(frozen=True)
class Blockwise:
    """A method given as a function of NumPy arrays, called for one block of elements (or a whole tensor) at a time.

    Args:
        function: (float64 array of shape (models, elements) or (models, *shape), parameters) → values.
        whole: Whether it takes whole tensors.
        file: Where it is defined, for errors.
    """

    function: Callable[[Floats, Resolved], Floats]
    whole: bool
    file: str | None = None


Family = Span | Elementwise | Matrix | Blockwise


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
        companions: Other checkpoints that it reads.
        notes: Further sentences for the documentation: departures from the source, treatment of vectors.
        gives: Space of its result where that is not the space of its inputs: masks are Weights.
    """

    name: str
    summary: str
    formula: str
    cites: Citation
    family: Family
    base: Base
    on: Literal["weights", "delta", "either"]
    at_least: int = 1
    at_most: int | None = None
    parameters: tuple[Parameter, ...] = ()
    laws: frozenset[Law] = frozenset()
    aliases: tuple[str, ...] = ()
    variants: Mapping[str, str] | None = None
    scaled: bool = False
    companions: tuple[Companion, ...] = ()
    notes: tuple[str, ...] = ()
    gives: Space | None = None

    @property
    def random(self) -> bool:
        """Whether it draws random numbers."""
        return Law.DETERMINISTIC not in self.laws
