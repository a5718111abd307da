"""The GGUF container: magic, version, metadata, then a description of each tensor, then aligned payload.

Nothing in a file is believed. Every count and length is compared with what is left of the file before anything is
read or allocated; arrays of the metadata (vocabularies) are walked through but not kept; names, dimensions, formats
and byte ranges are checked as those of safetensors are. Format: ggml's ``docs/gguf.md``, versions 2 and 3,
little-endian.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from stockpot.checkpoint.gguf.types import GGML_TYPES
from stockpot.checkpoint.header import MAX_NAME, MAX_TENSORS, HeaderEntry, name_fault
from stockpot.checkpoint.places import cannot_read, must_be_file
from stockpot.errors import CheckpointError, Problem, UnsupportedError

__all__ = ["MAX_KEYS", "MAX_STRINGS", "GgufHeader", "read_gguf_header"]

MAX_HEADER = 100_000_000
"""Bytes before the payload; vocabularies are the largest part, some 10 MB."""

MAX_KEYS = 10_000
"""Entries of metadata; real files have some 50."""

MAX_STRINGS = 1_000_000
"""Texts in arrays of a file; the largest vocabularies have 260 000 tokens and as many merges."""

MAX_KEPT = 200_000
"""Texts' bytes, and numbers, of the metadata that are kept; what is longer, such as vocabularies, is passed over."""

_DEEP = 4
_MAX_DIMENSIONS = 4
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_TEXT, _ARRAY = 8, 9
_SHORT = 4096
_PIECE = 1 << 20


@dataclass(frozen=True)
class GgufHeader:
    """A checked header.

    Args:
        entries: The tensors in the order of the file, shapes with the outermost dimension first, offsets counted
            from the file's start.
        metadata: Key → value: numbers, texts, and short lists of numbers; other lists are left out.
        file_bytes: Size of the whole file.
        xxh3: Hex xxh3_128 of all bytes before the payload.
    """

    entries: tuple[HeaderEntry, ...]
    metadata: Mapping[str, Any]
    file_bytes: int
    xxh3: str


class _BadError(Exception):
    """Something in the file that is refused; the text says what."""

    def __init__(self, message: str, tensor: str | None = None) -> None:
        super().__init__(message)
        self.tensor = tensor


def read_gguf_header(path: Path) -> GgufHeader:
    """Read and check the header of the GGUF file at ``path``; the payload is not touched.

    Raises:
        CheckpointError: naming the file, and the tensor where one is at fault. UnsupportedError: for formats of
        numbers and versions that are not read.
    """
    try:
        must_be_file(path)
        with path.open("rb", buffering=1 << 16) as file:
            return _Reader(file, path).header()
    except OSError as error:
        raise cannot_read(path, error) from error
    except _BadError as error:
        fix = "the file is truncated or damaged: download it again"
        tensor = error.tensor
        if tensor is not None and (len(tensor) > 200 or not tensor.isprintable()):
            tensor = ascii(tensor)[:80]
        raise CheckpointError(Problem(str(error), tensor=tensor, file=str(path), fix=fix)) from None


class _Reader:
    """Reads a header from its first byte on."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._size = os.fstat(file.fileno()).st_size
        self._most = min(self._size, MAX_HEADER)
        self._place = 0
        self._strings, self._kept = 0, 0

    def header(self) -> GgufHeader:
        """All of it, checked."""
        self._version()
        tensors, keys = self._number("<Q"), self._number("<Q")
        if tensors > MAX_TENSORS:
            raise _BadError(f"the header names {tensors} tensors; at most {MAX_TENSORS} are read")
        if keys > MAX_KEYS:
            raise _BadError(f"the header has {keys} entries of metadata; at most {MAX_KEYS} are read")
        metadata = self._metadata(keys)
        described = [self._described() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
            raise _BadError(f"impossible alignment {str(alignment)[:40]}")
        start = -(-self._place // alignment) * alignment
        entries = self._placed(described, start, alignment)
        return GgufHeader(tuple(entries), metadata, self._size, self._hash(min(start, self._size)))

    def _version(self) -> None:
        if self._bytes(4) != b"GGUF":
            raise _BadError("not a GGUF file")
        version = self._number("<I")
        if version in (2, 3):
            return
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        kind = "big-endian GGUF" if swapped in (2, 3) else f"version {version} of GGUF"
        fix = "convert the model again with a present llama.cpp, for little-endian machines"
        raise UnsupportedError(Problem(f"{kind} is not read", file=str(self._path), fix=fix))

    def _metadata(self, keys: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        seen: set[str] = set()
        for _ in range(keys):
            key = self._text(MAX_NAME, "a key of metadata")
            if key in seen:
                raise _BadError(f"two values of metadata {ascii(key)[:80]}")
            seen.add(key)
            value = self._value(self._number("<I"), 0)
            if value is not None:
                found[key] = value
        return found

    def _value(self, kind: int, depth: int) -> Any:
        """A value of metadata; None for what is passed over."""
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _TEXT:
            return self._long_text()
        if kind != _ARRAY:
            raise _BadError(f"unknown type {kind} in the metadata")
        if depth == _DEEP:
            raise _BadError("arrays in the metadata are nested too deeply")
        return self._array(self._number("<I"), self._number("<Q"), depth)

    def _array(self, kind: int, count: int, depth: int) -> Any:
        if kind in _SCALARS:
            width = struct.calcsize(_SCALARS[kind])
            if not self._wanted(count):
                self._skip(count * width)
                return None
            return list(struct.unpack(f"<{count}{_SCALARS[kind][1]}", self._bytes(count * width)))
        self._strings += count
        if self._strings > MAX_STRINGS:
            raise _BadError(f"more than {MAX_STRINGS} texts in the metadata's arrays")
        for _ in range(count):
            if kind == _TEXT:
                self._skip(self._number("<Q"))
            else:
                self._value(kind, depth + 1)
        return None

    def _described(self) -> tuple[str, int, tuple[int, ...], int]:
        """Name, format, shape (outermost dimension first) and offset within the payload."""
        name = self._text(MAX_NAME, "a tensor's name")
        fault = name_fault(name)
        if fault is not None:
            raise _BadError(fault)
        dimensions = self._number("<I")
        if dimensions > _MAX_DIMENSIONS:
            raise _BadError(f"a shape of {dimensions} dimensions; GGUF has at most {_MAX_DIMENSIONS}", name)
        shape = tuple(self._number("<Q") for _ in range(dimensions))[::-1]
        return name, self._number("<I"), shape, self._number("<Q")

    def _placed(
        self, described: list[tuple[str, int, tuple[int, ...], int]], start: int, alignment: int
    ) -> list[HeaderEntry]:
        """The tensors, each with its bytes inside the file and to itself."""
        entries, seen = [], set()
        for name, kind, shape, offset in described:
            if name in seen:
                raise _BadError("the header names it twice", name)
            seen.add(name)
            entries.append(self._entry(name, kind, shape, start + offset, alignment if offset % alignment else 0))
        entries.sort(key=lambda e: (e.begin, e.end))
        position = start
        for entry in entries:
            if entry.begin < position:
                raise _BadError("byte range overlaps the one before it", entry.name)
            position = entry.end
        return entries

    def _entry(self, name: str, kind: int, shape: tuple[int, ...], begin: int, misaligned: int) -> HeaderEntry:
        dtype = GGML_TYPES.get(kind)
        if dtype is None:
            fix = "use a file in one of the usual formats: F16, BF16, Q8_0, Q4_K_M, …"
            raise UnsupportedError(
                Problem(f"format {kind} of GGUF is not read", tensor=ascii(name)[1:81], file=str(self._path), fix=fix)
            )
        if prod(n for n in shape if n) > 1 << 62:
            raise _BadError("impossible shape", name)
        if shape and shape[-1] % dtype.per:
            raise _BadError(f"rows of {shape[-1]} elements are no whole groups of {dtype.code}", name)
        if not shape and dtype.per > 1:
            raise _BadError(f"a scalar in {dtype.code}", name)
        if misaligned:
            raise _BadError(f"its offset is no multiple of {misaligned}", name)
        end = begin + dtype.nbytes(prod(shape))
        if end > self._size:
            raise _BadError(f"truncated: its bytes end at {end}, the file at {self._size}", name)
        return HeaderEntry(name, dtype, shape, begin, end)

    def _hash(self, stop: int) -> str:
        digest, left = xxhash.xxh3_128(), stop
        self._file.seek(0)
        while left > 0:
            piece = self._file.read(min(_PIECE, left))
            if not piece:
                raise _BadError("the file shrank while its header was read")
            digest.update(piece)
            left -= len(piece)
        return digest.hexdigest()

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._bytes(struct.calcsize(form)))[0]

    def _text(self, most: int, what: str) -> str:
        length = self._number("<Q")
        if length > most:
            raise _BadError(f"{what} of {length} bytes; at most {most} are read")
        try:
            return self._bytes(length).decode()
        except UnicodeDecodeError:
            raise _BadError(f"{what} is not valid Unicode") from None

    def _long_text(self) -> str | None:
        """A text; None where it is long, or none."""
        length = self._number("<Q")
        if not self._wanted(length):
            self._skip(length)
            return None
        try:
            return self._bytes(length).decode()
        except UnicodeDecodeError:
            return None

    def _wanted(self, count: int) -> bool:
        """Whether so many bytes or numbers are kept."""
        wanted = count <= _SHORT and self._kept + count <= MAX_KEPT
        self._kept += count if wanted else 0
        return wanted

    def _bytes(self, count: int) -> bytes:
        self._advance(count)
        data = self._file.read(count)
        if len(data) < count:
            raise _BadError("the file shrank while its header was read")
        return data

    def _skip(self, count: int) -> None:
        self._advance(count)
        self._file.seek(count, os.SEEK_CUR)

    def _advance(self, count: int) -> None:
        """Count bytes that are about to be read: no more than the file has, nor than a header may have."""
        self._place += count
        if self._place > self._size:
            raise _BadError(f"truncated: the header goes on beyond the file's {self._size} bytes")
        if self._place > self._most:
            raise _BadError(f"a header of more than {MAX_HEADER} bytes")
