"""What the demo hands back: plain values, no heavy imports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

__all__ = ["CLEAN", "DemoResult", "Kind", "Row", "Scores"]

Kind: TypeAlias = Literal["start", "single", "merge", "ensemble"]

CLEAN = "clean"


@dataclass(frozen=True)
class Scores:
    """Accuracy in [0, 1] by column: the clean images first, then each shift."""

    by_column: Mapping[str, float]

    @property
    def clean(self) -> float:
        """Accuracy on unchanged images."""
        return self.by_column[CLEAN]

    @property
    def shifted(self) -> float:
        """Mean accuracy over the shifts.

        >>> Scores({"clean": 1.0, "noise": 0.5, "rotation": 0.7}).shifted
        0.6
        """
        shifts = [value for name, value in self.by_column.items() if name != CLEAN]
        return sum(shifts) / len(shifts)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    ``select`` is the mean shifted accuracy on the images that choices were made with; ``scores``
    are on the report's images, which nothing was chosen with. ``passes`` is the number of forward
    passes that one prediction costs.
    """

    name: str
    kind: Kind
    about: str
    select: float
    scores: Scores
    passes: int = 1


@dataclass(frozen=True)
class DemoResult:
    """The table's rows, and where everything was written."""

    rows: tuple[Row, ...]
    folder: Path
    table: Path
    picture: Path
    figures: Path
    page: Path
    seconds: float

    def of_kind(self, kind: Kind) -> tuple[Row, ...]:
        """Return the rows of one kind, in the table's order."""
        return tuple(row for row in self.rows if row.kind == kind)

    def best(self, kind: Kind) -> Row:
        """Return the row of ``kind`` that would have been chosen: the best on ``select``."""
        return max(self.of_kind(kind), key=lambda row: row.select)
