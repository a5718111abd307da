"""A claim on a bed, over seeds: medians, and whether what is asked holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import isnan, nan
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from stockpot.errors import ExecutionError, Problem, RecipeError
from stockpot.execute.versions import versions_of
from stockpot.reproduce.claim import Asked, Bed, Claim, Figures, Setting

__all__ = ["SEEDS", "Outcome", "bed_of", "reproduce"]

SEEDS = (0, 1, 2)
"""Seeds that a claim is measured with unless others are asked for."""

_DATA = "set STOCKPOT_DATA (or --data) to a folder with images/ and text/, as docs/reproduce.md describes"


@dataclass(frozen=True)
class Outcome:
    """What came of a claim on a bed.

    Args:
        claim, bed: What was measured, and on what.
        seeds: In order.
        runs: The figures of each seed.
        seconds: All seeds together.
    """

    claim: Claim
    bed: Bed
    seeds: tuple[int, ...]
    runs: tuple[Figures, ...]
    seconds: float

    def median(self, measure: str) -> float:
        """Over the seeds; NaN when any of them is."""
        values = [run[measure] for run in self.runs]
        return nan if any(map(isnan, values)) else median(values)

    def spread(self, measure: str) -> tuple[float, float]:
        """Least and largest over the seeds."""
        values = [run[measure] for run in self.runs]
        return min(values), max(values)

    def holds(self, asked: Asked) -> bool:
        """Whether the median is within the bounds."""
        return asked.holds(self.median(asked.measure))

    @property
    def held(self) -> bool:
        """Whether everything that is asked holds."""
        return all(map(self.holds, self.claim.asked))

    def as_data(self) -> dict[str, Any]:
        """Everything as JSON data."""
        measures = []
        for one in self.claim.measures:
            low, high = self.spread(one.name)
            asked = [{**asdict(a), "holds": self.holds(a)} for a in self.claim.asked if a.measure == one.name]
            paper, where = self.bed.paper(one)
            told = {"name": one.name, "about": one.about, "paper": paper, "where": where}
            measures.append({**told, "median": self.median(one.name), "least": low, "most": high, "asked": asked})
        return {
            "format": 1,
            **{key: getattr(self.claim, key) for key in ("name", "title", "source", "notes")},
            "bed": {key: getattr(self.bed, key) for key in ("name", "about", "known")},
            "seeds": list(self.seeds),
            "measures": measures,
            "runs": [dict(run) for run in self.runs],
            "held": self.held,
            "seconds": self.seconds,
            "versions": dict(versions_of("stockpot", "numpy", "scikit-learn", "torch", "transformers")),
        }


def reproduce(
    claim: Claim,
    *,
    bed: str | None = None,
    data: Path | None = None,
    seeds: Sequence[int] = SEEDS,
    folder: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Measure a claim with each seed.

    Args:
        bed: Name of one of the claim's beds; None takes the first that the data at hand allows.
        data: Folder of data; None where there is none.
        folder: Where each seed gets a new folder for what it makes; None makes one that is removed in the end.

    Raises:
        RecipeError: for an unknown bed, or one whose data is missing.
        ExecutionError: when a run does not measure what the claim says.
    """
    if not seeds:
        raise RecipeError(Problem("a claim needs at least one seed"))
    found = bed_of(claim, bed, data)
    began = time.perf_counter()
    with TemporaryDirectory(prefix="stockpot-") as scratch:
        root = Path(scratch) if folder is None else folder
        runs = tuple(_run(claim, found, seed, data, root, tell) for seed in seeds)
    return Outcome(claim, found, tuple(seeds), runs, time.perf_counter() - began)


def bed_of(claim: Claim, name: str | None, data: Path | None) -> Bed:
    """The bed called ``name``, or the first that can be used.

    Raises:
        RecipeError: when there is none.
    """
    if name is None:
        usable = [bed for bed in claim.beds if data is not None or not bed.needs_data]
        if not usable:
            raise RecipeError(Problem(f"{claim.name} needs data", fix=_DATA))
        return usable[0]
    beds = {bed.name: bed for bed in claim.beds}
    if name not in beds:
        raise RecipeError(Problem(f"{claim.name} has no bed {name!r}", fix=f"one of {', '.join(beds)}"))
    if beds[name].needs_data and data is None:
        raise RecipeError(Problem(f"{claim.name} on {name} needs data", fix=_DATA))
    return beds[name]


def _run(claim: Claim, bed: Bed, seed: int, data: Path | None, root: Path, tell: Callable[[str], None]) -> Figures:
    place = root / f"{claim.name}-{bed.name}-{seed}"
    place.mkdir(parents=True, exist_ok=True)
    tell(f"{claim.name} on {bed.name}, seed {seed}")
    figures = {name: float(value) for name, value in bed.measure(Setting(seed, data, place, tell)).items()}
    wanted = {measure.name for measure in claim.measures}
    if set(figures) != wanted:
        raise ExecutionError(Problem(f"{claim.name} measures {sorted(wanted)}, but {bed.name} gave {sorted(figures)}"))
    return figures
