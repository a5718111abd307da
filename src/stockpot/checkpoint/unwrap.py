"""The model's state dict inside what a training script saved.

Scripts save ``{"state_dict": …, "epoch": 3, "optimizer": …}`` and the like. The model is unwrapped
when there is only one thing it can be; states of optimizers and averaged copies (ema) do not count.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
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
    finder = _Finder()
    skipped: list[str] = []
    prefix = ""
    for _ in range(_MAX_DEPTH):
        if not isinstance(value, dict):
            break
        tensors = {k: v for k, v in value.items() if isinstance(k, str) and _is_tensor(v)}
        inner = {k: v for k, v in value.items() if isinstance(k, str) and finder.may_be_model(k, v)}
        wrapper = _wrapper(tensors, inner, file)
        kept = tensors if wrapper is None else {wrapper: value}
        skipped.extend(f"{prefix}{_text(k)}" for k in value if k not in kept)
        if wrapper is None:
            if not tensors:
                break
            return StateDict(tensors, _cut(skipped))
        value, prefix = inner[wrapper], f"{prefix}{wrapper}."
    fix = "save a state dict: torch.save(model.state_dict(), ...), or better safetensors"
    raise CheckpointError(Problem("holds no named tensors", file=file, fix=fix))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, TensorRecord | Unreadable)


class _Finder:
    """Tells mappings with named tensors; remembers, as a pickle may share one a million times."""

    def __init__(self) -> None:
        self._with: set[int] = set()
        self._without: set[int] = set()

    def may_be_model(self, name: str, value: Any) -> bool:
        """Whether ``value`` holds named tensors and is not the state of a training run."""
        if not isinstance(value, dict) or _TRAINING.search(name) or "param_groups" in value:
            return False
        seen = {id(value)}
        waiting = [value]
        while waiting:
            here = waiting.pop()
            if id(here) in self._with or any(isinstance(k, str) and _is_tensor(v) for k, v in here.items()):
                self._with |= {id(here), id(value)}
                return True
            for item in here.values():
                if isinstance(item, dict) and id(item) not in seen and id(item) not in self._without:
                    seen.add(id(item))
                    waiting.append(item)
        self._without |= seen
        return False


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
    places = [*(f"{name!r}" for name in list(inner)[:8]), *(["the top level"] if tensors else [])]
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
    return key if isinstance(key, str) else ascii(key)[:40]


def _cut(names: list[str]) -> tuple[str, ...]:
    if len(names) <= _MAX_LISTED:
        return tuple(names)
    return (*names[:_MAX_LISTED], f"… and {len(names) - _MAX_LISTED} more")
