"""Repeating a merge from its receipt, and comparing what comes out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stockpot.checkpoint.model import Checkpoint
from stockpot.errors import CheckpointError, PlanError, Problem, StockpotError
from stockpot.execute.local import Result, execute
from stockpot.execute.receipt import RECEIPT_NAME, read_receipt
from stockpot.execute.sources import differences_of, found_again
from stockpot.execute.verify import small_differences
from stockpot.execute.versions import versions
from stockpot.execute.workplace import published
from stockpot.expression import Leaf
from stockpot.planning.build import build_plan
from stockpot.planning.model import GIB, Limits, Plan
from stockpot.provenance.expressions import rebuilt
from stockpot.recipe.model import Recipe

__all__ = ["Reproduction", "compared", "inputs_again", "plan_again", "reproduce", "version_differences"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Reproduction:
    """A merge that was repeated.

    Args:
        result: What the second merge left behind.
        differences: Every difference to the first; empty when all bytes are the same.
        versions: Versions that differ from those of the first, as ``numpy 1.26.4 → 2.1.0``.
    """

    result: Result
    differences: tuple[str, ...]
    versions: tuple[str, ...]


def reproduce(
    folder: Path,
    out: Path,
    *,
    inputs: Mapping[str, str] | None = None,
    memory: int = GIB,
    threads: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Reproduction:
    """Repeat the merge in ``folder`` into ``out`` and compare the two.

    Args:
        folder: A merged model with its receipt; its tensors are not read.
        out: Where the second result goes.
        inputs: Label of an input → where it lies now; others are taken from where they were.
        memory, threads: What the merge may use; they change no byte.
        overwrite: Whether ``out`` may exist.
        progress: Called as in :func:`stockpot.execute.local.execute`.

    Raises:
        StockpotError: when the receipt tells too little, an input is gone or is not what it was.
    """
    receipt = read_receipt(folder)
    if out.resolve() == folder.resolve():
        raise PlanError(Problem("the merge would replace what it is compared with", fix="choose another folder"))
    limits = Limits(memory, threads or os.cpu_count() or 1, receipt.get("shard_size", Limits.shard_size))
    replaced = overwrite or published(out)
    plan = plan_again(folder, receipt, inputs or {}, limits, out, overwrite=replaced)
    result = execute(plan, out, overwrite=overwrite, progress=progress)
    return Reproduction(result, compared(receipt, result), version_differences(receipt))


def plan_again(
    folder: Path,
    receipt: Mapping[str, Any],
    inputs: Mapping[str, str],
    limits: Limits,
    out: Path | None,
    *,
    overwrite: bool = False,
) -> Plan:
    """The plan of the merge that ``receipt`` tells of, from its own data and the inputs alone."""
    file = str(folder / RECEIPT_NAME)
    if "adapter" in receipt:
        fix = "stockpot reproduce-merge repeats it, or the command again that the receipt tells of under adapter"
        raise CheckpointError(
            Problem("the receipt of an adapter, which is repeated by its own verb", file=file, fix=fix)
        )
    if "expression" not in receipt:
        fix = 'merge again from its recipe: the receipt holds it under "recipe"'
        raise CheckpointError(
            Problem("an early receipt, which does not tell how to repeat the merge", file=file, fix=fix)
        )
    opened = inputs_again(receipt, inputs)
    leaves = {label: Leaf(c.label, c, adapter=c.is_adapter) for label, c in opened.items()}
    expression = rebuilt(receipt["expression"], leaves, file)
    donor = receipt.get("donor")
    if donor is not None and (donor not in leaves or leaves[donor].adapter):
        raise CheckpointError(Problem("the receipt's donor is not among its inputs", file=file))
    recipe = Recipe(
        expression,
        dtype=receipt.get("dtype"),
        quantize=receipt.get("quantize"),
        donor=None if donor is None else leaves[donor],
        seed=receipt.get("seed", 0),
        mismatched=receipt.get("mismatched") == "base",
        chat_template=receipt.get("chat_template"),
        text=receipt.get("recipe", ""),
        resolved=receipt.get("resolved", {}),
    )
    return build_plan(recipe, limits, out, overwrite=overwrite)


def inputs_again(receipt: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Checkpoint]:
    """Every input by label, headers and sizes being what they were; all that is wrong is told together.

    Args:
        places: Label → where an input lies now.

    Raises:
        StockpotError: when one is gone or is not what it was.
    """
    rows: Mapping[str, Any] = receipt.get("inputs", {})
    problems = [
        Problem(f"no input is called {label!r}", fix=f"its inputs are: {', '.join(rows)}")
        for label in places
        if label not in rows
    ]
    if problems:
        raise PlanError(*problems)
    found: dict[str, Checkpoint] = {}
    for label, row in rows.items():
        fix = f"say where it lies: --input {label}=PATH"
        if row.get("memory") is True and label not in places:
            problems.append(Problem(f"input {label} was in memory", fix=fix))
            continue
        try:
            found[label] = found_again(row, places.get(label))
        except StockpotError as error:
            problems += [Problem(f"input {label}: {p.message}", file=p.file, fix=fix) for p in error.problems]
            continue
        told = differences_of(found[label], row)
        problems += [Problem(f"input {label} is not what was merged: {text}", fix=fix) for text in told]
    if problems:
        raise CheckpointError(*problems)
    return found


def compared(receipt: Mapping[str, Any], again: Result) -> tuple[str, ...]:
    """How the result ``again`` differs from the one that ``receipt`` tells of: inputs, tensors, files."""
    found = _read_differently(receipt.get("inputs", {}), again.receipt["inputs"])
    was, now = receipt["tensors"], again.receipt["tensors"]
    found += [f"{name}: missing" for name in was if name not in now]
    found += [f"{name}: was not there" for name in now if name not in was]
    found += [f"{name}: {_difference(was[name], now[name])}" for name in was if name in now and was[name] != now[name]]
    files, written = receipt.get("files", {}), again.receipt["files"]
    same = not found
    for name, row in files.items():
        if same and "header_xxh3" in row and row != written.get(name):
            found.append(f"{name}: its header has changed" if name in written else f"{name}: missing")
    small = [name for name in files if "header_xxh3" not in files[name]]
    found += small_differences(again.folder, {name: files[name] for name in small})
    found += [f"{name}: was not there" for name in written if small and name not in files]
    return tuple(found)


def _difference(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if (was["dtype"], was["shape"]) != (now["dtype"], now["shape"]):
        return f"is {now['dtype']}{now['shape']}, was {was['dtype']}{was['shape']}"
    return "its bytes differ" if was["hash"] != now["hash"] else f"lies in {now['file']}, lay in {was['file']}"


def _read_differently(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Tensors of inputs that held other bytes in the first merge."""
    return [
        f"input {label}: {name}: its bytes are not those that were merged"
        for label, row in was.items()
        for name, digest in row.get("tensors", {}).items()
        if now.get(label, {}).get("tensors", {}).get(name, digest) != digest
    ]


def version_differences(receipt: Mapping[str, Any]) -> tuple[str, ...]:
    """Versions that computed the first result and are others now."""
    was, now = receipt.get("versions", {}), versions()
    return tuple(f"{p} {was.get(p, 'unknown')} → {now[p]}" for p in now if was.get(p) != now[p])
