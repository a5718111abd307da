"""Adapters out, from Python and as dry runs: the same as the verbs, told before it is done."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from adapting import write_base
from making import made, refused, some_adapter

import stockpot as sp
from files import read_file, read_model, write_model
from stockpot.cli.main import main


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Two adapters, a base and a model that was tuned."""
    monkeypatch.chdir(tmp_path)
    some_adapter(tmp_path / "a", 1)
    some_adapter(tmp_path / "b", 2, rank=3)
    base = write_base(tmp_path / "base")
    rng = np.random.default_rng(3)
    write_model(tmp_path / "tuned", {n: v + rng.normal(size=v.shape).astype(v.dtype) for n, v in base.items()})
    return tmp_path


def weights(folder):
    return (folder / "adapter_model.safetensors").read_bytes()


CASES = {
    "merge": (
        ["merge", "a", "b", "--method=ties", "--density=0.5", "--weight=1", "--weight=0.5", "--rank=3"],
        lambda out: sp.lora_merge(
            ["a", "b"], out, method="ties", parameters={"density": 0.5, "weight": [1.0, 0.5]}, rank=3, durable=False
        ),
    ),
    "extract": (
        ["extract", "tuned", "base", "--rank=3", "--energy=0.9", "--exclude=conv",
         "--save-modules=norms,weights,biases",
         "--drop=embed|head"],
        lambda out: sp.lora_extract(
            "tuned", "base", out, rank=3, energy=0.9, exclude="conv", save_modules=["norms", "weights", "biases"],
            drop="embed|head", durable=False,
        ),
    ),
    "resize": (["resize", "a", "--rank=2"], lambda out: sp.lora_resize("a", out, rank=2, durable=False)),
}  # fmt: skip


@pytest.mark.parametrize("verb", CASES)
def test_functions_do_what_the_verbs_do(place, capsys, verb):
    """The same bytes, and the same request in the receipt."""
    arguments, function = CASES[verb]
    told = made(*arguments, "out", capsys=capsys)
    found = function(place / "own")
    assert weights(place / "own") == weights(place / "out")
    assert found.folder == place / "own"
    assert found.report.as_data()["modules"] == told["modules"]
    one, other = (json.loads((place / n / "stockpot-receipt.json").read_text())["adapter"] for n in ("own", "out"))
    assert one == other


@pytest.mark.parametrize("verb", CASES)
def test_dry_runs_tell_and_write_nothing(place, capsys, verb):
    """The memory of the real run, its modules, ranks that none of its exceeds, and what is stored whole."""
    arguments, _ = CASES[verb]
    planned = made(*arguments, "out", "--dry-run", capsys=capsys)
    assert not list(place.glob("out*"))
    told = made(*arguments, "out", capsys=capsys)
    assert planned["memory"] == told["memory"]
    ranks = {m["module"]: m["rank"] for m in planned["modules"]}
    assert ranks.keys() == {m["module"] for m in told["modules"]}
    assert all(m["rank"] <= ranks[m["module"]] <= 3 for m in told["modules"])
    assert all(m["dense"] == (verb != "resize") for m in planned["modules"])
    assert len(planned["whole"]) == len(told["whole"])
    written = read_file(place / "out" / "adapter_model.safetensors")
    assert planned["bytes"] >= sum(v.nbytes for n, v in written.items() if "lora_" in n) > planned["bytes"] // 2
    assert main(["lora", *arguments, "out", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "would write out/adapter_model.safetensors" in text
    assert "rank at most 3" in text or "rank at most 2" in text


def test_dry_runs_refuse_what_the_real_ones_would(place, capsys):
    """Budgets, adapters that do not fit, PEFT's forms."""
    assert "MiB of memory" in refused(capsys, "merge", "a", "b", "out", "--dry-run", "--memory=1MiB")
    assert "MiB of memory" in refused(capsys, "resize", "a", "out", "--rank=2", "--dry-run", "--memory=1MiB")
    how = ("out", "--rank=2", "--dry-run", "--memory=1MiB")
    assert "MiB of memory" in refused(capsys, "extract", "tuned", "base", *how)
    assert "--compat" in refused(capsys, "merge", "a", "b", "out", "--dry-run", "--compat=peft", code=2)


def test_a_recipe_and_its_path(place):
    """As the verb with --recipe; what the recipe says is not said twice."""
    (place / "r.yml").write_text("merge_method: ties\nparameters: {density: 0.5}\nmodels: [{model: a}, {model: b}]\n")
    made("merge", "--recipe=r.yml", "out")
    sp.lora_merge("r.yml", "own", durable=False)
    assert weights(place / "own") == weights(place / "out")
    with pytest.raises(sp.ExpressionError, match="the recipe says"):
        sp.lora_merge("r.yml", "x", method="linear")


REFUSED = {
    "rank": (lambda: sp.lora_resize("a", "x", rank=0), "rank of 0"),
    "energy": (lambda: sp.lora_resize("a", "x", energy=1.5), "energy of 1.5"),
    "neither": (lambda: sp.lora_resize("a", "x"), "how much is kept"),
    "nothing to extract by": (lambda: sp.lora_extract("tuned", "base", "x"), "how much is kept"),
    "kinds": (lambda: sp.lora_extract("tuned", "base", "x", rank=1, save_modules=["norm"]), "does not know norm"),
    "space": (lambda: sp.lora_merge(["a", "b"], "x", space="half"), "no space 'half'"),
    "concat": (lambda: sp.lora_merge(["a", "b"], "x", method="concat", rank=2), "concat keeps everything"),
    "method": (lambda: sp.lora_merge(["a", "b"], "x", method="tis"), "unknown method"),
    "parameters": (lambda: sp.lora_merge(["a", "b"], "x", parameters={"density": 1}), "density"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_asked_for(place, name):
    """An error that says so, and nothing is written."""
    call, words = REFUSED[name]
    with pytest.raises(sp.StockpotError, match=words):
        call()
    assert not list(place.glob("x*"))


def test_the_base_is_untouched(place):
    """Merged from Python, folded, and the base's other tensors are as they were."""
    sp.lora_extract("tuned", "base", "adapter", energy=1, durable=False)
    folded = sp.compute(sp.open("base", adapter="adapter"))
    for name, values in read_model(place / "tuned").items():
        np.testing.assert_allclose(folded[name], values, atol=1e-5, err_msg=name)


def test_the_example_of_the_page(place, capsys):
    """What docs/lora.md shows for Python runs on real folders."""
    some_adapter(place / "one", 5)
    some_adapter(place / "two", 6)
    page = (Path(__file__).parents[2] / "docs" / "lora.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, {})
    first, *rows = capsys.readouterr().out.splitlines()
    assert 0 < float(first) <= 1
    assert len(rows) == 9
    assert {p.name for p in place.iterdir()} >= {"out", "learned", "small"}
