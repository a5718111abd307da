"""Methods of your own: a Python function, decorated, is a method like all others.

::

    import numpy as np
    import stockpot as sp

    @sp.elementwise
    def soft_trim(deltas, weight: sp.PerModel = 1.0, power: float = 2.0):
        \"\"\"Weighs each entry by its size among the models.\"\"\"
        share = np.abs(deltas) ** power
        return (weight * share * deltas).sum(axis=0) / np.maximum(share.sum(axis=0), 1e-300)

    merged = base + soft_trim(math - base, code - base, power=3)

An ``elementwise`` function sees some elements of all models at a time, as float64 of shape (models,
elements), and may not look at others; a ``whole_tensor`` function sees whole tensors, (models, *shape).
Parameters are its keywords; one annotated with ``PerModel`` has a value for each model and comes as a
column that multiplies ``deltas``.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType
from typing import Any, final, overload

import numpy as np
import xxhash

from stockpot.errors import ExpressionError, Problem
from stockpot.expression import Apply, Expression, apply
from stockpot.methods.declare import (
    REQUIRED,
    Base,
    Blockwise,
    Citation,
    Floats,
    Law,
    Method,
    Parameter,
    Resolved,
)

__all__ = ["PerModel", "UserMethod", "elementwise", "identity_of", "whole_tensor"]

PerModel = typing.NewType("PerModel", float)
"""Annotation of a parameter that has a value for each model."""

_KINDS = {float: "float", int: "int", bool: "bool"}

Function = Callable[..., Any]


@final
class UserMethod:
    """A decorated function: callable on expressions, and usable from recipes by name."""

    def __init__(self, method: Method, function: Function) -> None:
        self.method, self.function = method, function
        self.__doc__ = function.__doc__

    def __call__(self, *models: Expression, **parameters: Any) -> Apply:
        """The method applied to ``models``; nothing is computed yet."""
        return apply(self.method, models, parameters)

    def __repr__(self) -> str:
        return f"<stockpot method {self.method.name} of your own>"


@overload
def elementwise(function: Function) -> UserMethod: ...
@overload
def elementwise(
    *, on: str = "delta", at_least: int = 1, at_most: int | None = None
) -> Callable[[Function], UserMethod]: ...
def elementwise(function: Function | None = None, **options: Any) -> UserMethod | Callable[[Function], UserMethod]:
    """Make a method of a function of elements: (models, elements) → (elements,).

    Args:
        function: Its first argument is the array; the others are parameters.
        options: ``on``: ``"delta"`` (differences to a base, the default) or ``"weights"``; ``at_least``
            and ``at_most``: number of models.

    Raises:
        ExpressionError: for a signature that cannot be a method's.
    """
    return _decorated(function, options, whole=False)


@overload
def whole_tensor(function: Function) -> UserMethod: ...
@overload
def whole_tensor(
    *, on: str = "delta", at_least: int = 1, at_most: int | None = None
) -> Callable[[Function], UserMethod]: ...
def whole_tensor(function: Function | None = None, **options: Any) -> UserMethod | Callable[[Function], UserMethod]:
    """Make a method of a function of whole tensors: (models, *shape) → shape; see :func:`elementwise`."""
    return _decorated(function, options, whole=True)


def identity_of(method: Method) -> str:
    """A hash of the code of a user's method and of what it was defined with; what it calls is not in it."""
    call = method.family.function if isinstance(method.family, Blockwise) else None
    function = inspect.unwrap(call.function) if isinstance(call, _Call) else call
    code = getattr(function, "__code__", None)
    if code is None:
        return xxhash.xxh3_128_hexdigest(repr(function).encode())
    cells = [repr(cell.cell_contents) for cell in getattr(function, "__closure__", None) or ()]
    beside = (getattr(function, "__defaults__", None), getattr(function, "__kwdefaults__", None), cells)
    return xxhash.xxh3_128_hexdigest(f"{_words(code)} {beside!r}".encode())


def _words(code: CodeType) -> str:
    constants = [_words(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return repr((code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars))


def _decorated(
    function: Function | None, options: dict[str, Any], *, whole: bool
) -> UserMethod | Callable[[Function], UserMethod]:
    if function is None:
        return lambda own: _made(own, whole=whole, **options)
    return _made(function, whole=whole, **options)


def _made(
    function: Function, *, whole: bool, on: str = "delta", at_least: int = 1, at_most: int | None = None
) -> UserMethod:
    name = getattr(function, "__name__", "method")
    if on not in ("delta", "weights"):
        raise ExpressionError(Problem(f"{name}: on={on!r}", fix='on="delta" or on="weights"'))
    summary = (inspect.getdoc(function) or f"{name}, a method of your own.").split("\n", 1)[0]
    parameters = _parameters(name, function)
    method = Method(
        name=name,
        summary=summary,
        formula=f"base + lambda * {name}(x_i - base)" if on == "delta" else f"{name}(x_i)",
        cites=Citation("You", summary, 2026, _file_of(function) or name, name),
        family=Blockwise(_Call(function, tuple(p.python_name for p in parameters), whole), whole, _file_of(function)),
        base=Base.REQUIRED if on == "delta" else Base.NONE,
        on=on,  # type: ignore[arg-type]
        at_least=at_least,
        at_most=at_most,
        parameters=parameters,
        laws=frozenset({Law.DETERMINISTIC}),
        scaled=on == "delta",
    )
    return UserMethod(method, function)


def _file_of(function: Function) -> str | None:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code.co_filename if code is not None else None


def _parameters(name: str, function: Function) -> tuple[Parameter, ...]:
    first, *others = inspect.signature(function).parameters.values()
    if first.kind in (first.VAR_POSITIONAL, first.KEYWORD_ONLY, first.VAR_KEYWORD):
        raise ExpressionError(Problem(f"{name}: its first argument is the array of all models"))
    hints = typing.get_type_hints(function)
    found = []
    for own in others:
        hint = hints.get(own.name, float)
        if own.kind in (own.VAR_POSITIONAL, own.VAR_KEYWORD) or (hint is not PerModel and hint not in _KINDS):
            message = f"{name}: parameter {own.name} cannot be given in a recipe"
            raise ExpressionError(Problem(message, fix="annotate it with float, int, bool or sp.PerModel"))
        default = REQUIRED if own.default is own.empty else own.default
        kind: Any = "float" if hint is PerModel else _KINDS[hint]
        plain = own.name.rstrip("_") if own.name == "lambda_" else own.name
        found.append(Parameter(plain, f"of {name}", default, per_model=hint is PerModel, kind=kind))
    return tuple(found)


@dataclass(frozen=True)
class _Call:
    """Calls the function with its parameters; those of each model as a column beside the array."""

    function: Function
    names: tuple[str, ...]
    whole: bool

    def __call__(self, values: Floats, p: Resolved) -> Floats:
        given: dict[str, Any] = {}
        for name in self.names:
            plain = "lambda" if name == "lambda_" else name
            value = p[plain]
            if isinstance(value, tuple):
                value = np.array(value).reshape(-1, *(1,) * (values.ndim - 1))
            given[name] = value
        return np.asarray(self.function(values, **given), np.float64)
