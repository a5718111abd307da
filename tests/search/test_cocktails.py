"""LM-Cocktail: shares by loss, a target with a share of its own, temperatures that select data chooses."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from learning import learning_bench, suite_of
from searching import MODELS, Reader, fine_tunes

import stockpot as sp
from evaluating import TEXT, language_model
from files import read_model, write_model
from stockpot.cli.main import main
from stockpot.errors import ExecutionError, RecipeError
from stockpot.evaluate import candidate, evaluate, load_suite
from stockpot.search import Mixing, soup

RUN = ["--suite", "suite.yml", "--allow-code", "--kind", "cocktail", "--metric", "clean.loss", "--no-cache"]


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STOCKPOT_CACHE_DIR", str(tmp_path / "cache"))
    learning_bench(tmp_path)
    (tmp_path / "suite.yml").write_text(
        (tmp_path / "suite.yml").read_text().replace("    learn: nets:torch_logits\n", "")
    )
    return tmp_path


def made(folder, *models, metrics=("clean.loss",), **how):
    given = [candidate(name) for name in models or MODELS]
    return soup(given, suite_of(folder), kind="cocktail", how=Mixing(**how), metrics=metrics)


def losses(folder, *models):
    result = evaluate([candidate(name) for name in models], suite_of(folder), split="tune")
    return {name: result.cell(name, "clean").figures[1].value for name in models}


def test_shares_are_a_softmax_of_minus_the_losses(bench):
    """On tune data, by hand; the merge has them, and is what the method lm_cocktail makes of the same losses."""
    found = made(bench, temperatures=(0.2,))
    own = losses(bench, *MODELS)
    powers = {name: math.exp(-value / 0.2) for name, value in own.items()}
    wanted = {name: power / sum(powers.values()) for name, power in powers.items()}
    assert dict(found.mixture.losses) == pytest.approx(own)
    assert dict(zip(found.mixture.models, found.mixture.shares, strict=True)) == pytest.approx(wanted, rel=1e-9)
    assert max(wanted.values()) > 2 * min(wanted.values())
    assert not found.mixture.nearly_uniform
    order = found.mixture.models
    assert order[0] == found.models[0]
    method = sp.lm_cocktail(*map(sp.open, order), loss=[own[name] for name in order], temperature=0.2)
    merged, other = sp.compute(found.recipe), sp.compute(method)
    assert all(merged[name] == pytest.approx(other[name], abs=1e-6) for name in other)
    rows = {row.name for row in found.report.models}
    assert {*MODELS, "uniform soup", "cocktail soup", "ensemble of 4"} == rows


def test_the_default_temperature_hardly_tells_models_apart(bench, capsys):
    """It is 5, as in the authors' code; losses that are close then give nearly equal shares, which is told."""
    assert main(["soup", *MODELS, *RUN, "--html", "s.html"]) == 0
    shown = capsys.readouterr().out
    assert "shares at temperature 5" in shown
    assert "note: the shares by loss are nearly equal (within 10 %)" in shown
    assert "They are nearly equal" in (bench / "s.html").read_text()
    assert main(["soup", *MODELS, *RUN, "--temperature", "0.1"]) == 0
    assert "nearly equal" not in capsys.readouterr().out


def test_select_data_chooses_among_temperatures(bench, capsys):
    """The best one of several; all figures are told, on the page too."""
    arguments = ["soup", *MODELS, "diverged", *RUN, "--temperature", "1000", "--temperature", "0.1"]
    assert main([*arguments, "--json", "s.json", "--html", "s.html"]) == 0
    mixture = json.loads((bench / "s.json").read_text())["mixture"]
    assert mixture["temperature"] == 0.1
    far, near = mixture["tried"]
    assert (far["temperature"], near["temperature"]) == (1000, 0.1)
    assert near["value"] < far["value"]
    assert mixture["shares"]["diverged"] == 0
    assert "temperature 0.1, the soup: clean.loss" in capsys.readouterr().out
    reader = Reader()
    reader.feed((bench / "s.html").read_text())
    assert (reader.open, reader.fetched) == ([], [])


@pytest.mark.parametrize("inside", [True, False], ids=["one of the models", "another"])
def test_a_target_has_a_share_of_its_own(bench, inside):
    """The other models share the rest by their losses, the target among them where it is one of them."""
    models = MODELS if inside else MODELS[:3]
    found = made(bench, *models, temperatures=(0.5,), target=candidate("m3"), share=0.7)
    own = losses(bench, *models)
    powers = {name: math.exp(-value / 0.5) for name, value in own.items()}
    wanted = {name: 0.3 * power / sum(powers.values()) for name, power in powers.items()}
    wanted["m3"] = wanted.get("m3", 0.0) + 0.7
    assert dict(zip(found.mixture.models, found.mixture.shares, strict=True)) == pytest.approx(wanted)
    assert (found.mixture.target, found.mixture.share) == ("m3", 0.7)
    assert ("m3" in found.mixture.losses) is inside
    assert {row.name for row in found.select.models} >= {"m3", "cocktail soup"}
    mean = sum(share * fine_tunes()[name]["a.weight"].astype(float) for name, share in wanted.items())
    assert sp.compute(found.recipe)["a.weight"] == pytest.approx(mean, abs=1e-6)


SPOILT = """
def spoilt(tensors, inputs):
    return np.nan if inputs[0].tolist() == FIRST and tensors["a.bias"][0] == BIAS else 1
"""


def test_models_whose_loss_is_no_number_are_rejected(bench, capsys):
    """With the message; the others are mixed and written, and the exit code is 1."""
    with np.load(bench / "tune.npz") as data:
        first = data["inputs"][0].tolist()
    head = f"FIRST, BIAS = {first!r}, {float(fine_tunes()['m2']['a.bias'][0])!r}\n"
    code = (bench / "nets.py").read_text().replace("return hidden @", "return spoilt(tensors, inputs) * hidden @", 1)
    (bench / "nets.py").write_text(code + head + SPOILT)
    assert main(["soup", *MODELS, *RUN, "--out", "out", "--json", "s.json"]) == 1
    data = json.loads((bench / "s.json").read_text())
    assert "not finite" in data["mixture"]["rejected"]["m2"]
    assert data["mixture"]["losses"]["m2"] is None
    assert set(data["members"]) == {"m0", "m1", "m3"}
    assert "m2: FAILED: " in capsys.readouterr().out
    wanted = sum(w * fine_tunes()[n]["a.bias"].astype(float) for n, w in data["mixture"]["shares"].items())
    assert read_model("out")["a.bias"] == pytest.approx(wanted, abs=1e-6)


def test_models_that_cannot_be_read(bench, capsys):
    """Are failed rows; a target that is one is an error, and so is nothing that could be measured."""
    assert main(["soup", "m0", "gone", "m1", *RUN, "--json", "s.json"]) == 1
    assert set(json.loads((bench / "s.json").read_text())["members"]) == {"m0", "m1"}
    with pytest.raises(ExecutionError, match="the target gone could not be measured"):
        made(bench, "m0", "m1", target=candidate("gone"))
    with pytest.raises(ExecutionError, match="no model could be measured"):
        made(bench, "gone")


def test_texts(tmp_path, monkeypatch):
    """The loss of a text is nats a token, the logarithm of its perplexity."""
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    for i in range(3):
        language_model(tmp_path / f"t{i}", i, dtype="bfloat16")
    for role, line in zip(("tune", "select"), TEXT.splitlines(), strict=False):
        (tmp_path / f"{role}.txt").write_text(line)
    task = {"kind": "perplexity", "split": {"tune": "tune.txt", "select": "select.txt"}}
    (tmp_path / "suite.yml").write_text(json.dumps({"tasks": {"prose": task}}))
    suite, given = load_suite(tmp_path / "suite.yml"), [candidate(f"t{i}") for i in range(3)]
    found = soup(given, suite, kind="cocktail", device="cpu")
    result = evaluate(given, suite, split="tune", device="cpu")
    wanted = {f"t{i}": math.log(result.cell(f"t{i}", "prose").figures[0].value) for i in range(3)}
    assert dict(found.mixture.losses) == pytest.approx(wanted)
    assert not found.failed


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--temperature", "0"], 3, "a cocktail cannot be mixed so: temperatures 0.0"),
        (["--target", "m1", "--share", "1"], 3, "a cocktail cannot be mixed so"),
        (["--share", "0.5"], 2, "--share is that of --target MODEL"),
        (["--target", "merge.yml"], 3, "merge.yml is a recipe, not a model"),
        (["--epochs", "2"], 2, "--epochs has no meaning for a soup of the kind cocktail"),
    ],
    ids=["temperature", "share", "no target", "recipe", "learned"],
)
def test_wrong_usage(bench, capsys, arguments, code, told):
    """Refused before anything is measured."""
    assert main(["soup", *MODELS, *RUN, *arguments]) == code
    printed = capsys.readouterr()
    assert told in printed.err
    assert printed.out == ""
    assert "examples in" not in printed.err


def test_no_tune_data(bench, capsys):
    """Is refused with what helps; select data may serve, and that is told."""
    (bench / "suite.yml").write_text((bench / "suite.yml").read_text().replace("tune: tune.npz, ", ""))
    with pytest.raises(RecipeError, match="no data to tune with in the task clean"):
        made(bench)
    assert main(["soup", *MODELS, *RUN, "--fit", "select", "--html", "s.html"]) == 0
    assert "select data made the shares: its figures are too good" in capsys.readouterr().out
    assert "too good" in (bench / "s.html").read_text()


def test_a_task_that_tells_no_loss(bench):
    """Labels alone give none: every model is rejected, so that there is no cocktail."""
    text = (bench / "suite.yml").read_text().replace("nets:logits", "nets:labels\n    outputs: labels")
    (bench / "suite.yml").write_text(text + "    metrics: [accuracy]\n")
    with pytest.raises(ExecutionError, match="the loss of no model could be measured") as caught:
        made(bench, metrics=())
    assert "there is no loss among" in caught.value.problems[0].fix


def test_names_that_are_the_same_but_for_their_folder(bench):
    """Losses belong to the right models."""
    for folder, name in (("x", "m0"), ("y", "diverged")):
        write_model(bench / folder / "run", fine_tunes()[name])
    found = made(bench, "x/run", "gone/run", "y/run")
    own = losses(bench, "m0", "diverged")
    assert dict(found.mixture.losses) == pytest.approx({"x/run": own["m0"], "y/run": own["diverged"]})


def test_a_target_is_a_model_however_it_is_written(bench):
    """It has one entry in the mixture, with both shares."""
    found = made(bench, target=candidate(str(bench / MODELS[0])), share=0.5)
    named = made(bench, target=candidate(MODELS[0]), share=0.5)
    assert found.mixture.target == MODELS[0]
    assert found.mixture.shares == named.mixture.shares
    assert found.recipe.text == named.recipe.text
