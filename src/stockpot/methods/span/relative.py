"""Methods that weigh a model by its angle to another: perpendicular parts, cosine weights."""

from __future__ import annotations

import numpy as np

from stockpot.methods.declare import Base, Citation, Floats, Law, Method, Parameter, Resolved, Span

__all__ = ["COSINE_WEIGHTED", "PERPENDICULAR"]

_SD_MECHA = Citation(
    "ljleb and others",
    "sd-mecha: merging of Stable Diffusion models by recipes",
    2023,
    "https://github.com/ljleb/sd-mecha",
    "add_perpendicular",
)
_SUPERMERGER = Citation(
    "hako-mikan and others",
    "SuperMerger: model merging for Stable Diffusion web UI",
    2023,
    "https://github.com/hako-mikan/sd-webui-supermerger",
    "calculation mode cosineA",
)

_IN_SPAN = 1e-12
"""A part whose square is below this share of its vector's is rounding: the vector lies in the span of the others."""


def _perpendicular(gram: Floats | None, p: Resolved) -> Floats:
    """Gram-Schmidt in coefficients; projecting twice removes what rounding left."""
    assert gram is not None
    inner = gram[0]
    earlier: list[Floats] = []
    total = np.zeros(p.models)
    for i, weight in enumerate(p["weight"]):
        part = np.eye(p.models)[i]
        for other in [*earlier, *earlier]:
            part = part - float(other @ inner @ part) / float(other @ inner @ other) * other
        if float(part @ inner @ part) > _IN_SPAN * inner[i, i]:
            earlier.append(part)
            total = total + weight * part
    return total


def _cosine_weighted(gram: Floats | None, p: Resolved) -> Floats:
    assert gram is not None
    norms = float(np.sqrt(gram[0, 0, 0]) * np.sqrt(gram[0, 1, 1]))
    cosine = float(gram[0, 0, 1]) / norms if norms > 0.0 else 0.0
    share = min(max(cosine - float(p["alpha"]), 0.0), 1.0)
    return np.array([share, 1.0 - share])


PERPENDICULAR = Method(
    name="perpendicular",
    summary="Adds task vectors in order; of each, only what is perpendicular to all before it.",
    formula="base + lambda * sum_i w_i (d_i - projection of d_i on span(d_1, ..., d_(i-1))),  d_i = x_i - base",
    cites=_SD_MECHA,
    family=Span(_perpendicular, gram=True),
    base=Base.REQUIRED,
    on="delta",
    parameters=(Parameter("weight", "factor of each perpendicular part", default=1.0, per_model=True),),
    laws=frozenset({Law.IDEMPOTENT, Law.ZERO_DELTA, Law.DETERMINISTIC}),
    scaled=True,
    notes=(
        "The order matters: the first task vector stays whole.",
        "Of two it is the source's formula, a + alpha * perp(b - base), with weights 1 and alpha. With more, each "
        "loses its part along all before it; the source has two only.",
        "A task vector in the span of those before it adds nothing. A vector of zeros takes nothing from others, "
        "where the source loses the second model's change.",
        "One angle for each whole tensor.",
    ),
)

COSINE_WEIGHTED = Method(
    name="cosine_weighted",
    summary="Interpolates two models by how alike they are: the more, the more of the first.",
    formula="s a + (1 - s) b,  s = clip(cos(a, b) - alpha, 0, 1),  with a base: of differences to it",
    cites=_SUPERMERGER,
    family=Span(_cosine_weighted, gram=True),
    base=Base.OPTIONAL,
    on="either",
    at_least=2,
    at_most=2,
    parameters=(Parameter("alpha", "subtracted from the cosine; 0 takes the cosine itself", default=0.0),),
    laws=frozenset({Law.IDEMPOTENT, Law.ZERO_DELTA, Law.DETERMINISTIC}),
    notes=(
        "The order matters: where the two are unlike, the second model stands.",
        "Departures: one cosine of the whole tensor, where the source averages it with cosines along the first "
        "dimension; no stretching of the cosines to their range over the model, so that a tensor's result depends on "
        "that tensor alone.",
        "Whole models have cosines near 1; with a base the cosines are those of the differences to it.",
        "A vector of zeros counts as perpendicular.",
    ),
)
