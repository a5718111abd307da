"""Every value of a recipe may be left open: what is put back in its place is the recipe, character by character."""

from __future__ import annotations

import pytest
from recipe_cases import TEXTS

from corpus_index import FOLDER, ROWS, needs_corpus
from stockpot.errors import RecipeError
from stockpot.recipe.parse import parse_recipe
from stockpot.recipe.yaml_nodes import Mapping, Node, Scalar, Sequence, compose
from stockpot.search.spaces.space import Space

FOLDING = set(",[]{}\n&*")


def scalars(node: Node) -> list[Scalar]:
    """Every value in ``node``; those of mappings whose keys make them no holes are among them."""
    if isinstance(node, Scalar):
        return [node]
    inner = node.items if isinstance(node, Sequence) else [entry.value for entry in node.entries]
    return [scalar for one in inner for scalar in scalars(one)]


def all_open(text: str) -> str:
    """``text`` with each value that stands on one line, and means the same in brackets, as a choice of itself."""
    documents, _ = compose(text)
    spans = {s.span for document in documents if isinstance(document, Mapping) for s in scalars(document) if s.text}
    for start, end in sorted(spans, reverse=True):
        value = text[start:end]
        if not FOLDING & set(value) and ": " not in value and " #" not in value:
            text = f"{text[:start]}{{choice: [{value}]}}{text[end:]}"
    return text


def put_back(text: str, folder: str | None = None) -> tuple[str, int]:
    """The recipe with every value open and put back, and how many there were."""
    space = Space.of(all_open(text), folder=folder)
    return space.written(space.start()), len(space.dimensions)


@pytest.mark.parametrize("name", TEXTS)
def test_values_put_back_are_the_text(name: str) -> None:
    """Gradients, filters, slices, modules, documents, nested merges, tokenizers: nothing but the holes changes."""
    written, count = put_back(TEXTS[name])
    assert written == TEXTS[name]
    assert count > 1
    with pytest.raises(RecipeError, match="is for stockpot search"):
        parse_recipe(all_open(TEXTS[name]))


@needs_corpus
def test_values_of_real_recipes_put_back_are_the_text() -> None:
    """The same for every recipe of others that is a merge."""
    done = 0
    for row in ROWS:
        if row.expected[0] is None:
            text = (FOLDER / row.file).read_text("utf-8")
            assert put_back(text, str(FOLDER))[0] == text, row.file
            done += 1
    assert done > 50
