"""The JSON files beside weights: configs and indexes of shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stockpot.checkpoint.places import cannot_read
from stockpot.errors import CheckpointError, Problem

__all__ = ["read_index", "read_json"]

_MAX_BYTES = 100_000_000


def read_index(path: Path) -> dict[str, str]:
    """Tensor name → file name, of the index file at ``path``.

    Raises:
        CheckpointError: when it is no index.
    """
    index = read_json(path)
    weights = index.get("weight_map")
    if not isinstance(weights, dict) or not all(isinstance(v, str) for v in weights.values()):
        fix = "download it again, or remove it: the shards are then read without it"
        raise CheckpointError(Problem("the index has no weight_map", file=str(path), fix=fix))
    return weights


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in the file at ``path``.

    Raises:
        CheckpointError: when it cannot be read, or is no JSON object.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise CheckpointError(Problem(f"larger than {_MAX_BYTES} bytes", file=str(path)))
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise cannot_read(path, error) from error
    except (ValueError, RecursionError) as error:
        message = f"not valid JSON: {error}" if isinstance(error, ValueError) else "nested too deeply"
        raise CheckpointError(Problem(message, file=str(path), fix="download it again")) from error
    if not isinstance(found, dict):
        raise CheckpointError(Problem("not a JSON object", file=str(path), fix="download it again"))
    return found
