"""What a claim is: what the paper says, what is measured, what must hold, and on which data it is tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

__all__ = ["Asked", "Bed", "Claim", "Figures", "Measure", "Setting"]

Figures: TypeAlias = Mapping[str, float]
"""Name of a measure → its value."""


@dataclass(frozen=True)
class Measure:
    """A number that is measured for each seed.

    Args:
        name: How conditions call it.
        about: What it is, with its unit, such as ``accuracy under shift, %``.
        paper: What the paper has for it; None where it has none.
        where: Which model and data the paper's figure is of, and where it stands.
    """

    name: str
    about: str
    paper: float | None = None
    where: str = ""


@dataclass(frozen=True)
class Asked:
    """A condition on the median of a measure over the seeds.

    Args:
        measure: Name of the measure.
        at_least, at_most: Bounds, both ends included; None for no bound.
        above: A bound that is not included.
    """

    measure: str
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None

    def holds(self, value: float) -> bool:
        """Whether ``value`` is within the bounds; NaN never is.

        >>> Asked("loss", at_most=0.5).holds(float("nan"))
        False
        """
        low = self.at_least is None or value >= self.at_least
        high = self.at_most is None or value <= self.at_most
        above = self.above is None or value > self.above
        return low and high and above and value == value  # noqa: PLR0124 - NaN

    def __str__(self) -> str:
        """In words.

        >>> str(Asked("gain", at_least=3.0)), str(Asked("gain", above=0.0, at_most=1.0))
        ('at least 3', 'above 0 and at most 1')
        """
        bounds = {"above": self.above, "at least": self.at_least, "at most": self.at_most}
        return " and ".join(f"{words} {bound:g}" for words, bound in bounds.items() if bound is not None)


@dataclass(frozen=True)
class Setting:
    """What a claim is measured with.

    Args:
        seed: Fixes data splits, training, and everything that is drawn.
        data: Folder of data (``STOCKPOT_DATA``); None for beds that need none.
        folder: Empty; for models and suites, and whatever else is worth looking at afterwards.
        tell: Called with a line of progress.
    """

    seed: int
    data: Path | None
    folder: Path
    tell: Callable[[str], None]

    def file(self, *parts: str) -> Path:
        """A file of the data folder.

        Raises:
            CheckpointError: when it is not there.
        """
        from stockpot.checkpoint.places import stands
        from stockpot.errors import CheckpointError, Problem

        assert self.data is not None
        path = self.data.joinpath(*parts)
        if not stands(path):
            fix = "STOCKPOT_DATA (or --data) names a folder with images/ and text/, as docs/reproduce.md describes"
            raise CheckpointError(Problem("no such file of data", file=str(path), fix=fix))
        return path


@dataclass(frozen=True)
class Bed:
    """Data and models that a claim is tried on.

    Args:
        name: Such as ``digits``.
        about: Data, model, sizes.
        measure: Setting → a value for each measure of the claim.
        needs_data: Whether it reads :attr:`Setting.data`.
        seconds: What a seed takes, about, on two cores.
        known: Why the claim does not hold here, where that is known; such a bed is still measured, and still fails.
        papers: Measure → the paper's figure that this bed is like, and where it stands, instead of the measure's own.
    """

    name: str
    about: str
    measure: Callable[[Setting], Figures]
    needs_data: bool = True
    seconds: float = 60
    known: str = ""
    papers: Mapping[str, tuple[float | None, str]] = field(default_factory=dict)

    def paper(self, measure: Measure) -> tuple[float | None, str]:
        """The paper's figure for this bed, and where it stands."""
        return self.papers.get(measure.name, (measure.paper, measure.where))


@dataclass(frozen=True)
class Claim:
    """A claim of the literature.

    Args:
        name: Of the command: ``stockpot reproduce NAME``.
        title: The claim in a sentence.
        source: Authors, title, year, and where.
        measures: What is measured.
        asked: What must hold of the medians; at least one.
        beds: What it is tried on, the one that shows it best first.
        notes: What a reader must know, such as how this differs from the paper.
    """

    name: str
    title: str
    source: str
    measures: tuple[Measure, ...]
    asked: tuple[Asked, ...]
    beds: tuple[Bed, ...]
    notes: str = ""

    def __post_init__(self) -> None:
        known = {measure.name for measure in self.measures}
        assert self.asked, self.name
        assert self.beds, self.name
        assert {one.measure for one in self.asked} <= known, self.name
        assert all(set(bed.papers) <= known for bed in self.beds), self.name
        assert all(str(one) for one in self.asked), self.name  # a condition without bounds always holds
