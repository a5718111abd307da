"""The output appears whole or not at all, and nothing that was there is lost."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import stockpot as sp
from files import files_below, read_model, write_model
from stockpot.execute import local

NAMES = ("model.embed_tokens.weight", "model.layers.0.w", "model.layers.1.w")
CONFIG = {"model_type": "toy", "num_hidden_layers": 2}


def arrays(seed, elements=64):
    rng = np.random.default_rng(seed)
    return {n: rng.normal(size=elements).astype(np.float32) for n in NAMES}


@pytest.fixture
def place(tmp_path):
    """A folder with two models."""
    for seed, name in enumerate("ab"):
        write_model(tmp_path / name, arrays(seed), config=CONFIG)
    return tmp_path


def mean(place):
    return 0.5 * sp.open(place / "a") + 0.5 * sp.open(place / "b")


@contextlib.contextmanager
def as_nobody():
    """Without the superuser's rights, where the tests have them."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_way(place):
    """The folders above ``place`` may be entered by anyone while a test runs."""
    above = [(p, p.stat()) for p in (place, *place.parents)]
    before = {p: s.st_mode for p, s in above if s.st_uid == os.geteuid() and s.st_mode & 0o055 != 0o055}
    for p, mode in before.items():
        p.chmod(mode | 0o055)
    yield place
    for p, mode in before.items():
        p.chmod(mode)


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_folder_without_permission_is_named(open_way, mode):
    """A place where nothing may be written (or even looked at) is one error before the merge, with the way out."""
    sp.compute(mean(open_way))  # everything is imported before rights are given up
    locked = open_way / "locked"
    locked.mkdir()
    locked.chmod(mode)
    try:
        with as_nobody(), pytest.raises(sp.PlanError) as caught:
            sp.save(mean(open_way), locked / "out")
    finally:
        locked.chmod(0o755)
    assert str(locked) in str(caught.value)
    assert "fix:" in str(caught.value)
    assert files_below(locked) == []


@pytest.mark.skipif(os.name != "posix", reason="permissions of files are POSIX")
def test_an_input_without_permission_is_named(open_way):
    """A weight file that may not be read is named when the model is opened."""
    file = open_way / "b" / "model.safetensors"
    file.chmod(0)
    try:
        with as_nobody(), pytest.raises(sp.CheckpointError) as caught:
            sp.compute(mean(open_way))
    finally:
        file.chmod(0o644)
    assert str(file) in str(caught.value)


def test_the_folder_that_merging_uses_is_no_input(place):
    """A model in OUT.partial is not swept away by a merge into OUT that reads it."""
    name = "out.partial"
    (place / "b").rename(place / name)
    expression = 0.5 * sp.open(place / "a") + 0.5 * sp.open(place / name)
    (place / "out").mkdir()
    with pytest.raises(sp.PlanError, match=name):
        sp.save(expression, place / "out", overwrite=True)
    assert read_model(place / name).keys() == set(NAMES)


def test_a_folder_of_someone_else_is_left_alone(place):
    """A folder OUT.partial that no merge has made is not used, let alone deleted."""
    other = place / "out.partial"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    for options in ({}, {"restart": True}):
        with pytest.raises(sp.PlanError, match=r"something else: thesis\.tex"):
            sp.save(mean(place), place / "out", **options)
    assert (other / "thesis.tex").read_text() == "mine"


def test_the_parents_of_the_output_are_made(place):
    """The output may lie in folders that do not exist yet."""
    sp.save(mean(place), place / "x" / "y" / "out")
    assert len(read_model(place / "x" / "y" / "out")) == 3


def test_the_current_folder_is_not_replaced(place, monkeypatch):
    """``.`` and the folders above it are refused, also with overwrite: a shell would stand in a deleted folder."""
    here = place / "out" / "here"
    here.mkdir(parents=True)
    (here / "old.txt").write_text("old")
    monkeypatch.chdir(here)
    for out in (".", "..", here, place / "out"):
        with pytest.raises(sp.PlanError, match="current folder"):
            sp.save(mean(place), out, overwrite=True)
    assert (here / "old.txt").read_text() == "old"


def test_the_root_is_never_replaced(place):
    """A folder that holds an input, the root of the disk among them, is refused even with overwrite."""
    for out in ("/", place, place.parent):
        with pytest.raises(sp.PlanError, match="input"):
            sp.save(mean(place), out, overwrite=True)
    assert len(read_model(place / "a")) == 3


def test_an_output_reached_by_a_link_is_still_the_input(place):
    """The check sees through symbolic links."""
    (place / "link").symlink_to(place / "a")
    with pytest.raises(sp.PlanError, match="input"):
        sp.save(mean(place), place / "link", overwrite=True)


def test_a_failed_overwrite_keeps_the_old_output(place):
    """A merge that fails half-way with overwrite leaves the earlier output as it was."""
    sp.save(mean(place), place / "out")
    before = {n: (place / "out" / n).read_bytes() for n in files_below(place / "out")}
    bad = arrays(1)
    bad[NAMES[2]][5] = np.nan
    write_model(place / "b", bad, config=CONFIG)
    with pytest.raises(sp.ExecutionError, match="NaN"):
        sp.save(mean(place), place / "out", overwrite=True)
    assert {n: (place / "out" / n).read_bytes() for n in files_below(place / "out")} == before
    assert sorted(p.name for p in place.iterdir()) == ["a", "b", "out"]


def test_a_small_file_that_vanishes_is_an_error(place):
    """A tokenizer that was removed after the plan was made stops the merge, by name; the tensors are kept."""
    (place / "a" / "tokenizer.json").write_text("{}")
    plan = sp.plan(mean(place), place / "out")
    (place / "a" / "tokenizer.json").unlink()
    with pytest.raises(sp.StorageError, match=r"tokenizer\.json(.|\n)*3 of 3 tensors are kept"):
        local.execute(plan, place / "out")
    assert not (place / "out").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits on file sizes are the system's")
def test_a_limit_on_file_sizes_in_a_process_of_its_own(place):
    """Where the system lets a file grow no further (ulimit -f), the exit code is 6 and nothing is left."""
    for seed, name in enumerate("ab"):
        write_model(place / name, arrays(seed, 40_000), config=CONFIG)
    (place / "r.yml").write_text("merge_method: linear\nmodels: [{model: a}, {model: b}]\n")
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "import stockpot.api\n"
        "from stockpot.cli.main import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "sys.exit(main(['merge', 'r.yml', 'out']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 6, done.stderr
    assert "model.safetensors" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(place.glob("out*"))


def test_progress_reaches_its_end(place):
    """Progress is told in bytes, never runs backwards, and ends at the whole."""
    told = []
    sp.save(mean(place), place / "out", progress=lambda done, total: told.append((done, total)))
    totals = {total for _, total in told}
    assert totals == {2 * 3 * 64 * 4}
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][0] == told[-1][1]


def test_an_error_in_progress_stops_the_merge(place):
    """What the caller's progress function raises ends the merge; the same call then completes it."""

    def stop(_done, _total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sp.save(mean(place), place / "out", progress=stop)
    assert not (place / "out").exists()
    sp.save(mean(place), place / "out")
    assert [p.name for p in place.glob("out*")] == ["out"]


def test_the_receipt_describes_the_result(place):
    """Each tensor's file, dtype and shape, the seed and the identity of both inputs stand in the receipt."""
    result = sp.save(mean(place), place / "out", seed=5, dtype="bfloat16", shard_size=200)
    receipt = json.loads((place / "out" / "stockpot-receipt.json").read_text())
    assert receipt == result.receipt
    assert receipt["seed"] == 5
    assert set(receipt["inputs"]) == {str(place / "a"), str(place / "b")}
    for name, row in receipt["tensors"].items():
        assert (row["dtype"], row["shape"]) == ("BF16", [64])
        assert name in read_model(place / "out")
        assert (place / "out" / row["file"]).exists()
    card = (place / "out" / "README.md").read_text()
    assert str(place / "a") in card
