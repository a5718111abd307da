"""The pieces of elementwise methods, by name: sparsify, elect, combine in orders that have no name yet.

A chain of pieces is a method: ``trim → scale → elect → mean`` is TIES. What a piece is given stands in the
chain; what it is not given are parameters of the method, under their plain names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from stockpot.errors import ExpressionError, Problem
from stockpot.methods.declare import SCOPE, Axis, Base, Citation, Elementwise, Law, Method, Parameter, Resolved
from stockpot.methods.elementwise.atoms import (
    Atom,
    Band,
    Combine,
    Drop,
    DropRanked,
    Elect,
    Floor,
    MatchL1,
    Scale,
    Trim,
)
from stockpot.methods.elementwise.breadcrumbs import GAMMA
from stockpot.methods.elementwise.consensus import AGREEMENT, THRESHOLD, Agree
from stockpot.methods.elementwise.della import EPSILON
from stockpot.methods.elementwise.magmax import Largest
from stockpot.methods.elementwise.nearswap import Near
from stockpot.methods.elementwise.parameters import DENSITY, PROBABILITY, WEIGHT
from stockpot.methods.elementwise.sce import SelectVaried

__all__ = ["PIECES", "Piece", "Use", "chain_of", "piece_named", "steps_of"]

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Piece:
    """One piece.

    Args:
        name: As written in ``steps:`` and in Python.
        doc: One line.
        build: (its values, weights so far) → atom.
        parameters: Its parameters.
        ends: Whether it ends a chain.
        rows: Whether it needs whole rows of a tensor.
        random: Whether it draws random numbers.
    """

    name: str
    doc: str
    build: Callable[[Values, tuple[float, ...]], Atom]
    parameters: tuple[Parameter, ...] = ()
    ends: bool = False
    rows: bool = False
    random: bool = False


@dataclass(frozen=True)
class Use:
    """A piece in a chain, and the names of those parameters that it is given there.

    Args:
        piece: The piece.
        given: Name → value, as the user wrote it.
        line: Recipe line, for errors.
    """

    piece: Piece
    given: Mapping[str, Any] = field(default_factory=dict)
    line: int | None = None


_RESCALE = Parameter("rescale", "divide what is kept by its probability", default=True, kind="bool")
_BY = Parameter(
    "by",
    "what the sum is divided by: the weights of the entries that are left, all weights, or the number left",
    default="agreeing",
    kind="choice",
    choices=("agreeing", "all", "count"),
)
_LIMIT = Parameter("limit", "entries of at most this magnitude become 0", low=0.0)
_SHARE = Parameter("share", "share kept of the entries whose variance over the models is not 0", low=0.0, high=1.0)
_T = Parameter("t", "largest magnitude of an entry", low=0.0)


def _mean(v: Values, weights: tuple[float, ...]) -> Atom:
    by = {"agreeing": "weights", "all": "all", "count": "count"}[v["by"]]
    return Combine(by, weights)  # type: ignore[arg-type]


_ALL = (
    Piece(
        "trim",
        "keeps the entries of largest magnitude, exactly round(density × n); ties by index",
        lambda v, _: Trim(v["density"], scope=v["scope"]),
        (DENSITY, SCOPE),
    ),
    Piece(
        "band",
        "keeps a share of the entries by magnitude, below the share gamma of the largest",
        lambda v, _: Band(v["density"], v["gamma"], scope=v["scope"]),
        (DENSITY, GAMMA, SCOPE),
    ),
    Piece(
        "drop",
        "keeps entries at random",
        lambda v, _: Drop(v["density"], bool(v["rescale"])),
        (PROBABILITY, _RESCALE),
        random=True,
    ),
    Piece(
        "drop_ranked",
        "keeps entries at random, large ones of a row more often; the first of a chain",
        lambda v, _: DropRanked(v["density"], v["epsilon"], bool(v["rescale"])),
        (PROBABILITY, EPSILON, _RESCALE),
        rows=True,
        random=True,
    ),
    Piece("match_l1", "restores each model's sum of magnitudes", lambda _, __: MatchL1()),
    Piece("floor", "removes entries of small magnitude", lambda v, _: Floor(v["limit"]), (_LIMIT,)),
    Piece("clip", "limits the magnitude of entries", lambda v, _: Near(v["t"], 1e-300), (_T,)),
    Piece(
        "select_varied",
        "keeps the entries that vary most between models",
        lambda v, _: SelectVaried(v["share"], single=False),
        (_SHARE,),
    ),
    Piece("scale", "multiplies each model by its weight", lambda v, _: Scale(v["weight"]), (WEIGHT,)),
    Piece("elect", "elects the sign of the sum per entry and removes entries of the other sign", lambda _, __: Elect()),
    Piece(
        "agree",
        "keeps the entries that matter to several models: larger than threshold times what the others add up to",
        lambda v, _: Agree(v["threshold"], v["agreement"]),
        (THRESHOLD, AGREEMENT),
    ),
    Piece("largest", "keeps the entry of largest magnitude among the models", lambda _, __: Largest()),
    Piece("sum", "ends a chain: adds the models", lambda _, __: Combine("none"), ends=True),
    Piece("mean", "ends a chain: adds the models and divides", _mean, (_BY,), ends=True),
)

PIECES: Mapping[str, Piece] = MappingProxyType({piece.name: piece for piece in _ALL})
"""Every piece by name."""

_SOURCE = Citation("Stockpot", "A chain of steps", 2026, "the recipe itself", "its steps")


def piece_named(name: str, line: int | None = None) -> Piece:
    """The piece called ``name``.

    Raises:
        ExpressionError: for an unknown name.
    """
    if name not in PIECES:
        raise ExpressionError(Problem(f"unknown step {name!r}", line=line, fix=f"known steps: {', '.join(PIECES)}"))
    return PIECES[name]


@dataclass(frozen=True)
class _Chain:
    """Builds the atoms of a chain from resolved parameters."""

    uses: tuple[tuple[str, tuple[str, ...]], ...]

    def __call__(self, p: Resolved) -> tuple[Atom, ...]:
        weights = (1.0,) * p.models
        atoms = []
        for number, (name, given) in enumerate(self.uses, 1):
            piece = PIECES[name]
            values = {q.name: p[own_name(q.name, number) if q.name in given else q.name] for q in piece.parameters}
            if name == "scale":
                weights = tuple(a * b for a, b in zip(weights, values["weight"], strict=True))
            atoms.append(piece.build(values, weights))
        return tuple(atoms)


@dataclass(frozen=True)
class _Axis:
    rows: bool

    def __call__(self, _: Resolved) -> Axis:
        return "row" if self.rows else "tensor"


def own_name(parameter: str, number: int) -> str:
    """Name of a parameter that step ``number`` (from 1) of a chain is given a value of its own for."""
    return f"{parameter} of step {number}"


def chain_of(uses: Sequence[Use]) -> tuple[Method, dict[str, Any]]:
    """The method of a chain of pieces, and the values that stand in it by the names of its parameters.

    A chain without an end adds its models.

    Raises:
        ExpressionError: for an empty chain, a parameter that a piece has not, an end that is not the last.
    """
    steps = list(uses)
    if not steps:
        raise ExpressionError(Problem("steps is empty", fix="write at least one, such as trim"))
    if not steps[-1].piece.ends:
        steps.append(Use(PIECES["sum"]))
    problems = [*_misplaced(steps), *_unknown(steps)]
    if problems:
        raise ExpressionError(*problems)
    parameters: dict[str, Parameter] = {}
    values: dict[str, Any] = {}
    for number, use in enumerate(steps, 1):
        for parameter in use.piece.parameters:
            name = own_name(parameter.name, number) if parameter.name in use.given else parameter.name
            parameters.setdefault(name, replace(parameter, name=name))
            if parameter.name in use.given:
                values[name] = use.given[parameter.name]
    return _method(steps, tuple(parameters.values())), values


def steps_of(method: Method) -> tuple[tuple[str, tuple[str, ...]], ...] | None:
    """Name and given parameters of each step of a chain; None for a method that is none."""
    build = method.family.build if isinstance(method.family, Elementwise) else None
    return build.uses if isinstance(build, _Chain) else None


def _method(steps: Sequence[Use], parameters: tuple[Parameter, ...]) -> Method:
    names = [use.piece.name for use in steps]
    formula = "x_i - base"
    for name in names:
        formula = f"{name}({formula})"
    laws = {Law.ZERO_DELTA} | (set() if any(u.piece.random for u in steps) else {Law.DETERMINISTIC})
    return Method(
        name="steps",
        summary=f"{' → '.join(names)}.",
        formula=f"base + lambda * {formula}",
        cites=_SOURCE,
        family=Elementwise(
            _Chain(tuple((u.piece.name, tuple(u.given)) for u in steps)), _Axis(any(u.piece.rows for u in steps))
        ),
        base=Base.REQUIRED,
        on="delta",
        parameters=parameters,
        laws=frozenset(laws),
        scaled=True,
    )


def _misplaced(steps: Sequence[Use]) -> list[Problem]:
    found = [
        Problem(
            f"step {number} ({use.piece.name}) ends a chain, but others follow",
            line=use.line,
            fix="make it the last step",
        )
        for number, use in enumerate(steps[:-1], 1)
        if use.piece.ends
    ]
    found.extend(
        Problem(
            f"step {number} ({use.piece.name}) ranks within rows of the models",
            line=use.line,
            fix="make it the first step",
        )
        for number, use in enumerate(steps[1:], 2)
        if use.piece.rows
    )
    return found


def _unknown(steps: Sequence[Use]) -> list[Problem]:
    found: list[Problem] = []
    for number, use in enumerate(steps, 1):
        known = [q.name for q in use.piece.parameters]
        found.extend(
            Problem(
                f"step {number} ({use.piece.name}) has no parameter {name!r}",
                line=use.line,
                fix=f"it takes: {', '.join(known) or 'none'}",
            )
            for name in use.given
            if name not in known
        )
    return found
