"""A merge that was broken off goes on where it was: nothing is computed twice, and the bytes are the same."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
from stopped import (
    CONFIG,
    NAMES,
    arrays,
    at_write,
    contents,
    in_memory,
    interrupt,
    louder,
    merge,
    opened,
    path_of,
    reading,
    stop,
    write_models,
)

import stockpot as sp
from files import write_model
from stockpot.execute import local
from stockpot.execute.workplace import kept


@pytest.fixture
def place(tmp_path):
    return write_models(tmp_path)


def linear(place):
    _, a, b = opened(place)
    return 0.3 * a + 0.7 * b


def with_base(method, **parameters):
    def make(place):
        base, a, b = opened(place)
        return base + method(a - base, b - base, **parameters)

    return make


FAMILIES = {
    "linear": linear,
    "ties": with_base(sp.ties, density=0.4),
    "ties over the whole model": with_base(sp.ties, density=0.4, scope="model"),
    "dare": with_base(sp.dare_linear, density=0.5),
    "matrix": with_base(sp.tsv_m),
    "own method": with_base(louder, power=1.5),
    "in memory": lambda _: in_memory(),
    "copies": lambda place: sp.passthrough(sp.open(place / "a")),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("done", [1, 4])
def test_what_is_finished_is_kept_and_the_bytes_are_the_same(family, done, place):
    """Stopped after some tensors: the same call reads only the inputs of the others; all files are as ever."""
    make = FAMILIES[family]
    options = {"seed": 9, "threads": 1, "shard_size": 2000}
    whole = sp.save(make(place), place / "whole", **options)
    stop(lambda: sp.save(make(place), place / "out", **options), done)
    assert not (place / "out").exists()
    assert kept(place / "out") == (done, place / "out.partial")
    with reading() as read:
        result = sp.save(make(place), place / "out", **options)
    assert result.resumed == done
    assert result.receipt == whole.receipt
    assert contents(place / "out") == contents(place / "whole")
    if "whole" not in family and "memory" not in family:
        assert {name for _, name in read} == set(NAMES[done:])
    assert not (place / "out.partial").exists()


@pytest.mark.parametrize("options", [{"threads": 2}, {"memory": 600 << 20}, {"durable": False}])
def test_threads_and_memory_may_change(options, place):
    """What changes no byte may be given anew, and the merge goes on."""
    merge(place)
    (place / "out").rename(place / "whole")
    stop(lambda: merge(place), 3)
    assert merge(place, **options).resumed == 3
    assert contents(place / "out") == contents(place / "whole")


def test_stopped_by_the_function_that_is_told_of_progress(place, monkeypatch):
    """What ``progress`` raises stops a merge; what it was told then goes on from there, and ends at the whole."""
    real, told = os.pwrite, []

    def slow(descriptor, data, offset):
        time.sleep(0.03)
        return real(descriptor, data, offset)

    def progress(done, total):
        told.append(done / total)
        if done:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "pwrite", slow)
    with pytest.raises(KeyboardInterrupt):
        merge(place, progress=progress)
    monkeypatch.undo()
    done, _ = kept(place / "out")
    assert 0 < done < len(NAMES)
    again = []
    assert merge(place, progress=lambda done, total: again.append(done / total)).resumed == done
    assert again == sorted(again)
    assert again[-1] == 1.0


def test_many_interruptions_in_a_row(place):
    """Each run finishes one tensor more; none is lost, none is counted twice."""
    merge(place)
    (place / "out").rename(place / "whole")
    for done in range(1, len(NAMES)):
        stop(lambda: merge(place), 1)
        assert kept(place / "out")[0] == done
    assert merge(place).resumed == len(NAMES) - 1
    assert contents(place / "out") == contents(place / "whole")


def test_nothing_is_left_to_compute(place, monkeypatch):
    """Stopped after the last tensor, only the small files are written; no input is opened."""
    merge(place)
    (place / "out").rename(place / "whole")
    monkeypatch.setattr(local, "_write_small", lambda *_: interrupt())
    with pytest.raises(KeyboardInterrupt):
        merge(place)
    monkeypatch.undo()
    with reading() as read:
        assert merge(place).resumed == len(NAMES)
    assert read == set()
    assert contents(place / "out") == contents(place / "whole")


def test_a_full_disk_can_be_continued(place):
    """ENOSPC in the middle names the file and tells how many tensors are kept; the same call completes the merge."""

    def full():
        raise OSError(28, "No space left on device")

    with at_write(4, full), pytest.raises(sp.StorageError) as caught:
        merge(place)
    for part in ("No space left", "model.safetensors", NAMES[3], "3 of 6 tensors are kept"):
        assert part in str(caught.value)
    assert merge(place).resumed == 3


def test_what_the_disk_lost_is_not_called_kept(place, monkeypatch):
    """When waiting for the disk fails, the tensors of that file are lost: neither told nor taken as kept."""
    failing = []

    def fsync(descriptor):
        if path_of(descriptor).endswith("00002-of-00003.safetensors"):
            failing.append(descriptor)
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(sp.StorageError, match=r"(?s)00002-of-00003.*4 of 6 tensors are kept"):
        merge(place, shard_size=1600)
    monkeypatch.undo()
    assert failing
    assert merge(place, shard_size=1600).resumed == 4


@pytest.mark.parametrize("damage", ["zeros", "one bit", "cut off", "gone", "no folder"])
def test_bytes_lost_with_the_power_are_made_again(damage, place):
    """What the journal calls finished is believed only when its bytes are there."""
    merge(place)
    (place / "out").rename(place / "whole")
    stop(lambda: merge(place), 3)
    file = place / "out.partial" / "model" / "model.safetensors"
    raw = bytearray(file.read_bytes())
    begin = len(raw) - 6 * 768
    if damage == "zeros":
        raw[begin : begin + 768] = bytes(768)
    elif damage == "one bit":
        raw[begin + 2 * 768 - 1] ^= 1
    elif damage == "cut off":
        del raw[begin + 768 :]
    file.write_bytes(raw)
    if damage in ("gone", "no folder"):
        file.unlink()
    if damage == "no folder":
        file.parent.rmdir()
    expected = {"zeros": 2, "one bit": 2, "cut off": 1}.get(damage, 0)
    assert merge(place).resumed == expected
    assert contents(place / "out") == contents(place / "whole")


def test_what_was_made_again_counts_once(place):
    """The number of kept tensors that an error tells never exceeds what there is."""

    def full():
        raise OSError(28, "No space left on device")

    stop(lambda: merge(place), 3)
    (place / "out.partial" / "model" / "model.safetensors").unlink()
    with at_write(4, full), pytest.raises(sp.StorageError, match="3 of 6 tensors are kept"):
        merge(place)


def test_an_error_that_would_come_again_leaves_nothing(place):
    """A NaN ends the merge for good: OUT.partial is gone, also when it held finished tensors of an earlier run."""
    bad = arrays(2)
    bad[NAMES[4]][3, 3] = np.nan
    write_model(place / "b", bad, config=CONFIG)
    stop(lambda: merge(place), 2)
    with pytest.raises(sp.ExecutionError, match="NaN"):
        merge(place)
    assert sorted(p.name for p in place.iterdir()) == ["a", "b", "base"]


def test_stopped_before_anything_is_finished_leaves_nothing(place):
    """There is nothing to continue, so nothing stays."""
    stop(lambda: merge(place), 0)
    assert sorted(p.name for p in place.iterdir()) == ["a", "b", "base"]


def test_an_unfinished_merge_says_what_it_is(place):
    """OUT.partial explains itself: incomplete, how to go on, begin again or give up, and what `previous` would be."""
    stop(lambda: merge(place), 2)
    text = (place / "out.partial" / "README.txt").read_text()
    for part in ("stockpot", "NOT complete", "--restart", "delete", "previous"):
        assert part in text


def test_a_thread_that_outlives_a_merge_writes_nothing(place):
    """A closed journal takes no more lines, since its file number may be another file's by then."""
    journal = local.Journal(place / "journal", {"x": 1})
    journal.close()
    other = os.open(place / "mine", os.O_RDWR | os.O_CREAT)
    try:
        with pytest.raises(sp.StorageError, match="stopped"):
            journal.finished("w", local.Finished("f", "0", {}))
    finally:
        os.close(other)
    assert (place / "mine").read_bytes() == b""
