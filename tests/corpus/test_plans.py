"""Every valid recipe of the corpus is planned, against stand-ins of the family and depth of its models."""

from __future__ import annotations

import pytest
from stand_ins import VOCAB, StandIns

import stockpot as sp
from corpus_index import FOLDER, ROWS, Row, needs_corpus
from stockpot.recipe.parse import load_recipe

pytest.importorskip("transformers", reason="makes the stand-ins")
VALID = [row for row in ROWS if row.expected[0] is None]


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> StandIns:
    return StandIns(tmp_path_factory.mktemp("stand-ins"))


@needs_corpus
@pytest.mark.parametrize("row", VALID, ids=lambda row: row.file)
def test_a_valid_recipe_is_planned(row: Row, stand_ins: StandIns) -> None:
    """Every tensor finds its place in the output, within the budget; a vocabulary that is asked for is decided."""
    copy = stand_ins.copy(FOLDER / row.file)
    recipe = load_recipe(copy)
    plan = sp.plan(copy, copy.parent / "out")
    assert plan.steps
    assert plan.cost.memory <= 1 << 30
    if "tokenizer" in row.features:
        assert plan.tokenizer["rows"] >= VOCAB
    if recipe.chat_template not in (None, "auto"):
        assert "chat_template.jinja" in dict(plan.sidecars)
