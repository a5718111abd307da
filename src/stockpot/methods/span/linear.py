"""Weighted means and sums: linear, task arithmetic, WiSE-FT."""

from __future__ import annotations

import numpy as np

from stockpot.methods.declare import Base, Citation, Floats, Law, Method, Parameter, Resolved, Span

__all__ = ["LINEAR", "TASK_ARITHMETIC", "WISE_FT"]

_WORTSMAN_2022 = Citation(
    "Mitchell Wortsman and Gabriel Ilharco and Samir Yitzhak Gadre and Rebecca Roelofs and Raphael Gontijo-Lopes and "
    "Ari S. Morcos and Hongseok Namkoong and Ali Farhadi and Yair Carmon and Simon Kornblith and Ludwig Schmidt",
    "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing inference time",
    2022,
    "arXiv:2203.05482",
    "section 2",
)
_ILHARCO_2023 = Citation(
    "Gabriel Ilharco and Marco Tulio Ribeiro and Mitchell Wortsman and Suchin Gururangan and Ludwig Schmidt and "
    "Hannaneh Hajishirzi and Ali Farhadi",
    "Editing models with task arithmetic",
    2023,
    "arXiv:2212.04089",
    "section 2",
)
_WORTSMAN_WISE = Citation(
    "Mitchell Wortsman and Gabriel Ilharco and Jong Wook Kim and Mike Li and Simon Kornblith and Rebecca Roelofs and "
    "Raphael Gontijo-Lopes and Hannaneh Hajishirzi and Ali Farhadi and Hongseok Namkoong and Ludwig Schmidt",
    "Robust fine-tuning of zero-shot models",
    2022,
    "arXiv:2109.01903",
    "equation 1",
)


def _weights(_gram: Floats | None, p: Resolved) -> Floats:
    return np.asarray(p["weight"], np.float64)


def _sum_of_weights(p: Resolved) -> float:
    if not p["normalize"]:
        return 1.0
    total = float(sum(p["weight"]))
    if total == 0.0:
        raise ValueError("its weights sum to 0, so they cannot be normalized; set normalize: false")
    return total


def _sum_unless_tiny(p: Resolved) -> float:
    """As mergekit: weights that cancel are not divided by."""
    total = float(sum(p["weight"]))
    return total if p["normalize"] and abs(total) >= 1e-8 else 1.0


def _wise(_gram: Floats | None, p: Resolved) -> Floats:
    return np.array([1.0 - p["alpha"], p["alpha"]])


LINEAR = Method(
    name="linear",
    aliases=("average",),
    summary="Weighted mean of the models; with equal weights, a uniform soup.",
    formula="sum_i w_i x_i / sum_i w_i",
    cites=_WORTSMAN_2022,
    family=Span(_weights, divisor=_sum_of_weights),
    base=Base.NONE,
    on="either",
    parameters=(
        Parameter("weight", "share of each model, any finite number", default=1.0, per_model=True),
        Parameter("normalize", "divide by the sum of the weights", default=True, kind="bool"),
    ),
    laws=frozenset({Law.IDEMPOTENT, Law.ORDER_FREE, Law.ENDPOINTS, Law.DETERMINISTIC}),
)

TASK_ARITHMETIC = Method(
    name="task_arithmetic",
    summary="Adds task vectors to the base: adds skills, removes them with negative weights, or transfers by analogy.",
    formula="base + lambda * sum_i w_i (x_i - base)",
    cites=_ILHARCO_2023,
    family=Span(_weights, divisor=_sum_unless_tiny),
    base=Base.REQUIRED,
    on="delta",
    parameters=(
        Parameter("weight", "factor of each task vector", default=1.0, per_model=True),
        Parameter("normalize", "divide by the sum of the weights", default=False, kind="bool"),
    ),
    laws=frozenset({Law.ORDER_FREE, Law.ZERO_DELTA, Law.ENDPOINTS, Law.DETERMINISTIC}),
    scaled=True,
    notes=(
        "Addition: every fine-tune with a weight above 0 adds its skill.",
        "Negation: one model with a weight below 0 removes what it learned.",
        "Analogy, A is to B as C is to the result: C + (B - A) is base A with models B and C, both of weight 1.",
    ),
)
"""Addition, negation and analogy: ``base + 0.4 * (x - base)``, ``base - 0.4 * (x - base)``, ``c + (b - a)``."""

WISE_FT = Method(
    name="wise_ft",
    summary="Interpolates between the base (zero-shot) and one fine-tuned model.",
    formula="(1 - alpha) base + alpha x",
    cites=_WORTSMAN_WISE,
    family=Span(_wise),
    base=Base.MEMBER,
    on="weights",
    at_least=2,
    at_most=2,
    parameters=(Parameter("alpha", "share of the fine-tuned model, usually in [0, 1]; 0 is the base", default=0.5),),
    laws=frozenset({Law.IDEMPOTENT, Law.ZERO_DELTA, Law.DETERMINISTIC}),
)
