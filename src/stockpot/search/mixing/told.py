"""How the shares of a soup came about, as lines of text; names not yet made safe to print."""

from __future__ import annotations

from collections.abc import Iterator

from stockpot.evaluate.table import number, percent, shown
from stockpot.search.mixing.cocktail import Cocktail
from stockpot.search.mixing.learned import Epoch, Learned
from stockpot.search.objective import Objective

__all__ = ["epoch_told", "mixture_told"]


def mixture_told(found: Learned | Cocktail, objective: Objective) -> Iterator[str]:
    """Epochs or losses, then the shares."""
    yield from _learned(found, objective) if isinstance(found, Learned) else _cocktail(found, objective)


def epoch_told(found: Learned, epoch: int) -> str:
    """What an epoch is called: the first is the uniform soup."""
    chosen = ", the soup" if epoch == found.chosen else ""
    return f"{'before' if epoch == 0 else f'epoch {epoch}'}{chosen}"


def _learned(found: Learned, objective: Objective) -> Iterator[str]:
    yield f"shares {_per(found)}, fitted on {found.how.fit} data, the epoch chosen by {objective} on select data"
    if found.how.fit == "select":
        yield "  select data fitted the shares and chose: its figures are too good"
    for i, epoch in enumerate(found.epochs):
        yield f"  {epoch_told(found, i)}: {_figures(epoch, found.how.fit, objective)}"
    yield "shares" + (", mean over all weights" if found.tensors else "")
    yield from _shares(found.models, found.shares)


def _per(found: Learned) -> str:
    return f"of each of {len(found.tensors)} tensors" if found.tensors else "of each model"


def _figures(epoch: Epoch, fit: str, objective: Objective) -> str:
    loss = "failed" if epoch.loss is None else number(epoch.loss)
    value = "failed" if epoch.value is None else number(epoch.value)
    scale = "" if epoch.scale is None else f", logits times {number(epoch.scale)}"
    return f"loss on {fit} data {loss}, {objective} {value}{scale}"


def _cocktail(found: Cocktail, objective: Objective) -> Iterator[str]:
    yield f"losses on {found.fit} data"
    if found.fit == "select":
        yield "  select data made the shares: its figures are too good"
    for name, loss in found.losses.items():
        told = f"FAILED: {found.rejected.get(name, '')}" if loss is None else number(loss)
        yield f"  {shown(name)}: {told}"
    for temperature, value in found.tried:
        chosen = ", the soup" if temperature == found.temperature else ""
        yield f"temperature {temperature:g}{chosen}: {objective} {'failed' if value is None else number(value)}"
    target = "" if found.target is None or found.share is None else f"; {percent(found.share)} of {shown(found.target)}"
    yield f"shares at temperature {found.temperature:g}{target}"
    yield from _shares(found.models, found.shares)
    if found.nearly_uniform:
        yield "note: the shares by loss are nearly equal (within 10 %); a smaller --temperature tells models apart"


def _shares(models: tuple[str, ...], shares: tuple[float, ...]) -> Iterator[str]:
    for name, share in zip(models, shares, strict=True):
        yield f"  {share:.4f} {shown(name)}"
