"""How well a router routes: load and held-out accuracy of each expert, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from stockpot.methods.declare import Floats
from stockpot.moe.examples import Example, folds_of
from stockpot.moe.rows import even_weights
from stockpot.moe.states import States

__all__ = ["LayerRouting", "Made", "Routing", "conditions", "from_data", "held_out", "measured", "table"]

_NEAR_CHANCE = 0.10
_LOPSIDED = 0.8
_ALIKE = 1e3
"""A condition number beyond which some rows of a router hardly differ."""


@dataclass(frozen=True)
class LayerRouting:
    """One layer's router.

    Args:
        condition: Condition number of its rows less their mean, on which alone the choice of experts depends; infinite
            where two of them are the same, None for a single expert.
        load: Share of tokens whose first choice is each expert; every expert's prompts count alike.
        accuracy: Share of held-out tokens whose first choice is an expert that wants their prompt, mean over experts.
        by_expert: The same for each expert's prompts; None where it has a single one, which cannot be held out.
    """

    condition: float | None
    load: tuple[float, ...] | None = None
    accuracy: float | None = None
    by_expert: tuple[float | None, ...] | None = None


@dataclass(frozen=True)
class Routing:
    """A mixture's routers.

    Args:
        mode: How they were made, in words.
        experts: Names of the experts.
        layers: One by one.
        chance: Accuracy of choosing blindly; None where nothing was held out.
        prompts, tokens: How many were looked at.
        warnings: What a user should know before using the mixture.
    """

    mode: str
    experts: tuple[str, ...]
    layers: tuple[LayerRouting, ...]
    chance: float | None = None
    prompts: int = 0
    tokens: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def accuracy(self) -> float | None:
        """Mean over the layers."""
        found = [layer.accuracy for layer in self.layers if layer.accuracy is not None]
        return sum(found) / len(found) if found else None

    def as_data(self) -> dict[str, Any]:
        """Plain data; an infinite number is a word."""
        layers = [{**asdict(layer), "condition": _worded(layer.condition)} for layer in self.layers]
        return {**asdict(self), "layers": layers, "accuracy": self.accuracy}


def _worded(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)


def from_data(data: dict[str, Any]) -> Routing:
    """What :meth:`Routing.as_data` gave.

    Raises:
        KeyError, TypeError, ValueError: when it did not.
    """
    layers = tuple(
        LayerRouting(
            None if row["condition"] is None else float(row["condition"]),
            None if row["load"] is None else tuple(map(float, row["load"])),
            None if row["accuracy"] is None else float(row["accuracy"]),
            None if row["by_expert"] is None else tuple(None if v is None else float(v) for v in row["by_expert"]),
        )
        for row in data["layers"]
    )
    chance = None if data["chance"] is None else float(data["chance"])
    experts, warned = tuple(map(str, data["experts"])), tuple(map(str, data["warnings"]))
    return Routing(str(data["mode"]), experts, layers, chance, int(data["prompts"]), int(data["tokens"]), warned)


def conditions(rows: Floats) -> list[float | None]:
    """Condition number of each layer's rows less their mean; infinite where they differ in too few directions."""
    found: list[float | None] = []
    for own in rows:
        wanted = len(own) - 1  # differences of so many rows
        if wanted == 0:
            found.append(None)
            continue
        values = np.linalg.svd(own - own.mean(axis=0), compute_uv=False)
        least = values[wanted - 1] if wanted <= len(values) else 0.0
        dependent = least <= np.abs(own).max() * max(own.shape) * np.finfo(np.float64).eps
        found.append(math.inf if dependent else float(values[0] / least))
    return found


Made = Callable[[Sequence[int]], Floats]
"""Numbers of prompts that are left out → rows (layers, experts, hidden)."""


def held_out(states: States, examples: Sequence[Example], experts: int, made: Made) -> Floats:
    """Of each layer and expert, the share of tokens of its prompts that go where they should.

    A prompt is looked at with rows that were made without it.

    Returns:
        (layers, experts); NaN for an expert with a single prompt, which cannot be held out.
    """
    layers = states.tokens.shape[0]
    numbers = [[i for i, e in enumerate(examples) if expert in e.experts] for expert in range(experts)]
    right = np.zeros((layers, len(examples)))
    for fold in folds_of(examples):
        rows = made(fold)
        for number in fold:
            choice = _first_choice(states, rows, states.owner == number)
            right[:, number] = np.isin(choice, examples[number].experts).mean(axis=1)
    found = np.full((layers, experts), np.nan)
    for expert, own in enumerate(numbers):
        if len(own) > 1:
            found[:, expert] = right[:, own].mean(axis=1)
    return found


def _first_choice(states: States, rows: Floats, chosen: Any) -> Any:
    """(layers, tokens): the expert of highest score, the first of equals."""
    return np.stack([(own[chosen] @ r.T).argmax(axis=1) for own, r in zip(states.tokens, rows, strict=True)])


def measured(
    mode: str, names: Sequence[str], rows: Floats, states: States, examples: Sequence[Example], shares: Floats
) -> Routing:
    """The report on ``rows``, whose held-out accuracies are ``shares`` (layers, experts)."""
    count = len(names)
    weights = even_weights(examples, states.owner, count)
    choice = _first_choice(states, rows, np.ones(len(states.owner), bool))
    loads = [np.bincount(own, weights, minlength=count) / weights.sum() for own in choice]
    layers = tuple(
        LayerRouting(
            condition, tuple(map(float, load)), _mean(own), tuple(None if np.isnan(v) else float(v) for v in own)
        )
        for condition, load, own in zip(conditions(rows), loads, shares, strict=True)
    )
    wanted = [e for e in examples if e.experts]
    scored = [e for e in range(count) if not np.isnan(shares[0, e])]
    chance = None
    if scored:
        each = [np.mean([len(x.experts) / count for x in wanted if e in x.experts]) for e in scored]
        chance = float(np.mean(each))
    found = Routing(mode, tuple(names), layers, chance, len(wanted), int((weights > 0).sum()))
    return Routing(mode, tuple(names), layers, chance, found.prompts, found.tokens, tuple(_warned(found)))


def _mean(shares: Floats) -> float | None:
    known = shares[~np.isnan(shares)]
    return float(known.mean()) if known.size else None


def _warned(routing: Routing) -> list[str]:
    found = []
    accuracy, chance = routing.accuracy, routing.chance
    if accuracy is None or chance is None:
        found.append("routing accuracy is unknown: give each expert two prompts or more, so that one can be held out")
    else:
        near = [i for i, layer in enumerate(routing.layers) if (layer.accuracy or 0.0) < chance + _NEAR_CHANCE]
        if near:
            told = f"{100 * accuracy:.0f} % of held-out tokens go where they should, {100 * chance:.0f} % by chance"
            found.append(f"the router is near chance in {_listed(near)}: over all layers, {told}")
    full = [i for i, layer in enumerate(routing.layers) if layer.load is not None and max(layer.load) > _LOPSIDED]
    if full:
        found.append(f"lopsided: in {_listed(full)} more than 80 % of tokens have one expert as first choice")
    alike = [i for i, layer in enumerate(routing.layers) if layer.condition is not None and layer.condition > _ALIKE]
    if alike:
        found.append(f"rows of the router are nearly alike in {_listed(alike)}: their experts get the same scores")
    return found


def _listed(numbers: Sequence[int]) -> str:
    """``layers 0-3, 5``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return f"layer{'s' * (len(numbers) > 1)} " + ", ".join(
        str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs
    )


def table(routing: Routing) -> list[str]:
    """The report as lines of text."""
    head = [f"router: {routing.mode}"]
    if routing.prompts:
        head.append(
            f"measured on {routing.tokens} tokens of {routing.prompts} prompts; load is the share of first choices"
        )
    head += [f"expert {number}: {name}" for number, name in enumerate(routing.experts)]
    measured_too = routing.layers[0].load is not None
    titles = ["layer", "condition"]
    if measured_too:
        titles += ["accuracy", *(f"load {i}" for i in range(len(routing.experts)))]
        titles += [f"accuracy {i}" for i in range(len(routing.experts))]
    rows = [titles, *(_cells(number, layer, measured_too) for number, layer in enumerate(routing.layers))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    tail = []
    if routing.accuracy is not None and routing.chance is not None:
        tail.append(f"held-out accuracy {100 * routing.accuracy:.1f} %, chance {100 * routing.chance:.1f} %")
    return [*head, *lines, *tail, *(f"warning: {text}" for text in routing.warnings)]


def _cells(number: int, layer: LayerRouting, measured_too: bool) -> list[str]:
    cells = [str(number), f"{layer.condition:.3g}" if layer.condition is not None else "-"]
    if not measured_too:
        return cells
    shares = (layer.accuracy, *(layer.load or ()), *(layer.by_expert or ()))
    return [*cells, *("-" if share is None else f"{100 * share:.1f} %" for share in shares)]
