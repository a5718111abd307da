"""An opened checkpoint: named tensors with their places in files, and the config beside them.

Opening reads headers only. Whatever the storage was (folder, single file, hub cache, legacy pickle,
arrays in memory), what comes out is the same frozen value.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stockpot.checkpoint.dtypes import DTYPES, DType
from stockpot.errors import CheckpointError, Problem

__all__ = ["Checkpoint", "Coding", "Stamp", "TensorRef", "from_arrays"]


@dataclass(frozen=True)
class Stamp:
    """What tells that a file has been changed or replaced. Network folders may number their files anew at any time.

    Args:
        nbytes: Its size.
        mtime_ns: When it was last written, in nanoseconds.
    """

    nbytes: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """The stamp in what the system says of a file."""
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class TensorRef:
    """Where one tensor's bytes lie: a byte range of a file, or an array in memory.

    Args:
        name: The tensor's name in its checkpoint.
        dtype: Its dtype.
        shape: Its shape; ``()`` is a scalar.
        file: Path of the file that holds it (``None``: in ``array``).
        offset: First byte in that file.
        array: The raw bytes, as a flat uint8 array, of an in-memory tensor.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    file: str | None = None
    offset: int = 0
    array: npt.NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)

    @property
    def key(self) -> tuple[str, str]:
        """Equal for references to the same stored tensor: its file, or the array it is, and its name."""
        return (self.file if self.file is not None else f"memory:{id(self.array)}", self.name)

    @property
    def elements(self) -> int:
        """Number of elements; 1 for a scalar, 0 for an empty tensor."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of its payload."""
        return self.dtype.nbytes(self.elements)


@dataclass(frozen=True, slots=True)
class Coding:
    """How a tensor's values are made of what is stored: stored × scale + shift, in another order of rows.

    What is stored has the tensor's own shape; a packed dtype (of GGUF) is unpacked to numbers first.

    Args:
        dtype: What the values count as when an output keeps each tensor's dtype; they are not rounded to it.
        scale: The tensor of scales: for each matrix, one for each block of ``block``.
        rows: Rows of a matrix; a tensor of three dimensions holds several.
        block: Rows and columns that share a scale.
        head: Rows of an attention head whose two halves are stored in turn (llama's in GGUF); 0 as they are.
        shift: Added to each value, such as -1 for norms that are stored with 1 added.
    """

    dtype: DType
    scale: TensorRef | None = None
    rows: int = 1
    block: tuple[int, int] = (1, 1)
    head: int = 0
    shift: float = 0.0


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors and what lies beside them.

    Args:
        label: How the user wrote it; keys random numbers, names it in errors.
        tensors: Name → place, in the order of the files.
        folder: Folder of config, tokenizer and other small files; ``None`` without one.
        config: Parsed ``config.json``, empty without one.
        files: The safetensors (or legacy) files that hold the tensors.
        identity: Small facts that tell this input apart in a receipt (path, revision, sizes).
        stamps: Path → stamp of each of ``files`` when its header was read.
        parts: Folder below → the checkpoint in it, of a model in several folders; tensors here are called
            ``folder/name``. ``""`` is the folder itself.
        codings: Name → how its values are made, of tensors that are not stored as plain numbers.
        aside: Names of stored tensors that are none of the model's: scales, and what is known of activations.
        unfit: Why it cannot be merged; it can be looked at all the same.
        made_config: Whether ``config`` was made from a GGUF file's metadata, not read from config.json.
        config_fault: Why such a config would not be true; empty where it is.
    """

    label: str
    tensors: Mapping[str, TensorRef]
    folder: Path | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    identity: Mapping[str, Any] = field(default_factory=dict)
    stamps: Mapping[str, Stamp] = field(default_factory=dict, compare=False)
    parts: Mapping[str, Checkpoint] = field(default_factory=dict, compare=False)
    codings: Mapping[str, Coding] = field(default_factory=dict, compare=False)
    aside: frozenset[str] = frozenset()
    unfit: tuple[Problem, ...] = field(default=(), compare=False)
    made_config: bool = False
    config_fault: str = ""

    def config_of(self, name: str) -> Mapping[str, Any]:
        """The config that goes with tensor ``name``: that of its part."""
        first, stroke, _ = name.partition("/")
        return self.parts[first].config if stroke and first in self.parts else self.config

    @property
    def is_adapter(self) -> bool:
        """Whether it is an adapter: changes to a model, not a model."""
        return self.identity.get("adapter") is True

    @cached_property
    def values(self) -> Mapping[str, tuple[DType, tuple[int, ...]]]:
        """Dtype and shape of the model's tensors by name, as they are once their codings are undone."""
        return {
            name: (self.codings[name].dtype if name in self.codings else ref.dtype, ref.shape)
            for name, ref in self.tensors.items()
            if name not in self.aside
        }

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.nbytes for t in self.tensors.values())


def from_arrays(label: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Checkpoint:
    """A checkpoint of arrays in memory (NumPy or ml_dtypes); contiguous ones are not copied.

    Raises:
        CheckpointError: for a dtype that safetensors does not have.
    """
    by_numpy = {d.numpy: d for d in DTYPES.values() if d.numpy is not None}
    tensors = {}
    for name, array in arrays.items():
        dtype = by_numpy.get(np.asarray(array).dtype)
        if dtype is None:
            message = f"dtype {np.asarray(array).dtype} has no place in a checkpoint"
            raise CheckpointError(Problem(message, tensor=name))
        data = np.ascontiguousarray(array)
        flat = data.reshape(-1).view(np.uint8)
        tensors[name] = TensorRef(name, dtype, np.asarray(array).shape, array=flat)
    return Checkpoint(label, tensors, identity={"memory": True})
