"""Three adapters of GPT-2 that were trained on different domains, where they are at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from making import apart, changes, made

from stockpot.execute.lora import portrait
from stockpot.execute.verify import verify

DATA = Path(__file__).parents[3] / "shared" / "data" / "weights" / "lora_gpt2_domains"
NAMES = ("legal", "medical", "sports")

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the three GPT-2 adapters do not lie in ../shared/data")


def folders():
    """Where they lie."""
    return [DATA / name for name in NAMES]


def test_concat_and_the_best_of_rank_8(tmp_path, capsys):
    """The sum is exact; its cut to the rank of one keeps what trained adapters are known to keep: most."""
    parts = [changes(f) for f in folders()]
    whole = {n: sum(p[n] for p in parts) for n in parts[0]}
    made("merge", *folders(), tmp_path / "sum", "--method=concat")
    assert apart(changes(tmp_path / "sum"), whole) < 1e-6
    told = made("merge", *folders(), tmp_path / "cut", "--method=task_arithmetic", capsys=capsys)
    off = apart(changes(tmp_path / "cut"), whole)
    assert off == pytest.approx(np.sqrt(1 - told["retained"]), rel=1e-3)
    assert 0.9 < told["retained"] < 1.0
    assert len(told["modules"]) == 36
    assert all(m["rank"] == 8 and 0.5 < m["retained"] <= 1.0 for m in told["modules"])
    assert verify(tmp_path / "cut") == ()


def test_energies_fall_with_density_and_rank(tmp_path, capsys):
    """TIES makes dense changes, which lose more than means; a smaller rank keeps less."""
    kept = {}
    for name, more in {"mean": [], "ties": ["--method=ties", "--density=0.2"], "small": ["--rank=2"]}.items():
        kept[name] = made("merge", *folders(), tmp_path / name, *more, capsys=capsys)["retained"]
    assert kept["small"] < kept["mean"]
    assert 0.5 < kept["ties"] < kept["mean"]


def test_per_factor_linear_is_off_by_more_than_the_change(tmp_path, capsys):
    """Its distance from the exact merge is near the root of 2, as for adapters that have nothing in common."""
    told = made("merge", *folders(), tmp_path / "x", "--compat=peft", "--method=linear", capsys=capsys)
    assert 1.2 < told["distance"] < 1.6


def test_inspection_of_what_was_made(tmp_path, capsys):
    """Rank, scale 1 and norms are those of the report."""
    told = made("merge", *folders(), tmp_path / "out", "--space=core", "--method=ties", "--density=0.5", capsys=capsys)
    seen = {m.name: m for m in portrait(str(tmp_path / "out")).modules}
    for row in told["modules"]:
        module = seen[row["module"]]
        assert (module.rank, module.scale) == (row["rank"], 1.0)
        assert module.norm == pytest.approx(row["norm"] * np.sqrt(row["retained"]), rel=1e-5)
