"""The rules of embeddings, token by token, in a few lines of NumPy: what the merge is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from files import read_model

ROWS = ("model.embed_tokens.weight", "lm_head.weight")


def remapped(
    folders: Mapping[str, Path],
    vocabularies: Mapping[str, Mapping[str, int]],
    target: Mapping[str, int],
    rows: int,
    base: str | None,
) -> dict[str, dict[str, np.ndarray]]:
    """Each model with the rows of the vocabulary ``target``."""
    stored = {name: read_model(folder) for name, folder in folders.items()}
    made: dict[str, dict[str, np.ndarray]] = {}
    for name in folders:
        made[name] = dict(stored[name])
        for tensor in ROWS:
            if tensor in stored[name]:
                made[name][tensor] = _rows(tensor, name, stored, vocabularies, target, rows, base)
    return made


def _rows(
    tensor: str,
    name: str,
    stored: Mapping[str, Mapping[str, np.ndarray]],
    vocabularies: Mapping[str, Mapping[str, int]],
    target: Mapping[str, int],
    rows: int,
    base: str | None,
) -> np.ndarray:
    own = stored[name][tensor].astype(np.float64)
    size = min(len(own), 1 + max(vocabularies[name].values()))
    out = np.tile(own[:size].mean(axis=0), (rows, 1))
    for place in range(rows):
        tokens = [token for token, number in target.items() if number == place]
        have: dict[str, np.ndarray] = {}
        for other, ids in vocabularies.items():
            matrix = stored[other].get(tensor, stored[other][ROWS[0]]).astype(np.float64)
            number = ids.get(tokens[0]) if tokens else place if place not in ids.values() else None
            if number is not None and number < len(matrix):
                have[other] = matrix[number]
        if name in have:
            out[place] = have[name]
        elif base in have:
            out[place] = have[base]
        elif have:
            out[place] = sum(1.0 / len(have) * row for row in have.values())
    return out.astype(stored[name][tensor].dtype)
