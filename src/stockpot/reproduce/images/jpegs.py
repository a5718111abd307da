"""Colour images in a file of JPEGs, one after another, with their labels."""

from __future__ import annotations

import io
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stockpot.errors import CheckpointError, Problem
from stockpot.evaluate.arrays import read_npz

__all__ = ["read_jpegs"]

_LAYOUT = "it holds jpeg (bytes), offset (n + 1; image i is jpeg[offset[i]:offset[i + 1]]) and y (n, 0 to 9)"
_FIX = "write the file again, as docs/reproduce.md describes it"


def read_jpegs(path: Path, side: int, least: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images ``(n, 3, side, side)`` in 0..255, and labels ``(n,)`` in 0..9.

    Args:
        path: A .npz file of ``jpeg`` uint8, ``offset`` (n + 1) and ``y`` (n); image i is
            ``jpeg[offset[i]:offset[i + 1]]``.
        least: Images that it must have.

    Raises:
        CheckpointError: when the file is something else, or one of its images is damaged or of another size.
    """
    arrays = read_npz(path)
    wrong = _wrong(arrays, least)
    if wrong:
        raise CheckpointError(Problem(f"not a file of JPEGs: {wrong}", file=str(path), fix=f"{_FIX}: {_LAYOUT}"))
    stream, offset = arrays["jpeg"].tobytes(), arrays["offset"].tolist()
    images = np.empty((len(arrays["y"]), 3, side, side), np.uint8)
    for i, (first, end) in enumerate(pairwise(offset)):
        try:
            images[i] = _decoded(stream[first:end], side)
        except (OSError, SyntaxError, ValueError) as error:  # as Pillow's readers raise them
            raise CheckpointError(Problem(f"image {i} {_reason(error)}", file=str(path), fix=_FIX)) from error
    return images, arrays["y"].astype(np.int64)


def _wrong(arrays: Mapping[str, npt.NDArray[Any]], least: int) -> str | None:
    """What is not as it should be, in words."""
    missing = [name for name in ("jpeg", "offset", "y") if name not in arrays]
    if missing:
        return f"it has no {' and no '.join(missing)}"
    jpeg, offset, y = (arrays[name] for name in ("jpeg", "offset", "y"))
    if jpeg.dtype != np.uint8 or jpeg.ndim != 1:
        return f"jpeg is {jpeg.dtype} {jpeg.shape}, not bytes"
    if any(array.dtype.kind not in "iu" or array.ndim != 1 for array in (offset, y)):
        return "offset and y must be lists of whole numbers"
    if len(offset) != len(y) + 1:
        return f"{len(y)} labels need {len(y) + 1} offsets, not {len(offset)}"
    ends = offset.astype(np.int64)
    if ends[0] != 0 or ends[-1] != len(jpeg) or (np.diff(ends) <= 0).any():
        return f"the offsets do not rise from 0 to the {len(jpeg)} bytes that it has"
    if len(y) < least:
        return f"it has {len(y)} images, and {least} are needed"
    if len(y) and not (y.min() >= 0 and y.max() <= 9):
        return f"labels are {y.min()} to {y.max()}, not 0 to 9"
    return None


def _decoded(data: bytes, side: int) -> npt.NDArray[np.uint8]:
    """One image ``(3, side, side)``.

    Raises:
        OSError, SyntaxError, ValueError: when it is damaged; the last when it has another size.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            if image.size != (side, side):
                raise ValueError(f"is {image.width} × {image.height} pixels, not {side} × {side}")
            return np.asarray(image.convert("RGB"), np.uint8).transpose(2, 0, 1)
    except Image.DecompressionBombError as error:
        raise ValueError(f"is larger than {side} × {side} pixels by far") from error


def _reason(error: Exception) -> str:
    return str(error) if type(error) is ValueError else f"cannot be decoded: {error}"
