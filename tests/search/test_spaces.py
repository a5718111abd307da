"""Recipes with holes: values go in exactly, all else stays as it was written, mistakes are told with their line."""

from __future__ import annotations

import json
import math
import pickle
import time

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stockpot.cli.main import main
from stockpot.errors import RecipeError
from stockpot.recipe.parse import parse_recipe
from stockpot.recipe.schema import json_schema
from stockpot.recipe.yaml_nodes import Scalar, compose
from stockpot.search.spaces.dimensions import Dimension
from stockpot.search.spaces.space import Space, load_space
from stockpot.search.spaces.writing import number_text, word_text

RECIPE = """\
# two fine-tunes
merge_method: {choice: [ties, dare_ties]}   # how
base_model: org/base
models:
  - model: org/a   # the first
    parameters:
      weight: {search: [0, 1], name: w}
      density:
        search: [0.1, 1]   # a share
        start: 0.2
        log: true
  - model: org/b
    parameters: {weight: {same: w}, density: [{search: [0.1, 1]}, 0.5, {search: [0.2,
        1.0]}]}
parameters:
  lambda:
    - filter: mlp
      value: {search: [0.5, 2], step: 0.5}
    - value: {search: [0, 1]}
dtype: bfloat16   # the end
"""
NAMES = (
    "merge_method",
    "w",
    "models[0].density",
    "models[1].density[0]",
    "models[1].density[2]",
    "parameters.lambda[mlp]",
    "parameters.lambda[rest]",
)
SPACE = Space.of(RECIPE)


def by_hand(v):
    """The recipe at values ``v``, written by hand."""
    return f"""\
merge_method: {v["merge_method"]}
base_model: org/base
models:
  - {{model: org/a, parameters: {{weight: {v["w"]!r}, density: {v["models[0].density"]!r}}}}}
  - model: org/b
    parameters:
      weight: {v["w"]!r}
      density: [{v["models[1].density[0]"]!r}, 0.5, {v["models[1].density[2]"]!r}]
parameters:
  lambda: [{{filter: mlp, value: {v["parameters.lambda[mlp]"]!r}}}, {{value: {v["parameters.lambda[rest]"]!r}}}]
dtype: bfloat16
"""


def around(value, start="", rest=""):
    """A recipe with ``value`` for a weight."""
    return f"merge_method: linear\nmodels:\n- model: a\n  parameters:\n    weight: {value}\n{rest}- model: b\n{start}"


def test_dimensions_stand_in_the_order_of_the_text_and_say_where() -> None:
    """Names are places in words, or the name of the hole; lines are those of the text."""
    assert tuple(d.name for d in SPACE.dimensions) == NAMES
    assert [d.line for d in SPACE.dimensions] == [2, 7, 9, 13, 13, 18, 19]
    assert [d.kind for d in SPACE.dimensions] == ["choice", *["float"] * 6]
    assert SPACE.dimensions[0].choices == ("ties", "dare_ties")
    assert SPACE.dimensions[2] == Dimension(
        "models[0].density", 9, "float", 0.1, 1.0, log=True, start=0.2, key="density"
    )
    assert SPACE.dimensions[5].step == 0.5


def test_the_start_is_what_is_written_else_the_middle() -> None:
    """Of a choice the first; of a range the middle, on a step where values are."""
    assert SPACE.start() == dict(zip(NAMES, ("ties", 0.5, 0.2, 0.55, 0.6, 1.5, 0.5), strict=True))
    log = Space.of(around("{search: [0.01, 1], log: true}")).start()
    assert log["models[0].weight"] == pytest.approx(0.1)
    assert Space.of(around("{search: [0, 5], int: true}")).start() == {"models[0].weight": 2}


def test_one_number_for_all() -> None:
    """Coefficients at one place of their ranges; densities and choices stay where they start."""
    low, high = SPACE.shared(0.0), SPACE.shared(1.0)
    assert [d.name for d in SPACE.coefficients] == ["w", "parameters.lambda[mlp]", "parameters.lambda[rest]"]
    moved = {d.name: (d.low, d.high) for d in SPACE.coefficients}
    for name, start in SPACE.start().items():
        assert (low[name], high[name]) == moved.get(name, (start, start))


def test_one_number_for_all_where_none_is_a_coefficient() -> None:
    """Every range moves then, magnitudes by magnitude."""
    space = Space.of(
        "{merge_method: ties, base_model: a, models: [{model: b, parameters: {weight: 1}}], "
        "parameters: {density: {search: [0.1, 1], log: true}}}"
    )
    assert space.shared(0.5)["parameters.density"] == pytest.approx(math.sqrt(0.1))


@given(
    st.fixed_dictionaries(
        {
            "merge_method": st.sampled_from(["ties", "dare_ties"]),
            **{d.name: st.floats(d.low, d.high) for d in SPACE.dimensions[1:]},
        }
    )
)
def test_values_go_in_exactly(values) -> None:
    """The recipe at any values resolves to the one written by hand; no bit of a number is lost, no line moves."""
    written = SPACE.written(values)
    assert parse_recipe(written).resolved == parse_recipe(by_hand(values)).resolved
    assert written.count("\n") == RECIPE.count("\n")
    assert SPACE.recipe(values).text == written


def test_everything_else_stays_as_it_is_written() -> None:
    """Comments, spaces and lines are those of the text."""
    old, new = RECIPE.split("\n"), SPACE.written(SPACE.start()).split("\n")
    kept = [number for number, line in enumerate(old) if not any(d.line == number + 1 for d in SPACE.dimensions)]
    inside = {9, 10, 13}
    assert all(old[n] == new[n] for n in kept if n not in inside)
    assert new[1] == "merge_method: ties   # how"
    assert new[6:11] == ["      weight: 0.5", "      density:", "        0.2  # a share", "", ""]
    assert new[13].strip() == "]}"


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(NUMBERS)
def test_numbers_are_numbers_to_any_reader(number) -> None:
    """Every finite float is read as itself, by this parser and by plain YAML 1.1."""
    read = yaml.safe_load(f"x: {number_text(number)}")["x"]
    assert (type(read), repr(read)) == (float, repr(number))


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_words_are_words(text) -> None:
    """Any text stands on one line, in brackets too, and is read as itself."""
    (document,), problems = compose(f"[{word_text(text)}]")
    assert not problems
    (item,) = document.items
    assert isinstance(item, Scalar)
    assert (item.text, item.tag, item.line) == (text, "text", 1)


STRUCTURES = {
    "block": (
        "weight:\n  search: [0, 1]   # c\n  start: 0.5 # d\nbase: x\n",
        "weight:\n  0.25  # c\n   # d\nbase: x\n",
    ),
    "block list": ("weights:\n- search: [0, 1]\n- 1\n", "weights:\n- 0.25\n- 1\n"),
    "pair": ("w: [search: [0, 1], 3]\n", "w: [0.25, 3]\n"),
    "no space": ('{"w":{search: [0, 1]}}\n', '{"w": 0.25}\n'),
    "windows": ("w: {search: [0,\r\n 1]}\r\nb: x\r\n", "w: 0.25\n\r\nb: x\r\n"),
    "comments": ("w: [{search: # c\n [0, # d\n 1]}, x] # e\n", "w: [0.25  # c\n  # d\n  , x] # e\n"),
    "anchor": ("w: &a {search: [0, 1]}\nv: *a\n", "w: &a 0.25\nv: *a\n"),
    "anchor of a block": ("w: &a  # c\n  search: [0, 1]\nv: *a\n", "w: &a  # c\n  0.25\nv: *a\n"),
    "anchor above": ("w: &a # c\n  {search: [0,\n 1]} # d\nv: *a\n", "w: &a # c\n  0.25\n   # d\nv: *a\n"),
    "flow goes on": ("{w: {search: [0,\n  1]}, b: x}\n", "{w: 0.25\n  , b: x}\n"),
    "merge key": (
        "w: &a {search: [0, 1], name: q}\nv: {<<: *a, name: r, start: 0.25}\n",
        "w: &a 0.25\nv: 0.25\n",
    ),
    "last": ("w: {search: [0, 1]}", "w: 0.25"),
    "byte order mark": ("\ufeffw: {search: [0, 1]}\n", "\ufeffw: 0.25\n"),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_any_way_of_writing_a_hole(name) -> None:
    """Block and flow style, anchors and merge keys: exactly the hole's characters are replaced."""
    from stockpot.recipe.findings import Findings
    from stockpot.search.spaces.layout import Layout

    text, wanted = STRUCTURES[name]
    documents, _ = compose(text)
    layout = Layout.of(text, documents, Findings())
    written = layout.written({d.name: 0.25 for d in layout.dimensions})
    assert written == wanted
    lines = [node.line for node in _scalars(compose(written)[0][0]) if node.text in ("x", "3")]
    assert lines == [node.line for node in _scalars(documents[0]) if node.text in ("x", "3")]


def _scalars(node):
    if isinstance(node, Scalar):
        return [node]
    inner = node.items if hasattr(node, "items") else [entry.value for entry in node.entries]
    return [scalar for one in inner for scalar in _scalars(one)]


def test_an_alias_repeats_the_value() -> None:
    """A hole with an anchor is one dimension wherever its alias stands."""
    space = Space.of(around("&w {search: [0, 1]}", rest="", start="  parameters: {weight: *w}\n"))
    assert [d.name for d in space.dimensions] == ["models[0].weight"]
    text = space.written({"models[0].weight": 0.25})
    assert "weight: &w 0.25" in text
    assert parse_recipe(text).resolved["documents"][0]["models"][1]["parameters"] == {"weight": 0.25}


def test_choices_are_spliced_as_they_are_written() -> None:
    """Methods, references, truth values, whole lists; quotes stay, and values are typed."""
    text = """\
merge_method: ties
base_model: base
models:
- {model: {choice: ["0.5", org/b, {path: a+b}]}, parameters: {weight: {choice: [1, 0.5, [0, 1]], start: 0.5}}}
- model: c
parameters: {normalize: {choice: [true, false]}}
"""
    space = Space.of(text)
    models, weights, flags = space.dimensions
    assert models.choices == ("0.5", "org/b", "{path: a+b}")
    assert weights.choices == (1, 0.5, "[0, 1]")
    assert flags.choices == (True, False)
    assert space.start() == {"models[0].model": "0.5", "models[0].weight": 0.5, "parameters.normalize": True}
    written = space.written(space.start() | {"models[0].weight": "[0, 1]", "parameters.normalize": False})
    assert '{model: "0.5", parameters: {weight: [0, 1]}}' in written
    assert "normalize: false" in written
    at = space.recipe({**space.start(), "models[0].model": "{path: a+b}"})
    assert at.resolved["documents"][0]["models"][0]["model"] == {"path": "a+b"}


def test_whole_numbers_and_seeds() -> None:
    """``int`` writes whole numbers, which places that take nothing else accept."""
    text = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nseed: {search: [0, 9], int: true}\n"
    space = Space.of(text)
    assert space.recipe({"seed": 7}).seed == 7
    with pytest.raises(RecipeError, match=r"seed = 1\.5 is not a whole number"):
        space.written({"seed": 1.5})


def test_other_documents_and_nested_merges() -> None:
    """Holes stand anywhere; the name of a document stands before those in it."""
    text = """\
name: first
merge_method: linear
models: [{model: a, parameters: {weight: {search: [0, 1]}}}, {model: b}]
---
merge_method: slerp
base_model: first
models:
- model: first
- model: {merge_method: linear, models: [{model: c}, {model: d, parameters: {weight: {search: [0, 1]}}}]}
parameters: {t: {search: [0, 1]}}
"""
    names = [d.name for d in Space.of(text).dimensions]
    assert names == ["first: models[0].weight", "models[1].model.models[1].weight", "parameters.t"]


def test_equal_places_get_names_of_their_own() -> None:
    """Two values for one filter are told apart."""
    case = "{filter: q, value: {search: [0, 1]}}"
    names = [d.name for d in Space.of(around(f"[{case}, {case}]")).dimensions]
    assert names == ["models[0].weight[q]", "models[0].weight[q]#2"]


def test_steps_of_chains() -> None:
    """The values of a step are parameters too."""
    text = "merge_method: steps\nbase_model: o\nsteps: [{trim: {density: {search: [0.1, 1]}}}, elect, mean]\n"
    space = Space.of(text + "models: [{model: a}, {model: b}]\n")
    assert [d.name for d in space.dimensions] == ["steps[0].trim.density"]
    assert space.recipe({"steps[0].trim.density": 0.3})


def test_a_file_and_its_folder(tmp_path) -> None:
    """Relative models are relative to the file's folder, and errors name the file."""
    (tmp_path / "r.yml").write_text(around("{search: [0, 1]}"))
    space = load_space(tmp_path / "r.yml")
    assert space.recipe(space.start()).donor.folder == str(tmp_path)
    (tmp_path / "r.yml").write_text(around("{search: [1, 0]}"))
    with pytest.raises(RecipeError) as caught:
        load_space(tmp_path / "r.yml")
    assert [(p.file, p.line) for p in caught.value.problems] == [(str(tmp_path / "r.yml"), 5)]


MISTAKES = {
    "reversed": ("{search: [1, 0]}", r"from low to high", "search: [0.0, 1.0]"),
    "one value": ("{search: [1, 1]}", r"from low to high", "one value is no range"),
    "one end": ("{search: [1]}", r"search has 1 values, not two", "[lowest, highest]"),
    "three ends": ("{search: [0, 1, 2]}", r"search has 3 values, not two", "choice"),
    "no list": ("{search: 0.5}", r"search is '0.5', not a list of ends", "one item a line"),
    "no ends": ("{search: []}", r"search is an empty list", "at least 1"),
    "words": ("{search: [a, 1]}", r"search is 'a', not a finite number", None),
    "infinite": ("{search: [0, .inf]}", r"not a finite number", None),
    "log from zero": ("{search: [0, 1], log: true}", r"log needs a range above 0", "raise the lowest"),
    "half an int": ("{search: [0.5, 2], int: true}", r"int needs whole ends", "leave int out"),
    "log steps": ("{search: [1, 9], log: true, step: 2}", r"step: 2.0 does not fit", "log has no steps"),
    "long step": ("{search: [0, 1], step: 2}", r"step: 2.0 does not fit", "at most 1.0"),
    "half steps of ints": ("{search: [0, 9], int: true, step: 0.5}", r"does not fit", "whole step"),
    "start outside": ("{search: [0, 1], start: 2}", r"start: 2.0 is not in \[0.0, 1.0\]", "inside"),
    "start between steps": ("{search: [0, 1], step: 0.5, start: 0.3}", r"no value of the range", "start: 0.5"),
    "unknown key": ("{search: [0, 1], stepp: 1}", r"unknown key 'stepp' in a range to search", "did you mean step?"),
    "key of ranges": ("{choice: [0, 1], log: true}", r"unknown key 'log' in a choice", "a choice takes: choice, start"),
    "nothing to choose": ("{choice: []}", r"choice is an empty list", "at least 1"),
    "twice": ("{choice: [1, 2, 1.0]}", r"choice: 1.0 is given twice", "once"),
    "empty choice": ("{choice: [1, ~]}", r"one of the values is empty", "every value"),
    "start unchosen": ("{choice: [1, 2], start: 3}", r"start: 3 is none of the choices", "start: 1"),
    "hole in a choice": ("{choice: [1, {search: [0, 1]}]}", r"a hole stands inside a choice", "beside"),
    "long choice": ("{choice: [1, [0,\n 1]]}", r"stands on several lines", "one line"),
    "many choices": (f"{{choice: {list(range(101))}}}", r"101 values, more than 100", "search"),
    "no such name": ("{same: x}", r"no hole is called 'x'", "name: x"),
    "same and more": ("{same: x, start: 1}", r"unknown key 'start' in a repeated value", "takes: same"),
    "no groups": ("{search: [0, 1], groups: 0}", r"groups is '0', not a whole number from 1", None),
    "filters twice": ("{search: [0, 1], filters: [a, a]}", r"one of them is given twice", "once"),
    "rest first": ("{search: [0, 1], filters: [rest, a]}", r"rest stands before others", "last"),
    "filters in a gradient": ("[{search: [0, 1], filters: [a]}]", r"not the whole value", "whole value"),
    "groups in a gradient": ("[{search: [0, 1], groups: 2}]", r"no value of a parameter", "groups: 4"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_with_line_and_fix(name) -> None:
    """Every hole is checked before anything is tried."""
    value, message, fix = MISTAKES[name]
    with pytest.raises(RecipeError, match=message) as caught:
        Space.of(around(value))
    (problem,) = caught.value.problems
    assert problem.line == 5
    assert problem.fix is None if fix is None else fix in problem.fix


TEXTS = {
    "nothing open": (around("1"), r"nothing in the recipe is left open", "{search: [0, 1]}"),
    "a word that is no hole": (around("{serch: [0, 1]}"), r"unknown key 'serch'", None),
    "no YAML": ("a: [", r"not valid YAML", None),
    "key twice": ("a: 1\na: {search: [0, 1]}", r"given twice", None),
    "one name twice": (
        around("{search: [0, 1], name: w}", "  parameters: {weight: {search: [0, 1], name: w}}\n"),
        r"two holes are called 'w', on lines 5 and 7",
        "same: w",
    ),
    "near name": (
        around("{search: [0, 1], name: lam}", "  parameters: {weight: {same: lamb}}\n"),
        r"no hole is called 'lamb'",
        "did you mean lam?",
    ),
    "alias of a list": (
        around("{choice: [0, *g]}").replace("- model: a\n", "- model: a\n").replace("merge", "x: &g [0, 1]\nmerge", 1),
        r"an alias of a list or mapping",
        "write it out",
    ),
    "anchor in a hole": (
        around("{search: &r [0, 1]}", "  parameters: {weight: [*r]}\n"),
        r"alias \*r has no anchor",
        "needs its anchor",
    ),
    "hole in a hole": (
        around("{<<: &h {search: [0, 1]}, start: 0.1}", "  parameters: {weight: *h}\n"),
        r"a hole is written inside another",
        "its alias here",
    ),
    "groups elsewhere": ("merge_method: linear\nmodels: [{model: {search: [0, 1], groups: 2}}]", r"no value of", None),
    "layers elsewhere": (
        "merge_method: {search: layers}\nmodels: [{model: a}]",
        "search is 'layers', not a list",
        None,
    ),
    "another tool's": (
        "genome:\n  models: [a, b]\n  merge_method: linear\n  layer_granularity: 8\ntasks: [{name: arc_easy}]\n",
        r"a configuration of mergekit-evolve",
        "docs/search.md",
    ),
    "clash": (
        around("{search: [0, 1]}", "  parameters: {weight: {search: [0, 1], name: 'models[0].weight#2'}}\n").replace(
            "weight: {search: [0, 1]}", "weight: [{search: [0, 1], name: 'w'}, {search: [0, 1], name: 'w#2'}]", 1
        )
        + "- {model: c, parameters: {weight: {search: [0, 1], name: w}}}\n",
        r"two holes are called 'w'",
        None,
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_recipes_that_are_no_spaces(name) -> None:
    """What is wrong with the whole is told, with a fix."""
    text, message, fix = TEXTS[name]
    with pytest.raises(RecipeError, match=message) as caught:
        Space.of(text)
    assert fix is None or any(p.fix is not None and fix in p.fix for p in caught.value.problems)


def test_errors_of_the_language_come_with_their_lines() -> None:
    """A start that cannot be parsed is an error of the recipe, on the line of the text."""
    with pytest.raises(RecipeError, match="unknown key 'modles'") as caught:
        Space.of("merge_method: linear\nmodles: {search: [0, \n1]}\nmodels: [{model: a}]\ndtype: int9\n")
    assert [p.line for p in caught.value.problems] == [2, 5]


def test_ends_are_tried_before_any_trial() -> None:
    """A range with a value that the method refuses is told, with what was tried; so is each choice."""
    text = (
        around("1")
        .replace("linear", "{choice: [linear, slerp, tees]}")
        .replace("weight: 1", "weight: {search: [0, 1]}")
    )
    with pytest.raises(RecipeError) as caught:
        Space.of(text)
    told = [(p.line, p.message) for p in caught.value.problems]
    assert (1, "unknown method 'tees' (tried: merge_method = tees)") in told
    assert any("tried: merge_method = slerp" in message for _, message in told)
    wide = "merge_method: ties\nbase_model: o\nmodels:\n- {model: a, parameters: {density: {search: [0, 1.5]}}}\n"
    with pytest.raises(RecipeError, match=r"density.* \(tried: models\[0\]\.density = 1\.5\)") as caught:
        Space.of(wide)
    assert {p.line for p in caught.value.problems} == {4}


def test_many_ends_are_tried_together() -> None:
    """However many holes there are, a space is made in a few trials, and still none with a wrong end."""
    models = "\n".join(f"- {{model: m{i}, parameters: {{density: {{search: [0.1, 1]}}}}}}" for i in range(40))
    text = f"merge_method: ties\nbase_model: o\nmodels:\n{models}\n"
    assert len(Space.of(text).dimensions) == 40
    with pytest.raises(RecipeError, match="value 2 of every hole") as caught:
        Space.of(text.replace("[0.1, 1]", "[0.1, 1.5]", 1))
    assert [p.line for p in caught.value.problems] == [4]


def test_a_recipe_is_made_in_milliseconds() -> None:
    """A trial costs a hundredth of a second at most before its models are read; a merge of three."""
    text = RECIPE + "  # and on"
    space = Space.of(
        text.replace(
            "parameters:\n  lambda", "  - {model: org/c, parameters: {weight: {search: [0, 1]}}}\nparameters:\n  lambda"
        )
    )
    seconds = []
    for t in range(20):
        started = time.process_time()
        space.recipe(space.shared(t / 20))
        seconds.append(time.process_time() - started)
    assert min(seconds) < 0.01


def test_a_space_goes_to_other_processes() -> None:
    """Workers get the space itself, not its text; slices of layers too."""
    layered = Space.of(LAYERED)
    for space in (SPACE, layered):
        copy = pickle.loads(pickle.dumps(space))
        assert copy.dimensions == space.dimensions
        assert copy.written(space.start()) == space.written(space.start())


def test_values_are_checked() -> None:
    """Missing, unknown and wrong values are refused by name, all at once."""
    values = SPACE.start() | {"merge_method": "linear", "w": 2, "models[0].densty": 1}
    del values["parameters.lambda[mlp]"]
    with pytest.raises(RecipeError) as caught:
        SPACE.written(values)
    assert [p.message for p in caught.value.problems] == [
        "nothing that is open is called 'models[0].densty'",
        "merge_method = 'linear' is not one of ties, dare_ties",
        "w = 2 is not in [0.0, 1.0]",
        "parameters.lambda[mlp] has no value",
    ]
    assert caught.value.problems[0].fix == "did you mean models[0].density?"
    with pytest.raises(RecipeError, match="w = nan is not a number"):
        SPACE.written(SPACE.start() | {"w": math.nan})


def test_merging_a_recipe_with_holes_is_refused() -> None:
    """Every hole is named with its line, and what to do instead; nothing else is told."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(RECIPE)
    assert [p.line for p in caught.value.problems] == [2, 7, 9, 13, 13, 18, 19]
    assert caught.value.problems[1].message == "search: … is for stockpot search"
    assert "run stockpot search" in caught.value.problems[1].fix
    layered = "merge_method: passthrough\nslices:\n- {sources: [{model: a, layer_range: [0, 2]}], search: layers}\n"
    with pytest.raises(RecipeError, match="search: layers is for stockpot search") as caught:
        parse_recipe(layered)
    assert "leave this key out" in caught.value.problems[0].fix


@pytest.mark.parametrize("verb", [["check"], ["plan"], ["merge", "--dry-run"]], ids=lambda verb: verb[0])
def test_verbs_that_take_recipes_refuse_holes(verb, tmp_path, capsys) -> None:
    """With the line, what takes such recipes, and the exit code of recipes that are wrong."""
    (tmp_path / "r.yml").write_text(around("{search: [0, 1]}"))
    out = [str(tmp_path / "out")] if verb[0] == "merge" else []
    assert main([verb[0], str(tmp_path / "r.yml"), *out, *verb[1:]]) == 3
    told = capsys.readouterr().err
    assert "search: … is for stockpot search" in told
    assert "line 5" in told
    assert "run stockpot search on this recipe" in told


def test_the_schemas_are_printed(capsys) -> None:
    """``stockpot schema`` that of recipes, with ``--search`` that of recipes with holes."""
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()
    assert main(["schema", "--search"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema(search=True)


def test_names_of_the_user_are_no_holes() -> None:
    """A module or token may be called search, choice or same."""
    text = "merge_method: linear\nmodules: {search: {models: [{model: a}, {model: b}]}}\n"
    assert parse_recipe(text)


@given(st.floats(0, 1), st.sampled_from(["float", "int", "choice"]), st.booleans(), st.booleans())
def test_places_of_a_range(place, kind, log, step) -> None:
    """Any place has a value that the dimension can have; the place of that value gives it again."""
    like = Dimension("x", 1, kind, 1.0, 21.0, log and not step, 4.0 if step else None, ("a", True, 3), 1.0)
    value = like.at(place)
    assert like.wrong(value) is None
    again = like.at(like.place(value))
    assert again == pytest.approx(value) if kind != "choice" else again is value


SEARCHED = jsonschema.Draft202012Validator(json_schema(search=True))
LAYERED = "merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [0, 2]}], search: layers}]\n"


def test_the_schema_of_searches_is_a_schema() -> None:
    """Draft 2020-12; the plain one knows no holes."""
    jsonschema.Draft202012Validator.check_schema(json_schema(search=True))
    plain = jsonschema.Draft202012Validator(json_schema())
    for text in (RECIPE, LAYERED):
        SEARCHED.validate(yaml.safe_load(text))
        assert not plain.is_valid(yaml.safe_load(text))
    SEARCHED.validate(yaml.safe_load(SPACE.written(SPACE.start())))


@pytest.mark.parametrize("name", ["one end", "no list", "words", "unknown key", "key of ranges", "nothing to choose"])
def test_the_schema_refuses_malformed_holes(name) -> None:
    """What the shape alone gives away is shown by editors."""
    assert not SEARCHED.is_valid(yaml.safe_load(around(MISTAKES[name][0])))
