"""Inputs that change while they are read: nothing wrong is ever published, and the error names the file."""

from __future__ import annotations

import errno
import os
import shutil

import numpy as np
import pytest
from stopped import NAMES, arrays, contents, merge, opened, path_of, write_models

import stockpot as sp
from files import write_file
from stockpot.checkpoint import reader
from stockpot.execute import local


@pytest.fixture
def place(tmp_path):
    return write_models(tmp_path)


@pytest.fixture
def whole(place):
    """The right bytes."""
    merge(place)
    (place / "out").rename(place / "whole")
    return contents(place / "whole")


def replaced(file):
    """Another file of the same size takes its name; who has the old one open still reads that."""
    write_file(file.with_name("new"), arrays(9))
    file.with_name("new").rename(file)


def rewritten(file):
    """Other numbers in the same file."""
    raw = file.read_bytes()
    with file.open("r+b") as stream:
        stream.seek(len(raw) - 6 * 768)
        stream.write(np.full(6 * 192, 0.5, np.float32).tobytes())
    later(file)


def truncated(file):
    os.truncate(file, file.stat().st_size - 700)
    later(file)


def appended(file):
    with file.open("ab") as stream:
        stream.write(b"more")
    later(file)


def touched(file):
    later(file)


def gone(file):
    file.unlink()


def later(file):
    """A time of change of its own, however coarse the clock of the file system is."""
    now = file.stat()
    os.utime(file, ns=(now.st_atime_ns, now.st_mtime_ns + 10**9))


CHANGES = [replaced, rewritten, truncated, appended, touched, gone]


def refused(run, place, file):
    """The run fails by the name of the file, without an output."""
    with pytest.raises(sp.ExecutionError) as caught:
        run()
    assert str(file) in str(caught.value)
    assert "fix:" in str(caught.value)
    assert not (place / "out").exists()
    return str(caught.value)


def plan_of(place):
    base, a, b = opened(place)
    made = base + sp.dare_ties(a - base, b - base, density=0.5)
    return sp.plan(made, place / "out", seed=3, threads=1)


@pytest.mark.parametrize("change", CHANGES)
def test_between_plan_and_merge(change, place):
    """A file that is not what the plan has seen is not read."""
    plan = plan_of(place)
    file = place / "b" / "model.safetensors"
    change(file)
    text = refused(lambda: local.execute(plan, place / "out"), place, file)
    assert NAMES[0] in text
    assert not (place / "out.partial").exists()


def at_read(monkeypatch, number, action):
    """``action`` is called once, before the ``number``-th read of an input's payload."""
    real, count = reader._read_at, [0]

    def read_at(descriptor, target, offset):
        if ".partial" not in path_of(descriptor):
            count[0] += 1
            if count[0] == number:
                action()
        return real(descriptor, target, offset)

    monkeypatch.setattr(reader, "_read_at", read_at)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("number", [2, 9, 17])
def test_in_the_middle_of_reading(change, number, place, whole, monkeypatch):
    """Whenever it happens, the merge ends with an error; what it kept, if anything, leads to the right bytes."""
    file = place / "b" / "model.safetensors"
    kept_copy = place / "copy"
    shutil.copy2(file, kept_copy)
    before = file.stat()
    at_read(monkeypatch, number, lambda: change(file))
    refused(lambda: merge(place), place, file)
    monkeypatch.undo()
    put_back(kept_copy, file, before)
    merge(place, restart=not same_file(file, before))
    assert contents(place / "out") == whole


def put_back(copy, file, before):
    """The old bytes and time; also the old file, where that is still there, as ``cp -p`` does it."""
    with file.open("r+b" if file.exists() else "wb") as stream:
        stream.truncate(0)
        stream.write(copy.read_bytes())
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def same_file(file, before):
    return file.stat().st_ino == before.st_ino


def test_what_was_read_of_a_file_that_had_changed_is_not_kept(place, whole, monkeypatch):
    """A file rewritten in place, then cut, then put back with its old time: no tensor of the wrong bytes was kept."""
    file = place / "b" / "model.safetensors"
    shutil.copy2(file, place / "copy")
    before = file.stat()
    with monkeypatch.context() as patch:
        at_read(patch, 5, lambda: rewritten(file))
        at_read(patch, 12, lambda: os.truncate(file, 100))
        with pytest.raises(sp.StorageError):
            merge(place)
    put_back(place / "copy", file, before)
    merge(place)
    assert contents(place / "out") == whole


@pytest.mark.parametrize("change", [rewritten, truncated, touched])
def test_a_result_in_memory_is_not_given_either(change, place, monkeypatch):
    """sp.compute notices a change as sp.save does."""
    _, a, b = opened(place)
    file = place / "b" / "model.safetensors"
    at_read(monkeypatch, 5, lambda: change(file))
    with pytest.raises(sp.StorageError) as caught:
        sp.compute(0.5 * a + 0.5 * b)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("number", [3, 12])
def test_while_the_whole_model_is_surveyed(number, place, monkeypatch):
    """A change during the passes over the whole model is noticed before anything is made of them."""
    base, a, b = opened(place)
    file = place / "b" / "model.safetensors"
    at_read(monkeypatch, number, lambda: rewritten(file))
    made = base + sp.ties(a - base, b - base, density=0.5, scope="model")
    refused(lambda: sp.save(made, place / "out", threads=1), place, file)
    assert not (place / "out.partial").exists()


@pytest.mark.parametrize("change", CHANGES)
def test_just_before_the_end(change, place, monkeypatch):
    """After the last read and before the output appears, a change still counts."""
    file = place / "a" / "model.safetensors"
    real = local._unchanged

    def late(plan):
        change(file)
        real(plan)

    monkeypatch.setattr(local, "_unchanged", late)
    refused(lambda: merge(place), place, file)


def test_a_small_file_that_changes(place, whole, monkeypatch):
    """The tokenizer is looked at again when all is written; put back as it was, the merge goes on."""
    file = place / "base" / "tokenizer.json"
    before = file.stat()
    real = local._unchanged

    def late(plan):
        file.write_text("[]")
        later(file)
        real(plan)

    with monkeypatch.context() as patch:
        patch.setattr(local, "_unchanged", late)
        refused(lambda: merge(place), place, file)
    file.write_text("{}")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert merge(place).resumed == 6
    assert contents(place / "out") == whole


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="the system reads otherwise")
@pytest.mark.parametrize("most", [1, 7, 100])
def test_short_reads_are_completed(most, place, whole, monkeypatch):
    """A system that gives fewer bytes than asked for is asked for the rest."""
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda d, buffers, offset: real(d, [buffers[0][:most]], offset))
    merge(place)
    assert contents(place / "out") == whole


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="the system reads otherwise")
@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ENXIO])
@pytest.mark.parametrize("number", [1, 10])
def test_a_read_that_fails_names_file_and_tensor(code, number, place, whole, monkeypatch):
    """One error with both names and the system's words; the same call completes the merge when the disk answers."""

    def fail():
        raise OSError(code, os.strerror(code))

    at_read(monkeypatch, number, fail)
    with pytest.raises(sp.StorageError) as caught:
        merge(place)
    text = str(caught.value)
    assert os.strerror(code) in text
    assert "model.safetensors" in text
    assert "tensor model.layers." in text
    monkeypatch.undo()
    assert merge(place).resumed == (0 if number == 1 else 3)
    assert contents(place / "out") == whole
