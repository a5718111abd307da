"""A page is one file that fetches nothing and tells all: figures, recipes, lineage, and how the run came about."""

from __future__ import annotations

import json
import platform
import re
from html.parser import HTMLParser

import pytest

import stockpot as sp
from evaluating import digits_bench, networks
from files import write_model
from stockpot.cli.main import main
from stockpot.evaluate import candidate, evaluate, load_suite
from stockpot.evaluate.background import Background, lineage_of, lineages
from stockpot.evaluate.page import about, page
from stockpot.provenance.draw import text_tree

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STOCKPOT_CACHE_DIR", str(tmp_path / "cache"))
    digits_bench(tmp_path)
    assert main(["merge", "merge.yml", "merged", "--quiet"]) == 0
    return tmp_path


class Reader(HTMLParser):
    """Tags, what a browser would fetch or run, and the words of each folded part."""

    def __init__(self):
        super().__init__()
        self.tags, self.fetched, self.parts, self.words = [], [], {}, []
        self.title = ""

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.fetched += [v for k, v in attributes if k in ("src", "href", "xlink:href", "data") or k.startswith("on")]

    def handle_data(self, data):
        self.words.append(data)
        if self.tags and self.tags[-1] == "summary":
            self.title = data
        elif self.tags and self.tags[-1] == "pre":
            self.parts[self.title] = self.parts.get(self.title, "") + data


def read(path):
    text = path.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    assert reader.fetched == []
    assert not {"script", "link", "iframe", "img", "object"} & set(reader.tags)
    assert not re.search(r"https?://|url\(|@import", text)
    return reader


VERBS = {
    "evaluate": ["evaluate", "base", "merged", "merge.yml"],
    "soup": ["soup", "merged", "low"],
    "sweep": ["sweep", "interpolate", "base", "merged", "--values", "0,1"],
}


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_page_tells_lineage_and_run(bench, verb):
    """What was merged is a tree, from its receipt or recipe; command, date, seed, versions and suite stand below."""
    arguments = [*VERBS[verb], "--suite", "suite.yml", "--allow-code", "--seed", "7", "--html", "a.html", "--quiet"]
    assert main(arguments) == 0
    shown = read(bench / "a.html")
    assert shown.parts["lineage of merged"].splitlines() == [
        "merged  ← task_arithmetic",
        "├── base",
        "├── high",
        "└── low",
    ]
    text = "".join(shown.words)
    assert f"stockpot {' '.join(arguments)}" in text
    assert re.search(r"date\d{4}-\d\d-\d\d \d\d:\d\d UTC", text)
    assert "seed7" in text
    assert f"python {platform.python_version()}, stockpot {sp.__version__}" in text
    assert "predict: nets:logits" in shown.parts["the suite"]
    made = {"evaluate": "merge", "soup": "greedy soup", "sweep": "alpha"}[verb]
    (tree,) = [
        words
        for title, words in shown.parts.items()
        if title.startswith(f"lineage of {made}") and title != "lineage of merged"
    ]
    assert "← " in tree


def test_lineage_of_an_expression_goes_on_behind_its_inputs(bench):
    """The tree of a receipt hangs below the input that has it; a stored model alone has none."""
    made = candidate(sp.linear(sp.open("merged"), sp.open("base")), name="both")
    assert text_tree(lineage_of(made)).splitlines() == [
        "both  ← linear",
        "├── base",
        "└── merged  ← task_arithmetic",
        "    ├── base",
        "    ├── high",
        "    └── low",
    ]
    assert lineage_of(candidate("base")).tool is None
    assert list(lineages([candidate("base"), candidate("merged"), made])) == ["merged", "both"]


def test_a_model_that_cannot_be_opened_has_no_lineage(bench):
    """Its row says why; the page is made all the same."""
    assert lineage_of(candidate("gone")) is None
    assert (
        main(["evaluate", "gone", "base", "--suite", "suite.yml", "--allow-code", "--html", "a.html", "--quiet"]) == 1
    )
    assert not [title for title in read(bench / "a.html").parts if title.startswith("lineage")]


def test_words_of_strangers_stay_words(bench):
    """Names, labels in receipts, suite and command hold no tags for a browser."""
    write_model(bench / EVIL.replace("/", ""), networks()["low"])
    text = f"merge_method: linear\nmodels:\n  - model: base\n  - model: '{EVIL}'\n"
    (bench / "evil.yml").write_text(text)
    (bench / "suite.yml").write_text((bench / "suite.yml").read_text() + f"# {EVIL}\n")
    assert main(["merge", "evil.yml", f"{EVIL} merged", "--quiet"]) == 0
    arguments = ["evaluate", EVIL, f"{EVIL} merged", "evil.yml", "--suite", "suite.yml", "--allow-code"]
    assert main([*arguments, "--html", "a.html", "--quiet"]) == 0
    shown = read(bench / "a.html")
    assert EVIL in shown.parts["the suite"]
    assert EVIL in shown.parts["lineage of evil"]
    assert EVIL in shown.parts[f"lineage of {EVIL} merged"]


def test_secrets_in_a_command_are_hidden():
    """A page may be sent to others."""
    told = "".join(about(Background.now(command="stockpot evaluate https://me:hunter2@host/x hf_" + "a1B2" * 9)))
    assert "hunter2" not in told
    assert "hf_a1B2" not in told


def test_nothing_is_told_where_nothing_is_known():
    """A page made from Python alone has no part for the run."""
    assert "".join(about(None)) == "".join(about(Background())) == ""


def test_the_page_from_python(bench):
    """As the documentation has it: figures, and lineage by the name that the table has."""
    suite = load_suite(bench / "suite.yml", allow_code=True)
    models = [candidate("base"), candidate("merged")]
    result = evaluate(models, suite)
    (bench / "b.html").write_text(page(result, Background.now(suite.text, lineage=lineages(models))), encoding="utf-8")
    assert list(read(bench / "b.html").parts) == ["lineage of merged", "the suite"]


def test_a_figure_without_an_interval_has_a_page(bench, capsys):
    """A metric that no resample of so few examples defines, such as a correlation, still has its figure."""
    (bench / "rare.py").write_text(
        "import numpy as np\nfrom stockpot.evaluate import Metric\n"
        "rows = Metric('rare', 'higher', lambda p: np.arange(len(p['labels'])),\n"
        "              lambda v: float(len(v)) if len(set(v.tolist())) == len(v) else float('nan'))\n"
    )
    suite = (bench / "suite.yml").read_text().replace("split:", "metrics: ['rare:rows']\n    split:")
    (bench / "suite.yml").write_text(suite)
    common = ("--suite", "suite.yml", "--allow-code", "--no-cache", "--html", "r.html")
    assert main(["evaluate", "base", "low", *common]) == 0
    assert 'class="dot"' in (bench / "r.html").read_text()
    assert 'class="bar"' not in (bench / "r.html").read_text()
    assert main(["sweep", "interpolate", "base", "low", "--values", "0,1", *common]) == 0
    assert "<polyline" in (bench / "r.html").read_text()


def test_figures_without_intervals_are_drawn(bench):
    """As when no resample has a figure: a point alone, on the pages of evaluations and sweeps."""
    mine = (
        "\nfrom stockpot.evaluate import Metric\n"
        "def once(rows):\n    return 1.0 if len(set(rows.tolist())) == len(rows) else float('nan')\n"
        "whole = Metric('whole', 'higher', lambda columns: np.arange(len(columns['labels'])), once)\n"
    )
    (bench / "nets.py").write_text((bench / "nets.py").read_text() + mine)
    (bench / "suite.yml").write_text(
        "tasks:\n  clean: {kind: classification, predict: 'nets:logits', metrics: ['nets:whole'], "
        "split: {select: select.npz, report: report.npz}}\n"
    )
    options = ["--suite", "suite.yml", "--allow-code", "--quiet", "--no-cache", "--html", "p.html", "--json", "p.json"]
    for words in (["evaluate", "base", "low"], ["sweep", "interpolate", "base", "low", "--values", "0,1"]):
        assert main([*words, *options]) == 0
        assert not re.search(r'="-?nan|points="[^"]*nan', (bench / "p.html").read_text())
        json.loads((bench / "p.json").read_text(), parse_constant=pytest.fail)
