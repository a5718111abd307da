"""PyTorch's pickles (.bin, .pt, .pth, .th, .ckpt), read without PyTorch and without trust.

Both of its containers are read: the zip file of PyTorch ≥ 1.6 and the stream of pickles before it.
Only the pickle is parsed, by a machine that cannot run code; tensors become places in the file, so
their bytes stream like those of any other checkpoint.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import xxhash

from stockpot.checkpoint.header import name_fault
from stockpot.checkpoint.model import TensorRef
from stockpot.checkpoint.pickles import Budget, run_pickle
from stockpot.checkpoint.places import cannot_read
from stockpot.checkpoint.torchnames import (
    DamagedError,
    RefusedError,
    StorageRecord,
    TensorRecord,
    Unreadable,
)
from stockpot.checkpoint.unwrap import state_dict
from stockpot.errors import CheckpointError, Problem

__all__ = ["MAX_PICKLE_BYTES", "LegacyFile", "is_legacy", "read_legacy"]

MAX_PICKLE_BYTES = 64 << 20
"""A pickle of 100 000 tensors takes about 20 MB."""

_MAX_DIRECTORY_BYTES = 32 << 20
_MAX_MEMBERS = 250_000
_DIRECTORY_ENTRY = b"PK\x01\x02"
_MAX_PROBLEMS = 20
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_ZIP = b"PK\x03\x04"
_LOCAL_HEADER = struct.Struct("<4s3H4L2H")
_CONVERT = (
    'with PyTorch at hand: python -c "import torch, safetensors.torch as s; '
    "d = torch.load('FILE', map_location='cpu', weights_only=True); "
    "s.save_file({k: v.clone().contiguous() for k, v in d.items()}, 'model.safetensors')\""
)
_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, struct.error, ValueError, LookupError, RuntimeError, EOFError,
    OverflowError,
)  # fmt: skip
"""What zipfile raises for damaged files (NotImplementedError and UnicodeError are among these)."""


@dataclass(frozen=True)
class LegacyFile:
    """A checked pickle file.

    Args:
        tensors: Its tensors in the order of its state dict.
        skipped: Names of what stands in it beside the model's tensors.
        xxh3: Hex xxh3_128 of its pickle.
        file_bytes: Size of the whole file.
    """

    tensors: tuple[TensorRef, ...]
    skipped: tuple[str, ...]
    xxh3: str
    file_bytes: int


@dataclass(frozen=True)
class _Contents:
    """The pickled value, (first byte, bytes) of each storage, and the pickle's hash."""

    value: Any
    ranges: Mapping[str, tuple[int, int]]
    xxh3: str


class _Bounded(io.BufferedReader):
    """A file of which at most ``limit`` bytes are read: lengths in it are claims, not facts."""

    def __init__(self, path: Path, limit: int) -> None:
        super().__init__(io.FileIO(path))
        self._left = limit
        self._size = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        return self._counted(super().read(self._allowed(size)))

    def readline(self, size: int | None = -1, /) -> bytes:
        return self._counted(super().readline(self._allowed(size)))

    def _allowed(self, size: int | None) -> int:
        """No more than the limit, nor than the file has: a read allocates all that it asks for."""
        wanted = self._left + 1 if size is None or size < 0 else min(size, self._left + 1)
        return wanted if wanted < 4096 else min(wanted, max(0, self._size - self.tell()))

    def _counted(self, data: bytes) -> bytes:
        if len(data) > 1 << 20 and data.count(_DIRECTORY_ENTRY) > _MAX_MEMBERS:  # each would become an object
            raise DamagedError(f"a zip file of more than {_MAX_MEMBERS} members")
        self._left -= len(data)
        if self._left < 0:
            raise DamagedError(f"more than {MAX_PICKLE_BYTES >> 20} MiB of pickle or file directory")
        return data


def is_legacy(lead: bytes) -> bool:
    """Whether a file that begins with ``lead`` can be one that PyTorch wrote."""
    return lead[:4] == _ZIP or (lead[:1] == b"\x80" and b"\x02" <= lead[1:2] <= b"\x05")


def read_legacy(path: Path) -> LegacyFile:
    """Read the pickle of the file at ``path``; no payload is touched and no code can run.

    Raises:
        CheckpointError: when it is damaged, would run code, or holds tensors that do not lie in one
            piece; it names file and tensor.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            is_zip = file.read(4) == _ZIP
        contents = _open_zip(path, size) if is_zip else _open_stream(path, size)
    except RefusedError as error:
        fix = "if you trust its maker, load it with PyTorch and save its state_dict() as safetensors"
        message = f"refused: it would run code ({error})"
        raise CheckpointError(Problem(message, file=str(path), fix=fix)) from error
    except DamagedError as error:
        message = f"not a readable PyTorch checkpoint: {error}"
        fix = f"download it again, or convert it {_CONVERT}"
        raise CheckpointError(Problem(message, file=str(path), fix=fix)) from error
    except OSError as error:
        raise cannot_read(path, error) from error
    found = state_dict(contents.value, str(path))
    placed = [_place(path, name, leaf, contents.ranges) for name, leaf in found.tensors.items()]
    problems = [p for p in placed if isinstance(p, Problem)]
    if problems:
        more = len(problems) - _MAX_PROBLEMS
        rest = [Problem(f"and {more} more tensors", file=str(path))] if more > 0 else []
        raise CheckpointError(*problems[:_MAX_PROBLEMS], *rest)
    tensors = tuple(p for p in placed if isinstance(p, TensorRef))
    return LegacyFile(tensors, found.skipped, contents.xxh3, size)


def _open_zip(path: Path, size: int) -> _Contents:
    try:
        with (
            _Bounded(path, MAX_PICKLE_BYTES + _MAX_DIRECTORY_BYTES) as file,
            zipfile.ZipFile(file) as archive,
        ):
            members = archive.infolist()
            root = _root(members)
            ranges = {
                member.filename.removeprefix(f"{root}data/"): _range(file, member, size)
                for member in members
                if member.filename.startswith(f"{root}data/")
            }
            _must_not_overlap(ranges)
            by_name = {member.filename: member for member in members}
            order = by_name.get(f"{root}byteorder")
            if order is not None and _member(archive, order, 16) != b"little":
                raise DamagedError("its numbers are big-endian")
            raw = _member(archive, by_name[f"{root}data.pkl"], MAX_PICKLE_BYTES)
    except _ZIP_ERRORS as error:
        raise DamagedError("a truncated or damaged zip file") from error
    pickled = run_pickle(io.BytesIO(raw))
    return _Contents(pickled.value, ranges, xxhash.xxh3_128_hexdigest(raw))


def _root(members: list[zipfile.ZipInfo]) -> str:
    """The folder in the archive that holds everything, with its slash."""
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        raise DamagedError("two members of the zip file have one name")
    roots = [name.removesuffix("data.pkl") for name in names if name.endswith("data.pkl") and name.count("/") < 2]
    if len(roots) != 1:
        raise DamagedError("a zip file without PyTorch's data.pkl")
    if f"{roots[0]}constants.pkl" in names:
        raise DamagedError("a TorchScript program, not a state dict")
    return roots[0]


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int) -> bytes:
    if member.file_size > limit:
        raise DamagedError(f"{_shown(member)} is larger than {limit} bytes")
    _must_be_stored(member)
    return archive.read(member)


def _must_be_stored(member: zipfile.ZipInfo) -> None:
    """PyTorch compresses nothing; a member that is could also unpack to a thousand times its claimed size."""
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 or member.file_size != member.compress_size:
        raise DamagedError(f"{_shown(member)} is compressed or encrypted, so its bytes cannot be streamed")


def _must_not_overlap(ranges: Mapping[str, tuple[int, int]]) -> None:
    """Members that share bytes would let a small file claim to hold endless tensors."""
    end = 0
    for start, length in sorted(ranges.values()):
        if start < end:
            raise DamagedError("members of the zip file overlap")
        end = start + length


def _shown(member: zipfile.ZipInfo) -> str:
    return ascii(member.filename[:80])


def _range(file: _Bounded, member: zipfile.ZipInfo, size: int) -> tuple[int, int]:
    """First byte and number of bytes of an uncompressed member."""
    _must_be_stored(member)
    file.seek(member.header_offset)
    fields = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    start = member.header_offset + _LOCAL_HEADER.size + fields[-2] + fields[-1]
    if fields[0] != _ZIP or start + member.file_size > size:
        raise DamagedError(f"{_shown(member)} reaches beyond the file")
    return start, member.file_size


def _open_stream(path: Path, size: int) -> _Contents:
    with _Bounded(path, MAX_PICKLE_BYTES) as file:
        budget = Budget()
        lead = [run_pickle(file, budget).value for _ in range(2)] if size > 0 else []
        if lead != [_MAGIC, _PROTOCOL]:
            raise DamagedError("neither of PyTorch's two formats")
        system = run_pickle(file, budget).value
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise DamagedError("its numbers are big-endian")
        pickled = run_pickle(file, budget)
        keys = run_pickle(file, budget).value
        end = file.tell()
    with path.open("rb") as again:
        digest = xxhash.xxh3_128_hexdigest(again.read(end))
    if not isinstance(keys, list) or not all(isinstance(key, str | int) for key in keys):
        raise DamagedError("no list of its storages")
    names = list(map(str, keys))
    if len(names) > _MAX_MEMBERS or len(set(names)) < len(names):
        raise DamagedError(f"a list of storages that names one twice, or more than {_MAX_MEMBERS}")
    return _Contents(pickled.value, _storages(path, names, pickled.storages, end, size), digest)


def _storages(
    path: Path, keys: list[str], records: Mapping[str, StorageRecord], position: int, size: int
) -> dict[str, tuple[int, int]]:
    """Where each storage lies: each is preceded by its number of elements, in eight bytes."""
    ranges: dict[str, tuple[int, int]] = {}
    with path.open("rb") as file:
        for key in keys:
            record = records.get(key)
            file.seek(position)
            count = file.read(8)
            if record is None or record.dtype is None or len(count) < 8:
                raise DamagedError("truncated, or with a storage of unknown dtype")
            length = int.from_bytes(count, "little") * record.dtype.itemsize
            if position + 8 + length > size:
                raise DamagedError("truncated: a storage reaches beyond the file")
            ranges[key] = (position + 8, length)
            position += 8 + length
    return ranges


def _place(
    path: Path, name: str, leaf: TensorRecord | Unreadable, ranges: Mapping[str, tuple[int, int]]
) -> TensorRef | Problem:
    """Where the tensor's bytes lie in the file, or why they cannot be streamed from it."""

    def problem(message: str) -> Problem:
        return Problem(message, tensor=name, file=str(path), fix=f"re-save as safetensors, {_CONVERT}")

    if isinstance(leaf, Unreadable):
        return problem(f"it is {leaf.kind}")
    fault = name_fault(name)
    if fault is not None:
        return problem(fault)
    if not _contiguous(leaf.shape, leaf.stride):
        return problem("its elements do not lie in one piece (a non-contiguous view)")
    start, length = ranges.get(leaf.storage.key, (-1, 0))
    if start < 0:
        return problem("its data is missing from the file")
    begin = leaf.offset * leaf.dtype.itemsize
    if begin + leaf.dtype.nbytes(prod(leaf.shape)) > length:
        return problem("its data reaches beyond its storage")
    return TensorRef(name, leaf.dtype, leaf.shape, str(path), start + begin)


def _contiguous(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    if 0 in shape:
        return True
    expected = 1
    for length, step in zip(reversed(shape), reversed(stride), strict=True):
        if length != 1 and step != expected:
            return False
        expected *= length
    return True
