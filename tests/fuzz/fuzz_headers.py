"""Files with damaged safetensors headers."""

from __future__ import annotations

import json
import struct

import fuzz_damage as damage

from stockpot.checkpoint.dtypes import DTYPES
from stockpot.checkpoint.header import read_header

_CODES = tuple(DTYPES)
_NAMES = ("w", "model.layers.0.self_attn.q_proj.weight", "lm_head.weight", "b", "", "\x1b[2J", "é", "model.layers.10.x")
_LENGTHS = (0, 1, 7, 8, 2**31, 2**32, 2**63, 2**64 - 1, 100_000_000, 100_000_001, 10_000_000_000)


def make(chance):
    """A header that is right, then damaged none to several times, in one way or another."""
    text, payload = _right(chance)
    rounds = chance.choice((0, 1, 1, 1, 2, 2, 3, 6))
    other = _right(chance)[0] if rounds else ""
    if chance.random() < 0.75:
        text = damage.of_json(chance, text, other, rounds)
    body = text.encode("utf-8", "surrogatepass")
    length = len(body)
    if chance.random() < 0.05:
        length = chance.choice((*_LENGTHS, length - 1, length + 1, chance.randrange(2 * length + 2))) % 2**64
    if chance.random() < 0.1:
        payload += chance.choice((-1, 1, 8, -payload))
    data = struct.pack("<Q", length) + body + bytes(max(0, payload))
    return damage.of_bytes(chance, data) if chance.random() < 0.2 else data


def _right(chance):
    """JSON and size of the payload of a few tensors."""
    header, place = {}, 0
    if chance.random() < 0.3:
        header["__metadata__"] = {"format": "pt", "ss_tags": '{"a": [1, 2]}'}
    for _ in range(chance.choice((0, 1, 1, 2, 3, 5))):
        code = chance.choice(_CODES)
        shape = [chance.choice((0, 1, 2, 3, 8)) for _ in range(chance.randrange(4))]
        elements = 1
        for length in shape:
            elements *= length
        size = DTYPES[code].nbytes(elements)
        header[chance.choice(_NAMES) + str(len(header))] = {
            "dtype": code,
            "shape": shape,
            "data_offsets": [place, place + size],
        }
        place += size
    return json.dumps(header, separators=chance.choice(((",", ":"), (", ", ": "))), ensure_ascii=False), place


def read(path):
    """Read the file; what is accepted tiles it."""
    header = read_header(path)
    position = 8 + len(header.raw)
    for entry in header.entries:
        assert entry.begin == position, entry
        assert entry.end - entry.begin == entry.dtype.nbytes(_product(entry.shape)), entry
        position = entry.end
    assert position == path.stat().st_size


def _product(shape):
    total = 1
    for length in shape:
        total *= length
    return total
