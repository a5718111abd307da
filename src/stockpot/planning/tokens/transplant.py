"""The view of a model that gets the tokenizer of another."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, cast

import numpy as np

from stockpot.architecture.tied import is_head, of_vocabulary, ties_embeddings, vocabulary_rows
from stockpot.arrangements import Transplant
from stockpot.checkpoint.model import Checkpoint, TensorRef
from stockpot.errors import StockpotError
from stockpot.planning.model import Compute, Operand, Read
from stockpot.planning.tokens.matched import Matched, origins_of
from stockpot.planning.tokens.transplant_report import TransplantReport
from stockpot.planning.tokens.transplanted import METHODS, Method, Transplanted
from stockpot.planning.tokens.vocabulary import vocabulary_of
from stockpot.planning.views import Context, Meta, View, Wrapped
from stockpot.transplanting.pairing import Pairing, pair
from stockpot.vocabulary.model import Vocabulary
from stockpot.vocabulary.write import Files

__all__ = ["TransplantView"]

_OUTPUT = re.compile(r"lm_head|logits|output|bias$")


class TransplantView(Wrapped):
    """All tensors are the model's own, but for embeddings, heads and the heads' biases.

    An embedding is made by what the giver's embedding says of its tokens, a head and its bias by the giver's head. A
    giver without a head of its own, or a model that ties the two, has one matrix for both.

    Args:
        node: What is asked for.
        of: The model.
        main: Its checkpoint, which has its tokenizer and its config.
        giver: The model whose tokenizer it gets.
    """

    def __init__(self, node: Transplant, of: View, main: Checkpoint, giver: Checkpoint, context: Context) -> None:
        self.node, self.of, self.main, self.giver, self._context = node, of, main, giver, context
        self.label = f"{of.label} with the tokenizer of {giver.label}"
        self.files: Files = {}

    def origin(self, name: str) -> tuple[Mapping[str, Any], str]:
        return self.of.origin(name)

    @cached_property
    def names(self) -> Mapping[str, Meta]:
        return {name: self._resized(name, meta) for name, meta in self.of.names.items()}

    def _resized(self, name: str, meta: Meta) -> Meta:
        if self.matched is None or name not in self.tensors:
            return meta
        rows = self.matched.rows
        return replace(meta, shape=(1, rows) if _flat(meta) and len(meta.shape) == 2 else (rows, *meta.shape[1:]))

    def lower(self, name: str) -> Operand:
        source = self.of.lower(name)
        if self.matched is None or name not in self.tensors:
            return source
        meta, theirs = self.of.names[name], self.tensors[name]
        form = Transplanted(
            method=cast("Method", self.node.method),
            k=min(self.node.k, max(len(self.matched.pairing.common), 1)),  # more of them is an error
            width=1 if _flat(meta) else meta.shape[1],
            donor_width=theirs.shape[1],
            donor_bytes=theirs.dtype.itemsize,
            origins=self.matched.origins,
            known=self.matched.nbytes,
        )
        beside, shape = (Read(theirs, self.giver.label),), self.names[name].shape
        return Compute(None, (source,), shape, beside, (False,), form=form, key=(name, 0), line=self.node.line)

    @cached_property
    def tensors(self) -> Mapping[str, TensorRef]:
        """Name of each tensor that has a row for each token → the giver's matrix that says what tokens mean."""
        shapes = {name: meta.shape for name, meta in self.of.names.items()}
        known, theirs = self._known, dict(self._matrices())
        if known is None or not theirs:
            whose = self.of.label if known is None else self.giver.label
            fix = "use a language model, with its weights"
            self._problem(f"{whose} has no embedding of tokens that is known by its name", fix=fix)
            return {}
        embedding = next((ref for name, ref in theirs.items() if not _OUTPUT.search(name)), next(iter(theirs.values())))
        heads = [ref for name, ref in theirs.items() if is_head(name)]
        one = ties_embeddings(self.config) or ties_embeddings(self.giver.config) or not heads
        head = embedding if one else heads[0]
        names = [name for name, shape in shapes.items() if of_vocabulary(name, shape, known)]
        found = {name: head if is_head(name) or _OUTPUT.search(name) else embedding for name in names}
        self._check_floats(found)
        return found

    @cached_property
    def _known(self) -> int | None:
        """Rows of the model's embedding."""
        return vocabulary_rows({name: meta.shape for name, meta in self.of.names.items()}, self.config)

    def _matrices(self) -> Iterator[tuple[str, TensorRef]]:
        """The giver's matrices with a row for each token."""
        tensors = self.giver.tensors
        rows = vocabulary_rows({name: ref.shape for name, ref in tensors.items()}, self.giver.config)
        for name, ref in tensors.items():
            if (
                rows is not None
                and len(ref.shape) == 2
                and ref.shape[0] == rows
                and of_vocabulary(name, ref.shape, rows)
            ):
                yield name, ref

    def _check_floats(self, found: Mapping[str, TensorRef]) -> None:
        for name, ref in found.items():
            for whose, told, dtype in (
                (self.of.label, name, self.of.names[name].dtype),
                (self.giver.label, ref.name, ref.dtype),
            ):
                if not dtype.is_float:
                    fix = "use the model in bfloat16, float16 or float32"
                    self._problem(f"{whose} stores {dtype.code} here: it is quantised", tensor=told, fix=fix)

    def _problem(self, message: str, **where: Any) -> None:
        self._context.problem(message, line=self.node.line, **where)

    @cached_property
    def matched(self) -> Matched | None:
        """What each row is; None where that cannot be told, which is reported."""
        if self.node.method not in METHODS:
            self._problem(f"there is no method {self.node.method!r}", fix=f"one of {', '.join(METHODS)}")
            return None
        if not self.tensors or self._known is None:
            return None
        try:
            old, _ = vocabulary_of(self.node.of, self._context.plain)
            new, self.files = vocabulary_of(self.node.tokenizer, self._context.plain)
        except StockpotError as error:
            self._context.problems.extend(p for p in error.problems if p not in self._context.problems)
            return None
        theirs = next(iter(self.tensors.values())).shape[0]
        pairing = pair(new, old, max(new.size, theirs), self._known)
        self._check(pairing, new, theirs)
        origins = origins_of(pairing, new, old, self.node.method, self._known)
        return Matched(new, old, pairing, origins, self._known)

    @property
    def report(self) -> TransplantReport | None:
        """What tells where each row comes from."""
        if self.matched is None:
            return None
        labels = (self.of.label, self.giver.label)
        return TransplantReport(*labels, self.node.method, self.node.k, self.matched, tuple(self.tensors))

    def _check(self, pairing: Pairing, new: Vocabulary, theirs: int) -> None:
        """Report what makes it impossible to make the rows."""
        method, k, common = self.node.method, self.node.k, len(pairing.common)
        names = f"{self.of.label} and {self.giver.label}"
        if common == 0:
            fix = "nothing tells what the one's tokens mean in the other"
            self._problem(f"the tokenizers of {names} have no token in common: {fix}")
        elif METHODS[method] and not 1 <= k <= common:
            fix = f"give --k a number from 1 to {common}"
            self._problem(f"k is {k}, but the tokenizers of {names} have {common} tokens in common", fix=fix)
        if method in ("omp", "interpolation", "linear"):
            self._check_rows(pairing, new, theirs)

    def _check_rows(self, pairing: Pairing, new: Vocabulary, theirs: int) -> None:
        """Report tokens that the giver's embedding says nothing of."""
        beyond = np.flatnonzero(pairing.named[theirs:] & (pairing.ours[theirs:] < 0)) + theirs
        if beyond.size:
            listed = ", ".join(ascii(new.tokens[int(i)]) for i in beyond[:3]) + ", …" * (beyond.size > 3)
            message = f"{self.giver.label} has {theirs} rows in its embedding, none for {beyond.size} of its tokens"
            fix = "use --method subword, or the model that the tokenizer was made for"
            folder = None if self.giver.folder is None else str(self.giver.folder)
            self._problem(f"{message}: {listed}", file=folder, fix=fix)


def _flat(meta: Meta) -> bool:
    """Whether a tensor has one number for each token."""
    return len(meta.shape) == 1 or meta.shape[0] == 1
