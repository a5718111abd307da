"""What docs/soups.md shows works, and its tables are complete."""

from __future__ import annotations

import re
from pathlib import Path

from evaluating import digits_bench
from stockpot.cli.main import main
from stockpot.cli.soup import command as soup_verb
from stockpot.cli.sweep import command as sweep_verb
from stockpot.search import KINDS, SWEEPS

PAGE = (Path(__file__).parents[2] / "docs" / "soups.md").read_text(encoding="utf-8")


def test_python_of_the_page(tmp_path, monkeypatch, capsys):
    """It runs as it stands, and the recipe that it prints is one."""
    monkeypatch.chdir(tmp_path)
    digits_bench(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(code, {})
    shown = capsys.readouterr().out
    (tmp_path / "chosen.yml").write_text(shown[shown.index("merge_method") :])
    assert main(["check", "chosen.yml"]) == 0


def test_tables_and_options_are_complete():
    """Every kind of soup and sweep has its row, and what the verbs offer is what there is."""
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == list(KINDS)
    assert re.findall(r"^\| `(\w+) [A-Z]", PAGE, re.MULTILINE) == list(SWEEPS)
    for verb, known in ((soup_verb, KINDS), (sweep_verb, SWEEPS)):
        (kind,) = (parameter for parameter in verb.params if parameter.name == "kind")
        assert list(kind.type.choices) == list(known)


def test_default_values_of_the_page():
    """Steps are as declared."""
    rows = re.findall(r"^\| `(\w+) [A-Z].*\| 0, ([\d.]+), … 1 \|$", PAGE, re.MULTILINE)
    assert {name: float(step) for name, step in rows} == {name: kind.step for name, kind in SWEEPS.items()}
