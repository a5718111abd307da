"""What a search over many numbers finds on few examples, and how much of it is left on others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from stockpot.reproduce.beds import beds
from stockpot.reproduce.claim import Asked, Claim, Figures, Measure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stockpot.demo.data import Split
    from stockpot.evaluate import Suite
    from stockpot.reproduce.images.bench import Images

__all__ = ["SEARCH"]

_ROWS = 100
"""Development images of each task."""
_TRIALS = 150
_FIRST = {"digits": "layers.0", "mnist": "hidden"}
"""Tensors with a coefficient of their own in each model; the other layers share one, so that there are six."""


def _search(bench: Images) -> Figures:
    from stockpot.search import Space, search

    places = {model.name: str(bench.place.folder_of(model.name)) for model in bench.specialists()}
    space = Space.of(_recipe(places, _FIRST[bench.name]))
    found = search(
        space,
        _suite(bench),
        trials=_TRIALS,
        sampler="cma-es",
        metrics=[f"{task}.loss" for task in bench.lab.tasks],
        seed=bench.lab.seed,
        top=1,
        lambda_points=31,
        limits={"threads": 1},
    )
    told = {row.kind: row.figures for row in found.rows}
    tune, report = ({kind: _number(figures[role]) for kind, figures in told.items()} for role in ("tune", "report"))
    return {
        "shared": tune["shared"],
        "search": tune["search"],
        "random": tune["random"],
        "development": 100 * (tune["search"] / tune["shared"] - 1),
        "test": 100 * (report["search"] / report["shared"] - 1),
        "random_test": 100 * (report["random"] / report["shared"] - 1),
        "gap": report["search"] - tune["search"],
        "shared_gap": report["shared"] - tune["shared"],
    }


def _number(figures: Sequence[float | None]) -> float:
    (value,) = figures
    assert value is not None
    return value


def _suite(bench: Images) -> Suite:
    """Few images to search with; what is left of the select data is there for the winner to be measured on."""
    from stockpot.demo.data import Split

    def part(split: Split, rows: slice) -> Split:
        return Split(split.images[rows], split.labels[rows])

    return bench.tasks(
        lambda task: {
            "tune": part(task.select, slice(_ROWS)),
            "select": part(task.select, slice(_ROWS, None)),
            "report": task.report,
        }
    )


def _recipe(places: dict[str, str], first: str) -> str:
    """Task arithmetic with two open weights for each model."""
    base, *models = places
    lines = ["merge_method: task_arithmetic", f"base_model: {json.dumps(places[base])}", "models:"]
    for name in models:
        lines += [
            f"  - model: {json.dumps(places[name])}",
            "    parameters:",
            "      weight:",
            f'        - {{filter: "{first}", value: {{search: [0, 1.5], start: 0.5}}}}',
            "        - {value: {search: [0, 1.5], start: 0.5}}",
        ]
    return "\n".join([*lines, "dtype: float32", ""])


SEARCH = Claim(
    name="search-overfits",
    title="Six coefficients searched on 300 examples beat one shared number there; on others the gain need not last",
    source="Akiba et al., Evolutionary optimization of model merging recipes, 2024, arXiv:2403.13187 (the method)",
    measures=(
        Measure("shared", "best single number, loss on development data, nats"),
        Measure("search", "CMA-ES, six numbers, loss there, nats"),
        Measure("random", "random search, as many trials, loss there, nats"),
        Measure("development", "CMA-ES against the single number, loss on development data, %"),
        Measure("test", "the same on report data, %"),
        Measure("random_test", "random search against the single number, on report data, %"),
        Measure("gap", "CMA-ES, loss on report data minus development data, nats"),
        Measure("shared_gap", "single number, loss on report data minus development data, nats"),
    ),
    asked=(Asked("development", at_most=-10),),
    beds=beds(_search, {"mnist": 180, "digits": 40}, tasks=True),
    notes="150 trials on 100 images of each of three tasks; the best trial there is told, whatever select data says. "
    "The paper searches on 1,069 examples and has no such figures.",
)
