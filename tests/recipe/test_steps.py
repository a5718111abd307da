"""``steps:`` writes a method as a chain of pieces."""

from __future__ import annotations

from collections.abc import Callable

import jsonschema
import numpy as np
import pytest
import yaml

import stockpot as sp
from files import read_model, write_model
from stockpot.errors import Problem
from stockpot.methods.declare import REQUIRED
from stockpot.methods.pieces import PIECES
from stockpot.recipe.parse import parse_recipe
from stockpot.recipe.schema import json_schema

Problems = Callable[..., tuple[Problem, ...]]
Tree = Callable[..., str]

TIES = """
merge_method: ties
base_model: base
models:
  - {model: a, parameters: {weight: 0.6, density: 0.3}}
  - {model: b, parameters: {weight: [0.2, 0.9], density: 0.5}}
parameters: {lambda: 0.7}
"""
STEPS = TIES.replace("merge_method: ties", "merge_method: steps\nsteps: [trim, scale, elect, mean]")
FIXED = """
merge_method: steps
base_model: base
models: [{model: a}, {model: b, parameters: {weight: 2}}]
steps:
  - trim: {density: [{filter: layers.0, value: [0.1, 0.9]}, {value: 0.4}], scope: model}
  - drop:
      density: [0.9, 0.5]
      rescale: false
  - scale
  - elect:
  - mean: {by: count}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Three models on disk, in the current folder."""
    for seed, name in enumerate(("base", "a", "b")):
        rng = np.random.default_rng(seed)
        write_model(tmp_path / name, {f"layers.{i}.w": rng.normal(size=(9, 7)).astype(np.float32) for i in range(3)})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(place, text, out):
    """The bytes of each tensor that a recipe makes."""
    (place / "recipe.yml").write_text(text)
    sp.merge("recipe.yml", out)
    return {name: array.tobytes() for name, array in read_model(out).items()}


def test_ties_in_steps(place):
    """TIES written as steps gives the bytes of TIES, per-model weights and densities, gradients and lambda included."""
    assert written(place, STEPS, "steps") == written(place, TIES, "ties")
    assert written(place, STEPS.replace("0.7", "0.8"), "other") != written(place, TIES, "again")


def test_values_in_a_step(place):
    """A value in a step holds for all models; the same values as parameters give the same bytes."""
    fixed = FIXED.replace("drop:", "floor:").replace("density: [0.9, 0.5]", "limit: 0.1").replace("rescale: false", "")
    text = """
merge_method: steps
base_model: base
models: [{model: a}, {model: b, parameters: {weight: 2}}]
steps: [trim, floor, scale, elect, mean]
parameters: {density: [{filter: layers.0, value: [0.1, 0.9]}, {value: 0.4}], scope: model, limit: 0.1, by: count}
"""
    assert written(place, fixed, "fixed") == written(place, text, "free")


def test_python_and_yaml_build_the_same_chain(place):
    """``sp.trim(density=0.2) >> sp.elect()`` in both languages."""
    base, a, b = (sp.open(n) for n in ("base", "a", "b"))
    chain = sp.trim(density=0.5) >> sp.scale() >> sp.elect() >> sp.mean()
    python = sp.compute(base + chain(a - base, b - base, weight=[1.0, 2.0]))
    text = FIXED[: FIXED.index("steps:\n")] + "steps: [{trim: {density: 0.5}}, scale, elect, mean]"
    found = sp.compute(parse_recipe(text))
    assert all(found[n].tobytes() == python[n].tobytes() for n in python)


def test_a_step_twice(tree: Tree) -> None:
    """Each has its own value; what neither is given is one parameter of both."""
    text = (
        FIXED[: FIXED.index("steps:\n")] + "steps: [{trim: {density: 0.5}}, {drop: {density: 0.7}}, trim, clip: {t: 1}]"
    )
    text = text.replace(", clip: {t: 1}", "") + "\nparameters: {density: 0.9}"
    assert "density of step 1=0.5,scope of step" not in tree(text)
    assert "{density of step 1=0.5,density of step 2=0.7,density=0.9}" in tree(text)


MISTAKES = {
    "unknown step": ("- scael", "unknown step 'scael'", "did you mean scale?"),
    "unknown parameter": ("- trim: {densty: 1}", "unknown parameter 'densty' of step trim", "did you mean density?"),
    "no such parameter": ("- elect: {weight: 1}", "unknown parameter 'weight' of step elect", "no parameters"),
    "out of range": ("- trim: {density: 2}", "density of step 2 = 2 is outside [0, 1]", "share"),
    "out of range in a gradient": ("- trim: {density: [0, 2]}", "density of step 2 = 2 is outside [0, 1]", "share"),
    "a word": ("- trim: {density: much}", "density is 'much', which is not a parameter value", "gradient"),
    "another word": ("- trim: {scope: all}", "scope of step 2 is 'all'", "one of tensor, model"),
    "an empty value": ("- trim: {density: }", "density is empty", "gradient"),
    "a case without value": ("- trim: {density: [{filter: x}]}", "needs value", "value"),
    "an end that is none": ("- mean", "step 2 (mean) ends a chain, but others follow", "last"),
    "ranks too late": ("- drop_ranked", "step 2 (drop_ranked) ranks within rows", "first"),
    "a number for values": ("- trim: 0.5", "the values of step trim are '0.5'", "trim: {parameter: value}"),
    "two keys": ("- {trim: , elect: }", "a step is a mapping", "steps: ["),
    "a list": ("- [trim]", "a step is a list", "steps: ["),
    "empty": ("-", "a step is empty", "steps: ["),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_have_the_line_of_their_step(name: str, problems: Problems) -> None:
    """One problem, with the line of the step that is wrong and a fix."""
    step, message, fix = MISTAKES[name]
    text = f"merge_method: steps\nbase_model: B\nmodels: [{{model: a}}]\nsteps:\n  - scale\n  {step}\n  - sum\n"
    (problem,) = problems(text)
    assert message in problem.message
    assert problem.line == 6
    assert fix in (problem.fix or "")


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("merge_method: steps", "merge_method: steps needs its steps", 1),
        ("merge_method: steps\nsteps:", "merge_method: steps needs its steps", 1),
        ("merge_method: steps\nsteps: []", "steps is an empty list", 2),
        ("merge_method: steps\nsteps: trim", "steps is 'trim', not a list of steps", 2),
        ("merge_method: ties\nsteps: [trim]", "steps belong to merge_method: steps, not to ties", 2),
        ("merge_method: wudi\nsteps: 300", "steps belong to merge_method: steps, not to wudi", 2),
    ],
)
def test_steps_stand_with_their_method_alone(text: str, message: str, line: int, problems: Problems) -> None:
    """``steps:`` without ``merge_method: steps``, and the other way round, is one error."""
    (problem,) = problems(text + "\nbase_model: B\nmodels: [{model: a}]\n")
    assert (problem.message, problem.line) == (message, line)
    assert problem.fix
    assert "wudi" not in text or "indent it under parameters" in problem.fix


def test_lenient_reading_ignores_unknown_values_of_steps() -> None:
    """They are notes, as unknown parameters are."""
    recipe = parse_recipe(FIXED.replace("by: count", "buy: count"), lenient=True)
    assert [n.line for n in recipe.notes] == [12]


def test_parameters_of_a_chain_are_checked() -> None:
    """What no step takes, or all are given, is a note; what nothing takes is an error; the rest is used."""
    notes = parse_recipe(FIXED + "parameters: {density: 1, t: 1, lambda: 2}\n").notes
    assert [n.message for n in notes] == [
        "steps does not use density; it changes nothing",
        "steps does not use t; it changes nothing",
    ]


def test_internal_names_cannot_be_written(problems: Problems) -> None:
    """A value of a step has no other name."""
    (problem,) = problems(FIXED + "parameters: {density of step 1: 1}\n")
    assert "unknown parameter" in problem.message


def test_required_parameters(problems: Problems) -> None:
    """A step's parameter without a default must be given, in the step or beside it."""
    text = FIXED[: FIXED.index("steps:\n")] + "steps: [{clip: }]\n"
    (problem,) = problems(text)
    assert "steps needs t" in problem.message
    parse_recipe(text + "parameters: {t: 1}")
    parse_recipe(text.replace("{clip: }", "clip: {t: 1}"))


@pytest.mark.parametrize("text", [STEPS, FIXED])
def test_resolved_recipes_parse_to_themselves(text: str) -> None:
    """Steps are kept as written, with what they leave open made explicit beside them."""
    recipe = parse_recipe(text)
    assert recipe.notes == ()
    again = parse_recipe(yaml.safe_dump_all(recipe.resolved["documents"]))
    assert again.resolved == recipe.resolved
    assert again.notes == ()


@pytest.mark.parametrize("name", PIECES)
def test_every_step_is_a_recipe(name: str) -> None:
    """By name or with its values, checked by the parser and by the schema."""
    needed = {p.name: 0.5 for p in PIECES[name].parameters if p.default is REQUIRED}
    for step in ({name: needed}, *([] if needed else [name, {name: None}])):
        data = {"merge_method": "steps", "steps": [step], "base_model": "B", "models": [{"model": "a"}]}
        assert parse_recipe(yaml.safe_dump(data)).notes == ()
        jsonschema.validate(data, json_schema())
