"""Merge recipes as YAML text, and the one place where the demo calls the merger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import stockpot as sp

__all__ = ["Recipe", "Value", "merge"]

Value: TypeAlias = float | bool


@dataclass(frozen=True)
class Recipe:
    """A recipe over models that lie in ``../models``, seen from the recipe's folder.

    ``each`` are the parameters of every model, ``whole`` those of the merge.
    """

    method: str
    models: tuple[str, ...]
    base: str | None = None
    each: Mapping[str, Value] = field(default_factory=dict)
    whole: Mapping[str, Value] = field(default_factory=dict)

    def text(self) -> str:
        """Return the YAML.

        >>> print(Recipe("wise_ft", ("plain",), "base", whole={"alpha": 0.5}).text())
        merge_method: wise_ft
        base_model: ../models/base
        models:
          - model: ../models/plain
        parameters: {alpha: 0.5}
        dtype: float32
        <BLANKLINE>
        """
        lines = [f"merge_method: {self.method}"]
        if self.base is not None:
            lines.append(f"base_model: ../models/{self.base}")
        lines.append("models:")
        for model in self.models:
            lines.append(f"  - model: ../models/{model}")
            lines.extend(f"    parameters: {_flow(self.each)}" for _ in range(bool(self.each)))
        if self.whole:
            lines.append(f"parameters: {_flow(self.whole)}")
        return "\n".join([*lines, "dtype: float32", ""])


def _flow(values: Mapping[str, Value]) -> str:
    """Write a one-line YAML mapping."""
    return "{" + ", ".join(f"{key}: {str(value).lower()}" for key, value in values.items()) + "}"


def merge(recipe: Path, out: Path) -> None:
    """Merge as the file ``recipe`` says into the folder ``out``, replacing an earlier one."""
    sp.merge(recipe, out, overwrite=True)
