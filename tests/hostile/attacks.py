"""What an attacker would upload: small files, each made for one case."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

STATE = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
RECIPE = "merge_method: linear\nmodels: [{model: ./good}]\n"


def header(text, payload=b"", length=None):
    """A safetensors file whose header is ``text``, or the JSON of a value."""
    body = text if isinstance(text, bytes) else json.dumps(text).encode()
    return struct.pack("<Q", len(body) if length is None else length) + body + payload


def tensor(begin, end, shape, dtype="U8"):
    """One entry of a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


GOOD = header({"a": tensor(0, 4, [4]), "b": tensor(4, 8, [1], "F32")}, bytes(8))


def file(content, name="x.safetensors"):
    """Builds one file; it is what the user names."""

    def build(folder):
        (folder / name).write_bytes(content() if callable(content) else content)
        return folder / name

    return build


def model(folder, **files):
    """A good model, and files beside it: name with ``__`` for a point → content."""
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(GOOD)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return folder


def index(weights):
    """Builds a folder with one good shard and an index: its map, or its text."""

    def build(folder):
        here = model(folder / "m")
        (here / "model.safetensors").rename(here / "model-1.safetensors")
        text = weights if isinstance(weights, str) else json.dumps({"weight_map": weights})
        (here / "model.safetensors.index.json").write_text(text)
        return here

    return build


def config(content):
    """Builds a good model with this config."""
    return lambda folder: model(folder / "m", config__json=content)


def link(name, target, **files):
    """Builds a good model in which ``name`` is a link."""

    def build(folder):
        here = model(folder / "m", **files)
        (here / name).unlink(missing_ok=True)
        (here / name).symlink_to(target)
        return here

    return build


def pipe(name):
    """Builds a good model in which ``name`` is a pipe that nobody writes to."""

    def build(folder):
        here = model(folder / "m")
        (here / name).unlink(missing_ok=True)
        os.mkfifo(here / name)
        return here

    return build


def recipe(text):
    """Builds a recipe beside a good model."""

    def build(folder):
        model(folder / "good")
        (folder / "x.yml").write_bytes(text.encode("utf-8", "surrogatepass"))
        return folder / "x.yml"

    return build


class Call:
    """Pickles as a call of ``function``, which an ordinary reader would make."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def touching(protocol):
    """A pickle that would create a file when it is loaded."""
    return pickle.dumps({"w": Call(os.system, "touch created-by-a-pickle")}, protocol)


def evaluating(protocol):
    """Likewise, by other means."""
    return pickle.dumps(Call(eval, "__import__('pathlib').Path('created-by-a-pickle').touch()"), protocol)


def zipped(pickled, *, compress=zipfile.ZIP_STORED, storages=1):
    """A zip file like PyTorch's around a pickle."""

    def build(folder):
        with zipfile.ZipFile(folder / "x.pt", "w", compress) as archive:
            archive.writestr("m/data.pkl", pickled)
            for number in range(storages):
                archive.writestr(f"m/data/{number}", bytes(16))
        return folder / "x.pt"

    return build


def streamed(pickled):
    """The container before the zip file around a pickle."""
    lead = b"".join(pickle.dumps(value, 2) for value in STATE)
    return file(lead + pickled + pickle.dumps([], 2), "x.pth")


def many_members(folder):
    """A zip file whose directory lists 300 000 members."""
    one = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    start = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 33, 0, 0, 0, 1, 0) + b"a"
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, len(one) * 300_000, len(start), 0)
    (folder / "x.pt").write_bytes(start + one * 300_000 + end)
    return folder / "x.pt"


def overlapping(folder):
    """A zip file in which two storages are the same bytes."""
    path = zipped(pickle.dumps({}, 2), storages=2)(folder)
    data = bytearray(path.read_bytes())
    places = [i for i in range(len(data)) if data[i : i + 4] == b"PK\1\2"]
    first, second = places[1:3]
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    path.write_bytes(data)
    return path


def copying():
    """A pickle that has one list of 30 000 values copied 100 000 times."""
    code = b"\x80\x02](" + b"]" * 30_000 + b"eq\x00"
    return code + b"ccollections\nOrderedDict\nq\x01" + b"h\x01h\x00\x85R0" * 100_000 + b"."


def colliding():
    """A pickle of a dict of whole numbers that all have one hash."""
    prime = 2**61 - 1
    numbers = (n.to_bytes(10, "little") for n in range(prime, prime * 60_001, prime))
    return b"\x80\x02}(" + b"".join(b"\x8a\x0a" + n + b"N" for n in numbers) + b"u."


def sharing():
    """A pickle of many dicts that share one large dict and have a tensor beside it."""
    big = {f"b{i}": {} for i in range(20_000)}
    return pickle.dumps({f"m{i}": {"big": big, "e": {}} for i in range(3000)}, 2)


def created(folder):
    """Every path below ``folder``."""
    return sorted(str(path) for path in Path(folder).rglob("*"))
