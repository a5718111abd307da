"""Models that no one has heard of: layers, their order and their counts follow from names and config alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from zoo import FAMILIES

import stockpot as sp
from files import read_model, write_model
from stockpot.execute.reproduce import reproduce

PARTS = ("mixer.left.gain", "mixer.right.gain", "seats.7.gain", "table")


def invented(folder, seed, **config):
    """Four rungs with odd names, a config that counts them under an odd key, tensors of several kinds."""
    rng = np.random.default_rng(seed)
    arrays = {"ground.soil_embedding": rng.normal(size=(9, 3)).astype(np.float32)}
    arrays |= {f"climb.rungs.{i}.{p}": rng.normal(size=(3, 3)).astype(np.float32) for i in range(4) for p in PARTS}
    arrays |= {"sky.0.weight": np.full(3, seed, np.float32), "sky.2.bias": np.full(3, seed, np.float32)}
    arrays |= {"climb.roof": np.full(2, seed, np.float32), "seen": np.array([seed]), "mask": np.array([True, False])}
    told = {"model_type": "ladder", "num_rungs": 4, "width": 3, "seat_count": 8, **config}
    return write_model(folder, arrays, config=told)


def test_the_page_lists_the_families_that_are_tested():
    """docs/architectures.md names each of them."""
    page = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text(encoding="utf-8")
    known = re.sub(r"[^a-z0-9]", "", page.split("## What is tested")[1].lower())
    for family in FAMILIES.values():
        assert family.name.removesuffix("Text").lower() in known, family.name


@pytest.fixture
def pair(tmp_path):
    """Two such models."""
    return [sp.open(invented(tmp_path / name, seed)) for seed, name in enumerate("ab")]


def test_an_invented_family_is_stacked(pair, tmp_path):
    """Renamed, counted under its own key and no other, ends taken from the ends, nothing dropped."""
    a, b = pair
    sp.save(sp.stack(sp.layers(a, 0, 3), sp.layers(b, 1, 4)), tmp_path / "out")
    made, first, second = (read_model(tmp_path / n) for n in ("out", "a", "b"))
    for new, (source, old) in enumerate([*((first, i) for i in range(3)), *((second, i) for i in range(1, 4))]):
        for part in PARTS:
            assert made[f"climb.rungs.{new}.{part}"].tobytes() == source[f"climb.rungs.{old}.{part}"].tobytes()
    assert {n for n in made if "rungs" not in n} == {n for n in first if "rungs" not in n}
    assert made["ground.soil_embedding"].tobytes() == first["ground.soil_embedding"].tobytes()
    assert made["climb.roof"].tobytes() == second["climb.roof"].tobytes()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["num_rungs"], config["width"], config["seat_count"]) == (6, 3, 8)


def test_an_invented_family_has_a_depth(pair):
    """A gradient runs from its first rung to its last."""
    plan = sp.plan(sp.slerp(*pair, t=[0.0, 0.3]))
    found = {step.name: step.source.resolved.one["t"] for step in plan.steps if step.dtype.is_float}
    assert [round(found[f"climb.rungs.{i}.table"], 12) for i in range(4)] == [0.0, 0.1, 0.2, 0.3]
    assert (found["ground.soil_embedding"], found["climb.roof"], found["sky.0.weight"]) == (0.0, 0.3, 0.3)


def test_an_invented_family_loses_nothing(pair, tmp_path):
    """Every tensor of every kind comes out of a merge, integers and booleans as the base has them."""
    a, b = pair
    sp.save(a + sp.ties(b - a, density=0.5), tmp_path / "out")
    made, first = read_model(tmp_path / "out"), read_model(tmp_path / "a")
    assert {n: (x.dtype, x.shape) for n, x in made.items()} == {n: (x.dtype, x.shape) for n, x in first.items()}
    assert (made["seen"].tolist(), made["mask"].tolist()) == ([0], [True, False])


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"num_rungs": None, "storeys": 4}, "storeys"),
        ({"num_rungs": None, "height": {"model_type": "tall", "floors": 4}}, "height.floors"),
        ({"seat_count": 4}, "num_rungs"),
    ],
    ids=["only number", "nested", "the one that shares a word"],
)
def test_the_key_that_counts_is_found_by_its_number(config, key, tmp_path):
    """The only number that fits, wherever it stands; of several the one that shares a word with the layers."""
    a = sp.open(invented(tmp_path / "a", 0, **config))
    sp.save(sp.layers(a, 1, 3), tmp_path / "out")
    found = json.loads((tmp_path / "out" / "config.json").read_text())
    for step in key.split("."):
        found = found[step]
    assert found == 2


def test_a_count_that_is_not_found_is_told(tmp_path):
    """Two odd keys of the same number, neither sharing a word: nothing is guessed, and the plan says so."""
    a = sp.open(invented(tmp_path / "a", 0, num_rungs=None, storeys=4, floors=4))
    plan = sp.plan(sp.layers(a, 0, 2))
    assert any("no key of config.json" in n.message and "climb.rungs" in n.message for n in plan.notes)


def test_two_invented_stacks_are_told_apart_by_the_user(tmp_path):
    """The error names both; a recipe says which is meant."""
    rng = np.random.default_rng(0)
    arrays = {f"{s}.{i}.mix.gain": rng.normal(size=2).astype(np.float32) for s in ("up", "down") for i in range(3)}
    write_model(tmp_path / "a", arrays, config={"model_type": "stairs", "steps_up": 3, "steps_down": 3})
    with pytest.raises(sp.PlanError, match=r"(?s)up \(3\), down \(3\).*stack: up"):
        sp.plan(sp.layers(sp.open(tmp_path / "a"), 0, 2))
    part = "{sources: [{model: a, layer_range: [1, 3], stack: down}]}"
    (tmp_path / "recipe.yml").write_text(f"merge_method: passthrough\nslices: [{part}, {part}]\n")
    sp.merge(tmp_path / "recipe.yml", tmp_path / "out")
    made = read_model(tmp_path / "out")
    assert len(made) == 3 + 4
    assert all(made[f"up.{i}.mix.gain"].tobytes() == arrays[f"up.{i}.mix.gain"].tobytes() for i in range(3))
    assert made["down.2.mix.gain"].tobytes() == arrays["down.1.mix.gain"].tobytes()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["steps_up"], config["steps_down"]) == (3, 4)
    assert reproduce(tmp_path / "out", tmp_path / "again").differences == ()
