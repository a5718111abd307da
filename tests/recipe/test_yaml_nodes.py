"""YAML text becomes nodes with lines, or a RecipeError; never anything else."""

from __future__ import annotations

import pytest

from stockpot.errors import RecipeError
from stockpot.recipe.scalars import flag_of, integer_of, number_of, plain
from stockpot.recipe.yaml_nodes import MAX_CHARACTERS, Mapping, Scalar, Sequence, compose


def one(text: str) -> Mapping:
    """The only document of ``text``, a mapping without problems."""
    (document,), problems = compose(text)
    assert not problems
    assert isinstance(document, Mapping)
    return document


def test_every_node_knows_its_line() -> None:
    """Lines are counted from 1, for keys and for values."""
    node = one("a: 1\nb:\n  - x\n  - y\n")
    entry = node.entries[1]
    assert entry.line == 2
    assert isinstance(entry.value, Sequence)
    assert [item.line for item in entry.value.items] == [3, 4]


def test_documents_are_kept_apart() -> None:
    """Lines go on over documents; anchors do not."""
    documents, _ = compose("a: &x 1\n---\nb: 2\n")
    assert [d.line for d in documents] == [1, 3]
    with pytest.raises(RecipeError, match="alias"):
        compose("a: &x 1\n---\nb: *x\n")


def test_duplicate_keys_name_both_lines() -> None:
    """A key that is given twice is a problem, which a plain YAML loader hides."""
    _, problems = compose("a: 1\nb: 2\na: 3\n")
    assert [(p.message, p.line) for p in problems] == [("key 'a' is given twice, on lines 1 and 3", 3)]


def test_duplicate_tokens_of_a_nested_mapping() -> None:
    """Duplicates are found at any depth."""
    _, problems = compose("t:\n  <|pad|>: {force: true}\n  <|pad|>:\n    source: A\n")
    assert problems[0].line == 3


@pytest.mark.parametrize("word", ["0.5", "1e5", "010", "2024-01-01", "on", "1:30", "0x1F", "true", "~x"])
def test_scalars_keep_their_text(word: str) -> None:
    """Model names that look like numbers, dates or booleans stay as written."""
    value = one(f"model: {word}").entries[0].value
    assert isinstance(value, Scalar)
    assert value.text == word


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1e-5", 1e-5),
        ("1.0e-5", 1e-5),
        ("'0.5'", 0.5),
        (".5", 0.5),
        ("1_000", 1000.0),
        ("0x10", 16.0),
        ("010", 8.0),
        ("-3", -3.0),
        ("1:30", None),
        ("abc", None),
        ("true", None),
        ("~", None),
        ("9" * 5000, float("inf")),
        ("1" + "0" * 400, float("inf")),
        (".inf", float("inf")),
        ("!!int abc", None),
    ],
)
def test_numbers(text: str, number: float | None) -> None:
    """Numbers are what YAML 1.1 and mergekit take them for, 1e-5 too; times are not."""
    assert number_of(one(f"x: {text}").entries[0].value) == number


def test_whole_numbers_are_exact() -> None:
    """A 64-bit seed is not rounded through a float."""
    assert integer_of(one("x: 18446744073709551615").entries[0].value) == 2**64 - 1
    assert integer_of(one("x: 2.5").entries[0].value) is None


@pytest.mark.parametrize(
    ("text", "flag"),
    [("yes", True), ("on", True), ("False", False), ("off", False), ("1", None), ("'yes'", None)],
)
def test_truth_values(text: str, flag: bool | None) -> None:
    """All of YAML 1.1's spellings."""
    assert flag_of(one(f"x: {text}").entries[0].value) is flag


def test_merge_keys_and_aliases() -> None:
    """``<<`` fills in keys that are not given; explicit ones win."""
    node = one("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [{x: 5}, *a]}\n")
    assert plain(node) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 5, "y": 2}}


def test_merge_key_needs_a_mapping() -> None:
    """``<<`` of a word is a problem with its line."""
    _, problems = compose("a: 1\n<<: b\n")
    assert problems[0].line == 2


BILLION = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 10)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BILLION, "nodes"),
        ("a: &a [*a]", "inside what it refers to"),
        ("[" * 100_000, "levels deep"),
        ("{a: " * 5_000, "levels deep"),
        ("- " * 5_000 + "x", "levels deep"),
        ("x" * (MAX_CHARACTERS + 1), "characters"),
        ("a: \x00", r"U\+0000"),
        ("a: \ud800", r"U\+D800"),
        ("a: *nowhere", "alias"),
        ("? [1, 2]\n: x", "a key is a list or mapping"),
        ("a: {{x}}", "a key is a list or mapping"),
        ("a: [1", "not valid YAML"),
        ("a: 'x", "not valid YAML"),
        ("\ta: 1", "not valid YAML"),
        ("%TAG", "not valid YAML"),
        ("a: @x", "not valid YAML"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else None,
)
def test_unreadable_text_is_a_recipe_error(text: str, message: str) -> None:
    """Bombs, bottomless nesting, binary files and broken YAML are errors, quickly."""
    with pytest.raises(RecipeError, match=message):
        compose(text)


@pytest.mark.parametrize("tag", ["!!python/object:os.system", "!custom", "!!binary", "!!set", "!!omap"])
def test_tags_are_refused(tag: str) -> None:
    """Nothing is constructed; a tag that means nothing here is a problem."""
    _, problems = compose(f"a: {tag} {{}}")
    assert "tag" in problems[0].message


def test_common_mistakes_get_a_fix() -> None:
    """Windows paths in double quotes, tabs and a list without a key say what to do."""
    for text, fix in (
        ('model: "D:\\Uni\\x"', "single quotes"),
        ("a:\n\t- b", "spaces"),
        ("base: b\n  - model: c\n", "indentation"),
    ):
        with pytest.raises(RecipeError) as caught:
            compose(text)
        assert fix in (caught.value.problems[0].fix or ""), text
