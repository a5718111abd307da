"""Language models on texts: perplexity and bits per byte."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stockpot.errors import CheckpointError, ExecutionError, Problem
from stockpot.evaluate.examples import digest, keys_of, read_rows, read_text
from stockpot.evaluate.neural import batches, context_of, need, prefix_of, summed_losses, token_losses
from stockpot.evaluate.opened import Opened
from stockpot.evaluate.protocol import EXAMPLE, Files, Lessons, Live, Metric, Predictions
from stockpot.execute.versions import versions_of

__all__ = ["Texts", "windows"]

_TELLING = 32
"""Lines of fewer characters occur in any two texts."""


@dataclass(frozen=True)
class Texts:
    """The likelihood of texts, every token given as much before it as fits.

    Each document is cut into windows of at most ``context`` tokens that move on by ``stride``; a token counts in the
    first window that holds it, so each counts once. With ``first: prefix`` the tokenizer's BOS (else EOS) stands before
    each document, so that its first token is predicted too; where there is none, or with ``first: skip``, it is not.

    Examples are windows. Bytes are those of what is predicted of a document, in UTF-8 (of all of it, where a slow
    tokenizer does not tell where its first token ends), dealt out to windows by tokens: exact in the sum.

    Args:
        documents: ``file``: each file is one; ``line``: each line that is not empty; ``jsonl``: each ``{"text": …}``.
        context: Tokens; None takes the model's own, at most 2048.
        stride: Tokens; None moves on by the context, as is usual for figures in the literature.
        batch_tokens: Tokens that are computed at a time; no figure depends on it.
    """

    metrics: tuple[Metric, ...]
    documents: Literal["file", "line", "jsonl"] = "file"
    context: int | None = None
    stride: int | None = None
    first: Literal["prefix", "skip"] = "prefix"
    batch_tokens: int = 4096
    facts: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        settings = [self.documents, self.context, self.stride, self.first]
        told = {"kind": "perplexity", "settings": settings, **versions_of("torch", "transformers", "tokenizers")}
        object.__setattr__(self, "facts", told)

    def examples(self, files: Files) -> list[bytes]:
        """Of whole documents, and of their longer lines."""
        found: dict[bytes, None] = {}
        for text in self._texts(files):
            lines = [line.strip() for line in text.split("\n")]
            found |= dict.fromkeys(digest(line) for line in (text.strip(), *lines) if len(line) >= _TELLING)
            found[digest(text.strip())] = None
        return list(found)

    def predict(self, model: Opened, files: Files) -> Predictions:
        """nll (nats, summed over a window's tokens), tokens, bytes."""
        need("torch", "transformers")
        pieces, scored, sizes = self._windows(model, files)
        losses = token_losses(model.transformer("causal"), pieces, self.batch_tokens)
        keys = [digest(np.asarray([*piece, count]).tobytes()) for piece, count in zip(pieces, scored, strict=True)]
        sums = [float(own[-count:].sum()) for own, count in zip(losses, scored, strict=True)]
        columns = {"nll": np.array(sums), "tokens": np.array(scored), "bytes": np.array(sizes)}
        return {EXAMPLE: keys_of(keys), **columns}

    def lessons(self, model: Live, files: Files) -> Lessons:
        """nll over tokens, of windows."""
        need("torch", "transformers")
        pieces, scored, _ = self._windows(model, files)
        network = model.transformer("causal")

        def parts(places: Sequence[int], _factor: Any) -> Iterator[Any]:
            total = sum(scored[place] for place in places)
            for batch in batches([pieces[place] for place in places], self.batch_tokens):
                own = [places[i] for i in batch]
                yield summed_losses(network, [pieces[i] for i in own], [scored[i] for i in own]).sum() / total

        return Lessons(len(pieces), parts)

    def _windows(self, model: Opened | Live, files: Files) -> tuple[list[Sequence[int]], list[int], list[float]]:
        """Tokens of each window, how many of its last ones count, and the bytes that are predicted in it."""
        context = self.context or context_of(model.config)
        stride = min(self.stride or context, context)
        prefix = prefix_of(model.tokenizer) if self.first == "prefix" else []
        pieces: list[Sequence[int]] = []
        scored: list[int] = []
        sizes: list[float] = []
        for text in self._texts(files):
            own, size = _tokens(model.tokenizer, text, whole=bool(prefix))
            ids = [*prefix, *own]
            share = size / max(1, len(ids) - 1)
            for start, stop, count in windows(len(ids), context, stride):
                pieces.append(ids[start : stop + 1])
                scored.append(count)
                sizes.append(share * count)
        if not pieces:
            raise ExecutionError(Problem("no token is predicted: the texts have no more than one each"))
        return pieces, scored, sizes

    def _texts(self, files: Files) -> Iterator[str]:
        for path in files:
            found = [text for text in self._documents(path) if text.strip()]
            if not found:
                raise CheckpointError(Problem("no text", file=str(path)))
            yield from found

    def _documents(self, path: Path) -> list[str]:
        if self.documents == "jsonl":
            wrong = 'needs "text", a text'
            rows = read_rows([path], lambda row: None if isinstance(row.get("text"), str) else wrong)
            return [row["text"] for row in rows]
        text = read_text(path)
        return [text] if self.documents == "file" else text.split("\n")


def _tokens(tokenizer: Any, text: str, *, whole: bool) -> tuple[list[int], int]:
    """The tokens of a text, and the bytes of those that are predicted: all, or all but the first."""
    offsets = {"return_offsets_mapping": True} if tokenizer.is_fast and not whole else {}
    found = tokenizer(text, add_special_tokens=False, verbose=False, **offsets)
    start = found["offset_mapping"][0][1] if offsets and found["input_ids"] else 0
    return list(found["input_ids"]), len(text[start:].encode())


def windows(length: int, context: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(first input, end of inputs, how many of the last targets count) for a document of ``length`` tokens.

    Target t is predicted at input t - 1. Every target from 1 to length - 1 counts once.

    >>> list(windows(8, context=4, stride=2))
    [(0, 4, 4), (2, 6, 2), (3, 7, 1)]
    """
    done = 1
    while done < length:
        stop = min(done + (context if done == 1 else stride), length)
        yield max(0, stop - 1 - context), stop - 1, stop - done
        done = stop
