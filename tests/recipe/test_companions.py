"""Checkpoints that a method reads beside its models: how recipes name them, and what is merged with them."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import yaml

import stockpot as sp
from files import read_model, write_model
from stockpot.cli.main import main
from stockpot.errors import PlanError, Problem, StockpotError
from stockpot.recipe.parse import load_recipe, parse_recipe

Tree = Callable[..., str]
Problems = Callable[..., tuple[Problem, ...]]

NAMES = [f"model.layers.{i}.w" for i in range(3)]
FISHER = """
merge_method: fisher
models:
  - model: a
    parameters: {weight: 2, fisher: a-fisher}
  - model: b
    parameters: {fisher: %s}
parameters: {scope: tensor, normalize: false, floor: 1e-12}
"""
SIGNS = """
merge_method: ties
base_model: base
models: [{model: a}, {model: b}]
parameters: {sign_from: %s}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Models, Fisher diagonals and Gram matrices on disk, in the current folder."""
    for seed, name in enumerate(("base", "a", "b", "oracle", "a-fisher", "b-fisher", "a-gram", "b-gram")):
        rng = np.random.default_rng(seed)
        arrays = {n: rng.normal(size=(5, 4)).astype(np.float32) for n in NAMES}
        if name.endswith("fisher"):
            arrays = {n: x * x for n, x in arrays.items()}
        if name.endswith("gram"):
            arrays = {n: x.T @ x for n, x in arrays.items()}
        write_model(tmp_path / name, arrays)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def model(name):
    """Name → float64 array of a model on disk."""
    return {n: x.astype(np.float64) for n, x in read_model(name).items()}


def merged(place, text):
    """What a recipe makes, written and read again."""
    (place / "recipe.yml").write_text(text)
    sp.merge("recipe.yml", "out", overwrite=True)
    return model("out")


def close(found, expected):
    return np.allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_fisher(place):
    """Each entry is the mean of the models, weighted by weight times Fisher information."""
    out = merged(place, FISHER % "b-fisher")
    a, b, f, g = (model(n) for n in ("a", "b", "a-fisher", "b-fisher"))
    for n in NAMES:
        assert close(out[n], (2 * f[n] * a[n] + g[n] * b[n]) / (2 * f[n] + g[n]))


def test_regmean(place):
    """The least-squares solution for inputs with the given Gram matrices."""
    out = merged(
        place,
        "merge_method: regmean\nmodels: [{model: a, parameters: {gram: a-gram}}, {model: b, parameters: "
        "{gram: b-gram}}]\nparameters: {off_diagonal: 1}\n",
    )
    a, b, g, h = (model(n) for n in ("a", "b", "a-gram", "b-gram"))
    for n in NAMES:
        assert np.allclose(out[n], (a[n] @ g[n] + b[n] @ h[n]) @ np.linalg.inv(g[n] + h[n]), atol=1e-4)


def test_signs_from_another_model(place):
    """Entries count whose sign is that of the oracle's change."""
    out = merged(place, SIGNS % "oracle")
    base, a, b, oracle = (model(n) for n in ("base", "a", "b", "oracle"))
    for n in NAMES:
        sign = np.where(oracle[n] - base[n] >= 0, 1, -1)
        deltas = np.stack([a[n] - base[n], b[n] - base[n]])
        agree = deltas * sign > 0
        mean = (deltas * agree).sum(axis=0) / np.maximum(agree.sum(axis=0), 1)
        assert close(out[n], base[n] + mean)
    assert not close(out[NAMES[0]], merged(place, SIGNS.replace("parameters: {sign_from: %s}", ""))[NAMES[0]])


MASK = "merge_method: %s\nbase_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {task: 1}\n"
MERGED = "merge_method: %s\nbase_model: base\nmodels: [{model: a}, {model: b}]\n"
MASKED = """
merge_method: masked
base_model: base
models:
  - model: merged
    parameters: {mask: mask}
"""


def test_a_mask_is_written_alone(place):
    """A recipe of a mask writes zeros and ones: no base is added."""
    out = merged(place, MASK % "tall_mask")
    base, a, b = (model(n) for n in ("base", "a", "b"))
    for n in NAMES:
        assert np.array_equal(out[n], abs(a[n] - base[n]) > 0.4 * abs(b[n] - base[n]))
    assert set(np.unique(out[NAMES[0]])) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("mask", "whole", "task"), [("tall_mask", "task_arithmetic", None), ("emr_mask", "emr", "emr_task")]
)
def test_a_mask_restores_its_task(place, mask, whole, task):
    """base + mask × (merged − base), from files written before: entry by entry, and emr_task's own model."""
    for name, text in (("mask", MASK % mask), ("merged", MERGED % whole)):
        (place / f"{name}.yml").write_text(text)
        sp.merge(f"{name}.yml", name)
    out = merged(place, MASKED)
    base, factor, both = (model(n) for n in ("base", "mask", "merged"))
    for n in NAMES:
        assert close(out[n], base[n] + factor[n] * (both[n] - base[n]))
    if task is not None:
        own = merged(place, MASK % task)
        assert all(np.allclose(out[n], own[n], rtol=1e-5, atol=1e-6) for n in NAMES)


def test_masks_of_slices(place):
    """A mask of a slice is the mask of these layers, and a slice of the base alone has none."""
    sources = "[{model: base, layer_range: [%d, %d]}, {model: a, layer_range: [%d, %d]}]"
    text = "merge_method: tall_mask\nbase_model: base\nparameters: {task: 1}\nslices:\n"
    out = merged(place, text + f"  - sources: {sources % (0, 1, 0, 1)}\n  - sources: {sources % (1, 3, 1, 3)}\n")
    assert all((x == 1).all() for x in out.values())
    with pytest.raises(StockpotError, match="tall_mask takes at least 1 models beside the base, not 0"):
        parse_recipe(text + "  - sources: [{model: base, layer_range: [0, 1]}]\n")


def test_a_document_is_a_companion(place):
    """The mask may be another document of the recipe, or a merge in its place, and nothing is written between."""
    documents = (
        "name: mask\n" + MASK % "tall_mask" + "---\nname: merged\n" + MERGED % "task_arithmetic" + "---" + MASKED
    )
    recipe = parse_recipe(documents)
    assert recipe.notes == ()
    found = sp.compute(recipe)
    base, a, b = (model(n) for n in ("base", "a", "b"))
    for n in NAMES:
        keep = abs(a[n] - base[n]) > 0.4 * abs(b[n] - base[n])
        assert close(found[n], base[n] + keep * (a[n] + b[n] - 2 * base[n]))
    inside = (MASK % "tall_mask").strip().replace("\n", ", ")
    nested = MASKED.replace("mask: mask", f"mask: {{{inside}}}")
    again = sp.compute(parse_recipe("name: merged\n" + MERGED % "task_arithmetic" + "---" + nested))
    assert all(again[n].tobytes() == found[n].tobytes() for n in NAMES)


@pytest.mark.parametrize(
    ("written", "reference"),
    [
        ("x", "x"),
        ("org/x@v1", "org/x@v1"),
        ("{path: c++, revision: v1}", "c++@v1"),
        ("{path: '0.5'}", "0.5"),
        ("{model: {path: x}}", "x"),
        ("{merge_method: linear, models: [{model: x}, {model: y}]}", "linear(x; y){}"),
    ],
)
def test_references(written: str, reference: str, render_companions) -> None:
    """A companion is written in any form that a model has."""
    assert render_companions(FISHER % written)[0]["fisher"] == ["a-fisher", reference]
    assert render_companions(SIGNS % written)[0]["sign_from"] == [reference]


def test_layers_of_companions(render_companions) -> None:
    """With layers, a model's companion takes those of its model, the merge's those of the base."""
    slices = """
merge_method: ties
base_model: base
slices:
  - sources: [{model: a, layer_range: [4, 6]}, {model: base, layer_range: [2, 4]}]
parameters: {sign_from: oracle}
"""
    assert render_companions(slices) == [{"sign_from": ["oracle[2:4]"]}]
    text = """
merge_method: fisher
slices:
  - sources: [{model: a, layer_range: [0, 2], parameters: {fisher: f}}, {model: b, parameters: {fisher: g}}]
  - sources: [{model: a, layer_range: [2, 4], parameters: {fisher: f}}]
"""
    assert render_companions(text) == [{"fisher": ["f[0:2]", "g"]}, {"fisher": ["f[2:4]"]}]


def test_the_nearest_companion_counts(render_companions) -> None:
    """Slice, then module, then recipe."""
    text = """
merge_method: ties
base_model: B
parameters: {sign_from: z}
modules:
  default:
    parameters: {sign_from: y}
    slices:
      - sources: [{model: B}, {model: a}]
        parameters: {sign_from: x}
      - sources: [{model: B}, {model: a}]
"""
    assert render_companions(text) == [{"sign_from": ["x"]}, {"sign_from": ["y"]}]


def test_companions_are_not_rounded(render_companions) -> None:
    """Under compat, models are rounded to the recipe's dtype when they are read; companions are not."""
    assert render_companions("compat: mergekit\ndtype: bfloat16" + SIGNS % "x") == [{"sign_from": ["x"]}]


MISTAKES = {
    "missing": (FISHER.replace("fisher: %s", "weight: 1"), "fisher needs fisher for every model; b has none", 6),
    "at the top": (
        FISHER.replace(", fisher: a-fisher", "")
        .replace("fisher: %s", "weight: 1")
        .replace("floor:", "fisher: f, floor:"),
        "each model has a fisher of its own",
        8,
    ),
    "under one model": (
        "merge_method: ties\nbase_model: base\nmodels:\n  - model: a\n    parameters: {sign_from: x}\n",
        "sign_from belongs to the whole merge",
        5,
    ),
    "a number": (SIGNS % "0.5", "sign_from is '0.5', not a checkpoint", 5),
    "a switch": (SIGNS % "yes", "sign_from is 'yes', not a checkpoint", 5),
    "a list": (SIGNS % "[a, b]", "sign_from is a list, not one model", 5),
    "a gradient": (SIGNS % "[{value: a}]", "sign_from is a list, not one model", 5),
    "empty": (SIGNS % "", "sign_from is empty", 5),
    "blank": (SIGNS % "' '", "sign_from is empty", 5),
    "a broken merge": (SIGNS % "{merge_method: lienar, models: [{model: a}]}", "unknown method 'lienar'", 5),
    "an unfinished merge": (SIGNS % "{merge_method: ties, models: [{model: a}]}", "ties works on differences", 5),
    "an unknown key": (SIGNS % "{path: a, revison: b}", "unknown key 'revison'", 5),
    "misspelled": (FISHER.replace("fisher: %s", "fihser: x"), "unknown parameter 'fihser' of fisher", 7),
    "a path for a number": ((FISHER % "f").replace("weight: 2", "weight: ./a"), "weight is './a'", 5),
    "at the wrong indent": ("sign_from: x" + SIGNS % "y", "unknown key 'sign_from' in a recipe", 1),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name: str, problems: Problems) -> None:
    """Each has its line and, where there is one, its fix."""
    text, message, line = MISTAKES[name]
    found = [p for p in problems(text) if message in p.message]
    assert found, [str(p) for p in problems(text)]
    assert found[0].line == line
    assert found[0].fix or name in ("a gradient", "a list")


@pytest.mark.parametrize("name", sorted(MISTAKES.keys() - {"misspelled"}))
def test_one_mistake_is_one_problem(name: str, problems: Problems) -> None:
    """A mistake is not told again by what builds on it."""
    assert len(problems(MISTAKES[name][0])) == 1


def test_idle_companions_are_notes() -> None:
    """One that only other methods read changes nothing, is not opened, and is told."""
    text = (
        "merge_method: linear\nmodels: [{model: a, parameters: {fisher: f}}, {model: b}]\nparameters: {sign_from: x}\n"
    )
    recipe = parse_recipe(text)
    assert [(n.message, n.line) for n in recipe.notes] == [
        ("linear does not use fisher; it changes nothing", 2),
        ("linear does not use sign_from; it changes nothing", 3),
    ]
    assert "fisher" not in json.dumps(recipe.resolved)


def test_companions_of_the_base_are_noted() -> None:
    """The base is subtracted, so its mask means nothing."""
    text = MASKED.replace("models:", "models:\n  - {model: base, parameters: {mask: m}}")
    assert [n.message for n in parse_recipe(text).notes] == ["base is the base: its own mask changes nothing"]


@pytest.mark.parametrize(
    "text", [FISHER % "f", FISHER % "{merge_method: linear, models: [{model: x}]}", SIGNS % "x@1", MASKED]
)
def test_resolved_recipes_parse_to_themselves(text: str) -> None:
    """The receipt holds companions as they were written."""
    recipe = parse_recipe(text)
    again = parse_recipe(yaml.safe_dump_all(recipe.resolved["documents"]))
    assert again.resolved == recipe.resolved
    assert again.notes == ()


def test_the_receipt_names_companions(place):
    """They are inputs like the models: their identity is written down."""
    merged(place, FISHER % "b-fisher")
    receipt = json.loads((place / "out" / "stockpot-receipt.json").read_text())
    assert set(receipt["inputs"]) == {"a", "b", "a-fisher", "b-fisher"}
    assert receipt["resolved"]["documents"][0]["models"][1]["parameters"] == {"fisher": "b-fisher"}


def test_check_and_plan_know_them(place, capsys):
    """check opens nothing; plan tells what is read of each, as byte ranges."""
    (place / "ok.yml").write_text(FISHER % "b-fisher")
    assert main(["check", "ok.yml"]) == 0
    assert main(["plan", "ok.yml", "--json"]) == 0
    how = json.loads(capsys.readouterr().out.split("\n", 1)[1])["tensors"][0]["how"]
    assert [c["copy"] for c in how["companions"]] == ["a-fisher", "b-fisher"]
    assert how["companions"][0]["range"][1] - how["companions"][0]["range"][0] == 80


def test_companions_of_another_model_are_refused(place):
    """A Fisher without a tensor, or of another shape, is an error that names it; its dtype is its own affair."""
    write_model(place / "b-fisher", {n: np.ones((5, 4), np.float64) for n in NAMES})
    assert sp.plan(load_recipe_of(place, FISHER % "b-fisher")).notes == ()
    write_model(place / "b-fisher", {n: np.ones((4, 4), np.float32) for n in NAMES[1:]})
    with pytest.raises(PlanError) as caught:
        sp.plan(load_recipe_of(place, FISHER % "b-fisher"))
    assert [p.tensor for p in caught.value.problems] == [NAMES[0], NAMES[1]]
    assert all("fisher b-fisher" in p.message for p in caught.value.problems)


def load_recipe_of(place, text):
    """A recipe from its text, by way of a file."""
    (place / "recipe.yml").write_text(text)
    return load_recipe("recipe.yml")
