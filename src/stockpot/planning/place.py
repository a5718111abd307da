"""Where the output goes: whether it may be there, and where the work lies until it is done."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from stockpot.checkpoint.model import Checkpoint
from stockpot.checkpoint.storage import held_bytes
from stockpot.planning.cost import nearest
from stockpot.planning.model import GIB
from stockpot.planning.views import Context

__all__ = ["beside", "check_output"]


def check_output(
    context: Context,
    checkpoints: Iterable[Checkpoint],
    needed: int,
    free: int | None,
    out: Path,
    overwrite: bool,
) -> None:
    """Report what stands in the way of an output of ``needed`` bytes at ``out``.

    Raises:
        OSError: when its place cannot be looked at.
    """
    exists = os.path.lexists(out)
    if exists and not overwrite:
        context.problem("the output exists", file=str(out), fix="choose another folder, or give --overwrite")
    if exists and not out.is_dir():
        context.problem("the output is a file, not a folder", file=str(out), fix="choose another name")
    _check_place(context, out)
    resolved = out.resolve()
    here = Path.cwd()
    if resolved == here or resolved in here.parents:
        context.problem("the output is (or holds) the current folder", file=str(out), fix="choose another folder")
    for place in (resolved, beside(resolved)):
        for checkpoint in checkpoints:
            if any(place == f.resolve() or place in f.resolve().parents for f in checkpoint.files):
                message = f"the output is (or holds) the input {checkpoint.label}"
                if place != resolved:
                    message = f"{place.name} is needed while writing, and is (or holds) the input {checkpoint.label}"
                context.problem(message, file=str(out), fix="choose another folder")
    held = held_bytes(beside(out) / "model")
    if free is not None and needed - held > free:
        context.problem(
            f"the disk has {free / GIB:.2f} GiB free, the output needs {(needed - held) / GIB:.2f} GiB",
            file=str(out),
            fix="free some space, or write to another disk",
        )


def _check_place(context: Context, out: Path) -> None:
    """Where the output goes must be a folder that may be written to."""
    place = nearest(out.resolve().parent)
    fix = "choose a folder that you may write to"
    if not place.is_dir():
        context.problem("a file stands where a folder is needed", file=str(place), fix=fix)
        return
    effective = os.access in os.supports_effective_ids
    if not os.access(place, os.W_OK | os.X_OK, effective_ids=effective):
        context.problem("no permission to write here", file=str(place), fix=fix)


def beside(out: Path) -> Path:
    """OUT.partial, where the work lies until it is done."""
    whole = Path(os.path.abspath(out))  # noqa: PTH100 - "." has no name to add to; links stay
    return whole.parent / (whole.name + ".partial")
