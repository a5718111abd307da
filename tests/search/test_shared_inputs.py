"""Candidates of a search share what they open; what they compute is what a merge writes."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import stockpot as sp
from evaluating import digits_bench
from stockpot.checkpoint import open_checkpoint
from stockpot.errors import StockpotError
from stockpot.evaluate import Inputs, candidate
from stockpot.planning import build
from stockpot.recipe.parse import parse_recipe

MODELS = (
    "models:\n  - {model: low, parameters: {weight: W, density: D}}\n  - {model: high, parameters: {weight: 0.4}}\n"
)
RECIPES = {
    "linear": MODELS.replace(", density: D", ""),
    "slerp": "base_model: low\nmodels: [{model: high}]\nparameters: {t: W}\n",
    "task_arithmetic": "base_model: base\n" + MODELS.replace(", density: D", ""),
    "ties": "base_model: base\n" + MODELS,
    "dare_ties": "base_model: base\n" + MODELS,
}


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return digits_bench(tmp_path)


@pytest.mark.parametrize("method", RECIPES)
def test_candidates_are_what_a_merge_writes(bench, method):
    """Byte for byte, one candidate after another, with inputs that were opened once."""
    inputs = Inputs()
    for number, (weight, density) in enumerate(((0.3, 0.5), (0.7, 0.21), (0.3, 0.5))):
        text = f"merge_method: {method}\n{RECIPES[method]}".replace("W", str(weight)).replace("D", str(density))
        found = candidate(parse_recipe(text), inputs=inputs).opened().tensors
        (bench / "one.yml").write_text(text)
        out = sp.merge("one.yml", bench / f"out{number}").folder
        written = sp.compute(sp.open(out))
        assert found.keys() == written.keys()
        assert all(np.array_equal(found[n].view(np.uint8), written[n].view(np.uint8)) for n in written)


def test_inputs_are_opened_once(bench, monkeypatch):
    """Whatever recipes name them; an error is not kept, so a model that comes later is found."""
    opened = []

    def counted(reference, **how):
        opened.append(reference)
        return open_checkpoint(reference, **how)

    monkeypatch.setattr(build, "open_checkpoint", counted)
    inputs = Inputs()
    (bench / "pair.yml").write_text("merge_method: linear\nmodels: [{model: low}, {model: high}]\n")
    for what in ("merge.yml", "pair.yml", "late.yml", "merge.yml"):
        (bench / "late.yml").write_text("merge_method: linear\nmodels: [{model: low}, {model: late}]\n")
        one = candidate(what, inputs=inputs)
        if what == "late.yml":
            with pytest.raises(StockpotError, match="late"):
                _ = one.plan
            shutil.copytree(bench / "base", bench / "late")
        _ = one.plan
    assert sorted(opened) == ["base", "high", "late", "late", "low"]


def test_a_file_that_changed_is_never_mixed_in(bench):
    """An input that is written anew after it was opened is an error, not other weights under the old header."""
    inputs = Inputs()
    _ = candidate("low", inputs=inputs).plan
    file = bench / "low" / "model.safetensors"
    file.write_bytes(file.read_bytes())
    with pytest.raises(StockpotError, match="changed"):
        _ = candidate("low", inputs=inputs).opened().tensors
