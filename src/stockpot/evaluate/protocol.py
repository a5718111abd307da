"""What evaluation is made of: examples → predictions of a model → metrics → figures.

A task runs an opened model over the examples of its files and gives *predictions*: columns with one row an example.
A metric turns columns into *values*, again one row an example, and these into one *figure*. Predicting is what costs,
so predictions are cached and metrics are not. Rows of examples are what intervals, differences and overlaps need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from stockpot.errors import Problem, RecipeError
from stockpot.evaluate.opened import Opened

__all__ = [
    "EXAMPLE",
    "PATTERN",
    "Differentiable",
    "Direction",
    "Files",
    "Lessons",
    "Live",
    "Metric",
    "Predictions",
    "Task",
    "is_named",
    "mean",
]

Direction: TypeAlias = Literal["higher", "lower"]
"""Which figures are better."""

Files: TypeAlias = tuple[Path, ...]
"""Local files; where a task has data of its own, ``@NAME`` is one of its splits."""

Predictions: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""Column → array whose first axis is the examples, equally long in all."""

EXAMPLE = "example"
"""The column that tells examples apart (uint64): models are compared by rows only where they are equal."""

PATTERN = "{task}"
"""What stands for the name of a task in the path of a file, where a line of a suite is several tasks."""


def is_named(path: Path) -> bool:
    """Whether ``path`` is no file, but names a split of a task's own data.

    >>> is_named(Path("@test")), is_named(Path("folder/@test"))
    (True, False)
    """
    return str(path).startswith("@")


def mean(values: npt.NDArray[np.float64]) -> float:
    """The mean of all rows."""
    return float(np.mean(values))


@dataclass(frozen=True)
class Metric:
    """A name, a direction, and how predictions become a figure.

    Args:
        name: How tables call it.
        better: Whether ``higher`` or ``lower`` figures are better.
        values: Columns → ``(n,)`` or ``(n, k)`` floats, a row for each example.
        figure: Some of these rows (n ≥ 1, possibly repeated: intervals are made of resampled examples) → the figure.
        part: The part of the task that it is of, with which its name begins (``PART/``); empty for the whole.

    Raises:
        RecipeError: for a direction that is none, or a name that cannot be shown in a line.

    >>> right = Metric("right", "higher", lambda columns: columns["predicted"] == columns["labels"])
    >>> right.figure(right.values({"predicted": np.array([1, 2]), "labels": np.array([1, 1])}))
    0.5
    """

    name: str
    better: Direction
    values: Callable[[Predictions], npt.NDArray[Any]]
    figure: Callable[[npt.NDArray[Any]], float] = mean
    part: str = ""

    def __post_init__(self) -> None:
        if self.better not in ("higher", "lower"):
            message = f"the metric {self.name!r} says that {self.better!r} figures are better"
            raise RecipeError(Problem(message, fix='"higher" or "lower"'))
        if not (isinstance(self.name, str) and self.name.strip() and self.name.isprintable()):
            raise RecipeError(Problem(f"{self.name!r} is no name of a metric", fix="a word, such as brier"))


class Task(Protocol):
    """How a model is run over files, and what of them is measured."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """At least one; the first is the one that models are ranked by."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """JSON data: all that predictions depend on beside model and data (settings, hashes of code, versions)."""

    def examples(self, files: Files) -> list[bytes]:
        """A digest of the content of each example, which tells whether two files share some.

        Raises:
            StockpotError: for files that are not what the task reads.
        """

    def predict(self, model: Opened, files: Files) -> Predictions:
        """The columns for ``files``. May raise anything: the cell then fails with its message."""


class Live(Protocol):
    """A model in torch whose weights losses are differentiated by; its values change between two uses."""

    @property
    def config(self) -> Mapping[str, Any]:
        """As of :class:`Opened`."""

    @property
    def tokenizer(self) -> Any:
        """As of :class:`Opened`."""

    @property
    def tensors(self) -> Mapping[str, Any]:
        """Name → tensor of torch, all floats in one dtype of at least 32 bits."""

    @property
    def wide(self) -> Mapping[str, npt.NDArray[Any]]:
        """The same values for NumPy; not to be kept."""

    def transformer(self, kind: str) -> Any:
        """As of :class:`Opened`: the same module each time, in evaluation mode, with the values of now."""

    def placed(self, array: npt.NDArray[Any]) -> Any:
        """An array as a tensor where the model is; floats in the dtype of the weights."""


@dataclass(frozen=True)
class Lessons:
    """The examples of a task as losses that torch differentiates.

    Args:
        count: How many examples.
        parts: (places of examples, factor of the logits) → scalars of torch that sum to the mean loss of these
            examples. Each is done with before the next is made, so that memory is that of a part.
        scaled: Whether the factor is used: there are logits of classes.
    """

    count: int
    parts: Callable[[Sequence[int], Any], Iterator[Any]]
    scaled: bool = False


@runtime_checkable
class Differentiable(Protocol):
    """A task that weights can be fitted to by gradients."""

    def lessons(self, model: Live, files: Files) -> Lessons:
        """The examples of ``files``, prepared once; values of ``model`` are read when losses are asked for.

        Raises:
            StockpotError: where this task cannot be differentiated, with what would let it be.
        """
