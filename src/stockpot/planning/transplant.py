"""The view of a model that gets the tokenizer of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np

from stockpot.architecture.tied import embedding_of, is_embedding, is_head, ties_embeddings
from stockpot.checkpoint.model import Checkpoint, TensorRef
from stockpot.checkpoint.sidecars import Sidecar
from stockpot.errors import StockpotError
from stockpot.expression import Transplant
from stockpot.planning.matched import Matched, origins_of
from stockpot.planning.model import Compute, Operand, Read
from stockpot.planning.retokenized import config_entries, with_tokenizer
from stockpot.planning.transplant_report import TransplantReport
from stockpot.planning.transplanted import METHODS, Method, Transplanted
from stockpot.planning.views import Context, Meta, Sliced, View
from stockpot.transplant.pairing import Pairing, pair
from stockpot.vocabulary.model import Vocabulary
from stockpot.vocabulary.read import read_vocabulary

__all__ = ["TransplantView"]


class TransplantView:
    """All tensors are the model's own, but for embeddings, heads and the heads' biases.

    An embedding is made by what the donor's embedding says of its tokens, a head and its bias by the donor's head. A
    donor without a head of its own, or a model that ties the two, has one matrix for both.
    """

    def __init__(self, node: Transplant, of: View, main: Checkpoint, donor: Checkpoint, context: Context) -> None:
        self.node, self.of, self.main, self._donor, self._context = node, of, main, donor, context
        self.label = f"{of.label} with the tokenizer of {donor.label}"

    @property
    def config(self) -> Mapping[str, Any]:
        return self.of.config

    @property
    def sliced(self) -> Sliced | None:
        return self.of.sliced

    def origin(self, name: str) -> tuple[Mapping[str, Any], str]:
        return self.of.origin(name)

    @cached_property
    def names(self) -> Mapping[str, Meta]:
        found = dict(self.of.names)
        if self.matched is not None:
            for name in self.tensors:
                meta = found[name]
                found[name] = Meta(meta.dtype, (self.matched.rows, *meta.shape[1:]))
        return found

    def lower(self, name: str) -> Operand:
        source = self.of.lower(name)
        if self.matched is None or name not in self.tensors:
            return source
        shape, donor = self.names[name].shape, self.tensors[name]
        width, method = (shape[1] if len(shape) > 1 else 1), cast("Method", self.node.method)
        form = Transplanted(
            method, self.node.k, width, donor.shape[1], donor.dtype.itemsize, self.matched.origins, self.matched.nbytes
        )
        beside = (Read(donor, self._donor.label),)
        return Compute(None, (source,), shape, beside, (False,), form=form, key=(name, 0), line=self.node.line)

    @cached_property
    def tensors(self) -> Mapping[str, TensorRef]:
        """Name of each tensor that has a row for each token → the donor's matrix that says what tokens mean."""
        embedding, names = embedding_of(self.of.names), self.of.names
        theirs = embedding_of(self._donor.tensors)
        heads = [name for name in self._donor.tensors if is_head(name)]
        if embedding is None or theirs is None:
            whose = self.of.label if embedding is None else self._donor.label
            fix = "use a language model with its weights"
            self._problem(f"{whose} has no embedding of tokens that is known by its name", fix=fix)
            return {}
        height, donor = names[embedding].shape[0], self._donor.tensors
        head = theirs if ties_embeddings(self.config) or ties_embeddings(self._donor.config) or not heads else heads[0]
        found = {}
        for name, meta in names.items():
            if meta.shape[:1] == (height,) and (is_embedding(name) or is_head(name) or _is_bias(name, meta)):
                found[name] = donor[theirs if is_embedding(name) else head]
            elif name.endswith("logits_bias") and meta.shape[-1:] == (height,):
                self._problem(f"a bias of shape {meta.shape} for the vocabulary is not supported", tensor=name)
        self._check_floats(found)
        return found

    @property
    def entries(self) -> Mapping[str, Any]:
        """What changes in the model's config."""
        return {} if self.matched is None else config_entries(self.config, self._donor.config, self.matched)

    def beside(self, planned: Sequence[Sidecar]) -> tuple[Sidecar, ...]:
        """The small files ``planned`` for the model, with the other tokenizer's."""
        return tuple(planned) if self.matched is None else with_tokenizer(planned, self._donor, self.matched)

    @property
    def report(self) -> TransplantReport:
        """What tells where each row comes from."""
        assert self.matched is not None
        labels = (self.of.label, self._donor.label)
        return TransplantReport(*labels, self.node.method, self.node.k, self.matched, tuple(self.tensors))

    def _check_floats(self, found: Mapping[str, TensorRef]) -> None:
        for name, ref in found.items():
            for whose, told, dtype in (
                (self.of.label, name, self.of.names[name].dtype),
                (self._donor.label, ref.name, ref.dtype),
            ):
                if not dtype.is_float:
                    fix = "use the model in bfloat16, float16 or float32"
                    self._problem(f"{whose} stores {dtype.code} here: it is quantised", tensor=told, fix=fix)

    def _problem(self, message: str, **where: Any) -> None:
        self._context.problem(message, line=self.node.line, **where)

    @cached_property
    def matched(self) -> Matched | None:
        """What each row is; None where that cannot be told, which is reported."""
        if self.node.method not in METHODS or not self.tensors:
            if self.node.method not in METHODS:
                self._problem(f"there is no method {self.node.method!r}", fix=f"one of {', '.join(METHODS)}")
            return None
        try:
            old = read_vocabulary(self.main.folder, self.of.label, line=self.node.line)
            new = read_vocabulary(self._donor.folder, self._donor.label, line=self.node.line)
        except StockpotError as error:
            self._context.problems.extend(p for p in error.problems if p not in self._context.problems)
            return None
        known = min(self.of.names[name].shape[0] for name in self.tensors)
        theirs = min(ref.shape[0] for ref in self.tensors.values())
        pairing = pair(new, old, max(new.size, theirs), known)
        self._check(pairing, new, theirs)
        return Matched(new, old, pairing, origins_of(pairing, new, old, self.node.method, known))

    def _check(self, pairing: Pairing, new: Vocabulary, theirs: int) -> None:
        """Report what makes it impossible to make the rows."""
        method, k, common = self.node.method, self.node.k, len(pairing.common)
        names = f"{self.of.label} and {self._donor.label}"
        if common == 0:
            self._problem(f"the tokenizers of {names} have no token in common: nothing tells what theirs mean in ours")
        elif METHODS[method] and not 1 <= k <= common:
            fix = f"give --k a number from 1 to {common}"
            self._problem(f"k is {k}, but the tokenizers of {names} have {common} tokens in common", fix=fix)
        if method in ("omp", "interpolation", "linear"):
            beyond = np.flatnonzero(pairing.named[theirs:] & (pairing.ours[theirs:] < 0)) + theirs
            if beyond.size:
                listed = ", ".join(repr(new.tokens[int(i)]) for i in beyond[:3]) + ", …" * (beyond.size > 3)
                self._problem(
                    f"{self._donor.label} has {theirs} rows in its embedding, none for {beyond.size} of its tokens: "
                    f"{listed}",
                    file=None if self._donor.folder is None else str(self._donor.folder),
                    fix="use --method subword, or the model that the tokenizer was made for",
                )


def _is_bias(name: str, meta: Meta) -> bool:
    """Whether a tensor is the bias of a head: one number for each token."""
    parents = name.split(".")[-2:-1]
    parts = ("lm_head", "embed_out", "decoder", "predictions", "vocab_projector")
    return len(meta.shape) == 1 and name.endswith("bias") and any(p in parts for p in parents)
