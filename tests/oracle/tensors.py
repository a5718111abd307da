"""Read checkpoints and measure how far two of them lie apart, with numpy alone.

The comparison reads files itself, rather than with stockpot's reader, so that a mistake there
cannot hide.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Precision:
    """A way to store the models and to compute: the lines it adds to a recipe, the output dtype.

    `bits` counts the significand with its leading one; `smallest` is the least positive number.
    """

    name: str
    models: str
    lines: str
    bits: int
    smallest: float


PRECISIONS = (
    Precision("float32", "f32", "dtype: float32\n", 24, 2.0**-149),
    Precision("bfloat16", "bf16", "dtype: bfloat16\n", 8, 2.0**-133),
    Precision("bf16-in-f32", "bf16", "dtype: float32\nout_dtype: bfloat16\n", 8, 2.0**-133),
)


@dataclass(frozen=True)
class Distance:
    """How far two sets of tensors lie apart; `units` and `ulp` as `compare_mergekit` explains."""

    differing: float
    ulp: float
    units: float
    beyond: int
    worst: str


def read_folder(folder: Path) -> Tensors:
    """All tensors of a checkpoint folder, widened to float64 (all of them are floats here)."""
    tensors: Tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= dict(read_safetensors(path))
    return tensors


def read_safetensors(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Names and float64 values of one file: 8 bytes of length, a JSON header, the data."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for name, entry in header(data).items():
        first, last = entry["data_offsets"]
        raw = data[start + first : start + last]
        yield name, widen(raw, entry["dtype"]).reshape(entry["shape"])


def header(data: bytes) -> dict[str, dict[str, Any]]:
    """The entries of a safetensors file by tensor name."""
    entries = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return {name: entry for name, entry in entries.items() if name != "__metadata__"}


def stored_dtypes(folder: Path) -> dict[str, str]:
    """The dtype in which each tensor of a checkpoint folder is stored."""
    paths = sorted(folder.glob("*.safetensors"))
    entries = (pair for path in paths for pair in header(path.read_bytes()).items())
    return {name: entry["dtype"] for name, entry in entries}


def widen(raw: bytes, dtype: str) -> np.ndarray:
    """The numbers stored in `raw` as float64. BF16 is the upper half of a float32."""
    if dtype == "BF16":
        bits = np.frombuffer(raw, "<u2").astype("<u4") << 16
        return bits.view("<f4").astype(np.float64)
    return np.frombuffer(raw, {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]).astype(np.float64)


def spacing(size: np.ndarray, precision: Precision) -> np.ndarray:
    """The gap between neighbouring numbers of the output dtype at magnitude `size`."""
    _, exponent = np.frexp(size)
    return np.asarray(np.maximum(np.ldexp(1.0, exponent - precision.bits), precision.smallest))


def distance(left: Tensors, right: Tensors, scale: Tensors, precision: Precision) -> Distance:
    """The largest distance over the names that both sides have; `scale` gives the mean squares."""
    elements = differing = beyond = 0
    ulp = units = 0.0
    worst = ""
    for name in sorted(left.keys() & right.keys() & scale.keys()):
        a, b = left[name], right[name]
        if a.shape != b.shape:
            return Distance(1.0, np.inf, np.inf, a.size, f"{name}: {a.shape} against {b.shape}")
        with np.errstate(invalid="ignore"):
            gap = np.nan_to_num(np.abs(a - b), nan=np.inf, posinf=np.inf)
        gap[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0
        size = np.nan_to_num(np.maximum(np.abs(a), np.abs(b)), posinf=1.0)
        floor = np.sqrt(np.mean(np.square(np.nan_to_num(scale[name])))) if a.size else 0.0
        in_units = gap / spacing(np.maximum(size, floor), precision)
        elements += a.size
        differing += int(np.count_nonzero(gap))
        beyond += int(np.count_nonzero(in_units > 1.0))
        ulp = max(ulp, float(np.max(gap / spacing(size, precision), initial=0.0)))
        largest = float(np.max(in_units, initial=0.0))
        if largest > units:
            units, worst = largest, name
    return Distance(differing / max(elements, 1), ulp, units, beyond, worst)


def tied_copies(extra: Iterable[str], tensors: Tensors) -> list[str]:
    """Those of the names `extra` whose tensor is the copy of another one of the same result."""
    copies = []
    for name in extra:
        others = (value for key, value in tensors.items() if key != name)
        if any(np.array_equal(tensors[name], other, equal_nan=True) for other in others):
            copies.append(name)
    return copies
