"""A node that gives models one vocabulary → what is done to each of them; everything wrong is reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from stockpot.architecture.tied import vocabulary_rows
from stockpot.errors import StockpotError
from stockpot.expression import Expression
from stockpot.planning.tokens.rowmaps import row_maps
from stockpot.planning.tokens.vocabulary import Member, Retokenizing, key_of, models_of, vocabulary_of
from stockpot.planning.views import Context, View
from stockpot.tokens import Retokenized, TokenSource
from stockpot.vocabulary.matched import Chosen, Matching, Row, Rows, match
from stockpot.vocabulary.model import Vocabulary
from stockpot.vocabulary.unite import CannotUniteError, unite
from stockpot.vocabulary.write import CannotWriteError, Files, written

__all__ = ["retokenizing"]

Build = Callable[[Expression, Context], View]

_SHOWN = 5
_MAX_ROWS = 20_000_000


def retokenizing(node: Retokenized, context: Context, build: Build) -> Context:
    """The context in which the models of ``node`` have the vocabulary that it asks for.

    Where that cannot be, the reason is reported, and what follows from it is not: the context's problems go nowhere.
    """
    known = len(context.problems)
    maker = _Maker(node, context, build)
    scope = maker.made() if maker.fine(known) else None
    if scope is None or len(context.problems) > known:
        return Context(context.checkpoints, context.seed)
    context.plain.scopes[id(node)] = scope
    return context.within(scope)


@dataclass(frozen=True)
class _Target:
    """The vocabulary of the result: its files, and the model that has it as it is, if one has."""

    vocabulary: Vocabulary
    files: Files
    giver: int | None


class _Maker:
    """Collects the models of a node, then makes what is done to them."""

    def __init__(self, node: Retokenized, context: Context, build: Build) -> None:
        self._node, self._context, self._build = node, context, build
        self._numbers: dict[object, int] = {}
        self._members: list[Member] = []
        if node.base is not None:
            self._take(_model(node.base))
        for model in models_of(node.of):
            self._take(model)
        self._merged = len(self._members)
        named = (node.source, *(token.model for token in node.tokens.values()))
        for other in named:
            if isinstance(other, Expression):
                self._take(_model(other))

    def _problem(self, message: str, fix: str | None = None, line: int | None = None) -> None:
        self._context.problem(message, line=line or self._node.line, fix=fix)

    def fine(self, known: int) -> bool:
        """Whether every model was understood."""
        return len(self._context.problems) == known and self._merged > 0

    def _take(self, model: Expression) -> None:
        key = key_of(model)
        if key in self._numbers:
            return
        self._numbers[key] = len(self._members)
        plain = self._context.plain
        view = self._build(model, plain)
        try:
            vocabulary, files = vocabulary_of(model, plain)
        except StockpotError as error:
            way = "leave tokenizer_source and tokenizer out"
            found = [replace(p, fix=f"{p.fix}, or {way}" if p.fix else way) for p in error.problems]
            self._context.problems.extend(p for p in found if p not in self._context.problems)
            return
        count = vocabulary_rows({name: meta.shape for name, meta in view.names.items()}, view.config)
        if count is None:
            self._problem(f"{view.label} has no embedding that is known by its name", "check that it is a text model")
            return
        self._members.append(Member(view, vocabulary, count, files))
        self._tell_of_lost(self._members[-1])

    def _tell_of_lost(self, member: Member) -> None:
        """Tokens beyond the rows of an embedding."""
        lost = [token for token, number in member.vocabulary.ids.items() if number >= member.count]
        if lost:
            message = (
                f"{member.label} has no row for {len(lost)} of its tokens, as its embedding has {member.count} rows: "
                f"{_some(lost)}; they count as tokens that it lacks"
            )
            self._context.note(message, line=self._node.line)

    def made(self) -> Retokenizing | None:
        """What is done; None (reported) when it cannot be."""
        target = self._target()
        if target is None:
            return None
        rows = self._rows(target)
        chosen = dict(self._chosen(target.vocabulary))
        if rows > _MAX_ROWS:
            self._problem(f"the result would have {rows} rows for its tokens", "a smaller pad_to_multiple_of")
            return None
        models = [Rows(m.vocabulary, m.count) for m in self._members[: self._merged]]
        base = self._number(self._node.base) if self._node.base is not None else None
        matching = match(target.vocabulary, rows, models, base, chosen)
        self._check_everywhere(matching, target.vocabulary)
        return Retokenizing(
            target=target.vocabulary,
            rows=rows,
            members=tuple(self._members),
            merged=self._merged,
            numbers=self._numbers,
            matching=matching,
            maps=tuple(row_maps(matching, i, m.count) for i, m in enumerate(self._members[: self._merged])),
            files=target.files,
            giver=target.giver,
            context=self._context,
        )

    def _number(self, model: Expression) -> int:
        return self._numbers[key_of(_model(model))]

    def _target(self) -> _Target | None:
        source = self._node.source
        if source == "union":
            return self._union(self._members[: self._merged])
        number = 0 if isinstance(source, str) else self._number(source)
        return _Target(self._members[number].vocabulary, self._members[number].files, number)

    def _union(self, members: Sequence[Member]) -> _Target | None:
        first = members[0]
        fix = f"tokenizer_source: base, or the name of the model whose tokenizer is wanted, such as {first.label}"
        try:
            united = unite([m.vocabulary for m in members])
            for note in united.notes:
                self._context.note(note, line=self._node.line)
            if united.vocabulary is first.vocabulary:
                return _Target(first.vocabulary, first.files, 0)
            return _Target(united.vocabulary, written(united.vocabulary, first.files), None)
        except CannotUniteError as error:
            self._problem(f"the tokenizers cannot be united: {error}", fix)
        except CannotWriteError as error:
            self._problem(f"the united tokenizer cannot be written: {error}", f"save it with tokenizer.json, or {fix}")
        return None

    def _rows(self, target: _Target) -> int:
        """Rows of the result: no fewer than the model has whose tokens come first, and a multiple of what is asked."""
        first = self._members[0 if target.giver is None else target.giver]
        rows = max(target.vocabulary.size, first.count)
        multiple = self._node.pad_to_multiple_of or 1
        return -(-rows // multiple) * multiple

    def _chosen(self, target: Vocabulary) -> Iterator[tuple[int, Chosen]]:
        """Row → what the user chose for its token."""
        for token, source in self._node.tokens.items():
            number = target.ids.get(token)
            line = source.line or self._node.line
            if number is None:
                message = f"token {_shown(token)} is not in the result's vocabulary"
                self._problem(message, "check its spelling; only tokens of the result have an embedding", line)
                continue
            row = self._row(token, source, line)
            if row is not None:
                yield number, Chosen(row, source.force)

    def _row(self, token: str, source: TokenSource, line: int | None) -> Row | None:
        if source.model is None:
            return Row(None)
        number = self._number(source.model)
        member = self._members[number]
        wanted = token if source.token is None else source.token
        row = wanted if isinstance(wanted, int) else member.vocabulary.ids.get(wanted)
        if row is not None and 0 <= row < member.count:
            return Row(number, row)
        if row is None:
            message, fix = f"{member.label} has no token {_shown(wanted)}", "name a token that it has, or kind: zero"
        else:
            message = f"{member.label} has no row {row} for {_shown(wanted)}: its embedding has {member.count} rows"
            fix = "name another token, or kind: zero"
        self._problem(f"the source of token {_shown(token)}: {message}", fix, line)
        return None

    def _check_everywhere(self, matching: Matching, target: Vocabulary) -> None:
        """Each token of the result needs a row of some model, or a source that the user chose."""
        lost = [target.tokens[row] for row in matching.nowhere]
        if lost:
            message = f"no model has an embedding for {len(lost)} token(s) of the result: {_some(lost)}"
            fix = f"tokenizer: {{tokens: {{{_shown(lost[0])}: {{source: {{kind: zero}}}}}}}}, or another model's token"
            self._problem(message, fix)


def _model(node: Expression) -> Expression:
    """The model that ``node`` is; of a merge, the first one."""
    return next(models_of(node))


def _some(tokens: Sequence[str]) -> str:
    return ", ".join(map(_shown, tokens[:_SHOWN])) + (", …" if len(tokens) > _SHOWN else "")


def _shown(token: str | int) -> str:
    return str(token) if isinstance(token, int) else f"{token[:80]!a}".replace("'", '"')
