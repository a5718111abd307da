"""Receipts changed at random: whatever was put anywhere, there is an answer or one of our errors."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from merged_models import merged, model, recipe

from stockpot.errors import StockpotError
from stockpot.execute import sources
from stockpot.execute.receipt import RECEIPT_NAME, read_receipt
from stockpot.execute.reproduce import plan_again
from stockpot.execute.verify import verify
from stockpot.planning.model import Limits
from stockpot.provenance.ancestry import lineage
from stockpot.provenance.draw import mermaid, text_tree

RECIPE = (
    "name: one\nmerge_method: dare_ties\nbase_model: base\nmodels: [{model: a}, {model: b}]\n"
    "parameters: {density: [0.4, 0.6]}\ndtype: bfloat16\n---\n"
    "slices:\n- sources: [{model: one, layer_range: [0, 1]}]\n- sources: [{model: a, layer_range: [0, 2]}]\n"
    "merge_method: passthrough\n"
)
VALUES = [
    None,
    True,
    -1,
    0,
    1,
    3,
    2**70,
    0.5,
    1e400,
    "",
    "x",
    "../x",
    "\x1b[2J",
    "\udcff",
    "0" * 32,
    [],
    [0],
    [[0]],
    {},
]
VALUES += [
    {"a": {}},
    {"leaf": "a"},
    {"step": "trim", "given": ["density"]},
    "ties",
    "steps",
    "float16",
    "model.safetensors",
]


@pytest.fixture
def out(tmp_path):
    """A merge of merges, its second generation."""
    for seed, name in enumerate(("base", "a", "b")):
        model(tmp_path / name, seed, front="license: mit")
    merged(
        recipe(
            tmp_path,
            "merge_method: steps\nsteps: [trim, mean]\nbase_model: base\nmodels: [{model: a}]\n"
            "parameters: {density: 0.5}\n",
        ),
        tmp_path / "c",
    )
    (tmp_path / "b").rename(tmp_path / "gone")
    (tmp_path / "c").rename(tmp_path / "b")
    merged(recipe(tmp_path, RECIPE), tmp_path / "out")
    return tmp_path / "out"


def places(data, way=()):
    """The way to every value in JSON data."""
    found = [way] if way else []
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        found += places(value, (*way, key))
    return found


def damaged(data, chance):
    """``data`` with one value replaced, removed or put under another name."""
    data = json.loads(json.dumps(data))
    *way, last = chance.choice(places(data))
    target = data
    for key in way:
        target = target[key]
    if isinstance(target, dict) and chance.random() < 0.3:
        value = target.pop(last)
        if chance.random() < 0.5:
            target[chance.choice(["x", "../x", "\x1b[2J", "leaf", "sum"])] = value
    else:
        target[last] = chance.choice(VALUES)
    return data


def used(folder):
    """Everything that is done with a receipt but writing."""
    receipt = read_receipt(folder)
    tree = lineage(folder)
    mermaid(tree)
    assert text_tree(tree).replace("\n", "").isprintable()
    for step in (
        lambda: verify(folder),
        lambda: sources.check_inputs(receipt),
        lambda: plan_again(folder, receipt, {}, Limits(), Path("/nonexistent/new")),
    ):
        try:
            step()
        except StockpotError:
            continue


def test_any_damage_has_an_answer(out, monkeypatch):
    """Four hundred single changes: reading, verifying, drawing and planning again raise nothing but our errors."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    whole, chance = json.loads((out / RECEIPT_NAME).read_bytes()), random.Random(0)
    read = 0
    for _ in range(400):
        text = json.dumps(damaged(whole, chance))
        (out / RECEIPT_NAME).write_text(text)
        try:
            used(out)
        except StockpotError:
            continue
        read += 1
    assert 50 < read < 350
