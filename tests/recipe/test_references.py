"""Every way of writing a model."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stockpot.recipe.parse import parse_recipe

Tree = Callable[..., str]


@pytest.mark.parametrize(
    ("written", "reference"),
    [
        ("org/model", "org/model"),
        ("org/model@v1.0", "org/model@v1.0"),
        ("{path: org/model, revision: v1.0}", "org/model@v1.0"),
        ("{model: org/model}", "org/model"),
        ("{model: org/model@v1.0}", "org/model@v1.0"),
        ("{model: {path: org/model, revision: v1.0}}", "org/model@v1.0"),
        ("{model: {path: a+b}}", "a+b"),
        ("{path: c++}", "c++"),
        ("{model: a, override_architecture: X}", "a"),
        ("'@odd'", "@odd"),
        ("E:\\models\\a", "E:\\models\\a"),
        ("'D:/my models/a'", "D:/my models/a"),
        ("0.5", "0.5"),
        ("1e5", "1e5"),
        ("2024-01-01", "2024-01-01"),
        ("on", "on"),
        ("007", "007"),
        ("$HOME/model", "$HOME/model"),
        ("ollama:name:latest", "ollama:name:latest"),
    ],
)
@pytest.mark.parametrize("place", ["models: [{model: %s}]", "models: [{model: z}]\nbase_model: %s"])
def test_references(written: str, reference: str, place: str) -> None:
    """Strings, objects, revisions, Windows paths, names that YAML takes for something else."""
    text = "merge_method: linear\n" + place.replace("[{model: %s}]", "\n  - model: %s") % written
    donor = parse_recipe(text).donor
    assert donor is not None
    assert donor.reference == reference


def test_revision_beside_the_model(tree: Tree) -> None:
    """A ``revision:`` in an entry counts, which mergekit ignores."""
    text = "merge_method: linear\nmodels: [{model: a, revision: r1}, {model: a, revision: r2}]"
    assert tree(text) == "linear(a@r1; a@r2){}"


def test_revisions_tell_models_apart(tree: Tree) -> None:
    """Two revisions of one repository are two models."""
    text = "merge_method: ties\nbase_model: a@r1\nmodels: [{model: a@r1}, {model: a@r2}]"
    assert tree(text) == "1*a@r1 1*ties(1*a@r2 -1*a@r1){}"
