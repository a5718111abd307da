"""Three models of one architecture with different vocabularies."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizing import KINDS, model

WORDS = {"a": ["hello", "world"], "b": ["hello", "mars", "pluto"], "c": ["world", "venus"]}
ADDED = {"a": ["<|x|>"], "b": ["<|y|>", "<|z|>"], "c": ["<|y|>", "<|w|>"]}


@pytest.fixture(params=sorted(KINDS))
def three(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with the models a, b (two padding rows) and c; of every kind of tokenizer in turn."""
    make = KINDS[request.param]
    for seed, name in enumerate("abc"):
        tokenizer = make(WORDS[name], ADDED[name])
        rows = len(tokenizer.get_vocab()) + (2 if name == "b" else 0)
        model(tmp_path / name, tokenizer, seed=seed, rows=rows)
    return tmp_path


@pytest.fixture
def three_bytes(tmp_path: Path) -> Path:
    """The same, with byte-level BPE."""
    for seed, name in enumerate("abc"):
        tokenizer = KINDS["bytes"](WORDS[name], ADDED[name])
        rows = len(tokenizer.get_vocab()) + (2 if name == "b" else 0)
        model(tmp_path / name, tokenizer, seed=seed, rows=rows)
    return tmp_path
