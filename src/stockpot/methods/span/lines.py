"""LiNeS: task vectors that are scaled by depth."""

from __future__ import annotations

import numpy as np

from stockpot.methods.declare import Base, Citation, Floats, Law, Method, Parameter, Resolved, Span

__all__ = ["LINES"]

_WANG_2024 = Citation(
    "Ke Wang and Nikolaos Dimitriadis and Alessandro Favero and Guillermo Ortiz-Jimenez and François Fleuret and "
    "Pascal Frossard",
    "LiNeS: post-training layer scaling prevents forgetting and enhances model merging",
    2024,
    "arXiv:2410.17146",
    "equation for the scaling alpha + beta (l - 1) / (L - 1)",
)


def _lines(_gram: Floats | None, p: Resolved) -> Floats:
    weights: Floats = np.asarray(p["weight"], np.float64)
    return weights * float(p["alpha"] + p["beta"] * p.depth)


LINES = Method(
    name="lines",
    summary="Adds task vectors with a factor that grows with depth: first layers stay near the base.",
    formula="base + (alpha + beta * depth) * sum_i w_i (x_i - base),  depth from 0 (first layer) to 1 (last)",
    cites=_WANG_2024,
    family=Span(_lines),
    base=Base.REQUIRED,
    on="delta",
    parameters=(
        Parameter("weight", "factor of each task vector", default=1.0, per_model=True),
        Parameter("alpha", "factor at the first layer and of the embeddings"),
        Parameter("beta", "what is added to alpha by the last layer; also in the final norm and the head"),
    ),
    laws=frozenset({Law.ORDER_FREE, Law.ZERO_DELTA, Law.DETERMINISTIC}),
    notes=(
        "The authors give no fixed values: for one fine-tune they take beta = 1 - alpha, for a sum of N task vectors "
        "alpha = 1/N and a beta from 0 to 1 that is chosen on held-out data.",
        "Departure: the authors scale everything outside the layers by alpha; here the final norm and the head, "
        "which come after the last layer, are scaled by alpha + beta, and only what comes before the layers by alpha.",
        "In a model of several stacks each layer's depth is that in its own stack.",
    ),
)
