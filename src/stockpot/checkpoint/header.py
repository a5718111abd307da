"""The safetensors container: eight bytes of header length, a JSON header, then the tensors' bytes.

Reading is strict. A file is refused when its header is longer than the file, is not a JSON object,
names a tensor twice, or when the byte ranges of its tensors overlap, leave gaps, reach beyond the
file or disagree with dtype and shape. A refused file is never read further. Names, dimensions and
tensors are counted too: what reads on may rely on them being few.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any
from unicodedata import category

import xxhash

from stockpot.checkpoint.dtypes import DTYPES, DType
from stockpot.checkpoint.jsons import HEADER, BadJsonError, TwiceError, parse_json
from stockpot.checkpoint.places import cannot_read, must_be_file
from stockpot.errors import CheckpointError, Problem

__all__ = [
    "MAX_DIMENSIONS",
    "MAX_HEADER_BYTES",
    "MAX_NAME",
    "MAX_TENSORS",
    "Header",
    "HeaderEntry",
    "encode_header",
    "is_unicode",
    "looks_like_header",
    "name_fault",
    "read_header",
]

MAX_HEADER_BYTES = HEADER.most_bytes
"""The format's own limit on a header; a longer one is refused before it is read."""

MAX_TENSORS = 250_000
"""In one file. The largest public models have some 100 000 in all of their files together."""

MAX_DIMENSIONS = 32
"""Of one tensor; NumPy before 2.0 has no arrays of more."""

MAX_NAME = 2000
"""Characters of a tensor's name; real ones have some 100."""

_COMMANDS = ("Cc", "Cf", "Zl", "Zp")
"""Unicode's categories of control and format characters, line and paragraph separators."""

_FIELDS = ("dtype", "shape", "data_offsets")
_MAX_ELEMENTS = 2**62
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class HeaderEntry:
    """One tensor as its header describes it; ``begin`` and ``end`` count from the file's start."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """A checked header: tensors in the order of their bytes, and the free-form string metadata.

    Args:
        entries: The tensors.
        metadata: What stands under ``__metadata__``.
        raw: The JSON bytes, padding included, without the eight bytes of their length.
        file_bytes: Size of the whole file.
    """

    entries: tuple[HeaderEntry, ...]
    metadata: Mapping[str, str]
    raw: bytes
    file_bytes: int

    @cached_property
    def xxh3(self) -> str:
        """Hex xxh3_128 of the file's first bytes: the length and the JSON."""
        return str(xxhash.xxh3_128_hexdigest(struct.pack("<Q", len(self.raw)) + self.raw))


def read_header(path: Path) -> Header:
    """Read and check the header of the safetensors file at ``path``; the payload is not touched.

    Raises:
        CheckpointError: naming the file, and the tensor where one is at fault.
    """
    try:
        must_be_file(path)
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            lead = file.read(8)
            length = _length(path, lead, size)
            raw = file.read(length)
    except OSError as error:
        raise cannot_read(path, error) from error
    if len(raw) < length:
        raise _broken(path, "the file shrank while its header was read")
    return _parse(path, raw, size)


def encode_header(entries: Iterable[HeaderEntry], metadata: Mapping[str, str]) -> bytes:
    """The first bytes of a file that holds ``entries``, whose offsets here count from the payload.

    The JSON is padded with spaces so that the payload starts at a multiple of eight bytes.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    for entry in entries:
        header[entry.name] = {
            "dtype": entry.dtype.code,
            "shape": list(entry.shape),
            "data_offsets": [entry.begin, entry.end],
        }
    body = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    body += b" " * (-len(body) % 8)
    return struct.pack("<Q", len(body)) + body


def looks_like_header(lead: bytes) -> bool:
    """Whether a file that begins with ``lead`` (nine bytes or more) can be a safetensors file."""
    return len(lead) >= 9 and lead[8:9] == b"{" and int.from_bytes(lead[:8], "little") <= MAX_HEADER_BYTES


def _length(path: Path, lead: bytes, size: int) -> int:
    if len(lead) < 8:
        raise _broken(path, f"only {size} bytes long: no room for a header")
    length = int.from_bytes(lead, "little")
    if lead == _LFS_POINTER[:8]:
        fix = "fetch the weights: run `git lfs pull` in its folder"
        raise CheckpointError(Problem("a git-lfs pointer, not the weights themselves", file=str(path), fix=fix))
    if length > MAX_HEADER_BYTES:
        raise _broken(path, f"header of {length} bytes exceeds {MAX_HEADER_BYTES}")
    if length > size - 8:
        raise _broken(path, f"header of {length} bytes is longer than the file ({size} bytes)")
    return length


def _broken(path: Path, message: str, tensor: str | None = None) -> CheckpointError:
    fix = "the file is truncated or damaged: download or save it again"
    if tensor is not None and (len(tensor) > 200 or not tensor.isprintable()):
        tensor = _shown(tensor)
    return CheckpointError(Problem(message, tensor=tensor, file=str(path), fix=fix))


def _parse(path: Path, raw: bytes, size: int) -> Header:
    header = _load(path, raw)
    metadata = header.pop("__metadata__", None)
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _broken(path, "__metadata__ is not a map of strings to strings")
    _must_be_few(path, len(header))
    start = 8 + len(raw)
    entries = [_entry(path, name, value, start, size) for name, value in header.items()]
    entries.sort(key=lambda e: (e.begin, e.end))
    position = start
    for entry in entries:
        if entry.begin != position:
            word = "overlaps the one before it" if entry.begin < position else "leaves a gap before it"
            raise _broken(path, f"byte range {word}", entry.name)
        position = entry.end
    if position != size:
        raise _broken(path, f"{size - position} bytes follow the last tensor")
    return Header(tuple(entries), metadata, raw, size)


def _load(path: Path, raw: bytes) -> dict[str, Any]:
    _must_be_few(path, raw.count(b'"data_offsets"'))
    try:
        header = parse_json(raw, HEADER)
    except TwiceError as error:
        if error.key in _FIELDS:
            raise _broken(path, f"the header gives a tensor two values of {error.key}") from error
        raise _broken(path, "the header names it twice", error.key) from error
    except BadJsonError as error:
        raise _broken(path, f"the header is refused: {error}") from error
    if not isinstance(header, dict) or raw[:1] != b"{":
        raise _broken(path, "header is not a JSON object")
    return header


def _must_be_few(path: Path, tensors: int) -> None:
    if tensors > MAX_TENSORS:
        raise _broken(path, f"the header names {tensors} tensors; at most {MAX_TENSORS} are read")


def _entry(path: Path, name: str, value: Any, start: int, size: int) -> HeaderEntry:
    fault = name_fault(name)
    if fault is not None:
        raise _broken(path, fault, name)
    if not isinstance(value, dict) or not value.keys() >= set(_FIELDS):
        raise _broken(path, "entry lacks dtype, shape or data_offsets", name)
    dtype = DTYPES.get(value["dtype"]) if isinstance(value["dtype"], str) else None
    if dtype is None:
        raise _broken(path, f"unknown dtype {_shown(value['dtype'])}", name)
    shape, offsets = value["shape"], value["data_offsets"]
    elements = _elements(shape)
    if isinstance(shape, list) and len(shape) > MAX_DIMENSIONS:
        raise _broken(path, f"a shape of {len(shape)} dimensions; at most {MAX_DIMENSIONS} are read", name)
    if elements is None:
        raise _broken(path, f"impossible shape {_shown(shape)}", name)
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _broken(path, f"impossible data_offsets {_shown(offsets)}", name)
    begin, end = start + offsets[0], start + offsets[1]
    if end > size:
        raise _broken(path, f"truncated: its bytes end at {end}, the file at {size}", name)
    if (elements * dtype.bits) % 8 or end - begin != dtype.nbytes(elements):
        raise _broken(path, f"{end - begin} bytes do not hold {dtype.code} of shape {_shown(shape)}", name)
    return HeaderEntry(name, dtype, tuple(shape), begin, end)


def _elements(shape: Any) -> int | None:
    """Number of elements, or None for what is no shape.

    An empty tensor may not be absurd in its other dimensions either: arrays of it could not be made.
    """
    if not _naturals(shape) or len(shape) > MAX_DIMENSIONS:
        return None
    if prod(length for length in shape if length) > _MAX_ELEMENTS:
        return None
    return int(prod(shape))


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v <= _MAX_ELEMENTS for v in values)


def name_fault(name: str) -> str | None:
    r"""Why no tensor may be called so; None when one may.

    >>> name_fault("\x1b[2J")
    "a tensor's name holds control characters"
    """
    if not is_unicode(name):
        return "a tensor's name is not valid Unicode"
    if len(name) > MAX_NAME:
        return f"a tensor's name of {len(name)} characters; at most {MAX_NAME} are read"
    if not name.isprintable() and any(category(c) in _COMMANDS for c in name):
        return "a tensor's name holds control characters"
    return None


def is_unicode(name: str) -> bool:
    """Whether a file can hold this name; half a surrogate pair, which JSON can spell, it cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: Any) -> str:
    """``value`` for a message, cut short: a hostile header may hold a very long one."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."
