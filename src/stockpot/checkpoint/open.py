"""Opening a checkpoint: from what a user wrote to named tensors, from headers alone.

A reference is tried as a path (relative to the recipe's folder, then to the working directory),
then as a hub id. A path may be a folder in the layout of transformers or diffusers, one safetensors
file, a PyTorch pickle, or a GGUF file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from stockpot.checkpoint.adapter_names import is_table
from stockpot.checkpoint.folder import Weights, adapter_error, choose_weights, is_adapter, natural
from stockpot.checkpoint.fp8 import coded
from stockpot.checkpoint.header import HeaderEntry, looks_like_header, read_header
from stockpot.checkpoint.jsons import read_index, read_json
from stockpot.checkpoint.model import Checkpoint, Stamp, TensorRef
from stockpot.checkpoint.parts import COMPONENTS, MODULES, parts_in
from stockpot.checkpoint.places import (
    cannot_read,
    commit_of,
    existing_path,
    hub_id,
    member,
    must_be_file,
)
from stockpot.errors import CheckpointError, Problem, UnsupportedError

__all__ = ["File", "checkpoint_of", "fetched", "open_checkpoint", "read_file", "with_line"]

_FOREIGN_LEADS = {b"\x89HDF": "Keras HDF5", b"ggml": "GGML", b"lmgg": "GGML"}

_MAX_PROBLEMS = 50

T = TypeVar("T")


@dataclass(frozen=True)
class File:
    """One file of weights, its header read."""

    path: Path
    tensors: tuple[TensorRef, ...]
    facts: Mapping[str, Any]
    stamp: Stamp
    skipped: tuple[str, ...] = ()


_GGUF = b"GGUF"


def open_checkpoint(
    reference: str,
    *,
    folder: str | None = None,
    line: int | None = None,
    offline: bool | None = None,
) -> Checkpoint:
    """Open what ``reference`` names; no payload is read.

    Args:
        reference: A folder, a file, or a hub id ``org/name`` or ``org/name@revision``.
        folder: Folder that relative paths are relative to (that of the recipe), before the working
            directory.
        line: Recipe line, for errors.
        offline: Whether to use the hub's cache only; None asks the environment (HF_HUB_OFFLINE).

    Raises:
        CheckpointError: with every problem found: files missing, truncated, damaged or outside the
            folder, duplicate names, no weights, no permission, no such repository on the hub.
        UnsupportedError: for adapters and formats that Stockpot does not read.
    """
    return with_line(lambda: _open(reference, folder, offline), reference, line)


def with_line(opened: Callable[[], Checkpoint], reference: str, line: int | None) -> Checkpoint:
    """What ``opened`` gives; its errors tell the recipe's line."""
    try:
        return opened()
    except (CheckpointError, UnsupportedError) as error:
        problems = (replace(p, line=line) if p.line is None else p for p in error.problems)
        raise type(error)(*problems) from error.__cause__
    except OSError as error:
        raise cannot_read(Path(error.filename or reference), error) from error


def _open(reference: str, folder: str | None, offline: bool | None) -> Checkpoint:
    path = existing_path(reference, folder)
    if path is None:
        path = fetched(reference, offline)
    return _open_folder(reference, path) if path.is_dir() else _open_file(reference, path)


def fetched(reference: str, offline: bool | None, *, adapter: bool = False) -> Path:
    """The hub's repository of that name, of a model or of an adapter, in its cache."""
    wanted = hub_id(reference)
    if wanted is None:
        fix = "check the path; relative paths start at the recipe's folder"
        raise CheckpointError(Problem(f"no such file or folder: {reference!r}", fix=fix))
    from stockpot.checkpoint.hub import fetch  # slow to import, and seldom needed

    return fetch(wanted, offline, adapter=adapter)


def _open_file(label: str, path: Path) -> Checkpoint:
    if is_adapter(path.name):
        raise adapter_error(str(path))
    beside = path.parent
    has_config = (beside / "config.json").is_file()
    config = read_json(member(beside, "config.json")) if has_config else {}
    folder = beside if has_config else None
    if path.suffix == ".gguf" or _lead(path)[0][:4] == _GGUF:
        return _open_gguf(label, path, folder, config)
    file = read_file(path)
    if is_table(ref.name for ref in file.tensors):
        raise adapter_error(str(path))
    return checkpoint_of(label, path, [file], folder, config)


def _open_folder(label: str, folder: Path) -> Checkpoint:
    names = list(_names(folder))
    parts = parts_in(folder, names)
    return _joined(label, folder, parts) if parts else _open_plain(label, folder, names)


def _joined(label: str, folder: Path, parts: tuple[str, ...]) -> Checkpoint:
    """The parts of a model in several folders, as one."""

    def opened(part: str) -> Checkpoint:
        place = member(folder, part) if part else folder
        return _open_plain(label, place, list(_names(place)))

    found = dict(zip(parts, _each([partial(opened, part) for part in parts]), strict=True))
    tensors: dict[str, TensorRef] = {}
    facts = []
    for part, own in found.items():
        below = f"{part}/" if part else ""
        tensors.update((below + ref.name, replace(ref, name=below + ref.name)) for ref in own.tensors.values())
        facts += [{**fact, "name": below + fact["name"]} for fact in own.identity["files"]]
    skipped = [name for own in found.values() for name in own.identity.get("skipped", ())]
    identity = {"reference": label, "path": str(folder), "revision": commit_of(folder), "files": facts}
    identity |= {"skipped": skipped} if skipped else {}
    return Checkpoint(
        label,
        tensors,
        folder,
        found[""].config if "" in found else {},
        tuple(file for own in found.values() for file in own.files),
        identity,
        {path: stamp for own in found.values() for path, stamp in own.stamps.items()},
        found,
    )


def _open_plain(label: str, folder: Path, names: list[str]) -> Checkpoint:
    weights = choose_weights(names, str(folder))
    config = read_json(member(folder, "config.json")) if "config.json" in names else {}
    if weights.files and weights.files[0].endswith(".gguf"):
        first = member(folder, weights.files[0])
        return _open_gguf(label, first, folder, config)
    if weights.index is not None:
        files = _read_indexed(folder, weights)
    else:
        files = _each([partial(_read_member, folder, name) for name in weights.files])
    if len(files) == 1 and is_table(ref.name for ref in files[0].tensors):
        raise adapter_error(str(files[0].path))
    return checkpoint_of(label, folder, files, folder, config)


def checkpoint_of(
    label: str, path: Path, files: list[File], folder: Path | None, config: Mapping[str, Any]
) -> Checkpoint:
    """The tensors of ``files``, each name once, with what tells them apart."""
    tensors = _union(files)
    identity: dict[str, Any] = {
        "reference": label,
        "path": str(path),
        "revision": commit_of(path),
        "files": [file.facts for file in files],
    }
    skipped = [name for file in files for name in file.skipped]
    if skipped:
        identity["skipped"] = skipped
    paths, stamps = tuple(file.path for file in files), {str(file.path): file.stamp for file in files}
    return coded(Checkpoint(label, tensors, folder, config, paths, identity, stamps))


def _union(files: list[File]) -> dict[str, TensorRef]:
    """All tensors of all files, each name once."""
    tensors: dict[str, TensorRef] = {}
    problems = []
    for file in files:
        twice = [ref for ref in file.tensors if ref.name in tensors]
        if twice:
            other = Path(tensors[twice[0].name].file or "").name
            message = f"in two files of one checkpoint, here and in {other}{_more(len(twice))}"
            fix = "name the one file that is wanted, or remove what does not belong"
            problems.append(Problem(message, tensor=twice[0].name, file=str(file.path), fix=fix))
        tensors.update((ref.name, ref) for ref in file.tensors)
    if problems:
        raise CheckpointError(*problems)
    return tensors


def _more(count: int) -> str:
    """How many tensors share a problem that names one of them."""
    return "" if count == 1 else f" ({count - 1} more tensors likewise)"


def _names(folder: Path) -> Iterator[str]:
    """Names of the folder's files and, with their folder's name, of those one level below."""
    try:
        entries = sorted(folder.iterdir())
        parted = not {COMPONENTS, MODULES}.isdisjoint(entry.name for entry in entries)
        for entry in entries:
            if not entry.is_dir():
                yield entry.name
            elif not entry.name.startswith("."):
                yield from (f"{entry.name}/{below.name}" for below in sorted(_below(entry, needed=parted)))
    except OSError as error:
        raise cannot_read(Path(error.filename or folder), error) from error


def _below(folder: Path, *, needed: bool) -> list[Path]:
    """What a folder holds; unless it is ``needed``, it only helps errors, and may be one that cannot be read."""
    try:
        return list(folder.iterdir())
    except OSError:
        if needed:
            raise
        return []


def _read_indexed(folder: Path, weights: Weights) -> list[File]:
    """The shards that the index names, each holding what the index says it holds."""
    assert weights.index is not None
    index = member(folder, weights.index)
    listed: dict[str, list[str]] = {}
    for tensor, name in read_index(index).items():
        listed.setdefault(name, []).append(tensor)
    if not listed:
        raise CheckpointError(Problem("the index names no tensor", file=str(index), fix="download it again"))
    cached = commit_of(folder) is not None

    def read(name: str) -> File:
        path = member(folder, name)
        if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises for names that are too long
            fix = "the hub's cache is incomplete: run once with network access" if cached else "download it again"
            raise CheckpointError(Problem(f"missing: the index {index.name} names it", file=str(path), fix=fix))
        file = read_file(path)
        held = {ref.name for ref in file.tensors}
        lacking = [tensor for tensor in listed[name] if tensor not in held]
        if lacking:
            message = f"the index {index.name} puts it here, but it is not{_more(len(lacking))}"
            fix = "index and shards are of different versions: download both again"
            raise CheckpointError(Problem(message, tensor=lacking[0], file=str(path), fix=fix))
        return file

    return _each([partial(read, name) for name in sorted(listed, key=natural)])


def _each(steps: list[Callable[[], T]]) -> list[T]:
    """Every step's result, or one error with the problems of all of them."""
    results = []
    problems: list[Problem] = []
    for step in steps:
        try:
            results.append(step())
        except CheckpointError as error:
            problems.extend(error.problems)
    more = len(problems) - _MAX_PROBLEMS
    if more > 0:
        problems[_MAX_PROBLEMS:] = [Problem(f"and {more} more problems of this checkpoint")]
    if problems:
        raise CheckpointError(*problems)
    return results


def _read_member(folder: Path, name: str) -> File:
    return read_file(member(folder, name))


def read_file(path: Path) -> File:
    """Read one file of weights; what it is shows in its first bytes, not in its name."""
    lead, stamp = _lead(path)
    if path.suffix == ".safetensors" or looks_like_header(lead):
        header = read_header(path)
        return File(path, _refs(path, header.entries), _facts(path, header.file_bytes, header.xxh3), stamp)
    foreign = _FOREIGN_LEADS.get(lead[:4])
    if foreign is not None:
        fix = "use the safetensors version of this model"
        raise UnsupportedError(Problem(f"{foreign} files are not supported", file=str(path), fix=fix))
    from stockpot.checkpoint.legacy import is_legacy, read_legacy  # seldom needed

    if not is_legacy(lead):
        fix = "name a .safetensors file, a PyTorch checkpoint, or a folder that holds them"
        raise CheckpointError(Problem("not a checkpoint that Stockpot knows", file=str(path), fix=fix))
    legacy = read_legacy(path)
    return File(path, legacy.tensors, _facts(path, legacy.file_bytes, legacy.xxh3), stamp, legacy.skipped)


def _lead(path: Path) -> tuple[bytes, Stamp]:
    """The first bytes of a file, and its stamp."""
    try:
        must_be_file(path)
        with path.open("rb") as file:
            return file.read(16), Stamp.of(os.fstat(file.fileno()))
    except OSError as error:
        raise cannot_read(path, error) from error


def _refs(path: Path, entries: Iterable[HeaderEntry]) -> tuple[TensorRef, ...]:
    return tuple(TensorRef(e.name, e.dtype, e.shape, str(path), e.begin) for e in entries)


def _open_gguf(label: str, path: Path, folder: Path | None, config: Mapping[str, Any]) -> Checkpoint:
    """The model that a GGUF file and its other parts hold; without a whole config.json beside it one is made."""
    from stockpot.checkpoint.gguf.header import read_gguf_header  # seldom needed
    from stockpot.checkpoint.gguf.model import understood
    from stockpot.checkpoint.gguf.names import parts_of

    paths = [member(path.parent, name) for name in parts_of(path.name)] if path.suffix == ".gguf" else [path]
    stamps = _each([partial(_stamp, place) for place in paths])
    headers = list(zip(paths, _each([partial(read_gguf_header, place) for place in paths]), strict=True))
    model = understood(label, headers)
    files = [
        File(
            place,
            tuple(replace(ref, name=model.names[ref.name]) for ref in _refs(place, header.entries)),
            _facts(place, header.file_bytes, header.xxh3),
            stamp,
        )
        for (place, header), stamp in zip(headers, stamps, strict=True)
    ]
    whole = "model_type" in config and "num_hidden_layers" in config
    found = checkpoint_of(label, path, files, folder, config if whole else model.config)
    return replace(
        found,
        codings=model.codings,
        aside=model.aside,
        unfit=model.unfit,
        made_config=not whole,
        config_fault="" if whole else model.config_fault,
    )


def _stamp(path: Path) -> Stamp:
    return _lead(path)[1]


def _facts(path: Path, size: int, xxh3: str) -> Mapping[str, Any]:
    return {"name": path.name, "bytes": size, "header_xxh3": xxh3}
