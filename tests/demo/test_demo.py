"""The demo's promises, on a quick run from end to end."""

from __future__ import annotations

import json
import re
from itertools import combinations

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image
from rich.console import Console

import stockpot as sp
from stockpot import demo
from stockpot.demo import picture, table
from stockpot.demo.data import TEST_SHIFTS, load_splits
from stockpot.demo.evaluate import make_benchmark
from stockpot.demo.merges import Kitchen, greedy_soup
from stockpot.demo.network import initialise
from stockpot.demo.runs import FINE_TUNES, load_model, save_model
from stockpot.demo.train import Schedule, train
from stockpot.errors import UnsupportedError


@pytest.fixture(scope="module")
def lines():
    """What the run reports, in order."""
    return []


@pytest.fixture(scope="module")
def result(tmp_path_factory, lines):
    """One quick run, shared by the tests of its results."""
    return demo.run(tmp_path_factory.mktemp("demo"), quick=True, report=lines.append)


def test_table_has_every_model_and_at_least_five_methods(result):
    """The start, each fine-tune, the merges and the ensemble are all there, on every shift."""
    assert [row.name for row in result.of_kind("single")] == [run.name for run in FINE_TUNES]
    recipes = (result.folder / "recipes").glob("*.yml")
    methods = {path.read_text(encoding="utf-8").splitlines()[0] for path in recipes}
    assert len(methods) >= 5
    assert len(result.of_kind("start")) == len(result.of_kind("ensemble")) == 1
    for row in result.rows:
        assert list(row.scores.by_column) == ["clean", *TEST_SHIFTS]
        assert all(0 <= value <= 1 for value in row.scores.by_column.values())


def test_greedy_soup_is_never_worse_than_the_best_single_on_select(result):
    """It starts from the best single model and only takes what does not hurt."""
    greedy = next(row for row in result.rows if row.name == "greedy")
    assert greedy.select >= result.best("single").select


def test_averaging_in_the_diverged_run_ruins_the_average(result):
    """Soups are selected because with one diverged member the mean is no classifier."""
    by_name = {row.name: row for row in result.rows}
    assert by_name["diverged"].scores.clean < 0.7
    assert by_name["uniform-all"].scores.clean < by_name["uniform"].scores.clean - 0.2


def test_models_can_be_loaded_and_are_finite(result):
    """Every model is a folder with a config and finite float32 weights."""
    names = ["base", *(run.name for run in FINE_TUNES)]
    folders = [result.folder / "models" / name for name in names]
    folders += [result.folder / "merged" / row.name for row in result.of_kind("merge")]
    for folder in folders:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        assert config["model_type"] == "mlp-digits"
        for value in load_model(folder).values():
            assert value.dtype == np.float32
            assert np.isfinite(value).all()


def test_recipes_can_be_merged_again_by_the_user(result, tmp_path):
    """The recipe left in the folder is the one whose merge is in the table."""
    for row in result.of_kind("merge"):
        out = tmp_path / row.name
        sp.merge(result.folder / "recipes" / f"{row.name}.yml", out)
        again, before = load_model(out), load_model(result.folder / "merged" / row.name)
        assert all(np.array_equal(again[name], before[name]) for name in before)


def test_the_same_seed_gives_the_same_figures(result, tmp_path):
    """Two runs agree in every figure."""
    again = demo.run(tmp_path, quick=True, report=lambda _: None)
    assert again.rows == result.rows


def test_it_can_run_twice_in_one_folder(result):
    """A second run replaces the first one's files."""
    again = demo.run(result.folder, quick=True, report=lambda _: None)
    assert again.rows == result.rows


def test_figures_table_and_picture_are_written(result, lines):
    """The files hold what was reported; the picture is a PNG of readable size."""
    figures = json.loads(result.figures.read_text(encoding="utf-8"))
    assert [row["name"] for row in figures] == [row.name for row in result.rows]
    text = result.table.read_text(encoding="utf-8")
    assert "\x1b" not in text
    for row in result.rows:
        assert row.name in text
        assert any(row.name in line for line in lines)
    with Image.open(result.picture) as image:
        assert image.format == "PNG"
        assert image.width >= 1200


def test_the_page_is_one_file_that_tells_all(result):
    """Every model and figure, recipe and lineage; nothing is fetched; the greedy soup leads where it was chosen."""
    text = result.page.read_text(encoding="utf-8")
    assert not re.search(r"<script|<img|<link|https?://|url\(|@import", text)
    for row in result.rows:
        assert row.name in text
        assert f"{100 * row.scores.shifted:.1f}" in text
    for row in result.of_kind("merge"):
        assert f"recipe of {row.name}<" in text
        assert f"lineage of {row.name}<" in text
    choice = text[text.index("against its models") : text.index("Accuracy in %")]
    shares = [float(row[2]) for row in map(re.compile(r"<td>(.*?)</td>").findall, choice.split("<tr>")[2:])]
    assert len(shares) == len(FINE_TUNES) + 1
    assert shares == sorted(shares, reverse=True)
    greedy = next(row for row in result.rows if row.name == "greedy")
    assert shares[0] == round(100 * greedy.select, 1)
    assert "<tr><td><strong>greedy</strong>" in choice.split("<tbody>")[1][:60]


def test_table_fits_eighty_columns(result):
    """Nothing is cut off in a narrow terminal."""
    text = table.render(result.rows, Console(width=80, color_system=None))
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert all(row.name in text for row in result.rows)


def test_table_respects_no_color(result, monkeypatch):
    """Colours are for terminals that want them."""
    colour = re.compile(r"\x1b\[[0-9;]*3[0-9]")
    assert colour.search(table.render(result.rows, _terminal()))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colour.search(table.render(result.rows, _terminal()))


def _terminal():
    return Console(width=80, force_terminal=True, color_system="standard")


def test_no_two_labels_of_the_picture_overlap(result):
    """Every text of the picture stands free of every other, and none is cut off."""
    figure = picture.compose(result)
    figure.canvas.draw()
    texts = {t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible()}
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts]
    for (first, box), (second, other) in combinations(boxes, 2):
        assert not box.overlaps(other), (first, second)
    page = figure.bbox
    for text, box in boxes:
        assert page.x0 <= box.x0 <= box.x1 <= page.x1, text
        assert page.y0 <= box.y0 <= box.y1 <= page.y1, text


def test_greedy_soup_takes_what_helps_and_leaves_what_hurts(tmp_path):
    """Of a trained model, its twin and huge noise, the soup is the first two."""
    digits = load_splits(0)
    select = make_benchmark(digits.select, 0, draws=1)
    start = initialise(np.random.default_rng(0))
    good = train(start, digits.tune, Schedule(epochs=2, rate=0.02, seed=0))
    noise = {name: 100 * value for name, value in initialise(np.random.default_rng(1)).items()}
    for name, theta in {"good": good, "twin": good, "noise": noise}.items():
        save_model(theta, tmp_path / "models" / name)
    score = select.score(good).shifted
    ranking = [("good", score), ("noise", score), ("twin", score)]
    soup = greedy_soup(Kitchen(tmp_path, select), ranking)
    assert soup.select == score
    recipe = (tmp_path / "recipes" / "greedy.yml").read_text(encoding="utf-8")
    assert recipe.count("model: ") == 2
    assert "noise" not in recipe


def test_missing_libraries_are_named_with_the_fix(tmp_path, monkeypatch):
    """Without scikit-learn the error says what to install, and nothing is written."""
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name == "sklearn" else object())
    with pytest.raises(UnsupportedError, match="sklearn") as caught:
        demo.run(tmp_path / "out")
    assert "pip install" in str(caught.value)
    assert not (tmp_path / "out").exists()
