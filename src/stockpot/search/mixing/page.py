"""How the shares of a soup came about, as parts of a page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from stockpot.evaluate.page import escaped, grid
from stockpot.evaluate.table import ARROWS, number, shown
from stockpot.search.mixing.cocktail import Cocktail
from stockpot.search.mixing.learned import Epoch, Learned
from stockpot.search.mixing.told import epoch_told
from stockpot.search.objective import Objective
from stockpot.search.plots import Curve, curves

__all__ = ["heat", "mixture_parts"]

_NAMES, _CELL, _ROW, _HEAD = 260, 26, 16, 18
"""Pixels of the names of tensors, a cell, a row, and the numbers of models."""
_LETTERS = 40


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
        yield heat(found.models, found.tensors)


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


def heat(models: Sequence[str], tensors: Mapping[str, Sequence[float]]) -> str:
    """A map of shares: tensors down, in the order of their layers, models across; the darker, the larger."""
    most = max(max(own) for own in tensors.values()) or 1.0
    width, height = _NAMES + _CELL * len(models), _HEAD + _ROW * len(tensors)
    parts = [
        f'<svg viewBox="0 0 {width} {height}" style="max-width: {width}px" role="img" aria-label="shares by tensor">'
    ]
    for column in range(len(models)):
        x = _NAMES + _CELL * column + _CELL // 2
        parts.append(f'<text class="dim" x="{x}" y="12" text-anchor="middle">{column + 1}</text>')
    for row, name in enumerate(sorted(tensors, key=_by_number)):
        y = _HEAD + _ROW * row
        parts.append(f'<text x="{_NAMES - 8}" y="{y + 12}" text-anchor="end">{escaped(shown(name)[-_LETTERS:])}</text>')
        for column, (model, share) in enumerate(zip(models, tensors[name], strict=True)):
            told = f"{escaped(name)}, {escaped(model)}: {share:.4f}"
            parts.append(
                f'<rect class="dot" x="{_NAMES + _CELL * column}" y="{y}" width="{_CELL - 1}" height="{_ROW - 1}" '
                f'fill-opacity="{share / most:.3f}"><title>{told}</title></rect>'
            )
    key = ", ".join(f"{i + 1} {escaped(model)}" for i, model in enumerate(models))
    return f"<p class=dim>{key}</p><div class=scroll>{''.join(parts)}</svg></div>"


def _by_number(name: str) -> list[tuple[int, str]]:
    """So that layer 10 comes after layer 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
