"""Fixtures shared by the tests of checkpoints: small files to open, and data lent from outside."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

CODES = {
    np.dtype(np.float32): "F32",
    np.dtype(np.float16): "F16",
    np.dtype(np.float64): "F64",
    np.dtype(np.int64): "I64",
    np.dtype(np.uint8): "U8",
    np.dtype(np.bool_): "BOOL",
    np.dtype(ml_dtypes.bfloat16): "BF16",
}

Arrays = Mapping[str, np.ndarray[Any, Any]]
SaveTensors = Callable[[Path, Arrays], Path]


def _save(path: Path, arrays: Arrays) -> Path:
    """Write a safetensors file by the format's description, not by the code under test."""
    header: dict[str, Any] = {}
    payload = b""
    for name, array in arrays.items():
        data = np.ascontiguousarray(array).tobytes()
        offsets = [len(payload), len(payload) + len(data)]
        header[name] = {
            "dtype": CODES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": offsets,
        }
        payload += data
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + payload)
    return path


@pytest.fixture(scope="session")
def save() -> SaveTensors:
    """A function that writes arrays to a safetensors file."""
    return _save


@pytest.fixture(scope="session")
def save_folder() -> Callable[..., Path]:
    """A function that writes a sharded model: file name → arrays, with an index and a config."""

    def write(folder: Path, shards: Mapping[str, Arrays], **config: Any) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for file, arrays in shards.items():
            _save(folder / file, arrays)
        weights = {name: file for file, arrays in shards.items() for name in arrays}
        index = {"metadata": {"total_size": 0}, "weight_map": weights}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
        return folder

    return write


@pytest.fixture(scope="session")
def shared() -> Path:
    """A folder of real configs and weights, lent from outside the project.

    It is named by the environment variable STOCKPOT_SHARED, or stands beside the checkout as
    ``shared``; tests that need it are skipped without it.
    """
    beside = Path(__file__).resolve().parents[3] / "shared"
    folder = Path(os.environ.get("STOCKPOT_SHARED", beside))
    if not folder.is_dir():
        pytest.skip("no folder of real files: set STOCKPOT_SHARED, or put it beside the checkout as shared")
    return folder
