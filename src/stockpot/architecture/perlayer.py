"""What a config says of single layers, said of the layers of a result that were taken from elsewhere.

Lists with an entry for each layer, lists of layer numbers, thresholds ("the first k are dense"), periods
("every sixth is global") and one letter for each layer are told by their names and their lengths.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

__all__ = ["LayerSource", "PerLayer", "per_layer"]

LayerSource = tuple[Mapping[str, Any], int]
"""The config that a layer had, and its number there."""

_ENTRIES = (
    "layer_types",
    "layers_block_type",
    "mlp_layer_types",
    "no_rope_layers",
    "attention_layers",
    "block_configs",
)
_NUMBERS = ("mlp_only_layers", "moe_layers", "cross_attention_layers", "fullatt_block_indexes", "hybrid_layer_ids")
_THRESHOLDS = ("first_k_dense_replace", "num_dense_layers")
_PER_LAYER = re.compile(r"layer|block|depth|attn|attention|window|mlp|ffn|heads|multiplier|pattern|rope")
_NO_LIST = re.compile(r"token|(^|_)(out|stage|feature|vision_feature)_|section|factor|conv|label")
_NUMBERED = re.compile(r"layer|block|(^|_)(ids|idx|idxs|indexes|indices)$")
_PERIODS = re.compile(r"period|interval|every|freq|_step$")
_NO_PERIOD = re.compile(r"time_step|rope|max_|mrope|embedding")
_MOST_LAYERS = 100_000
_PATTERNS = {"gemma2": 2, "gemma3_text": 6, "cohere2": 4}
"""Every which layer has full attention where the config does not say, by model type."""


@dataclass
class PerLayer:
    """Entries to change; what the config cannot express; what it may express wrongly."""

    entries: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def per_layer(own: Mapping[str, Any], count: int, sources: Sequence[LayerSource]) -> PerLayer:
    """What of ``own``, the config of a model of ``count`` layers, changes when its layers become ``sources``.

    >>> config = {"layer_types": ["a", "b", "c"], "moe_layers": [2], "first_k_dense_replace": 1}
    >>> per_layer(config, 3, [(config, 0), (config, 2), (config, 2)]).entries
    {'layer_types': ['a', 'c', 'c'], 'moe_layers': [1, 2], 'first_k_dense_replace': 1}
    """
    found = PerLayer()
    found.entries |= dict(_lists(own, count, sources))
    found.entries |= _attention_types(own, sources)
    found.entries |= _kinds_of_attention(own, sources)
    _thresholds(own, sources, found)
    _sparse_step(own, sources, found)
    _periods(own, sources, found)
    return found


def _lists(own: Mapping[str, Any], count: int, sources: Sequence[LayerSource]) -> Iterator[tuple[str, Any]]:
    for key, value in own.items():
        if isinstance(value, str) and len(value) == count > 1 and key.endswith("_pattern"):
            yield key, "".join(_entries(key, value, sources, str) or value)
        elif not isinstance(value, list):
            continue
        elif key in _NUMBERS or (key not in _ENTRIES and _numbers(key, value, count)):
            yield key, _numbered(key, sources)
        elif key in _ENTRIES or (len(value) == count > 1 and _PER_LAYER.search(key) and not _NO_LIST.search(key)):
            yield key, _entries(key, value, sources, list)


def _numbers(key: str, value: list[Any], count: int) -> bool:
    """Whether a list of an unknown name lists layers by number."""
    numbers = bool(value) and all(type(v) is int and 0 <= v < count for v in value) and value == sorted(set(value))
    return numbers and len(value) < count and bool(_NUMBERED.search(key)) and not _NO_LIST.search(key)


def _numbered(key: str, sources: Sequence[LayerSource]) -> list[int]:
    """New numbers of the layers that their own lists under ``key`` have."""
    parts = {id(part): part for part, _ in sources}
    listed = {which: {v for v in _list(part, key) if type(v) is int} for which, part in parts.items()}
    return [i for i, (part, index) in enumerate(sources) if index in listed[id(part)]]


def _entries(key: str, own: Any, sources: Sequence[LayerSource], kind: type) -> Any:
    """The entries of the layers in turn; None where a model has none for a layer."""
    lists = [(part[key] if isinstance(part.get(key), kind) and part[key] else own, index) for part, index in sources]
    return [entries[index] for entries, index in lists] if all(i < len(entries) for entries, i in lists) else None


def _list(part: Mapping[str, Any], key: str) -> list[Any]:
    """The list under ``key``; empty where a config holds anything else there."""
    value = part.get(key)
    return value if isinstance(value, list) else []


def _attention_types(own: Mapping[str, Any], sources: Sequence[LayerSource]) -> dict[str, Any]:
    """GPT-Neo's ``[[["global", "local"], 12]]``: kinds in turn, so many times."""
    expanded = [(_expanded(part.get("attention_types", own.get("attention_types"))), i) for part, i in sources]
    if "attention_types" not in own or any(i >= len(kinds) for kinds, i in expanded):
        return {}
    return {"attention_types": [[[kinds[i] for kinds, i in expanded], 1]]}


def _expanded(value: Any) -> list[Any]:
    try:
        kinds = (kind for kinds, times in value if kinds for _ in range(times) for kind in kinds)
        return list(islice(kinds, _MOST_LAYERS))
    except (TypeError, ValueError):
        return []


def _kinds_of_attention(own: Mapping[str, Any], sources: Sequence[LayerSource]) -> dict[str, Any]:
    """``layer_types`` where kinds followed from the numbers alone and no longer do."""
    if isinstance(own.get("layer_types"), list):
        return {}
    kinds = [_kind(part, index) for part, index in sources]
    if None in kinds or kinds == [_kind(own, index) for index in range(len(sources))]:
        return {}
    return {"layer_types": kinds}


def _kind(part: Mapping[str, Any], index: int) -> Any:
    listed = _list(part, "layer_types")
    if listed:
        return listed[index] if index < len(listed) else None
    every = part.get("sliding_window_pattern", _PATTERNS.get(str(part.get("model_type"))))
    first = part.get("max_window_layers")
    if type(every) is int and every > 0:
        slides = (index + 1) % every != 0
    elif part.get("use_sliding_window") is True and type(first) is int:
        slides = index >= first
    else:
        return None
    return "sliding_attention" if slides else "full_attention"


def _thresholds(own: Mapping[str, Any], sources: Sequence[LayerSource], found: PerLayer) -> None:
    """The first k layers are of another kind: possible only where they still come first."""
    for key in _THRESHOLDS:
        if type(own.get(key)) is not int:
            continue
        firsts = [index < _int(part, key, own[key]) for part, index in sources]
        count = firsts.index(False) if False in firsts else len(firsts)
        if any(firsts[count:]):
            late = firsts.index(True, count)
            found.problems.append(
                f"{key} can only say that the first layers are dense, and layer {late} of the result would be dense too"
            )
        found.entries[key] = count


def _sparse_step(own: Mapping[str, Any], sources: Sequence[LayerSource], found: PerLayer) -> None:
    """Every n-th layer has experts: each dense one is listed, as the numbers have changed."""
    if _int(own, "decoder_sparse_step", 1) < 2:
        return
    steps = [max(1, _int(part, "decoder_sparse_step", 1)) for part, _ in sources]
    dense = {i for i, (_, index) in enumerate(sources) if (index + 1) % steps[i]}
    dense |= set(_numbered("mlp_only_layers", sources))
    found.entries |= {"mlp_only_layers": sorted(dense), "decoder_sparse_step": 1}


def _periods(own: Mapping[str, Any], sources: Sequence[LayerSource], found: PerLayer) -> None:
    """Periods that nothing else spells out: the layers must keep their places in them."""
    spelt_out = any(isinstance(value, list) for key, value in found.entries.items() if key in _ENTRIES)
    for key, period in own.items():
        if type(period) is not int or period < 2 or not _PERIODS.search(key) or _NO_PERIOD.search(key) or spelt_out:
            continue
        if key not in found.entries and any((i - index) % period for i, (_, index) in enumerate(sources)):
            found.notes.append(f"{key} = {period} tells layers apart by number, and they have new numbers")


def _int(part: Mapping[str, Any], key: str, default: int) -> int:
    value = part.get(key)
    return value if type(value) is int else default
