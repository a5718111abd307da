"""``stockpot evaluate``: table, JSON, HTML and exit codes."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from evaluating import digits_bench
from stockpot.cli.main import main


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STOCKPOT_CACHE_DIR", str(tmp_path / "cache"))
    return digits_bench(tmp_path)


def run(*more):
    return main(["evaluate", "base", "low", "merge.yml", "--suite", "suite.yml", "--allow-code", *more])


class Reader(HTMLParser):
    """Checks that tags close and collects what a browser would fetch."""

    VOID = ("meta", "line", "circle", "br")

    def __init__(self):
        super().__init__()
        self.open, self.fetched, self.text, self.tags = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.fetched += [v for k, v in attributes if k in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def test_table_json_and_html(bench, capsys):
    """One evaluation in three forms, with the same figures; the page fetches nothing and holds the recipe."""
    assert run("--json", "out.json", "--html", "out.html", "--why", "--cache", "kept") == 0
    shown = capsys.readouterr().out
    data = json.loads((bench / "out.json").read_text())
    assert [m["name"] for m in data["models"]] == ["base", "low", "merge"]
    values = [cell["figures"][0]["value"] for cell in data["cells"]]
    page = Reader()
    page.feed((bench / "out.html").read_text())
    assert page.open == []
    assert page.fetched == []
    assert "script" not in page.tags
    assert page.tags.count("circle") == 3
    text = "".join(page.text)
    for value in values:
        assert f"{value:.4g}" in shown
        assert f"{value:.4g}" in text
    assert "merge_method: task_arithmetic" in text
    assert "predict: nets:logits" in text
    (triple,) = data["triples"]
    assert sum(triple["cells"].values()) == 300
    assert f"FFT {triple['cells']['FFT']}" in shown
    assert (bench / "kept" / "evaluate.sqlite").exists()


def test_json_on_standard_output(bench, capsys):
    """--json - prints the document alone."""
    assert run("--json", "-", "--quiet") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["split"] == "report"
    assert printed.err == ""


def test_the_second_time_everything_is_known(bench, capsys):
    """Unless the cache is not wanted."""
    run()
    assert "known from before" not in capsys.readouterr().err
    run()
    assert capsys.readouterr().err.count("known from before") == 3
    run("--no-cache")
    assert "known from before" not in capsys.readouterr().err


def test_failed_cells_are_told_by_the_exit_code(bench, capsys):
    """1, with the message in the table and on the page; the other figures are there."""
    assert main(["evaluate", "gone<b>", "base", "--suite", "suite.yml", "--allow-code", "--html", "o.html"]) == 1
    shown = capsys.readouterr()
    assert "gone<b>: FAILED: no such file or folder" in shown.out
    assert "0.69" in shown.out
    page = (bench / "o.html").read_text()
    assert "gone&lt;b&gt; failed" in page
    assert "<b>" not in page


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--split", "tune", "--reference", "nobody"], 3, "not among the models"),
        (["--json", "nowhere/out.json"], 2, "there is no folder nowhere"),
        (["--split", "test"], 2, "'test' is not one of"),
    ],
    ids=["reference", "folder", "split"],
)
def test_wrong_usage(bench, capsys, arguments, code, told):
    """Refused before anything is computed."""
    assert run(*arguments) == code
    printed = capsys.readouterr()
    assert told in printed.err
    assert printed.out == ""


def test_code_needs_leave(bench, capsys):
    """As in recipes."""
    assert main(["evaluate", "base", "--suite", "suite.yml"]) == 3
    assert "--allow-code" in capsys.readouterr().err


def test_figures_to_choose_with_are_starred(bench, capsys):
    """Those of the select split, in table and page."""
    run("--split", "select", "--html", "o.html")
    assert "* select data, which is there to choose with" in capsys.readouterr().out
    assert "select data, which is there to choose with" in (bench / "o.html").read_text()


def test_an_ensemble_of_the_stored_models(bench, capsys):
    """A row of the mean outputs of MODELS that are no recipes, as from Python; fewer than two are refused."""
    from stockpot.evaluate import Ensemble, candidate, evaluate, load_suite

    assert run("--no-cache", "--json", "-", "--ensemble", "probabilities", "--ensemble", "logits") == 0
    data = json.loads(capsys.readouterr().out)
    assert [m["name"] for m in data["models"]][3:] == ["ensemble of 2", "ensemble of 2 (logits)"]
    suite = load_suite(bench / "suite.yml", allow_code=True)
    wanted = evaluate([candidate("base"), candidate("low")], suite, ensembles=[Ensemble("both", ("base", "low"))])
    found = next(cell for cell in data["cells"] if cell["model"] == "ensemble of 2")
    assert found["figures"][0]["value"] == wanted.cell("both", "clean").figures[0].value
    assert main(["evaluate", "base", "merge.yml", "--suite", "suite.yml", "--allow-code", "--ensemble", "logits"]) == 2
    assert "two MODELS or more" in capsys.readouterr().err
