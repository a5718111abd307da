"""Everything that would change the result is noticed before a merge goes on, and told by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stopped import CONFIG, MODELS, NAMES, arrays, contents, merge, opened, stop, write_models

import stockpot as sp
from files import write_model
from stockpot.cli.main import main
from stockpot.custom import identity_of
from stockpot.execute import fingerprint
from stockpot.execute.journal import Journal

RECIPE = """\
merge_method: dare_ties
base_model: base
models: [{model: a, parameters: {weight: 0.6}}, {model: b}]
parameters: {density: 0.5}
dtype: bfloat16
seed: 3
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    write_models(tmp_path)
    (tmp_path / "r.yml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe_merge(**options):
    return sp.merge("r.yml", "out", **{"threads": 1, **options})


def edited(old, new):
    def change(place):
        text = (place / "r.yml").read_text()
        assert old in text
        (place / "r.yml").write_text(text.replace(old, new))

    return change


def touched(place):
    file = place / "b" / "model.safetensors"
    before = file.stat()
    file.write_bytes(file.read_bytes())
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def replaced(place):
    """Another file of the same size, a millionth of a second younger."""
    file = place / "b" / "model.safetensors"
    before = file.stat()
    (place / "new").write_bytes(file.read_bytes())
    os.utime(place / "new", ns=(before.st_atime_ns, before.st_mtime_ns + 1000))
    (place / "new").rename(file)


def swapped(place):
    write_model(place / "c", arrays(7), config=CONFIG)
    edited("{model: b}", "{model: c}")(place)


CHANGES = {
    "a weight": (edited("weight: 0.6", "weight: 0.5"), "weight"),
    "a density": (edited("density: 0.5", "density: 0.4"), "density"),
    "the method": (edited("dare_ties", "dare_linear"), "dare_linear"),
    "the dtype": (edited("dtype: bfloat16", "dtype: float32"), "float32"),
    "the seed": (edited("seed: 3", "seed: 4"), "seed"),
    "the base as a model": (edited("weight: 0.6}}, {model: b}", "weight: 0.6}}, {model: base}"), "base"),
    "another model": (swapped, "inputs: "),
    "an input written again": (touched, "b"),
    "an input replaced": (replaced, "b"),
    "the tokenizer": (lambda place: (place / "base" / "tokenizer.json").write_text("{ }"), "tokenizer.json"),
    "a tokenizer more": (lambda place: (place / "base" / "vocab.json").write_text("{}"), "vocab.json"),
    "the config": (
        lambda place: (place / "base" / "config.json").write_text('{"model_type": "toy", "x": 1}'),
        "config.json",
    ),
}


def refused(run, *words):
    """The run is refused, by all the words, and nothing that was kept is lost."""
    before = contents(Path("out.partial"))
    with pytest.raises(sp.PlanError) as caught:
        run()
    for word in ("an unfinished merge lies there (3 tensors are done)", "since then", "--restart", *words):
        assert word in str(caught.value)
    assert contents(Path("out.partial")) == before
    assert not Path("out").exists()


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_is_noticed_and_told(kind, place):
    """It is named, the old state stays; --restart begins again, and nothing of the old merge is in the result."""
    change, word = CHANGES[kind]
    stop(recipe_merge, 3)
    change(place)
    refused(recipe_merge, word)
    assert recipe_merge(restart=True).resumed == 0
    (place / "out").rename(place / "restarted")
    recipe_merge()
    assert contents(place / "out") == contents(place / "restarted")


@pytest.mark.parametrize(
    ("options", "word"), [({"shard_size": 2000}, "--shard-size"), ({"seed": 5}, "seed"), ({"seed": 0}, "seed")]
)
def test_changed_options_are_noticed(options, word, place):
    """The size of files and the seed on the command line belong to the merge; the old ones continue it."""
    stop(recipe_merge, 3)
    refused(lambda: recipe_merge(**options), word)
    assert recipe_merge().resumed == 3


def test_a_change_taken_back_is_none(place):
    """After the recipe is put back, the merge goes on."""
    stop(recipe_merge, 3)
    edited("density: 0.5", "density: 0.4")(place)
    refused(recipe_merge)
    edited("density: 0.4", "density: 0.5")(place)
    assert recipe_merge().resumed == 3


def test_an_empty_beginning_binds_nobody(place):
    """Where no tensor was finished, a changed recipe simply begins."""
    plan = sp.plan("r.yml", "out")
    out = place / "out.partial"
    (out / "model").mkdir(parents=True)
    (out / "README.txt").write_text("An unfinished merge, by stockpot.\n")
    fingerprint_of = fingerprint.fingerprint(plan)
    Journal(out / "journal", fingerprint_of).close()
    edited("density: 0.5", "density: 0.4")(place)
    assert recipe_merge().resumed == 0


@pytest.mark.parametrize("package", ["stockpot", "numpy", "python"])
def test_another_version_is_noticed(package, place, monkeypatch):
    """Another version of what computes is told with both versions."""
    stop(recipe_merge, 3)
    real = fingerprint.versions()
    monkeypatch.setattr(fingerprint, "versions", lambda: {**real, package: "99.1"})
    refused(recipe_merge, f"versions: {package}", real[package], "99.1")


def test_on_the_command_line(place, capsys):
    """Exit code 5 and one error; --restart completes the merge."""
    stop(recipe_merge, 3)
    edited("density: 0.5", "density: 0.4")(place)
    assert main(["merge", "r.yml", "out"]) == 5
    assert "--restart" in capsys.readouterr().err
    assert main(["merge", "r.yml", "out", "--restart", "--quiet"]) == 0
    assert not Path("out.partial").exists()


def test_many_changes_are_counted(place):
    """A long list is cut, and the number of the others is told."""
    stop(recipe_merge, 3)
    (place / "r.yml").write_text("merge_method: ties\nbase_model: base\nmodels: [{model: a}, {model: b}]\n")
    for name in MODELS:
        os.utime(place / name / "model.safetensors", ns=(0, 0))
    refused(recipe_merge, "more")


def other_sum(place):
    base, a, b = opened(place)
    return base + 0.5 * (a - base) + 0.25 * (b - base)


def one_sum(place):
    base, a, b = opened(place)
    return base + 0.5 * (a - base) + 0.2 * (b - base)


def mirrored(place):
    base, a, b = opened(place)
    return base + 0.5 * (b - base) + 0.2 * (a - base)


@pytest.mark.parametrize("other", [other_sum, mirrored])
def test_an_expression_with_other_coefficients_is_noticed(other, place):
    """Expressions have no recipe; what they compute is compared, down to each coefficient and file."""
    options = {"threads": 1}
    stop(lambda: sp.save(one_sum(place), "out", **options), 3)
    refused(lambda: sp.save(other(place), "out", **options), "computed")
    assert sp.save(one_sum(place), "out", **options).resumed == 3


def test_the_dtype_of_an_expression_is_noticed(place):
    """So is the dtype that it is saved in."""
    stop(lambda: merge(place), 3)
    refused(lambda: merge(place, dtype="float16"), "dtype")


def test_arrays_in_memory_are_told_apart_by_their_bytes(place):
    """Two models in memory that change places, or one of other values, are another merge."""
    x, y, z = arrays(1), arrays(2), {**arrays(2), NAMES[5]: arrays(3)[NAMES[5]]}

    def save(one, other):
        mix = 0.3 * sp.open(one, name="one") + 0.7 * sp.open(other, name="other")
        return sp.save(mix, "out", threads=1)

    stop(lambda: save(x, y), 3)
    refused(lambda: save(x, z), NAMES[5])
    refused(lambda: save(y, x))
    assert save(x, {k: v.copy() for k, v in y.items()}).resumed == 3


def test_arrays_in_memory_that_change_places(place):
    """The same two models, with their coefficients exchanged: the labels alone do not say it."""
    x, y = (sp.open(arrays(seed)) for seed in (1, 2))
    stop(lambda: sp.save(0.3 * x + 0.7 * y, "out", threads=1), 3)
    refused(lambda: sp.save(0.3 * y + 0.7 * x, "out", threads=1))


OWN = """\
import numpy as np
import stockpot as sp

LIMIT = 0.5

def helper(x):
    return x * 2.0

def make(table, factor=1.0):
    @sp.elementwise
    def own(deltas, power: float = 2.0):
        near = [x in {"p", "q", "r"} for x in "pq"]
        return np.minimum(helper(deltas) * factor, LIMIT).sum(axis=0) * table[700] * len(near)
    return own

method = make(np.arange(2000.0)).method
"""

EDITS = {
    "its code": ("(axis=0) * table", "(axis=0) / table"),
    "a constant": ("power: float = 2.0", "power: float = 3.0"),
    "a value of its closure": ("factor=1.0", "factor=2.0"),
    "the middle of an array": ("np.arange(2000.0)", "np.arange(2000.0) + (np.arange(2000) == 700)"),
    "a global": ("LIMIT = 0.5", "LIMIT = 0.25"),
    "a function that it calls": ("x * 2.0", "x * 2.5"),
    "a set": ('"q", "r"}', '"q", "s"}'),
}


def identity(text):
    space = {}
    exec(compile(text, "own.py", "exec"), space)
    return identity_of(space["method"])


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_method_of_ones_own_is_another(edit):
    """Code, constants, closures, globals and helpers of its file: an edit to any is another method."""
    old, new = EDITS[edit]
    assert OWN.count(old) == 1
    assert identity(OWN) == identity(OWN)
    assert identity(OWN.replace(old, new)) != identity(OWN)


def test_a_method_of_ones_own_is_the_same_in_every_process(tmp_path):
    """Addresses and the order of sets, which differ from process to process, do not make it another method."""
    (tmp_path / "own.py").write_text(OWN)
    code = "import own; from stockpot.custom import identity_of; print(identity_of(own.method))"
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(told) == 1


def test_a_method_that_calls_itself_has_an_identity():
    """Circles among functions and values end."""
    text = "import stockpot as sp\nloop = []\nloop.append(loop)\ndef f(n):\n    return f(n - 1) if n else loop\n"
    text += "@sp.elementwise\ndef own(deltas):\n    return deltas[0] * len(f(3))\nmethod = own.method\n"
    assert identity(text) == identity(text)


def scaled_by(factor):
    @sp.elementwise
    def scaled(deltas):
        return deltas.mean(axis=0) * factor

    return scaled


def test_an_edited_method_stops_a_merge(place):
    """A merge with a method of one's own is not continued with another one of the same name."""

    def save(factor):
        base, a, b = opened(place)
        return sp.save(base + scaled_by(factor)(a - base, b - base), "out", threads=1)

    stop(lambda: save(0.5), 3)
    refused(lambda: save(0.75), "computed")
    assert save(0.5).resumed == 3


def test_every_part_of_a_computation_counts(place):
    """Whatever field of a step is altered, the fingerprint is another: nothing that computes is left out of it."""
    plan = sp.plan("r.yml")
    before = fingerprint.fingerprint(plan)
    step = plan.steps[2]
    source = step.source
    others = {
        "scale": 2.0, "anchored": not source.anchored, "labels": ("x", *source.labels[1:]), "key": ("x", 3),
        "group": 1, "inputs": source.inputs[::-1], "base": source.inputs[0], "companions": source.inputs[:1],
        "shape": (12, 16), "method": None, "factors": (1.0, 2.0),
    }  # fmt: skip
    for name, value in others.items():
        altered = replace(step, source=replace(source, **{name: value}))
        made = replace(plan, steps=(*plan.steps[:2], altered, *plan.steps[3:]))
        assert fingerprint.changes(before, fingerprint.fingerprint(made)) == ["what is computed"], name
    assert fingerprint.changes(before, fingerprint.fingerprint(sp.plan("r.yml"))) == []


def test_the_numbers_of_a_fingerprint_survive_its_journal(place):
    """What a journal gives back equals what was put in, so that nothing seems to have changed by being written."""
    base, a, b = opened(place)
    plan = sp.plan(base + sp.ties(a - base, b - base, density=np.float64(0.1), weight=[1 / 3, 2]), dtype="bfloat16")
    now = fingerprint.fingerprint(plan)
    assert fingerprint.changes(json.loads(json.dumps(now)), now) == []
