"""Language models on multiple choice: the answer whose text is likeliest after the question."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from stockpot.errors import ExecutionError, Problem
from stockpot.evaluate.examples import Row, digest, keys_of, read_rows
from stockpot.evaluate.metrics import classified
from stockpot.evaluate.neural import context_of, need, prefix_of, share_losses, summed_losses, token_losses
from stockpot.evaluate.opened import Opened
from stockpot.evaluate.protocol import EXAMPLE, Files, Lessons, Live, Metric, Predictions
from stockpot.execute.versions import versions_of

__all__ = ["Choices"]


@dataclass(frozen=True)
class Choices:
    """Lines of ``{"context": …, "choices": [c0, c1, …], "answer": 0}``; a choice is what follows the context directly.

    ln p of a choice is the sum over its tokens given context and what it begins with. The tokens of context + choice
    are cut where those of the context alone end; white space at the end of the context goes with the choice, and BOS
    (else EOS) stands before all. Of what is too long, the beginning is left out.

    Columns: ``predicted`` by ln p; ``predicted_tokens`` and ``predicted_bytes`` by ln p over the choice's number of
    tokens or UTF-8 bytes; ``confidence`` and ``loss`` of the softmax of ln p over the choices.

    Args:
        context: Tokens; None takes the model's own, at most 2048.
        batch_tokens: Tokens that are computed at a time; no figure depends on it.
    """

    metrics: tuple[Metric, ...]
    context: int | None = None
    batch_tokens: int = 4096
    facts: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        told = {"kind": "choice", "context": self.context, **versions_of("torch", "transformers", "tokenizers")}
        object.__setattr__(self, "facts", told)

    def examples(self, files: Files) -> list[bytes]:
        """Of context and choices."""
        return _digests(read_rows(files, _wrong))

    def predict(self, model: Opened, files: Files) -> Predictions:
        """See the class."""
        need("torch", "transformers")
        rows = read_rows(files, _wrong)
        encoded = self._encoded(model, rows)
        losses = token_losses(model.transformer("causal"), [ids for _, ids, _ in encoded], self.batch_tokens)
        counts = [count for _, _, count in encoded]
        likely = [-float(own[-count:].sum()) for own, count in zip(losses, counts, strict=True)]
        sizes = [len(choice.encode()) for row in rows for choice in row["choices"]]
        return {EXAMPLE: keys_of(_digests(rows)), **_columns(rows, likely, counts, sizes)}

    def lessons(self, model: Live, files: Files) -> Lessons:
        """-ln of the right answer's share of the likelihood of all."""
        need("torch", "transformers")
        rows = read_rows(files, _wrong)
        answers: list[list[tuple[list[int], int]]] = [[] for _ in rows]
        for i, ids, count in self._encoded(model, rows):
            answers[i].append((ids, count))
        network = model.transformer("causal")

        def parts(places: Sequence[int], _factor: Any) -> Iterator[Any]:
            for own in _together(places, answers, self.batch_tokens):
                each = [answer for place in own for answer in answers[place]]
                losses = summed_losses(network, [ids for ids, _ in each], [count for _, count in each])
                right = [rows[place]["answer"] for place in own]
                yield share_losses(losses, [len(answers[place]) for place in own], right).sum() / len(places)

        return Lessons(len(rows), parts)

    def _encoded(self, model: Opened | Live, rows: Sequence[Row]) -> list[tuple[int, list[int], int]]:
        """(row, tokens, how many are the choice's) of each choice of each row in turn."""
        encoded = [
            (i, *_encoded(model.tokenizer, row["context"], c)) for i, row in enumerate(rows) for c in row["choices"]
        ]
        longest = (self.context or context_of(model.config)) + 1
        too_long = next((rows[i] for i, _, count in encoded if count >= longest), None)
        if too_long is not None:
            raise ExecutionError(Problem(f"a choice has more tokens than the context: {too_long['choices']!r:.200}"))
        return [(i, ids[-longest:], count) for i, ids, count in encoded]


def _together(
    places: Sequence[int], answers: Sequence[Sequence[tuple[list[int], int]]], budget: int
) -> Iterator[list[int]]:
    """``places`` in groups whose answers, padded, hold at most ``budget`` tokens; at least one in each."""
    group: list[int] = []
    count = longest = 0
    for place in places:
        most = max(longest, *(len(ids) for ids, _ in answers[place]))
        if group and (count + len(answers[place])) * most > budget:
            yield group
            group, count, most = [], 0, max(len(ids) for ids, _ in answers[place])
        group.append(place)
        count, longest = count + len(answers[place]), most
    if group:
        yield group


def _columns(
    rows: Sequence[Row], likely: Sequence[float], tokens: Sequence[int], sizes: Sequence[int]
) -> dict[str, npt.NDArray[Any]]:
    """The columns, from what is known of each choice of each row in turn."""
    table = np.full((len(rows), max(len(row["choices"]) for row in rows)), -np.inf)
    by_token, by_byte = table.copy(), table.copy()
    place = 0
    for i, row in enumerate(rows):
        for k in range(len(row["choices"])):
            table[i, k] = likely[place]
            by_token[i, k] = likely[place] / tokens[place]
            by_byte[i, k] = likely[place] / sizes[place]
            place += 1
    powers = np.exp(table - table.max(axis=1, keepdims=True))
    labels = np.array([row["answer"] for row in rows], np.int64)
    columns = classified(powers / powers.sum(axis=1, keepdims=True), labels)
    best = {"predicted_tokens": by_token.argmax(axis=1), "predicted_bytes": by_byte.argmax(axis=1)}
    return {**columns, **best}


def _encoded(tokenizer: Any, context: str, choice: str) -> tuple[list[int], int]:
    """The tokens of a context with a choice after it, and how many are the choice's."""
    bare = context.rstrip()
    whole, before = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (context + choice, bare))
    prefix = prefix_of(tokenizer)
    count = len(whole) - len(before)
    if count < 1 or len(prefix) + len(before) < 1:
        lacks = "no token of its own" if count < 1 else "nothing before it to be predicted from"
        raise ExecutionError(Problem(f"the choice {choice!r:.200} has {lacks}"))
    return [*prefix, *whole], count


def _wrong(row: Row) -> str | None:
    choices, answer = row.get("choices"), row.get("answer")
    if not isinstance(row.get("context"), str):
        return 'needs "context", a text'
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c for c in choices):
        return 'needs "choices", a list of at least two texts'
    if type(answer) is not int or not 0 <= answer < len(choices):
        return f'needs "answer", the number of the right choice from 0 to {len(choices) - 1}'
    return None


def _digests(rows: Sequence[Row]) -> list[bytes]:
    return [digest(json.dumps([row["context"], row["choices"]])) for row in rows]
