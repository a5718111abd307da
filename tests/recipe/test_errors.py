"""Errors name the line and the fix, and all of them come at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from recipe_cases import CASES, LINEAR, TIES

from stockpot.errors import Problem, RecipeError, UnsupportedError
from stockpot.recipe.parse import load_recipe, parse_recipe

Problems = Callable[..., tuple[Problem, ...]]


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
    others = [
        p
        for p in problems(text)
        if message not in p.message and not any(word in p.message for word in ("not yet", "no merges"))
    ]
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
        "chat_template: llama\n"
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
    """Under one model they change nothing, as in mergekit, but aloud."""
    text = TIES.replace("{model: a}", "{model: a, parameters: {normalize: false}}")
    recipe = parse_recipe(text)
    assert "belongs to the whole merge" in recipe.notes[0].message
    assert "normalize" not in recipe.expression.children[1].one  # type: ignore[attr-defined]


def test_parameters_of_a_method_of_one_model_count_under_it() -> None:
    """``scale`` of passthrough is written at the model, and is no note."""
    recipe = parse_recipe("merge_method: passthrough\nmodels: [{model: a, parameters: {scale: 2}}]")
    assert recipe.notes == ()
    assert "scale" in recipe.expression.one  # type: ignore[attr-defined]


def test_parameters_of_the_base_are_noted() -> None:
    """The base is subtracted; its weight means nothing."""
    notes = parse_recipe(TIES.replace("{model: a}", "{model: B, parameters: {weight: 1}}, {model: a}")).notes
    assert [n.message for n in notes] == ["B is the base: its own weight changes nothing"]


MERGEKIT = """
breadcrumbs: weight density gamma normalize rescale lambda int8_mask
breadcrumbs_ties: weight density gamma normalize rescale lambda int8_mask
della: weight density epsilon normalize rescale lambda int8_mask
della_linear: weight density epsilon normalize rescale lambda int8_mask
karcher: max_iter tol
multislerp: weight normalize_weights eps
nearswap: t
arcee_fusion:
ram: epsilon
ramplus_tl: epsilon r alpha
sce: select_topk int8_mask
"""


@pytest.mark.parametrize("line", MERGEKIT.strip().splitlines())
def test_methods_of_mergekit_with_its_parameters(line: str) -> None:
    """Each is here under mergekit's names, and none of its parameters is unknown or idle."""
    name, _, parameters = line.partition(":")
    values = ", ".join(f"{p}: {1 if p == 'max_iter' else 0.1}" for p in parameters.split())
    base = "" if name in ("karcher", "multislerp") else "base_model: B\n"
    text = f"merge_method: {name}\n{base}models: [{{model: a}}]\nparameters: {{{values}}}\n"
    if "normalize" in values:
        text = text.replace("normalize: 0.1", "normalize: true").replace("rescale: 0.1", "rescale: false")
    assert parse_recipe(text).notes == ()


@pytest.mark.parametrize(
    ("text", "name"),
    [("base_model: a\nexperts: [{source_model: b}]", "mixtures of experts")],
)
def test_missing_features_are_named(text: str, name: str) -> None:
    """Understood, but not available: an error of its own kind."""
    with pytest.raises(UnsupportedError, match=name):
        parse_recipe(text)


def test_mistakes_are_told_before_missing_features(problems: Problems) -> None:
    """With both, it is a RecipeError that names both."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(
            "merge_method: linear\ndtype: bf61\nmodels: [{model: a}]\n---\nbase_model: a\nexperts: [{source_model: b}]"
        )
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
