"""``tokenizer.json`` as data: the vocabulary in it, and everything else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from stockpot.vocabulary.model import AddedToken, Alphabet, Kind

__all__ = ["MAX_ID", "BadVocabularyError", "Parsed", "added_token", "alphabet_of", "checked_ids", "pairs", "parsed"]

MAX_ID = 10_000_000
"""Numbers of tokens are smaller: an embedding of more rows does not exist, and the numbers become arrays."""

_KINDS = ("BPE", "Unigram", "WordPiece", "WordLevel")


class BadVocabularyError(ValueError):
    """What is wrong with a vocabulary, as a clause."""


@dataclass(frozen=True)
class Parsed:
    """What a ``tokenizer.json`` says: the parts of a :class:`~stockpot.vocabulary.model.Vocabulary`."""

    kind: Kind
    alphabet: Alphabet
    ids: dict[str, int]
    added: tuple[AddedToken, ...]
    merges: tuple[tuple[str, str], ...]
    scores: dict[str, float]
    pipeline: dict[str, Any]


def parsed(document: Mapping[str, Any]) -> Parsed:
    """The parts of a ``tokenizer.json``.

    Raises:
        BadVocabularyError: when it is none.
    """
    model = document.get("model")
    if not isinstance(model, dict):
        raise BadVocabularyError("it has no model")
    kind = _kind(model)
    vocabulary = model.get("vocab")
    scores: dict[str, float] = {}
    if kind == "Unigram":
        ids, scores = _unigram(vocabulary)
    elif isinstance(vocabulary, dict):
        ids = checked_ids(vocabulary)
    else:
        raise BadVocabularyError("its model has no vocabulary")
    added = tuple(added_token(item) for item in _listed(document.get("added_tokens"), "added_tokens"))
    for token in added:
        ids.setdefault(token.content, token.id)
    left = {key: value for key, value in model.items() if key not in ("vocab", "merges")}
    pipeline = {**{k: v for k, v in document.items() if k != "added_tokens"}, "model": {"type": kind, **left}}
    merges = tuple(pairs(_listed(model.get("merges"), "merges"))) if kind == "BPE" else ()
    return Parsed(kind, alphabet_of(kind, document), ids, added, merges, scores, pipeline)


def checked_ids(found: Mapping[Any, Any]) -> dict[str, int]:
    """Token → number, where that is what ``found`` is.

    Raises:
        BadVocabularyError: when a number is none, or too large.
    """
    for token, number in found.items():
        if type(number) is not int or not 0 <= number < MAX_ID:
            raise BadVocabularyError(f"token {str(token)[:80]!a} has the number {str(number)[:40]!a}")
    return dict(found)


def added_token(data: Any, number: int | None = None) -> AddedToken:
    """One added token as ``tokenizer.json`` lists it; or as ``tokenizer_config.json`` does, under its ``number``.

    Raises:
        BadVocabularyError: when it is none.
    """
    content = data.get("content") if isinstance(data, dict) else None
    own = data.get("id") if number is None and isinstance(data, dict) else number
    if not isinstance(content, str) or type(own) is not int or not 0 <= own < MAX_ID:
        raise BadVocabularyError(f"an added token that is none: {str(data)[:80]!a}")
    flags = {name: data.get(name) is True for name in ("special", "lstrip", "rstrip", "normalized", "single_word")}
    return AddedToken(content, own, **flags)


def pairs(merges: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Pairs that BPE joins, written as lists, or with a space between as earlier versions did.

    Raises:
        BadVocabularyError: for what is no pair.
    """
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            raise BadVocabularyError(f"a merge that joins no pair: {str(merge)[:80]!a}")
        yield parts[0], parts[1]


def alphabet_of(kind: Kind, document: Mapping[str, Any]) -> Alphabet:
    """How tokens are spelt, by the steps that text goes through."""
    types = set(_types([document.get(part) for part in ("normalizer", "pre_tokenizer", "decoder")]))
    if kind == "WordPiece":
        return "wordpiece"
    if "ByteLevel" in types:
        return "bytes"
    if kind == "Unigram" or types & {"Metaspace", "ByteFallback"} or _replaces_spaces(document):
        return "metaspace"
    return "plain"


def _kind(model: Mapping[str, Any]) -> Kind:
    kind = model.get("type")
    if kind is None:  # as early versions wrote it
        kind = "BPE" if "merges" in model else "Unigram" if isinstance(model.get("vocab"), list) else None
        kind = kind or ("WordPiece" if "max_input_chars_per_word" in model else "WordLevel")
    if kind not in _KINDS:
        raise BadVocabularyError(f"its model is of type {str(kind)[:40]!a}, not one of {', '.join(_KINDS)}")
    return cast("Kind", kind)


def _unigram(vocabulary: Any) -> tuple[dict[str, int], dict[str, float]]:
    ids: dict[str, int] = {}
    scores: dict[str, float] = {}
    entries = _listed(vocabulary, "vocab")
    if len(entries) > MAX_ID:
        raise BadVocabularyError(f"more than {MAX_ID} tokens")
    for number, entry in enumerate(entries):
        fits = isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)
        if not fits or not isinstance(entry[1], int | float):
            raise BadVocabularyError(f"an entry that is no token with its score: {str(entry)[:80]!a}")
        ids.setdefault(entry[0], number)
        scores.setdefault(entry[0], float(entry[1]))
    return ids, scores


def _listed(value: Any, name: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadVocabularyError(f"its {name} are no list")
    return value


def _types(nodes: list[Any]) -> Iterator[str]:
    """The type of every step, those inside sequences too."""
    while nodes:
        node = nodes.pop()
        if not isinstance(node, dict):
            continue
        if isinstance(node.get("type"), str):
            yield node["type"]
        nodes.extend(child for value in node.values() if isinstance(value, list) for child in value)


def _replaces_spaces(document: Mapping[str, Any]) -> bool:
    nodes = [document.get("normalizer"), document.get("decoder")]
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict):
            if "▁" in (node.get("content"), node.get("prepend"), node.get("replacement")):
                return True
            nodes.extend(value for value in node.values() if isinstance(value, dict))
            nodes.extend(child for value in node.values() if isinstance(value, list) for child in value)
    return False
