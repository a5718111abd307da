"""``model+adapter`` in one word: where the model ends and the adapter begins."""

from __future__ import annotations

from stockpot.checkpoint.adapters import parted_component
from stockpot.checkpoint.places import existing_path
from stockpot.errors import StockpotError

__all__ = ["parted"]


def parted(text: str, folder: str | None) -> tuple[str, str | None] | None:
    """(model, adapter) of a word in a recipe; adapter is None for a model alone, all is None where nobody can tell.

    A path that exists is a path, whatever it holds. Else one ``+`` parts model and adapter; of several, the one
    that has something that exists on both sides, if it is the only one.

    >>> parted("org/model@main+org/adapter@v2", None), parted("model", None), parted("a+b+c", None)
    (('org/model@main', 'org/adapter@v2'), ('model', None), None)
    """
    if "+" not in text or _exists(text, folder):
        return text, None
    places = [i for i, character in enumerate(text) if character == "+"]
    parts = [(text[:i], text[i + 1 :]) for i in places]
    if len(parts) > 1:
        parts = [(model, own) for model, own in parts if _exists(model, folder) and _exists(own, folder)]
    if len(parts) != 1:
        return None
    model, adapter = parts[0]
    return (model, adapter or None) if model else (text, None)


def _exists(text: str, folder: str | None) -> bool:
    try:
        return existing_path(parted_component(text, folder)[0], folder) is not None
    except StockpotError:
        return True  # it is there, and opening it will say what is wrong
