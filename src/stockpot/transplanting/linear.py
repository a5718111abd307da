"""The linear map between two embeddings that fits their common rows: the baseline of every other way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stockpot.transplanting.table import TILE, Floats, Ints, Rows

__all__ = ["fitted", "fitting_bytes"]

_RIDGE = 1e-6
"""Ridge penalty as a share of the mean square of a donor's column: it keeps columns apart that the common rows do not
tell apart, and changes a fit by about as much as float32 rounds it."""


def fitted(donor: Rows, model: Rows, pairs: tuple[Ints, Ints], tick: Callable[[float], None] | None = None) -> Floats:
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
        if tick is not None:
            tick(len(x) / len(theirs))
    ridge = _RIDGE * float(np.trace(square)) / donor.width
    if ridge == 0.0:
        return product
    square[np.diag_indices_from(square)] += ridge
    return np.asarray(np.linalg.solve(square, product), np.float64)


def fitting_bytes(donor_width: int, model_width: int) -> int:
    """Bytes that :func:`fitted` holds."""
    square, product = donor_width * donor_width, donor_width * model_width
    return 8 * (3 * square + 3 * product + TILE * (donor_width + model_width))
