"""Damaged tokenizers are read or refused by name, whatever is damaged; absurd ones before they take memory."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from test_reading_vocabularies import PIECES, sentence_pieces
from tokenizing import KINDS

from stockpot.checkpoint.jsons import TOKENIZER
from stockpot.errors import CheckpointError, StockpotError
from stockpot.vocabulary.read import read_vocabulary
from stockpot.vocabulary.unite import CannotUniteError, unite
from stockpot.vocabulary.write import CannotWriteError, written

VALUES = [
    "null",
    "true",
    "-1",
    "0",
    "1.5",
    "100000000000000000000",
    '"x"',
    '""',
    "[]",
    "{}",
    "[1]",
    '{"a": 1}',
    "Infinity",
]


def places(node: Any) -> list[tuple[Any, Any]]:
    """(holder, key) of the first values at every level."""
    keys: list[Any] = (
        list(node)[:12] if isinstance(node, dict) else [*range(min(4, len(node)))] if isinstance(node, list) else []
    )
    return [(node, key) for key in keys] + [place for key in keys for place in places(node[key])]


def damaged(document: Any, rng: random.Random) -> str:
    """A document with another value, or none, in one place."""
    holder, key = rng.choice(places(document))
    if isinstance(holder, dict) and rng.random() < 0.3:
        del holder[key]
    else:
        holder[key] = json.loads(rng.choice(VALUES))
    return json.dumps(document)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_damaged_documents_and_settings(tmp_path: Path, kind: str) -> None:
    """Every one is read, and then united and written, or is refused."""
    rng = random.Random(kind)
    text = KINDS[kind](["hello"], ["<|x|>"]).to_str()
    (tmp_path / "tokenizer.json").write_text(text)
    whole = read_vocabulary(tmp_path, "whole")
    settings = {
        "bos_token": "<s>",
        "added_tokens_decoder": {"5": {"content": "zz"}},
        "additional_special_tokens": ["q"],
    }
    read = 0
    for number in range(80):
        (tmp_path / "tokenizer.json").write_text(damaged(json.loads(text), rng) if number % 2 else text)
        (tmp_path / "tokenizer_config.json").write_text(damaged(json.loads(json.dumps(settings)), rng))
        (tmp_path / "special_tokens_map.json").write_text(damaged({"eos_token": {"content": "</s>"}}, rng))
        try:
            found = read_vocabulary(tmp_path, "m")
            read += 1
            written(unite([whole, found]).vocabulary, {"tokenizer.json": tmp_path / "tokenizer.json"})
        except (StockpotError, CannotUniteError, CannotWriteError):
            continue
    assert 0 < read < 80


def test_damaged_sentence_pieces(tmp_path: Path) -> None:
    """Any bytes in any place, cut off anywhere."""
    rng = random.Random(1)
    whole, refused = sentence_pieces(PIECES, 1), []
    for _ in range(400):
        raw = bytearray(whole)
        for _ in range(rng.randint(1, 5)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        (tmp_path / "tokenizer.model").write_bytes(raw[: rng.randint(0, len(raw))] if rng.random() < 0.3 else raw)
        try:
            read_vocabulary(tmp_path, "m")
        except CheckpointError as error:
            refused.append(str(error.problems[0].file))
    assert 0 < len(refused) < 400
    assert set(refused) == {str(tmp_path / "tokenizer.model")}


def test_too_many_values_are_refused_before_they_are_parsed(tmp_path: Path) -> None:
    """Parsing would take a hundred bytes for each."""
    (tmp_path / "tokenizer.json").write_bytes(
        b'{"model": {"vocab": [' + b"[]," * (TOKENIZER.most_marks // 2) + b"[]]}}"
    )
    with pytest.raises(CheckpointError, match="more than 8000000 values"):
        read_vocabulary(tmp_path, "m")


def test_names_with_control_characters_are_printed_safely(tmp_path: Path) -> None:
    """A token's text can be anything: messages spell it out."""
    (tmp_path / "vocab.json").write_text(json.dumps({"\x1b[31m": -1}))
    with pytest.raises(CheckpointError) as caught:
        read_vocabulary(tmp_path, "m")
    assert "\x1b" not in str(caught.value)
