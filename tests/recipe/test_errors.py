"""Errors name the line and the fix, and all of them come at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stockpot.errors import Problem, RecipeError, UnsupportedError
from stockpot.recipe.known import MERGEKIT, PENDING
from stockpot.recipe.parse import load_recipe, parse_recipe

Problems = Callable[..., tuple[Problem, ...]]

LINEAR = "merge_method: linear\nmodels: [{model: a}, {model: b}]\n"
TIES = "merge_method: ties\nbase_model: B\nmodels: [{model: a}, {model: b}]\n"

CASES = {
    "empty": ("", "empty", None, "merge_method"),
    "a list": ("- a\n", "a recipe is a mapping", 1, "merge_method"),
    "misspelled key": (
        "merge_methiod: linear\nmodels: [{model: a}]",
        "unknown key 'merge_methiod'",
        1,
        "did you mean merge_method?",
    ),
    "parameter at the wrong indent": (
        "merge_method: linear\nmodels:\n  - model: a\n    weight: 1",
        "unknown key 'weight' in an entry of models",
        4,
        "parameters: {weight: …}",
    ),
    "parameter at the top": (TIES + "density: 0.5", "unknown key 'density'", 4, "parameters"),
    "misspelled parameter at the wrong indent": (
        TIES + "desnity: 0.5",
        "unknown key 'desnity'",
        4,
        "parameters: {density: …}",
    ),
    "key of another place": (
        "merge_method: linear\nmodels: [{model: a, layer_range: [0, 1]}]",
        "unknown key 'layer_range'",
        2,
        "belongs in a source of a slice",
    ),
    "fork's key": (LINEAR + "align_weights: zipit", "unknown key", 3, "a recipe takes: merge_method"),
    "pattern for filter": (
        "merge_method: slerp\nbase_model: a\nmodels: [{model: b}]\n"
        "parameters:\n  t:\n    - pattern: mlp\n      value: 1\n    - value: 0",
        "unknown key 'pattern'",
        6,
        "did you mean filter?",
    ),
    "name for model": (
        "merge_method: linear\nmodels: [{name: a}]",
        "unknown key 'name'",
        2,
        "did you mean model?",
    ),
    "misspelled parameter": (
        TIES + "parameters:\n  nomalize: true",
        "unknown parameter 'nomalize' of ties",
        5,
        "did you mean normalize?",
    ),
    "unknown parameter": (
        TIES + "parameters: {qqq: 1}",
        "unknown parameter 'qqq' of ties",
        4,
        "ties takes: weight, density",
    ),
    "unknown method": (LINEAR.replace("linear", "sleep"), "unknown method", 1, "did you mean slerp?"),
    "method is a list": (LINEAR.replace("linear", "[a]"), "is a list", 1, None),
    "no method": ("models: [{model: a}]", "a recipe needs merge_method", 1, "linear"),
    "empty method": ("merge_method:\nmodels: [{model: a}]", "merge_method is empty", 1, "linear"),
    "nothing to merge": ("merge_method: linear", "nothing to merge", 1, "models:"),
    "models and slices": (
        LINEAR + "slices: [{sources: [{model: a}]}]",
        "models and slices are given",
        3,
        "keep one",
    ),
    "models is a mapping": (
        "merge_method: linear\nmodels: {model: a}",
        "models is a mapping",
        2,
        "after a dash",
    ),
    "an entry is a word": ("merge_method: linear\nmodels: [a]", "is 'a', not a mapping", 2, "model"),
    "no models": ("merge_method: linear\nmodels: []", "empty list", 2, "at least 1"),
    "no model": ("merge_method: linear\nmodels: [{parameters: {}}]", "needs model", 2, "path"),
    "empty model": ("merge_method: linear\nmodels: [{model: }]", "model is empty", 2, "path"),
    "blank model": ("merge_method: linear\nmodels: [{model: ' '}]", "model is empty", 2, "path"),
    "model is a list": ("merge_method: linear\nmodels: [{model: [a, b]}]", "a list", 2, "one entry"),
    "placeholder": ("merge_method: linear\nmodels: [{model: {A}}]", "{A} is a placeholder", 2, "hub id"),
    "no base": ("merge_method: ties\nmodels: [{model: a}]", "needs a base", 1, "base_model"),
    "no base for slerp": (
        LINEAR.replace("linear", "slerp") + "parameters: {t: 1}",
        "needs base_model",
        1,
        "base_model: a or b",
    ),
    "base is a third model": (
        LINEAR.replace("linear", "slerp") + "parameters: {t: 1}\nbase_model: c",
        "base_model c is neither of the two",
        4,
        "base_model: a or b",
    ),
    "three models for slerp": (
        "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}, {model: c}]\n"
        "parameters: {t: 1}",
        "slerp takes exactly 2 models, not 3",
        1,
        None,
    ),
    "only the base": (
        "merge_method: ties\nbase_model: a\nmodels: [{model: a}]",
        "ties takes at least 1 models beside the base, not 0",
        1,
        None,
    ),
    "required parameter": (
        "merge_method: slerp\nbase_model: a\nmodels: [{model: b}]",
        "slerp needs t",
        1,
        "0 is the base",
    ),
    "out of range": (TIES + "parameters:\n  density: 1.5", "density = 1.5 is outside [0, 1]", 5, "share"),
    "out of range in a gradient": (
        TIES + "parameters:\n  density: [0, 20]",
        "density = 20 is outside",
        5,
        "share",
    ),
    "not a number": (TIES + "parameters:\n  weight: heavy", "weight is 'heavy'", 5, "gradient"),
    "a time": (TIES + "parameters:\n  weight: 1:30", "weight is '1:30'", 5, "gradient"),
    "empty value": (TIES + "parameters:\n  weight:", "weight is empty", 5, "gradient"),
    "infinite": (TIES + "parameters:\n  weight: .inf", "weight is '.inf'", 5, "gradient"),
    "infinite lambda": (TIES + "parameters:\n  lambda: 1e999", "lambda is '1e999'", 5, "gradient"),
    "a huge number": (TIES + f"parameters:\n  weight: 1{'0' * 400}", "weight is", 5, "gradient"),
    "empty gradient": (TIES + "parameters:\n  weight: []", "weight is a list", 5, "gradient"),
    "mixed list": (TIES + "parameters:\n  weight: [1, {value: 2}]", "a mapping", 5, "gradient"),
    "case without value": (TIES + "parameters:\n  weight: [{filter: a}]", "needs value", 5, "gradient"),
    "parameters is a list": (TIES + "parameters: [1]", "parameters is a list", 4, "name: value"),
    "given twice": (
        "merge_method: linear\nmodels:\n  - model: a\n  - model: b\n  - model: a/",
        "a/ is given twice in one merge (first on line 3)",
        5,
        "sum of the weights",
    ),
    "base given twice": (
        "merge_method: ties\nbase_model: B\nmodels: [{model: B}, {model: B}, {model: a}]",
        "B is given twice",
        3,
        "one entry",
    ),
    "lengths of a slice": (
        "merge_method: linear\nslices:\n  - sources:\n"
        "      - {model: a, layer_range: [0, 8]}\n      - {model: b, layer_range: [0, 9]}",
        "8 and 9 layers",
        5,
        "same number",
    ),
    "a slice without its base": (
        "merge_method: ties\nbase_model: B\nslices:\n  - sources: [{model: a, layer_range: [0, 8]}]",
        "the base is not among the sources",
        4,
        "{model: B, layer_range: […]}",
    ),
    "empty range": (
        "merge_method: linear\nslices: [{sources: [{model: a, layer_range: [8, 8]}]}]",
        "layer_range [8, 8] has no layers",
        2,
        "[first, last + 1]",
    ),
    "negative range": (
        "merge_method: linear\nslices: [{sources: [{model: a, layer_range: [-4, 8]}]}]",
        "has no layers",
        2,
        "[first, last + 1]",
    ),
    "three bounds": (
        "merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 8, 2]}]}]",
        "layer_range is [0, 8, 2]",
        2,
        "[first, last + 1]",
    ),
    "fractions of layers": (
        "merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 1.5]}]}]",
        "not two whole numbers",
        2,
        "[first, last + 1]",
    ),
    "a slice without sources": ("merge_method: linear\nslices: [{}]", "needs sources", 2, "layers"),
    "dtype": (LINEAR + "dtype: bf61", "dtype is 'bf61'", 3, "bfloat16"),
    "integer dtype": (LINEAR + "out_dtype: int64", "out_dtype is 'int64'", 3, "bfloat16"),
    "variant": (TIES + "variant: papre", "no variant 'papre'", 1, "unweighted"),
    "compat": (TIES + "compat: yes", "compat is 'yes'", 4, None),
    "seed": (TIES + "seed: -1", "seed is '-1'", 4, None),
    "large seed": (TIES + "seed: 18446744073709551616", "not a whole number", 4, None),
    "two seeds": (
        "name: x\nseed: 1\n" + LINEAR + "---\nseed: 2\n" + LINEAR.replace("a}", "x}"),
        "seed 2 here, but 1 on line 1",
        6,
        "one seed",
    ),
    "name belongs to documents": (
        "merge_method: linear\nmodels: [{model: {name: a, merge_method: linear, models: [{model: b}]}}]",
        "unknown key 'name' in a nested merge",
        2,
        None,
    ),
    "two unnamed documents": (LINEAR + "---\n" + LINEAR, "second document without a name", 4, "name"),
    "two documents of one name": (
        "name: x\n" + LINEAR + "---\nname: x\n" + LINEAR,
        "two documents are named 'x'",
        5,
        "own",
    ),
    "a circle": (
        "name: x\nmerge_method: linear\nmodels: [{model: y}]\n---\n"
        "name: y\nmerge_method: linear\nmodels: [{model: x}]",
        "in a circle: x → y → x",
        1,
        None,
    ),
    "two pluses": ("merge_method: linear\nmodels: [{model: a+b+c}]", "more than one +", 2, "path"),
    "tokenizer twice": (
        LINEAR + "tokenizer_source: base\ntokenizer: {source: base}",
        "tokenizer and tokenizer_source are both given",
        3,
        "keep one",
    ),
    "tokenizer is a word": (LINEAR + "tokenizer: a", "not a mapping", 3, "source"),
    "chat template": (LINEAR + "chat_template: llama", "unknown chat template", 3, "llama3"),
    "kind of token": (
        LINEAR + "tokenizer: {source: base, tokens: {x: {source: {kind: none}}}}",
        "kind is 'none', not one of model_token, zero",
        3,
        None,
    ),
    "prompts are a word": (
        "base_model: a\nexperts:\n  - source_model: b\n    positive_prompts: chat",
        "positive_prompts is 'chat', not a list of texts",
        4,
        "dash",
    ),
    "gate mode": (
        "base_model: a\ngate_mode: hiden\nexperts: [{source_model: b}]",
        "gate_mode is 'hiden'",
        2,
        None,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_error_says_what_where_and_how_to_mend_it(name: str, problems: Problems) -> None:
    """The message, the line and the fix of every mistake that can be made in one place."""
    text, message, line, fix = CASES[name]
    found = [p for p in problems(text) if message in p.message]
    assert found, [str(p) for p in problems(text)]
    assert found[0].line == line
    if fix is not None:
        assert fix in (found[0].fix or "")


@pytest.mark.parametrize("name", CASES)
def test_one_mistake_is_one_problem(name: str, problems: Problems) -> None:
    """A mistake is not reported again by what builds on it."""
    text, message, *_ = CASES[name]
    others = [p for p in problems(text) if message not in p.message and "not yet" not in p.message]
    assert not others, [str(p) for p in others]


def test_all_problems_come_at_once_in_order(problems: Problems) -> None:
    """Syntax of keys, methods, parameters, models: one run shows everything, by line."""
    text = (
        "merge_method: ties\n"
        "models:\n"
        "  - model: a\n"
        "    weight: 1\n"
        "  - model: a\n"
        "    parameters: {density: 3}\n"
        "parameters:\n"
        "  nomalize: true\n"
        "dtype: bf61\n"
        "tokenizer_source: union\n"
    )
    assert [p.line for p in problems(text)] == [1, 4, 5, 6, 8, 9, 10]


def test_a_broken_nested_merge_does_not_hide_other_problems(problems: Problems) -> None:
    """Documents and nested merges are all looked at."""
    text = (
        "merge_method: linear\n"
        "models:\n"
        "  - model: {merge_method: ties, models: [{model: a}]}\n"
        "  - model: {merge_method: slerp, base_model: a, models: [{model: b}]}\n"
        "---\n"
        "name: x\n"
        "merge_method: lienar\n"
        "models: [{model: a}]\n"
    )
    assert [p.line for p in problems(text)] == [3, 4, 7]


def test_the_same_problem_in_each_slice_is_told_once(problems: Problems) -> None:
    """A missing parameter is missing once, not once for each slice."""
    slices = "".join(
        f"  - sources: [{{model: a, layer_range: [{i}, {i + 1}]}}, {{model: b, layer_range: [0, 1]}}]\n"
        for i in range(5)
    )
    found = problems("merge_method: slerp\nbase_model: a\nslices:\n" + slices)
    assert [p.message for p in found] == ["slerp needs t in its parameters"]


def test_lenient_reading_turns_unknown_keys_into_notes() -> None:
    """As mergekit ignores them; everything else stays an error."""
    text = TIES + "desnity: 1\nparameters: {nomalize: true}\n"
    recipe = parse_recipe(text, lenient=True)
    assert [n.line for n in recipe.notes] == [4, 5]
    with pytest.raises(RecipeError, match="needs a base"):
        parse_recipe("merge_method: ties\nmodels: [{model: a}]", lenient=True)


def test_lenient_slerp_with_a_third_base() -> None:
    """What mergekit did until January 2024: it started from the second model."""
    text = CASES["base is a third model"][0]
    recipe = parse_recipe(text, lenient=True)
    assert [leaf.reference for leaf in recipe.expression.children] == ["b", "a"]  # type: ignore[attr-defined]
    assert "neither" in recipe.notes[0].message


def test_idle_parameters_are_notes() -> None:
    """Parameters of other methods stand in many recipes; each is told once, with its first line."""
    text = (
        "merge_method: slerp\nbase_model: a\n"
        "models:\n"
        "  - {model: a, parameters: {weight: 1}}\n"
        "  - {model: b, parameters: {weight: 1, density: 0.5}}\n"
        "parameters: {t: 0.5, int8_mask: true, lambda: 1, epsilon: 0.1}\n"
    )
    notes = parse_recipe(text).notes
    assert [(n.message, n.line) for n in notes] == [
        ("slerp does not use weight; it changes nothing", 4),
        ("slerp does not use density; it changes nothing", 5),
        ("slerp does not use int8_mask; it changes nothing", 6),
        ("slerp does not use lambda; it changes nothing", 6),
        ("slerp does not use epsilon; it changes nothing", 6),
    ]


def test_parameters_of_the_whole_merge_under_one_model_are_noted() -> None:
    """mergekit ignores them there, and so do we, but aloud."""
    text = TIES.replace("{model: a}", "{model: a, parameters: {normalize: false}}")
    recipe = parse_recipe(text)
    assert "belongs to the whole merge" in recipe.notes[0].message
    assert "normalize" not in recipe.expression.children[1].one  # type: ignore[attr-defined]


def test_parameters_of_the_base_are_noted() -> None:
    """The base is subtracted; its weight means nothing."""
    notes = parse_recipe(TIES.replace("{model: a}", "{model: B, parameters: {weight: 1}}, {model: a}")).notes
    assert [n.message for n in notes] == ["B is the base: its own weight changes nothing"]


@pytest.mark.parametrize("name", sorted(PENDING))
def test_methods_still_to_come_are_named(name: str) -> None:
    """mergekit's methods that are missing are understood, and their keys are checked."""
    text = f"merge_method: {name}\nbase_model: B\nmodels: [{{model: a}}]\n"
    with pytest.raises(UnsupportedError, match=f"method {name} is not yet supported"):
        parse_recipe(text)
    for parameter in PENDING[name].parameters:
        with pytest.raises(UnsupportedError):
            parse_recipe(text + f"parameters: {{{parameter}: 1}}")
    with pytest.raises(RecipeError, match="unknown parameter 'qqq'"):
        parse_recipe(text + "parameters: {qqq: 1}")


def test_the_table_of_methods_still_to_come_empties_itself() -> None:
    """A method of the registry is never called missing."""
    from stockpot.methods.registry import METHODS

    assert not PENDING.keys() & METHODS.keys()
    assert MERGEKIT.keys() == PENDING.keys() | (MERGEKIT.keys() & METHODS.keys())


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("merge_method: linear\nmodels: [{model: a+b}]", r"LoRA adapters are not yet supported: a\+b"),
        ("merge_method: linear\nmodels: [{model: a, lora: b}]", "LoRA adapters"),
        ("merge_method: linear\nmodels: [{model: {model: {path: a}, lora: b@c}}]", r"a\+b@c"),
        (
            "merge_method: linear\nmodules:\n  text: {models: [{model: a}]}\n  vision: {models: [{model: a}]}",
            "several modules are not yet supported: text, vision",
        ),
        ("base_model: a\nexperts: [{source_model: b}]", "mixtures of experts"),
    ],
)
def test_missing_features_are_named(text: str, name: str) -> None:
    """Understood, but not available: an error of its own kind."""
    with pytest.raises(UnsupportedError, match=name):
        parse_recipe(text)


def test_mistakes_are_told_before_missing_features(problems: Problems) -> None:
    """With both, it is a RecipeError that names both."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe("merge_method: linear\nmodels: [{model: a+b}]\ndtype: bf61")
    assert len(caught.value.problems) == 2


def test_files_are_named(tmp_path: Path) -> None:
    """Errors of a file name it; an unreadable one is an error too."""
    path = tmp_path / "recipe.yml"
    for content, message in ((b"\xff\xfe\x00", "UTF-8"), (b"merge_method: x", "unknown method")):
        path.write_bytes(content)
        with pytest.raises(RecipeError, match=message) as caught:
            load_recipe(path)
        assert {p.file for p in caught.value.problems} == {str(path)}
    with pytest.raises(RecipeError, match="cannot read"):
        load_recipe(tmp_path / "missing.yml")
    with pytest.raises(RecipeError, match="cannot read"):
        load_recipe(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + LINEAR.encode())
    recipe = load_recipe(path)
    assert recipe.text == LINEAR
    assert recipe.donor is not None
    assert recipe.donor.folder == str(tmp_path)
