"""Compiled kernels are kept where they may be written, and belong to one version of the sources."""

from __future__ import annotations

import os
import subprocess
import sys

from stockpot.kernels import compile as compilation


def folder_in_subprocess(**environment):
    code = "from stockpot.kernels.compile import cache_folder; print(cache_folder())"
    known = {k: v for k, v in os.environ.items() if k not in ("STOCKPOT_CACHE_DIR", "XDG_CACHE_HOME", "HOME")}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**known, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_cache_lies_where_the_user_says(tmp_path):
    """STOCKPOT_CACHE_DIR comes before XDG_CACHE_HOME, which comes before the home folder."""
    one, two, home = tmp_path / "one", tmp_path / "two", tmp_path / "home"
    places = {"STOCKPOT_CACHE_DIR": str(one), "XDG_CACHE_HOME": str(two), "HOME": str(home)}
    assert folder_in_subprocess(**places).startswith(str(one))
    del places["STOCKPOT_CACHE_DIR"]
    assert folder_in_subprocess(**places).startswith(str(two / "stockpot"))
    del places["XDG_CACHE_HOME"]
    assert folder_in_subprocess(**places).startswith(str(home))


def test_a_cache_that_cannot_be_written_is_passed_over(tmp_path):
    """When the wanted folder cannot be made, the next candidate is taken instead of failing."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    other = tmp_path / "other"
    found = folder_in_subprocess(STOCKPOT_CACHE_DIR=str(blocked / "below"), XDG_CACHE_HOME=str(other))
    assert found.startswith(str(other))


def test_other_sources_get_another_cache(monkeypatch, tmp_path):
    """The folder's name changes with the kernels' sources, so that a new version never meets old code."""
    before = compilation._digest()
    for name in ("a.py", "compile.py"):
        (tmp_path / name).write_text("x = 1\n")
    monkeypatch.setattr(compilation, "__file__", str(tmp_path / "compile.py"))
    changed = compilation._digest()
    (tmp_path / "a.py").write_text("x = 2\n")
    assert len({before, changed, compilation._digest()}) == 3
