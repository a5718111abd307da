"""The output's layout, fixed before any payload byte is written.

Headers are known from names, dtypes and shapes alone. So they are written first, and then every
tensor's bytes can be written at their final place, in any order and from any thread or machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from stockpot.checkpoint.dtypes import DType
from stockpot.checkpoint.header import MAX_HEADER_BYTES, HeaderEntry, encode_header, is_unicode
from stockpot.checkpoint.storage import cannot_write, reserve, write_all
from stockpot.errors import CheckpointError, Problem

__all__ = ["ShardLayout", "create_files", "index_files", "layout"]

_METADATA = {"format": "pt"}
"""What transformers expects of a file: which framework's layout its tensors have."""

Named = tuple[str, DType, tuple[int, ...]]


@dataclass(frozen=True)
class ShardLayout:
    """One output file.

    Args:
        file: Its name.
        header: Its first bytes, up to the payload.
        size: Its size in bytes, header included.
        offsets: Tensor name → its first byte, counted from the file's start, in order. In a file of a folder, its name
            there follows the folder's: ``unet/conv_in.weight``.
    """

    file: str
    header: bytes
    size: int
    offsets: Mapping[str, int]

    @property
    def payload_bytes(self) -> int:
        """Bytes of all its tensors."""
        return self.size - len(self.header)


def layout(tensors: Sequence[Named], shard_size: int, stem: str = "model", folder: str = "") -> tuple[ShardLayout, ...]:
    """Share ``tensors`` out to files of at most ``shard_size`` payload bytes, in the order given.

    A larger tensor gets a file of its own. Within a file, tensors of wider dtypes come first (the
    order is otherwise kept), so that each begins at a multiple of its element's size; safetensors
    itself lays files out so, and some readers need it.

    Args:
        tensors: Name, dtype and shape of each.
        shard_size: Bytes, at least 1.
        stem: First part of the file names.
        folder: Folder that the files go to, with which all names begin, a stroke between; empty for the output itself.

    >>> from stockpot.checkpoint.dtypes import DTYPES
    >>> [s.file for s in layout([("a", DTYPES["F32"], (4,)), ("b", DTYPES["F32"], (4,))], 16)]
    ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']

    Raises:
        CheckpointError: when two tensors have one name, or a name cannot be written.
    """
    if shard_size < 1:
        raise CheckpointError(Problem(f"shards of {shard_size} bytes", fix="give a size of at least one byte"))
    _check_names(tensors)
    shards = list(_share(tensors, shard_size)) or [[]]
    count = len(shards)
    below = f"{folder}/" if folder else ""
    files = (
        f"{below}{stem}-{number:05d}-of-{count:05d}.safetensors" if count > 1 else f"{below}{stem}.safetensors"
        for number in range(1, count + 1)
    )
    return tuple(_shard(file, shard, below) for file, shard in zip(files, shards, strict=True))


def index_files(layouts: Sequence[ShardLayout]) -> dict[str, bytes]:
    """Name → content of each folder's index that says which file holds which tensor; none for a single file."""
    folders: dict[str, list[ShardLayout]] = {}
    for shard in layouts:
        folders.setdefault(shard.file.rpartition("/")[0], []).append(shard)
    return dict(_index(folder, shards) for folder, shards in folders.items() if len(shards) > 1)


def _index(folder: str, layouts: Sequence[ShardLayout]) -> tuple[str, bytes]:
    below = f"{folder}/" if folder else ""
    stem = layouts[0].file.rsplit("-", 3)[0]
    total = sum(shard.payload_bytes for shard in layouts)
    weights = {name.removeprefix(below): shard.file.removeprefix(below) for shard in layouts for name in shard.offsets}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weights.items()))}
    return f"{stem}.safetensors.index.json", (json.dumps(index, indent=2, ensure_ascii=False) + "\n").encode()


def create_files(folder: Path, layouts: Sequence[ShardLayout]) -> None:
    """Create every file in ``folder`` with its header and final size.

    The space is reserved where the file system can do that, so that a disk that is too small shows
    at once; nothing is filled with zeros. Files that exist keep their payload, so a merge that was
    broken off can be resumed.

    Raises:
        StorageError: when a file cannot be written; it names the file.
    """
    for shard in layouts:
        path = folder / shard.file
        try:
            if "/" in shard.file:
                path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
            try:
                write_all(descriptor, shard.header, 0)
                os.ftruncate(descriptor, shard.size)
                reserve(descriptor, shard.size)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise cannot_write(path, error) from error


def _check_names(tensors: Sequence[Named]) -> None:
    seen: set[str] = set()
    problems = []
    for name, _, _ in tensors:
        if name in seen:
            problems.append(Problem("two output tensors have this name", tensor=name))
        elif name == "__metadata__":
            problems.append(Problem("the format keeps this name for itself", tensor=name, fix="rename it"))
        elif not is_unicode(name):
            problems.append(Problem("its name is not valid Unicode", tensor=ascii(name)))
        seen.add(name)
    if problems:
        raise CheckpointError(*problems)


def _share(tensors: Sequence[Named], shard_size: int) -> Iterator[list[Named]]:
    shard: list[Named] = []
    used = 0
    for tensor in tensors:
        size = _nbytes(tensor)
        if shard and used + size > shard_size:
            yield shard
            shard, used = [], 0
        shard.append(tensor)
        used += size
    if shard:
        yield shard


def _nbytes(tensor: Named) -> int:
    return tensor[1].nbytes(prod(tensor[2]))


def _shard(file: str, tensors: Sequence[Named], below: str) -> ShardLayout:
    entries = []
    position = 0
    for name, dtype, shape in sorted(tensors, key=lambda t: -t[1].bits):
        end = position + dtype.nbytes(prod(shape))
        entries.append(HeaderEntry(name.removeprefix(below), dtype, tuple(shape), position, end))
        position = end
    header = encode_header(entries, _METADATA)
    if len(header) - 8 > MAX_HEADER_BYTES:
        message = f"a header of {len(header)} bytes exceeds the format's {MAX_HEADER_BYTES}"
        raise CheckpointError(Problem(message, file=file, fix="write smaller shards"))
    offsets = {below + entry.name: len(header) + entry.begin for entry in entries}
    return ShardLayout(file, header, len(header) + position, offsets)
