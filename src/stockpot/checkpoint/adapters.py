"""Opening an adapter: its settings and the tensors that it holds, from headers alone.

An adapter is a folder that PEFT wrote, with ``adapter_config.json`` and ``adapter_model.safetensors`` (or ``.bin``),
or a repository of the hub that holds these. It opens as a checkpoint whose config are its settings. The settings
decide about every number, so their file is one of the checkpoint's: it is stamped, hashed and compared like weights.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import xxhash

from stockpot.checkpoint.folder import adapter_files
from stockpot.checkpoint.jsons import read_json
from stockpot.checkpoint.model import Checkpoint, Stamp
from stockpot.checkpoint.open import checkpoint_of, fetched, read_file, with_line
from stockpot.checkpoint.places import existing_path, member, must_be_file

__all__ = ["open_adapter"]


def open_adapter(
    reference: str,
    *,
    folder: str | None = None,
    line: int | None = None,
    offline: bool | None = None,
) -> Checkpoint:
    """Open the adapter that ``reference`` names; no payload is read.

    Args:
        reference: A folder, the file of weights in it, or a hub id ``org/name`` or ``org/name@revision``.
        folder, line, offline: As for :func:`stockpot.checkpoint.open.open_checkpoint`.

    Raises:
        CheckpointError: when there is no adapter, or its files are missing, damaged or cannot be read.
        UnsupportedError: for formats that Stockpot does not read.
    """
    return with_line(lambda: _open(reference, folder, offline), reference, line)


def _open(reference: str, folder: str | None, offline: bool | None) -> Checkpoint:
    path = existing_path(reference, folder)
    if path is None:
        path = fetched(reference, offline, adapter=True)
    home = path if path.is_dir() else path.parent
    names = [entry.name for entry in home.iterdir()]
    settings, weights, *_ = adapter_files(names, str(home))
    if not path.is_dir():
        weights = path.name
    place = member(home, settings)
    must_be_file(place)
    stamp = Stamp.of(place.stat())
    found = checkpoint_of(reference, path, [read_file(member(home, weights))], home, read_json(place))
    facts = {"name": settings, "bytes": stamp.nbytes, "header_xxh3": _hash(place)}
    identity = {**found.identity, "files": [*found.identity["files"], facts], "adapter": True}
    stamps = {**found.stamps, str(place): stamp}
    return replace(found, files=(*found.files, place), identity=identity, stamps=stamps)


def _hash(settings: Path) -> str:
    """A file without payload is all header."""
    return xxhash.xxh3_128_hexdigest(settings.read_bytes())
