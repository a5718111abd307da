"""The corpus of real recipes: where it lies, its index, and what must become of each recipe.

The corpus is not part of this repository. STOCKPOT_SHARED names the folder that holds ``recipes/``;
without it, ``shared/`` beside the checkout is tried.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from stockpot.errors import RecipeError, StockpotError, UnsupportedError
from stockpot.methods.registry import METHODS

ENVIRONMENT = "STOCKPOT_SHARED"
CHECKOUT = Path(__file__).resolve().parents[1]
FOLDER = Path(os.environ.get(ENVIRONMENT) or CHECKOUT.parent / "shared") / "recipes"

MISTAKES = {
    "052": "unknown parameter 'use_magic'",
    "084": "not a list of texts",
    "097": "unknown key 'yamlbase_model'",
    "107": "unknown key 'tokenizer'",
    "111": "unknown parameter 'geodesic'",
    "146": "slerp takes exactly 2 models, not 5",
    "153": "is neither of the two models",
    "160": "unknown key 'pattern'",
    "165": "{Model_1} is a placeholder",
    "174": "unknown key 't'",
    "177": "is neither of the two models",
    "179": "is neither of the two models",
    "180": "is neither of the two models",
    "181": "is neither of the two models",
    "182": "is neither of the two models",
    "189": "slerp takes exactly 2 models, not 4",
    "193": "slerp needs base_model",
    "194": "slerp needs base_model",
    "210": "key 'merge_method' is given twice, on lines 9 and 16",
    "215": "unknown key 'weight' in an entry of models",
    "226": "unknown key 'merge_methiod'",
    "227": "unknown key 'merge_methiod'",
    "231": "unknown parameter 'nomalize'",
    "245": "unknown key 'align_weights'",
    "247": "'<|finetune_right_pad_id|>' is given twice",
    "248": "needs merge_method",
    "249": "not valid YAML",
}
"""Recipes with a mistake in the text, by number, and what is said about it.

mergekit refuses all of them too, but for 107, 160, 210, 231 and 245: there it silently ignores a key,
or the first of two recipes in one document.
"""


@dataclass(frozen=True)
class Row:
    """One line of the corpus' index: file, method as it calls it, features."""

    file: str
    method: str
    features: str

    @property
    def number(self) -> str:
        return self.file[:3]

    @property
    def expected(self) -> tuple[type[StockpotError] | None, str]:
        """What must be raised, with what in its text; None for a recipe that parses."""
        if self.number in MISTAKES:
            return RecipeError, MISTAKES[self.number]
        methods = self.method.split("+")
        if methods == ["moe"]:
            return UnsupportedError, "mixtures of experts"
        forks = [m for m in methods if m not in METHODS]
        return (RecipeError, f"unknown method {forks[0]!r}") if forks else (None, "")

    @property
    def sections(self) -> bool:
        """Whether the index says that it has a tokenizer section or a chat template."""
        return "tokenizer" in self.features or "chat_template" in self.features


def rows() -> list[Row]:
    """The index, one row for each file; empty without the corpus."""
    index = FOLDER / "INDEX.md"
    if not index.is_file():
        return []
    cells = [[c.strip() for c in line.split("|")] for line in index.read_text("utf-8").splitlines()]
    return [Row(c[1], c[2], c[3]) for c in cells if len(c) > 4 and c[1].endswith(".yml")]


ROWS = rows()
needs_corpus = pytest.mark.skipif(
    not ROWS, reason=f"the recipe corpus is absent: set {ENVIRONMENT} to the folder that holds recipes/"
)
