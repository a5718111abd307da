"""What lies beside a model that gets another's tokenizer: its files, and the numbers of tokens in the configs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.checkpoint.jsons import CONFIG, read_json
from stockpot.checkpoint.model import Checkpoint
from stockpot.checkpoint.places import member
from stockpot.checkpoint.sidecars import Sidecar
from stockpot.planning.matched import Matched
from stockpot.vocabulary.read import TOKENIZER_FILES

__all__ = ["config_entries", "with_tokenizer"]

_GENERATION = "generation_config.json"


def config_entries(config: Mapping[str, Any], theirs: Mapping[str, Any], matched: Matched) -> dict[str, Any]:
    """Dotted path → new value of everything in a config that depends on the vocabulary.

    Args:
        config: The model's.
        theirs: Of the model whose tokenizer it gets; its numbers of special tokens are taken over. Others that only
            ``config`` has become those of the same token, or null where there is no such token any more.
        matched: The two vocabularies.
    """
    return dict(_entries(config, theirs, _translation(matched), matched, ""))


def _translation(matched: Matched) -> dict[int, int]:
    """Old number → new number."""
    ours = matched.pairing.ours
    return {int(ours[new]): int(new) for new in np.flatnonzero(ours >= 0)[::-1]}


def _entries(
    config: Mapping[str, Any], theirs: Mapping[str, Any], new: Mapping[int, int], matched: Matched, path: str
) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if key == "vocab_size":
            yield path + key, matched.rows
        elif _names_tokens(key, value):
            yield path + key, _number(key, value, theirs, new, matched)
        elif isinstance(value, dict) and (key == "text_config" or key in ("decoder", "encoder")):
            inner = theirs.get(key)
            yield from _entries(value, inner if isinstance(inner, dict) else theirs, new, matched, f"{path}{key}.")


def _names_tokens(key: str, value: Any) -> bool:
    numbers = value if isinstance(value, list) else [value]
    return key.endswith(("_token_id", "_token_index")) and all(type(n) is int or n is None for n in numbers)


def _number(key: str, value: Any, theirs: Mapping[str, Any], new: Mapping[int, int], matched: Matched) -> Any:
    """The other model's own number of this key, else that of its tokenizer's role, else of the same token."""
    text = theirs.get("text_config")
    for place in (theirs, text if isinstance(text, dict) else {}):
        if _names_tokens(key, place.get(key)) and place.get(key) is not None:
            return place[key]
    role = matched.new.roles.get(key.removesuffix("_id"))
    if role is not None and role in matched.new.ids:
        return matched.new.ids[role]
    if isinstance(value, list):
        kept = [new[number] for number in value if number in new]
        return kept or None
    return new.get(value)


def with_tokenizer(planned: Sequence[Sidecar], donor: Checkpoint, matched: Matched) -> tuple[Sidecar, ...]:
    """The small files ``planned`` for the model, the tokenizer's files those of ``donor``."""
    kept: list[Sidecar] = [entry for entry in planned if entry[0] not in TOKENIZER_FILES]
    for place, (name, content) in enumerate(kept):
        if name == _GENERATION and isinstance(content, Path):
            kept[place] = (name, _generation(content, donor, matched))
    assert donor.folder is not None
    return (*kept, *((name, member(donor.folder, name)) for name in matched.new.files))


def _generation(path: Path, donor: Checkpoint, matched: Matched) -> bytes:
    """The model's settings of generation, with the other's numbers of tokens."""
    settings = read_json(path, CONFIG)
    theirs: Any = donor.config
    if donor.folder is not None and (donor.folder / _GENERATION).is_file():
        theirs = {**donor.config, **read_json(member(donor.folder, _GENERATION), CONFIG)}
    new = dict(_entries(settings, theirs, _translation(matched), matched, ""))
    return (json.dumps({**settings, **new}, indent=2, ensure_ascii=False) + "\n").encode()
