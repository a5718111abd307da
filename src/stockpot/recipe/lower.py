"""Records → expression: documents, nested merges, slices and models."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace

from stockpot.arrangements import Assembled, Cast, Layers, Stack
from stockpot.errors import ExpressionError
from stockpot.expression import Adapted, Expression, Leaf
from stockpot.methods.declare import Method
from stockpot.recipe.combine import Group, Input, Mode, combine, sections, stand_in
from stockpot.recipe.findings import Findings
from stockpot.recipe.library import Library
from stockpot.recipe.records import Merge, Model, Reference, Slice, Source, Tokenizer
from stockpot.recipe.usage import report_parameters
from stockpot.tokens import Retokenized, TokenSource

__all__ = ["Lowering"]

MAX_CHAIN = 50
"""Most documents that may build on one another."""


class Lowering:
    """Builds expressions; each document, repeated merge and leaf is built once."""

    def __init__(self, library: Library, findings: Findings, folder: str | None) -> None:
        self._library = library
        self._findings = findings
        self._folder = folder
        self._leaves: dict[Hashable, Leaf] = {}
        self._done: dict[Hashable, Expression] = {}
        self._open: list[Merge] = []
        self._above: list[int] = []
        self._height: dict[int, int] = {}
        self._used: set[int] = set()
        self.seeds: list[tuple[int, int]] = []

    def result(self) -> Expression:
        """The expression of the result; every document is built, used or not, to check it."""
        compat = bool(self._library.result.compat)
        for merge in self._library.merges:
            self._document(merge, compat)
        self._report_unused()
        return self._build(self._library.result, Mode(compat))

    def _report_unused(self) -> None:
        for merge in self._library.merges:
            if merge is not self._library.result and id(merge) not in self._used:
                self._findings.note(
                    f"document {merge.names[0]!r} is not used" if merge.names else "unused",
                    merge.line,
                )

    def donor(self) -> Leaf | None:
        """Leaf of the result's base, else first model, looked for inside merges."""
        merge: Model | None = self._library.result
        for _ in range(MAX_CHAIN):
            if not isinstance(merge, Merge):
                break
            merge = self._target(_bare(merge.models[0])) if merge.models else None
        return self._leaf(merge) if isinstance(merge, Reference) else None

    def model(self, model: Model) -> Expression:
        """A model that stands outside any merge."""
        return self._model(model, Mode())

    def _target(self, model: Model) -> Model:
        """``model``, or the document that it names."""
        found = self._library.find(model) if isinstance(model, Reference) else None
        return found or model

    def _document(self, merge: Merge, compat: bool) -> Expression:
        """A document as a model: rounded to its dtype, as if it had been written and read again."""
        if any(m is merge for m in self._open):
            names = " → ".join((m.names or ("the result",))[0] for m in (*self._open, merge))
            self._findings.problem(f"documents use each other in a circle: {names}", merge.line)
            return stand_in()
        self._open.append(merge)
        self._above.append(0)
        built = self._rounded(merge, Mode(compat))
        self._open.pop()
        self._height[id(merge)] = max(self._height.get(id(merge), 0), self._above.pop() + 1)
        if self._above:
            self._above[-1] = max(self._above[-1], self._height[id(merge)])
        if self._height[id(merge)] == MAX_CHAIN + 1:
            self._findings.problem(f"more than {MAX_CHAIN} documents build on one another", merge.line)
        return built

    def _rounded(self, merge: Merge, mode: Mode) -> Expression:
        built = self._build(merge, mode)
        key = (built, merge.dtype)
        if merge.dtype is None:
            return built
        if key not in self._done:
            self._done[key] = Cast(built, merge.dtype)
        return self._done[key]

    def _build(self, merge: Merge, mode: Mode) -> Expression:
        """The expression of ``merge``, not rounded."""
        mode = mode.within(merge)
        key = (merge.key, mode)
        if key not in self._done:
            built = self._merge(merge, mode)
            self._done[key] = built if merge.tokenizer is None else self._retokenized(built, merge, merge.tokenizer)
        return self._done[key]

    def _retokenized(self, built: Expression, merge: Merge, wanted: Tokenizer) -> Expression:
        """``built``, whose models get one vocabulary; models are as they are stored, whatever dtype they merge in."""
        stored = Mode(bool(self._library.result.compat))

        def model(reference: Reference) -> Expression:
            return self._model(reference, stored)

        tokens = {
            text: TokenSource(None if token.model is None else model(token.model), token.token, token.force, token.line)
            for text, token in wanted.tokens.items()
        }
        source = wanted.source if isinstance(wanted.source, str) else model(wanted.source)
        base = self._model(merge.base, stored) if isinstance(merge.base, Reference) else None
        return self._attempt(lambda: Retokenized(built, source, base, tokens, wanted.multiple, wanted.line))

    def _merge(self, merge: Merge, mode: Mode) -> Expression:
        if merge.seed is not None:
            self.seeds.append((merge.seed, merge.line))
        if merge.modules:
            return self._assembled(merge, mode)
        method = merge.method
        groups = [self._group(merge, piece, mode) for piece in merge.slices]
        if method is None or not groups or not all(group.inputs for group in groups):
            return stand_in()
        report_parameters(merge, method, groups, self._findings)
        parts = [self._piece(method, group) for group in groups]
        return self._attempt(lambda: Stack(tuple(parts), merge.line)) if merge.sliced else parts[0]

    def _assembled(self, merge: Merge, mode: Mode) -> Expression:
        """Each module as it is written; what belongs to none is the base's, else the first model's."""
        parts = tuple((module.tower or "", self._build(module, mode)) for module in merge.modules)
        if not merge.models:
            return stand_in()
        rest = self._model(merge.models[0], mode)
        return self._attempt(lambda: Assembled(parts, rest, merge.line))

    def _piece(self, method: Method, group: Group) -> Expression:
        return self._attempt(lambda: combine(method, group, self._findings))

    def _attempt(self, build: Callable[[], Expression]) -> Expression:
        try:
            return build()
        except ExpressionError as error:
            self._findings.adopt(error.problems)
            return stand_in()

    def _group(self, merge: Merge, piece: Slice, mode: Mode) -> Group:
        base = piece.base or merge.base
        whole = None if base is None else self._model(base, mode)
        inputs = tuple(self._input(merge, piece, source, mode) for source in piece.sources)
        _report_lengths(piece, self._findings)
        _report_twice(inputs, self._findings)
        group = Group(
            merge=merge,
            piece=piece,
            inputs=inputs,
            base=base,
            base_key=None if base is None else self._key(base),
            base_whole=whole,
            mode=mode,
        )
        first = group.listed or (inputs[0] if inputs else None)
        levels: dict[str, Model] = {}
        for section in sections(merge, piece):
            levels = {**section.companions, **levels}
        if first is None or not levels:
            return group
        return replace(group, companions=self._companions(merge, levels, first.source, mode))

    def _input(self, merge: Merge, piece: Slice, source: Source, mode: Mode) -> Input:
        """A source; what turns out to be an adapter alone is on the base."""
        base = piece.base or merge.base
        itself = base is None or self._key(source.model) == self._key(base)
        on = None if base is None or itself else self._model(base, replace(mode, dtype=None))
        model = self._layers(self._model(source.model, mode, on), source, merge.tower)
        companions = self._companions(merge, source.parameters.companions, source, mode)
        return Input(source, self._key(source.model), model, companions)

    def _companions(
        self, merge: Merge, given: Mapping[str, Model], like: Source, mode: Mode
    ) -> Mapping[str, Expression]:
        """Those that the method reads, as they are stored, with the layers that are taken of ``like``."""
        own = {c.name for c in merge.method.companions} if merge.method is not None else set()
        stored, like = replace(mode, dtype=None), replace(like, identity=False)
        return {
            name: self._layers(self._model(m, stored), like, merge.tower) for name, m in given.items() if name in own
        }

    def _layers(self, model: Expression, source: Source, module: str | None) -> Expression:
        """``model``, or the layers of it that ``source`` takes."""
        span = source.layer_range
        if span is None:
            if source.stack is not None or source.identity:
                fix, name = "add layer_range: [first, last + 1]", "identity" if source.stack is None else "stack"
                self._findings.problem(f"{name} says something of layers, but none are asked for", source.line, fix)
            return model
        key = (model, span, source.stack, source.identity, module)
        if key not in self._done:
            self._done[key] = Layers(model, span[0], span[1], source.line, source.stack, source.identity, module)
        return self._done[key]

    def _key(self, model: Model) -> Hashable:
        return self._target(model).key

    def _model(self, model: Model, mode: Mode, on: Expression | None = None) -> Expression:
        """The expression of ``model``; ``on`` is what it is put on if it is an adapter alone."""
        if isinstance(model, Reference) and model.lora is not None:
            return self._stored(self._adapted(model, model.lora, mode), mode.dtype)
        target = self._target(model)
        if isinstance(model, Reference) and isinstance(target, Merge):
            self._used.add(id(target))
            if str(model) not in target.names:
                name = target.names[0]
                self._findings.note(f"{model} is taken to be the document {name!r} of this recipe", model.line)
            return self._document(target, bool(self._library.result.compat))
        if isinstance(target, Merge):
            return self._rounded(target, mode)
        return self._stored(self._leaf(target, on), mode.dtype)

    def _adapted(self, model: Reference, adapter: str, mode: Mode) -> Expression:
        """A model, or the document of that name, with an adapter on it."""
        of = self._model(_bare(model), replace(mode, dtype=None))
        key = (of, adapter)
        if key not in self._done:
            self._done[key] = Adapted(of, Leaf(adapter, None, self._folder, model.line, adapter=True), model.line)
        return self._done[key]

    def _stored(self, model: Expression, dtype: str | None) -> Expression:
        """A checkpoint as it is, or rounded to ``dtype`` when it is read."""
        if dtype is None:
            return model
        if (model, dtype) not in self._done:
            self._done[model, dtype] = Cast(model, dtype)
        return self._done[model, dtype]

    def _leaf(self, reference: Reference, on: Expression | None = None) -> Leaf:
        """The checkpoint itself, without an adapter."""
        key = (reference.key, on)
        if key not in self._leaves and on is not None:
            self._leaves[key] = replace(self._leaf(reference), on=on)
        if key not in self._leaves:
            text = reference.path if reference.revision is None else f"{reference.path}@{reference.revision}"
            self._leaves[key] = Leaf(text, None, self._folder, reference.line)
        return self._leaves[key]


def _bare(model: Model) -> Model:
    """``model`` without an adapter."""
    return replace(model, lora=None) if isinstance(model, Reference) else model


def _report_lengths(piece: Slice, findings: Findings) -> None:
    """Sources of one slice have the same number of layers."""
    spans = [(s.layer_range[1] - s.layer_range[0], s) for s in piece.sources if s.layer_range is not None]
    for length, source in spans[1:]:
        if length != spans[0][0]:
            message = f"sources of one slice have {spans[0][0]} and {length} layers"
            findings.problem(message, source.line, "give each source the same number of layers")


def _report_twice(inputs: tuple[Input, ...], findings: Findings) -> None:
    """No model stands twice in one merge, unless with other layers."""
    first: dict[Hashable, Input] = {}
    for item in inputs:
        seen = first.setdefault((item.key, item.source.layer_range, item.source.stack, item.source.identity), item)
        if seen is not item:
            name = item.source.model if isinstance(item.source.model, Reference) else "the same merge"
            findings.problem(
                f"{name} is given twice in one merge (first on line {seen.source.line})",
                item.source.line,
                "give it one entry, with the sum of the weights",
            )
