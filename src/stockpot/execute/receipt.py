"""The receipt: what was merged, from what, with what; enough to verify or repeat a merge."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stockpot.errors import CheckpointError, Problem
from stockpot.execute.versions import versions
from stockpot.planning.model import Plan

__all__ = ["RECEIPT_NAME", "make_receipt", "read_receipt"]

RECEIPT_NAME = "stockpot-receipt.json"


def make_receipt(
    plan: Plan, hashes: Mapping[str, str], read: Mapping[tuple[str, str], str], small: Mapping[str, str]
) -> dict[str, Any]:
    """The receipt of a finished merge as plain data; hashes are hexadecimal xxh3-128.

    Args:
        plan: What was carried out.
        hashes: Output tensor name → hash of its bytes.
        read: Key of an input tensor (:attr:`TensorRef.key`) → hash of its bytes as they were read.
        small: Name of every small file beside the tensors → hash of its bytes.
    """
    del read, small
    return {
        "format": 1,
        "versions": versions(),
        "seed": plan.seed,
        "recipe": plan.recipe_text,
        "resolved": dict(plan.resolved),
        "inputs": {label: dict(source.identity) for label, source in sorted(plan.sources.items())},
        "hash": "xxh3_128 of the tensor's bytes",
        "tensors": {
            step.name: {
                "file": step.file,
                "dtype": step.dtype.code,
                "shape": list(step.shape),
                "hash": hashes[step.name],
            }
            for step in plan.steps
        },
    }


def read_receipt(folder: Path) -> dict[str, Any]:
    """The receipt in ``folder``.

    Raises:
        CheckpointError: when there is none, or it cannot be read.
    """
    path = folder / RECEIPT_NAME
    try:
        receipt = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(Problem("no receipt: this folder was not written by stockpot", file=str(path))) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(Problem(f"the receipt cannot be read: {error}", file=str(path))) from error
    tensors = receipt.get("tensors") if isinstance(receipt, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(t, dict) and "hash" in t for t in tensors.values()):
        raise CheckpointError(Problem("this is not a receipt of stockpot", file=str(path)))
    return dict(receipt)
