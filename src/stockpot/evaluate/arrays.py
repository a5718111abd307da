"""Files of NumPy arrays (.npz), read without the reader of pickles, which could run code."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stockpot.errors import CheckpointError, Problem

__all__ = ["packed", "read_npz", "unpacked"]


def read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Name → array of a .npz file.

    Raises:
        CheckpointError: when it cannot be read, or holds Python objects.
    """
    try:
        return _read(path)
    except OSError as error:
        raise CheckpointError(Problem(f"cannot read the data: {error.strerror or error}", file=str(path))) from error
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        fix = "write it with numpy.savez, arrays of numbers only"
        raise CheckpointError(Problem(f"not a .npz file of numbers: {error}", file=str(path), fix=fix)) from error


def packed(arrays: Mapping[str, npt.NDArray[Any]], *, small: bool = True) -> bytes:
    """``arrays`` as the bytes of a .npz file, the same for the same arrays.

    Args:
        small: Whether to compress them.
    """
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED if small else zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
    return written.getvalue()


def unpacked(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """What :func:`packed` packed.

    Raises:
        ValueError, zipfile.BadZipFile, EOFError: when it is something else.
    """
    return _read(io.BytesIO(data))


def _read(source: Path | io.BytesIO) -> dict[str, npt.NDArray[Any]]:
    found = {}
    with zipfile.ZipFile(source) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                array: npt.NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
                found[name.removesuffix(".npy")] = array
    return found
