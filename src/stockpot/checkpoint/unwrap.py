"""The model's state dict inside what a training script saved.

Scripts save ``{"state_dict": …, "epoch": 3, "optimizer": …}`` and the like. The model is unwrapped
when there is only one thing it can be; states of optimizers and averaged copies (ema) do not count.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from math import prod
from typing import Any

from stockpot.checkpoint.torchnames import TensorRecord, Unreadable
from stockpot.errors import CheckpointError, Problem

__all__ = ["StateDict", "state_dict"]

_WRAPPERS = {
    "state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights",
    "params",
}  # fmt: skip
_TRAINING = re.compile(r"optim|sched|scaler|\bema|_ema|ema_|\brng|rng_|^opt$|^loops$|^callbacks$|^amp$", re.IGNORECASE)
_MAX_DEPTH = 16
_MAX_LISTED = 100
_MAX_SHOWN = 200


@dataclass(frozen=True)
class StateDict:
    """The model's tensors, and dotted names of everything else that the file holds."""

    tensors: Mapping[str, TensorRecord | Unreadable]
    skipped: tuple[str, ...]


def state_dict(value: Any, file: str) -> StateDict:
    """The state dict in ``value``, the pickle of ``file``.

    Raises:
        CheckpointError: when there is none, or more than one thing that can be the model.
    """
    finder = _Finder(value)
    skipped: list[str] = []
    prefix, count = "", 0
    for _ in range(_MAX_DEPTH):
        if not isinstance(value, dict):
            break
        tensors = {k: v for k, v in value.items() if isinstance(k, str) and _is_tensor(v)}
        inner = {k: v for k, v in value.items() if isinstance(k, str) and finder.may_be_model(k, v)}
        wrapper = _wrapper(tensors, inner, file)
        kept = tensors if wrapper is None else {wrapper: value}
        skipped.extend(
            f"{prefix}{_text(k)}"[:_MAX_SHOWN] for k in islice((k for k in value if k not in kept), _MAX_LISTED)
        )
        count += len(value) - len(kept)
        if wrapper is None:
            if not tensors:
                break
            return StateDict(tensors, _cut(skipped, count))
        value, prefix = inner[wrapper], f"{prefix}{wrapper}."[:_MAX_SHOWN]
    fix = "save a state dict: torch.save(model.state_dict(), ...), or better safetensors"
    raise CheckpointError(Problem("holds no named tensors", file=file, fix=fix))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, TensorRecord | Unreadable)


class _Finder:
    """Tells mappings with named tensors. All are visited once: a pickle may share one a million times."""

    def __init__(self, value: Any) -> None:
        parents: dict[int, list[int]] = {}
        reached: list[int] = []
        waiting = [value]
        while waiting:
            here = waiting.pop()
            for key, item in here.items() if isinstance(here, dict) else ():
                if isinstance(item, dict):
                    if id(item) not in parents:
                        waiting.append(item)
                    parents.setdefault(id(item), []).append(id(here))
                elif _is_tensor(item) and isinstance(key, str):
                    reached.append(id(here))
        self._with: set[int] = set()
        while reached:
            here_id = reached.pop()
            if here_id not in self._with:
                self._with.add(here_id)
                reached.extend(parents.get(here_id, ()))

    def may_be_model(self, name: str, value: Any) -> bool:
        """Whether ``value`` holds named tensors and is not the state of a training run."""
        training = not isinstance(value, dict) or _TRAINING.search(name) or "param_groups" in value
        return not training and id(value) in self._with


def _wrapper(tensors: Mapping[str, Any], inner: Mapping[str, Any], file: str) -> str | None:
    """The one key under which the model lies; None when it lies here.

    Raises:
        CheckpointError: when that cannot be told.
    """
    if not inner:
        return None
    large = [name for name, leaf in tensors.items() if _elements(leaf) > 1]
    if len(inner) == 1 and not large and (not tensors or _WRAPPERS & inner.keys()):
        return next(iter(inner))
    places = [*(repr(name[:_MAX_SHOWN]) for name in list(inner)[:8]), *(["the top level"] if tensors else [])]
    raise CheckpointError(
        Problem(
            f"more than one thing in it can be the model: {', '.join(places)}",
            file=file,
            fix="save the one that is wanted in a file of its own",
        )
    )


def _elements(leaf: TensorRecord | Unreadable) -> int:
    return prod(leaf.shape) if isinstance(leaf, TensorRecord) else 2


def _text(key: Any) -> str:
    return key[:_MAX_SHOWN] if isinstance(key, str) else ascii(key)[:40]


def _cut(names: list[str], count: int) -> tuple[str, ...]:
    """The first ``names``, and how many of ``count`` they leave out."""
    if count <= _MAX_LISTED:
        return tuple(names)
    return (*names[:_MAX_LISTED], f"… and {count - _MAX_LISTED} more")
