"""Small merges, ways to stop them in the middle, and what they read when they go on."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest

import stockpot as sp
from files import write_model
from stockpot.checkpoint.reader import PayloadReader

NAMES = tuple(f"model.layers.{i}.w" for i in range(6))
CONFIG = {"model_type": "toy", "num_hidden_layers": 6}
MODELS = ("base", "a", "b")


def arrays(seed, shape=(16, 12)):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name in NAMES}


def write_models(folder, shape=(16, 12)):
    """Models base, a and b; small files beside base."""
    for seed, name in enumerate(MODELS):
        write_model(folder / name, arrays(seed, shape), config=CONFIG)
        (folder / name / "tokenizer.json").write_text("{}")
    return folder


def opened(place):
    return [sp.open(place / name) for name in MODELS]


@sp.elementwise
def louder(deltas, power: float = 2.0):
    """Weighs each entry by its size."""
    share = np.abs(deltas) ** power
    return (share * deltas).sum(axis=0) / np.maximum(share.sum(axis=0), 1e-300)


def in_memory():
    base, a, b = (sp.open(arrays(seed), name=name) for seed, name in enumerate(MODELS))
    return base + sp.ties(a - base, b - base, density=0.4)


def merge(place, **options):
    """A merge with random numbers, as a user would call it."""
    base, a, b = opened(place)
    made = base + sp.dare_ties(a - base, b - base, density=0.5)
    return sp.save(made, place / "out", **{"seed": 3, "threads": 1, **options})


def contents(folder):
    """Relative path → bytes of every file."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def path_of(descriptor):
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


@contextlib.contextmanager
def at_write(number, action):
    """``action`` is called instead of the ``number``-th write to a tensor of an output; the headers do not count."""
    real, writes = os.pwrite, []

    def pwrite(descriptor, data, offset):
        if offset and path_of(descriptor).endswith(".safetensors"):
            writes.append(offset)
            if len(writes) == number:
                action()
        return real(descriptor, data, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        yield


def interrupt():
    raise KeyboardInterrupt


def stop(run, after):
    """``run`` is broken off when ``after`` tensors are finished: one thread, one write for each."""
    with at_write(after + 1, interrupt), pytest.raises(KeyboardInterrupt):
        run()


@contextlib.contextmanager
def reading():
    """The set of input tensors (file or None, name) of which bytes are read meanwhile."""
    real, found = PayloadReader.read, set()

    def read(self, ref, start, view):
        if ref.file is None or ".partial" not in ref.file:
            found.add((ref.file, ref.name))
        return real(self, ref, start, view)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PayloadReader, "read", read)
        yield found
