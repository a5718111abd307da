"""OPCM: models merged one after the other, each without what the earlier ones already use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stockpot.methods.declare import Base, Citation, Floats, Law, Matrix, Method, Parameter, Resolved, Work
from stockpot.methods.matrix.common import MATRIX, unit_per_model
from stockpot.methods.matrix.svd import leading, workspace

__all__ = ["OPCM"]

_TANG_2025 = Citation(
    "Anke Tang and Enneng Yang and Li Shen and Yong Luo and Han Hu and Bo Du and Dacheng Tao",
    "Merging Models on the Fly Without Retraining: A Sequential Approach to Scalable Continual Model Merging",
    2025,
    "arXiv:2501.09522",
    "algorithm 1",
)


def _cleaned(delta: Floats, merged: Floats, alpha: float) -> Floats:
    """The task vector without its part along the singular directions of the merged one.

    In the basis of singular vectors, the block of the leading directions and the diagonal become zero.
    """
    u, s, v = leading(merged, min(merged.shape))
    if not s.size:
        return delta
    held = np.cumsum(s)
    block = int(np.count_nonzero(held <= alpha * held[-1]))
    inner = u.T @ delta @ v.T
    removed = np.diag(np.diagonal(inner))
    removed[:block, :block] = inner[:block, :block]
    return delta - u @ removed @ v


def _solve(deltas: Sequence[Floats], p: Resolved, work: Work) -> Floats:
    """The sum of cleaned task vectors, brought back to the length of one."""
    merged = deltas[0].copy()
    for delta in deltas[1:]:
        merged += _cleaned(delta, merged, p["alpha"])
        work.tick()
    work.tick()
    if p["scaling"] == "root":
        merged /= np.sqrt(len(deltas))
        return merged
    length = np.linalg.norm(merged)
    if length > 0.0:
        merged *= sum(np.linalg.norm(delta) for delta in deltas) / (len(deltas) * length)
    return merged


def _otherwise(p: Resolved) -> Floats:
    return np.full(p.models, 1.0 / np.sqrt(p.models))


def _copies(_p: Resolved, shape: tuple[int, int]) -> int:
    rows, columns = shape
    return workspace(rows, columns) + 2 * rows * columns + 2 * min(shape) ** 2


OPCM = Method(
    name="opcm",
    summary="Merges models one after the other, each projected away from the directions merged so far.",
    formula="base + lambda * M_N n / ||M_N||,  M_1 = t_1,  M_i = M_(i-1) + P(t_i; M_(i-1)),  n = mean_i ||t_i||,  "
    "t_i = x_i - base; P zeroes the diagonal and the leading block of U^T t_i V, U S V^T = M_(i-1)",
    cites=_TANG_2025,
    family=Matrix(_solve, _otherwise, unit_per_model, _copies),
    base=Base.REQUIRED,
    on="delta",
    parameters=(
        Parameter(
            "alpha",
            "share of the sum of singular values held by the leading block that is removed, in [0, 1]",
            default=0.5,
            low=0.0,
            high=1.0,
        ),
        Parameter(
            "scaling",
            "length of a merged matrix: norm, the mean length of the task matrices; root, the sum over sqrt(N)",
            default="norm",
            kind="choice",
            choices=("norm", "root"),
        ),
        MATRIX,
    ),
    laws=frozenset({Law.ZERO_DELTA, Law.DETERMINISTIC}),
    scaled=True,
    notes=(
        "The order of the models matters; the authors' code shuffles them by default, here they are taken as listed.",
        "The authors scale by the lengths over the whole model after each step, which equals one factor at the end "
        "and is near 1/sqrt(N); here it is taken for each matrix on its own, or sqrt(N) with scaling: root.",
        "Singular directions of value zero remove nothing; in the authors' code they are arbitrary. With alpha = 1 "
        "all directions in use are removed, where the authors' code removes the diagonal only.",
        "Tensors that are not matrices get the sum of the task vectors over sqrt(N). The authors project weights of "
        "linear layers only, so set matrix to false for embeddings.",
    ),
)
