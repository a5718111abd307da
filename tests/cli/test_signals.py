"""Ctrl-C and SIGTERM end a command within a second, in words, in a state that the same command continues."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from files import write_model
from stockpot.execute.workplace import kept

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals")

SECONDS = 1.5
"""One second is promised, the rest is for a loaded machine."""

DARE = """\
merge_method: dare_ties
base_model: base
models: [{model: a}, {model: b}]
parameters: {density: 0.5}
"""
TSV = "merge_method: tsv_m\nbase_model: base\nmodels: [{model: a}, {model: b}]\n"
TENSORS, ELEMENTS, MATRIX = 24, 1 << 18, 2500

SLOW = """\
import os, sys, time
real = os.pwrite
def slow(descriptor, data, offset):
    if len(data) > 100_000:
        time.sleep(0.05)
    return real(descriptor, data, offset)
os.pwrite = slow
from stockpot.cli.main import main
sys.exit(main())
"""
"""The command line with a slow disk, so that a merge of small models can be hit in its middle."""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Three models of many tensors, a recipe, and its result."""
    folder = tmp_path_factory.mktemp("small")
    for seed, name in enumerate(("base", "a", "b")):
        rng = np.random.default_rng(seed)
        write_model(folder / name, {f"w{i}": rng.random(ELEMENTS, np.float32) for i in range(TENSORS)})
    (folder / "r.yml").write_text(DARE)
    done = subprocess.run([sys.executable, "-m", "stockpot", *merge_to("whole")], cwd=folder, check=False)
    assert done.returncode == 0
    return folder


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Three models of one matrix whose decomposition takes many seconds."""
    folder = tmp_path_factory.mktemp("large")
    for seed, name in enumerate(("base", "a", "b")):
        rng = np.random.default_rng(seed)
        write_model(folder / name, {"small": rng.random((4, 4)), "w": rng.random((MATRIX, MATRIX), np.float32)})
    (folder / "r.yml").write_text(TSV)
    return folder


def merge_to(out, *more):
    return ["merge", "r.yml", out, "--threads", "1", "--no-sync", "--memory", "4GiB", *more]


def start(folder, *arguments, program=("-m", "stockpot"), **environment):
    command = [sys.executable, *program, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env={**os.environ, **environment}, **pipes)


def wait_for(process, condition, seconds=60):
    """Until the condition holds, with the process still running."""
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "it never came so far"
        time.sleep(0.005)


def stopped(process, *signals, pause=0.05):
    """Send ``signals``; (exit code, standard error, seconds from the first to the end)."""
    try:
        begun = time.monotonic()
        for number, sent in enumerate(signals):
            if number:
                time.sleep(pause)
            process.send_signal(sent)
        _, errors = process.communicate(timeout=30)
        seconds = time.monotonic() - begun
    finally:
        process.kill()
        process.wait()
    print(f"ended {seconds:.2f} s after {[s.name for s in signals]}")  # noqa: T201 - shown when a test fails
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors
    return process.returncode, errors, seconds


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_merge_is_stopped_and_continued(sent, small):
    """Exit code 130 or 143 in time; the message counts what is kept; the same command continues to the right bytes."""
    out = small / f"out{sent}"
    process = start(small, *merge_to(out.name), program=("-c", SLOW))
    wait_for(process, lambda: kept(out)[0] >= 3)
    code, errors, seconds = stopped(process, sent)
    assert code == 128 + sent
    assert seconds < SECONDS
    done, folder = kept(out)
    assert 3 <= done < TENSORS
    assert f"stopped; {done} tensors are finished and kept in {folder.name}" in errors.replace(f"{small}/", "")
    assert "the same command continues" in errors
    assert not out.exists()
    again = subprocess.run(
        [sys.executable, "-m", "stockpot", *merge_to(out.name, "--json")],
        cwd=small, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(again.stdout)["resumed"] == done
    assert contents(out) == contents(small / "whole")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_long_decomposition_is_left(sent, large):
    """A merge in the middle of a decomposition of many seconds ends in time all the same."""
    out = large / f"out{sent}"
    process = start(large, *merge_to(out.name))
    wait_for(process, lambda: kept(out)[0] >= 1)
    time.sleep(1.0)
    code, errors, seconds = stopped(process, sent)
    assert (code, seconds < SECONDS) == (128 + sent, True), (code, errors, seconds)
    assert "stopped; 1 tensors are finished" in errors


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(second, large):
    """Two signals, 50 ms apart: nothing is waited for, the exit code is that of the first."""
    out = large / f"twice{second}"
    process = start(large, *merge_to(out.name))
    wait_for(process, lambda: kept(out)[0] >= 1)
    time.sleep(0.5)
    code, errors, seconds = stopped(process, signal.SIGINT, second)
    assert code in (130, -second), errors
    assert seconds < 0.5


def test_two_signals_in_the_middle_of_ordinary_work(small):
    """Where the first signal is enough, a second one while the program is ending is no traceback."""
    for pause in (0.0, 0.01, 0.03, 0.06, 0.1):
        process = start(small, *merge_to("doubled"), program=("-c", SLOW))
        wait_for(process, (small / "doubled.partial" / "journal").exists)
        code, errors, seconds = stopped(process, signal.SIGINT, signal.SIGINT, pause=pause)
        assert code in (130, -signal.SIGINT), errors
        assert seconds < SECONDS


def test_while_kernels_compile(small, tmp_path):
    """In the first merge of all, while LLVM is at work, it takes no longer."""
    out = small / "fresh"
    process = start(small, *merge_to(out.name), STOCKPOT_CACHE_DIR=str(tmp_path))
    wait_for(process, (small / "fresh.partial" / "journal").exists)
    time.sleep(0.3)
    code, errors, seconds = stopped(process, signal.SIGINT)
    assert (code, seconds < SECONDS) == (130, True), (code, errors, seconds)
    assert "stopped; " in errors


@pytest.mark.parametrize("verb", [("verify", "whole"), ("diff", "a", "b"), ("inspect", "a", "--hash")])
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_other_verbs_stop_too(verb, sent, small):
    """Verbs that only read end with the same exit codes, and with one plain word."""
    slow = SLOW.replace("pwrite", "preadv").replace("len(data) > 100_000", "True")
    process = start(small, *verb, program=("-c", slow))
    wait_for(process, lambda: reads_payload(process.pid, small))
    code, errors, seconds = stopped(process, sent)
    assert (code, errors.strip().splitlines()[-1]) == (128 + sent, "stockpot: stopped")
    assert seconds < SECONDS


def reads_payload(pid, folder):
    """Whether the process has a weight file open."""
    for number in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 - names are enough
        try:
            if re.match(f"{folder}/.*safetensors", os.readlink(f"/proc/{pid}/fd/{number}")):  # noqa: PTH115
                return True
        except OSError:
            continue
    return False


LIBRARY = """\
import os, signal, sys, threading, time
import stockpot as sp
base, a, b = (sp.open(name) for name in ("base", "a", "b"))
made = base + sp.tsv_m(a - base, b - base)
def progress(done, total):
    if done and not begun:
        begun.append(time.monotonic())
        threading.Timer(1.0, lambda: (sent.append(time.monotonic()), signal.raise_signal(signal.SIGINT))).start()
begun, sent = [], []
try:
    sp.save(made, "library", threads=1, memory=4 << 30, durable=False, progress=progress)
except KeyboardInterrupt as error:
    assert type(error) is KeyboardInterrupt
    print(time.monotonic() - sent[0])
    try:
        sp.save(made, "library", threads=1, memory=4 << 30, seed=1, shard_size=100)
    except sp.PlanError as error:
        print(str(error).splitlines()[0], flush=True)
    def again():
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=again, daemon=True).start()
"""


def test_a_program_that_uses_the_library(large):
    """KeyboardInterrupt comes out of sp.save within a second, also in a long decomposition; the place is free again.

    At its end the program waits for what is still computed, since it would crash otherwise; or until Ctrl-C.
    """
    done = subprocess.run(
        [sys.executable, "-c", LIBRARY], cwd=large, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 130, done.stderr
    seconds, refused = done.stdout.splitlines()
    print(f"ended after {seconds} s")  # noqa: T201 - shown when a test fails
    assert float(seconds) < SECONDS
    assert "an unfinished merge lies there (1 tensors are done)" in refused
    assert kept(large / "library")[0] == 1
    assert "Traceback" not in done.stderr


IMPORTING = """
import sys, time
from stockpot.__main__ import run

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "stockpot.cli.main":
            print("importing", flush=True)
            time.sleep(20)

sys.meta_path.insert(0, Slow())
run()
"""


def test_before_anything_has_begun():
    """A signal while modules are still imported ends the program as a signal does, without a traceback."""
    process = subprocess.Popen(
        [sys.executable, "-c", IMPORTING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == -signal.SIGINT
    assert errors == ""


def test_a_background_job_that_ignores_ctrl_c_goes_on(small):
    """Where the shell has made SIGINT ignored, as for jobs in the background, it stays so."""
    command = [sys.executable, "-m", "stockpot", *merge_to("background")]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # children inherit what is ignored
    try:
        process = subprocess.Popen(command, cwd=small)
    finally:
        signal.signal(signal.SIGINT, before)
    while process.poll() is None and not (small / "background").exists():
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    assert process.wait() == 0
    assert contents(small / "background") == contents(small / "whole")
