"""Which config keys count which layers, from names and numbers alone.

A key counts a stack when its value is the stack's number of layers, its name sounds like layers, and the
words around it do not speak of another stack. Where no name sounds like it, a key that shares a word with the
stack, or the only key with that number, is taken.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from stockpot.architecture.sides import Side, side_of, stems, told_apart

__all__ = ["counting_keys", "extra_layers", "part_of", "paths_of"]

_COUNTS = re.compile(r"(^|_)(layers?|blocks?|depths?)$")
_OTHERS = re.compile(
    r"predict|mtp|adapter|conv|resampler|pooler|fuser|shared|proj|dense|postnet|prenet|window|residual"
)
_MOST_STACKS, _MOST_KEYS = 256, 64
"""More than any model has; beyond them nothing is looked for, as each stack is compared with each key."""

_NOT_CONFIGS = ("quantization_config", "compression_config")


def paths_of(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every entry of a config and of the configs in it: dotted path, value."""
    for key, value in config.items():
        if "." in key:  # no path can tell it from a nested one
            continue
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
    same: dict[int, list[str]] = {}
    near: dict[int, list[str]] = {}
    for path, value in numbers.items():
        same.setdefault(value, []).append(path)
        if _sounds(path):
            near.setdefault(value, []).append(path)
            extra = numbers.get(f"{_part(path)}num_nextn_predict_layers", 0)
            if extra > 0:  # layers that predict further tokens follow those that are counted
                near.setdefault(value + extra, []).append(path)
    sides = {stack: side_of(stack) for stack in islice(counts, _MOST_STACKS)}
    shared = Counter(counts.values())
    found: dict[str, tuple[str, ...]] = dict.fromkeys(counts, ())
    for stack in sides:
        some, all_same = near.get(counts[stack], [])[:_MOST_KEYS], same.get(counts[stack], [])[:_MOST_KEYS]
        found[stack] = _fitting(some, stack, sides) or _odd(all_same, stack, shared[counts[stack]] == 1)
    return found


def extra_layers(config: Mapping[str, Any], path: str, count: int) -> int:
    """How many layers a stack of ``count`` has beyond those that the key at ``path`` counts."""
    value = part_of(config, path).get(path.rpartition(".")[2])
    return count - value if type(value) is int else 0


def _part(path: str) -> str:
    return path[: path.rfind(".") + 1]


def _sounds(path: str) -> bool:
    key = path.rpartition(".")[2]
    return _COUNTS.search(key) is not None and _OTHERS.search(key) is None


def _fitting(paths: list[str], stack: str, sides: Mapping[str, Side]) -> tuple[str, ...]:
    """Those of ``paths`` that can speak of ``stack``; words in common silence those that have none."""
    paths = [path for path in paths if told_apart(path, stack) is not False]
    paths = [path for path in paths if told_apart(path, stack)] or paths
    return tuple(path for path in paths if _speaks_of(side_of(path), stack, sides))


def _speaks_of(side: Side, stack: str, sides: Mapping[str, Side]) -> bool:
    """Whether a key of ``side`` may count ``stack``; what says nothing means the text, and the encoder."""
    own = sides[stack]
    others = (other for name, other in sides.items() if name != stack)
    if side.medium is None and own.medium not in (None, "text") and any(o.medium in (None, "text") for o in others):
        return False
    if side.medium is not None and not _of_medium(side, own) and any(_of_medium(side, other) for other in others):
        return False
    if side.role is None:
        encoders = (other for other in sides.values() if other.role == "encoder" and other.medium == own.medium)
        return own.role != "decoder" or not any(encoders)
    return own.role in (None, side.role)


def _of_medium(side: Side, other: Side) -> bool:
    return other.medium == side.medium or (side.medium == "text" and other.medium is None)


def _odd(same: list[str], stack: str, alone: bool) -> tuple[str, ...]:
    """Of keys with the right number and names never heard of: that which shares a word, else the only one.

    The only one counts for the only stack of that length.
    """
    same = [path for path in same if not _OTHERS.search(path)]
    akin = [path for path in same if stems(path) & stems(stack)]
    return tuple(akin if len(akin) == 1 else same if len(same) == 1 and alone else ())
