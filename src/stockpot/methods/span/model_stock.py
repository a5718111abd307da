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
    norms = np.sqrt(np.einsum("gii->gi", gram))
    above = np.triu_indices(models, 1)
    products = (norms[:, :, None] * norms[:, None, :])[:, above[0], above[1]]
    inner = gram[:, above[0], above[1]]
    floor = _COMPAT_NORMS if p.compat else 0.0
    cosines = inner / np.where(products > floor, products, floor or 1.0)
    cosine = np.clip(cosines.mean(axis=1), -1.0, 1.0)
    denominator = 1.0 + (models - 1) * cosine
    still = norms.min(axis=1) == 0.0
    singular = denominator < _COMPAT_DENOMINATOR if p.compat else (denominator <= 0.0) | still
    ratio: Floats = np.where(singular, 0.0, models * cosine / np.where(singular, 1.0, denominator))
    return ratio if p.compat else np.clip(ratio, 0.0, 1.0)


def _model_stock(gram: Floats | None, p: Resolved) -> Floats:
    assert gram is not None
    ratio = _ratio(gram, p)
    return np.repeat(ratio[:, None] / p.models, p.models, axis=1)


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
    family=Span(_model_stock, gram=True, axis=_axis),
    base=Base.REQUIRED,
    on="delta",
    at_least=2,
    parameters=(
        Parameter("filter_wise", "one ratio for each row instead of each tensor", default=False, kind="bool"),
        SCOPE,
    ),
    laws=frozenset({Law.IDEMPOTENT, Law.ORDER_FREE, Law.ZERO_DELTA, Law.DETERMINISTIC}),
)
