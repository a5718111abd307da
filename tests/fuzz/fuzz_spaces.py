"""Damaged recipes with open values."""

from __future__ import annotations

import fuzz_damage as damage
from fuzz_recipes import tokens

from stockpot.errors import RecipeError
from stockpot.recipe.yaml_nodes import line_breaks
from stockpot.search.spaces.space import load_space

_SEEDS = (
    "merge_method: {choice: [ties, dare_ties]}  # how\nbase_model: o\nmodels:\n- model: a\n  parameters:\n"
    "    weight: {search: [0, 1], name: w}\n    density:\n      search: [0.1, 1]  # share\n      log: true\n"
    "- {model: b, parameters: {weight: {same: w}, density: [{search: [0.1,\n    1]}, 0.5]}}\n"
    "parameters:\n  lambda:\n  - {filter: mlp, value: {search: [0, 2], step: 0.5}}\n  - value: 1\n",
    "merge_method: passthrough\nslices:  # two\n  - sources:\n    - model: a\n      layer_range: [0, 4]\n"
    "    search: layers\n  - {search: layers, sources: [{model: b, layer_range: [2, 6]}]}\n# end\ndtype: bfloat16\n",
    "{merge_method: linear, models: [{model: {choice: ['0.5', {path: c+d}]}}, {model: b, parameters: {weight: "
    "{search: [0, 1], filters: [q, rest]}}}], seed: {search: [0, 9], int: true}}\n",
    "name: x\nmerge_method: linear\nmodels: [{model: a, parameters: &p {weight: &w {search: [0, 1]}}}, {model: b}]\n"
    "---\nmerge_method: slerp\nbase_model: x\nmodels: [{model: x}, {model: c}]\nparameters: {t: {search: [0, 1]}}\n",
)
_WORDS = (
    *("search", "choice", "same", "log", "step", "int", "start", "name", "filters", "layers", "rest", "search: layers"),
    *("{search: [0, 1]}", "{search: [1e-5, .5], log: true}", "{choice: [a, 'b, c', [0, 1]]}", "{same: w}", "*w", "*p"),
    *("&w ", "<<: *w", "{search: &r [0, 1]}", "{search: *r}", "search:\n  - 0\n  - 1", "[search: [0, 1]]"),
)


def make(chance):
    """A recipe with holes, with damaged lines and words; never with groups, which would open models."""
    text, other = chance.choice(_SEEDS), chance.choice(_SEEDS)
    words = (*_WORDS, *_WORDS, *tokens())
    text = damage.of_lines(chance, text, other, words, chance.choice((0, 1, 1, 1, 2, 3, 6)))
    data = text.encode("utf-8", "surrogatepass")
    return damage.of_bytes(chance, data) if chance.random() < 0.15 else data


def read(path):
    """Make the space; at any place of it lines keep their numbers and what comes out is a recipe, or refused."""
    space = load_space(path)
    for values in (space.start(), space.shared(0.3), {d.name: d.at(0.7) for d in space.dimensions}):
        assert all(d.wrong(values[d.name]) is None for d in space.dimensions)
        try:
            assert line_breaks(space.recipe(values).text) == line_breaks(space.text)
        except RecipeError:
            if values == space.start():
                raise AssertionError("a space whose start is no recipe") from None
