"""The safetensors header: golden bytes, strictness, and no way for hostile bytes to do harm."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stockpot.checkpoint.dtypes import DTYPES
from stockpot.checkpoint.header import MAX_HEADER_BYTES, HeaderEntry, encode_header, read_header
from stockpot.errors import CheckpointError


def file_of(header: Any, payload: bytes = b"", length: int | None = None) -> bytes:
    """A file with this header, given as JSON text or as a value."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + payload


def entry(begin: int, end: int, shape: list[int], dtype: str = "U8") -> dict[str, Any]:
    """One tensor of a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def refused(folder: Path, content: bytes) -> str:
    """The message with which a file of this content is refused."""
    path = folder / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert all(problem.file == str(path) for problem in caught.value.problems)
    return str(caught.value)


def test_golden_bytes() -> None:
    """A header is byte for byte what the format says: length, compact JSON, spaces up to 8."""
    entries = [
        HeaderEntry("b", DTYPES["F32"], (2, 1), 0, 8),
        HeaderEntry("ä", DTYPES["BF16"], (), 8, 10),
    ]
    text = (
        '{"__metadata__":{"format":"pt"},'
        '"b":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},'
        '"ä":{"dtype":"BF16","shape":[],"data_offsets":[8,10]}}'
    ).encode()
    padding = b" " * (-len(text) % 8)
    expected = struct.pack("<Q", len(text + padding)) + text + padding
    assert encode_header(entries, {"format": "pt"}) == expected


def test_reads_tensors_in_byte_order(tmp_path: Path) -> None:
    """Tensors come in the order of their bytes, with offsets from the file's start."""
    header = {
        "late": entry(4, 8, [1], "F32"),
        "early": entry(0, 4, [4]),
        "empty": entry(4, 4, [0, 3], "F64"),
        "__metadata__": {"format": "pt"},
    }
    path = tmp_path / "x.safetensors"
    path.write_bytes(file_of(header, bytes(8)))
    found = read_header(path)
    start = 8 + len(found.raw)
    assert [(e.name, e.begin - start, e.end - start) for e in found.entries] == [
        ("early", 0, 4),
        ("empty", 4, 4),
        ("late", 4, 8),
    ]
    assert found.metadata == {"format": "pt"}
    assert found.file_bytes == path.stat().st_size


def test_hash_covers_length_and_json(tmp_path: Path, save: Callable[..., Path]) -> None:
    """The header's hash is xxh3_128 of the file's bytes before the payload."""
    path = save(tmp_path / "x.safetensors", {"a": np.zeros(3, np.float32)})
    header = read_header(path)
    first = path.read_bytes()[: 8 + len(header.raw)]
    assert header.xxh3 == xxhash.xxh3_128_hexdigest(first)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no room for a header"),
        (b"\x02\0\0\0\0\0\0", "no room for a header"),
        (file_of({}, length=3), "longer than the file"),
        (file_of({}, length=MAX_HEADER_BYTES + 1), "exceeds"),
        (file_of({}, length=2**64 - 1), "exceeds"),
        (file_of(b"[]"), "not a JSON object"),
        (file_of(b" {}"), "not a JSON object"),
        (file_of(b"{"), "not valid JSON"),
        (file_of(b"{'a'}"), "not valid JSON"),
        (file_of("{}".encode("utf-16")), "not valid JSON"),
        (file_of(b"[" * 100_000), "not valid JSON"),
        (file_of({"__metadata__": [], "a": entry(0, 1, [1])}, b"x"), "__metadata__"),
        (file_of({"__metadata__": {"a": 1}}), "__metadata__"),
        (file_of(b'{"a":1,"a":2}'), "names it twice"),
        (file_of({"a": 1}), "lacks dtype"),
        (file_of({"a": {"dtype": "F32", "shape": []}}), "lacks dtype"),
        (file_of({"a": entry(0, 1, [1], "Q4")}, b"x"), "unknown dtype"),
        (file_of({"a": {**entry(0, 1, [1]), "dtype": []}}, b"x"), "unknown dtype"),
        (file_of({"a": entry(0, 1, [-1])}, b"x"), "impossible shape"),
        (file_of({"a": {**entry(0, 1, [1]), "shape": [True]}}, b"x"), "impossible shape"),
        (file_of({"a": {**entry(0, 1, [1]), "shape": [1.0]}}, b"x"), "impossible shape"),
        (file_of({"a": entry(0, 1, [2**62, 2**62])}, b"x"), "impossible shape"),
        (file_of({"a": entry(1, 0, [1])}, b"x"), "impossible data_offsets"),
        (
            file_of({"a": {**entry(0, 1, [1]), "data_offsets": [0]}}, b"x"),
            "impossible data_offsets",
        ),
        (file_of({"a": entry(0, 4, [4])}, b"xyz"), "truncated"),
        (file_of({"a": entry(0, 2**61, [2**61])}, b"x"), "truncated"),
        (file_of({"a": entry(0, 3, [4])}, b"xyz"), "do not hold"),
        (file_of({"a": entry(0, 1, [3], "F4")}, b"x"), "do not hold"),
        (file_of({"a": entry(0, 2, [2]), "b": entry(1, 3, [2])}, b"xyz"), "overlaps"),
        (file_of({"a": entry(0, 2, [2]), "b": entry(0, 2, [2])}, b"xy"), "overlaps"),
        (file_of({"a": entry(0, 1, [1]), "b": entry(2, 3, [1])}, b"xyz"), "gap"),
        (file_of({"a": entry(1, 2, [1])}, b"xy"), "gap"),
        (file_of({"a": entry(0, 1, [1])}, b"xyz"), "2 bytes follow"),
        (file_of(b'{"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"), "Unicode"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    """Every kind of damage is told by name, and the message names the file."""
    assert words in refused(tmp_path, content)


def test_error_names_the_tensor(tmp_path: Path) -> None:
    """Where one tensor is at fault, the problem carries its name and a fix."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(file_of({"good": entry(0, 1, [1]), "bad": entry(1, 9, [8])}, b"xy"))
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert caught.value.problems[0].tensor == "bad"
    assert "download" in (caught.value.problems[0].fix or "")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    """What is not a file is refused without an exception of the system's."""
    with pytest.raises(CheckpointError, match="no such file"):
        read_header(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_header(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipe_does_not_hang(tmp_path: Path) -> None:
    """A named pipe without a writer is refused, not waited for."""
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_header(tmp_path / "x.safetensors")


def test_claimed_length_is_not_allocated(tmp_path: Path) -> None:
    """A header that claims to be huge costs no memory; messages about huge values stay short."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(file_of({}, length=MAX_HEADER_BYTES - 1))
    tracemalloc.start()
    with pytest.raises(CheckpointError):
        read_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    for name, shape in (("a", [2**40] * 10_000), ("a" * 100_000, [9])):
        assert len(refused(tmp_path, file_of({name: entry(0, 1, shape)}, b"x"))) < 1000


def test_names_cannot_command_the_terminal(tmp_path: Path) -> None:
    """Control characters in a tensor's name are spelt out in messages."""
    assert "\x1b" not in refused(tmp_path, file_of({"\x1b[2J": entry(0, 1, [9])}, b"x"))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
OFFSETS = st.lists(st.integers(-1, 12), max_size=3) | VALUES
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*DTYPES, "X"]) | VALUES,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | VALUES,
        "data_offsets": OFFSETS,
    }
)
HEADERS = st.dictionaries(st.text(max_size=6) | st.just("__metadata__"), ENTRIES | VALUES, max_size=4)


@settings(max_examples=300, deadline=None)
@given(content=st.binary(max_size=200))
@example(content=struct.pack("<Q", 2) + b"{}")
def test_arbitrary_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Any bytes either make a header or raise CheckpointError; nothing else comes out."""
    only_checkpoint_error(tmp_path_factory, content)


@settings(max_examples=300, deadline=None)
@given(header=HEADERS, payload=st.binary(max_size=12))
def test_arbitrary_headers(tmp_path_factory: pytest.TempPathFactory, header: dict[str, Any], payload: bytes) -> None:
    """Any JSON in any field either makes a header or raises CheckpointError."""
    only_checkpoint_error(tmp_path_factory, file_of(header, payload))


def only_checkpoint_error(factory: pytest.TempPathFactory, content: bytes) -> None:
    """Read ``content``; what is accepted covers the whole file without gaps."""
    path = factory.getbasetemp() / "arbitrary.safetensors"
    path.write_bytes(content)
    try:
        header = read_header(path)
    except CheckpointError:
        return
    position = 8 + len(header.raw)
    for item in header.entries:
        assert item.begin == position
        position = item.end
    assert position == len(content)
