"""How adapters that are made write names: as PEFT does, or as the single files that they were made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from stockpot.checkpoint.adapter_names import spelling_of
from stockpot.checkpoint.dtypes import DTYPES, DType
from stockpot.checkpoint.model import Checkpoint
from stockpot.errors import PlanError, Problem
from stockpot.lora.output import SINGLE_NAME, WEIGHTS_NAME, Factors, Put, Writing

__all__ = ["Names", "PeftNames", "TableNames", "single", "spelled"]

DOWN = "lora_down.weight"
"""What a right factor is called where no input has one; beside it stands an alpha."""


class Names(Protocol):
    """Writes factors of modules."""

    file: str
    """Of the weights."""

    def begin(self, modules: Iterable[str], file: Writing, dtype: DType) -> None:
        """Called before the first of ``modules`` is written."""

    def write(self, factors: Factors, file: Writing, dtype: DType) -> None:
        """What is known of one module, factors in ``dtype``."""


class PeftNames:
    """PEFT's names; scales stand in the settings."""

    file = WEIGHTS_NAME

    def begin(self, modules: Iterable[str], file: Writing, dtype: DType) -> None:
        """Nothing."""

    def write(self, factors: Factors, file: Writing, dtype: DType) -> None:
        """A, B, and what belongs to them."""
        for name, values in factors.tensors():
            file.add(name, dtype, values)


@dataclass
class TableNames:
    """Names of single files.

    Args:
        modules: Name of a module → (how the file writes it, what it calls the right factor or nothing).
    """

    modules: Mapping[str, tuple[str, str]]
    file: str = SINGLE_NAME
    _alphas: dict[str, tuple[DType, Put]] = field(default_factory=dict)

    def begin(self, modules: Iterable[str], file: Writing, dtype: DType) -> None:
        """Room for the alphas, before the factors, so that tensors stay aligned; ranks are not known yet."""
        wide = DTYPES["F64" if dtype.bits > 32 else "F32"]
        for module in modules:
            start, down = self.modules[module]
            if down in ("", DOWN):
                self._alphas[module] = (wide, file.begin(f"{start}.alpha", wide, ()))

    def write(self, factors: Factors, file: Writing, dtype: DType) -> None:
        """Both factors, lengths of DoRA; alpha is the rank, so that the scale is 1, as it is without one."""
        start, own = self.modules[factors.module]
        down = own or DOWN
        file.add(f"{start}.{down}", dtype, factors.a)
        file.add(f"{start}.{_up(down)}", dtype, factors.b)
        if factors.magnitude is not None:
            file.add(f"{start}.{factors.magnitude[0]}", dtype, factors.magnitude[1])
        if factors.module in self._alphas:
            wide, put = self._alphas[factors.module]
            put(None, 0, np.full(1, factors.rank, wide.numpy).view(np.uint8))


def _up(down: str) -> str:
    """What the left factor is called beside a right one of that name.

    >>> _up("lora_linear_layer.down.weight"), _up("lora_A")
    ('lora_linear_layer.up.weight', 'lora_B')
    """
    return down.replace("down", "up").replace("lora_A", "lora_B")


def spelled(adapter: Checkpoint, name: str) -> tuple[str, str]:
    """(how a single file writes the module of its tensor ``name``, what it calls the part); empty for PEFT's folders.

    >>> spelled(Checkpoint("x", {}), "lora_unet_conv_in.lora_down.weight")
    ('lora_unet_conv_in', 'lora_down.weight')
    """
    return ("", "") if adapter.folder is not None else spelling_of(name) or ("", "")


def single(adapters: Mapping[str, Checkpoint] | Iterable[tuple[str, Checkpoint]]) -> bool:
    """Whether the adapters are single files; else they are folders that PEFT wrote.

    Raises:
        PlanError: where there are some of both.
    """
    pairs: dict[str, Any] = dict(adapters)
    files = [label for label, adapter in pairs.items() if adapter.folder is None]
    folders = [label for label in pairs if label not in files]
    if files and folders:
        message = f"{files[0]} is a single file, {folders[0]} a folder that PEFT wrote: a result is one or the other"
        fix = f"make a folder of it: stockpot lora fold BASE {files[0]} FOLDED, stockpot lora extract FOLDED BASE OUT"
        raise PlanError(Problem(message, fix=fix))
    return bool(files)
