"""Opening an adapter: its settings and the tensors that it holds, from headers alone.

An adapter is a folder that PEFT wrote, with ``adapter_config.json`` and ``adapter_model.safetensors`` (or ``.bin``);
or a single file as trainers of diffusion models write it; or a repository of the hub that holds one of these. It opens
as a checkpoint whose config are its settings. The settings decide about every number, so they are stamped, hashed and
compared like weights: PEFT's file, and the scales (``.alpha``) that stand as tensors in a single file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from stockpot.checkpoint.adapter_names import COMPONENTS, piece_of
from stockpot.checkpoint.folder import adapter_files
from stockpot.checkpoint.header import read_header
from stockpot.checkpoint.jsons import CONFIG, BadJsonError, parse_json, read_json
from stockpot.checkpoint.model import Checkpoint, Stamp, TensorRef
from stockpot.checkpoint.open import checkpoint_of, fetched, read_file, with_line
from stockpot.checkpoint.places import existing_path, member, must_be_file
from stockpot.errors import CheckpointError, Problem

__all__ = ["open_adapter", "parted_component"]

_METADATA = "lora_adapter_metadata"
"""Under which diffusers writes PEFT's settings into the header."""


def open_adapter(
    reference: str,
    *,
    folder: str | None = None,
    line: int | None = None,
    offline: bool | None = None,
    part: str | None = None,
) -> Checkpoint:
    """Open the adapter that ``reference`` names; no payload is read but the scales of a single file.

    Args:
        reference: A folder, a file of weights, or a hub id ``org/name`` or ``org/name@revision``; of a single file for
            several components of a pipeline, ``:unet`` or the like behind it says which part is meant.
        folder, line, offline: As for :func:`stockpot.checkpoint.open.open_checkpoint`.
        part: The component, where ``reference`` does not say it.

    Raises:
        CheckpointError: when there is no adapter, or its files are missing, damaged or cannot be read.
        UnsupportedError: for formats that Stockpot does not read.
    """
    return with_line(lambda: _open(reference, folder, offline, part), reference, line)


def parted_component(reference: str, folder: str | None) -> tuple[str, str | None]:
    """(adapter, component) of a reference; a path that exists is a path, whatever stands in it.

    >>> parted_component("style.safetensors:unet", None), parted_component("org/name@v1", None)
    (('style.safetensors', 'unet'), ('org/name@v1', None))
    """
    before, colon, component = reference.rpartition(":")
    if not colon or component not in COMPONENTS or existing_path(reference, folder) is not None:
        return reference, None
    return before, component


def _open(reference: str, folder: str | None, offline: bool | None, part: str | None) -> Checkpoint:
    place, component = parted_component(reference, folder)
    path = existing_path(place, folder)
    if path is None:
        path = fetched(place, offline, adapter=True)
    home = path if path.is_dir() else path.parent
    names = [entry.name for entry in home.iterdir()]
    if not path.is_dir():
        settings = "adapter_config.json" if _peft(path.name) and "adapter_config.json" in names else None
        weights = path.name
    else:
        found = adapter_files([*names, *_below(home)], str(home))
        settings, weights = found.settings, found.weights
    if settings is not None:
        if component or part:
            message = f"{component or part} of an adapter that PEFT wrote, which has no such parts"
            raise CheckpointError(Problem(message, file=str(home), fix=f"write {place}"))
        return _with_settings(reference, path, home, settings, weights)
    return _single(reference, path, member(home, weights), component or part)


def _peft(name: str) -> bool:
    return name.startswith("adapter_model")


def _below(home: Path) -> list[str]:
    """Settings of adapters one level below, which help errors."""
    places = (entry / "adapter_config.json" for entry in home.iterdir() if entry.is_dir())
    return [f"{place.parent.name}/{place.name}" for place in places if place.is_file()]


def _with_settings(reference: str, path: Path, home: Path, settings: str, weights: str) -> Checkpoint:
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


def _single(reference: str, path: Path, file: Path, part: str | None) -> Checkpoint:
    """An adapter without settings: its names and scales tell everything."""
    if _peft(file.name):
        fix = "put adapter_config.json beside it, which tells its scales"
        raise CheckpointError(Problem("not an adapter: adapter_config.json is missing", file=str(file.parent), fix=fix))
    found = checkpoint_of(reference, path, [read_file(file)], None, {})
    if not any(map(piece_of, found.tensors)):
        fix = "name a folder that peft's save_pretrained wrote, or a file of kohya's scripts, LyCORIS or diffusers"
        raise CheckpointError(Problem("not an adapter: none of its tensors is part of one", file=str(file), fix=fix))
    alphas = _alphas(found.tensors.values(), file)
    config = {"alphas": alphas, "part": part, "settings": _metadata(file)}
    identity = {**found.identity, "adapter": True}
    if alphas:
        identity["alphas"] = xxhash.xxh3_128_hexdigest(repr(sorted(alphas.items())).encode())
    if part is not None:
        identity["part"] = part
    return replace(found, config=config, identity=identity)


def _alphas(refs: Iterable[TensorRef], file: Path) -> dict[str, float]:
    """Name of each scale that is a number → it: settings that stand among the tensors, read as settings are.

    Raises:
        CheckpointError: for scales that are not finite.
    """
    found = {}
    with file.open("rb") as stream:
        for ref in refs:
            piece = piece_of(ref.name)
            if piece is None or piece.part != "alpha" or ref.elements != 1 or ref.dtype.numpy is None:
                continue
            stream.seek(ref.offset)
            raw = stream.read(ref.nbytes)
            number = np.frombuffer(raw, ref.dtype.numpy).astype(np.complex128)[0] if len(raw) == ref.nbytes else np.nan
            if not np.isfinite(number) or number.imag or abs(number) > 1e30:
                fix = "get the file again"
                raise CheckpointError(
                    Problem("a scale that is no finite number", tensor=ref.name, file=ref.file, fix=fix)
                )
            found[ref.name] = float(number.real)
    return found


def _metadata(file: Path) -> dict[str, Any]:
    """PEFT's settings for each component, where diffusers wrote them into the header."""
    text = read_header(file).metadata.get(_METADATA) if file.suffix == ".safetensors" else None
    if text is None:
        return {}
    try:
        settings = parse_json(text.encode("utf-8", "replace"), CONFIG)
    except BadJsonError as error:
        raise CheckpointError(Problem(f"{_METADATA} in its header: {error}", file=str(file))) from error
    if not isinstance(settings, dict):
        raise CheckpointError(Problem(f"{_METADATA} in its header is no map", file=str(file)))
    parts: dict[str, Any] = {}
    for key, value in settings.items():
        component, _, own = key.partition(".")
        where = (component, own) if component in COMPONENTS and own else ("", key)
        parts.setdefault(where[0], {})[where[1]] = value
    return parts
