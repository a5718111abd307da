"""Soups and sweeps of models that transformers runs: config and tokenizer come along in memory."""

from __future__ import annotations

import json

import numpy as np
import pytest

from evaluating import TEXT, language_model
from files import read_model, write_file
from stockpot.evaluate import candidate, evaluate, load_suite
from stockpot.search import soup, sweep


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STOCKPOT_CACHE_DIR", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for i in range(3):
        language_model(tmp_path / f"t{i}", dtype="bfloat16")
        theta = read_model(tmp_path / f"t{i}")
        moved = {n: (a + 0.01 * i * rng.normal(size=a.shape)).astype(a.dtype) for n, a in theta.items()}
        write_file(tmp_path / f"t{i}" / "model.safetensors", moved)
    lines = TEXT.splitlines()
    (tmp_path / "select.txt").write_text(lines[0])
    (tmp_path / "report.txt").write_text(lines[1])
    split = {"select": "select.txt", "report": "report.txt"}
    (tmp_path / "suite.yml").write_text(json.dumps({"tasks": {"prose": {"kind": "perplexity", "split": split}}}))
    return tmp_path


def test_text_models(bench):
    """The figures of running averages and of points are those of the merges that recipes write."""
    suite, given = load_suite(bench / "suite.yml"), [candidate(f"t{i}") for i in range(3)]
    found = soup(given, suite)
    assert str(found.objective) == "prose.perplexity"
    assert not found.failed
    assert [step.error for step in found.steps] == [None] * 3
    assert found.objective.score(found.select, found.name) == max(s.score for s in found.steps if s.kept)
    ensemble = found.select.models[-1].name
    assert found.select.cell(ensemble, "prose").figures == ()
    curve = sweep("add", given, suite, values=[0, 0.5])
    (bench / "r.yml").write_text(curve.recipe.replace("lambda: 0.0", "lambda: 0.5"))
    merge = evaluate([candidate("r.yml")], suite, split="select")
    assert curve.curve.score("lambda 0.5", "prose") == merge.score("r", "prose")
