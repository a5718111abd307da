"""Damaged suites of tasks, over data that is there."""

from __future__ import annotations

import fuzz_damage as damage
import numpy as np
from fuzz_recipes import tokens

from stockpot.evaluate.kinds import KINDS
from stockpot.evaluate.metrics import METRICS
from stockpot.evaluate.suite import load_suite

_SEEDS = (
    "name: s\nseed: 3\nresamples: 100\ntasks:\n  text:\n    kind: perplexity\n    documents: line\n"
    "    split: {tune: a.txt, report: b.txt}\n",
    "tasks:\n  quiz:\n    kind: choice\n    split: {report: c.jsonl}\n    metrics: [accuracy]\n"
    "  more:\n    kind: perplexity\n    split: {select: [a.txt, b.txt]}\n",
    "tasks: {t: {kind: perplexity, split: {report: b.txt}, context: 64, stride: 32, first: prefix}}\n",
    "tasks:\n  pairs:\n    kind: similarity\n    split: {report: e.jsonl}\n",
    "tasks:\n  digits:\n    kind: classification\n    predict: nets:logits\n    split: {report: d.npz}\n",
    "tasks:\n  mine:\n    kind: own\n    run: nets:run\n    split: {report: a.txt}\n",
)
_PATHS = (
    *("a.txt", "b.txt", "c.jsonl", "d.npz", "gone", ".", "..", "/dev/null", "/", "../x", "'\\0'", '"\\0"', "x" * 300),
    *('"\\ud800"', "~", "a.txt/b", "pipe"),
)
_DATA = {
    "a.txt": b"one\ntwo words\n",
    "b.txt": b"three\n",
    "c.jsonl": b'{"context": "x", "choices": ["a", "b"], "answer": 0}\n',
    "e.jsonl": b'{"a": "x", "b": "y", "score": 0.5}\n{"a": "z", "b": "w", "score": 1}\n',
}
_WORDS = (*KINDS, *METRICS, *_PATHS, "kind: ", "split: ", "tune: ", "select: ", "report: ", "metrics: ", "train: a.txt")


def make(chance):
    """A suite with damaged lines and words."""
    text, other = chance.choice(_SEEDS), chance.choice(_SEEDS)
    text = damage.of_lines(chance, text, other, (*_WORDS, *tokens()), chance.choice((0, 1, 1, 1, 2, 3, 6)))
    data = text.encode("utf-8", "surrogatepass")
    return damage.of_bytes(chance, data) if chance.random() < 0.15 else data


def read(path):
    """Read the suite and its data; code is never run."""
    if not (path.parent / "a.txt").exists():
        for name, data in _DATA.items():
            (path.parent / name).write_bytes(data)
        np.savez(path.parent / "d.npz", inputs=np.zeros((2, 3)), labels=np.zeros(2, int))
        (path.parent / "nets.py").write_text("raise SystemExit('code was run')\n")
    suite = load_suite(path)
    assert suite.tasks
