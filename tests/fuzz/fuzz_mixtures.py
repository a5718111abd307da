"""Damaged recipes of mixtures of experts."""

from __future__ import annotations

import json

import fuzz_damage as damage
from fuzz_recipes import tokens

from stockpot.recipe.keys import GATE_MODES
from stockpot.recipe.mixture import load_mixture

_SEEDS = (
    "base_model: a\ngate_mode: hidden\ndtype: bfloat16\nexperts_per_token: 2\nexperts:\n"
    "  - source_model: b\n    positive_prompts:\n      - x\n      - 'y: z'\n    negative_prompts: [n]\n"
    "  - source_model: c+d\n    positive_prompts: [x]\n    noise_scale: 0.1\n    residual_scale: 0.5\n",
    "base_model: a\ngate_mode: random\nseed: 7\nexperts: [{source_model: b}, {source_model: c@main}]\n",
    "base_model: a\narchitecture: qwen2_moe\ngate_mode: cheap_embed\nexperts:\n"
    "  - {source_model: b, positive_prompts: [x]}\n  - {source_model: c, positive_prompts: [y]}\n"
    "shared_experts:\n  - {source_model: d, positive_prompts: [z], residual_scale: 0.1}\n",
    "base_model: a\npooling: mean\nstates: best\nexperts:\n"
    "  - {source_model: {merge_method: linear, models: [{model: b}, {model: c}]}, positive_prompts: [x]}\n"
    "  - {source_model: {model: e}, positive_prompts: [y, z]}\n",
    "name: one\nmerge_method: slerp\nbase_model: b\nmodels: [{model: c}]\nparameters: {t: 0.5}\n---\n"
    "base_model: a\nexperts: [{source_model: one, positive_prompts: [x]}, {source_model: d, positive_prompts: [y]}]\n",
)
_WORDS = (
    *GATE_MODES, "mixtral", "deepseek", "glm4_moe", "qwen3_moe", "experts: ", "shared_experts: ", "source_model: ",
    "positive_prompts: ", "negative_prompts: []", "noise_scale: .inf", "residual_scale: -1", "experts_per_token: 0",
    "pooling: last", "states: router", "architecture: ", "base_model: ", "one", "a+b+c", "[x, y]", "[[x]]",
)  # fmt: skip


def make(chance):
    """A recipe with damaged lines and words."""
    text, other = chance.choice(_SEEDS), chance.choice(_SEEDS)
    text = damage.of_lines(chance, text, other, (*_WORDS, *tokens()), chance.choice((0, 1, 1, 1, 2, 3, 6)))
    data = text.encode("utf-8", "surrogatepass")
    return damage.of_bytes(chance, data) if chance.random() < 0.15 else data


def read(path):
    """Parse the recipe; what is accepted resolves to data that JSON can write."""
    recipe = load_mixture(path)
    assert recipe.experts
    json.dumps(recipe.resolved, allow_nan=False)
