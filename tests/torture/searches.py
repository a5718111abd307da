"""Kills of searches: the same command goes on, and finds what a search in one piece finds."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from searching import tuning_bench

__all__ = ["kill_searches"]

COMMAND = (
    sys.executable, "-m", "stockpot", "search", "recipe.yml", "--suite", "suite.yml", "--allow-code", "--quiet",
    "--metric", "clean.loss", "--trials", "60", "--random", "10", "--lambda-points", "3", "--jobs", "1",
    "--cache", "kept",
)  # fmt: skip


class _Bench:
    """Models, a suite and a recipe with holes; a search in one piece, to compare with."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True)
        tuning_bench(self.folder)
        began = time.perf_counter()
        assert self.wait(self.start("whole")) == 0
        self.takes = time.perf_counter() - began
        self.right = self.found("whole")

    def start(self, name):
        """A process, the first of its group."""
        command = [*COMMAND, "--study", f"{name}.sqlite", "--json", f"{name}.json"]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True)

    def wait(self, process):
        """The exit code, once the whole group is gone: processes of a search end soon after it."""
        code = process.wait()
        until = time.monotonic() + 20
        while _runs(process.pid):
            assert time.monotonic() < until, "a process of the search outlives it"
            time.sleep(0.02)
        return code

    def found(self, name):
        """All that a search found, but for what it took."""
        data = json.loads((self.folder / f"{name}.json").read_text())
        trials = {key: [one | {"seconds": 0} for one in data[key]] for key in ("trials", "random", "shared")}
        return trials, [data[key] for key in ("rows", "front", "recipe", "chosen")]

    def sound(self, name):
        """Whether the study passes SQLite's own check."""
        file = self.folder / f"{name}.sqlite"
        if not file.exists():
            return True
        with closing(sqlite3.connect(file)) as database:
            return database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def kill_searches(folder, count, seed=0):
    """SIGKILL at ``count`` random moments of searches; the same command goes on until one ends, then another begins.

    Returns:
        How many runs that took, and how many searches ended.
    """
    chosen, bench = random.Random(seed), _Bench(folder)
    killed = runs = ended = 0
    while killed < count:
        name = f"search{ended}"
        process = bench.start(name)
        runs += 1
        time.sleep(chosen.uniform(0.3, 1.0) * bench.takes if killed % 4 else chosen.uniform(0, 0.3) * bench.takes)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        code = bench.wait(process)
        killed += code == -signal.SIGKILL
        assert bench.sound(name), f"run {runs}"
        assert code in (0, -signal.SIGKILL), (runs, (bench.folder / "log").read_text())
        if code == 0 or killed == count:
            assert bench.wait(bench.start(name)) == 0, f"run {runs}"
            assert bench.found(name) == bench.right, f"run {runs}"
            ended += 1
    return runs, ended


def _runs(group):
    """Whether a process of the group runs; one that has ended may wait for its parent to be asked."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _parent, own = entry.read_text(errors="replace").rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(own) == group and state != "Z":
            return True
    return False
