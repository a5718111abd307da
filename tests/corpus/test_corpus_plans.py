"""Every valid recipe of the corpus is planned, against stand-ins of the family and depth of its models."""

from __future__ import annotations

from pathlib import Path

import pytest
from stand_ins import VOCAB, StandIns, family_of

import stockpot as sp
from corpus_index import FOLDER, ROWS, Row, needs_corpus
from stockpot.errors import StockpotError, UnsupportedError
from stockpot.expression import leaves
from stockpot.moe.build import planned
from stockpot.planning.model import Limits
from stockpot.recipe.mixture import load_mixture
from stockpot.recipe.parse import load_recipe

pytest.importorskip("transformers", reason="makes the stand-ins")
VALID = [row for row in ROWS if row.expected[0] is None]
TEMPLATES = ("099", "100")
"""Recipes of mixtures whose second expert is only named."""

MIXTURES = [row for row in ROWS if row.expected[0] is UnsupportedError and row.number not in TEMPLATES]
PHI = "104"
"""A mixture of Phi-2 models, which is no architecture of transformers."""


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> StandIns:
    return StandIns(tmp_path_factory.mktemp("stand-ins"))


@needs_corpus
@pytest.mark.parametrize("row", VALID, ids=lambda row: row.file)
def test_a_valid_recipe_is_planned(row: Row, stand_ins: StandIns) -> None:
    """Every tensor finds its place in the output, within the budget; a vocabulary that is asked for is decided."""
    copy = stand_ins.copy(FOLDER / row.file, leaves(load_recipe(FOLDER / row.file).expression))
    recipe = load_recipe(copy)
    plan = sp.plan(copy, copy.parent / "out")
    assert plan.steps
    assert plan.cost.memory <= 1 << 30
    if "tokenizer" in row.features:
        assert plan.tokenizer["rows"] >= VOCAB
    if recipe.chat_template not in (None, "auto"):
        assert "chat_template.jinja" in dict(plan.sidecars)


@needs_corpus
@pytest.mark.parametrize("row", MIXTURES, ids=lambda row: row.file)
def test_a_valid_mixture_is_planned(row: Row, stand_ins: StandIns) -> None:
    """A router and the MLPs of every expert for each layer; Phi-2 is refused by name."""
    recipe = load_mixture(FOLDER / row.file)
    models = {leaf.key: leaf for model in (recipe.base, *(e.of for e in recipe.experts)) for leaf in leaves(model)}
    copied = load_mixture(stand_ins.copy(FOLDER / row.file, models.values()))
    out = Path(copied.donor.reference).parent / "out"
    if row.number == PHI:
        with pytest.raises(StockpotError, match="phi"):
            planned(copied, out, Limits(), dry=True)
        return
    names = [step.name for step in planned(copied, out, Limits(), dry=True).plan.steps]
    layers = family_of(row.number).layers
    assert sum(".gate.weight" in name for name in names) == layers
    assert sum(".experts." in name for name in names) == 3 * layers * len(recipe.experts)
