"""What the verbs that write adapters say of their memory holds for the whole process, as the kernel counts it."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from adapting import factors, write_adapter
from single_files import loha, lokr

from files import write_file
from measured import MIB, large_model, stockpot

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs VmHWM of /proc/self/status")

ROWS, COLUMNS, RANK = 512, 12288, 64


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Three adapters on wide layers, a base and a model that was tuned."""
    folder = tmp_path_factory.mktemp("wide")
    shapes = {f"layers.{i}.w.weight": (ROWS, COLUMNS) for i in range(2)}
    for seed, name in enumerate("abc"):
        rng = np.random.default_rng(seed)
        parts = {}
        for weight in shapes:
            parts |= factors(rng, weight.removesuffix(".weight"), ROWS, COLUMNS, RANK)
        write_adapter(folder / name, parts, r=RANK)
    rng = np.random.default_rng(9)
    for name, make in (("loha", loha), ("lokr", lokr)):
        parts = {f"{m.removesuffix('.weight')}.{n}": v for m in shapes for n, v in make(rng, ROWS, COLUMNS).items()}
        write_file(folder / f"{name}.safetensors", parts)
    large_model(folder / "base", shapes, code="F32", data=ROWS * COLUMNS)
    large_model(folder / "tuned", shapes, code="F32", data=ROWS * COLUMNS, seed=1)
    return folder


CASES = {
    "linear": ("merge", ["a", "b", "c"], []),
    "ties": ("merge", ["a", "b", "c"], ["--method=ties", "--density=0.2"]),
    "core": ("merge", ["a", "b", "c"], ["--method=ties", "--density=0.2", "--space=core"]),
    "knots": ("merge", ["a", "b", "c"], ["--method=ties", "--density=0.2", "--space=knots"]),
    "peft": ("merge", ["a", "b", "c"], ["--compat=peft", "--method=linear"]),
    "resize": ("resize", ["a"], ["--rank=16"]),
    "extract": ("extract", ["tuned", "base"], ["--rank=16"]),
    "other kinds": ("merge", ["loha.safetensors", "lokr.safetensors"], ["--rank=16"]),
    "another rank": ("resize", ["loha.safetensors"], ["--rank=16"]),
    "energy": ("extract", ["tuned", "base"], ["--energy=0.5"]),
}


@pytest.mark.parametrize("case", CASES)
def test_the_memory_that_is_told_is_enough(place, tmp_path, case):
    """The largest resident set is below what was planned, and that is not out of all proportion."""
    verb, names, more = CASES[case]
    paths = [place / n for n in names]
    done = stockpot(
        "lora", verb, *paths, tmp_path / "out", *more, "--json", "--no-sync", "--memory=2GiB", "--threads=2"
    )
    assert done.code == 0, done.errors
    memory = json.loads(done.out)["memory"]
    assert 0 < done.peak <= memory <= 4 * done.peak, (done.peak / MIB, memory / MIB)
