"""The file of a router: float32 tensors under their names in the mixture, with the report on them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.checkpoint.dtypes import DTYPES
from stockpot.checkpoint.header import HeaderEntry, encode_header, read_header
from stockpot.checkpoint.places import cannot_read
from stockpot.checkpoint.storage import cannot_write, write_file
from stockpot.errors import PlanError, Problem
from stockpot.methods.declare import Floats
from stockpot.moe.routing import Routing, from_data, table
from stockpot.provenance.routers import KEY, REPORT, TABLE

__all__ = ["Kept", "kept", "write_router"]


@dataclass(frozen=True)
class Kept:
    """What a router's file says of itself.

    Args:
        key: Of what it was made; None in a file that was not made here.
        routing: The report on it.
    """

    key: str | None
    routing: Routing | None


def kept(path: Path) -> Kept | None:
    """What the file ``path`` tells; None where there is none.

    Raises:
        CheckpointError: when it is no safetensors file.
    """
    try:
        path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise cannot_read(path, error) from error
    told = read_header(path).metadata
    try:
        return Kept(told.get(KEY), from_data(json.loads(told[REPORT])))
    except (KeyError, TypeError, ValueError, RecursionError):
        return Kept(told.get(KEY), None)


def write_router(path: Path, tensors: Mapping[str, Floats], key: str, routing: Routing) -> None:
    """Write ``tensors`` as float32 to ``path``, which appears only when it is complete.

    Raises:
        PlanError: when something that is no file stands there.
        StorageError: when it cannot be written.
    """
    if os.path.isdir(path):  # noqa: PTH112 - it never raises
        raise PlanError(Problem("a folder stands where the router's file goes", file=str(path), fix="--router FILE"))
    entries, pieces, place = [], [], 0
    for name, values in tensors.items():
        data = np.ascontiguousarray(values, dtype=np.float32).tobytes()
        entries.append(HeaderEntry(name, DTYPES["F32"], values.shape, place, place + len(data)))
        pieces.append(data)
        place += len(data)
    told: dict[str, Any] = routing.as_data()
    metadata = {KEY: key, REPORT: json.dumps(told, allow_nan=False), TABLE: "\n".join(table(routing))}
    beside = path.with_name(path.name + ".partial")
    write_file(beside, (encode_header(entries, metadata), *pieces), durable=True)
    try:
        beside.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
