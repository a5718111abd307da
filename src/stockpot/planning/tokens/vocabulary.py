"""Models seen with another vocabulary: their embeddings and heads, row by row, matched by tokens."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from stockpot.architecture.tied import is_head, of_vocabulary, stand_in
from stockpot.arrangements import Transplant
from stockpot.errors import PlanError
from stockpot.expression import Adapted, Apply, Expression, Leaf, Linear
from stockpot.planning.model import Compute, Operand
from stockpot.planning.tokens.rows import RowMap, SparseRows
from stockpot.planning.views import Context, Meta, View, Wrapped
from stockpot.tokens import Retokenized
from stockpot.vocabulary.matched import Matching
from stockpot.vocabulary.model import Vocabulary
from stockpot.vocabulary.read import bytes_of, hash_of, read_vocabulary, tokenizer_files
from stockpot.vocabulary.write import Files

__all__ = ["Member", "Retokenizing", "key_of", "models_of", "vocabulary_of"]


@dataclass(frozen=True)
class Member:
    """A model, its vocabulary, the rows of its embedding, and the files of its tokenizer."""

    view: View
    vocabulary: Vocabulary
    count: int
    files: Files
    line: int | None = None

    @property
    def label(self) -> str:
        """How the user wrote it."""
        return self.view.label

    @property
    def mean_of(self) -> int:
        """Rows that the mean of the embedding is taken over: those of tokens, padding at the end left out."""
        return min(self.count, self.vocabulary.size)


@dataclass(frozen=True)
class Retokenizing:
    """What a :class:`Retokenized` node does to the models of its merge.

    Args:
        target: The vocabulary of the result.
        rows: Rows of its embedding.
        members: The models: those that are merged, then those that only rows or the tokenizer are taken of.
        merged: How many of them are merged.
        numbers: Key of a model → its number.
        matching: What each row is made of.
        maps: For each model that is merged its rows, and the models that they come from; None for one that stays.
        files: The tokenizer of the result.
        giver: Number of the model whose tokenizer the result has as it is; None for a union of several.
    """

    target: Vocabulary
    rows: int
    members: tuple[Member, ...]
    merged: int
    numbers: Mapping[Hashable, int]
    matching: Matching
    maps: tuple[tuple[RowMap, tuple[int, ...]] | None, ...]
    files: Files
    giver: int | None
    context: Context

    def seen(self, expression: Expression, view: View) -> View:
        """``view`` with the vocabulary of the result."""
        number = self.numbers.get(key_of(expression))
        if number is None or number >= self.merged:
            return self._beside(view)
        return view if self.maps[number] is None else VocabularyView(self, number)

    def _beside(self, view: View) -> View:
        """A companion, which has to fit already: its rows may mean other tokens than those of the result."""
        changed = {m.count for m, rows in zip(self.members, self.maps, strict=False) if rows is not None}
        for name, meta in view.names.items():
            if any(of_vocabulary(name, meta.shape, count) for count in changed):
                message = f"{view.label} is read beside models that get another vocabulary"
                fix = "make it for the result's vocabulary: retokenize the models first, then merge those"
                self.context.problem(message, tensor=name, fix=fix)
                break
        return view


_PER_LAYER = "embed_tokens_per_layer"


class VocabularyView(Wrapped):
    """A model whose embedding and head have the rows of another vocabulary."""

    def __init__(self, scope: Retokenizing, number: int) -> None:
        self._scope, self._number = scope, number
        self._member = scope.members[number]
        self.of = self._member.view
        self._check()

    def _check(self) -> None:
        """What has to follow and cannot is reported: a head of other rows than the embedding, say."""
        count = self._member.count
        for name, meta in self.of.names.items():
            follows = len(meta.shape) == 2 and (is_head(name) or _PER_LAYER in name)
            if follows and not of_vocabulary(name, meta.shape, count):
                message = (
                    f"{self.label} has {meta.shape[0]} rows here and {count} in its embedding: tokens do not fit both"
                )
                fix = "resize both to the same tokens first, or leave the tokenizer section out"
                self._scope.context.problem(message, tensor=name, fix=fix)

    @property
    def label(self) -> str:
        return self.of.label

    @cached_property
    def names(self) -> Mapping[str, Meta]:
        return {name: self._resized(name, meta) for name, meta in self.of.names.items()}

    def _resized(self, name: str, meta: Meta) -> Meta:
        if not of_vocabulary(name, meta.shape, self._member.count):
            return meta
        if len(meta.shape) == 2 and meta.shape[0] == 1 != self._member.count:
            return replace(meta, shape=(1, self._scope.rows))
        return replace(meta, shape=(self._scope.rows, *meta.shape[1:]))

    def origin(self, name: str) -> tuple[Mapping[str, Any], str]:
        return self.of.origin(name)

    def lower(self, name: str) -> Operand:
        own, meta, rows = self.of.names[name], self.names[name], self._scope.maps[self._number]
        operand = self.of.lower(name)
        if rows is None or not of_vocabulary(name, own.shape, self._member.count):
            return operand
        others = [self._counterpart(name, own, number) for number in rows[1][1:]]
        if any(other is None for other in others):
            return operand
        columns = 1 if own.shape[0] == 1 or len(own.shape) == 1 else own.shape[1]
        form = SparseRows(rows[0], columns, self._member.mean_of if rows[0].uses_mean else 0)
        inputs = (operand, *(other for other in others if other is not None))
        return Compute(None, inputs, meta.shape, key=(name, 0), form=form)

    def _counterpart(self, name: str, own: Meta, number: int) -> Operand | None:
        """The tensor of another model that rows come from; None (reported) where it has none that fits."""
        member = self._scope.members[number]
        found = _place(name, member)
        shape = None if found is None else member.view.names[found].shape
        columns = own.shape[1:] if own.shape[0] != 1 else (member.count,)
        if found is None or shape is None or shape[1:] != columns or not member.view.names[found].dtype.is_float:
            lacks = "lacks it" if shape is None else f"has shape {shape}"
            message = f"{self.label} takes rows for its new tokens from {member.label}, which {lacks}"
            fix = "merge models of one architecture, or name other models under tokenizer: tokens"
            self._scope.context.problem(message, tensor=name, fix=fix)
            return None
        return member.view.lower(found)


def _place(name: str, member: Member) -> str | None:
    """Where a model keeps what another calls ``name``: under that name, or by its role."""
    names = member.view.names
    if name in names and of_vocabulary(name, names[name].shape, member.count):
        return name
    found = stand_in(name, names)
    if found is not None:
        return found
    matrices = [n for n, m in names.items() if len(m.shape) == 2 and of_vocabulary(n, m.shape, member.count)]
    alike = [n for n in matrices if is_head(n) == is_head(name)]
    return alike[0] if alike and name.endswith("weight") else None


def models_of(node: Expression) -> Iterator[Expression]:
    """The models that ``node`` merges, in order; what is read beside them is left out."""
    if isinstance(node, Leaf | Adapted | Retokenized | Transplant):
        yield node
        return
    for child in node.inputs if isinstance(node, Apply) else node.children:
        yield from models_of(child)


def key_of(node: Expression) -> Hashable:
    """Equal for two nodes that are the same model."""
    if isinstance(node, Leaf):
        return node.key
    return (key_of(node.of), node.adapter.key) if isinstance(node, Adapted) else id(node)


def vocabulary_of(node: Expression, context: Context) -> tuple[Vocabulary, Files]:
    """The vocabulary of a model, whose view was built before, and the files that it stands in.

    Raises:
        StockpotError: when it has none, or one that cannot be read.
    """
    if isinstance(node, Leaf):
        checkpoint = context.checkpoints[node.key]
        return _read(checkpoint.folder, checkpoint.label, node.line, context)
    if isinstance(node, Retokenized):
        scope = context.scopes.get(id(node))
        if scope is None:
            raise PlanError  # why it has none was reported
        return scope.target, scope.files
    if isinstance(node, Transplant):
        return vocabulary_of(node.tokenizer, context)
    inner = node.largest.of if isinstance(node, Linear) else node.children[0]
    return vocabulary_of(inner, context)


def _read(folder: Path | None, label: str, line: int | None, context: Context) -> tuple[Vocabulary, Files]:
    """What is in a folder; files that are the same, byte for byte, are read once."""
    names = tokenizer_files(folder)
    key = hash_of(folder, names)
    found = context.vocabularies.get(key)
    if found is None:
        found = context.vocabularies[key] = read_vocabulary(folder, label, line=line)
        context.vocabularies_read.append(bytes_of(folder, names))
    return replace(found, label=label), {name: folder / name for name in names if folder is not None}
