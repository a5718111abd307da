"""Compiled kernels are kept where they may be written, and belong to one version of the sources."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from measured import environment
from stockpot.errors import ExecutionError
from stockpot.kernels import compile as compilation

CALL = """
import sys, numpy as np
from stockpot.kernels import convert
from stockpot.kernels.compile import _Kernel, _PartCompiler
{before}
values = np.zeros(3)
convert.widen_block(np.arange(3.0).view(np.uint8), 0, 3, values, np.zeros(2048))
print(values.tolist(), _Kernel.here, _PartCompiler.made)
"""
"""Calls a kernel; prints what it made, whether kernels may be compiled here, how many parts of kernels were."""


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


def called(cache, before=""):
    """What a process prints that calls a kernel with the cache ``cache``."""
    done = subprocess.run(
        [sys.executable, "-c", CALL.format(before=before)],
        env=environment(STOCKPOT_CACHE_DIR=str(cache)),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_nothing_is_compiled_where_it_is_called(tmp_path):
    """With an empty cache a kernel is compiled by another process: the caller compiles no part of it."""
    assert called(tmp_path) == "[0.0, 1.0, 2.0] False 0"
    assert list(tmp_path.rglob("*.widen_block-*.nbc"))


def test_a_process_that_has_compiled_enough_is_followed_by_another(tmp_path):
    """Parts are compiled a few at a time, each process going on where the one before ended."""
    few = "import stockpot.kernels.compile as c; c._PARTS = 1; c._MOST_PROCESSES = "
    assert called(tmp_path / "one", few + "1").startswith("[0.0, 1.0, 2.0] True")
    assert called(tmp_path / "more", few + "9") == "[0.0, 1.0, 2.0] False 0"


def test_where_no_process_can_be_started_it_is_compiled_here(tmp_path):
    """An interpreter that embeds Python has no command of its own: the result is the same."""
    assert called(tmp_path, "sys.executable = '/nowhere/python'").startswith("[0.0, 1.0, 2.0] True")


def test_a_compiler_that_is_killed_is_an_error(monkeypatch):
    """A process that the system ends for want of memory is not tried again inside the merge."""
    monkeypatch.setattr(compilation, "_COMMAND", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(ExecutionError, match=r"was killed \(signal 9\)"):
        compilation._compile_elsewhere("stockpot.kernels.convert", "widen_block", ())


def test_kernels_tell_what_they_are():
    """A kernel has the name and the docstring of its function."""
    from stockpot.kernels.convert import widen_block

    assert widen_block.__name__ == "widen_block"
    assert widen_block.__doc__
