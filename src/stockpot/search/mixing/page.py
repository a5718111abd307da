"""How the shares of a soup came about, as parts of a page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from stockpot.evaluate.page import escaped, grid
from stockpot.evaluate.table import ARROWS, number
from stockpot.search.mixing.cocktail import Cocktail
from stockpot.search.mixing.learned import Epoch, Learned
from stockpot.search.mixing.told import epoch_told
from stockpot.search.objective import Objective
from stockpot.search.plots import Curve, curves, genome

__all__ = ["mixture_parts"]

_NUMBER = re.compile(r"\.(\d+)\.")
"""Of a layer, within the name of a tensor."""


def mixture_parts(found: Learned | Cocktail, objective: Objective) -> Iterator[str]:
    """Epochs with their curves or losses, the shares, and a map of them by tensor."""
    yield from _learned(found, objective) if isinstance(found, Learned) else _cocktail(found, objective)


def _learned(found: Learned, objective: Objective) -> Iterator[str]:
    fit = found.how.fit
    yield "<h2>What was learned</h2>"
    yield (
        f"<p class=dim>Loss on {fit} data, by gradients; the epoch by {escaped(str(objective))} on select data. "
        "The factor of the logits is no part of the soup.</p>"
    )
    if fit == "select":
        yield "<p class=bad>* select data fitted the shares and chose: its figures are too good</p>"
    rows = [[epoch_told(found, i), *_cells(epoch)] for i, epoch in enumerate(found.epochs)]
    up = f"{escaped(str(objective))} {ARROWS[objective.better]}"
    yield grid(["", f"loss on {fit} data ↓", up, "logits times"], rows)
    losses = tuple((float(i), e.loss, e.loss, e.loss) for i, e in enumerate(found.epochs) if e.loss is not None)
    yield curves([Curve("loss", losses)], "epoch", f"loss on {fit} data ↓", float(found.chosen))
    yield _shares(found.models, found.shares, "share, mean over all weights" if found.tensors else "share")
    if found.tensors:
        yield "<h2>Shares by tensor</h2>"
        yield _map(found.models, found.tensors)


def _cells(epoch: Epoch) -> list[str]:
    known = ["failed" if value is None else number(value) for value in (epoch.loss, epoch.value)]
    return [*known, "" if epoch.scale is None else number(epoch.scale)]


def _cocktail(found: Cocktail, objective: Objective) -> Iterator[str]:
    yield "<h2>What was mixed</h2>"
    if found.fit == "select":
        yield "<p class=bad>* select data made the shares: its figures are too good</p>"
    rows = [
        [escaped(name), "<span class=bad>failed</span>" if loss is None else number(loss)]
        for name, loss in found.losses.items()
    ]
    yield grid(["model", f"loss on {found.fit} data ↓"], rows)
    for name, message in found.rejected.items():
        yield f"<p class=bad>{escaped(name)} failed: {escaped(message)}</p>"
    if found.tried:
        tried = [
            [f"{temperature:g}", "failed" if value is None else number(value)] for temperature, value in found.tried
        ]
        yield grid(["temperature", f"{escaped(str(objective))} {ARROWS[objective.better]}"], tried)
    target = "" if found.target is None else f"; {escaped(found.target)} has {found.share:g} of its own"
    near = " They are nearly equal: a smaller temperature tells models apart." if found.nearly_uniform else ""
    yield f"<p>Shares at temperature {found.temperature:g}{target}.{near}</p>"
    yield _shares(found.models, found.shares, "share")


def _shares(models: Sequence[str], shares: Sequence[float], head: str) -> str:
    return grid(["model", head], [[escaped(m), f"{share:.4f}"] for m, share in zip(models, shares, strict=True)])


def _map(models: Sequence[str], tensors: Mapping[str, Sequence[float]]) -> str:
    """Shares by model and tensor; tensors that differ in the number of their layer alone stand side by side."""
    columns = [(_NUMBER.sub(".*.", name, count=1), layer[1] if layer else "", name) for name, layer in _layers(tensors)]
    groups = list(dict.fromkeys(group for group, _, _ in columns))
    ordered = sorted(columns, key=lambda column: (groups.index(column[0]), int(column[1] or 0)))
    values = [[tensors[name][i] for _, _, name in ordered] for i in range(len(models))]
    return genome(models, [(group, number) for group, number, _ in ordered], values, "share")


def _layers(names: Iterable[str]) -> Iterator[tuple[str, re.Match[str] | None]]:
    return ((name, _NUMBER.search(name)) for name in names)
