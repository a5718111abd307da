"""Spherical interpolation, of whole models (slerp) or of task vectors (nuslerp).

Both are linear combinations whose coefficients depend only on the angle, so they need the Gram matrix
of their two inputs and nothing else.
"""

from __future__ import annotations

import numpy as np

from stockpot.methods.declare import SCOPE, Axis, Base, Citation, Floats, Law, Method, Parameter, Resolved, Span

__all__ = ["NUSLERP", "SLERP", "arc"]

_SHOEMAKE_1985 = Citation(
    "Ken Shoemake", "Animating rotation with quaternion curves", 1985, "SIGGRAPH 19(3)", "equation for slerp"
)
_NUSLERP = Citation(
    "Charles Goddard and Shamane Siriwardhana and Malikeh Ehghaghi and Luke Meyers and Vladimir Karpukhin and "
    "Brian Benedict and Mark McQuade and Jacob Solawetz",
    "Arcee's MergeKit: A Toolkit for Merging Large Language Models",
    2024,
    "arXiv:2403.13257",
    "section 3 (slerp), on task vectors",
)

_SMALL_SINE = 1e-7
"""Below this sine the two directions coincide and slerp is a plain mean, to fp64 accuracy."""

_COMPAT_LERP_COSINE = 0.9995
_COMPAT_SMALL_NORM = 1e-8
_COMPAT_SMALL_SUM = 1e-6
_COMPAT_NUSLERP_NORM = 1e-7


def arc(cosine: Floats, t: Floats | float) -> tuple[Floats, Floats]:
    """Coefficients of slerp at ``t`` between vectors of the given ``cosine``; lerp where they coincide.

    Raises:
        ValueError: for opposite vectors, between which no shortest arc is defined.
    """
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    sine = np.sin(angle)
    flat = sine < _SMALL_SINE
    if np.any(flat & (cosine < 0.0)):
        raise ValueError("the two models point in opposite directions, where slerp is undefined; use linear")
    safe = np.where(flat, 1.0, sine)
    first = np.where(flat, 1.0 - t, np.sin((1.0 - t) * angle) / safe)
    second = np.where(flat, t, np.sin(t * angle) / safe)
    return first, second


def _cosine(gram: Floats, floor: float) -> Floats:
    """Cosines of shape (groups,); 1 where a vector is (nearly) zero, which makes slerp a plain mean."""
    norms = np.sqrt(gram[:, 0, 0]) * np.sqrt(gram[:, 1, 1])
    tiny = norms <= floor
    cosines: Floats = np.where(tiny, 1.0, gram[:, 0, 1] / np.where(tiny, 1.0, norms))
    return cosines


def _slerp(gram: Floats | None, p: Resolved) -> Floats:
    assert gram is not None
    t = float(p["t"])
    if t in (0.0, 1.0):
        return np.array([1.0 - t, t])
    if p.compat:
        return _slerp_compat(gram[0], t)
    first, second = arc(_cosine(gram, 0.0), t)
    return np.array([first[0], second[0]])


def _slerp_compat(gram: Floats, t: float) -> Floats:
    norms = [float(np.sqrt(gram[i, i])) for i in (0, 1)]
    cosine = float(gram[0, 1])
    for norm in norms:
        cosine = cosine / norm if norm > _COMPAT_SMALL_NORM else cosine
    if abs(cosine) > _COMPAT_LERP_COSINE:
        return np.array([1.0 - t, t])
    angle = np.arccos(cosine)
    return np.array([np.sin(angle - angle * t) / np.sin(angle), np.sin(angle * t) / np.sin(angle)])


def _slerp_line(p: Resolved) -> Floats:
    t = float(p["t"])
    return np.array([1.0 - t, t])


def _share(p: Resolved) -> float:
    w0, w1 = p["weight"]
    return float(w1 / (w0 + w1)) if abs(w0 + w1) >= _COMPAT_SMALL_SUM else 0.5


def _nuslerp_line(p: Resolved) -> Floats:
    t = _share(p)
    return np.array([1.0 - t, t])


def _nuslerp(gram: Floats | None, p: Resolved) -> Floats:
    assert gram is not None
    t = _share(p)
    if p.compat:
        return _nuslerp_compat(gram, t)
    first, second = arc(_cosine(gram, 0.0), t)
    return np.stack([first, second], axis=-1)


def _nuslerp_compat(gram: Floats, t: float) -> Floats:
    """Mergekit takes a vanishing vector for one at a right angle, and opposite ones for parallel ones."""
    norms = np.maximum(np.sqrt(gram[:, 0, 0]), _COMPAT_NUSLERP_NORM) * np.maximum(
        np.sqrt(gram[:, 1, 1]), _COMPAT_NUSLERP_NORM
    )
    angle = np.arccos(np.clip(gram[:, 0, 1] / norms, -1.0, 1.0))
    sine = np.sin(angle)
    flat = np.abs(sine) < _COMPAT_SMALL_NORM
    safe = np.where(flat, 1.0, sine)
    first = np.where(flat, 1.0 - t, np.sin((1.0 - t) * angle) / safe)
    second = np.where(flat, t, np.sin(t * angle) / safe)
    return np.stack([first, second], axis=-1)


def _nuslerp_axis(p: Resolved) -> Axis:
    if p["nuslerp_flatten"]:
        return "tensor"
    if p["scope"] == "model":
        raise ValueError("one angle for the whole model has no rows; set nuslerp_flatten: true, or scope: tensor")
    return "column" if p["nuslerp_row_wise"] else "row"


SLERP = Method(
    name="slerp",
    summary="Follows the arc between two models; t = 0 is the base.",
    formula="sin((1-t)W)/sin W * a + sin(tW)/sin W * b,  W = angle between a and b",
    cites=_SHOEMAKE_1985,
    family=Span(_slerp, gram=True, line=_slerp_line),
    base=Base.MEMBER,
    on="either",
    at_least=2,
    at_most=2,
    parameters=(Parameter("t", "place on the arc, usually in [0, 1]; 0 is the base"), SCOPE),
    laws=frozenset({Law.IDEMPOTENT, Law.DETERMINISTIC}),
)

NUSLERP = Method(
    name="nuslerp",
    summary="Slerp by weights; with a base, of the task vectors; over the tensor or along one dimension.",
    formula="slerp(a, b; t = w_b / (w_a + w_b)), with a base: base + slerp(a - base, b - base; t)",
    cites=_NUSLERP,
    family=Span(_nuslerp, gram=True, axis=_nuslerp_axis, line=_nuslerp_line),
    base=Base.OPTIONAL,
    on="either",
    at_least=2,
    at_most=2,
    parameters=(
        Parameter("weight", "share of each model", per_model=True),
        Parameter("nuslerp_flatten", "one angle for the whole tensor", default=True, kind="bool"),
        Parameter(
            "nuslerp_row_wise",
            "without flatten: vectors along the first dimension instead of the last",
            default=False,
            kind="bool",
        ),
        SCOPE,
    ),
    laws=frozenset({Law.IDEMPOTENT, Law.ORDER_FREE, Law.ZERO_DELTA, Law.DETERMINISTIC}),
)
