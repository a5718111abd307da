"""What a sweep finds, as plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from stockpot.evaluate.results import Cell, Result
from stockpot.search.objective import Objective
from stockpot.search.sweeps.choice import Aim
from stockpot.search.sweeps.cosines import Cosine
from stockpot.search.sweeps.kinds import SWEEPS
from stockpot.search.sweeps.normalised import Normalised

__all__ = ["RANDOM", "Sweep"]

RANDOM = "random "
"""What the name of a point along the random vector begins with."""


@dataclass(frozen=True)
class Sweep:
    """A curve over one number.

    Args:
        kind: One of :data:`SWEEPS`.
        models: Names of the models, in order.
        values: The numbers.
        names: The point of each, as tables call it.
        objective: What chooses (for ``negate``, what is to fall; for ``add``, the mean of normalised figures where
            those choose).
        control: For ``negate``: what must be kept, and the share of it.
        axes: What the scatter shows: target data and shifted data; None with one task.
        chosen: The number that was chosen; None where nothing was, as on report data, or nothing qualifies.
        recipe: Of the chosen point, as YAML; empty without one.
        curve: All points.
        report: Start, models that are no points, end and chosen point on untouched data; None without such data, and
            when the curve is on it.
        tunes: The fine-tuned models on the data of the curve, where figures are relative to them.
        random: The start, and the points along a random vector of the same norm in each tensor, on that data.
        cosines: Between the task vectors of ``add``.
    """

    kind: str
    models: tuple[str, ...]
    values: tuple[float, ...]
    names: tuple[str, ...]
    objective: Aim
    control: tuple[Objective, float] | None
    axes: tuple[Objective, Objective] | None
    chosen: float | None
    recipe: str
    curve: Result
    report: Result | None
    tunes: Result | None = None
    random: Result | None = None
    cosines: tuple[Cosine, ...] = ()

    @property
    def parameter(self) -> str:
        """What the number is called."""
        return SWEEPS[self.kind].parameter

    @property
    def failed(self) -> tuple[Cell, ...]:
        """The cells that failed, on either data."""
        results = (self.curve, self.tunes, self.random, self.report)
        return tuple(cell for result in results if result is not None for cell in result.failed)

    @property
    def chosen_name(self) -> str | None:
        """The chosen point, as tables call it."""
        return None if self.chosen is None else self.names[self.values.index(self.chosen)]

    @property
    def normalised_report(self) -> float | None:
        """The mean normalised figure of the chosen point on report data; None where there is none."""
        if not isinstance(self.objective, Normalised) or self.report is None or self.chosen_name is None:
            return None
        there = self.objective.on(self.report)
        return None if there is None else there.value(self.report, self.chosen_name)

    def random_value(self, value: float) -> float | None:
        """What chooses, of the point at ``value`` along the random vector, on the data of the curve."""
        return None if self.random is None else self.objective.value(self.random, self.random_name(value))

    def random_name(self, value: float) -> str:
        """The point at ``value`` along the random vector, as tables call it; at 0 it is the start."""
        name = SWEEPS[self.kind].name(value)
        return RANDOM + name if value else name

    def as_data(self) -> dict[str, Any]:
        """Everything as JSON data; each point with its figures of what chooses, what is kept, and both axes."""
        axes = dict(zip("xy", self.axes or (), strict=False))
        wanted = {"objective": self.objective, **({"control": self.control[0]} if self.control else {}), **axes}
        points = [
            self._random(value)
            | {"value": value, "name": name, **{key: o.value(self.curve, name) for key, o in wanted.items()}}
            for value, name in zip(self.values, self.names, strict=True)
        ]
        results = {key: getattr(self, key) for key in ("report", "tunes", "random")}
        told = {key: getattr(self, key) for key in ("kind", "parameter", "models", "chosen", "recipe")}
        return {
            "format": 1,
            **told,
            **{key: asdict(o) for key, o in wanted.items()},
            "keep": self.control[1] if self.control else None,
            "points": points,
            "curve": self.curve.as_data(),
            **{key: None if r is None else r.as_data() for key, r in results.items()},
            "normalised_report": self.normalised_report,
            "cosines": [asdict(one) for one in self.cosines],
        }

    def _random(self, value: float) -> dict[str, Any]:
        return {} if self.random is None else {"random": self.random_value(value)}
