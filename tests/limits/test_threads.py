"""``--threads`` holds for everything that computes: workers, linear algebra, compiled code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from measured import MIB, environment, large_model, stockpot

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs the CPU times of /proc/PID/task")

TICK = os.sysconf("SC_CLK_TCK")
WINDOW = 0.5
_STARTING = 2  # windows in which the program starts, and the BLAS pool spins with nothing to do


def _seconds(stat):
    """Seconds of CPU that a ``stat`` file of a process or thread tells."""
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def cpu_times(pid):
    """Thread number → seconds of CPU that it has had, for all threads of a process that live."""
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(OSError):  # it has just ended
            found[int(task.parent.name)] = _seconds(task)
    return found


def sampled(*arguments, **more):
    """(CPU seconds per second, number of threads that computed beside the first one) for each half second.

    A thread counts from a quarter of that time on: those of a BLAS pool spin for a tenth of a second when they begin.
    """
    command = [sys.executable, "-m", "stockpot", *map(str, arguments)]
    process = subprocess.Popen(command, env=environment(**more), stdout=subprocess.DEVNULL)
    found, then, before, total = [], time.perf_counter(), {}, 0.0
    while process.poll() is None:
        time.sleep(WINDOW)
        after = cpu_times(process.pid)
        if process.pid not in after:
            break
        used, now = _seconds(Path(f"/proc/{process.pid}/stat")), time.perf_counter()
        busy = [t for t in after if t != process.pid and after[t] - before.get(t, 0.0) > (now - then) / 4]
        found.append(((used - total) / (now - then), len(busy)))
        then, before, total = now, after, used
    assert process.wait() == 0
    return found


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """Recipes that keep workers busy: decompositions, and an elementwise method."""
    folder = tmp_path_factory.mktemp("threads")
    for kind, shapes in (
        ("matrix", {f"layers.{i}.w": (512, 512) for i in range(12)}),
        ("rows", {f"layers.{i}.w": (4096, 4096) for i in range(24)}),
    ):
        for i in range(3):
            large_model(folder / kind / f"m{i}", shapes, data=1 << 18, seed=i)
    found = {}
    for kind, method, parameters in (("matrix", "tsv_m", {}), ("rows", "della", {"density": 0.5, "epsilon": 0.2})):
        models = [{"model": str(folder / kind / f"m{i}")} for i in (1, 2)]
        recipe = {"merge_method": method, "base_model": str(folder / kind / "m0"), "models": models}
        found[kind] = folder / f"{kind}.yml"
        found[kind].write_text(json.dumps({**recipe, "parameters": parameters}))
    return found


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["matrix", "rows"])
def test_no_more_threads_work_than_were_given(recipes, tmp_path, kind, threads):
    """At most N threads compute beside the first, which waits for them, though the BLAS library has a pool of four."""
    stockpot("merge", recipes[kind], tmp_path / "warm", "--quiet")  # kernels are compiled
    limits = ("--threads", threads, "--quiet")
    windows = sampled("merge", recipes[kind], tmp_path / "out", *limits, OPENBLAS_NUM_THREADS="4")[_STARTING:]
    working = [(rate, busy) for rate, busy in windows if busy]
    assert working
    assert max(rate for rate, _ in working) <= threads + 0.5
    assert max(busy for _, busy in working) <= threads


POOLED = """
import json, sys, time
import numpy as np
from threadpoolctl import threadpool_info
sys.path.insert(0, {folder!r})
from test_threads import cpu_times
import os, numba
import stockpot as sp, stockpot.execute.local

big = np.ones((1500, 1500))
big @ big
pool = cpu_times(os.getpid())
sizes = {{p["filepath"]: p["num_threads"] for p in threadpool_info()}}
time.sleep(1.0)  # idle threads of a pool spin for a while
before = cpu_times(os.getpid())
sp.merge({recipe!r}, {out!r}, threads=1)
after = cpu_times(os.getpid())
try:
    layer = numba.threading_layer()
except ValueError:
    layer = None
print(json.dumps({{
    "pool": len(pool) - 1,
    "burnt": [after[t] - before[t] for t in pool if t != os.getpid()],
    "sizes": [sizes, {{p["filepath"]: p["num_threads"] for p in threadpool_info() if p["filepath"] in sizes}}],
    "layer": layer,
}}))
"""


def test_a_pool_that_was_there_before_rests(recipes, tmp_path):
    """Threads of a BLAS pool made before a merge from Python have nothing to do in it, and are there after it."""
    code = POOLED.format(folder=str(Path(__file__).parent), recipe=str(recipes["matrix"]), out=str(tmp_path / "out"))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(OPENBLAS_NUM_THREADS="3"),
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    assert told["pool"] >= 1
    assert sum(told["burnt"]) <= 0.05
    assert told["sizes"][0] == told["sizes"][1]
    assert told["layer"] is None


def test_a_thread_reserves_little(recipes, tmp_path):
    """Workers cost their buffers, not a heap each: four threads stay within what is planned for them."""
    done = stockpot("merge", recipes["rows"], tmp_path / "out", "--threads", "4", "--memory", "1GiB", "--quiet")
    plan = json.loads(stockpot("plan", recipes["rows"], "--threads", "4", "--json").out)["cost"]
    assert plan["threads"] == 4
    assert 0 < done.peak <= plan["memory"] < 320 * MIB
