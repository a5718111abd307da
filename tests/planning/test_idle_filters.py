"""Filters that no tensor answers to are told of: their values are never used."""

from __future__ import annotations

import numpy as np
import pytest

import stockpot as sp
from files import write_model


@pytest.fixture
def place(tmp_path):
    """Two models of four layers."""
    names = [f"model.layers.{i}.{part}.weight" for i in range(4) for part in ("mlp", "self_attn")]
    for seed, model in enumerate("ab"):
        rng = np.random.default_rng(seed)
        arrays = {n: rng.normal(size=(3, 3)).astype(np.float32) for n in ("model.embed_tokens.weight", *names)}
        write_model(tmp_path / model, arrays, config={"num_hidden_layers": 4})
    return tmp_path


def idle(place, body):
    """What the notes of a plan say of filters, with their lines."""
    (place / "r.yml").write_text(body)
    return [(n.message, n.line) for n in sp.plan(place / "r.yml").notes if "filter" in n.message]


def test_a_filter_that_is_in_no_name(place):
    """By its word, its parameter and its line; those that are in a name, and the one for everything, are not told."""
    entries = "[{filter: mlp, value: 0.2}, {filter: sefl_attn, value: 0.1}, {filter: '*', value: 1}, {value: 1}]"
    body = f"merge_method: linear\nmodels:\n- model: a\n  parameters:\n    weight: {entries}\n- model: b\n"
    ((message, line),) = idle(place, body)
    assert message == "filter 'sefl_attn' of weight occurs in no tensor's name: its value is never used"
    assert line == 5


def test_a_recipe_s_filters_count_for_all_slices(place):
    """Layer 3 and the embedding stand in one slice only; names are also those that layers had before they moved."""
    weight = "[{filter: layers.3., value: 0.1}, {filter: embed, value: 1}, {filter: layers.7., value: 0}, {value: 1}]"
    parts = [
        f"- sources: [{{model: a, layer_range: {r}}}, {{model: b, layer_range: {r}}}]" for r in ("[0, 2]", "[3, 4]")
    ]
    body = "merge_method: linear\nslices:\n" + "\n".join(parts) + f"\nparameters: {{weight: {weight}}}\n"
    (told,) = idle(place, body)
    assert told[0].startswith("filter 'layers.7.' of weight")
