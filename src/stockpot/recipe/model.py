"""What a recipe means: an expression and how its result is to be written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stockpot.errors import Problem
from stockpot.expression import Expression, Leaf

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """A parsed and type-checked recipe.

    Args:
        expression: What to compute; its space is Weights.
        dtype: Output dtype by name (``out_dtype``, else ``dtype``); None keeps each tensor's own.
        donor: Leaf whose config, tokenizer and other small files go into the output: the base, else
            the first model. None for expressions without leaves in folders.
        seed: Key of all random numbers.
        compat: Whether mergekit's numerics were asked for.
        text: The recipe as written, for receipt and model card; empty when built in Python.
        notes: Things worth telling that change nothing (parameters another method would use, …).
        chat_template: Chat template of the result: ``auto``, a name, or Jinja text; None keeps that of the tokenizer.
        unsupported: Parts that this version lacks: checking shows them, merging refuses.
        resolved: The recipe as plain data with defaults made explicit, for the receipt:
            ``{"documents": […]}``, the result last.
    """

    expression: Expression
    dtype: str | None = None
    donor: Leaf | None = None
    seed: int = 0
    compat: bool = False
    text: str = ""
    chat_template: str | None = None
    notes: tuple[Problem, ...] = ()
    unsupported: tuple[Problem, ...] = ()
    resolved: Mapping[str, Any] = field(default_factory=dict)
