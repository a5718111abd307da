"""Evaluation under faults: a cache that fails costs time, never a figure; what is wrong with one model is its row."""

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

import numpy as np
import pytest

from evaluating import digits_bench
from stockpot.cli.main import main
from stockpot.errors import StockpotError, StorageError
from stockpot.evaluate import Cache, candidate, evaluate, load_suite
from stockpot.evaluate import cache as module
from stockpot.evaluate.run import told

FILE = "evaluate.sqlite"


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "_WAIT_SECONDS", 0.2)
    return digits_bench(tmp_path)


def run(*models, cache="kept"):
    """Exit code and figures by model."""
    command = ["evaluate", *models, "--suite", "suite.yml", "--allow-code", "--quiet", "--json", "out.json"]
    Path("out.json").unlink(missing_ok=True)
    code = main([*command, *(["--cache", cache] if cache else ["--no-cache"])])
    if not Path("out.json").exists():
        return code, None
    cells = json.loads(Path("out.json").read_text())["cells"]
    return code, {cell["model"]: [f["value"] for f in cell["figures"]] for cell in cells}


def rows(cache="kept"):
    with closing(sqlite3.connect(Path(cache) / FILE)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return database.execute("SELECT count(*) FROM predictions").fetchone()[0]


def test_a_lock_that_is_held_for_long(bench, capsys):
    """The figures come nevertheless, once the wait is over, and a note names the file; it is waited for once."""
    wanted = run("base", "low", "merge.yml", cache=None)
    assert run("base") == (0, {"base": wanted[1]["base"]})
    with closing(sqlite3.connect(bench / "kept" / FILE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        capsys.readouterr()
        assert run("base", "low", "merge.yml") == wanted
        told = capsys.readouterr().err
        assert told.count("note: the cache of predictions fails: database is locked; figures are right, but not") == 1
        assert FILE in told
        assert "--no-cache" in told
    assert run("base", "low", "merge.yml") == wanted
    assert rows() == 3


def test_a_full_disk(bench, monkeypatch, capsys):
    """Likewise; nothing is kept, and what was there before stays."""
    run("base")
    opened = module._opened

    def full(where):
        database = opened(where)
        database.execute(f"PRAGMA max_page_count = {database.execute('PRAGMA page_count').fetchone()[0]}")
        return database

    monkeypatch.setattr(module, "_opened", full)
    capsys.readouterr()
    assert run("base", "low", "high") == run("base", "low", "high", cache=None)
    assert "database or disk is full" in capsys.readouterr().err
    monkeypatch.undo()
    assert rows(bench / "kept") >= 1


@pytest.mark.parametrize("kind", ["no folder there", "no database", "a folder"])
def test_a_cache_that_cannot_be_opened(bench, capsys, kind):
    """One clean error that names the file and both ways on, before anything is computed."""
    cache = "kept"
    if kind == "no folder there":
        cache = "/proc/none"
    else:
        (bench / "kept").mkdir()
        place = bench / "kept" / FILE
        place.mkdir() if kind == "a folder" else place.write_bytes(b"no database " * 1000)
    assert run("base", cache=cache) == (6, None)
    told = capsys.readouterr().err
    assert f"{cache}/{FILE}" in told
    assert "--no-cache" in told
    assert "Traceback" not in told


def test_a_folder_that_may_only_be_read(bench):
    """A database that was made and may not be written any more: figures, or the clean error."""
    wanted = run("base")
    for path in (bench / "kept").iterdir():
        path.chmod(0o444)
    (bench / "kept").chmod(0o555)
    try:
        if os.access(bench / "kept", os.W_OK):
            pytest.skip("this user may write everywhere")
        code, found = run("base")
        assert (code, found) in (wanted, (6, None))
    finally:
        (bench / "kept").chmod(0o755)


def test_damaged_entries_are_never_taken_for_predictions(bench):
    """Every byte of an entry counts, and so does whose entry it is."""
    given = {"labels": np.arange(5), "predicted": np.arange(5) % 2}
    with Cache(bench / "c") as cache:
        cache.keep("model", "task", given)
        cache.keep("other", "task", {"labels": np.arange(5), "predicted": np.arange(5)})
        cache.remember("file", "hash")
        cache.remember("other file", "other hash")
        database = cache._db
        (entry,) = database.execute("SELECT columns FROM predictions WHERE model = 'model'").fetchone()
        for place in range(0, len(entry), 7):
            broken = bytearray(entry)
            broken[place] ^= 1 << place % 8
            database.execute("UPDATE predictions SET columns = ? WHERE model = 'model'", (bytes(broken),))
            assert cache.predictions("model", "task") is None, place
        for other in (entry[:-3], b"", "text", 3, None):
            if other is not None:
                database.execute("UPDATE predictions SET columns = ? WHERE model = 'model'", (other,))
            else:
                database.execute(
                    "UPDATE predictions SET columns = (SELECT columns FROM predictions WHERE model = 'other')"
                )
            assert cache.predictions("model", "task") is None
        database.execute("UPDATE known SET value = (SELECT value FROM known WHERE key = 'other file')")
        assert cache.recall("file") is None
        assert cache.recall("other file") == "other hash"
        assert cache.trouble is None
        cache.keep("model", "task", given)
        assert all(np.array_equal(given[name], column) for name, column in cache.predictions("model", "task").items())


def test_a_damaged_file_gives_right_figures_or_an_error(bench):
    """Pages of rubbish anywhere in the database: the figures are those without a cache, or there is a clean error."""
    suite = load_suite(bench / "suite.yml", allow_code=True)
    models = [candidate(name) for name in ("base", "low", "high")]

    def figures(cache):
        return [[f.value for f in cell.figures] for cell in evaluate(models, suite, cache=cache).cells]

    wanted = figures(None)
    with Cache(bench / "c") as cache:
        assert figures(cache) == wanted
    whole = (bench / "c" / FILE).read_bytes()
    ends = {"right": 0, "error": 0}
    chosen = random.Random(0)
    for _ in range(25):
        broken = bytearray(whole)
        for _ in range(chosen.choice((1, 3, 30))):
            start = chosen.randrange(0, len(whole), 512)
            broken[start : start + 64] = chosen.randbytes(64)
        for path in (bench / "c").iterdir():
            path.unlink()
        (bench / "c" / FILE).write_bytes(broken)
        try:
            with Cache(bench / "c") as cache:
                assert figures(cache) == wanted
            ends["right"] += 1
        except StorageError as error:
            told = str(error)
            ends["error"] += FILE in told and "--no-cache" in told
    assert sum(ends.values()) == 25, told
    assert all(ends.values()), ends


def test_that_data_was_used_to_choose_is_noted_or_an_error(bench):
    """Figures that were chosen by must be marked later, so a choice that cannot be noted is none."""
    suite = load_suite(bench / "suite.yml", allow_code=True)
    with Cache(bench / "c") as cache, closing(sqlite3.connect(bench / "c" / FILE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="locked"):
            evaluate([candidate("base")], suite, split="select", cache=cache, choosing="soup")
        other.execute("ROLLBACK")
        evaluate([candidate("base")], suite, split="select", cache=cache, choosing="soup")
        assert cache.chosen(suite.tasks[0].content("select")) == "soup"


KEEPS = """
import sys
from pathlib import Path
import numpy as np
from stockpot.evaluate import Cache
with Cache(Path("c")) as cache:
    for i in range(10**6):
        cache.keep(sys.argv[1], str(i), {"labels": np.full(2000, i)})
        print(i, flush=True)
"""


def test_killed_writers_leave_a_sound_cache(bench):
    """Several processes that open one new cache at once and write, each killed: all that was kept is there, intact."""
    writers = [
        subprocess.Popen([sys.executable, "-c", KEEPS, str(n)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for n in range(3)
    ]
    for n, writer in enumerate(writers):
        assert writer.stdout.readline() == b"0\n", writer.stderr.read()
        time.sleep(0.05 * n)
        writer.send_signal(signal.SIGKILL)
    last = [[0, *map(int, w.stdout.read().split(b"\n")[:-1])][-1] for w in writers]
    for writer in writers:
        writer.stderr.close()
        writer.stdout.close()
        assert writer.wait() == -signal.SIGKILL
    assert rows(bench / "c") >= sum(last) + 3
    with Cache(bench / "c") as cache:
        for n, count in enumerate(last):
            for i in range(count + 1):
                assert cache.predictions(str(n), str(i))["labels"].tolist() == [i] * 2000


def test_a_killed_evaluation_is_run_again(bench):
    """Killed once its first prediction is kept: the same command then finds that one and makes the others."""
    (bench / "nets.py").write_text((bench / "nets.py").read_text() + SLOW)
    (bench / "suite.yml").write_text((bench / "suite.yml").read_text().replace("nets:logits", "nets:slow"))
    command = [sys.executable, "-m", "stockpot", "evaluate", "base", "low", "high", "--suite", "suite.yml"]
    slow = subprocess.Popen(
        [*command, "--allow-code", "--cache", "kept"], stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert b"base, clean: 300 examples" in slow.stderr.readline()
    slow.kill()
    slow.communicate()
    assert rows() == 1
    (bench / "go").touch()
    (code, found), (_, anew) = run("base", "low", "high"), run("base", "low", "high", cache=None)
    assert code == 0
    assert found == {name: pytest.approx(figures, rel=1e-6) for name, figures in anew.items()}  # by another process
    assert rows() == 3


SLOW = """
import time
from pathlib import Path

def slow(tensors, inputs):
    while not Path("go").exists() and Path("again").exists():
        time.sleep(0.01)
    Path("again").touch()
    return logits(tensors, inputs)
"""


def test_a_recipe_that_is_wrong_is_a_failed_row(bench, capsys):
    """The others go on, and the exit code is 1; when all are wrong, it is the error of the first."""
    (bench / "bad.yml").write_text("merge_method: linnear\nmodels: [{model: low}]\n")
    (bench / "worse.yml").write_text("[")
    sound = run("base", "merge.yml", cache=None)[1]
    failed = {"bad": [], "low+a+b": [], "absent": []}
    assert run("base", "bad.yml", "low+a+b", "absent.yml", "merge.yml", cache=None) == (1, sound | failed)
    cells = {c["model"]: c["error"] for c in json.loads(Path("out.json").read_text())["cells"]}
    assert "linnear" in cells["bad"]
    assert "did you mean linear" in cells["bad"]
    assert "more than one +" in cells["low+a+b"]
    assert "absent.yml" in cells["absent"]
    capsys.readouterr()
    assert run("bad.yml", "worse.yml", cache=None) == (3, None)
    assert "linnear" in capsys.readouterr().err


def test_the_python_function_raises_at_once(bench):
    """A recipe that is wrong is an error of :func:`candidate`, not of an evaluation later."""
    (bench / "bad.yml").write_text("merge_method: linnear\nmodels: [{model: low}]\n")
    with pytest.raises(StockpotError, match="linnear"):
        candidate("bad.yml")


def test_an_error_without_words_tells_where_it_was_raised():
    """As of an assertion in a package: its name alone would help nobody."""

    def fail():
        assert len(()) > 0

    with pytest.raises(AssertionError) as caught:
        fail()
    caught.value.args = ()
    assert told(caught.value).startswith("AssertionError: test_evaluation_faults.py, line ")
    assert "assert len(()) > 0" in told(caught.value)
    assert told(ValueError("what is wrong")) == "ValueError: what is wrong"
    assert told(KeyError()) == "KeyError:"
