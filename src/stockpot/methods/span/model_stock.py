"""Model Stock: the mean of fine-tunes, drawn towards the base by the angle between them."""

from __future__ import annotations

import numpy as np

from stockpot.methods.declare import SCOPE, Axis, Base, Citation, Floats, Law, Method, Parameter, Resolved, Span

__all__ = ["MODEL_STOCK"]

_JANG_2024 = Citation(
    "Dong-Hwan Jang and Sangdoo Yun and Dongyoon Han",
    "Model Stock: all we need is just a few fine-tuned models",
    2024,
    "arXiv:2403.19522",
    "equation 7",
)


_COMPAT_NORMS = 1e-6
"""mergekit divides by norm products no smaller than this."""

_COMPAT_DENOMINATOR = 1e-6


def _ratio(gram: Floats, p: Resolved) -> Floats:
    """T of shape (groups,) from Gram matrices of shape (groups, models, models).

    t = N cos / (1 + (N - 1) cos) with the mean of the pairwise cosines. A zero delta gives t = 0.
    """
    models = gram.shape[-1]
    squares = np.einsum("gii->gi", gram)
    cosine = np.clip(_cosines(gram, squares, floored=p.compat).mean(axis=1), -1.0, 1.0)
    denominator = 1.0 + (models - 1) * cosine
    still = squares.min(axis=1) == 0.0
    singular = denominator < _COMPAT_DENOMINATOR if p.compat else (denominator <= 0.0) | still
    ratio: Floats = np.where(singular, 0.0, models * cosine / np.where(singular, 1.0, denominator))
    return ratio if p.compat else np.clip(ratio, 0.0, 1.0)


def _cosines(gram: Floats, squares: Floats, *, floored: bool) -> Floats:
    """Cosines of all pairs, of shape (groups, pairs): exactly 1 for equal vectors."""
    first, second = np.triu_indices(gram.shape[-1], 1)
    inner, a, b = gram[:, first, second], squares[:, first], squares[:, second]
    zero = (a == 0.0) | (b == 0.0)
    above, below = np.where(zero, 1.0, a), np.where(zero, 1.0, b)
    cosines = np.where(zero, 0.0, inner / above * np.sqrt(above / below))
    if not floored:
        return cosines
    products = np.sqrt(a) * np.sqrt(b)
    return np.where(products > _COMPAT_NORMS, cosines, inner / _COMPAT_NORMS)


def _model_stock(gram: Floats | None, p: Resolved) -> Floats:
    assert gram is not None
    return np.repeat(_ratio(gram, p)[:, None], p.models, axis=1)


def _models(p: Resolved) -> float:
    return float(p.models)


def _axis(p: Resolved) -> Axis:
    if not p["filter_wise"]:
        return "tensor"
    if p["scope"] == "model":
        raise ValueError("one ratio for the whole model has no rows; set filter_wise: false, or scope: tensor")
    return "row"


MODEL_STOCK = Method(
    name="model_stock",
    summary="Approaches the centre of many fine-tunes with two: their mean, drawn towards the base.",
    formula="base + t * mean_i(x_i - base),  t = N c / (1 + (N-1) c),  c = mean pairwise cosine, t in [0, 1]",
    cites=_JANG_2024,
    family=Span(_model_stock, gram=True, divisor=_models, axis=_axis),
    base=Base.REQUIRED,
    on="delta",
    at_least=2,
    parameters=(
        Parameter("filter_wise", "one ratio for each row instead of each tensor", default=False, kind="bool"),
        SCOPE,
    ),
    laws=frozenset({Law.IDEMPOTENT, Law.ORDER_FREE, Law.ZERO_DELTA, Law.DETERMINISTIC}),
)
