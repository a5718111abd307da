"""Reading payloads: right bytes from any thread, few open files, clear errors when files change."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stockpot.checkpoint import PayloadReader, TensorRef, from_arrays, open_checkpoint
from stockpot.errors import ExecutionError


@pytest.fixture
def ref(tmp_path: Path, save: Callable[..., Path]) -> TensorRef:
    """A tensor of 100 bytes, 0 … 99, in a file."""
    path = save(
        tmp_path / "m.safetensors",
        {"pad": np.zeros(3, np.uint8), "t": np.arange(100, dtype=np.uint8)},
    )
    return open_checkpoint(str(path)).tensors["t"]


def read(reader: PayloadReader, ref: TensorRef, start: int, length: int) -> bytes:
    """These bytes of the tensor."""
    room = bytearray(length)
    reader.read(ref, start, memoryview(room))
    return bytes(room)


def test_ranges(ref: TensorRef) -> None:
    """Any range inside the tensor, also an empty one at its end."""
    with PayloadReader() as reader:
        assert read(reader, ref, 0, 100) == bytes(range(100))
        assert read(reader, ref, 41, 3) == bytes([41, 42, 43])
        assert read(reader, ref, 100, 0) == b""


def test_ranges_outside_are_a_bug(ref: TensorRef) -> None:
    """Bytes of a neighbour are never handed out."""
    with PayloadReader() as reader:
        for start, length in ((99, 2), (-1, 1), (101, 0)):
            with pytest.raises(ValueError, match="t: bytes"):
                read(reader, ref, start, length)


def test_memory_and_typed_views() -> None:
    """In-memory tensors are copied out; the target may be a view of any plain number type."""
    values = np.arange(5, dtype=np.float32)
    tensor = from_arrays("x", {"v": values}).tensors["v"]
    target = np.zeros(2, np.float32)
    with PayloadReader() as reader:
        reader.read(tensor, 8, target.data)
        reader.prefetch(tensor)
    assert target.tolist() == [2.0, 3.0]


@pytest.mark.parametrize("call", ["preadv", "pread"])
def test_short_reads_are_completed(ref: TensorRef, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """A system that returns fewer bytes than asked for is asked again, with preadv or without."""
    if call == "preadv":
        real = os.preadv
        monkeypatch.setattr(os, "preadv", lambda fd, views, at: real(fd, [views[0][:7]], at))
    else:
        short = os.pread
        monkeypatch.delattr(os, "preadv")
        monkeypatch.setattr(os, "pread", lambda fd, count, at: short(fd, min(count, 7), at))
    with PayloadReader() as reader:
        assert read(reader, ref, 0, 100) == bytes(range(100))


def test_file_that_shrank(ref: TensorRef) -> None:
    """A file cut short after planning is told with tensor and file."""
    assert ref.file is not None
    os.truncate(ref.file, ref.offset + 50)
    with PayloadReader() as reader:
        assert read(reader, ref, 0, 50) == bytes(range(50))
        with pytest.raises(ExecutionError, match="shrank while it was read") as caught:
            read(reader, ref, 0, 51)
    assert (caught.value.problems[0].tensor, caught.value.problems[0].file) == ("t", ref.file)


def test_file_that_vanished(ref: TensorRef) -> None:
    """A file removed after planning is told with tensor and file."""
    assert ref.file is not None
    Path(ref.file).unlink()
    with (
        PayloadReader() as reader,
        pytest.raises(ExecutionError, match="cannot be opened") as caught,
    ):
        read(reader, ref, 0, 1)
    assert caught.value.problems[0].file == ref.file


def test_disk_error(ref: TensorRef, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the disk is told with the file, and with what to do."""

    def fail(*_: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with (
        PayloadReader() as reader,
        pytest.raises(ExecutionError, match="Input/output error") as caught,
    ):
        read(reader, ref, 0, 1)
    assert caught.value.problems[0].file == ref.file
    assert "disk" in (caught.value.problems[0].fix or "")


def test_few_files_stay_open(tmp_path: Path, save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """However many files and threads, only the limit and those in use are open at once."""
    refs = []
    for i in range(40):
        path = save(tmp_path / f"{i}.safetensors", {"t": np.full(1000, i, np.uint8)})
        refs.append(open_checkpoint(str(path)).tensors["t"])
    opened: set[int] = set()
    most = 0
    real_open, real_close = os.open, os.close

    def count_open(*args: Any, **kwargs: Any) -> int:
        nonlocal most
        descriptor = real_open(*args, **kwargs)
        opened.add(descriptor)
        most = max(most, len(opened))
        return descriptor

    def count_close(descriptor: int) -> None:
        opened.discard(descriptor)
        real_close(descriptor)

    monkeypatch.setattr(os, "open", count_open)
    monkeypatch.setattr(os, "close", count_close)
    reader = PayloadReader(max_files=4)

    def check(i: int) -> bool:
        return read(reader, refs[i % 40], 0, 1000) == bytes([i % 40]) * 1000

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(check, range(2000)))
    assert most <= 4 + 8
    reader.close()
    assert not opened
    assert check(7), "a closed reader opens again what it needs"
    reader.close()


def test_prefetch_is_only_advice(ref: TensorRef, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefetching asks for the right range, and does nothing where the system cannot be asked."""
    asked = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *a: asked.append(a[1:3]), raising=False)
    monkeypatch.setattr(os, "POSIX_FADV_WILLNEED", 3, raising=False)
    with PayloadReader() as reader:
        reader.prefetch(ref)
        reader.prefetch(ref, 10, 5)
        monkeypatch.delattr(os, "posix_fadvise")
        reader.prefetch(ref)
    assert asked == [(ref.offset, 100), (ref.offset + 10, 5)]
