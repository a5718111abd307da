"""What docs/evaluate.md shows works, and its tables are complete."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from evaluating import digits, digits_bench, networks
from stockpot.cli.main import main
from stockpot.evaluate.kinds import KINDS, TASK
from stockpot.evaluate.metrics import METRICS

PAGE = (Path(__file__).parents[2] / "docs" / "evaluate.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STOCKPOT_CACHE_DIR", str(tmp_path / "cache"))
    return digits_bench(tmp_path)


def test_own_metric_and_task(bench, capsys):
    """The example of a user's own, of at most 20 lines, is measured as it says."""
    code, suite = blocks("python")[0], blocks("yaml")[1]
    assert len(code.strip().splitlines()) <= 20
    (bench / "mine.py").write_text(code)
    (bench / "suite.yml").write_text(suite)
    (bench / "names.json").write_text(json.dumps(["a.weight", "b.weight", "a.bias", "b.bias"]))
    arguments = ["evaluate", "base", "merge.yml", "--suite", "suite.yml", "--allow-code", "--json", "-", "--quiet"]
    assert main(arguments) == 0
    data = json.loads(capsys.readouterr().out)
    cells = {(c["model"], c["task"]): {f["metric"]: f["value"] for f in c["figures"]} for c in data["cells"]}
    x, y = (part[1000:1300] for part in digits())
    theta = networks()["base"]
    z = np.maximum(x @ theta["a.weight"].T + theta["a.bias"], 0) @ theta["b.weight"].T + theta["b.bias"]
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    wanted = 1 - 2 * p[np.arange(300), y] + (p**2).sum(axis=1)
    assert cells["base", "clean"]["brier"] == pytest.approx(wanted.mean(), rel=1e-5)
    norms = [np.linalg.norm(array) for array in networks()["base"].values()]
    assert cells["base", "norms"]["small"] == np.mean(np.array(norms) < 5)


def test_python_of_the_page(bench, capsys):
    """Choosing on select data and reporting on report data runs as it stands."""
    exec(blocks("python")[1], {})
    name, value = capsys.readouterr().out.splitlines()[0].rsplit(" ", 1)
    assert name.startswith("alpha")
    assert 0.3 < float(value) <= 1


def test_the_first_suite_parses(bench, capsys):
    """Only its data is missing."""
    (bench / "suite.yml").write_text(blocks("yaml")[0])
    assert main(["evaluate", "base", "--suite", "suite.yml"]) == 3
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert told
    assert all("no such file" in line for line in told)


def test_tables_are_complete():
    """Every kind with its keys and default metrics, and every metric."""
    for name, kind in KINDS.items():
        row, *_ = re.findall(rf"^\| `{name}` \|.*$", PAGE, re.MULTILINE)
        assert all(key.name in row for key in kind.keys), name
        assert row.rstrip(" |").endswith(", ".join(kind.metrics))
        assert {"kind", "split", "metrics"} < {key.name for key in TASK[name].keys}
    assert all(f"`{name}`" in PAGE for name in METRICS)
