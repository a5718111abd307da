"""The buffers that a worker computes a block in."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Workspace"]


class Workspace:
    """A worker's buffers, by role; each grows to the largest size that was asked for and is reused."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[Any, ...], npt.NDArray[Any]] = {}

    def take(self, role: tuple[Any, ...], shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """An uninitialised array of ``shape``; valid until the same role is asked for again."""
        needed = prod(shape)
        flat = self._buffers.get(role)
        if flat is None or flat.size < needed or flat.dtype != dtype:
            flat = np.empty(max(1, needed), dtype)
            self._buffers[role] = flat
        return flat[:needed].reshape(shape)
