"""The expression tree: what to compute, before any file is read.

Leaves are checkpoints; nodes are linear algebra, merging methods and rearrangements of layers. Each
node has a space, Weights or Delta, and every clash of spaces, arity or parameters is raised while the
tree is built:

======================  =======================================
Weights − Weights       Delta
Weights + Delta         Weights
number × Delta          Delta
Σ cᵢ Weightsᵢ           Weights if Σ cᵢ = 1, Delta if Σ cᵢ = 0
method(…)               as the method declares
======================  =======================================

``0.5 * a + 0.5 * b`` is an affine mix. ``0.5 * a`` alone is a partial mix: it becomes Weights when the
coefficients reach 1, and using it before is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from stockpot.checkpoint.model import Checkpoint
from stockpot.errors import ExpressionError, Problem
from stockpot.methods.declare import REQUIRED, Base, Method, Parameter, Space
from stockpot.settings import Setting, as_setting

__all__ = [
    "Adapted",
    "Apply",
    "Expression",
    "Leaf",
    "Linear",
    "Term",
    "apply",
    "changed",
    "leaves",
]

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

_SUM_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class Expression:
    """A node of the tree. Build leaves with :func:`stockpot.open`, nodes with operators and methods."""

    @property
    def space(self) -> Space:
        """Weights or Delta.

        Raises:
            ExpressionError: for a partial mix, which is neither yet.
        """
        raise NotImplementedError

    @property
    def children(self) -> tuple[Expression, ...]:
        """The nodes this one is computed from."""
        raise NotImplementedError

    @property
    def merged(self) -> tuple[Expression, ...]:
        """Those of them whose weights go into the result: all but what is read beside them."""
        return self.children

    def __add__(self, other: Expression) -> Linear:
        return Linear((*_terms(self), *_terms(other)))

    def __sub__(self, other: Expression) -> Linear:
        return Linear((*_terms(self), *_terms(other, -1.0)))

    def __mul__(self, factor: float) -> Linear:
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not math.isfinite(factor):
            raise ExpressionError(Problem(f"cannot multiply a model by {factor!r}", fix="use a finite number"))
        return Linear(_terms(self, float(factor)))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Linear:
        return self * (1.0 / divisor)

    def __neg__(self) -> Linear:
        return self * -1.0


@dataclass(frozen=True, eq=False)
class Leaf(Expression):
    """A checkpoint by reference (path or hub id), or one already in memory.

    Args:
        reference: Path, or hub id with optional ``@revision``, as the user wrote it.
        checkpoint: The opened checkpoint when it is in memory already.
        folder: Folder that relative paths are relative to (that of the recipe).
        line: Recipe line, for errors.
        adapter: Whether it is an adapter: alone a Delta, which is put on the model that it is added to.
        on: What it is put on if it turns out to be an adapter though it stands where a model may.
    """

    reference: str
    checkpoint: Checkpoint | None = None
    folder: str | None = None
    line: int | None = None
    adapter: bool = False
    on: Expression | None = None

    @property
    def space(self) -> Space:
        return Space.DELTA if self.adapter else Space.WEIGHTS

    @property
    def children(self) -> tuple[Expression, ...]:
        return ()

    @property
    def key(self) -> tuple[str, str | None, int]:
        """Equal for two leaves that mean the same checkpoint."""
        opened = -1 if self.adapter else 0  # a folder may hold both a model and an adapter
        return (self.reference, self.folder, id(self.checkpoint) if self.checkpoint is not None else opened)


@dataclass(frozen=True, eq=False)
class Adapted(Expression):
    """A model with an adapter on it: Weights, as the model is."""

    of: Expression
    adapter: Leaf
    line: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.adapter, Leaf) or not self.adapter.adapter or self.of.space is not Space.WEIGHTS:
            raise ExpressionError(Problem("an adapter belongs on a model", line=self.line, fix="MODEL+ADAPTER"))

    @property
    def space(self) -> Space:
        return Space.WEIGHTS

    @property
    def children(self) -> tuple[Expression, ...]:
        return (self.of, self.adapter)


@dataclass(frozen=True)
class Term:
    """One summand of a :class:`Linear`: ``coefficient`` may be a setting (gradient, filters)."""

    coefficient: Setting
    of: Expression

    @property
    def constant(self) -> float | None:
        """The coefficient when it is the same for every tensor, else None."""
        values = self.coefficient.values()
        return float(values[0]) if len(values) == 1 and self.coefficient.cases[0].filter is None else None


@dataclass(frozen=True, eq=False)
class Linear(Expression):
    """Σ coefficient × expression."""

    terms: tuple[Term, ...]

    @cached_property
    def mass(self) -> float | None:
        """Sum of the coefficients of Weights terms; None when one varies from tensor to tensor."""
        total = 0.0
        for term in self.terms:
            if term.of.space is Space.WEIGHTS:
                if term.constant is None:
                    return None
                total += term.constant
        return total

    @property
    def largest(self) -> Term:
        """The model (a difference, where there are only those) of largest constant coefficient, the first of equals.

        In ``base + 1.5 * (a - b)`` it is the base: what the coefficient of another cancels is part of a difference.
        """
        models = [t for t in self.terms if t.of.space is Space.WEIGHTS] or self.terms
        cancelled = {-t.constant for t in models if t.constant is not None and t.constant < 0}
        alone = [t for t in models if t.constant is not None and t.constant > 0 and t.constant not in cancelled]
        return max(alone or models, key=lambda t: t.constant or 0.0)

    @cached_property
    def _mixes_deltas_only(self) -> bool:
        return all(t.of.space is Space.DELTA for t in self.terms)

    @cached_property
    def space(self) -> Space:
        if self._mixes_deltas_only:
            return Space.DELTA
        mass = self.mass
        if mass is None or abs(mass - 1.0) <= _SUM_TOLERANCE:
            return Space.WEIGHTS
        if abs(mass) <= _SUM_TOLERANCE:
            return Space.DELTA
        raise ExpressionError(
            Problem(
                f"a partial mix: the coefficients of its models sum to {mass:g}, not to 1 (Weights) or 0 (Delta)",
                fix="add the missing share of another model, or subtract a base first",
            )
        )

    @property
    def children(self) -> tuple[Expression, ...]:
        return tuple(t.of for t in self.terms)


@dataclass(frozen=True, eq=False)
class Apply(Expression):
    """A method applied to inputs that are all Weights or all Delta.

    Args:
        method: Its declaration.
        inputs: The models, in order.
        one: Parameter name → settings by precedence, for parameters of the whole method.
        each: One such map per input, for parameters that each model has.
        variant: A variant that the method declares, or None.
        compat: Whether mergekit's numerics are asked for.
        line: Recipe line, for errors.
        companions: Companion's name → checkpoints: one per model where each has its own, else a single one.
    """

    method: Method
    inputs: tuple[Expression, ...]
    one: Mapping[str, tuple[Setting, ...]] = field(default_factory=dict)
    each: tuple[Mapping[str, tuple[Setting, ...]], ...] = ()
    variant: str | None = None
    compat: bool = False
    line: int | None = None
    companions: Mapping[str, tuple[Expression, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = [*_arity(self), *_spaces(self), *_parameters(self), *_companions(self)]
        if problems:
            raise ExpressionError(*problems)

    @property
    def space(self) -> Space:
        if self.method.gives is not None:
            return self.method.gives
        if self.method.on == "either":
            return self.inputs[0].space
        return Space.DELTA if self.method.on == "delta" else Space.WEIGHTS

    @property
    def children(self) -> tuple[Expression, ...]:
        return (*self.inputs, *(c for group in self.companions.values() for c in group))

    @property
    def merged(self) -> tuple[Expression, ...]:
        return self.inputs


def changed(node: T, change: Callable[[Expression], Expression]) -> T:
    """``node`` with ``change`` done to each expression that it holds; itself where that changes none."""
    given = {f.name: getattr(node, f.name) for f in fields(node)}
    found = {name: _changed(value, change) for name, value in given.items()}
    return node if all(found[name] is value for name, value in given.items()) else replace(node, **found)


def _changed(value: Any, change: Callable[[Expression], Expression]) -> Any:
    if isinstance(value, Expression):
        return change(value)
    if isinstance(value, tuple):
        found = tuple(_changed(item, change) for item in value)
        return value if all(a is b for a, b in zip(found, value, strict=True)) else found
    if isinstance(value, Mapping):
        new = {key: _changed(item, change) for key, item in value.items()}
        return value if all(new[key] is item for key, item in value.items()) else new
    return changed(value, change) if is_dataclass(value) and not isinstance(value, type) else value


def leaves(expression: Expression, *, companions: bool = True) -> tuple[Leaf, ...]:
    """Every leaf once, in the order in which they appear; without those below ``companions`` on demand."""
    found: dict[tuple[str, str | None, int], Leaf] = {}
    seen: set[int] = set()
    waiting = [expression]  # a function that calls itself by name would keep what it found until garbage is collected
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Leaf):
            found.setdefault(node.key, node)
        waiting += reversed(node.children if companions else _merged(node))
    return tuple(found.values())


def _merged(node: Expression) -> tuple[Expression, ...]:
    """The children of ``node`` whose weights go into the result: all but what is read beside them."""
    return node.merged


def apply(
    method: Method,
    inputs: Sequence[Expression],
    parameters: Mapping[str, Any],
    *,
    variant: str | None = None,
    compat: bool = False,
) -> Apply:
    """``method`` on ``inputs`` with Python values; per-model parameters take one value or a list of them.

    Raises:
        ExpressionError: for an unknown parameter, a wrong number of values or of inputs.
    """
    known = {p.python_name: p for p in method.parameters}
    beside = {c.name: c for c in method.companions}
    one: dict[str, tuple[Setting, ...]] = {}
    each: list[dict[str, tuple[Setting, ...]]] = [{} for _ in inputs]
    companions: dict[str, tuple[Expression, ...]] = {}
    for keyword, value in parameters.items():
        if keyword in beside:
            companions[keyword] = tuple(value) if isinstance(value, list | tuple) else (value,)
            continue
        parameter = known.get(keyword)
        if parameter is None:
            names = ", ".join((*known, *beside)) or "none"
            raise ExpressionError(Problem(f"{method.name} has no parameter {keyword!r}", fix=f"it takes: {names}"))
        if not parameter.per_model or isinstance(value, int | float):
            one[parameter.name] = (as_setting(value),)
            continue
        if not isinstance(value, list | tuple) or len(value) != len(inputs):
            message = f"{method.name}: {keyword} needs one value, or one for each of {len(inputs)} models"
            raise ExpressionError(Problem(message))
        for own, item in zip(each, value, strict=True):
            own[parameter.name] = (as_setting(item),)
    return Apply(method, tuple(inputs), one, tuple(each), variant, compat, None, companions)


def _terms(expression: Expression, factor: float = 1.0) -> tuple[Term, ...]:
    if not isinstance(expression, Expression):
        raise ExpressionError(Problem(f"{expression!r} is not a model", fix="open it first: stockpot.open(...)"))
    if isinstance(expression, Linear):
        return tuple(Term(_times(t.coefficient, factor), t.of) for t in expression.terms)
    return (Term(as_setting(factor), expression),)


def _times(setting: Setting, factor: float) -> Setting:
    if factor == 1.0:
        return setting

    def scale(value: Any) -> Any:
        return tuple(v * factor for v in value) if isinstance(value, tuple) else value * factor

    return replace(setting, cases=tuple(replace(c, value=scale(c.value)) for c in setting.cases))


def _arity(node: Apply) -> list[Problem]:
    method, count = node.method, len(node.inputs)
    most = method.at_most
    if count >= method.at_least and (most is None or count <= most):
        return []
    if most == method.at_least:
        wanted = f"exactly {most}"
    elif most is None:
        wanted = f"at least {method.at_least}"
    else:
        wanted = f"{method.at_least} to {most}"
    beside = " beside the base" if method.base in (Base.REQUIRED, Base.OPTIONAL) else ""
    return [Problem(f"{method.name} takes {wanted} models{beside}, not {count}", line=node.line)]


def _spaces(node: Apply) -> list[Problem]:
    if not node.inputs:
        return []
    wanted = {"weights": Space.WEIGHTS, "delta": Space.DELTA, "either": node.inputs[0].space}[node.method.on]
    return [
        Problem(
            f"{node.method.name} takes {wanted.value}, but model {i + 1} is {child.space.value}",
            line=node.line,
            fix="subtract the base (model - base)" if wanted is Space.DELTA else "pass models, not differences",
        )
        for i, child in enumerate(node.inputs)
        if child.space is not wanted
    ]


def _parameters(node: Apply) -> list[Problem]:
    problems: list[Problem] = []
    variants = node.method.variants or {}
    if node.variant is not None and node.variant not in variants:
        known = ", ".join(variants) or "none"
        problems.append(
            Problem(f"{node.method.name} has no variant {node.variant!r}", line=node.line, fix=f"known: {known}")
        )
    for parameter in node.method.parameters:
        written = list(node.one.get(parameter.name, ()))
        for own in node.each:
            written.extend(own.get(parameter.name, ()))
        for setting in written:
            problems.extend(_range(node.method, parameter, setting))
        if parameter.default is REQUIRED and not _given(node, parameter):
            where = "for every model" if parameter.per_model else "in its parameters"
            problems.append(
                Problem(f"{node.method.name} needs {parameter.name} {where}", line=node.line, fix=parameter.doc)
            )
    return problems


def _companions(node: Apply) -> list[Problem]:
    """Companions that are missing, are not models, or are too few."""
    problems: list[Problem] = []
    for companion in node.method.companions:
        given = node.companions.get(companion.name, ())
        wanted = len(node.inputs) if companion.per_model else 1
        where = "for every model" if companion.per_model else "once"
        if (given or companion.required) and len(given) != wanted:
            message = f"{node.method.name} needs {companion.name} {where}, not {len(given)} of {wanted}"
            problems.append(Problem(message, line=node.line, fix=companion.doc))
        for one in given:
            if not isinstance(one, Expression) or one.space is not Space.WEIGHTS:
                message = f"{node.method.name}: {companion.name} is not a checkpoint"
                problems.append(Problem(message, line=node.line, fix="open it: stockpot.open(...)"))
    return problems


def _given(node: Apply, parameter: Parameter) -> bool:
    if node.one.get(parameter.name):
        return True
    return parameter.per_model and all(own.get(parameter.name) for own in node.each) and bool(node.each)


def _range(method: Method, parameter: Parameter, setting: Setting) -> list[Problem]:
    if parameter.kind == "ignored":
        return []
    if parameter.kind == "choice":
        return _choice(method, parameter, setting)
    for value in setting.values():
        if isinstance(value, str) or not math.isfinite(float(value)):
            return [Problem(f"{method.name}: {parameter.name} is {value!r}, not a finite number", line=setting.line)]
        number = float(value)
        if parameter.kind == "int" and number != int(number):
            message = f"{method.name}: {parameter.name} = {number:g} is not a whole number"
            return [Problem(message, line=setting.line, fix=f"write {round(number)}")]
        low, high = (0.0, 1.0) if parameter.kind == "bool" else (parameter.low, parameter.high)
        too_low = low is not None and (number < low or (parameter.open_low and number == low))
        if too_low or (high is not None and number > high):
            left = "(" if parameter.open_low else "["
            bounds = f"{left}{'-∞' if low is None else f'{low:g}'}, {'∞' if high is None else f'{high:g}'}]"
            return [
                Problem(
                    f"{method.name}: {parameter.name} = {number:g} is outside {bounds}",
                    line=setting.line,
                    fix=parameter.doc,
                )
            ]
    return []


def _choice(method: Method, parameter: Parameter, setting: Setting) -> list[Problem]:
    for value in setting.values():
        if value not in parameter.choices:
            message = f"{method.name}: {parameter.name} is {value!r}, which it cannot be"
            return [Problem(message, line=setting.line, fix=f"one of {', '.join(parameter.choices)}")]
    return []
