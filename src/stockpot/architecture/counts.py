"""Which config keys count which layers, from names and numbers alone.

A key counts a stack when its value is the stack's number of layers, its name sounds like layers, and the
words around it do not speak of another stack. Where no name sounds like it, a key that shares a word with the
stack, or the only key with that number, is taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from stockpot.architecture.sides import Side, side_of, stems, told_apart

__all__ = ["counting_keys", "extra_layers", "part_of", "paths_of"]

_COUNTS = re.compile(r"(^|_)(layers?|blocks?|depths?)$")
_OTHERS = re.compile(
    r"predict|mtp|adapter|conv|resampler|pooler|fuser|shared|proj|dense|postnet|prenet|window|residual"
)
_NOT_CONFIGS = ("quantization_config", "compression_config")


def paths_of(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every entry of a config and of the configs in it: dotted path, value."""
    for key, value in config.items():
        if isinstance(value, dict) and (key.endswith("_config") or "model_type" in value):
            if key not in _NOT_CONFIGS:
                yield from ((f"{key}.{path}", inner) for path, inner in paths_of(value))
        else:
            yield key, value


def part_of(config: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """The (nested) config that holds the entry at a dotted path; empty where there is none."""
    part: Any = config
    for step in path.split(".")[:-1]:
        part = part.get(step) if isinstance(part, dict) else None
    return part if isinstance(part, dict) else {}


def counting_keys(counts: Mapping[str, int], config: Mapping[str, Any]) -> Mapping[str, tuple[str, ...]]:
    """Stack → paths of the config keys that count its layers; none where nothing fits.

    >>> counting_keys({"encoder.block": 2, "decoder.block": 2}, {"num_layers": 2, "num_decoder_layers": 2})
    {'encoder.block': ('num_layers',), 'decoder.block': ('num_decoder_layers',)}
    """
    numbers = {path: value for path, value in paths_of(config) if type(value) is int}
    extra = {part: number for part in {_part(path) for path in numbers} if (number := _extra(numbers, part))}
    found: dict[str, tuple[str, ...]] = {}
    for stack, count in counts.items():
        near = [p for p in numbers if _sounds(p) and numbers[p] + extra.get(_part(p), 0) == count]
        near = near or [p for p in numbers if _sounds(p) and numbers[p] == count]
        found[stack] = _fitting(near, stack, counts) or _odd(numbers, stack, counts)
    return found


def extra_layers(config: Mapping[str, Any], path: str, count: int) -> int:
    """How many layers a stack of ``count`` has beyond those that the key at ``path`` counts."""
    value = part_of(config, path).get(path.rpartition(".")[2])
    return count - value if type(value) is int else 0


def _extra(numbers: Mapping[str, int], part: str) -> int:
    """Layers for predicting further tokens, which stand after those that are counted."""
    return numbers.get(f"{part}num_nextn_predict_layers", 0)


def _part(path: str) -> str:
    return path[: path.rfind(".") + 1]


def _sounds(path: str) -> bool:
    key = path.rpartition(".")[2]
    return _COUNTS.search(key) is not None and _OTHERS.search(key) is None


def _fitting(paths: list[str], stack: str, counts: Mapping[str, int]) -> tuple[str, ...]:
    """Those of ``paths`` that can speak of ``stack``; one that says so silences those that say nothing."""
    sides = {other: side_of(other) for other in counts}
    paths = [path for path in paths if told_apart(path, stack) is not False]
    paths = [path for path in paths if told_apart(path, stack)] or paths
    own, fits = side_of(stack), []
    for path in paths:
        side = side_of(path)
        told = side.medium == own.medium or (side.medium == "text" and own.medium is None)
        if side.medium is not None and not told and any(_may(side, s) for o, s in sides.items() if o != stack):
            continue
        if side.medium is None and own.medium not in (None, "text") and _leads(sides):
            continue
        if side.role is not None and own.role not in (None, side.role):
            continue
        if side.role is None and own.role == "decoder" and _encodes(sides, own):
            continue
        fits.append(path)
    return tuple(fits)


def _may(side: Side, other: Side) -> bool:
    return other.medium == side.medium or (side.medium == "text" and other.medium is None)


def _leads(sides: Mapping[str, Side]) -> bool:
    """Whether there is a language model, of which an unnamed number speaks."""
    return any(side.medium in (None, "text") for side in sides.values())


def _encodes(sides: Mapping[str, Side], own: Side) -> bool:
    """Whether a decoder has an encoder beside it, of which an unnamed number speaks."""
    return any(side.role == "encoder" and side.medium == own.medium for side in sides.values())


def _odd(numbers: Mapping[str, int], stack: str, counts: Mapping[str, int]) -> tuple[str, ...]:
    """Keys of names never heard of: those that share a word with the stack, else the only one with the number."""
    same = [path for path, value in numbers.items() if value == counts[stack] and not _OTHERS.search(path)]
    akin = [path for path in same if stems(path) & stems(stack)]
    alone = [s for s, count in counts.items() if count == counts[stack]] == [stack]
    return tuple(akin if len(akin) == 1 else same if len(same) == 1 and alone and counts[stack] > 1 else ())
