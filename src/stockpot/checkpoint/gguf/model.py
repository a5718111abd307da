"""GGUF files as a checkpoint: transformers' names, a config, and how the values are made of what is stored."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stockpot.checkpoint.dtypes import DTYPES
from stockpot.checkpoint.gguf.config import heads_of, made_config
from stockpot.checkpoint.gguf.families import FAMILIES, POSITIONS, Family
from stockpot.checkpoint.gguf.header import GgufHeader
from stockpot.checkpoint.header import HeaderEntry
from stockpot.checkpoint.model import Coding
from stockpot.errors import CheckpointError, Problem

__all__ = ["Understood", "understood"]

_MOST_TOLD = 20
_MOST_POSITIONS = 4096


@dataclass(frozen=True)
class Understood:
    """What the files of one model mean.

    Args:
        names: GGUF's name of each tensor → the checkpoint's.
        codings, aside, config, config_fault, unfit: As of a :class:`~stockpot.checkpoint.model.Checkpoint`.
    """

    names: Mapping[str, str]
    codings: Mapping[str, Coding]
    aside: frozenset[str]
    config: Mapping[str, Any]
    config_fault: str
    unfit: tuple[Problem, ...]


def understood(label: str, files: Sequence[tuple[Path, GgufHeader]]) -> Understood:
    """The model in ``files``, whose metadata stands in the first.

    Raises:
        CheckpointError: when parts of a split model are missing or strange.
    """
    path, first = files[0]
    metadata = first.metadata
    _must_be_whole(files)
    entries = {entry.name: entry for _, header in files for entry in header.entries}
    architecture = metadata.get("general.architecture")
    family = FAMILIES.get(architecture) if isinstance(architecture, str) else None
    if family is None or not isinstance(architecture, str):
        problem = Problem(
            f"{label}: GGUF files of the architecture {str(architecture)[:60]!a} are not known",
            file=str(path),
            fix=f"use the safetensors version of this model; known are {', '.join(FAMILIES)}",
        )
        return Understood({n: n for n in entries}, _packed(entries), frozenset(), {}, "", (problem,))
    shapes = {name: entry.shape for name, entry in entries.items()}
    config, fault = made_config(architecture, family, metadata, shapes, _positions(files))
    return _in_terms_of(family, label, path, entries, heads_of(architecture, metadata), config, fault)


def _positions(files: Sequence[tuple[Path, GgufHeader]]) -> tuple[float, ...] | None:
    """What ``rope_freqs.weight`` holds: the one payload that is looked at, some 64 numbers, since a config needs it."""
    for path, header in files:
        for entry in header.entries:
            if entry.name != "rope_freqs.weight":
                continue
            if entry.dtype.code != "F32" or entry.end - entry.begin > _MOST_POSITIONS:
                return None
            with path.open("rb") as file:
                file.seek(entry.begin)
                raw = file.read(entry.end - entry.begin)
            return struct.unpack(f"<{len(raw) // 4}f", raw[: len(raw) // 4 * 4])
    return None


def _in_terms_of(
    family: Family,
    label: str,
    path: Path,
    entries: Mapping[str, HeaderEntry],
    heads: tuple[int, int] | None,
    config: Mapping[str, Any],
    fault: str,
) -> Understood:
    names: dict[str, str] = {}
    codings: dict[str, Coding] = {}
    aside, problems = set(), []
    for name, entry in entries.items():
        new = family.renamed(name)
        if new is None and name.removesuffix(".weight").rpartition(".")[2] in POSITIONS:
            aside.add(name)
        elif new is None:
            message = f"{label}: GGUF's {family.model_type} has no such tensor"
            fix = "use the model's safetensors version"
            problems.append(Problem(message, tensor=name, file=str(path), fix=fix))
        names[name] = new or name
        found = _coding(family, entry, heads)
        if isinstance(found, str):
            fix = "the file is damaged, or of another layout: use the model's safetensors version"
            problems.append(Problem(f"{label}: {found}", tensor=name, file=str(path), fix=fix))
        elif found is not None:
            codings[names[name]] = found
    return Understood(names, codings, frozenset(aside), config, fault, tuple(problems[:_MOST_TOLD]))


def _coding(family: Family, entry: HeaderEntry, heads: tuple[int, int] | None) -> Coding | str | None:
    """How values are made of what is stored; a text where that cannot be known, None for plain numbers."""
    dtype = DTYPES["BF16"] if entry.dtype.kind == "packed" else entry.dtype
    turned, raised = family.is_turned(entry.name), family.is_raised(entry.name)
    if turned is not None and entry.shape:
        if heads is None:
            return "the metadata does not tell its number of heads"
        count = heads[0] if turned == "q" else heads[1]
        if entry.shape[0] % (2 * count):
            return f"{entry.shape[0]} rows are not those of {count} heads"
        return Coding(dtype, head=entry.shape[0] // count)
    if raised:
        return Coding(dtype, shift=-1.0)
    return Coding(dtype) if entry.dtype.kind == "packed" else None


def _packed(entries: Mapping[str, HeaderEntry]) -> dict[str, Coding]:
    return {name: Coding(DTYPES["BF16"]) for name, e in entries.items() if e.dtype.kind == "packed"}


def _must_be_whole(files: Sequence[tuple[Path, GgufHeader]]) -> None:
    """Every part of a split model says how many there are and which it is."""
    for number, (path, header) in enumerate(files):
        count, own = header.metadata.get("split.count", 1), header.metadata.get("split.no", 0)
        if count in (0, 1) and len(files) == 1:
            continue
        if (count, own) != (len(files), number):
            fix = "keep the names that its parts had: NAME-00001-of-00003.gguf, …"
            message = f"says to be part {str(own)[:20]} of {str(count)[:20]} (from 0), not {number} of {len(files)}"
            raise CheckpointError(Problem(message, file=str(path), fix=fix))
