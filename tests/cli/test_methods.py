"""What `stockpot methods` prints, in each of its forms."""

from __future__ import annotations

import json
from dataclasses import replace
from types import MappingProxyType

import pytest

from stockpot.cli.main import main
from stockpot.methods import registry
from stockpot.methods.bibtex import bibliography
from stockpot.methods.declare import SCOPE, Companion
from stockpot.methods.document import document
from stockpot.methods.pieces import PIECES
from stockpot.methods.registry import METHODS


def run(capsys, *arguments):
    """(exit code, standard output)."""
    code = main(["methods", *arguments])
    return code, capsys.readouterr().out


@pytest.fixture
def rich(monkeypatch):
    """TIES with everything that a declaration may have."""
    companions = (Companion("fisher", "its Fisher information", per_model=True), Companion("mask", "m", required=False))
    method = replace(METHODS["ties"], parameters=(SCOPE,), companions=companions, notes=("Vectors are averaged.",))
    monkeypatch.setattr(registry, "METHODS", MappingProxyType({**METHODS, "ties": method}))
    return method


def test_the_list_is_by_family_with_aliases(capsys):
    """Headings, every method under one of them, other names beside the name."""
    code, text = run(capsys)
    assert code == 0
    lines = text.splitlines()
    assert lines[0] == "Linear combinations"
    assert lines.index("Element by element") < lines.index(next(line for line in lines if line.startswith("  ties ")))
    assert any(line.startswith("  linear, average ") for line in lines)
    listed = [line.split()[0].rstrip(",") for line in lines if line.startswith("  ")]
    assert sorted(listed) == sorted([*METHODS, *PIECES])
    assert lines.index("Steps (merge_method: steps)") < lines.index(next(x for x in lines if x.startswith("  trim ")))


@pytest.mark.parametrize("piece", PIECES.values(), ids=lambda p: p.name)
def test_one_step_is_explained(piece, capsys):
    """What it does, and each of its parameters with its meaning."""
    code, text = run(capsys, piece.name)
    assert code == 0
    assert text.startswith(f"step {piece.name}: {piece.doc}\n")
    assert [line.split()[0] for line in text.splitlines()[2:]] == [p.name for p in piece.parameters]
    assert all(p.doc in text for p in piece.parameters)


def test_one_method_is_explained(rich, capsys):
    """Choices, companions and notes are shown."""
    text = run(capsys, "ties")[1]
    assert f"{SCOPE.doc}, tensor or model\n" in text
    assert "checkpoint fisher (required per model): its Fisher information\n" in text
    assert "checkpoint mask (optional): m\n" in text
    assert "note: Vectors are averaged.\n" in text


def test_ranges_are_shown(capsys):
    """A parameter's range stands behind its meaning."""
    assert "share of entries kept, in [0, 1]\n" in run(capsys, "ties")[1]


def test_json_has_it_all(rich, capsys):
    """Family, kinds, choices, companions, notes and BibTeX, for machines."""
    ties = next(m for m in json.loads(run(capsys, "--json")[1]) if m["name"] == "ties")
    assert ties["family"] == "elementwise"
    assert (ties["parameters"][0]["kind"], ties["parameters"][0]["choices"]) == ("choice", ["tensor", "model"])
    assert ties["companions"][0] == {
        "name": "fisher",
        "doc": "its Fisher information",
        "per_model": True,
        "required": True,
        "delta": False,
        "gram": False,
    }
    assert ties["notes"] == ["Vectors are averaged."]
    assert ties["bibtex"] == rich.cites.bibtex


def test_cite_one(capsys):
    """One entry, found by an alias too, with the key that it has among all."""
    entry = bibliography(m.cites for m in METHODS.values())[METHODS["linear"].cites]
    assert run(capsys, "linear", "--cite") == (0, entry + "\n")
    assert run(capsys, "average", "--cite") == (0, entry + "\n")


def test_cite_all(capsys):
    """Each paper once, in the order of keys."""
    text = run(capsys, "--cite")[1]
    keys = [line.removeprefix("@misc{") for line in text.splitlines() if line.startswith("@")]
    assert keys == sorted(set(keys))
    assert len(keys) == len({m.cites.title.casefold() for m in METHODS.values()}) < len(METHODS)


def test_markdown(capsys):
    """The page of the documentation, exactly; with a name, its section alone."""
    assert run(capsys, "--markdown") == (0, document(METHODS))
    text = run(capsys, "ties", "--markdown")[1]
    assert text.startswith("## ties\n")
    assert text in document(METHODS)
