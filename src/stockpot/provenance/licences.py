"""Licences that models state in the front matter of their README.md."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stockpot.errors import RecipeError
from stockpot.provenance.small import small_text
from stockpot.recipe.yaml_nodes import Mapping, Scalar, Sequence, compose

__all__ = ["Licence", "licence_in", "shared"]

_MAX_BYTES = 200_000
"""Front matter stands at the beginning; no more of a README is read."""

_OTHER = frozenset({"other", "unknown"})
"""Words of the hub that name no licence by themselves."""

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}", re.ASCII)


@dataclass(frozen=True)
class Licence:
    """A licence as a model card states it.

    Args:
        word: The hub's word for it, such as ``apache-2.0`` or ``other``.
        name: Its name, where ``word`` is ``other``.
        link: Where it can be read.
    """

    word: str
    name: str | None = None
    link: str | None = None

    def __str__(self) -> str:
        return self.word if self.name is None else f"{self.word} ({self.name})"


def licence_in(folder: Path | None) -> Licence | None:
    """What the README.md in ``folder`` states; None when there is none, or it states nothing that can be read."""
    text = None if folder is None else small_text(folder / "README.md", _MAX_BYTES, cut=True)
    front = None if text is None else _front_matter(text)
    if front is None:
        return None
    word, name, link = (_scalar(front, key) for key in ("license", "license_name", "license_link"))
    if word is None or _WORD.fullmatch(word) is None:
        return None
    return Licence(word.lower(), name, link)


def shared(licences: Iterable[Licence | None]) -> Licence | None:
    """The licence that all models state; None when one states none or another.

    ``other`` says nothing unless name and link are the same too.

    >>> shared([Licence("mit"), Licence("mit")]), shared([Licence("mit"), None]), shared([Licence("other")] * 2)
    (Licence(word='mit', name=None, link=None), None, None)
    """
    first, *others = [*licences] or [None]
    if first is None or any(found != first for found in others):
        return None
    return None if first.word in _OTHER and first.name is None else first


def _front_matter(text: str) -> Mapping | None:
    opened, _, rest = text.partition("\n")
    inside, closed, _ = f"\n{rest}".partition("\n---")
    if opened.rstrip() != "---" or not closed:
        return None
    try:
        documents, _ = compose(inside)
    except RecipeError:
        return None
    return documents[0] if documents and isinstance(documents[0], Mapping) else None


def _scalar(front: Mapping, key: str) -> str | None:
    """The word at ``key``, or the only one of a list."""
    entry = front.get(key)
    value = None if entry is None else entry.value
    if isinstance(value, Sequence) and len(value.items) == 1:
        value = value.items[0]
    return value.text[:500] if isinstance(value, Scalar) and value.text else None
