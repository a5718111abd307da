"""Learned soups: what they promise, how they are written and told, and what refuses to be learned."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from learning import TASK, learning_bench, suite_of
from searching import MODELS, Reader, fine_tunes

import stockpot as sp
from evaluating import networks
from files import read_model, write_model
from stockpot.cli.main import main
from stockpot.errors import ExecutionError, PlanError, RecipeError, UnsupportedError
from stockpot.evaluate import Cache, candidate, evaluate
from stockpot.search import Learning, Mixing, soup
from stockpot.search.mixing.page import _map
from stockpot.search.recipes import mixture_of

pytest.importorskip("torch")

RUN = ["--suite", "suite.yml", "--allow-code", "--kind", "learned", "--metric", "clean.loss", "--no-cache"]


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STOCKPOT_CACHE_DIR", str(tmp_path / "cache"))
    return learning_bench(tmp_path)


def made(folder, *models, suite=None, metrics=("clean.loss",), **how):
    given = [candidate(name) for name in models or MODELS]
    return soup(given, suite or suite_of(folder), kind="learned", how=Learning(**how), metrics=metrics, device="cpu")


def loss(result, name):
    return next(f.value for f in result.cell(name, "clean").figures if f.metric == "loss")


@pytest.mark.parametrize("per", ["model", "tensor"])
def test_the_good_model_gets_the_weight(bench, per):
    """Of one that is sound and one that diverged; the first soup is uniform, and each epoch's loss falls."""
    found = made(bench, "diverged", "m1", per=per, rate=0.3)
    assert found.mixture.models == ("m1", "diverged")
    assert found.mixture.shares[0] > 0.9
    assert found.mixture.chosen == 5
    losses = [epoch.loss for epoch in found.mixture.epochs]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] / 5
    uniform = evaluate(
        [candidate(sp.linear(sp.open("m1"), sp.open("diverged")), name="u")], suite_of(bench), split="tune"
    )
    assert losses[0] == pytest.approx(loss(uniform, "u"))
    assert all(sum(own) == pytest.approx(1) for own in found.mixture.tensors.values())
    assert len(found.mixture.tensors) == (4 if per == "tensor" else 0)


@pytest.mark.parametrize("rate", [0.05, 20.0])
def test_never_worse_than_the_uniform_soup_on_what_chooses(bench, rate):
    """By construction, however bad the steps; fitted on select data too, where its loss is then never above."""
    for fit in ("tune", "select"):
        found = made(bench, fit=fit, rate=rate, epochs=2, batch=50)
        assert loss(found.select, found.name) <= loss(found.select, "uniform soup") + 1e-12
        values = [epoch.value for epoch in found.mixture.epochs]
        assert values[found.mixture.chosen] == min(values)
        if fit == "select":
            assert [epoch.loss for epoch in found.mixture.epochs] == pytest.approx(values)


def test_of_equal_epochs_the_last(bench):
    """As the paper takes it: copies of one model are the same soup after any epoch."""
    write_model(bench / "copy", fine_tunes()["m1"])
    found = made(bench, "m1", "copy", epochs=3, batch=100)
    assert found.mixture.chosen == 3
    assert found.mixture.shares == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize("per", ["model", "tensor"])
def test_the_soup_is_written_as_any_merge(bench, capsys, per):
    """Its bytes are those of its recipe; verified, reproduced; figures are those of the table; the shares are told."""
    arguments = ["soup", *MODELS, *RUN, "--per", per, "--rate", "0.3", "--epochs", "2", "--batch", "50"]
    assert main([*arguments, "--out", "out", "--json", "s.json", "--html", "s.html"]) == 0
    shown = capsys.readouterr().out
    data = json.loads((bench / "s.json").read_text())
    assert main(["verify", "out"]) == 0
    (bench / "again.yml").write_text(data["recipe"])
    assert main(["merge", "again.yml", "again", "--quiet"]) == 0
    assert (bench / "out/model.safetensors").read_bytes() == (bench / "again/model.safetensors").read_bytes()
    assert main(["reproduce-merge", "out", "repeated"]) == 0
    mixture = data["mixture"]
    for name in fine_tunes()["m0"]:
        shares = mixture["tensors"][name] if per == "tensor" else mixture["shares"]
        assert len(set(shares.values())) == 4
        wanted = sum(share * fine_tunes()[model][name].astype(float) for model, share in shares.items())
        assert read_model("out")[name] == pytest.approx(wanted, abs=1e-6)
    result = evaluate([candidate("out")], suite_of(bench))
    cells = {c["model"]: c for c in data["report"]["cells"]}
    assert cells["learned soup"]["figures"][1]["value"] == pytest.approx(loss(result, "out"))
    assert {"uniform soup", "ensemble of 4", *MODELS} <= cells.keys()
    assert f"  {mixture['shares']['m3']:.4f} m3" in shown
    assert re.search(r"epoch 2, the soup: loss on tune data 0\.\d+, clean\.loss 0\.\d+, logits times \d\.\d+", shown)
    reader = Reader()
    reader.feed((bench / "s.html").read_text())
    assert (reader.open, reader.fetched) == ([], [])
    text = "".join(reader.text)
    assert f"{mixture['shares']['m3']:.4f}" in text
    assert ("m2, b.bias: " in text) is (per == "tensor")


def test_shares_by_tensor_are_exact_where_names_hold_each_other(tmp_path):
    """A filter is part of a name; each tensor still gets its own share, in the recipe's text and in memory."""
    names = ["w", "a.w", "ba.w", "a.w.b", "a.w.2", "aa.w"]
    rng = np.random.default_rng(0)
    models = [{name: rng.normal(size=5) for name in names} for _ in range(2)]
    weights = [{name: float(rng.random()) for name in names} for _ in range(2)]
    wanted = {
        n: sum(w[n] * m[n] for w, m in zip(weights, models, strict=True)) / sum(w[n] for w in weights) for n in names
    }
    for i, theta in enumerate(models):
        write_model(tmp_path / str(i), theta)
    stored = mixture_of([candidate(str(tmp_path / str(i))) for i in range(2)], weights)
    held = mixture_of([candidate(sp.open(m, name=str(i)), name=str(i)) for i, m in enumerate(models)], weights)
    assert "filter" in stored.text
    assert held.text == ""
    for recipe in (stored, held):
        found = sp.compute(recipe)
        assert all(found[name] == pytest.approx(wanted[name], rel=1e-15) for name in names)


def test_the_same_seed_is_the_same_soup(bench, capsys):
    """To the last bit, whatever the threads; another seed is another order and another soup."""
    found = []
    for more in (["--threads", "1"], ["--threads", "3"], ["--seed", "7"]):
        assert main(["soup", *MODELS, *RUN, "--epochs", "1", "--json", "-", "--quiet", *more]) == 0
        found.append(json.loads(capsys.readouterr().out)["mixture"]["shares"])
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_models_in_memory_and_probabilities(bench):
    """Are learned from as any others; probabilities have the logits that are their logarithms."""
    given = [candidate(sp.open(fine_tunes()[name], name=name), name=name) for name in MODELS]
    stored = made(bench, epochs=1)
    held = soup(given, suite_of(bench), kind="learned", how=Learning(epochs=1), metrics=["clean.loss"], device="cpu")
    assert held.mixture.shares == stored.mixture.shares
    assert held.recipe.text == ""
    assert json.dumps(held.as_data())
    text = (bench / "suite.yml").read_text().replace("nets:logits", "nets:probabilities\n    outputs: probabilities")
    (bench / "suite.yml").write_text(text.replace("torch_logits", "torch_probabilities"))
    assert made(bench, epochs=1).mixture.shares == pytest.approx(stored.mixture.shares, abs=1e-5)


def test_several_tasks(bench):
    """The mean of their losses is minimised; each may have another number of examples."""
    noisy = TASK.format(name="noisy", tune="few.npz")
    noisy = noisy.replace("select.npz", "select-noisy.npz").replace("report.npz", "report-noisy.npz")
    (bench / "suite.yml").write_text((bench / "suite.yml").read_text() + noisy)
    with np.load(bench / "select-noisy.npz") as data:
        np.savez(bench / "few.npz", inputs=data["inputs"][:10] ** 2, labels=data["labels"][:10])
    found = made(bench, metrics=["clean.loss", "noisy.loss"], epochs=1)
    assert [len(found.mixture.epochs), found.failed] == [2, False]


def test_data_that_was_fitted_is_marked_later(bench):
    """Tune data that the shares were fitted on is no report data any more."""
    suite = suite_of(bench)
    with Cache(bench / "kept") as cache:
        given = [candidate(name) for name in MODELS[:2]]
        soup(given, suite, kind="learned", how=Learning(epochs=1), metrics=["clean.loss"], cache=cache, device="cpu")
        (task,) = suite.tasks
        other = replace(suite, tasks=(replace(task, data={"report": task.data["tune"]}),))
        later = evaluate(given, other, cache=cache)
    assert later.marks == {"clean": "this data was used to choose: learned soup"}


def test_models_that_fail(bench, capsys):
    """Are failed rows and not in the soup; the exit code is 1. One that does not fit is an error that names it."""
    assert main(["soup", "m0", "gone", "m1", *RUN, "--epochs", "1", "--json", "s.json"]) == 1
    assert json.loads((bench / "s.json").read_text())["members"] == ["m1", "m0"]
    assert "gone: FAILED" in capsys.readouterr().out
    write_model(bench / "odd", networks()["base"] | {"more": np.zeros(3, np.float32)})
    with pytest.raises(PlanError) as caught:
        made(bench, "m0", "odd", epochs=1)
    assert caught.value.problems[0].tensor == "more"
    with pytest.raises(ExecutionError, match="only m0 could be measured"):
        made(bench, "m0", "gone", epochs=1)


def test_a_loss_that_is_no_number(bench):
    """Ends with an error that says when, and of which shares."""
    (bench / "nets.py").write_text((bench / "nets.py").read_text() + "\ncalls = []\n"
        "def late(tensors, inputs):\n    calls.append(0)\n    found = torch_logits(tensors, inputs)\n"
        "    return found * float('nan') if len(calls) == 9 else found\n")  # fmt: skip
    (bench / "suite.yml").write_text((bench / "suite.yml").read_text().replace("torch_logits", "late"))
    with pytest.raises(ExecutionError, match=r"the loss is nan in step 1 of epoch 2, .* m3 0\.\d+, m2 0\.\d+"):
        made(bench)


HALTING = """
seen = []
def halting(tensors, inputs):
    seen.append(0)
    if len(seen) == 4:
        raise KeyboardInterrupt
    return torch_logits(tensors, inputs)
"""


def test_an_interrupt_leaves_nothing(bench):
    """Ctrl-C while something is learned: no output, and the exit code that shells expect; without it there is one."""
    arguments = ["soup", *MODELS, *RUN, "--epochs", "1", "--out", "out", "--quiet"]
    (bench / "nets.py").write_text((bench / "nets.py").read_text() + HALTING)
    suite = (bench / "suite.yml").read_text()
    (bench / "suite.yml").write_text(suite.replace("torch_logits", "halting"))
    assert main(arguments) == 130
    assert not [*bench.glob("out*")]
    (bench / "suite.yml").write_text(suite)
    assert main(arguments) == 0
    assert (bench / "out").exists()


WRONG = {
    "no learn": ("    learn: nets:torch_logits\n", "", UnsupportedError, "task clean: .* nets:logits is one of NumPy"),
    "labels": ("nets:logits", "nets:labels\n    outputs: labels", UnsupportedError, "labels tell no loss"),
    "numpy": ("nets:torch_logits", "nets:numpy_made", ExecutionError, "gives nothing that torch can differentiate"),
    "other": ("nets:torch_logits", "nets:doubled", ExecutionError, "give different outputs for the same inputs"),
    "shape": ("nets:torch_logits", "nets:summed", ExecutionError, r"of shape \(16,\), not \(16, classes\)"),
    "raises": ("nets:torch_logits", "nets:raising", ExecutionError, "the task clean: ZeroDivisionError"),
    "no data": ("tune: tune.npz, ", "", RecipeError, "no data to tune with in the task clean"),
}
BROKEN = """
def numpy_made(tensors, inputs):
    return torch_logits(tensors, inputs).detach()
def doubled(tensors, inputs):
    return 2 * torch_logits(tensors, inputs)
def summed(tensors, inputs):
    return torch_logits(tensors, inputs).sum(1)
def raising(tensors, inputs):
    return 1 / 0
"""


@pytest.mark.parametrize("case", WRONG)
def test_tasks_that_cannot_be_learned_from(bench, case):
    """Are refused with what would help."""
    old, new, kind, told = WRONG[case]
    (bench / "nets.py").write_text((bench / "nets.py").read_text() + BROKEN)
    (bench / "suite.yml").write_text((bench / "suite.yml").read_text().replace(old, new))
    metrics = ["clean.accuracy"] if case == "labels" else ["clean.loss"]
    if case == "labels":
        (bench / "suite.yml").write_text((bench / "suite.yml").read_text() + "    metrics: [accuracy]\n")
    with pytest.raises(kind, match=told) as caught:
        made(bench, metrics=metrics)
    assert caught.value.problems[0].fix or case == "raises"


def test_no_tune_data_can_be_allowed(bench, capsys):
    """``--fit select`` takes the data that chooses, and says what that means."""
    (bench / "suite.yml").write_text((bench / "suite.yml").read_text().replace("tune: tune.npz, ", ""))
    assert main(["soup", *MODELS, *RUN, "--epochs", "1"]) == 3
    assert "--fit select" in capsys.readouterr().err
    assert main(["soup", *MODELS, *RUN, "--epochs", "1", "--fit", "select", "--html", "s.html"]) == 0
    warning = "select data fitted the shares and chose: its figures are too good"
    assert warning in capsys.readouterr().out
    assert warning in (bench / "s.html").read_text()


def test_a_kind_without_gradients(bench):
    """A task of one's own is refused, and the fix names kinds that can be learned from."""
    (bench / "mine.py").write_text(
        "import numpy as np\nfrom stockpot.evaluate import Metric\n"
        "size = Metric('size', 'lower', lambda c: c['size'])\n"
        "def run(model, files):\n    return {'size': np.array([abs(model.wide['a.bias']).sum()])}\n"
    )
    task = {"kind": "own", "run": "mine:run", "metrics": ["mine:size"], "split": {"tune": "t.txt", "select": "s.txt"}}
    (bench / "t.txt").write_text("t")
    (bench / "s.txt").write_text("s")
    (bench / "suite.yml").write_text(json.dumps({"tasks": {"sizes": task}}))
    with pytest.raises(UnsupportedError, match="the task sizes cannot be differentiated") as caught:
        made(bench, metrics=())
    assert "perplexity" in caught.value.problems[0].fix


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--kind", "greedy", "--rate", "0.1"], 2, "--rate has no meaning for a soup of the kind greedy"),
        (["--temperature", "1"], 2, "--temperature has no meaning for a soup of the kind learned"),
        (["--rate", "0"], 3, "cannot be learned so"),
        (["--epochs", "0"], 2, "epochs"),
        (["--per", "layer"], 2, "'layer' is not one of"),
        (["--strict"], 3, "strict has no meaning"),
    ],
    ids=["other kind", "cocktail", "rate", "epochs", "per", "strict"],
)
def test_wrong_usage(bench, capsys, arguments, code, told):
    """Refused before anything is measured."""
    assert main(["soup", *MODELS, *RUN, *arguments]) == code
    printed = capsys.readouterr()
    assert told in printed.err
    assert printed.out == ""
    assert "examples in" not in printed.err


def test_how_must_fit_the_kind(bench):
    """In Python too."""
    for kind, how in (("greedy", Learning()), ("learned", Mixing()), ("cocktail", Learning())):
        with pytest.raises(RecipeError, match=f"how is not for a soup of the kind {kind}"):
            soup([candidate("m0")], suite_of(bench), kind=kind, how=how, metrics=["clean.loss"])


def test_neither_torch_nor_transformers_is_imported_before():
    """By the room for search, gradients included."""
    import subprocess
    import sys

    code = "import sys, stockpot.search\nassert not {'torch', 'transformers'} & {*sys.modules}"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_map_of_shares():
    """Models down, tensors across; those of one kind side by side in the order of their layers."""
    names = ["embed", *(f"layers.{i}.{part}.w" for i in (0, 1, 10, 2) for part in ("mlp", "attn"))]
    shares = {name: (i / 10, 1 - i / 10) for i, name in enumerate(names)}
    drawn = _map(("a", "b"), shares)
    told = re.findall(r'<rect class="heat" x="([\d.]+)" y="([\d.]+)"[^>]*><title>([^<]*)</title>', drawn)
    assert {text for *_, text in told} >= {"a, embed: 0", "b, embed: 1", "a, layers.*.attn.w 10: 0.6"}
    assert len(told) == 18
    row = [text for _, y, text in sorted((float(x), y, text) for x, y, text in told if text.startswith("a,"))]
    layers = [text.split(":")[0].split()[-1] for text in row if "mlp" in text]
    assert layers == ["0", "1", "2", "10"]
