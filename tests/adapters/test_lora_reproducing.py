"""``stockpot reproduce-merge`` makes adapters again, from their receipts alone, byte for byte."""

from __future__ import annotations

import json

import numpy as np
import pytest
from adapting import factors, write_adapter, write_base
from making import made, some_adapter
from single_files import TO_Q, UNET, flat, loha, lora, write_table

import stockpot as sp
from files import read_file, write_file, write_model
from stockpot.cli.main import main
from stockpot.lora.reproducing import reproduce_adapter
from stockpot.provenance.receipts import sealed


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Adapters of two containers, a base, a model that was tuned, a recipe."""
    monkeypatch.chdir(tmp_path)
    some_adapter(tmp_path / "a", 1)
    some_adapter(tmp_path / "b", 2, rank=3)
    base = write_base(tmp_path / "base")
    rng = np.random.default_rng(3)
    write_model(tmp_path / "tuned", {n: v + rng.normal(size=v.shape).astype(v.dtype) for n, v in base.items()})
    write_adapter(tmp_path / "on", factors(rng, "model.layers.0.q_proj", 12, 12))
    module = "lora_unet_" + flat(TO_Q.removesuffix(".weight"))
    for name, make in (("x", lora), ("y", loha)):
        write_table(tmp_path / f"{name}.safetensors", {module: make(rng, *UNET[TO_Q])}, {module: 2})
    text = "merge_method: dare_ties\nparameters: {density: 0.5, weight: 1}\nmodels: [{model: base+a}, {model: b}]\n"
    (tmp_path / "r.yml").write_text(text)
    return tmp_path


CASES = {
    "merge": ["merge", "a", "b", "--method=dare_linear", "--density=0.5", "--seed=4", "--rank=3", "--dtype=float16"],
    "mean": ["merge", "b", "a"],
    "concat": ["merge", "b", "a", "--method=concat", "--weight=2", "--weight=-1"],
    "core": ["merge", "a", "b", "--space=core", "--method=ties", "--density=0.5"],
    "files": ["merge", "y.safetensors", "x.safetensors", "--energy=0.9"],
    "compat": ["merge", "b", "a", "--compat=peft", "--method=ties_svd", "--density=0.5", "--weight=1", "--weight=2"],
    "extract": [
        "extract",
        "tuned",
        "base",
        "--rank=2",
        "--save-modules=norms",
        "--drop=bias|embed|head",
        "--seed=3",
    ],
    "extract of adapted": ["extract", "base+on", "base", "--energy=1"],
    "resize": ["resize", "a", "--energy=0.8"],
    "resize of a file": ["resize", "y.safetensors", "--rank=2"],
}


@pytest.mark.parametrize("case", CASES)
def test_adapters_are_made_again(place, capsys, case, monkeypatch):
    """All files are the same, made elsewhere, and of the first folder nothing but the receipt is needed."""
    made(*CASES[case], "out")
    (file,) = (place / "out").glob("*.safetensors")
    before = {p.name: p.read_bytes() for p in (place / "out").iterdir() if p.name != "stockpot-receipt.json"}
    file.unlink()
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    assert main(["reproduce-merge", "../out", "again"]) == 0
    assert "the same as" in capsys.readouterr().out
    again = {p.name: p.read_bytes() for p in (place / "elsewhere/again").iterdir()}
    assert {n: again[n] for n in before} == before


def test_recipes_are_repeated_too(place, monkeypatch):
    """One whose adapters stand on a base, which was not given by an option."""
    shapes = _weights(place / "a")
    write_model(place / "base", {n: np.ones(s, np.float32) for n, s in shapes.items()}, config={"model_type": "llama"})
    made("merge", "--recipe=r.yml", "out")
    assert reproduce_adapter(place / "out", place / "again").differences == ()


def _weights(folder):
    tensors = read_file(folder / "adapter_model.safetensors")
    names = {n.removeprefix("base_model.model.").partition(".lora_")[0] for n in tensors}
    side = {n: tensors[f"base_model.model.{n}.lora_B.weight"].shape[0] for n in names}
    return {f"{n}.weight": (side[n], tensors[f"base_model.model.{n}.lora_A.weight"].shape[1]) for n in names}


def test_inputs_that_moved_or_changed(place, capsys):
    """A moved one is named by its label; one that changed is an error, or a difference that is told."""
    made("merge", "a", "b", "out")
    (place / "a").rename(place / "moved")
    assert main(["reproduce-merge", "out", "again"]) != 0
    assert "--input a=PATH" in capsys.readouterr().err
    assert main(["reproduce-merge", "out", "again", "--input", "a=moved"]) == 0
    tensors = read_file(place / "b" / "adapter_model.safetensors")
    write_file(place / "b" / "adapter_model.safetensors", {n: v + 1 for n, v in tensors.items()})
    capsys.readouterr()
    assert main(["reproduce-merge", "out", "third", "--input", "a=moved"]) == 1
    assert "its bytes are not those that were merged" in capsys.readouterr().err
    assert main(["reproduce-merge", "out", "out"]) != 0
    assert "choose another folder" in capsys.readouterr().err


DAMAGED = {
    "nothing": (lambda asked: [], "'verb'"),
    "no verb": (lambda asked: {**asked, "verb": None}, "'verb'"),
    "another verb": (lambda asked: {**asked, "verb": "fold"}, "'verb'"),
    "no recipe": (lambda asked: {**asked, "recipe": 3}, "'recipe'"),
    "a rank of text": (lambda asked: {**asked, "rank": "3"}, "'rank'"),
    "a rank that is true": (lambda asked: {**asked, "rank": True}, "'rank'"),
    "early forms": (lambda asked: {"verb": "merge", "compat": "peft", "form": "cat"}, "'adapters'"),
    "a space": (lambda asked: {**asked, "space": "half"}, "no space 'half'"),
    "another file": (lambda asked: {**asked, "recipe": asked["recipe"].replace('"a"', '"base"')}, "what 'base' was"),
    "no adapter": (lambda asked: {"verb": "resize", "rank": 3, "adapter": ["a"]}, "'adapter'"),
    "other weights": (lambda asked: {**asked, "compat": "peft", "form": "cat", "weight": ["x"]}, "'weight'"),
    "another model": (
        lambda asked: {"verb": "extract", "rank": 3, "tuned": "b", "base": "base", "save_modules": ""},
        "what 'base' was",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_receipts_that_tell_too_little(place, name):
    """Errors, never a crash; and nothing is opened that the receipt does not list among its inputs."""
    change, words = DAMAGED[name]
    made("merge", "a", "b", "out")
    path = place / "out" / "stockpot-receipt.json"
    receipt = json.loads(path.read_text())
    receipt["adapter"] = change(receipt["adapter"])
    path.write_text(json.dumps(sealed({k: v for k, v in receipt.items() if k != "digest"})))
    with pytest.raises(sp.StockpotError, match=words):
        reproduce_adapter(place / "out", place / "again")
    assert not list(place.glob("again*"))
