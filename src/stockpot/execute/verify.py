"""Hashing stored models, and comparing the hashes with a receipt."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import xxhash

from stockpot.checkpoint.model import Checkpoint, TensorRef
from stockpot.checkpoint.open import open_checkpoint
from stockpot.checkpoint.reader import PayloadReader
from stockpot.execute.evaluate import Phase, Tick
from stockpot.execute.receipt import read_receipt
from stockpot.execute.schedule import run_all
from stockpot.execute.workspace import Workspace
from stockpot.planning.blocks import Grid

__all__ = ["hash_tensors", "model_hash", "verify"]

_PIECE = 1 << 22

Progress = Callable[[int, int], None]


def hash_tensors(
    checkpoint: Checkpoint, *, threads: int | None = None, progress: Progress | None = None
) -> dict[str, str]:
    """xxh3-128 of every tensor's bytes, in one streaming pass: name → hexadecimal digest."""
    hashes: dict[str, str] = {}
    moved = [0]

    def phase(ref: TensorRef, reader: PayloadReader) -> Iterator[Phase]:
        def run(_: int, space: Workspace, _tick: Tick) -> None:
            digest = xxhash.xxh3_128()
            grid = Grid(ref.nbytes, _PIECE)
            for piece in range(grid.count):
                start, n = grid.block(piece)
                data = space.take(("piece",), (n,), np.uint8)
                reader.read(ref, start, data.data)
                digest.update(data.data)
                moved[0] += n
            hashes[ref.name] = digest.hexdigest()

        yield Phase("hash", 1, run, lambda: None)

    with PayloadReader() as reader:
        runs = (phase(ref, reader) for ref in checkpoint.tensors.values())
        run_all(runs, threads or os.cpu_count() or 1, _polled(progress, moved, checkpoint.nbytes))
    return {name: hashes[name] for name in checkpoint.tensors}


def model_hash(hashes: dict[str, str]) -> str:
    """One hash of a model: xxh3-128 over its sorted ``name:hash`` lines."""
    return xxhash.xxh3_128_hexdigest("".join(f"{n}:{h}\n" for n, h in sorted(hashes.items())).encode())


def verify(folder: Path, *, threads: int | None = None, progress: Progress | None = None) -> tuple[str, ...]:
    """Every difference between the model in ``folder`` and its receipt; empty when there is none.

    Raises:
        CheckpointError: when the receipt or the model cannot be read.
    """
    expected = read_receipt(folder)["tensors"]
    checkpoint = open_checkpoint(str(folder))
    hashes = hash_tensors(checkpoint, threads=threads, progress=progress)
    found = [f"{name}: missing" for name in expected if name not in hashes]
    found += [f"{name}: not in the receipt" for name in hashes if name not in expected]
    for name, row in expected.items():
        ref = checkpoint.tensors.get(name)
        if ref is None:
            continue
        if [ref.dtype.code, list(ref.shape)] != [row.get("dtype"), row.get("shape")]:
            found.append(f"{name}: is {ref.dtype.code}{list(ref.shape)}, was {row.get('dtype')}{row.get('shape')}")
        elif hashes[name] != row["hash"]:
            found.append(f"{name}: its bytes have changed")
    return tuple(found)


def _polled(progress: Progress | None, moved: list[int], total: int) -> Callable[[], None] | None:
    return None if progress is None else lambda: progress(min(moved[0], total), total)
