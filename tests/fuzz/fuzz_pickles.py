"""Damaged PyTorch files, of both containers, made instruction by instruction."""

from __future__ import annotations

import struct
import zlib

import fuzz_damage as damage

from stockpot.checkpoint.open import open_checkpoint

_HEAD = (0x1950A86A20F9469CFC6C, 1001)
_STORAGES = ("FloatStorage", "HalfStorage", "LongStorage", "BoolStorage", "ComplexDoubleStorage", "UntypedStorage")
_CALLS = (
    "torch._utils\n_rebuild_tensor_v2",
    "torch._utils\n_rebuild_tensor_v3",
    "torch._utils\n_rebuild_parameter",
    "torch\nSize",
    "collections\nOrderedDict",
    "collections\ndefaultdict",
    "torch._tensor\n_rebuild_from_type_v2",
    "_codecs\nencode",
    "os\nsystem",
    "builtins\neval",
    "builtins\nlist",
    "torch\nfloat32",
    "torch\nXStorage",
    "torch.nn.parameter\nParameter",
    "numpy\ndtype",
)
_PLAIN = (
    b"(",
    b")",
    b"]",
    b"}",
    b"N",
    b"\x88",
    b"\x89",
    b"t",
    b"\x85",
    b"\x86",
    b"\x87",
    b"R",
    b"b",
    b"u",
    b"s",
    b"e",
    b"a",
    b"0",
    b"1",
    b"2",
    b"Q",
    b"o",
    b"\x81",
    b"\x92",
    b"\x93",
    b"\x94",
    b"l",
    b"d",
    b"\x8f",
    b"\x90",
    b"\x91",
    b".",
    b"q\0",
    b"h\0",
    b"q\1",
    b"h\1",
    b"\x80\2",
    b"\x95" + bytes(8),
    b"\x8b\xff\xff\xff\x7f",
    b"\x8a\x09" + b"\xff" * 9,
    b"B\xff\xff\xff\xff",
    b"X\xff\xff\xff\x7f",
    b"I99\n",
    b"L" + b"9" * 5000 + b"L\n",
    b"F1e999\n",
    b"S'a'\n",
    b"Va\\ud800\n",
    b"P0\n",
    b"cos\nsystem\n",
    b"ios\nsystem\n",
)


def make(chance):
    """A zip file or a stream of pickles, damaged in its instructions and then, perhaps, in its bytes."""
    names = [f"layers.{i}.w" for i in range(chance.choice((1, 1, 2, 4)))]
    code = _state(chance, names)
    for _ in range(chance.choice((0, 1, 1, 2, 4))):
        _damage(chance, code)
    pickle = b"\x80\x02" + b"".join(code) + b"."
    data = _zip(chance, pickle, len(names)) if chance.random() < 0.6 else _stream(pickle, len(names))
    return damage.of_bytes(chance, data) if chance.random() < 0.3 else data


def _state(chance, names):
    code = [b"}", b"("]
    for number, name in enumerate(names):
        shape = [chance.choice((0, 1, 2, 3)) for _ in range(chance.randrange(3))]
        code += [
            _text(name),
            _global(_CALLS[0]),
            b"(",
            b"(",
            _text("storage"),
            _global("torch\n" + chance.choice(_STORAGES[:4])),
        ]
        code += [
            _text(str(number)),
            _text("cpu"),
            _int(12),
            b"t",
            b"Q",
            _int(0),
            *_ints(shape),
            *_ints(_strides(shape)),
        ]
        code += [b"\x89", b"}", b"t", b"R"]
    return [*code, b"u"]


def _damage(chance, code):
    at = chance.randrange(len(code) + 1)
    kind = chance.randrange(6)
    if kind == 0:
        code[at:at] = [chance.choice(_PLAIN)]
    elif kind == 1:
        code[at:at] = [_global(chance.choice(_CALLS))]
    elif kind == 2:
        code[at:at] = [_int(chance.choice((0, -1, 2**31 - 1, 2**62, 2**63, 2**70, chance.randrange(20))))]
    elif kind == 3:
        del code[at : at + chance.choice((1, 1, 3))]
    elif kind == 4:
        code[at:at] = code[max(0, at - chance.choice((1, 2, 10))) : at]
    elif at < len(code):
        code[at] = chance.choice(_PLAIN)


def _strides(shape):
    steps, step = [], 1
    for length in reversed(shape):
        steps.append(step)
        step *= length
    return steps[::-1]


def _text(text):
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _int(value):
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def _ints(values):
    return [b"(", *map(_int, values), b"t"]


def _global(name):
    return b"c" + name.encode() + b"\n"


def _zip(chance, pickle, storages):
    """A zip file of stored members, like PyTorch's."""
    members = [("m/data.pkl", pickle), ("m/byteorder", b"little")]
    members += [(f"m/data/{i}", bytes(96)) for i in range(storages)]
    body, directory = b"", b""
    for name, data in members:
        fields = (
            20,
            0,
            chance.choice((0, 0, 0, 0, 0, 0, 0, 8)),
            0,
            33,
            zlib.crc32(data),
            len(data),
            len(data),
            len(name),
            0,
        )
        directory += struct.pack(
            "<4s6H3L5H2L", b"PK\1\2", 20, *fields[:5], *fields[5:8], len(name), 0, 0, 0, 0, 0, len(body)
        )
        directory += name.encode()
        body += struct.pack("<4s5H3L2H", b"PK\3\4", *fields) + name.encode() + data
    return (
        body
        + directory
        + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, len(members), len(members), len(directory), len(body), 0)
    )


def _stream(pickle, storages):
    """The older container: five pickles, then the storages."""
    lead = b"".join(b"\x80\x02" + _int(value) + b"." for value in _HEAD)
    system = b"\x80\x02}(" + _text("little_endian") + b"\x88u."
    keys = b"\x80\x02](" + b"".join(_text(str(i)) for i in range(storages)) + b"e."
    return lead + system + pickle + keys + (struct.pack("<Q", 12) + bytes(96)) * storages


def read(path):
    """Open the file; its tensors lie inside it."""
    found = open_checkpoint(str(path))
    size = path.stat().st_size
    assert all(ref.offset > 0 and ref.offset + ref.nbytes <= size for ref in found.tensors.values())
