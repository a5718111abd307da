"""LM-Cocktail: a mean weighted by how well each model does on a few examples."""

from __future__ import annotations

import numpy as np

from stockpot.methods.declare import Base, Citation, Floats, Law, Method, Parameter, Resolved, Span

__all__ = ["LM_COCKTAIL"]

_XIAO_2023 = Citation(
    "Shitao Xiao and Zheng Liu and Peitian Zhang and Xingrun Xing",
    "LM-Cocktail: resilient tuning of language models via model merging",
    2023,
    "arXiv:2311.13534",
    "section 3 (weights from losses)",
)


def _softmax(_gram: Floats | None, p: Resolved) -> Floats:
    """exp of how far each loss lies above the smallest, in temperatures; the sum is the divisor."""
    losses = np.asarray(p["loss"], np.float64)
    with np.errstate(over="ignore"):  # a loss that is infinitely many temperatures above gets weight 0
        weights: Floats = np.exp((losses.min() - losses) / p["temperature"])
    return weights


def _sum(p: Resolved) -> float:
    return float(_softmax(None, p).sum())


LM_COCKTAIL = Method(
    name="lm_cocktail",
    summary="Weighted mean of models; the weights are a softmax of minus their losses on examples of the target.",
    formula="sum_i w_i x_i,  w = softmax(-loss / temperature)",
    cites=_XIAO_2023,
    family=Span(_softmax, divisor=_sum),
    base=Base.NONE,
    on="either",
    parameters=(
        Parameter("loss", "mean loss of each model on the examples, any finite number", per_model=True),
        Parameter("temperature", "above 0; small ones favour the best model", default=5.0, low=0.0, open_low=True),
    ),
    laws=frozenset({Law.IDEMPOTENT, Law.ORDER_FREE, Law.DETERMINISTIC}),
    notes=(
        "The default temperature is that of the authors' code: losses that differ by less than 1 give nearly equal "
        "weights.",
        "A fine-tuned model is kept by mixing in the result: linear of both with weights alpha and 1 - alpha.",
    ),
)
