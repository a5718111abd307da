"""A recipe's documents as frozen records: what was written, with lines, meaning left open."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stockpot.settings import Setting

__all__ = ["Merge", "Model", "Reference", "Settings", "Slice", "Source", "normalized"]

Settings = Mapping[str, Setting]


@dataclass(frozen=True)
class Reference:
    """A checkpoint, or a document of the recipe, by name.

    Args:
        path: Path, hub id or name.
        revision: Of a model from the hub.
        lora: Adapter on it.
        line: Where it stands.
    """

    path: str
    revision: str | None = None
    lora: str | None = None
    line: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        text = self.path if self.revision is None else f"{self.path}@{self.revision}"
        return text if self.lora is None else f"{text}+{self.lora}"

    @property
    def key(self) -> tuple[str, str | None, str | None]:
        """Equal for references that mean the same: ``./a/`` and ``a``, ``//x`` and ``/x``."""
        return (normalized(self.path), self.revision, self.lora)


@dataclass(frozen=True)
class Source:
    """One model of a merge, or one source of a slice."""

    model: Model
    layer_range: tuple[int, int] | None
    parameters: Settings
    line: int


@dataclass(frozen=True)
class Slice:
    """Layers of the result and their sources; ``models:`` is one slice without ranges."""

    sources: tuple[Source, ...]
    base: Model | None
    parameters: Settings
    line: int


@dataclass(frozen=True)
class Merge:
    """One document, or a merge written where a model may stand.

    Args:
        method: Name as written; None when it is missing or unknown.
        method_line: Where it stands.
        base: The base model.
        slices: Its slices; one when ``models`` was written.
        sliced: Whether ``slices`` was written.
        module: Name and parameters of its module, when ``modules`` was written.
        parameters: Of the whole merge.
        dtype: Of the result, None to keep.
        dtypes: ``dtype`` and ``out_dtype`` as written.
        variant: As written.
        compat: Whether mergekit's numerics are asked for; None when nothing is said.
        seed: As written.
        names: Names under which other documents may use this one.
        origin: Identity of the mapping it was written as: equal when an alias repeats it.
        extra: Tokenizer and chat template, as plain data.
        line: Where it begins.
    """

    method: str | None
    method_line: int
    base: Model | None
    slices: tuple[Slice, ...]
    sliced: bool
    module: tuple[str, Settings] | None
    parameters: Settings
    dtype: str | None
    dtypes: Mapping[str, str]
    variant: str | None
    compat: bool | None
    seed: int | None
    names: tuple[str, ...]
    origin: int
    extra: Mapping[str, Any]
    line: int

    @property
    def key(self) -> tuple[int]:
        """Equal for two places that repeat one merge by alias."""
        return (self.origin,)

    @property
    def models(self) -> tuple[Model, ...]:
        """Every model it uses, the base first, each as often as it is written."""
        written = [source.model for piece in self.slices for source in piece.sources]
        bases = [b for b in (self.base, *(piece.base for piece in self.slices)) if b is not None]
        return (*bases, *written)


Model = Reference | Merge


def normalized(path: str) -> str:
    """``path`` without what changes nothing: a leading ``./``, doubled or trailing slashes.

    >>> normalized("./models//a/"), normalized("//home/a"), normalized("org/name")
    ('models/a', '/home/a', 'org/name')
    """
    text = posixpath.normpath(path.strip())
    return "/" + text.lstrip("/") if text.startswith("/") else text
