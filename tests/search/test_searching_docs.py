"""What docs/search.md shows of searching works, and its tables are complete."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from searching import tuning_bench

from stockpot.cli.main import main
from stockpot.cli.search import command
from stockpot.errors import UnsupportedError
from stockpot.search import SAMPLERS
from stockpot.search.tuning.halving import REDUCTION
from stockpot.search.tuning.samplers import POPULATION, check_optuna

PAGE = (Path(__file__).parents[2] / "docs" / "search.md").read_text(encoding="utf-8")


def test_python_of_the_page(tmp_path, monkeypatch, capsys):
    """It runs as it stands, and the recipe that it prints is one."""
    monkeypatch.chdir(tmp_path)
    tuning_bench(tmp_path)
    (code,) = (one for one in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "search(" in one)
    exec(code, {})
    shown = capsys.readouterr().out
    (tmp_path / "won.yml").write_text(shown[shown.index("merge_method") :])
    assert main(["check", "won.yml"]) == 0


def test_nothing_is_imported_before_it_is_used(monkeypatch):
    """The room imports without Optuna, and says what to install when it is missing."""
    names = "{'optuna', 'sqlalchemy', 'torch', 'cmaes'}"
    code = f"import stockpot.search, stockpot.cli.search, sys; assert not {names} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'stockpot\[search\]'"):
        check_optuna()


def test_tables_and_numbers_of_the_page():
    """Every sampler has its row, in the verb too; defaults are as declared."""
    rows = re.findall(r"^\| `([a-z][\w-]+)` \|", PAGE[PAGE.index("## Samplers") :], re.MULTILINE)
    assert rows == list(SAMPLERS)
    options = {parameter.opts[0]: parameter for parameter in command.params}
    assert list(options["--sampler"].type.choices) == rows
    for name, value in re.findall(r"`(--[\w-]+)` \((\d+)\)", PAGE):
        assert options[name].default == int(value)
    assert f"Generations of {POPULATION}," in PAGE
    assert f"reduction {REDUCTION})" in PAGE
    assert all(f"`{name}" in PAGE or name in PAGE for name in ("--trials", "--study", "--jobs", "--rungs", "--pareto"))
