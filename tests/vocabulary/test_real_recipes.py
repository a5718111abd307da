"""Recipes of others with tokenizer sections and chat templates plan against tiny models that stand in for theirs.

The corpus is not part of this repository. STOCKPOT_SHARED names the folder that holds ``recipes/``; without it,
``shared/`` beside the checkout is tried.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizing import byte_level, model

import stockpot as sp
from files import read_model, write_model
from stockpot.arrangements import Layers
from stockpot.errors import RecipeError, UnsupportedError
from stockpot.expression import Expression, leaves
from stockpot.recipe.parse import load_recipe

FOLDER = Path(os.environ.get("STOCKPOT_SHARED") or Path(__file__).resolve().parents[3] / "shared") / "recipes"
WANTED = re.compile(r"^(tokenizer|tokenizer_source|chat_template):", re.MULTILINE)
FOUND = (
    sorted(path for path in FOLDER.glob("*.yml") if WANTED.search(path.read_text("utf-8"))) if FOLDER.is_dir() else []
)


def depth(node: Expression) -> int:
    """Layers that the recipe takes of some model."""
    own = node.stop if isinstance(node, Layers) else 2
    return max([own, *map(depth, node.children)])


@pytest.mark.skipif(
    not FOUND, reason="the recipe corpus is absent: set STOCKPOT_SHARED to the folder that holds recipes/"
)
@pytest.mark.parametrize("path", FOUND or [None], ids=lambda p: p.name if p else "none")
def test_real_sections_plan(path: Path, tmp_path: Path) -> None:
    """Each valid one gives a vocabulary that holds the tokens of all models, or of the one that is named."""
    try:
        recipe = load_recipe(path)
    except (RecipeError, UnsupportedError):
        return  # a mistake in the text, or a mixture of experts: told by the tests of recipes
    for seed, leaf in enumerate(leaves(recipe.expression)):
        folder = tmp_path / leaf.reference
        model(folder, byte_level(["hello", f"word{chr(97 + seed)}"], [f"<|{seed}|>"]), seed=seed, dtype=np.float32)
        arrays = read_model(folder)
        layer = arrays.pop("model.layers.0.mlp.up_proj.weight")
        arrays |= {f"model.layers.{n}.mlp.up_proj.weight": layer for n in range(depth(recipe.expression))}
        config = {
            "model_type": "llama",
            "vocab_size": len(arrays["lm_head.weight"]),
            "num_hidden_layers": depth(recipe.expression),
        }
        write_model(folder, arrays, config=config)
    shutil.copy(path, tmp_path / "recipe.yml")
    made = sp.plan(tmp_path / "recipe.yml", tmp_path / "out")
    if re.search(r"^(tokenizer|tokenizer_source):", path.read_text("utf-8"), re.MULTILINE):
        assert made.tokenizer["rows"] == next(s.shape[0] for s in made.steps if s.name == "model.embed_tokens.weight")
    if recipe.chat_template not in (None, "auto"):
        assert "chat_template.jinja" in dict(made.sidecars)
