"""Iso-C and Iso-CTS: merged task matrices with a flat spectrum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stockpot.methods.declare import Base, Citation, Floats, Law, Matrix, Method, Parameter, Resolved, Work
from stockpot.methods.matrix.common import (
    MATRIX,
    WEIGHT,
    averaged,
    one_unit,
    rounding,
    scaled,
    two_copies,
    weighted_sum,
)
from stockpot.methods.matrix.svd import Triplets, leading, polar, rebuilt, workspace

__all__ = ["ISO_C", "ISO_CTS"]

_AUTHORS = (
    "Daniel Marczak and Simone Magistri and Sebastian Cygert and Bartłomiej Twardowski and Andrew D. Bagdanov "
    "and Joost van de Weijer"
)
_TITLE = "No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces"
_ISO_C = Citation(_AUTHORS, _TITLE, 2025, "arXiv:2502.04959", "algorithm 1")
_ISO_CTS = Citation(_AUTHORS, _TITLE, 2025, "arXiv:2502.04959", "algorithm 2")

_OTHERS = (
    "Tensors that are not matrices get the mean of the weighted task vectors, as in the authors' code, which also "
    "does so for matrices named text_projection: set matrix to false for them."
)
_SEARCHED = "The authors search lambda between 0.1 and 3 on validation data."


def _flat(deltas: Sequence[Floats], p: Resolved, work: Work) -> Floats:
    """The polar factor of the sum, times the mean of its singular values."""
    total = weighted_sum(deltas, p["weight"])
    full = min(total.shape)
    u, s, v = leading(total, full, rounding(deltas, p["weight"]))
    work.tick()
    return rebuilt((u, np.full_like(s, s.sum() / max(1, full)), v))


def _sizes(full: int, models: int, fraction: float) -> tuple[int, int]:
    """How many directions are common, and how many belong to each model."""
    common = int(full * fraction)
    each = min(round((full - common) / models), full // models)
    return full - each * models, each


def _flat_with_specific(deltas: Sequence[Floats], p: Resolved, work: Work) -> Floats:
    """Common directions of the sum and those of each model outside them, all equally long."""
    full = min(deltas[0].shape)
    common, each = _sizes(full, len(deltas), p["common_space_fraction"])
    noise = rounding(deltas, p["weight"])
    parts = [leading(weighted_sum(deltas, p["weight"]), common, noise)]
    work.tick()
    for delta, weight in zip(deltas, p["weight"], strict=True):
        parts.append(_outside(scaled(delta, weight), parts[0][0], each, noise))
        work.tick()
    mean = sum(s.sum() for _, s, _ in parts) / max(1, full)
    left = polar(np.hstack([u for u, _, _ in parts]))
    work.tick()
    right = polar(np.vstack([v for _, _, v in parts]))
    work.tick()
    return rebuilt((left, np.full(left.shape[1], mean), right))


def _outside(delta: Floats, basis: Floats, rank: int, noise: float) -> Triplets:
    """Leading triplets of what the basis does not span."""
    return leading(delta - basis @ (basis.T @ delta), rank, noise)


def _units(p: Resolved, _shape: tuple[int, int]) -> int:
    return p.models + 3


def _copies_with_specific(_p: Resolved, shape: tuple[int, int]) -> int:
    rows, columns = shape
    return workspace(rows, columns) + 3 * rows * columns + 3 * min(shape) * (rows + columns)


ISO_C = Method(
    name="iso_c",
    summary="Sums the task vectors and makes all singular values of the sum equal to their mean.",
    formula="base + lambda * mean(S) U V^T,  U S V^T = sum_i w_i (x_i - base)",
    cites=_ISO_C,
    family=Matrix(_flat, averaged, one_unit, two_copies),
    base=Base.REQUIRED,
    on="delta",
    parameters=(WEIGHT, MATRIX),
    laws=frozenset({Law.ORDER_FREE, Law.ZERO_DELTA, Law.DETERMINISTIC}),
    scaled=True,
    notes=(
        "The mean is over all min(rows, columns) singular values. Those that are zero stay zero: their vectors are "
        "arbitrary, and the authors' code lifts them to the mean like the others.",
        _OTHERS,
        _SEARCHED,
    ),
)

ISO_CTS = Method(
    name="iso_cts",
    summary="Joins leading directions of the sum and of each task outside them, orthogonal and equally long.",
    formula="base + lambda * mean(S) polar(U) polar(V^T),  U S V = first k triplets of T = sum_i w_i (x_i - base) "
    "and first (r-k)/N triplets of each (I - U_T U_T^T) w_i (x_i - base)",
    cites=_ISO_CTS,
    family=Matrix(_flat_with_specific, averaged, _units, _copies_with_specific),
    base=Base.REQUIRED,
    on="delta",
    parameters=(
        WEIGHT,
        Parameter(
            "common_space_fraction",
            "share of the full rank that the common directions get, in [0, 1]",
            default=0.8,
            low=0.0,
            high=1.0,
        ),
        MATRIX,
    ),
    laws=frozenset({Law.ORDER_FREE, Law.ZERO_DELTA, Law.DETERMINISTIC}),
    scaled=True,
    notes=(
        "The rest of the rank is divided among the models, rounded as in the authors' code (halves to even), so the "
        "common share can differ a little; where nothing is left for the models, this is iso_c. Where that rounding "
        "asks for more directions than there are, the authors' code fails and here each model gets fewer.",
        "Directions whose singular value is zero are left out; in the authors' code their vectors are arbitrary.",
        _OTHERS,
        _SEARCHED,
    ),
)
