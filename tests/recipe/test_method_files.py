"""Methods of a user's own in recipes: code that runs only when it is allowed."""

from __future__ import annotations

import hashlib
import json
import sys

import jsonschema
import numpy as np
import pytest
import yaml

import stockpot as sp
from files import read_model, write_model
from stockpot.cli.main import main
from stockpot.errors import ExecutionError, RecipeError
from stockpot.recipe.parse import load_recipe, parse_recipe
from stockpot.recipe.schema import json_schema

OWN = '''
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import stockpot as sp


@dataclass
class Power:
    """Strings as annotations need the module by name."""

    value: float


@sp.elementwise
def my_mean(deltas, weight: sp.PerModel = 1.0, mask: float = 2.0):
    """Weighted mean, times a number."""
    return (weight * deltas).mean(axis=0) * Power(mask).value


@sp.whole_tensor(on="weights", at_least=2)
def my_first(models):
    return models[0]


@sp.whole_tensor
def my_flawed(deltas, how: int = 0):
    if how == 1:
        return {}["missing"]
    return deltas[0][:1] if how == 2 else deltas[0]


@sp.elementwise
def my_flawed_too(deltas, how: int = 0):
    if how == 1:
        raise RuntimeError
    return deltas[0][:1] if how == 2 else deltas[0]
'''
RECIPE = """
merge_method: my_mean
method_file: ./own.py
base_model: base
models:
  - {model: a, parameters: {weight: 0.5}}
  - {model: b, parameters: {weight: [0, 1]}}
parameters: {mask: 3, lambda: 0.5}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Models, a file of methods and a recipe, in the current folder."""
    for seed, name in enumerate(("base", "a", "b")):
        rng = np.random.default_rng(seed)
        write_model(tmp_path / name, {f"layers.{i}.w": rng.normal(size=(3, 2)).astype(np.float32) for i in range(3)})
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "recipe.yml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_method_of_ones_own(place):
    """It is merged by name, with parameters per model, gradients and lambda."""
    sp.merge("recipe.yml", "out", allow_code=True)
    base, a, b, out = (read_model(n) for n in ("base", "a", "b", "out"))
    for i in range(3):
        x, y, z = (m[f"layers.{i}.w"].astype(np.float64) for m in (base, a, b))
        expected = x + 0.5 * 3 * (0.5 * (y - x) + i / 2 * (z - x)) / 2
        assert np.allclose(out[f"layers.{i}.w"], expected, rtol=1e-6, atol=1e-7)


def test_whole_tensors_and_nested_merges(place):
    """Every method of the file can be used, also by merges inside the document."""
    text = RECIPE.replace("model: a,", "model: {merge_method: my_first, models: [{model: a}, {model: b}]},")
    found = sp.compute(parse_recipe(text, allow_code=True))
    plain = sp.compute(parse_recipe(RECIPE, allow_code=True))
    assert all(found[n].tobytes() == plain[n].tobytes() for n in plain)


def test_nothing_runs_unasked(place):
    """Without being allowed, the file is not even read: one error names it, its line and the flag."""
    (place / "own.py").write_text("raise SystemExit('ran')")
    for text in (RECIPE, RECIPE.replace("./own.py", "./missing.py")):
        (place / "recipe.yml").write_text(text)
        for attempt in (
            lambda: load_recipe("recipe.yml"),
            lambda: sp.plan("recipe.yml"),
            lambda: sp.merge("recipe.yml", "o"),
        ):
            with pytest.raises(RecipeError) as caught:
                attempt()
            (problem,) = caught.value.problems
            assert (problem.line, problem.file) == (3, "recipe.yml")
            assert text.split("method_file: ")[1].split("\n")[0] in problem.message
            assert "--allow-code" in problem.fix
            assert "allow_code=True" in problem.fix


@pytest.mark.parametrize("verb", [["merge", "recipe.yml", "out"], ["plan", "recipe.yml"], ["check", "recipe.yml"]])
def test_the_command_line_asks_too(place, verb, capsys):
    """merge, plan and check end with 3, and run it with --allow-code."""
    assert main(verb) == 3
    assert "--allow-code" in capsys.readouterr().err
    assert main([*verb, "--allow-code"]) == 0


def test_other_problems_are_told_beside_it(place):
    """All of a recipe's mistakes come at once, but none about names that the file may hold."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(RECIPE + "dtype: bf61\n")
    assert [p.line for p in caught.value.problems] == [3, 9]


def test_loading_leaves_no_trace(place):
    """No bytecode is written, nothing is found by a public name, and old bytecode is not run."""
    before = set(sys.modules)
    load_recipe("recipe.yml", allow_code=True)
    assert "own" not in sys.modules
    assert all(name.startswith("_stockpot_methods_") for name in set(sys.modules) - before)
    assert sorted(p.name for p in place.iterdir()) == ["a", "b", "base", "own.py", "recipe.yml"]
    assert str(place) not in sys.path


def test_the_receipt_holds_path_and_hash(place):
    """What was run can be told: the hash of the file's bytes; a recipe with a hash runs nothing else."""
    sp.merge("recipe.yml", "out", allow_code=True)
    receipt = json.loads((place / "out" / "stockpot-receipt.json").read_text())
    (document,) = receipt["resolved"]["documents"]
    digest = hashlib.sha256((place / "own.py").read_bytes()).hexdigest()
    assert document["method_file"] == {"path": "./own.py", "sha256": digest}
    text = yaml.safe_dump(document)
    assert parse_recipe(text, allow_code=True).resolved == receipt["resolved"]
    (place / "own.py").write_text(OWN + "raise SystemExit('ran')\n")
    with pytest.raises(RecipeError, match="is not the file with this sha256"):
        parse_recipe(text, allow_code=True)


def test_paths_are_relative_to_the_recipe(place, monkeypatch):
    """As those of models are."""
    monkeypatch.chdir(place.parent)
    assert load_recipe(place / "recipe.yml", allow_code=True).expression is not None


def test_each_document_has_its_own_methods(place):
    """A document without a method file knows none; those with one share what they load."""
    other = RECIPE + "---\nname: x\nmerge_method: my_first\nmodels: [{model: a}, {model: b}]\n"
    with pytest.raises(RecipeError, match="unknown method 'my_first'"):
        parse_recipe(other, allow_code=True)
    recipe = parse_recipe(other.replace("name: x", "name: x\nmethod_file: own.py"), allow_code=True)
    assert [n.message for n in recipe.notes] == ["document 'x' is not used"]


HEAD = "import stockpot as sp\n"
BROKEN = {
    "syntax": ("x = 1\ny = (", "own.py, line 2: '(' was never closed"),
    "indentation": ("x = 1\n  y = 2", "own.py, line 2: unexpected indent"),
    "import": ("\n\nimport no_such_module", "own.py, line 3: ModuleNotFoundError: No module named 'no_such_module'"),
    "an exception": ("def f():\n    1 / 0\n\nf()", "own.py, line 2: ZeroDivisionError"),
    "an exit": ("import sys\nsys.exit(3)", "own.py, line 2: SystemExit: 3"),
    "null bytes": ("x = '\0'", "own.py"),
    "encoding": ("# coding: nonsense", "own.py"),
    "signature": (HEAD + "@sp.elementwise\ndef f(x, y: str): ...", "own.py, line 2: f: parameter y cannot be given"),
    "no methods": ("def f(x): ...", "makes no methods"),
    "a taken name": (HEAD + "@sp.elementwise\ndef ties(x): ...", "own.py, line 2: ties is the name of a method"),
    "an alias": (HEAD + "\n@sp.elementwise\ndef average(x): ...", "own.py, line 3: average is the name of a method"),
    "steps": (HEAD + "@sp.elementwise\ndef steps(x): ...", "own.py, line 2: steps is the name of a method"),
    "one name twice": (
        HEAD + "@sp.elementwise\ndef f(x): ...\ng = f\n@sp.whole_tensor\ndef f(x): ...",
        "own.py, line 5: two methods are named f",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(place, name):
    """One error that names the user's file and line, and the recipe's line."""
    text, message = BROKEN[name]
    (place / "own.py").write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe("recipe.yml", allow_code=True)
    (problem,) = caught.value.problems
    assert message in problem.message
    assert (problem.line, problem.file) == (3, "recipe.yml")


def test_a_file_that_fails_leaves_nothing_behind(place):
    """A module that ran in part is forgotten."""
    before = set(sys.modules)
    (place / "own.py").write_text("x = 1\n1 / 0")
    with pytest.raises(RecipeError):
        load_recipe("recipe.yml", allow_code=True)
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("./missing.py", "cannot read method_file missing.py"),
        (".", "cannot read method_file ."),
        ("' '", "method_file is empty"),
        ("[a]", "a method file is a list"),
        ("{sha256: x}", "a method file needs path"),
        ("{path: own.py, sha: x}", "unknown key 'sha' in a method file"),
        ("{path: own.py, sha256: '00'}", "is not the file with this sha256"),
    ],
)
def test_the_key_is_checked(place, written, message):
    """A path, or a mapping of path and hash; one problem with its line."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(RECIPE.replace("./own.py", written), allow_code=True)
    (problem,) = caught.value.problems
    assert message in problem.message
    assert problem.line == 3


def test_names_are_suggested(place):
    """A misspelled method or parameter of one's own is answered with the right name."""
    with pytest.raises(RecipeError, match="did you mean my_mean"):
        parse_recipe(RECIPE.replace("my_mean", "my_maen"), allow_code=True)
    with pytest.raises(RecipeError, match="did you mean weight"):
        parse_recipe(RECIPE.replace("weight: 0.5", "wieght: 0.5"), allow_code=True)
    with pytest.raises(RecipeError, match="mask is 'x', which is not a parameter value"):
        parse_recipe(RECIPE.replace("mask: 3", "mask: x"), allow_code=True)


def test_a_method_file_stands_in_a_document(place):
    """Not in a merge within it, whose names are the document's."""
    text = RECIPE.replace("model: a,", "model: {merge_method: linear, method_file: own.py, models: [{model: a}]},")
    with pytest.raises(RecipeError, match="method_file belongs in a recipe"):
        parse_recipe(text, allow_code=True)


@pytest.mark.parametrize("method", ["my_flawed", "my_flawed_too"])
@pytest.mark.parametrize(("how", "message"), [(1, "Error"), (2, "the function returned shape")])
def test_a_function_that_fails_while_merging(place, method, how, message):
    """An error of the run that names the tensor, the method, the file and, where code failed, its line."""
    text = RECIPE.replace("my_mean", method).replace("mask: 3, lambda: 0.5", f"how: {how}")
    text = text.replace("{weight: 0.5}", "{}").replace("{weight: [0, 1]}", "{}")
    recipe = parse_recipe(text, allow_code=True)
    with pytest.raises(ExecutionError) as caught:
        sp.compute(recipe)
    (problem,) = caught.value.problems
    assert message in problem.message
    assert problem.message.startswith(method)
    assert problem.tensor.startswith("layers.")
    assert problem.file == "own.py"
    assert problem.line == 2
    if how == 1:
        line = next(
            i
            for i, t in enumerate(OWN.split("\n"), 1)
            if ('{}["missing"]' if method == "my_flawed" else "raise Run") in t
        )
        assert f"line {line} of its file" in problem.message


def test_the_schema_knows_methods_of_ones_own(place):
    """With a method file, other names of methods and parameters fit; misspelled keys still do not."""
    schema = json_schema()
    data = yaml.safe_load(RECIPE)
    jsonschema.validate(data, schema)
    for document in parse_recipe(RECIPE, allow_code=True).resolved["documents"]:
        jsonschema.validate(document, schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert not validator.is_valid({**data, "base_modle": "x"})
    assert not validator.is_valid({k: v for k, v in data.items() if k != "method_file"})
    assert not validator.is_valid({**data, "method_file": None})
