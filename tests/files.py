"""Models on disk, written and read by the format's description, not by the code under test."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import xxhash

from reference import FLOATS

CODES = {dtype: code for code, dtype in FLOATS.items()} | {
    np.dtype(np.bool_): "BOOL",
    np.dtype(np.uint8): "U8",
    np.dtype(np.int8): "I8",
    np.dtype(np.int32): "I32",
    np.dtype(np.int64): "I64",
}


def write_file(path, arrays):
    """One safetensors file."""
    header, payload = {}, []
    place = 0
    for name, array in arrays.items():
        data = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": CODES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [place, place + len(data)],
        }
        place += len(data)
        payload.append(data)
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(payload))
    return path


def write_model(folder, arrays, *, files=1, config=None):
    """A folder in the layout of transformers, its tensors dealt out to ``files`` files in turn."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    if files == 1:
        write_file(folder / "model.safetensors", arrays)
        return folder
    names = list(arrays)
    index = {}
    for i in range(files):
        file = f"model-{i + 1:05d}-of-{files:05d}.safetensors"
        part = names[i::files]
        write_file(folder / file, {n: arrays[n] for n in part})
        index |= dict.fromkeys(part, file)
    text = json.dumps({"metadata": {}, "weight_map": {n: index[n] for n in names}})
    (folder / "model.safetensors.index.json").write_text(text)
    return folder


def read_file(path):
    """Name → array of one safetensors file."""
    raw = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    dtypes = {code: dtype for dtype, code in CODES.items()}
    found = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        data = np.frombuffer(raw[8 + length + begin : 8 + length + end], dtypes[entry["dtype"]])
        found[name] = data.reshape(entry["shape"])
    return found


def read_model(folder):
    """Name → array of all safetensors files in a folder."""
    found = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        found |= read_file(path)
    return found


def tensor_hash(data):
    """Hash of a tensor's bytes, as docs/provenance.md defines it."""
    pieces = (data[i : i + 2**19] for i in range(0, len(data), 2**19))
    return xxhash.xxh3_128_hexdigest(b"".join(map(xxhash.xxh3_128_digest, pieces)))


def files_below(folder):
    """Every path below a folder, relative to it."""
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*"))
