"""Mixtures are resumed, verified and repeated like any other result; noise is keyed; the card tells of the router."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from mixing import dense, mixed, write_recipe

import stockpot as sp
from files import read_file, read_model
from stockpot.arrangements import Expert, Mixture
from stockpot.cli.main import main
from stockpot.errors import CheckpointError, ExpressionError
from stockpot.execute.noise import normal_numbers
from stockpot.expression import leaves
from stockpot.moe.build import planned
from stockpot.planning.model import Limits
from stockpot.provenance.expressions import as_records, methods_in, rebuilt
from stockpot.recipe.mixture import load_mixture

PROMPTS = {"a": ["a b", "b c a"], "b": ["w1 w2", "w3"]}


@pytest.fixture
def recipe(tmp_path):
    """Two experts with prompts, one of them with noise."""
    for seed, name in enumerate("ab"):
        dense(tmp_path / name, "llama", seed)
    experts = [{"source_model": str(tmp_path / n), "positive_prompts": PROMPTS[n]} for n in "ab"]
    experts[1] |= {"noise_scale": 0.01, "residual_scale": 0.5}
    return write_recipe(tmp_path / "r.yml", tmp_path / "a", experts, dtype="bfloat16", seed=3)


def test_from_the_shell(recipe, tmp_path, capsys):
    """One command makes it, tells how it routes, and what is made verifies and is repeated to the byte."""
    out = tmp_path / "out"
    assert main(["moe", str(recipe), str(out), "--memory", "4GiB"]) == 0
    told = capsys.readouterr()
    assert "router: from prompts: states of the base at the last token" in told.out
    assert "held-out accuracy" in told.out
    assert "only the MLPs are used" in told.err
    assert main(["verify", str(out), "--inputs"]) == 0
    assert main(["reproduce-merge", str(out), str(tmp_path / "again")]) == 0
    assert main(["lineage", str(out)]) == 0
    assert "← moe" in capsys.readouterr().out
    card = (out / "README.md").read_text()
    assert "## Routing" in card
    assert "held-out accuracy" in card
    assert "- `router`" not in card
    receipt = json.loads((out / "stockpot-receipt.json").read_text())
    assert set(receipt["inputs"]) == {str(tmp_path / "a"), str(tmp_path / "b"), "router"}
    assert receipt["inputs"]["router"]["files"][0]["xxh3"]
    assert set(np.unique([v.dtype.name for v in read_model(out).values()])) == {"bfloat16"}


def test_for_machines(recipe, tmp_path, capsys):
    """--json tells the routing of every layer and expert; --dry-run makes nothing."""
    out = tmp_path / "out"
    assert main(["moe", str(recipe), str(out), "--dry-run", "--json", "--memory", "4GiB"]) == 0
    assert len(json.loads(capsys.readouterr().out)["tensors"]) == 21 - 6 + 12 + 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "r.yml"]
    assert main(["moe", str(recipe), str(out), "--json", "--memory", "4GiB"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["router"] == str(tmp_path / "out.router.safetensors")
    assert [len(layer["load"]) for layer in told["routing"]["layers"]] == [2, 2]
    assert all(sum(layer["load"]) == pytest.approx(1) for layer in told["routing"]["layers"])
    assert told["routing"]["chance"] == 0.5


def test_a_router_elsewhere(recipe, tmp_path, capsys):
    """A router that has moved is found where --input says; changed, it is refused."""
    out = mixed(recipe, tmp_path / "out")
    moved = tmp_path / "moved.safetensors"
    (tmp_path / "out.router.safetensors").rename(moved)
    again = ["reproduce-merge", str(out), str(tmp_path / "again")]
    assert main(again) == 4
    assert "input router" in capsys.readouterr().err
    assert main([*again, "--input", f"router={moved}"]) == 0
    raw = bytearray(moved.read_bytes())
    raw[-1] ^= 1
    moved.write_bytes(raw)
    assert main([*again, "--overwrite", "--input", f"router={moved}"]) != 0


def test_a_router_is_made_once(recipe, tmp_path, monkeypatch):
    """The file of a router that was made of the same is used as it is: a merge that was broken off goes on."""
    first = mixed(recipe, tmp_path / "out")
    before = (tmp_path / "out.router.safetensors").stat()
    kept = read_model(first)
    shutil.rmtree(first)
    monkeypatch.setattr("stockpot.moe.build.states_of", None)
    found = read_model(mixed(recipe, tmp_path / "out"))
    assert (tmp_path / "out.router.safetensors").stat().st_mtime_ns == before.st_mtime_ns
    assert {n: v.tobytes() for n, v in found.items()} == {n: v.tobytes() for n, v in kept.items()}


def test_measuring_what_was_not_measured(recipe, tmp_path):
    """--measure tells how a router at random routes, and makes its file again with the report; the rows stay."""
    text = recipe.read_text() + "gate_mode: random\n"
    recipe.write_text(text)
    limits, out = Limits(memory=4 << 30), tmp_path / "out"
    plain = planned(load_mixture(recipe), out, limits)
    assert plain.routing.layers[0].load is None
    assert "--measure" in plain.routing.warnings[0]
    rows = read_file(plain.router)
    seen = planned(load_mixture(recipe), out, limits, measure=True)
    assert seen.routing.layers[0].load is not None
    assert {n: v.tobytes() for n, v in read_file(seen.router).items()} == {n: v.tobytes() for n, v in rows.items()}


def test_bytes_do_not_depend_on_threads(recipe, tmp_path):
    """Any number of threads and any size of shards give the same tensors, noise included."""
    one = mixed(recipe, tmp_path / "out")
    made = planned(
        load_mixture(recipe), tmp_path / "two", Limits(4 << 30, 5, 9000), router=tmp_path / "out.router.safetensors"
    )
    from stockpot.execute.local import execute

    execute(made.plan, tmp_path / "two", durable=False)
    first, second = read_model(one), read_model(tmp_path / "two")
    assert len(list((tmp_path / "two").glob("*.safetensors"))) > 1
    assert {n: v.tobytes() for n, v in first.items()} == {n: v.tobytes() for n, v in second.items()}


def test_noise(recipe, tmp_path):
    """Noise has the deviation that is asked for, differs from tensor to tensor, and is scaled with the last matrix."""
    recipe.write_text(recipe.read_text().replace("bfloat16", "float32"))
    found, source = read_model(mixed(recipe, tmp_path / "out")), read_model(tmp_path / "b")
    noises = []
    for part, own in (("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2")):
        values = found[f"model.layers.0.block_sparse_moe.experts.1.{own}.weight"].astype(float)
        factor = 0.5 if part == "down_proj" else 1.0
        noises.append((values / factor - source[f"model.layers.0.mlp.{part}.weight"]).ravel())
        assert np.isclose(noises[-1].std(), 0.01, rtol=0.1)
        assert abs(noises[-1].mean()) < 0.001
    assert abs(np.corrcoef(noises[0], noises[1])[0, 1]) < 0.1
    first = found["model.layers.0.block_sparse_moe.experts.0.w1.weight"]
    assert first.tobytes() == read_model(tmp_path / "a")["model.layers.0.mlp.gate_proj.weight"].tobytes()


def test_normal_numbers():
    """Numbers are standard normal, keyed by name, seed and label, and the same however they are cut."""
    values = normal_numbers(0, 50_000, "w", 1, "x")
    assert abs(values.mean()) < 0.02
    assert abs(values.std() - 1) < 0.02
    assert abs((values**4).mean() - 3) < 0.2
    parts = [normal_numbers(start, min(7001, 50_000 - start), "w", 1, "x") for start in range(0, 50_000, 7001)]
    assert np.array_equal(np.concatenate(parts), values)
    for other in (("v", 1, "x"), ("w", 2, "x"), ("w", 1, "y")):
        assert abs(np.corrcoef(values, normal_numbers(0, 50_000, *other))[0, 1]) < 0.02


def mixture(**changes):
    """A mixture of arrays."""
    leaf = {name: sp.open({"w": np.zeros(2, np.float32)}, name=name) for name in ("a", "b", "router")}
    given = {
        "of": leaf["a"],
        "experts": (Expert(leaf["a"], 0.1, 2.0), Expert(leaf["b"])),
        "router": leaf["router"],
        "layout": "qwen2_moe",
        "per_token": 2,
        "shared": Expert(leaf["b"]),
        "line": 4,
    }
    return Mixture(**(given | changes))


@pytest.mark.parametrize("shared", [True, False])
def test_a_mixture_is_written_down_and_built_again(shared):
    """As data and back, a mixture is what it was."""
    node = mixture() if shared else mixture(shared=None)
    own = {leaf.reference: leaf for leaf in leaves(node)}
    records = as_records(node, lambda leaf: leaf.reference)
    found = rebuilt(json.loads(json.dumps(records)), own, "receipt")
    assert isinstance(found, Mixture)
    assert as_records(found, lambda leaf: leaf.reference) == records
    assert (found.experts, found.shared, found.layout, found.line) == (node.experts, node.shared, node.layout, 4)
    assert methods_in(records) == ("moe",)
    assert {leaf.reference for leaf in leaves(node, companions=False)} == {"a", "b"}


@pytest.mark.parametrize(
    "change",
    [
        {"layout": "nothing"},
        {"router": 99},
        {"per_token": 3},
        {"per_token": -1},
        {"experts": []},
        {"experts": [{"of": 0}]},
        {"experts": [{"of": 0, "noise": "x", "residual": 1.0}]},
        {"experts": [{"of": 0, "noise": -1.0, "residual": 1.0}]},
        {"shared": [{"of": 0, "noise": 0.0, "residual": 1.0}] * 2},
    ],
    ids=str,
)
def test_damaged_records_are_refused(change):
    """A record that describes no mixture is told, not built."""
    node = mixture()
    own = {leaf.reference: leaf for leaf in leaves(node)}
    records = as_records(node, lambda leaf: leaf.reference)
    records[-1] |= change
    with pytest.raises(CheckpointError, match="cannot be built"):
        rebuilt(records, own, "receipt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"per_token": 0}, "0 experts for each token, of 2"),
        ({"experts": (Expert(mixture().of, float("nan")),), "per_token": 1}, "noise is at least 0"),
        ({"of": mixture().of - mixture().of}, "not of differences"),
    ],
    ids=["none", "nan", "delta"],
)
def test_mixtures_that_make_no_sense(changes, message):
    """Counts, factors and spaces are checked when the node is built."""
    with pytest.raises(ExpressionError, match=message):
        mixture(**changes)
