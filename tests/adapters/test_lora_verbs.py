"""``stockpot lora``: folding is a merge of one model; inspecting tells what the dense change would."""

from __future__ import annotations

import json

import numpy as np
import pytest
from adapting import factors, same, write_adapter, write_base

from files import read_model
from stockpot.cli.main import main
from stockpot.execute.lora import singular_values

Q0, UP1 = "model.layers.0.q_proj", "model.layers.1.up_proj"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A base and an adapter on it, on two modules."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(5)
    write_base(tmp_path / "base")
    parts = factors(rng, Q0, 12, 12, 3) | factors(rng, UP1, 31, 12)
    parts["model.norm.weight"] = np.ones(12, np.float32)
    settings = {"modules_to_save": ["norm"], "rank_pattern": {"q_proj": 3}, "base_model_name_or_path": "org/base"}
    write_adapter(tmp_path / "adapter", parts, **settings)
    return tmp_path


def told(capsys, *arguments):
    """What a command that succeeds prints, as JSON."""
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_fold_is_the_merge_of_one_model(place, capsys):
    """The same bytes as a recipe with nothing but the adapted model; a dtype may be asked for."""
    (place / "r.yml").write_text("merge_method: passthrough\nmodels: [{model: base+adapter}]\n")
    assert main(["merge", "r.yml", "one", "--quiet"]) == 0
    assert main(["lora", "fold", "base", "adapter", "two", "--quiet"]) == 0
    one, two = read_model(place / "one"), read_model(place / "two")
    assert all(same(one[n], two[n]) for n in one)
    assert one.keys() == two.keys()
    told(capsys, "lora", "fold", "base", "adapter", "three", "--dtype", "float16")
    assert {v.dtype for v in read_model(place / "three").values()} == {np.dtype(np.float16)}
    assert "base" in told(capsys, "lora", "fold", "base", "adapter", "four", "--dry-run")["inputs"]
    assert not (place / "four").exists()


def test_inspect_measures_the_change(place, capsys):
    """Norm and singular values are those of the dense change, to rounding; relative is over the weight's norm."""
    base, folded = read_model(place / "base"), None
    main(["lora", "fold", "base", "adapter", "out", "--dtype", "float64", "--quiet"])
    folded = read_model(place / "out")
    data = told(capsys, "lora", "inspect", "adapter", "--base", "base")
    assert (data["adapter"], data["made_for"], data["whole"]) == ("adapter", "org/base", ["model.norm.weight"])
    assert [m["name"] for m in data["modules"]] == [Q0, UP1]
    for module in data["modules"]:
        name = f"{module['name']}.weight"
        dense = folded[name] - base[name]
        exact = np.linalg.svd(dense, compute_uv=False)[: module["rank"]]
        np.testing.assert_allclose(module["singular_values"], exact, rtol=1e-9)
        assert module["norm"] == pytest.approx(np.linalg.norm(dense), rel=1e-9)
        assert module["relative"] == pytest.approx(np.linalg.norm(dense) / np.linalg.norm(base[name]), rel=1e-7)
        assert 1 <= module["most"] <= module["rank"]
        assert 1 <= module["effective_rank"] <= module["rank"]
    assert [m["rank"] for m in data["modules"]] == [3, 4]
    assert data["modules"][0]["scale"] == pytest.approx(8 / 3)


def test_inspect_as_a_table(place, capsys):
    """One line a module; the column of relative norms is there with a base only."""
    assert main(["lora", "inspect", "adapter"]) == 0
    alone = capsys.readouterr().out
    assert main(["lora", "inspect", "adapter", "--base", "base"]) == 0
    with_base = capsys.readouterr().out
    assert Q0 in alone
    assert "relative" not in alone
    assert "relative" in with_base
    assert "whole tensors that take the place of the base's: 1" in alone


def test_inspect_of_another_base(place, capsys):
    """A base that it does not fit is an error, not a number."""
    write_base(place / "small", shapes={f"{Q0}.weight": (5, 5)})
    assert main(["lora", "inspect", "adapter", "--base", "small"]) == 5
    assert "small lacks what" in capsys.readouterr().err
    assert main(["lora", "inspect", "base"]) == 4


def test_a_change_of_nothing(place, capsys):
    """An adapter as it is before training: B is zero, and so are norm and effective rank."""
    parts = factors(np.random.default_rng(1), Q0, 12, 12)
    parts[f"{Q0}.lora_B.weight"][:] = 0
    write_adapter(place / "new", parts)
    (module,) = told(capsys, "lora", "inspect", "new")["modules"]
    assert (module["norm"], module["effective_rank"], module["most"]) == (0, 0, 0)


@pytest.mark.parametrize(("rows", "rank", "columns"), [(5, 3, 7), (2, 6, 3), (1, 1, 1), (40, 8, 9)])
def test_singular_values_of_a_product(rows, rank, columns):
    """Also where the rank is larger than the matrix."""
    rng = np.random.default_rng(rows)
    b, a = rng.normal(size=(rows, rank)), rng.normal(size=(rank, columns))
    found, exact = singular_values(b, a), np.linalg.svd(b @ a, compute_uv=False)
    count = min(len(found), len(exact))
    np.testing.assert_allclose(found[:count], exact[:count], rtol=1e-10, atol=1e-12)
    assert np.abs(found[count:]).max(initial=0) < 1e-12
