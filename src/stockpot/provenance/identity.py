"""What tells an input apart: where it came from, its files and their hashes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import xxhash

from stockpot.checkpoint.model import Checkpoint, TensorRef
from stockpot.checkpoint.places import hub_id
from stockpot.provenance.ancestry import ancestry_of
from stockpot.provenance.licences import Licence, licence_in
from stockpot.provenance.receipts import file_hash

__all__ = ["RECORDED", "background_of", "described", "hub_name", "licence_of"]

RECORDED = "recorded"
"""Key of a checkpoint's identity: what a receipt already says of where it came from, used as it is."""

_EMPTY = xxhash.xxh3_128_hexdigest(b"")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def described(checkpoint: Checkpoint, read: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """An input as a receipt tells it.

    Args:
        checkpoint: The input.
        read: Key of a tensor → hash of its bytes as they were read; tensors that were not read are absent.
    """
    facts = {k: v for k, v in checkpoint.identity.items() if k not in ("files", "revision", "reference", RECORDED)}
    hashes = {
        name: _EMPTY if ref.nbytes == 0 else read[ref.key]
        for name, ref in checkpoint.tensors.items()
        if ref.nbytes == 0 or ref.key in read
    }
    by_file: dict[str | None, list[TensorRef]] = {}
    for ref in checkpoint.tensors.values():
        by_file.setdefault(ref.file, []).append(ref)
    files = [
        _file(path, dict(known), by_file.get(str(path), []), hashes)
        for path, known in zip(checkpoint.files, checkpoint.identity.get("files", ()), strict=False)
    ]
    data = {"reference": checkpoint.label, **facts, **background_of(checkpoint), "files": files, "tensors": hashes}
    return {k: v for k, v in data.items() if v not in (None, [], {})}


def background_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Where a checkpoint came from: hub id and revision, licence, and how it was made itself."""
    recorded = checkpoint.identity.get(RECORDED)
    if recorded is not None:
        return dict(recorded)
    licence = licence_in(checkpoint.folder)
    path = checkpoint.identity.get("path")
    return {
        "hub": None if path is None else hub_name(Path(path)),
        "revision": checkpoint.identity.get("revision"),
        **({} if licence is None else _told(licence)),
        "ancestry": ancestry_of(checkpoint.folder),
    }


def licence_of(background: Mapping[str, Any]) -> Licence | None:
    """The licence that :func:`background_of` (or a receipt) tells."""
    word = background.get("licence")
    return None if word is None else Licence(word, background.get("licence_name"), background.get("licence_link"))


def hub_name(path: Path) -> str | None:
    """``org/name`` of a file or folder in the hub's cache, told by its path; None elsewhere.

    >>> hub_name(Path("/cache/models--org--name/snapshots/0123"))
    'org/name'
    """
    parts = path.parts
    for folder, below in pairwise(parts):
        if folder.startswith("models--") and below == "snapshots":
            name = folder.removeprefix("models--").replace("--", "/")
            return name if hub_id(name) is not None else None
    return None


def _told(licence: Licence) -> dict[str, Any]:
    return {"licence": licence.word, "licence_name": licence.name, "licence_link": licence.link}


def _file(path: Path, known: dict[str, Any], refs: list[TensorRef], hashes: Mapping[str, str]) -> dict[str, Any]:
    sha256 = _blob(path)
    if sha256 is not None:
        known["sha256"] = sha256
    if _gapless(refs, known.get("bytes")) and all(ref.name in hashes for ref in refs):
        known["xxh3"] = file_hash(known["header_xxh3"], (hashes[ref.name] for ref in refs))
    return known


def _blob(path: Path) -> str | None:
    """The sha256 by which the hub's cache names a large file."""
    real = Path(os.path.realpath(path))
    cached = real.parent.name == "blobs" and real.parent.parent.name.startswith("models--")
    return real.name if cached and _SHA256.fullmatch(real.name) else None


def _gapless(refs: list[TensorRef], size: Any) -> bool:
    """Whether a header and these tensors, in order, are all that a file holds; not so for torch's zip files."""
    if not refs:
        return False
    ends = [ref.offset + ref.nbytes for ref in refs]
    return ends == [*(ref.offset for ref in refs[1:]), size]
