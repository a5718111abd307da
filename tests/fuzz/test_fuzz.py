"""Damaged input of every kind is read, or refused with an error of ours, in a second and without growing."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random

import pytest

import fuzz

SHORT = {
    "header": 8000,
    "recipe": 1000,
    "index": 1000,
    "config": 1000,
    "gguf": 4000,
    "pickle": 2000,
    "adapter": 500,
    "table": 500,
    "tokenizer": 500,
    "mixture": 500,
    "suite": 500,
    "space": 500,
}
"""The same inputs at every run; ``make fuzz`` gives as many as are promised."""

KEPT = sorted(path for path in fuzz.CORPUS.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_damaged_input_is_read_or_refused(name):
    """Nothing but a StockpotError comes out of a reader; some inputs are right, and most are not."""
    result = fuzz.run(name, range(SHORT[name]), seed=2026)
    assert result.count == SHORT[name]
    assert list(result.failures.values()) == []
    assert 0 < result.accepted < result.count


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_is_kept(path, tmp_path):
    """Inputs that a reader once stumbled over, and those that reach far into one, are read or refused now."""
    target, result = fuzz.TARGETS[path.parent.name], fuzz.Result()
    fuzz.once(target, path.read_bytes(), tmp_path / target.file, result)
    assert list(result.failures.values()) == []


def test_the_corpus_has_every_kind():
    """Some input of each target is kept."""
    assert {path.parent.name for path in KEPT} == set(fuzz.TARGETS)


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_inputs_are_known_by_seed_and_number(name):
    """The same seed and number make the same input; others make others."""
    make = fuzz.TARGETS[name].make
    first = [make(Random(f"{name} 0 {number}")) for number in range(50)]
    assert first == [make(Random(f"{name} 0 {number}")) for number in range(50)]
    assert len(set(first)) > 25


def _loops(_path):
    while True:
        pass


def _waits(_path):
    time.sleep(60)


@pytest.mark.parametrize(
    ("read", "word"),
    [(_loops, "TooSlowError"), (_waits, "TooSlowError"), (lambda _: {}[1], "KeyError"), (Path.unlink, "")],
    ids=["slow", "waiting", "broken", "fine"],
)
def test_the_fuzzer_notices(read, word, tmp_path, monkeypatch):
    """A reader that hangs or breaks is told; one that does not is not."""
    monkeypatch.setattr(fuzz, "SECONDS", 0.2)
    monkeypatch.setattr(fuzz, "WAIT", 0.4)
    result = fuzz.Result()
    fuzz.once(fuzz.Target(bytes, read, "x"), b"data", tmp_path / "x", result)
    told = "".join(text for _, text in result.failures.values())
    assert bool(result.failures) == bool(word)
    assert word in told


def test_the_fuzzer_notices_growth(tmp_path, monkeypatch):
    """A reader during which the process grows is told."""
    peaks = iter((10 << 20, 400 << 20))
    monkeypatch.setattr(fuzz, "peak", lambda: next(peaks))
    result = fuzz.Result()
    fuzz.once(fuzz.Target(bytes, Path.unlink, "x"), b"data", tmp_path / "x", result)
    assert ["grew by" in told for _, told in result.failures.values()] == [True]
