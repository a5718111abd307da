"""The files of a united tokenizer, in the form that its first one has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stockpot.vocabulary.model import Vocabulary

__all__ = ["CannotWriteError", "Files", "written"]

Files = Mapping[str, bytes | Path]
"""Name of a file → its bytes, or the file to copy."""

_PIECES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model")
_UNLIKELY = -20.0
"""Logarithm of the probability of a token that Unigram should not choose by itself."""


class CannotWriteError(ValueError):
    """Why a tokenizer cannot be written, as a clause."""


def written(united: Vocabulary, files: Files) -> dict[str, bytes | Path]:
    """The files of ``united``, of which the first vocabulary has ``files``.

    Files that list tokens are written anew, others copied. SentencePiece models, which cannot take tokens of other
    kinds, are left out where tokenizer.json says all.

    Raises:
        CannotWriteError: when the first one's form has no place for more tokens.
    """
    made: dict[str, bytes | Path] = dict(files)
    if united.pipeline:
        made["tokenizer.json"] = _json(_document(united))
        for name in _PIECES:
            made.pop(name, None)
    elif not {"vocab.json", "vocab.txt"} & files.keys():
        raise CannotWriteError(f"{united.label} has only a SentencePiece model, which takes no further tokens")
    if "vocab.json" in made:
        made["vocab.json"] = _json(dict(sorted(united.ids.items(), key=lambda item: item[1])), indent=None)
    if "merges.txt" in made:
        made["merges.txt"] = _text(["#version: 0.2", *(f"{a} {b}" for a, b in united.merges)])
    if "vocab.txt" in made:
        made["vocab.txt"] = _text([united.tokens.get(n, f"[unused-{n}]") for n in range(united.size)])
    if "added_tokens.json" in made:
        made["added_tokens.json"] = _json({token.content: token.id for token in united.added})
    made["tokenizer_config.json"] = _json(_settings(united))
    return made


def _document(united: Vocabulary) -> dict[str, Any]:
    """``tokenizer.json``; added tokens stand in the model's vocabulary too, which is what fixes their numbers."""
    model = dict(united.pipeline["model"])
    if united.kind == "Unigram":
        model["vocab"] = _scored(united)
    else:
        model["vocab"] = dict(sorted(united.ids.items(), key=lambda item: item[1]))
    if united.kind == "BPE":
        model["merges"] = [list(pair) for pair in united.merges]
    added = [token.as_data() for token in united.added]
    document = {key: value for key, value in united.pipeline.items() if key != "model"}
    first: dict[str, Any] = {k: document.pop(k) for k in ("version", "truncation", "padding") if k in document}
    return {**first, "added_tokens": added, **document, "model": model}


def _scored(united: Vocabulary) -> list[list[Any]]:
    """Unigram's list, in which a token's place is its number."""
    lowest = min(united.scores.values(), default=0.0) + _UNLIKELY
    gaps = [number for number in range(united.size) if number not in united.tokens]
    if gaps:
        raise CannotWriteError(f"{united.label} has no token for number {gaps[0]}, which Unigram needs")
    return [[united.tokens[n], united.scores.get(united.tokens[n], lowest)] for n in range(united.size)]


def _settings(united: Vocabulary) -> dict[str, Any]:
    """``tokenizer_config.json`` with all added tokens."""
    listed = {}
    for token in united.added:
        data = token.as_data()
        listed[str(data.pop("id"))] = data
    settings = {key: value for key, value in united.settings.items() if key != "added_tokens_decoder"}
    return {**settings, "added_tokens_decoder": listed}


def _json(data: Any, indent: int | None = 2) -> bytes:
    """Half a surrogate pair, which JSON can spell and UTF-8 cannot, stays spelt out."""
    try:
        return (json.dumps(data, indent=indent, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(data, indent=indent) + "\n").encode()


def _text(lines: list[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
