"""Linear combinations of low-rank changes, as products of factors: nothing dense is formed.

Span methods need inner products only, and those of two products of factors follow from the factors:
⟨B₁A₁, B₂A₂⟩ = Σ (B₁ᵀB₂) ∘ (A₁A₂ᵀ); of single rows, rows of B take the place of B, likewise columns of A.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stockpot.checkpoint.reader import PayloadReader
from stockpot.errors import ExecutionError, Problem
from stockpot.execute.lora import stored_values
from stockpot.lora.changes import plain_change
from stockpot.lora.factors import Product, stacked
from stockpot.methods.declare import Axis, Floats, Resolved, Span, axis_of
from stockpot.planning.forms import LowRank
from stockpot.planning.model import Compute, Operand, Read

__all__ = ["inner_rank", "is_low_rank", "product_of", "read_factors"]


def is_low_rank(operand: Operand) -> bool:
    """Whether ``operand`` is a linear combination of products of factors, its coefficients found from them."""
    if isinstance(operand, Read) or operand.dtype is not None or operand.companions:
        return plain_change(operand)
    if not all(map(is_low_rank, operand.operands)):
        return False
    if operand.method is None:
        return operand.form is None
    whole = axis_of(operand.method, operand.resolved) == "tensor"
    return isinstance(operand.method.family, Span) and not operand.group and (whole or len(operand.shape) == 2)


def inner_rank(operand: Operand) -> int:
    """Inner dimension of :func:`product_of`, each set of factors counted as often as it occurs."""
    if isinstance(operand, Read):
        return 0
    if isinstance(operand.form, LowRank):
        return operand.form.rank
    own = operand.inputs if operand.base is None else (*operand.inputs, *(operand.base,) * (len(operand.inputs) + 1))
    return sum(map(inner_rank, own))


def read_factors(operand: Compute, reader: PayloadReader) -> Product:
    """The factors of a plain change, the scale in the left one.

    Raises:
        ExecutionError: for a number that is not finite.
    """
    part = operand.form
    assert isinstance(part, LowRank)
    left, right = (_matrix(child, reader) for child in operand.companions)
    if part.crossed:
        left, right = left.T, right.T
    return Product(part.scale * left, right)


def _matrix(operand: Operand, reader: PayloadReader) -> Floats:
    assert isinstance(operand, Read)
    ref = operand.ref
    values = stored_values(ref, 0, ref.elements, reader) if ref.elements else np.empty(0)
    return values.reshape(ref.shape[0], -1) if ref.elements else np.empty(ref.shape)


def product_of(operand: Operand, reader: PayloadReader) -> Product:
    """``operand``, for which :func:`is_low_rank` holds, as one product.

    Raises:
        ExecutionError: for a number that is not finite, or values for which the method has no coefficients.
    """
    assert isinstance(operand, Compute)
    if isinstance(operand.form, LowRank):
        return read_factors(operand, reader)
    rows, columns = operand.shape[0], int(np.prod(operand.shape[1:]))
    inputs = [product_of(child, reader) for child in operand.inputs]
    if operand.method is None:
        parts = [_scaled(p, f) for p, f in zip(inputs, operand.factors, strict=True)]
        return stacked(parts, rows, columns)
    base = [] if operand.base is None else [product_of(operand.base, reader)]
    base = [p for p in base if p.left.shape[1]]
    if base:
        inputs = [stacked([p, _scaled(base[0], -1.0)], rows, columns) for p in inputs]
    parts = [_scaled(p, operand.scale) for p in _combined(operand, inputs)]
    return stacked([*parts, *(base if operand.anchored else [])], rows, columns)


def _scaled(product: Product, factor: float) -> Product:
    return product if factor == 1.0 else Product(factor * product.left, product.right)


def _combined(node: Compute, inputs: Sequence[Product]) -> list[Product]:
    """The inputs, each times the coefficient that the span method gives it."""
    assert node.method is not None
    assert isinstance(node.method.family, Span)
    assert node.resolved is not None
    axis = axis_of(node.method, node.resolved)
    factors = _coefficients(node, node.method.family, axis, node.resolved, inputs)
    divisor = node.method.family.divisor(node.resolved)
    if factors.ndim == 1:
        return [_scaled(p, float(f) / divisor) for p, f in zip(inputs, factors, strict=True)]
    columns = zip(inputs, (factors / divisor).T, strict=True)
    if axis == "row":
        return [Product(f[:, None] * p.left, p.right) for p, f in columns]
    return [Product(p.left, p.right * f) for p, f in columns]


def _coefficients(node: Compute, family: Span, axis: Axis, resolved: Resolved, inputs: Sequence[Product]) -> Floats:
    """As the streamed evaluation finds them: of shape (models,), or (groups, models)."""
    gram = _gram(inputs, axis) if family.gram else None
    length = {"tensor": int(np.prod(node.shape)), "row": node.shape[-1], "column": node.shape[0]}[axis]
    if gram is not None and family.line is not None and length == 1 and not resolved.compat:
        alone = family.line(resolved)
        return alone if axis == "tensor" else np.tile(alone, (len(gram), 1))
    try:
        factors = np.asarray(family.coefficients(gram, resolved), np.float64)
    except ValueError as error:
        raise ExecutionError(Problem(f"{node.name}: {error}", tensor=node.key[0], line=node.line)) from error
    return factors.reshape(-1) if axis == "tensor" else factors


def _gram(inputs: Sequence[Product], axis: Axis) -> Floats:
    """Inner products of all pairs: (groups, models, models)."""
    count = len(inputs)
    groups = {"tensor": 1, "row": inputs[0].left.shape[0], "column": inputs[0].right.shape[1]}[axis]
    found = np.empty((groups, count, count))
    for i, one in enumerate(inputs):
        for j, other in enumerate(inputs[i:], i):
            found[:, i, j] = found[:, j, i] = _inner(one, other, axis)
    return found


def _inner(one: Product, other: Product, axis: Axis) -> Floats:
    found: Floats
    if axis == "row":
        found = np.sum((one.left @ (one.right @ other.right.T)) * other.left, axis=1)
    elif axis == "column":
        found = np.sum(((one.left.T @ other.left).T @ one.right) * other.right, axis=0)
    else:
        found = np.asarray(np.sum((one.left.T @ other.left) * (one.right @ other.right.T)))
    return found
