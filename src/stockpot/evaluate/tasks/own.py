"""A user's own task: a function of an opened model and files that gives columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stockpot.errors import CheckpointError, ExecutionError, Problem
from stockpot.evaluate.code import Own
from stockpot.evaluate.examples import content_of, digest, read_text
from stockpot.evaluate.opened import Opened
from stockpot.evaluate.protocol import Files, Metric, Predictions
from stockpot.execute.versions import versions_of

__all__ = ["OwnTask"]


@dataclass(frozen=True)
class OwnTask:
    """``function(model, files, **settings)`` → columns by name, a row for each example.

    Args:
        function: The user's.
        settings: Handed on as they are in the suite.
    """

    function: Own
    metrics: tuple[Metric, ...]
    settings: Mapping[str, Any]
    facts: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        told = {"kind": "own", "run": self.function.digest, "name": self.function.name, "settings": dict(self.settings)}
        versions = versions_of("numpy", "torch", "transformers")
        object.__setattr__(self, "facts", {**told, **versions})

    def examples(self, files: Files) -> list[bytes]:
        """Of lines, where all files are text; else of whole files: what an example is, only the function knows."""
        try:
            lines = [line.strip() for path in files for line in read_text(path).split("\n")]
        except CheckpointError:  # not text
            lines = []
        return [digest(line) for line in lines if line] or [digest(content_of([path])) for path in files]

    def predict(self, model: Opened, files: Files) -> Predictions:
        """What the function gives, checked."""
        with model.unchanged(self.function.name):
            found = self.function.value(model, files, **self.settings)
        if not isinstance(found, Mapping) or not found:
            raise ExecutionError(Problem(f"{self.function.name} gives no columns", fix='return {"score": array}'))
        columns = {str(name): np.array(column) for name, column in found.items()}
        lengths = {name: array.shape[:1] for name, array in columns.items()}
        if len(set(lengths.values())) != 1 or () in lengths.values():
            raise ExecutionError(Problem(f"{self.function.name} gives columns of different lengths: {lengths}"))
        strange = [name for name, array in columns.items() if array.dtype.kind not in "fiub"]
        if strange:
            raise ExecutionError(Problem(f"{self.function.name}: column {strange[0]!r} holds no numbers"))
        return columns
