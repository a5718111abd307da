"""Whole models of every family: merged, they load in transformers and compute what torch computes."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from zoo import FAMILIES

import stockpot as sp
from files import read_model, write_model

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from running import loaded, outputs  # noqa: E402 - needs both

NAMES = list(FAMILIES)
MERGES = {
    "linear": sp.linear,
    "ties": lambda a, b: a + 0.7 * sp.ties(b - a, a - a, density=0.4),
}
DTYPES = ("float32", "bfloat16")


def stored(folder):
    """Name → dtype, shape and bytes of every tensor in a folder."""
    return {name: (a.dtype, a.shape, a.tobytes()) for name, a in read_model(folder).items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", NAMES)
def test_a_merge_of_identical_models_is_the_model(family, dtype, zoo, tmp_path):
    """Every tensor comes back bit for bit, none dropped, none added, from many files into many; logits are the same."""
    folder = zoo.saved(family, dtype=dtype, shards="8KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    expected = outputs(family, loaded(family, folder))
    for kind, merge in MERGES.items():
        a, b = sp.open(folder), sp.open(folder)
        sp.save(merge(a, b), tmp_path / kind, shard_size=8_000)
        assert stored(tmp_path / kind) == stored(folder)
        assert len(list((tmp_path / kind).glob("*.safetensors"))) > 1
        assert torch.equal(outputs(family, loaded(family, tmp_path / kind)), expected)


@pytest.mark.parametrize("family", NAMES)
def test_task_arithmetic_is_that_of_the_parameters_in_torch(family, zoo, tmp_path):
    """base + 0.6 (b - base) + 0.6 (c - base), tensor by tensor in memory: the same logits."""
    folders = [zoo.saved(family, seed) for seed in range(3)]
    base, b, c = (sp.open(folder) for folder in folders)
    merged = base + sp.task_arithmetic(b - base, c - base, weight=0.6)
    sp.save(merged, tmp_path / "out")
    expected, second, third = (loaded(family, folder) for folder in folders)
    with torch.no_grad():
        seen = set()
        for p, q, r in zip(*(m.state_dict().values() for m in (expected, second, third)), strict=True):
            if p.is_floating_point() and p.data_ptr() not in seen:  # tied ones once
                p.copy_((p.double() + 0.6 * (q.double() - p.double()) + 0.6 * (r.double() - p.double())).float())
            seen.add(p.data_ptr())
    found = outputs(family, loaded(family, tmp_path / "out"))
    assert torch.allclose(found, outputs(family, expected), rtol=1e-4, atol=1e-4)


def slerp(a, b, t):
    """Along the arc between two tensors, in float64."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(x) * np.linalg.norm(y)
    cosine = (x * y).sum() / norms if norms else 1.0
    if abs(cosine) > 0.9995:
        return (1 - t) * x + t * y
    angle = np.arccos(cosine)
    return (np.sin((1 - t) * angle) * x + np.sin(t * angle) * y) / np.sin(angle)


@pytest.mark.parametrize("family", NAMES)
def test_slerp_is_that_of_the_stored_tensors_in_numpy(family, zoo, tmp_path):
    """Each stored tensor on its arc, computed independently and loaded by transformers: the same logits."""
    folders = [zoo.saved(family, seed) for seed in range(2)]
    sp.save(sp.slerp(*map(sp.open, folders), t=0.3), tmp_path / "out")
    a, b = map(read_model, folders)
    floats = {n: slerp(a[n], b[n], 0.3).astype(a[n].dtype) if a[n].dtype.kind == "f" else a[n] for n in a}
    write_model(tmp_path / "expected", floats, config=json.loads((folders[0] / "config.json").read_text()))
    found, expected = (outputs(family, loaded(family, tmp_path / n)) for n in ("out", "expected"))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", NAMES)
def test_a_gradient_runs_over_the_layers_of_each_stack(family, zoo):
    """From the first layer to the last of every stack; embeddings go with the first, the head with the last."""
    a, b = (sp.open(zoo.saved(family, seed)) for seed in range(2))
    plan = sp.plan(sp.slerp(a, b, t=[0.25, 0.75]))
    found = {step.name: step.source.resolved.one["t"] for step in plan.steps if step.dtype.is_float}
    for stack in FAMILIES[family].stacks:
        if ".0." in stack or ".1." in stack:  # the blocks of a stage have the stage's place
            assert {t for n, t in found.items() if n.startswith(stack)} == {0.25 if ".0." in stack else 0.75}
            continue
        for index, t in ((0, 0.25), (1, 0.75)):
            assert {found[n] for n in found if n.startswith(f"{stack}.{index}.")} == {t}
    outside = {name: t for name, t in found.items() if not re.search(r"\.\d+\.", name)}
    for name, t in outside.items():
        if re.search("embed|pre_layrnorm|feature_projection", name) or name.endswith(
            ("wte.weight", "wpe.weight", "shared.weight")
        ):
            assert t == (0.75 if name == "embed_out.weight" else 0.25), name
        elif name.endswith(("lm_head.weight", "norm.weight", "ln_f.weight", "norm_f.weight", "classifier.weight")):
            assert t == 0.75, name
