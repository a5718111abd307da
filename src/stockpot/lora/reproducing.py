"""Repeating the making of an adapter from its receipt, and comparing what comes out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stockpot.errors import CheckpointError, PlanError, Problem
from stockpot.execute.local import Result
from stockpot.execute.receipt import RECEIPT_NAME, read_receipt
from stockpot.execute.reproduce import Reproduction, compared, inputs_again, version_differences
from stockpot.lora.compat_merging import CompatMerge, merge_as_peft
from stockpot.lora.engine import Progress
from stockpot.lora.extracting import extract
from stockpot.lora.factors import Wanted
from stockpot.lora.merging import merge_adapters
from stockpot.lora.opening import Given
from stockpot.lora.output import Made
from stockpot.lora.recipes import CONCAT, ORIGIN
from stockpot.lora.requests import extract_asked, merge_asked, resize_asked
from stockpot.lora.resizing import resize
from stockpot.planning.model import GIB, Limits
from stockpot.recipe.parse import parse_recipe

__all__ = ["reproduce_adapter"]


def reproduce_adapter(
    folder: Path,
    out: Path,
    *,
    inputs: Mapping[str, str] | None = None,
    memory: int = GIB,
    threads: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Reproduction:
    """Make the adapter in ``folder`` again in ``out`` and compare the two; as :func:`~stockpot.execute.reproduce`.

    Nothing but the inputs that the receipt lists is opened.

    Raises:
        StockpotError: when the receipt tells too little, an input is gone or is not what it was.
    """
    receipt = read_receipt(folder)
    if out.resolve() == folder.resolve():
        raise PlanError(Problem("the result would replace what it is compared with", fix="choose another folder"))
    told = _Told(receipt.get("adapter"), str(folder / RECEIPT_NAME))
    given = {c.label: c for c in inputs_again(receipt, inputs or {}).values()}
    limits = Limits(memory, threads or os.cpu_count() or 1)
    how = {"overwrite": overwrite, "progress": progress}
    made = _made(told, receipt.get("seed", 0), given, out, limits, how)
    again = Result(made.folder, read_receipt(made.folder))
    return Reproduction(again, compared(receipt, again), version_differences(receipt))


class _Told:
    """A request as a receipt has it, which strangers may have written."""

    def __init__(self, data: Any, file: str) -> None:
        self.data: Mapping[str, Any] = data if isinstance(data, dict) else {}
        self.file = file

    def text(self, key: str) -> str:
        """Raises CheckpointError where it is none."""
        value = self.optional(key, str)
        if value is None:
            raise self.bad(key)
        return str(value)

    def optional(self, key: str, *kinds: type) -> Any:
        """A value of these types; None where there is none. Raises CheckpointError for any other."""
        value = self.data.get(key)
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise self.bad(key)
        return value

    def list(self, key: str, *kinds: type) -> list[Any]:
        """Values of these types. Raises CheckpointError for any other."""
        values = self.optional(key, list) or []
        if not all(isinstance(v, kinds) and not isinstance(v, bool) for v in values):
            raise self.bad(key)
        return list(values)

    def bad(self, key: str) -> CheckpointError:
        """The error for a value that is missing, or of the wrong kind."""
        message = f"the receipt does not tell how to make the adapter again: {key!r} under adapter"
        return CheckpointError(Problem(message, file=self.file, fix="run the verb again that made it"))


def _made(told: _Told, seed: int, given: Given, out: Path, limits: Limits, how: Mapping[str, Any]) -> Made:
    verb, dtype = told.text("verb"), told.optional("dtype", str)
    wanted = Wanted(told.optional("rank", int), told.optional("energy", int, float))
    if verb == "resize":
        what = resize_asked(told.text("adapter"), wanted, dtype=dtype)
        return resize(replace(what, given=given), out, limits, **how)
    if verb == "extract":
        words = told.text("save_modules").split(",")
        keys = ("include", "exclude", "drop", "prefix")
        own = {key: text for key in keys if (text := told.optional(key, str)) is not None}
        save = [word for word in words if word not in ("", "none")]
        asked = extract_asked(
            told.text("tuned"), told.text("base"), wanted, save_modules=save, dtype=dtype, seed=seed, **own
        )
        return extract(replace(asked, given=given), out, limits, **how)
    if verb != "merge":
        raise told.bad("verb")
    return _merged(told, wanted, dtype, seed, given, out, limits, how)


def _merged(
    told: _Told,
    wanted: Wanted,
    dtype: str | None,
    seed: int,
    given: Given,
    out: Path,
    limits: Limits,
    how: Mapping[str, Any],
) -> Made:
    if told.optional("compat", str) is not None:
        weights, density = told.list("weight", int, float), told.list("density", int, float)
        adapters = told.list("adapters", str)
        if not adapters:
            raise told.bad("adapters")
        form, data = told.text("form"), dict(told.data)
        one = density[0] if density else None
        asked = CompatMerge(
            tuple(adapters), form, tuple(weights) or (1.0,), one, wanted.rank, dtype, seed, data, given
        )  # fmt: skip
        return merge_as_peft(asked, out, limits, overwrite=how["overwrite"])
    recipe = parse_recipe(told.text("recipe"), seed=seed, allow_code=False, origin=ORIGIN)
    space: Any = told.optional("space", str) or "full"
    base = told.optional("base", str)
    what = merge_asked(recipe, "", {}, wanted, space=space, base=base, dtype=dtype)
    exact = told.optional("method", str) == CONCAT
    return merge_adapters(replace(what, exact=exact, asked=dict(told.data), given=given), out, limits, **how)
