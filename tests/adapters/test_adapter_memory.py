"""What a plan says of adapters' memory holds for the whole process, as the kernel counts it."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from adapting import factors, write_adapter

from measured import MIB, large_model, planned, stockpot

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs VmHWM of /proc/self/status")

RANK = 128
SHAPES = {"model.embed_tokens.weight": (48000, 512)} | {f"layers.{i}.w.weight": (2048, 8192) for i in range(3)}


def large_adapter(folder, seed, *, crossed, dora):
    """An adapter of a high rank on everything; its factors are larger than a block."""
    rng = np.random.default_rng(seed)
    parts = {}
    for name, (rows, columns) in SHAPES.items():
        module = name.removesuffix(".weight")
        if "embed" in name:
            parts[f"{module}.lora_embedding_A"] = rng.normal(size=(RANK, rows)).astype(np.float32)
            parts[f"{module}.lora_embedding_B"] = rng.normal(size=(columns, RANK)).astype(np.float32)
        else:
            parts |= factors(rng, module, *((columns, rows) if crossed else (rows, columns)), RANK)
        if dora:
            outputs = columns if crossed or "embed" in name else rows
            parts[f"{module}.lora_magnitude_vector"] = np.ones(outputs, np.float32)
    return write_adapter(folder, parts, r=RANK, fan_in_fan_out=crossed, use_dora=dora)


@pytest.mark.parametrize(
    ("crossed", "dora", "threads"),
    [(False, False, "1"), (True, False, "2"), (False, True, "2"), (True, True, "2")],
)
def test_the_plan_counts_adapters(tmp_path, crossed, dora, threads):
    """A merge of two adapters on one base stays below what was planned, and that is not twice too much."""
    large_model(tmp_path / "base", SHAPES, data=1 << 12)
    for seed, name in enumerate(("one", "two")):
        large_adapter(tmp_path / name, seed, crossed=crossed, dora=dora)
    models = [{"model": f"base+{name}"} for name in ("one", "two")]
    recipe = tmp_path / "r.yml"
    recipe.write_text(json.dumps({"merge_method": "ties", "base_model": "base", "models": models}))
    cost = planned(recipe, "--threads", threads)
    done = stockpot("merge", recipe, tmp_path / "out", "--threads", threads, "--quiet")
    assert done.code == 0, done.errors
    assert 0 < done.peak <= cost["memory"], (done.peak / MIB, cost["memory"] / MIB)
    assert cost["memory"] <= 2 * done.peak, (done.peak / MIB, cost["memory"] / MIB)


LESS = {name: SHAPES[name] for name in list(SHAPES)[:2]}


def large_product(folder, seed, kind):
    """An adapter of LoHa or LoKr on the layers."""
    rng = np.random.default_rng(seed)
    parts = {}
    for name, (rows, columns) in LESS.items():
        module = name.removesuffix(".weight")
        shapes = (
            {f"hada_w{i}_{x}": (rows, 64) if x == "a" else (64, columns) for i in "12" for x in "ab"}
            if kind == "LOHA"
            else {"lokr_w1": (8, 4), "lokr_w2_a": (rows // 8, 64), "lokr_w2_b": (64, columns // 4)}
        )
        parts |= {f"{module}.{part}": rng.normal(size=shape).astype(np.float32) for part, shape in shapes.items()}
    return write_adapter(folder, parts, peft_type=kind, r=64, alpha=8)


@pytest.mark.parametrize(("kind", "threads"), [("LOHA", "2"), ("LOKR", "1")])
def test_the_plan_counts_other_kinds(tmp_path, kind, threads):
    """The same holds of LoHa and LoKr."""
    large_model(tmp_path / "base", LESS, data=1 << 12)
    large_product(tmp_path / "one", 1, kind)
    recipe = tmp_path / "r.yml"
    recipe.write_text(json.dumps({"merge_method": "ties", "base_model": "base", "models": [{"model": "one"}]}))
    cost = planned(recipe, "--threads", threads)
    done = stockpot("merge", recipe, tmp_path / "out", "--threads", threads, "--quiet")
    assert done.code == 0, done.errors
    assert 0 < done.peak <= cost["memory"], (done.peak / MIB, cost["memory"] / MIB)
    assert cost["memory"] <= 2 * done.peak, (done.peak / MIB, cost["memory"] / MIB)
