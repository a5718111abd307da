"""The page about methods is what their declarations say, and what it shows works."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import stockpot as sp
from stockpot.expression import Expression
from stockpot.methods.declare import REQUIRED, SCOPE, Base, Blockwise, Companion, Matrix, Parameter
from stockpot.methods.document import (
    by_family,
    document,
    example_call,
    example_recipe,
    family_of,
    passes_of,
    section,
    title_of,
    values_of,
)
from stockpot.methods.pieces import PIECES
from stockpot.methods.registry import METHODS
from stockpot.recipe.parse import parse_recipe
from stockpot.recipe.schema import json_schema

FILE = Path(__file__).parents[2] / "docs" / "methods.md"
PAGE = document(METHODS)
LINEAR, TIES, SLERP = METHODS["linear"], METHODS["ties"], METHODS["slerp"]
FISHER = Companion("fisher", "diagonal | of the Fisher matrix", per_model=True)
INPUTS = Companion("inputs", "of all models", gram=True)
MAYBE = Companion("mask", "where to merge", required=False, delta=True)


def fenced(language, text=PAGE):
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def part(method, page=PAGE):
    """The section about one method."""
    found = re.search(rf"^## {method.name}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    assert found, method.name
    return found[1]


def test_the_page_is_up_to_date():
    """The file in docs/ is what the declarations give today; `make docs` writes it."""
    assert FILE.read_text("utf-8") == PAGE, "docs/methods.md is stale: run `make docs`"


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda m: m.name)
def test_everything_declared_is_told(method):
    """A section has the formula, every parameter with its default, companions, variants, laws, notes, reference."""
    text = part(method)
    plain = text.replace("\\", "")
    assert method.formula in text
    for told in (method.summary, method.base.value, method.cites.title, method.cites.place, method.cites.equation):
        assert told in plain
    for told in (*method.notes, *(law.value for law in method.laws), *(method.variants or {}).values()):
        assert told in plain
    for p in method.parameters:
        row = next(line for line in text.splitlines() if line.startswith(f"| `{p.name}` |"))
        _, _, default, values, each, doc, _ = (c.strip().replace("\\", "") for c in re.split(r"(?<!\\)\|", row))
        assert (default == "required") == (p.default is REQUIRED)
        assert (values, each, doc) == (values_of(p), "yes" if p.per_model else "", p.doc)
    for name in (*method.aliases, *(c.name for c in method.companions)):
        assert f"`{name}`" in text
    assert ("`lambda`" in text) == (method.scaled or "lambda" in {p.name for p in method.parameters})


@pytest.mark.parametrize("text", fenced("yaml"), ids=lambda text: text.split("\n", 1)[0])
def test_recipes_parse(text):
    """Every example is a recipe without problems, notes or missing features, and fits the schema."""
    recipe = parse_recipe(text)
    assert (recipe.notes, recipe.unsupported) == ((), ())
    jsonschema.validate(yaml.safe_load(text), json_schema())


@pytest.mark.parametrize("text", fenced("python"), ids=lambda text: text.strip())
def test_calls_build(text):
    """Every Python example builds an expression from models in memory."""
    code = compile(text, "example", "exec")
    rng = np.random.default_rng(0)
    models = {name: sp.open({"w": rng.normal(size=(2, 2))}, name=name) for name in code.co_names if name != "sp"}
    names = {"sp": sp, **models}
    exec(code, names)
    assert isinstance(names["merged"], Expression)


def test_every_method_has_examples():
    """One recipe, one call and one reference per method, no more."""
    for language in ("yaml", "python", "bibtex", "text"):
        assert len(fenced(language)) == len(METHODS) + (language in ("yaml", "python"))  # and a chain of steps


def test_every_step_is_told():
    """A row with what the step does and what it takes, defaults and ranges included."""
    table = PAGE[PAGE.index("## Steps") :].split("###")[0].replace("\\", "")
    for piece in PIECES.values():
        row = next(line for line in table.splitlines() if line.startswith(f"| `{piece.name}` |"))
        assert piece.doc in row
        for p in piece.parameters:
            default = "required" if p.default is REQUIRED else f"default {p.default}".lower().removesuffix(".0")
            assert f"`{p.name}`" in row
            assert default in row
            assert values_of(p) in row


def test_links_within_the_page_lead_to_sections():
    """Each name in the tables is the heading of a section, and each method is in one table."""
    targets = re.findall(r"\]\(#([^)]+)\)", PAGE)
    assert sorted(targets) == sorted(METHODS)
    headings = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    assert set(targets) <= set(headings)
    assert len(headings) == len(set(headings))


def test_tables_have_whole_rows():
    """Every row of a table has as many cells as its head, whatever the texts contain."""
    odd = replace(TIES, summary="a | b", companions=(FISHER,), parameters=(Parameter("k", "|x| of `a|b`"),))
    for page in (PAGE, document({"ties": odd})):
        for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
            cells = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
            assert len(cells) == 1, table


def test_markup_in_texts_stays_text():
    """Asterisks, brackets and leading underscores of a text are no Markdown; code spans are."""
    text = part(LINEAR, document({"linear": replace(LINEAR, summary="*a* _b_ x_i <c> [d](e) `f*g`.")}))
    assert r"\*a\* \_b\_ x_i \<c> \[d\](e) `f*g`." in text


def test_families_are_the_folders():
    """A method is grouped by the folder that declares it, in the order of the registry."""
    families = by_family(METHODS)
    assert [name for name in ("span", "elementwise", "matrix", "structural") if name in families] == list(families)
    assert {m.name for members in families.values() for m in members} == set(METHODS)
    assert family_of(METHODS["passthrough"]) == "structural"
    assert families["elementwise"] == [m for m in METHODS.values() if m in families["elementwise"]]
    for family in families:
        assert f"## {title_of(family)}\n" in PAGE


def test_methods_from_elsewhere_have_a_family_too():
    """A method declared outside the package is grouped by the kind of its arithmetic."""
    guest = replace(LINEAR, name="guest", family=Blockwise(lambda x, _: x.mean(axis=0), whole=True))
    assert family_of(guest) == "blockwise"
    assert list(by_family({"guest": guest, "ties": TIES})) == ["elementwise", "blockwise"]
    assert "## Blockwise\n" in document({"guest": guest})


def test_passes():
    """A weighted mean reads once, an angle costs a pass more, a matrix is held whole."""
    assert passes_of(LINEAR) == "1"
    assert passes_of(SLERP) == "2"
    assert passes_of(TIES) == "1, +1 for each selection or norm"
    matrix = Matrix(lambda x, _p, _w: x[0], lambda p: np.ones(p.models), lambda _p, _s: 1, lambda _p, _s: 1)
    assert passes_of(replace(LINEAR, family=matrix)) == "1, whole tensor in memory"
    assert passes_of(replace(LINEAR, family=Blockwise(lambda x, _: x[0], whole=False))) == "1"


def test_companions_stand_in_both_examples():
    """What must be given is: under each model, or once; what may be left out is left out, but in the table."""
    method = replace(TIES, companions=(FISHER, INPUTS, MAYBE))
    recipe = yaml.safe_load(example_recipe(method))
    assert [m["parameters"]["fisher"] for m in recipe["models"]] == ["./a-fisher", "./b-fisher"]
    assert recipe["parameters"] == {"inputs": "./inputs"}
    assert "fisher=[a_fisher, b_fisher], inputs=inputs)" in example_call(method)
    assert "mask" not in example_recipe(method) + example_call(method)
    text = section(method, "")
    assert "| `inputs` | yes |  | Gram matrices of inputs: (columns, columns) |" in text
    assert "| `mask` |  |  | of the models' shapes; the base is subtracted |" in text


@pytest.mark.parametrize(
    ("base", "models"), [(Base.MEMBER, ["./base", "./a", "./b"]), (Base.NONE, ["./a", "./b", "./c"])]
)
def test_examples_have_as_many_models_as_needed(base, models):
    """At least the least number; where the base is one of them, it is listed first."""
    recipe = yaml.safe_load(example_recipe(replace(LINEAR, base=base, at_least=3)))
    assert [m["model"] for m in recipe["models"]] == models
    assert ("base_model" in recipe) == (base is Base.MEMBER)


BOUND = st.none() | st.integers(-5, 5)


@given(st.sampled_from(["int", "float"]), BOUND, BOUND, st.booleans())
def test_examples_use_allowed_values(kind, low, high, open_low):
    """The value of a required parameter lies in its range, and is whole for an int."""
    if low is not None and high is not None and low >= high:
        low, high = high, low + 1
    parameter = Parameter("k", "", kind=kind, low=low, high=high, open_low=open_low)
    value = yaml.safe_load(example_recipe(replace(LINEAR, parameters=(parameter,))))["parameters"]["k"]
    assert low is None or value > low or (value == low and not open_low)
    assert high is None or value <= high
    assert kind == "float" or isinstance(value, int)


def test_examples_of_words_and_switches():
    """A required choice is shown as its first word, a required switch as on."""
    switch = Parameter("exact", "", kind="bool")
    method = replace(LINEAR, parameters=(replace(SCOPE, default=REQUIRED), switch))
    assert yaml.safe_load(example_recipe(method))["parameters"] == {"scope": "tensor", "exact": True}
    assert example_call(method) == "merged = sp.linear(a, b, scope='tensor', exact=True)"


@pytest.mark.parametrize(
    ("parameter", "told"),
    [
        (SCOPE, "tensor or model"),
        (Parameter("k", ""), ""),
        (Parameter("k", "", low=0.0, high=1.0), "in [0, 1]"),
        (Parameter("k", "", low=0.0, high=0.25, open_low=True), "in (0, 0.25]"),
        (Parameter("k", "", high=2.0), "in (-inf, 2]"),
        (Parameter("k", "", low=1, kind="int"), "integer, in [1, inf)"),
        (Parameter("k", "", kind="int"), "integer"),
        (Parameter("k", "", kind="bool"), "true or false"),
        (Parameter("k", "", kind="ignored"), "changes nothing"),
    ],
)
def test_values_in_words(parameter, told):
    """Ranges are intervals, choices are listed."""
    assert values_of(parameter) == told
