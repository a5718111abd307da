"""What an unknown key was probably meant to be."""

from __future__ import annotations

from stockpot.recipe.keys import PLACES, Place
from stockpot.recipe.known import Known, nearest

__all__ = ["unknown_key_fix"]

_SYNONYMS = {
    "pattern": "filter",
    "method": "merge_method",
    "base": "base_model",
    "range": "layer_range",
    "layers": "layer_range",
    "name": "model",
    "path": "model",
    "source_model": "model",
    "model": "source_model",
    "inputs": "models",
    "output_dtype": "out_dtype",
    "torch_dtype": "dtype",
}
_CLOSE = 0.85


def unknown_key_fix(key: str, place: Place, known: Known) -> tuple[str, str | None]:
    """The fix for ``key`` in ``place``, and the key of ``place`` it stands for, if one.

    >>> unknown_key_fix("merge_methiod", PLACES["recipe"], Known())
    ('did you mean merge_method?', 'merge_method')
    """
    names = [k.name for k in place.keys]
    meant = nearest(key, names, _CLOSE) or _synonym(key, names)
    if meant is not None:
        return f"did you mean {meant}?", meant
    parameters = {*known.parameters, *known.companions}
    if key in parameters and "parameters" in names:
        return f"it is a parameter: indent it under parameters (parameters: {{{key}: …}})", None
    elsewhere = _elsewhere(key, place)
    if elsewhere is not None:
        return f"{key} belongs in {elsewhere}", None
    meant = nearest(key, names)
    if meant is not None:
        return f"did you mean {meant}?", meant
    near = nearest(key, parameters, _CLOSE)
    if near is not None and "parameters" in names:
        return f"did you mean parameters: {{{near}: …}}?", None
    return f"{place.title} takes: {', '.join(names)}", None


def _synonym(key: str, names: list[str]) -> str | None:
    meant = _SYNONYMS.get(key.lower())
    return meant if meant in names else None


def _elsewhere(key: str, place: Place) -> str | None:
    """Title of the first other place that has ``key``, merges before mixtures of experts."""
    for other in PLACES.values():
        if other is not place and other.key(key) is not None:
            return other.title
    return None
