"""The inputs of a finished merge, found again: where they lie now, and whether they are what they were."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stockpot.checkpoint.adapters import open_adapter, parted_component
from stockpot.checkpoint.model import Checkpoint
from stockpot.checkpoint.open import open_checkpoint
from stockpot.checkpoint.places import HubId, hub_id
from stockpot.errors import CheckpointError, Problem, StockpotError
from stockpot.execute.verify import hash_tensors
from stockpot.provenance.identity import RECORDED, described

__all__ = ["Checked", "check_inputs", "differences_of", "found_again"]

Progress = Callable[[int, int], None]

_BACKGROUND = ("hub", "revision", "licence", "licence_name", "licence_link", "ancestry")


@dataclass(frozen=True)
class Checked:
    """What was found of one input.

    Args:
        differences: What is not as it was, each with the input's label; empty when nothing is known to differ.
        tensors: How many of its tensors were hashed and compared.
    """

    differences: tuple[str, ...]
    tensors: int = 0


def found_again(row: Mapping[str, Any], place: str | None = None, *, offline: bool | None = None) -> Checkpoint:
    """The input that ``row`` of a receipt describes: at ``place``, else where it was, else by its commit at the hub.

    Its label and what the receipt knows of its background stay, wherever it lies.

    Args:
        row: Its entry under ``inputs``.
        place: A folder, file or hub id.
        offline: Whether of the hub only its cache is used; None asks the environment.

    Raises:
        StockpotError: when it is gone or cannot be opened.
    """
    where = _place(row) if place is None else place
    if row.get("adapter") is True:
        part = None if parted_component(where, None)[1] else row.get("part")
        opened = open_adapter(where, offline=offline, part=part)
    else:
        opened = open_checkpoint(where, offline=offline)
    known = {key: row[key] for key in _BACKGROUND if key in row}
    label, identity = row.get("reference", opened.label), {**opened.identity, RECORDED: known}
    if row.get("memory") is True:  # arrays had no config, on which tied heads depend
        return replace(opened, label=label, identity=identity, folder=None, config={})
    return replace(opened, label=label, identity=identity)


def _place(row: Mapping[str, Any]) -> str:
    """Where the input was, when that is there, else its name and commit at the hub."""
    path, name, commit = (row.get(key) or "" for key in ("path", "hub", "revision"))
    if "\0" not in path and os.path.isabs(path) and os.path.exists(path):  # noqa: PTH110, PTH117 - these never raise
        return path
    if hub_id(f"{name}@{commit}") == HubId(name, commit):
        return f"{name}@{commit}"
    raise CheckpointError(Problem(f"gone; it was {path}" if path else "the receipt does not say where it was"))


def differences_of(checkpoint: Checkpoint, row: Mapping[str, Any]) -> list[str]:
    """What headers and sizes tell apart: ``checkpoint`` from what ``row`` of a receipt describes."""
    now = {f["name"]: f for f in described(checkpoint, {}).get("files", ())}
    was = {f["name"]: f for f in row.get("files", ())}
    if len(now) == len(was) == 1:  # a file may be called otherwise elsewhere
        now = dict(zip(was, now.values(), strict=True))
    found = [f"{name}: missing" for name in was if name not in now]
    found += [f"{name}: was not there" for name in now if name not in was and was]
    for name in was.keys() & now.keys():
        if now[name]["bytes"] != was[name]["bytes"]:
            found.append(f"{name}: has {now[name]['bytes']} bytes, had {was[name]['bytes']}")
        elif now[name]["header_xxh3"] != was[name]["header_xxh3"]:
            found.append(f"{name}: its header has changed")
        elif "sha256" in was[name] and now[name].get("sha256", was[name]["sha256"]) != was[name]["sha256"]:
            found.append(f"{name}: its sha256 has changed")
    found += [f"{name}: missing" for name in row.get("tensors", {}) if name not in checkpoint.tensors]
    if row.get("alphas") != checkpoint.identity.get("alphas"):
        found.append("its scales (alpha) have changed")
    return sorted(found)


def check_inputs(
    receipt: Mapping[str, Any], *, threads: int | None = None, progress: Progress | None = None
) -> dict[str, Checked]:
    """Every input of a receipt as it lies there now: label → what differs. Tensors that the merge read are read again.

    Of the hub only its cache is looked at.
    """
    opened: dict[str, Checkpoint] = {}
    found: dict[str, Checked] = {}
    for label, row in receipt.get("inputs", {}).items():
        if row.get("memory") is True:
            found[label] = Checked((f"input {label}: was in memory and cannot be checked",))
            continue
        try:
            opened[label] = found_again(row, offline=True)
        except StockpotError as error:
            found[label] = Checked(tuple(f"input {label}: {p.message}" for p in error.problems))
    total, before = sum(_wanted(c, receipt["inputs"][label]).nbytes for label, c in opened.items()), 0
    for label, checkpoint in opened.items():
        row, wanted = receipt["inputs"][label], _wanted(checkpoint, receipt["inputs"][label])
        found[label] = _checked(label, row, checkpoint, wanted, threads, _shifted(progress, before, total))
        before += wanted.nbytes
    if progress is not None:
        progress(total, total)
    return {label: found[label] for label in receipt.get("inputs", {})}


def _wanted(checkpoint: Checkpoint, row: Mapping[str, Any]) -> Checkpoint:
    """The tensors whose hashes are known."""
    return replace(checkpoint, tensors={n: r for n, r in checkpoint.tensors.items() if n in row.get("tensors", {})})


def _checked(
    label: str,
    row: Mapping[str, Any],
    checkpoint: Checkpoint,
    wanted: Checkpoint,
    threads: int | None,
    progress: Progress | None,
) -> Checked:
    told = differences_of(checkpoint, row)
    hashes = hash_tensors(wanted, threads=threads, progress=progress)
    told += [
        f"{Path(wanted.tensors[name].file or '').name}: {name}: its bytes have changed"
        for name, digest in hashes.items()
        if digest != row["tensors"][name]
    ]
    return Checked(tuple(f"input {label}: {text}" for text in told), len(hashes))


def _shifted(progress: Progress | None, before: int, total: int) -> Progress | None:
    return None if progress is None else lambda done, _: progress(before + done, total)
