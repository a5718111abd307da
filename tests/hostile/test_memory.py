"""Headers made to take memory: none takes a gigabyte, and those that would are refused before they are parsed."""

from __future__ import annotations

import subprocess
import sys

import pytest

MEASURE = """
import struct, sys
from pathlib import Path
from stockpot.checkpoint.header import MAX_HEADER_BYTES, read_header
from stockpot.errors import StockpotError

def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1])

before = peak()
try:
    read_header(Path(sys.argv[1]))
    print("read", peak() - before)
except StockpotError as error:
    print(str(error).splitlines()[0], peak() - before)
"""
FULL = 99_999_000
DOCUMENTS = {
    "empty lists": (lambda: b'{"a":[' + b"[]," * (FULL // 3 - 4) + b"[]]}", "more than 5000000 values", 200),
    "empty maps": (lambda: b'{"a":[' + b"{}," * 2_400_000 + b"{}]}", "lacks dtype", 600),
    "small maps": (lambda: b'{"a":[' + b'{"b":1},' * 1_600_000 + b"1]}", "lacks dtype", 600),
    "texts": (lambda: b'{"__metadata__":{' + _pairs(2_400_000) + b"}}", "read", 1000),
    "one text": (lambda: b'{"__metadata__":{"a":"' + b"x" * (FULL - 30) + b'"}}', "read", 400),
    "one wide text": (
        lambda: b'{"__metadata__":{"a":"' + b"x" * ((32 << 20) - 40) + b"\\ud83d\\ude00" + b'"}}',
        "read",
        400,
    ),
    "one number": (lambda: b'{"a":' + b"9" * (FULL - 10) + b"}", "digits", 400),
}


def _pairs(count):
    return b",".join(b'"%x":"%x"' % (i, i) for i in range(count))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_header_takes_a_gigabyte(name, tmp_path):
    """The worst that the limits leave, measured as the peak of a process of its own; MiB."""
    make, words, most = DOCUMENTS[name]
    body = make()
    assert len(body) <= 100_000_000
    (tmp_path / "x").write_bytes(len(body).to_bytes(8, "little") + body)
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "x")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert words in told
    assert int(told.split()[-1]) < most * 1024
