"""``--compat peft``: the numbers of PEFT's add_weighted_adapter, and what is wrong with them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from adapting import factors, write_adapter
from making import apart, changes, made, refused, remade, some_adapter

from files import read_file
from stockpot.cli.main import main
from stockpot.execute.matrices import Normals
from stockpot.lora.compat import FORMS, Member, exact, merged

peft = pytest.importorskip("peft", reason="peft is not installed: pip install -e '.[test]' anew")

MODULES = {"q": (24, 16), "v": (20, 16)}
WEIGHTS = (0.7, -0.4, 1.3)


class Layers(torch.nn.Module):
    """Two linear layers."""

    def __init__(self):
        super().__init__()
        for name, (rows, columns) in MODULES.items():
            setattr(self, name, torch.nn.Linear(columns, rows, bias=False))

    def forward(self, x):
        """Never called."""
        return x


def three(place):
    """Three adapters of one rank."""
    for seed, name in enumerate("abc"):
        rng = np.random.default_rng(seed)
        parts = {}
        for module, (rows, columns) in MODULES.items():
            parts |= factors(rng, module, rows, columns, 3)
        write_adapter(place / name, parts, r=3, lora_alpha=6 + seed, target_modules=list(MODULES), task_type=None)


def of_peft(place, form, **more):
    """What PEFT makes of them: name → dense change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(Layers(), place / "a", adapter_name="a")
        for name in "bc":
            model.load_adapter(place / name, adapter_name=name)
        model.add_weighted_adapter(list("abc"), list(WEIGHTS), "merged", combination_type=form, **more)
    layers = model.base_model.model
    return {f"{m}.weight": getattr(layers, m).get_delta_weight("merged").detach().double().numpy() for m in MODULES}


GIVEN = [f"--weight={w}" for w in WEIGHTS]
EXACTLY = [n for n in FORMS if "dare" not in n]


@pytest.mark.parametrize("form", EXACTLY)
def test_the_numbers_of_peft(tmp_path, monkeypatch, form):
    """Each form that draws nothing at random, as PEFT computes it."""
    monkeypatch.chdir(tmp_path)
    three(tmp_path)
    density = 0.4 if FORMS[form].needs_density else None
    made(
        "merge",
        *"abc",
        "out",
        "--compat=peft",
        "--method",
        form,
        *GIVEN,
        *([f"--density={density}"] if density else []),
    )
    wanted = of_peft(tmp_path, form, **({"density": density} if density else {}))
    assert apart(changes(tmp_path / "out"), wanted) <= 2e-6


@pytest.mark.parametrize("form", [n for n in FORMS if "dare" in n])
def test_forms_that_drop_at_random(tmp_path, monkeypatch, form):
    """Where nothing is dropped, the numbers of PEFT; else other draws of the same kind, the same for the same seed."""
    monkeypatch.chdir(tmp_path)
    three(tmp_path)
    how = ("merge", *"abc")
    made(*how, "out", "--compat=peft", "--method", form, *GIVEN, "--density=1")
    assert apart(changes(tmp_path / "out"), of_peft(tmp_path, form, density=1.0)) <= 2e-6
    for out, seed in (("x", 1), ("y", 1), ("z", 2)):
        made(*how, out, "--compat=peft", "--method", form, *GIVEN, "--density=0.5", "--seed", seed)
    x, y, z = (read_file(tmp_path / n / "adapter_model.safetensors") for n in "xyz")
    assert all(x[n].tobytes() == y[n].tobytes() for n in x)
    assert any(x[n].tobytes() != z[n].tobytes() for n in x)


def test_dropping_keeps_the_expectation():
    """A share of density is kept, and divided by it."""
    one = Member(np.ones((300, 1)), np.ones((1, 400)), 1.0, 1.0)
    found = merged(FORMS["dare_linear_svd"], [one], 0.25, Normals("w", 0)).left
    assert set(np.unique(found)) == {0.0, 4.0}
    assert np.mean(found) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(("count", "low", "high"), [(2, 0.9, 1.1), (3, 1.3, 1.5)])
def test_linear_on_factors_is_off_by_the_root_of_n_minus_1(count, low, high):
    """Of independent adapters the cross terms are as large as what is meant."""
    rng = np.random.default_rng(0)
    members = [Member(rng.normal(size=(256, 8)), rng.normal(size=(8, 256)), 1.0, 1.0) for _ in range(count)]
    form = FORMS["linear"]
    whole = exact(form, members, 1.0).dense
    off = np.linalg.norm(merged(form, members, 1.0, None).dense - whole) / np.linalg.norm(whole)
    assert low < off < high


def test_the_warning_tells_the_measured_distance(tmp_path, monkeypatch, capsys):
    """‖PEFT's result − the exact merge‖ over ‖the exact merge‖; in the report too, for each module."""
    monkeypatch.chdir(tmp_path)
    three(tmp_path)
    told = made("merge", *"abc", "out", "--compat=peft", "--method=linear", *GIVEN, "--overwrite", capsys=capsys)
    parts = [changes(tmp_path / n) for n in "abc"]
    whole = {n: sum(w * p[n] for w, p in zip(WEIGHTS, parts, strict=True)) for n in parts[0]}
    found = changes(tmp_path / "out")
    assert told["distance"] == pytest.approx(apart(found, whole), rel=1e-4)
    for row in told["modules"]:
        name = row["module"] + ".weight"
        assert row["distance"] == pytest.approx(apart({name: found[name]}, {name: whole[name]}), rel=1e-4)
    made("merge", *"abc", "again", "--compat=peft", "--method=linear", *GIVEN, capsys=capsys)
    assert main(["lora", "merge", *"abc", "more", "--compat=peft", "--method=linear", *GIVEN, "--no-sync"]) == 0
    assert f"{told['distance']:.3f} (relative" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["linear", "ties", "magnitude_prune"])
def test_per_factor_forms_depend_on_how_a_change_is_split(tmp_path, monkeypatch, form):
    """(B R, R⁻¹ A) is the same adapter, and they make something else of it: why they are compat forms only."""
    monkeypatch.chdir(tmp_path)
    some_adapter(tmp_path / "a", 1)
    some_adapter(tmp_path / "b", 2)
    remade(tmp_path / "a", tmp_path / "a2", 5)
    more = [] if form == "linear" else ["--density=0.5"]
    for one, out in (("a", "x"), ("a2", "y")):
        made("merge", one, "b", out, "--compat=peft", "--method", form, *more)
    assert apart(changes(tmp_path / "a"), changes(tmp_path / "a2")) < 1e-6
    assert apart(changes(tmp_path / "x"), changes(tmp_path / "y")) > 0.1


@pytest.mark.parametrize("form", ["svd", "cat", "ties_svd"])
def test_forms_on_changes_do_not(tmp_path, monkeypatch, form):
    """What PEFT computes on B · A."""
    monkeypatch.chdir(tmp_path)
    some_adapter(tmp_path / "a", 1)
    some_adapter(tmp_path / "b", 2)
    remade(tmp_path / "a", tmp_path / "a2", 5)
    more = ["--density=0.5"] if form == "ties_svd" else []
    for one, out in (("a", "x"), ("a2", "y")):
        made("merge", one, "b", out, "--compat=peft", "--method", form, *more, "--dtype=float64")
    assert apart(changes(tmp_path / "x"), changes(tmp_path / "y")) < 1e-6


def test_what_compat_refuses(tmp_path, monkeypatch, capsys):
    """Ranks that differ, forms and values that PEFT does not have, what is no pair of factors: by name."""
    monkeypatch.chdir(tmp_path)
    some_adapter(tmp_path / "a", 1)
    some_adapter(tmp_path / "b", 2, rank=3)
    write_adapter(
        tmp_path / "d",
        factors(np.random.default_rng(0), "q", 4, 4) | {"n.weight": np.ones(4, np.float32)},
        modules_to_save=["n"],
    )
    how = ("merge", "a", "b", "x", "--compat=peft")
    assert "ranks 4, 3" in refused(capsys, *how, "--method=linear")
    assert "PEFT has no form 'slerp'" in refused(capsys, *how, "--method=slerp")
    assert "ties_svd needs a density" in refused(capsys, *how, "--method=ties_svd")
    assert "svd has no density" in refused(capsys, *how, "--method=svd", "--density=0.5")
    assert "3 weights for 2" in refused(capsys, *how, "--method=svd", *GIVEN)
    assert "n.weight" in refused(capsys, "merge", "d", "d", "x", "--compat=peft", "--method=svd")
    assert "--rank alone" in refused(capsys, *how, "--space=core", code=2)
    assert not (tmp_path / "x").exists()
