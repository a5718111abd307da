"""The mean of models that come one by one: their sum is kept, so that another costs one addition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from stockpot.api import compute
from stockpot.checkpoint.dtypes import DType
from stockpot.checkpoint.model import from_arrays
from stockpot.errors import PlanError, Problem
from stockpot.evaluate.blend import beside_of, in_memory
from stockpot.evaluate.opened import Opened
from stockpot.expression import Leaf

__all__ = ["RunningAverage", "rounded"]

Arrays = Mapping[str, npt.NDArray[Any]]
Floats = Mapping[str, npt.NDArray[np.float64]]


class RunningAverage:
    """The mean of some models, bit for bit what a ``linear`` merge of them in the same order gives.

    It holds their sum in float64 and, while one is tried, the sum with it: 16 bytes a parameter however many models
    there are, beside the one that is read and the mean. Integers, dtypes and small files are those of the first.

    Args:
        first: The first model.
    """

    def __init__(self, first: Opened) -> None:
        dtypes = {step.name: step.dtype for step in first.plan.steps}
        self._names, self._beside, self._count = tuple(dtypes), beside_of(first), 1
        self._floats = {name: dtype for name, dtype in dtypes.items() if dtype.is_float}
        self._sum: Floats = {name: first.tensors[name].astype(np.float64) for name in self._floats}
        self._copied = {name: array for name, array in first.tensors.items() if name not in self._floats}
        self._tried: Floats = self._sum

    def tried(self, other: Opened) -> Leaf:
        """The mean with ``other``, as a model in memory.

        Raises:
            PlanError: when the two do not have the same tensors.
            ExecutionError: when a value is NaN, or too large for its dtype.
        """
        self._tried = self._sum  # what was tried before is let go of first
        arrays = other.tensors
        _fit(self._sum, self._copied, arrays)
        self._tried = {name: total + arrays[name].astype(np.float64) for name, total in self._sum.items()}
        count = self._count + 1
        means = {name: total / count for name, total in self._tried.items()}
        made = rounded(means, self._floats)
        return in_memory("soup", {n: made[n] if n in made else self._copied[n] for n in self._names}, self._beside)

    def keep(self) -> None:
        """What was just tried stays."""
        self._sum, self._count = self._tried, self._count + 1


def rounded(values: Floats, dtypes: Mapping[str, DType]) -> dict[str, npt.NDArray[Any]]:
    """``values`` in ``dtypes``, each rounded once, as merges round.

    >>> from stockpot.checkpoint.dtypes import dtype_named
    >>> rounded({"w": np.array([1 / 3])}, {"w": dtype_named("bfloat16")})["w"]
    array([0.333984], dtype=bfloat16)

    Raises:
        ExecutionError: when a value is NaN, or too large for its dtype.
    """
    found: dict[str, npt.NDArray[Any]] = {}
    for dtype in dict.fromkeys(dtypes.values()):
        own = {name: values[name] for name in values if dtypes[name] == dtype}
        found |= compute(Leaf("soup", from_arrays("soup", own)), dtype=dtype.torch_name)
    return found


def _fit(total: Floats, copied: Arrays, other: Arrays) -> None:
    here = {name: array.shape for name, array in {**total, **copied}.items()}
    there = {name: array.shape for name, array in other.items()}
    wrong = sorted(name for name in {**here, **there} if here.get(name) != there.get(name))
    if wrong:
        told = " and ".join(str(shapes.get(wrong[0], "absent")) for shapes in (here, there))
        raise PlanError(Problem(f"the models do not fit: {told}", tensor=wrong[0]))
