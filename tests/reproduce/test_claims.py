"""Claims are measured over seeds, medians decide, and the command says so with its exit code."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from evaluating import digits_bench, save_arrays
from stockpot.cli.main import main
from stockpot.errors import CheckpointError, ExecutionError, Problem, RecipeError
from stockpot.evaluate import candidate, load_suite
from stockpot.reproduce import CLAIMS, Asked, Bed, Claim, Measure, Setting, bed_of, reproduce
from stockpot.reproduce.claims.diverse import _correlation
from stockpot.reproduce.claims.soups import _soup
from stockpot.reproduce.told import outcome_page, outcome_told

FIGURES = {0: 1.0, 1: 9.0, 2: 3.0}
"""Seed → gain; the median is 3."""


def gain_of(setting):
    (setting.folder / "made.txt").write_text(str(setting.seed))
    setting.tell(f"measuring with {setting.seed}")
    return {"gain": FIGURES[setting.seed], "cost": 1 / 3}


def broken(setting):
    raise ExecutionError(Problem(f"no model converged in {setting.folder.name}"))


def claim_of(*asked, measure=gain_of, name="gains", needs_data=False, known=""):
    measures = (Measure("gain", "gain, <points>", 8.3, "table 1"), Measure("cost", "cost"))
    bed = Bed("toy", "a toy", measure, needs_data=needs_data, known=known)
    other = Bed("real", "real data", measure)
    return Claim(name, "It gains", "Somebody, 2020", measures, asked, (other, bed), notes="A note.")


HOLDS = claim_of(Asked("gain", at_least=3), Asked("cost", at_most=0.5))
FAILS = claim_of(Asked("gain", above=3), Asked("cost", at_most=0.5), name="loses", known="It is a toy.")


@pytest.fixture
def claims(monkeypatch):
    """Only the toy claims are known, and there is no data."""
    known = {"gains": HOLDS, "loses": FAILS, "breaks": claim_of(Asked("gain", above=0), measure=broken, name="breaks")}
    monkeypatch.setattr("stockpot.reproduce.CLAIMS", known)
    monkeypatch.delenv("STOCKPOT_DATA", raising=False)
    return known


def run(capsys, *arguments):
    code = main(["reproduce", *arguments])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_medians_decide():
    """The median over seeds is compared with each bound; the spread is told beside it."""
    held, failed = (reproduce(claim, bed="toy") for claim in (HOLDS, FAILS))
    assert held.median("gain") == 3.0
    assert held.spread("gain") == (1.0, 9.0)
    assert (held.held, failed.held) == (True, False)
    assert reproduce(FAILS, bed="toy", seeds=(1,)).held


@pytest.mark.parametrize(
    ("asked", "value", "holds"),
    [
        (Asked("m", at_least=1), 1.0, True),
        (Asked("m", above=1), 1.0, False),
        (Asked("m", at_most=1), 1.0, True),
        (Asked("m", at_least=0, at_most=1), 1.1, False),
        (Asked("m", at_least=0), math.nan, False),
        (Asked("m", at_most=0), math.nan, False),
        (Asked("m", above=0), math.inf, True),
    ],
    ids=str,
)
def test_bounds(asked, value, holds):
    """at_least and at_most include their ends, above does not; what is no number never holds."""
    assert asked.holds(value) is holds


def test_one_seed_that_is_no_number_fails_the_claim():
    """A NaN anywhere is no median, wherever sorting would put it."""
    for wrong in FIGURES:
        claim = claim_of(
            Asked("gain", at_least=0),
            measure=lambda s, wrong=wrong: {"gain": math.nan if s.seed == wrong else 5.0, "cost": 0.0},
        )
        outcome = reproduce(claim, bed="toy")
        assert math.isnan(outcome.median("gain"))
        assert not outcome.held


def test_a_soup_of_all_models_is_a_claim_that_does_not_hold(tmp_path, monkeypatch):
    """Where even the last model, the diverged one, is taken: figures, not an error."""
    monkeypatch.chdir(digits_bench(tmp_path))
    for name in ("first", "last"):
        shutil.copytree("low", name)
    save_arrays(Path("shift.npz"), np.arange(1300, 1500))
    Path("suite.yml").write_text(
        "tasks:\n"
        "  clean: {kind: classification, predict: 'nets:logits', split: {select: select.npz, report: report.npz}}\n"
        "  other: {kind: classification, predict: 'nets:logits', split: {report: shift.npz}}\n"
    )
    suite = load_suite(Path("suite.yml"), allow_code=True)
    models = [candidate(name) for name in ("first", "low", "last")]
    found = _soup(SimpleNamespace(shifts=lambda: suite, fine_tunes=lambda: models))
    assert (found["members"], found["rejected"], found["drop"]) == (3, 0, 0)


def test_gains_that_are_all_the_same_have_no_correlation():
    """The claim fails then, without an error."""
    assert math.isnan(_correlation([1.0, 2.0, 3.0], [0.5, 0.5, 0.5]))
    assert _correlation([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]) == pytest.approx(1)


def test_what_is_measured_is_what_the_claim_says():
    """A bed that leaves a measure out, or has another, is an error."""
    for figures in ({"gain": 1.0}, {"gain": 1.0, "cost": 0.0, "more": 0.0}):
        claim = claim_of(Asked("gain", at_least=0), measure=lambda _, figures=figures: figures)
        with pytest.raises(ExecutionError, match="gains measures"):
            reproduce(claim, bed="toy", seeds=(0,))


def test_claims_state_what_is_asked():
    """A claim without conditions, with one that has no bound, or about something that is not measured, is no claim."""
    for asked in ((), (Asked("gain"),), (Asked("other", at_least=0),)):
        with pytest.raises(AssertionError):
            claim_of(*asked)


def test_beds_are_found(tmp_path):
    """Without a name the first bed that the data allows; errors name the beds, or the variable."""
    assert bed_of(HOLDS, None, None).name == "toy"
    assert bed_of(HOLDS, None, tmp_path).name == "real"
    with pytest.raises(RecipeError, match=r"no bed 'toyy'.*\n.*real, toy"):
        bed_of(HOLDS, "toyy", None)
    with pytest.raises(RecipeError, match="STOCKPOT_DATA"):
        bed_of(HOLDS, "real", None)
    with pytest.raises(RecipeError, match="needs data"):
        bed_of(claim_of(Asked("gain", at_least=0), needs_data=True), None, None)
    with pytest.raises(RecipeError, match="at least one seed"):
        reproduce(HOLDS, bed="toy", seeds=())


def test_a_missing_file_of_data_is_named(tmp_path):
    """The error says which file, and how the folder is given."""
    setting = Setting(0, tmp_path, tmp_path, print)
    with pytest.raises(CheckpointError, match=r"mnist\.npz.*\n*.*STOCKPOT_DATA"):
        setting.file("images", "mnist.npz")
    (tmp_path / "there.txt").write_text("")
    assert setting.file("there.txt") == tmp_path / "there.txt"


def test_exit_codes(claims, capsys):
    """0 when everything holds, 1 when something does not or cannot be measured, 2 for names that are unknown."""
    assert run(capsys, "gains")[0] == 0
    code, out, _ = run(capsys, "loses")
    assert code == 1
    assert "DOES NOT HOLD: loses on toy: gain is 3, asked above 3. Known: It is a toy." in out
    code, out, _ = run(capsys, "gains", "loses")
    assert code == 1
    assert out.splitlines()[-1] == "1 of 2 hold"
    code, _, err = run(capsys, "gain")
    assert code == 2
    assert "did you mean gains?" in err
    assert run(capsys, "gains", "--seeds", "0,x")[0] == 2
    assert run(capsys, "gains", "--seeds=-1")[0] == 2
    assert run(capsys, "gains", "--bed", "real")[0] == 3


def test_an_error_of_one_of_several_claims_leaves_the_others(claims, capsys, tmp_path):
    """It is told where it stands and in the JSON, and the exit code is 1; alone it is the command's error."""
    code, out, err = run(capsys, "breaks", "gains", "--json", str(tmp_path / "a.json"))
    assert code == 1
    assert "NOT MEASURED: breaks: no model converged in breaks-toy-0" in err
    assert "HOLDS: gains on toy" in out
    first, second = json.loads((tmp_path / "a.json").read_text())
    assert first == {"name": "breaks", "bed": None, "error": "no model converged in breaks-toy-0"}
    assert second["held"]
    assert run(capsys, "breaks")[0] == 6


def test_all_leaves_out_what_the_data_does_not_allow(claims, capsys, monkeypatch):
    """Every claim that has the bed is measured; the others are named."""
    elsewhere = Claim(
        "else", "It", "S", (Measure("gain", "g"),), (Asked("gain", above=0),), (Bed("far", "far", gain_of),)
    )
    monkeypatch.setattr("stockpot.reproduce.CLAIMS", {"gains": HOLDS, "else": elsewhere})
    code, out, err = run(capsys, "all", "--bed", "toy")
    assert code == 0
    assert "left out: else has no bed 'toy'" in err
    assert "HOLDS: gains on toy" in out
    assert run(capsys, "all", "--bed", "nowhere")[0] == 1


def test_all_beds(claims, capsys, tmp_path):
    """Each that the data allows; those that it does not are named, and a claim that has none left is an error."""
    code, out, err = run(capsys, "gains", "--bed", "all", "--data", str(tmp_path))
    assert code == 0
    assert out.splitlines()[-3:] == ["HOLDS: gains on real", "HOLDS: gains on toy", "2 of 2 hold"]
    code, out, err = run(capsys, "all", "--bed", "all")
    assert "left out: gains on real needs data" in err
    assert "HOLDS: gains on toy" in out
    claims["far"] = claim_of(Asked("gain", above=0), name="far", needs_data=True)
    code, out, err = run(capsys, "gains", "far", "--bed", "all")
    assert code == 1
    assert "NOT MEASURED: far: far needs data" in err


def test_a_bed_may_have_figures_of_its_own_in_the_paper():
    """They stand instead of the measure's, everywhere; one for what is not measured is no claim."""
    own = Bed("toy", "a toy", gain_of, needs_data=False, papers={"gain": (4.5, "table 2")})
    claim = replace(HOLDS, beds=(own,))
    outcome = reproduce(claim)
    assert any(line.split()[2:4] == ["4.5", "3"] for line in outcome_told(outcome) if "<points>" in line)
    assert "Paper: gain, <points>: table 2." in "\n".join(outcome_told(outcome))
    assert "paper&#x27;s figure: 4.5" in outcome_page([outcome])
    assert (outcome.as_data()["measures"][0]["paper"], outcome.as_data()["measures"][0]["where"]) == (4.5, "table 2")
    with pytest.raises(AssertionError):
        replace(HOLDS, beds=(replace(own, papers={"other": (1.0, "")}),))


def test_what_is_told(claims, capsys, tmp_path):
    """The paper's figure beside ours, progress on standard error, and nothing but JSON for machines."""
    code, out, err = run(capsys, "gains", "--keep", str(tmp_path / "kept"))
    assert code == 0
    row = next(line.split() for line in out.splitlines() if "<points>" in line)
    assert row == ["gain,", "<points>", "8.3", "3", "1", "to", "9", "at", "least", "3", "holds"]
    assert "Paper: gain, <points>: table 1." in out
    assert "measuring with 2" in err
    assert (tmp_path / "kept" / "gains-toy-1" / "made.txt").read_text() == "1"
    code, out, err = run(capsys, "loses", "--json", "-", "--quiet")
    (told,) = json.loads(out)
    assert err == ""
    assert (told["held"], told["bed"]["known"], told["runs"][1]["gain"]) == (False, "It is a toy.", 9.0)
    assert [a["holds"] for a in told["measures"][0]["asked"]] == [False]


def test_the_page(claims, capsys, tmp_path):
    """One file with the verdict and the table; what is written in claims is shown, never HTML."""
    assert run(capsys, "gains", "loses", "--html", str(tmp_path / "a.html"), "--quiet")[0] == 1
    text = (tmp_path / "a.html").read_text()
    assert "gain, &lt;points&gt;" in text
    assert "<points>" not in text
    assert "HOLDS: gains on toy" in text
    assert "DOES NOT HOLD: loses" in text
    assert "http" not in text.replace("http-equiv", "")
    assert text.count("<svg") == 2
    assert "stockpot reproduce gains loses --html" in text


def test_known_claims_are_told_from_failures_that_are_not():
    """Only a claim that fails says what is known of why."""
    line = list(outcome_told(reproduce(claim_of(Asked("gain", at_least=0), known="It is a toy."), bed="toy")))[-1]
    assert line == "HOLDS: gains on toy"
    assert "Known" not in outcome_page([reproduce(HOLDS, bed="toy")])


def test_the_documents_tell_every_claim():
    """The page has a row for each, and what its beds are called."""
    page = (Path(__file__).parents[2] / "docs" / "reproduce.md").read_text(encoding="utf-8")
    assert [name for name in CLAIMS if f"`{name}`" not in page] == []
    beds = {bed.name for claim in CLAIMS.values() for bed in claim.beds}
    assert [name for name in beds if f"`{name}`" not in page] == []


def test_claims_are_listed(capsys):
    """Without a name: every claim with its beds."""
    code, out, _ = run(capsys)
    assert code == 0
    assert all(f"{name} " in out for name in CLAIMS)
    assert "digits (no data needed)" in out
