"""A recipe's documents as frozen records: what was written, with lines, meaning left open."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stockpot.methods.declare import Method
from stockpot.methods.pieces import Use
from stockpot.recipe.known import Known
from stockpot.recipe.method_files import MethodFile
from stockpot.settings import Setting

__all__ = [
    "Merge",
    "Model",
    "Parameters",
    "Reference",
    "Settings",
    "Slice",
    "Source",
    "Token",
    "Tokenizer",
    "normalized",
]

Settings = Mapping[str, Setting]


@dataclass(frozen=True)
class Parameters:
    """A ``parameters`` section: values, and companions, which are other checkpoints."""

    settings: Settings = field(default_factory=dict)
    companions: Mapping[str, Model] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.settings or self.companions)

    @property
    def lines(self) -> dict[str, int | None]:
        """Every name with its line."""
        return {name: own.line for own_by_name in (self.settings, self.companions) for name, own in own_by_name.items()}


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
    parameters: Parameters
    line: int
    stack: str | None = None


@dataclass(frozen=True)
class Slice:
    """Layers of the result and their sources; ``models:`` is one slice without ranges."""

    sources: tuple[Source, ...]
    base: Model | None
    parameters: Parameters
    line: int


@dataclass(frozen=True)
class Token:
    """Where the embedding of a token comes from; of no model, zeros.

    Args:
        model: The model whose row it is.
        token: Its text or number there, where it is another one.
        force: Whether models that have the token get it too.
        line: Where it stands.
    """

    model: Reference | None
    token: str | int | None
    force: bool
    line: int


@dataclass(frozen=True)
class Tokenizer:
    """A ``tokenizer`` section, or ``tokenizer_source``.

    Args:
        source: ``union``, ``base``, or a model.
        tokens: Token → where its embedding comes from.
        multiple: What the number of rows is rounded up to a multiple of.
        line: Where it stands.
    """

    source: Reference | str
    tokens: Mapping[str, Token]
    multiple: int | None
    line: int


@dataclass(frozen=True)
class Merge:
    """One document, or a merge written where a model may stand.

    Args:
        method: None when it is missing or unknown.
        method_line: Where it stands.
        uses: Steps of a chain.
        given: Values that stand in its steps, by the names of the chain's parameters.
        known: What names mean in its document.
        file: Method file of its document; None for a nested merge.
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
        tokenizer: How the tokenizer of the result is made; None where nothing is said.
        chat_template: Of the result, as written.
        extra: Both of them as plain data.
        line: Where it begins.
    """

    method: Method | None
    method_line: int
    uses: tuple[Use, ...]
    given: Settings
    known: Known
    file: MethodFile | None
    base: Model | None
    slices: tuple[Slice, ...]
    sliced: bool
    module: tuple[str, Parameters] | None
    parameters: Parameters
    dtype: str | None
    dtypes: Mapping[str, str]
    variant: str | None
    compat: bool | None
    seed: int | None
    names: tuple[str, ...]
    tokenizer: Tokenizer | None
    chat_template: str | None
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
