"""TSV-M: the leading singular vectors of all tasks, made orthogonal to each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stockpot.methods.declare import Base, Citation, Floats, Law, Matrix, Method, Resolved, Work
from stockpot.methods.matrix.common import MATRIX, WEIGHT, averaged, scaled
from stockpot.methods.matrix.svd import leading, polar, rebuilt, workspace

__all__ = ["TSV_M"]

_GARGIULO_2025 = Citation(
    "Antonio Andrea Gargiulo and Donato Crisostomi and Maria Sofia Bucarelli and Simone Scardapane "
    "and Fabrizio Silvestri and Emanuele Rodolà",
    "Task Singular Vectors: Reducing Task Interference in Model Merging",
    2025,
    "arXiv:2412.00081",
    "algorithm 1",
)


def _solve(deltas: Sequence[Floats], p: Resolved, work: Work) -> Floats:
    """U S V with U and V the polar factors of the concatenated singular vectors."""
    rank = max(1, min(deltas[0].shape) // len(deltas))
    parts = []
    for delta, weight in zip(deltas, p["weight"], strict=True):
        parts.append(leading(scaled(delta, weight), rank))
        work.tick()
    values = np.concatenate([s for _, s, _ in parts])
    left = polar(np.hstack([u for u, _, _ in parts]))
    work.tick()
    right = polar(np.vstack([v for _, _, v in parts]))
    work.tick()
    return rebuilt((left, values, right))


def _units(p: Resolved, _shape: tuple[int, int]) -> int:
    return p.models + 2


def _copies(_p: Resolved, shape: tuple[int, int]) -> int:
    rows, columns = shape
    return workspace(rows, columns) + rows * columns + 3 * min(shape) * (rows + columns)


TSV_M = Method(
    name="tsv_m",
    summary="Keeps the leading singular vectors of each task vector and makes those of all tasks orthogonal.",
    formula="base + lambda * polar([U_1 ... U_N]) diag(S_1 ... S_N) polar([V_1 ... V_N]^T),  "
    "(U_i, S_i, V_i) = first r/N singular triplets of w_i (x_i - base)",
    cites=_GARGIULO_2025,
    family=Matrix(_solve, averaged, _units, _copies),
    base=Base.REQUIRED,
    on="delta",
    parameters=(WEIGHT, MATRIX),
    laws=frozenset({Law.ORDER_FREE, Law.ZERO_DELTA, Law.DETERMINISTIC}),
    scaled=True,
    notes=(
        "Each of N models keeps floor(r / N) of the r = min(rows, columns) singular triplets; at least one, where the "
        "authors' code keeps none of matrices with r < N and so loses them.",
        "Triplets whose singular value is zero are left out; the authors' code lets their arbitrary vectors disturb "
        "the others. Where the concatenated vectors are dependent, as with copies of one model, the polar factor of "
        "their range is taken, which is unique: copies of one model give its truncation to rank r/N.",
        "Tensors that are not matrices get the mean of the weighted task vectors, as in the authors' code, which also "
        "does so for matrices named text_projection: set matrix to false for them.",
        "The authors recommend lambda = 1, the default here.",
    ),
)
