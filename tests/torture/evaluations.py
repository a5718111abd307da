"""Kills of evaluations and soups: the same command then finds the same figures, with the cache that was left."""

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

from scene import HERE

from evaluating import digits_bench

__all__ = ["VERBS", "kill_evaluations"]

VERBS = {
    "evaluate": ("evaluate", "base", "low", "high", "merge.yml"),
    "soup": ("soup", "base", "low", "high"),
}
OPTIONS = ("--suite", "suite.yml", "--allow-code", "--quiet", "--threads", "2", "--json", "out.json")


class _Bench:
    """Models and a suite, and a server whose children measure them."""

    def __init__(self, folder, verb):
        self.folder, self._arguments = Path(folder), [*VERBS[verb], *OPTIONS]
        self.folder.mkdir(parents=True)
        digits_bench(self.folder)
        self._server = subprocess.Popen(
            [sys.executable, str(HERE / "server.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._ask(args=[*self._arguments, "--no-cache"]) == {"warm": 0}
        self.right = self.figures()

    def start(self):
        return self._ask(args=[*self._arguments, "--cache", "kept"], log=str(self.folder / "log"))["pid"]

    def end(self):
        self._server.stdin.write(json.dumps({"wait": True}) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())["code"]

    def figures(self):
        """Every figure of the result, and what was chosen."""
        data = json.loads((self.folder / "out.json").read_text())
        parts = [data] if "cells" in data else [data["select"], data["report"]]
        return data.get("members"), [[c["model"], c["task"], c["figures"]] for part in parts for c in part["cells"]]

    def sound(self):
        """Whether the database passes SQLite's own check."""
        file = self.folder / "kept" / "evaluate.sqlite"
        if not file.exists():
            return True
        with closing(sqlite3.connect(file)) as database:
            return database.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    def clear(self):
        subprocess.run(["rm", "-rf", str(self.folder / "kept"), str(self.folder / "out.json")], check=True)

    def close(self):
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait()

    def _ask(self, **request):
        self._server.stdin.write(json.dumps({"folder": str(self.folder), **request}) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


def kill_evaluations(folder, verb, count, seed=0):
    """SIGKILL at ``count`` random moments, each followed by the same command; returns how many tries that took.

    Every third time the cache is a new one, so that kills come while it is made, too.
    """
    chosen, bench = random.Random(seed), _Bench(folder, verb)
    started = time.perf_counter()
    bench.start()
    assert bench.end() == 0
    takes = time.perf_counter() - started
    killed = tries = 0
    while killed < count:
        if tries % 3 == 0:
            bench.clear()
        tries += 1
        pid = bench.start()
        time.sleep(chosen.uniform(0, 1.1 * takes))
        os.kill(pid, signal.SIGKILL)
        killed += bench.end() == -signal.SIGKILL
        assert bench.sound(), f"{verb}: kill {tries}"
        bench.start()
        assert bench.end() == 0, f"{verb}: kill {tries}"
        assert bench.figures() == bench.right, f"{verb}: kill {tries}"
    bench.close()
    return tries
