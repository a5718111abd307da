"""WARP: slerp of task vectors one after another, then interpolation towards the base."""

from __future__ import annotations

import numpy as np

from stockpot.methods.declare import SCOPE, Base, Citation, Floats, Law, Method, Parameter, Resolved, Span
from stockpot.methods.span.spherical import arc

__all__ = ["WARP"]

_RAME_2024 = Citation(
    "Alexandre Ramé and Johan Ferret and Nino Vieillard and Robert Dadashi and Léonard Hussenot and "
    "Pierre-Louis Cedoz and Pier Giuseppe Sessa and Sertan Girgin and Arthur Douillard and Olivier Bachem",
    "WARP: on the benefits of weight averaged rewarded policies",
    2024,
    "arXiv:2406.16768",
    "algorithm 1, lines for SLERP and LITI",
)


def _warp(gram: Floats | None, p: Resolved) -> Floats:
    """Slerp of what was merged so far and the m-th task vector at t = 1/m, for m = 2, 3, …; times ``eta``."""
    assert gram is not None
    inner = gram[0]
    merged: Floats = np.eye(p.models)[0]
    for m in range(1, p.models):
        norms = float(np.sqrt(max(float(merged @ inner @ merged), 0.0)) * np.sqrt(inner[m, m]))
        cosine = float(inner[m] @ merged) / norms if norms > 0.0 else 1.0
        first, second = arc(np.array([cosine]), 1.0 / (m + 1))
        merged = first[0] * merged
        merged[m] += second[0]
    return merged * float(p["eta"])


def _line(p: Resolved) -> Floats:
    return np.full(p.models, float(p["eta"]) / p.models)


WARP = Method(
    name="warp",
    summary="Joins fine-tunes of one start by slerp of their task vectors, one by one, and keeps a share eta of it.",
    formula="base + eta * d_M,  d_1 = x_1 - base,  d_m = slerp(d_(m-1), x_m - base; t = 1/m)",
    cites=_RAME_2024,
    family=Span(_warp, gram=True, line=_line),
    base=Base.REQUIRED,
    on="delta",
    parameters=(
        Parameter("eta", "share of the merged task vector; 1 is the slerp itself, 0 the base", default=0.3),
        SCOPE,
    ),
    laws=frozenset({Law.ZERO_DELTA, Law.DETERMINISTIC}),
    notes=(
        "With more than two models the order matters, as in the paper; multislerp is the mean that has none.",
        "The default eta is the paper's for the next start; its results are shown for all eta from 0 to 1.",
        "A task vector of zeros makes its step a plain mean, as does a single element; opposite ones are an error.",
        "The moving average of the policy, stage 1 of the paper, belongs to training and is not part of it.",
    ),
)
