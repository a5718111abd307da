"""One output has one writer at a time, however the last one ended."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from stopped import contents, merge, write_models

import stockpot as sp
from stockpot.execute import lock
from stockpot.execute.lock import Lock

HERE = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

HOLDER = """\
import sys
from pathlib import Path
sys.path[:0] = {here!r}
import stopped
def progress(done, total):
    print("working", flush=True)
    sys.stdin.readline()
stopped.merge(Path({place!r}), progress=progress)
"""

RACER = """\
import os, sys
from pathlib import Path
sys.path[:0] = {here!r}
import stockpot as sp, stopped
import stockpot.execute.local
for number in range({rounds}):
    sys.stdin.readline()
    try:
        base, a, b = stopped.opened(Path({place!r}))
        sp.save(base + sp.dare_ties(a - base, b - base, density=0.5), Path({place!r}) / str(number), seed=3, threads=1)
        print("made", flush=True)
    except sp.PlanError as error:
        print("refused", str(error).splitlines()[0], flush=True)
    except BaseException as error:
        print("CRASHED", repr(error), flush=True)
"""


@pytest.fixture
def place(tmp_path):
    return write_models(tmp_path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


def process(code, **values):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code.format(here=HERE, **values)], **pipes)


def test_a_second_process_is_refused(place):
    """It is told which process is at work and where; the first one finishes, undisturbed."""
    holder = process(HOLDER, place=str(place))
    try:
        assert holder.stdout.readline() == "working\n"
        for options in ({}, {"restart": True}, {"overwrite": True}):
            with pytest.raises(sp.PlanError) as caught:
                merge(place, **options)
            assert f"process {holder.pid} on {socket.gethostname()} is writing this output" in str(caught.value)
            assert "fix:" in str(caught.value)
        holder.communicate("\n" * 1000, timeout=30)
        assert holder.returncode == 0
    finally:
        holder.kill()
        holder.wait()
    assert len(contents(place / "out")) >= 3
    assert not (place / "out.partial").exists()


def test_a_killed_process_holds_nothing(place):
    """Its lock file stays, and the next merge takes it without being asked."""
    holder = process(HOLDER, place=str(place))
    try:
        assert holder.stdout.readline() == "working\n"
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()
    assert json.loads((place / "out.partial" / "lock").read_text())["pid"] == holder.pid
    merge(place)
    assert not (place / "out.partial").exists()


def test_many_processes_race(place):
    """Of all that begin at once, exactly one does the work, the others are told; the output is right, nothing stays."""
    rounds, count = 6, 4
    merge(place)
    racers = [process(RACER, place=str(place), rounds=rounds) for _ in range(count)]
    try:
        for number in range(rounds):
            for racer in racers:
                racer.stdin.write("\n")
                racer.stdin.flush()
            told = sorted(racer.stdout.readline() for racer in racers)
            assert [t for t in told if t.startswith("made")] == ["made\n"], told
            refusals = [t for t in told if t != "made\n"]
            assert all("is writing this output" in t or "the output exists" in t for t in refusals), told
            assert contents(place / str(number)) == contents(place / "out")
            assert not (place / f"{number}.partial").exists()
    finally:
        for racer in racers:
            racer.communicate(timeout=30)


def test_threads_of_one_process(place):
    """Two threads that write one output are two writers: one is refused."""
    entered, leave, ended = threading.Event(), threading.Event(), []

    def progress(_done, _total):
        entered.set()
        leave.wait(30)

    thread = threading.Thread(target=lambda: ended.append(merge(place, progress=progress)))
    thread.start()
    try:
        assert entered.wait(30)
        with pytest.raises(sp.PlanError, match=f"process {os.getpid()} "):
            merge(place)
    finally:
        leave.set()
        thread.join()
    assert len(ended) == 1


def open_files():
    return set(Path("/proc/self/fd").iterdir())


def test_the_lock_is_given_back_after_errors(place, monkeypatch):
    """Whatever ends a merge, another one in the same process may begin; no file descriptor is left open."""
    before = open_files()
    for error in (KeyboardInterrupt, OSError(errno.ENOSPC, "full"), ZeroDivisionError):
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", raising(error, os.pwrite))
            with pytest.raises((KeyboardInterrupt, sp.StorageError, ZeroDivisionError)):
                merge(place)
    assert open_files() <= before
    merge(place)


def raising(error, real):
    """``os.pwrite`` that fails for payload bytes."""

    def pwrite(descriptor, data, offset):
        if offset > 300:
            raise error
        return real(descriptor, data, offset)

    return pwrite


def test_a_lock_is_there_while_it_is_held(path):
    """Taken, it says who holds it; given back, its file is gone, and giving it back again does nothing."""
    held = Lock(path, path).take()
    assert json.loads(path.read_text()).items() >= {"pid": os.getpid(), "host": socket.gethostname()}.items()
    with pytest.raises(sp.PlanError, match=f"process {os.getpid()} on"):
        Lock(path, path).take()
    held.release()
    held.release()
    assert not path.exists()
    Lock(path, path).take().release()


def test_giving_back_leaves_the_lock_of_another(path):
    """When the file was removed and another one has taken its place, that stays."""
    held = Lock(path, path).take()
    path.unlink()
    other = Lock(path, path).take()
    held.release()
    assert path.exists()
    other.release()
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "{", "[" * 5000, "\xff", "[]", '{"pid": 1e400, "host": []}', "x" * 9000])
def test_whatever_stands_in_a_lock_file(text, path):
    """A file that no one has locked is free, whatever it holds; one that is locked is not."""
    path.write_bytes(text.encode("latin-1"))
    held = Lock(path, path).take()
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(sp.PlanError, match="is writing this output"):
        Lock(path, path).take()
    held.release()


@pytest.fixture(params=[errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def no_flock(request, monkeypatch):
    """A file system without locks."""

    def refuse(_descriptor):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(lock, "_flock", refuse)


def left_by(path, **changes):
    """A lock file as this process would write it, but for ``changes``."""
    path.write_text(json.dumps({**lock._me(), **changes}))


def test_without_locks_a_living_holder_is_believed(no_flock, path):
    """What the file says decides; the error names the holder and the file to remove if that is wrong."""
    held = Lock(path, path).take()
    with pytest.raises(sp.PlanError, match=rf"(?s)process {os.getpid()} on .*remove {path}"):
        Lock(path, path).take()
    held.release()
    Lock(path, path).take().release()


def dead():
    """Number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    return ended.pid


GONE = {
    "dead": lambda: {"pid": dead()},
    "of another start of the computer": lambda: {"boot": "x"},
    "another process of that number": lambda: {"started": "1"},
    "no number that a process has": lambda: {"pid": 10**30},
}


@pytest.mark.parametrize("kind", GONE)
def test_without_locks_a_holder_that_is_gone_is_followed(kind, no_flock, path):
    """A holder of this computer that surely runs no more has left its file behind."""
    left_by(path, **GONE[kind]())
    Lock(path, path).take().release()


@pytest.mark.parametrize(
    "changes", [{"host": "elsewhere"}, {"host": "elsewhere", "boot": "x"}, {"pid": -1}, {"pid": "1"}]
)
def test_without_locks_a_holder_that_may_live_is_believed(changes, no_flock, path):
    """A holder on another computer cannot be looked at: the error says what to remove when it is gone."""
    left_by(path, **changes)
    before = path.read_bytes()
    with pytest.raises(sp.PlanError, match=rf"(?s)is writing this output.*remove {path}"):
        Lock(path, path).take()
    assert path.read_bytes() == before


def test_without_locks_a_whole_merge(no_flock, place):
    """Merging works on such file systems, also after a crash."""
    (place / "out.partial").mkdir()
    left_by(place / "out.partial" / "lock", pid=dead())
    merge(place)
    assert not (place / "out.partial").exists()


def test_other_errors_of_locking_are_errors(path, monkeypatch, place):
    """An error of the disk is not taken for a free lock; it is told as any other, and leaves nothing open."""

    def refuse(_descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(lock, "_flock", refuse)
    before = open_files()
    with pytest.raises(OSError, match="Input/output"):
        Lock(path, path).take()
    with pytest.raises(sp.PlanError, match="Input/output"):
        merge(place)
    assert open_files() <= before
