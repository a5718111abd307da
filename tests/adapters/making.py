"""Adapters that are made: written by the verbs, read back as dense changes in plain NumPy."""

from __future__ import annotations

import json
import math

import numpy as np
from adapting import ROOT, factors, write_adapter

from files import read_file
from stockpot.cli.main import main

SHAPES = {"q_proj": (12, 12), "up_proj": (31, 12), "down_proj": (12, 31)}
MODULES = tuple(f"model.layers.{i}.{m}" for i in range(3) for m in SHAPES)


def some_adapter(folder, seed, *, rank=4, modules=MODULES, **settings):
    """An adapter whose factors have something in common with those of other seeds; returns name → dense change."""
    rng, common = np.random.default_rng(seed), np.random.default_rng(99)
    parts = {}
    for name in modules:
        rows, columns = SHAPES[name.rpartition(".")[2]]
        shared, own = factors(common, name, rows, columns, 8), factors(rng, name, rows, columns, rank)
        a, b = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
        parts |= {a: shared[a][:rank] + own[a], b: shared[b][:, :rank] + own[b]}
    write_adapter(folder, parts, **({"r": rank} | settings))
    return changes(folder)


def changes(folder):
    """Name of each weight that an adapter changes → its dense change as PEFT describes it: (out, in…)."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = {n.removeprefix(ROOT): v for n, v in read_file(folder / "adapter_model.safetensors").items()}
    found = {}
    for name, a in tensors.items():
        for left, right, turned in (
            (".lora_A.weight", ".lora_B.weight", 0),
            (".lora_embedding_A", ".lora_embedding_B", 1),
        ):
            if not name.endswith(left):
                continue
            module = name.removesuffix(left)
            b, rank = tensors[module + right], a.shape[0]
            flat = b.reshape(b.shape[0], rank).astype(float) @ a.reshape(rank, -1).astype(float)
            made = scale_of(config, module, rank) * flat.reshape(b.shape[0], *a.shape[1:])
            found[module + ".weight"] = made.T if turned else made
    return found


def scale_of(config, module, rank):
    """alpha over rank as the settings say, patterns by whole names alone."""
    alpha = config["lora_alpha"]
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if pattern.replace("\\", "") == module:
            alpha = value
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def remade(folder, out, seed, *, rank=4):
    """The same adapter with (B R, R⁻¹ A) for a random R of each module."""
    rng = np.random.default_rng(seed)
    tensors = {n.removeprefix(ROOT): v for n, v in read_file(folder / "adapter_model.safetensors").items()}
    for name in [n for n in tensors if n.endswith("lora_A.weight")]:
        other = name.replace("lora_A", "lora_B")
        turn = rng.normal(size=(rank, rank)) + 3 * np.eye(rank)
        tensors[name] = np.linalg.solve(turn, tensors[name].astype(float))
        tensors[other] = tensors[other].astype(float) @ turn
    config = json.loads((folder / "adapter_config.json").read_text())
    return write_adapter(out, tensors, **config)


def made(*arguments, capsys=None):
    """Run ``stockpot lora …``, which has to succeed; what it prints as JSON, if wanted."""
    code = main(["lora", *map(str, arguments), "--no-sync", "--json" if capsys else "--quiet"])
    assert code == 0
    return json.loads(capsys.readouterr().out) if capsys else None


def apart(one, other):
    """‖one − other‖ over ‖other‖, all tensors together."""
    assert one.keys() == other.keys()
    far = sum(np.sum((one[n] - other[n]) ** 2) for n in one)
    return math.sqrt(far / sum(np.sum(v**2) for v in other.values()))


def refused(capsys, *arguments, code=None):
    """The error that ``stockpot lora …`` ends with."""
    found = main(["lora", *map(str, arguments), "--no-sync"])
    assert found not in (0, None)
    assert code in (None, found)
    return capsys.readouterr().err
