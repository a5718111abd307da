"""GGUF headers made to mislead, to overflow, or to take memory and time: refused at once, in words of their own."""

from __future__ import annotations

import struct
import subprocess
import sys
import time

import pytest

from stockpot.checkpoint.open import open_checkpoint
from stockpot.errors import StockpotError

MOST = 2**64 - 1


def text(raw):
    raw = raw.encode() if isinstance(raw, str) else raw
    return struct.pack("<Q", len(raw)) + raw


def entry(name="blk.0.ffn_up.weight", shape=(32, 2), kind=0, offset=0):
    """A tensor's description; shapes with the innermost dimension first."""
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def file(*tensors, metadata=(), payload=256, counts=None, version=3, magic=b"GGUF", cut=None):
    given = (text("general.architecture") + struct.pack("<I", 8) + text("llama"), *metadata)
    counts = counts or (len(tensors), len(given))
    data = magic + struct.pack("<IQQ", version, *counts) + b"".join(given) + b"".join(tensors)
    data += bytes(-len(data) % 32) + bytes(payload)
    return data if cut is None else data[:cut]


def key(name, kind, value):
    return text(name) + struct.pack("<I", kind) + value


def array(kind, count, value=b""):
    return struct.pack("<IQ", kind, count) + value


CASES = {
    "no magic": (file(magic=b"GGUX"), "not a GGUF file"),
    "nothing": (b"", "truncated"),
    "cut off": (file(entry(), cut=60), "truncated"),
    "version 1": (file(version=1), "version 1 of GGUF"),
    "big-endian": (file(version=3 << 24), "big-endian GGUF"),
    "2^64 tensors": (file(counts=(MOST, 1)), "at most 250000 are read"),
    "more tensors than there are": (file(entry(), counts=(200_000, 1)), "truncated"),
    "2^64 entries of metadata": (file(counts=(0, MOST)), "at most 10000 are read"),
    "a key of 2^64 bytes": (file(metadata=[struct.pack("<Q", MOST)]), "a key of metadata of"),
    "a key that is no text": (file(metadata=[key(b"\xff", 4, bytes(4))]), "not valid Unicode"),
    "a key twice": (file(metadata=[key("a", 0, b"1"), key("a", 0, b"1")]), "two values of metadata 'a'"),
    "a text of 2^64 bytes": (file(metadata=[key("a", 8, struct.pack("<Q", MOST))]), "truncated"),
    "an array of 2^64 numbers": (file(metadata=[key("a", 9, array(12, MOST))]), "truncated"),
    "an array of 2^64 texts": (file(metadata=[key("a", 9, array(8, MOST))]), "more than 1000000 texts"),
    "arrays of arrays": (file(metadata=[key("a", 9, array(9, 1) * 1000)]), "nested too deeply"),
    "an unknown type": (file(metadata=[key("a", 77, b"")]), "unknown type 77"),
    "alignment 0": (file(metadata=[key("general.alignment", 4, bytes(4))]), "impossible alignment 0"),
    "alignment 3": (file(metadata=[key("general.alignment", 4, b"\3\0\0\0")]), "impossible alignment 3"),
    "a name with escape codes": (file(entry("\x1b[2J")), "control characters"),
    "a name of 3000 characters": (file(entry("x" * 3000)), "a tensor's name of 3000 bytes"),
    "a name twice": (file(entry(), entry(offset=256), payload=512), "names it twice"),
    "40 dimensions": (file(entry(shape=(1,) * 40)), "a shape of 40 dimensions"),
    "a product beyond 64 bits": (file(entry(shape=(2**40, 2**40))), "impossible shape"),
    "an absurd empty tensor": (file(entry(shape=(2**63, 0))), "impossible shape"),
    "rows of half a group": (file(entry(shape=(16, 2), kind=8)), "no whole groups of Q8_0"),
    "a packed scalar": (file(entry(shape=(), kind=8)), "a scalar in Q8_0"),
    "an unknown format": (file(entry(kind=99)), "format 99 of GGUF"),
    "a payload beyond the end": (file(entry(offset=64)), "truncated: its bytes end at"),
    "an offset beyond 64 bits": (file(entry(offset=MOST - 31)), "truncated: its bytes end at"),
    "an offset between": (file(entry(offset=4), payload=512), "no multiple of 32"),
    "tensors that overlap": (file(entry("a"), entry("b", offset=32), payload=512), "overlaps"),
}


@pytest.mark.parametrize("name", CASES)
def test_refused(name, tmp_path):
    """With a message of its own that a terminal may print, in no time."""
    data, words = CASES[name]
    (tmp_path / "m.gguf").write_bytes(data)
    started = time.process_time()
    with pytest.raises(StockpotError) as caught:
        open_checkpoint(str(tmp_path / "m.gguf"))
    assert time.process_time() - started < 1
    assert words in str(caught.value)
    assert str(caught.value).replace("\n", "").isprintable()


def test_the_same_without_a_fault(tmp_path):
    """It is the fault that is refused."""
    (tmp_path / "m.gguf").write_bytes(file(entry()))
    assert list(open_checkpoint(str(tmp_path / "m.gguf")).tensors) == ["model.layers.0.mlp.up_proj.weight"]


def test_a_part_may_not_lie_elsewhere(tmp_path):
    """A part of a model that is a link out of its folder is refused."""
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_bytes(file(entry()))
    (tmp_path / "in/m-00001-of-00002.gguf").write_bytes(file(entry()))
    (tmp_path / "in/m-00002-of-00002.gguf").symlink_to(tmp_path / "secret")
    with pytest.raises(StockpotError, match="leads out of its folder"):
        open_checkpoint(str(tmp_path / "in/m-00001-of-00002.gguf"))


MEASURE = """
import sys, time
from stockpot.checkpoint.open import open_checkpoint
from stockpot.errors import StockpotError
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1])
import stockpot.checkpoint.gguf.model, stockpot.checkpoint.gguf.header
before, started = peak(), time.process_time()
try:
    open_checkpoint(sys.argv[1])
    print("read", end=" ")
except StockpotError as error:
    print(str(error).splitlines()[0], end=" ")
print(time.process_time() - started, peak() - before)
"""

LARGE = {
    "a vocabulary": (lambda: file(entry(), metadata=[key("a", 9, array(8, 900_000, text("x") * 900_000))]), "read", 32),
    "long texts": (
        lambda: file(entry(), metadata=[key(f"{i}", 8, text(b"x" * 9990)) for i in range(9_000)]),
        "read",
        32,
    ),
    "lists of numbers": (
        lambda: file(entry(), metadata=[key(f"{i}", 9, array(0, 4000, bytes(4000))) for i in range(9_000)]),
        "read",
        32,
    ),
    "tensors": (
        lambda: file(*(entry(f"blk.{i}.ffn_up.weight", (0,)) for i in range(100_000))),
        "read",
        250,
    ),
    "110 MB": (
        lambda: file(entry(), metadata=[key("a", 9, array(0, 110_000_000, bytes(110_000_000)))]),
        "more than",
        32,
    ),
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", LARGE)
def test_large_headers_cost_little(name, tmp_path):
    """The worst that the limits leave, in seconds of work and MiB."""
    make, words, most = LARGE[name]
    (tmp_path / "m.gguf").write_bytes(make())
    told = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "m.gguf")], capture_output=True, text=True, check=True
    ).stdout
    assert words in told
    seconds, grown = told.split()[-2:]
    assert float(seconds) < 8
    assert int(grown) < most * 1024, told
