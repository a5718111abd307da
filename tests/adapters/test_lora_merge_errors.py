"""What ``stockpot lora merge`` refuses: by name, with the way on, and nothing is left behind."""

from __future__ import annotations

import json

import numpy as np
import pytest
from adapting import ROOT, factors, write_adapter, write_base
from making import MODULES, SHAPES, apart, changes, made, refused, some_adapter

import stockpot as sp
from files import read_file
from stockpot.execute.reproduce import reproduce
from stockpot.execute.verify import verify
from stockpot.provenance.ancestry import lineage


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Two adapters."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("ab"):
        some_adapter(tmp_path / name, seed)
    return tmp_path


def nothing_left(place):
    """Whether neither an output nor an unfinished one lies there."""
    return not (place / "out").exists() and not (place / "out.partial").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
@pytest.mark.parametrize("method", ["linear", "slerp", "ties", "tsv_m"])
@pytest.mark.parametrize("space", ["full", "core"])
def test_factors_that_are_not_finite(place, capsys, value, method, space):
    """The tensor is named, and its adapter."""
    parts = {n.removeprefix(ROOT): v.copy() for n, v in read_file(place / "b" / "adapter_model.safetensors").items()}
    bad = f"{MODULES[4]}.lora_B.weight"
    parts[bad][2, 1] = value
    write_adapter(place / "b", parts)
    more = {"slerp": ["--set=t=0.5"], "ties": ["--density=0.5"]}.get(method, [])
    told = refused(capsys, "merge", "a", "b", "out", "--method", method, "--space", space, *more)
    assert MODULES[4] in told
    assert "b" in told
    assert nothing_left(place)


def test_adapters_of_other_names_or_shapes(place, capsys):
    """Nothing in common without a base; shapes that differ; a base that they do not fit."""
    rng = np.random.default_rng(0)
    write_adapter(place / "c", factors(rng, "transformer.h.0.attn", 12, 12))
    told = refused(capsys, "merge", "a", "b", "c", "out")
    assert "c changes nothing that another" in told
    assert "--base" in told
    write_adapter(place / "d", factors(rng, MODULES[0], 13, 12))
    told = refused(capsys, "merge", "a", "d", "out")
    assert MODULES[0] in told
    assert "(13, 12)" in told
    write_base(place / "base", shapes={f"{m}.weight": (12, 12) for m in MODULES})
    told = refused(capsys, "merge", "a", "b", "out", "--base", "base")
    assert "up_proj" in told
    write_base(place / "base", shapes={"other.weight": (12, 12)})
    assert "lacks it" in refused(capsys, "merge", "a", "b", "out", "--base", "base")
    assert nothing_left(place)


def test_a_bare_base_and_other_spellings(place, capsys):
    """With a base, adapters of one model meet even where one writes a leading word more."""
    rng = np.random.default_rng(0)
    write_base(place / "bare", shapes={"h.0.attn.weight": (12, 12)})
    write_adapter(place / "c", factors(rng, "transformer.h.0.attn", 12, 12))
    write_adapter(place / "d", factors(rng, "h.0.attn", 12, 12))
    refused(capsys, "merge", "c", "d", "out")
    made("merge", "c", "d", "out", "--base", "bare")
    names = read_file(place / "out" / "adapter_model.safetensors")
    assert set(names) == {f"{ROOT}transformer.h.0.attn.lora_{k}.weight" for k in "AB"}


def test_options_that_do_not_go_together(place, capsys):
    """Usage errors, and values that the method does not take."""
    (place / "r.yml").write_text("merge_method: linear\nmodels: [{model: a}, {model: b}]\n")
    how = ("merge", "a", "b", "out")
    assert "the recipe says" in refused(capsys, *how, "--recipe=r.yml", code=2)
    assert "--method" in refused(capsys, "merge", "out", "--recipe=r.yml", "--method=ties", code=2)
    assert "name the adapters" in refused(capsys, "merge", "out", code=2)
    assert "concat keeps everything" in refused(capsys, *how, "--method=concat", "--rank=2", code=2)
    assert "unknown method 'tis'" in refused(capsys, *how, "--method=tis")
    assert "density" in refused(capsys, *how, "--method=linear", "--density=0.5")
    assert "one value" in refused(capsys, *how, "--method=ties", "--weight=1", "--weight=1", "--weight=2")
    assert "density" in refused(capsys, *how, "--method=ties", "--density=1.5")
    assert "NAME=VALUE" in refused(capsys, *how, "--set=t", code=2)
    refused(capsys, *how, "--rank=0", code=2)
    refused(capsys, *how, "--energy=1.1", code=2)
    refused(capsys, *how, "--energy=0", code=2)
    assert "dtype" in refused(capsys, *how, "--dtype=int8")
    assert "dtype" in refused(capsys, *how, "--dtype=floaty")
    assert nothing_left(place)


def test_recipes_that_make_no_adapter(place, capsys):
    """Slices, masks, adapters on different bases, models for adapters."""
    cases = {
        "slices:\n- sources: [{model: a, layer_range: [0, 1]}]\nmerge_method: passthrough\n": "make no adapter",
        "merge_method: tall_mask\nparameters: {task: 1}\nmodels: [{model: a}, {model: b}]\n": "masks",
        "merge_method: linear\nmodels: [{model: x+a}, {model: y+b}]\n": "different bases",
        "merge_method: linear\nmodels: [{model: base}, {model: b}]\n": "base",
    }
    write_base(place / "base")
    for text, word in cases.items():
        (place / "r.yml").write_text(text)
        assert word in refused(capsys, "merge", "--recipe=r.yml", "out"), text
    assert nothing_left(place)


def test_the_recipe_may_name_the_base(place):
    """base_model, or MODEL+ADAPTER: the base is opened, and what is merged is still the change alone."""
    write_base(place / "base", shapes={f"{m}.weight": SHAPES[m.rpartition(".")[2]] for m in MODULES})
    head = "merge_method: ties\nparameters: {weight: 1, density: 0.5}\n"
    texts = {
        "x": head + "models: [{model: a}, {model: b}]\n",
        "y": head + "base_model: base\nmodels: [{model: a}, {model: b}]\n",
        "z": head + "base_model: base\nmodels: [{model: base+a}, {model: base+b}]\n",
    }
    for name, text in texts.items():
        (place / "r.yml").write_text(text)
        made("merge", "--recipe=r.yml", name, "--rank=12")
    assert apart(changes(place / "y"), changes(place / "x")) < 1e-6
    assert apart(changes(place / "z"), changes(place / "x")) < 1e-6


def test_concat_of_dora_is_refused(place, capsys):
    """With a base its change is known, but has no factors to put side by side; spaces need factors, too."""
    rng = np.random.default_rng(0)
    write_base(place / "base", shapes={"q.weight": (6, 5)})
    write_adapter(
        place / "c", factors(rng, "q", 6, 5) | {"q.lora_magnitude_vector": np.ones(6, np.float32)}, use_dora=True
    )
    write_adapter(place / "d", factors(rng, "q", 6, 5))
    assert "DoRA" in refused(capsys, "merge", "c", "d", "out", "--base=base", "--method=concat")
    assert "DoRA" in refused(capsys, "merge", "c", "d", "out", "--base=base", "--space=knots")
    made("merge", "c", "d", "out", "--base=base")


def test_memory_is_a_budget(place, capsys):
    """Too little is refused with what is needed; a number that overflows the dtype is an error, not an infinity."""
    assert "MiB of memory" in refused(capsys, "merge", "a", "b", "out", "--memory=1MiB")
    rng = np.random.default_rng(0)
    parts = {n: 1e6 * v for n, v in factors(rng, "q", 6, 5).items()}
    write_adapter(place / "c", parts)
    told = refused(capsys, "merge", "c", "out", "--dtype=float16")
    assert "too large for float16" in told
    assert "--dtype float32" in told
    assert nothing_left(place)


def test_the_receipt_tells_inputs_request_and_losses(place, capsys):
    """Enough to verify it, and to know where it came from."""
    made("merge", "a", "b", "out", "--method=ties", "--density=0.5", "--seed=7")
    receipt = json.loads((place / "out" / "stockpot-receipt.json").read_text())
    assert set(receipt["inputs"]) == {"a", "b"}
    assert all(len(receipt["inputs"][n]["tensors"]) == 18 for n in "ab")
    assert receipt["adapter"]["method"] == "ties"
    assert "ties" in receipt["adapter"]["recipe"]
    assert receipt["seed"] == 7
    assert len(receipt["report"]["modules"]) == 9
    weights = place / "out" / "adapter_model.safetensors"
    assert lineage(place / "out").methods == ("ties",)
    with pytest.raises(sp.CheckpointError, match="receipt of an adapter"):
        reproduce(place / "out", place / "again")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert verify(place / "out") != ()


@pytest.mark.parametrize("verb", ["merge", "resize"])
def test_settings_and_factors_that_disagree(place, capsys, verb):
    """Ranks that the settings do not say, half a pair, no factors at all: by name."""
    rng = np.random.default_rng(0)
    good = factors(rng, "q", 6, 5)
    half = {"q.lora_A.weight": good["q.lora_A.weight"]}
    cases = {
        "rank is 4, the settings say 7": (good, {"r": 7}),
        "half of a pair": (half, {}),
        "'r' is": (good, {"r": 0}),
    }
    for word, (parts, settings) in cases.items():
        write_adapter(place / "c", parts, **settings)
        told = refused(capsys, verb, "c", "out", *(["--rank=2"] if verb == "resize" else []))
        assert word.replace("'r' is", "r is 0") in told
        assert "c" in told
    write_adapter(place / "c", {"n.weight": np.ones(4, np.float32)}, modules_to_save=["n"])
    if verb == "resize":
        assert "no factors" in refused(capsys, "resize", "c", "out", "--rank=2")
    assert nothing_left(place)


def test_errors_without_a_recipe_name_no_line_of_one(place, capsys):
    """The lines are those of a recipe that nobody wrote."""
    for how, word in ((("nowhere",), "nowhere"), (("b", "--method", "passthrough"), "passthrough takes")):
        told = refused(capsys, "merge", "a", *how, "out")
        assert word in told
        assert "recipe" not in told.partition("fix:")[0]
