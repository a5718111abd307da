"""The linear map between two embeddings that fits their common rows: the baseline of every other way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stockpot.transplanting.table import TILE, Floats, Ints, Rows

__all__ = ["fitted", "fitting_bytes", "predicted", "predicting_bytes"]

_RIDGE = 1e-6
"""Ridge penalty as a share of the mean square of a donor's column: it keeps columns apart that the common rows do not
tell apart, and changes a fit by about as much as float32 rounds it."""

Tick = Callable[[float], None]


def fitted(donor: Rows, model: Rows, pairs: tuple[Ints, Ints], tick: Tick | None = None) -> Floats:
    """The matrix W of least ‖donor rows · W − model rows‖² + λ ‖W‖², (donor width, model width), in float64.

    λ is 1e-6 times the mean of the squares of the donor's columns.

    Args:
        pairs: Numbers of the common rows: in the donor, in the model; at least one.
        tick: Told of each share of the work that is done.
    """
    theirs, ours = pairs
    square, product = np.zeros((donor.width, donor.width)), np.zeros((donor.width, model.width))
    for start in range(0, len(theirs), TILE):
        x = donor.take(theirs[start : start + TILE])
        square += x.T @ x
        product += x.T @ model.take(ours[start : start + TILE])
        _told(tick, len(x) / len(theirs))
    return product if not _penalised(square) else np.asarray(np.linalg.solve(square, product), np.float64)


def predicted(vectors: Floats, donor: Rows, model: Rows, pairs: tuple[Ints, Ints], tick: Tick | None = None) -> Floats:
    """``vectors`` · W with the W of :func:`fitted`, which is never made, (len(vectors), model width).

    With the inverse of the normal matrix on the vectors' side, a pass over the common rows adds up the result: that
    takes less memory and time than W where there are fewer vectors than columns.
    """
    theirs, ours = pairs
    square = np.zeros((donor.width, donor.width))
    for start in range(0, len(theirs), TILE):
        x = donor.take(theirs[start : start + TILE])
        square += x.T @ x
        _told(tick, len(x) / len(theirs) / 2)
    weights = vectors.T if not _penalised(square) else np.linalg.solve(square, vectors.T)
    found = np.zeros((len(vectors), model.width))
    for start in range(0, len(theirs), TILE):
        x = donor.take(theirs[start : start + TILE])
        found += (x @ weights).T @ model.take(ours[start : start + TILE])
        _told(tick, len(x) / len(theirs) / 2)
    return found


def _penalised(square: Floats) -> bool:
    """Whether there was anything to add the penalty of."""
    ridge = _RIDGE * float(np.trace(square)) / len(square)
    square[np.diag_indices_from(square)] += ridge
    return ridge > 0.0


def _told(tick: Tick | None, share: float) -> None:
    if tick is not None:
        tick(share)


def fitting_bytes(donor_width: int, model_width: int) -> int:
    """Bytes that :func:`fitted` holds."""
    square, product = donor_width * donor_width, donor_width * model_width
    return 8 * (3 * square + 3 * product + 2 * TILE * (donor_width + model_width))


def predicting_bytes(vectors: int, donor_width: int, model_width: int) -> int:
    """Bytes that :func:`predicted` holds."""
    square, tile = donor_width * donor_width, TILE * (donor_width + model_width + vectors)
    return 8 * (3 * square + 2 * tile + vectors * (4 * donor_width + 3 * model_width))
