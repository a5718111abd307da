"""A transplant stays within the memory that its plan states."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from files import write_model
from measured import MIB, stockpot

COMMON, NEW, WIDTH = 9000, 600, 640


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Two models with thousands of words in common, and hundreds that one lacks."""
    place = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    common = [f"word{i}" for i in range(COMMON)]
    for name, more in (("ours", 100), ("theirs", NEW)):
        words = [*common, *(f"{name}{i}" for i in range(more))]
        config = {"model_type": "llama", "vocab_size": len(words), "tie_word_embeddings": True}
        matrix = rng.standard_normal((len(words), WIDTH), np.float32)
        write_model(place / name, {"model.embed_tokens.weight": matrix}, config=config)
        vocabulary = {word: number for number, word in enumerate(words)}
        document = {
            "version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"},
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "word0"},
        }  # fmt: skip
        (place / name / "tokenizer.json").write_text(json.dumps(document))
    return place


@pytest.mark.parametrize("method", ["omp", "linear"])
def test_resident_memory_is_what_the_plan_says(large, tmp_path, method):
    """The largest resident set of the whole process is no more than was stated, and not far below it."""
    asked = ("transplant", large / "ours", tmp_path / "out", "--tokenizer", large / "theirs", "--method", method)
    asked = (*asked, *(("-k", "4") if method != "linear" else ()), "--threads", "2")
    planned = stockpot(*asked, "--dry-run")
    stated = float(re.search(r"memory\s+about ([\d.]+) MB", planned.out)[1]) * 1e6
    done = stockpot(*asked)
    assert done.code == 0, done.errors
    assert stated / 3 < done.peak <= stated


def test_a_budget_that_is_too_small(large, tmp_path):
    """It is refused before anything is read, with the number that would do."""
    asked = ("transplant", large / "ours", tmp_path / "out", "--tokenizer", large / "theirs")
    refused = stockpot(*asked, "--memory", f"{150 * MIB}B")
    assert refused.code == 5
    assert "MiB of memory, the budget is 150 MiB" in refused.errors
