"""How a tokenizer's model cuts a short text into its tokens, with one of them left out on demand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise

from stockpot.vocabulary.model import BYTES_SPELT, Vocabulary

__all__ = ["Cutter"]

_BYTE = "<0x{:02X}>"
_SPELT = {byte: character for character, byte in BYTES_SPELT.items()}


class Cutter:
    """Cuts texts as the model of a tokenizer does; what comes before, such as splitting at spaces, is left out.

    BPE joins pairs in the order of its merges, Unigram takes the likeliest cut, WordPiece the longest token at every
    place; where a vocabulary tells neither merges nor scores, it is the longest token at every place, too.

    Args:
        vocabulary: The tokenizer's.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._longest = max(map(len, vocabulary.ids), default=1)

    def cut(self, text: bytes, without: int = -1) -> tuple[int, ...]:
        """Numbers of the tokens; what no token covers is left out, so there may be none.

        Args:
            without: Number of a token that must not be used.
        """
        banned = self._vocabulary.tokens.get(without, "")
        units = self._units(text)
        if self._vocabulary.merges:
            tokens = self._joined(units, banned)
        elif self._vocabulary.scores:
            tokens = self._likeliest("".join(units), banned)
        else:
            inside = self._vocabulary.alphabet == "wordpiece" and not text.startswith(b" ")
            tokens = list(self._greedy("".join(units), banned, inside=inside))
        return tuple(number for token in tokens for number in self._numbers(token, banned))

    def _units(self, text: bytes) -> list[str]:
        """The characters that the vocabulary spells ``text`` with."""
        alphabet = self._vocabulary.alphabet
        if alphabet == "bytes":
            return [_SPELT[byte] for byte in text]
        shown = text.decode("utf-8", "surrogateescape")
        if alphabet == "metaspace":
            return list(shown.replace(" ", "▁"))
        return list(shown.removeprefix(" ") if alphabet == "wordpiece" else shown)

    @cached_property
    def _ranks(self) -> dict[tuple[str, str], int]:
        return {merge: rank for rank, merge in reversed(list(enumerate(self._vocabulary.merges)))}

    def _joined(self, units: Sequence[str], banned: str) -> list[str]:
        tokens = list(units)
        never = len(self._ranks)
        while len(tokens) > 1:
            ranks = [
                never if first + second == banned else self._ranks.get((first, second), never)
                for first, second in pairwise(tokens)
            ]
            best = min(ranks)
            if best == never:
                break
            place = ranks.index(best)
            tokens[place : place + 2] = [tokens[place] + tokens[place + 1]]
        return tokens

    def _likeliest(self, text: str, banned: str) -> list[str]:
        """The cut of largest sum of scores; a character that no token covers costs more than any that is."""
        scores = self._vocabulary.scores
        worst = min(scores.values(), default=0.0) - 10.0
        best: list[tuple[float, int]] = [(0.0, 0)]
        for stop in range(1, len(text) + 1):
            options = [(best[stop - 1][0] + worst, stop - 1)]
            for start in range(max(0, stop - self._longest), stop):
                token = text[start:stop]
                if token in scores and token != banned:
                    options.append((best[start][0] + scores[token], start))
            best.append(max(options, key=lambda option: option[0]))
        cuts = [len(text)]
        while cuts[-1] > 0:
            cuts.append(best[cuts[-1]][1])
        cuts.reverse()
        return [text[a:b] for a, b in pairwise(cuts)]

    def _greedy(self, text: str, banned: str, *, inside: bool) -> Iterator[str]:
        ids, start = self._vocabulary.ids, 0
        mark = "##" if self._vocabulary.alphabet == "wordpiece" else ""
        while start < len(text):
            lead, token, stop = mark if inside or start else "", "", start
            for stop in range(min(len(text), start + self._longest), start, -1):
                token = lead + text[start:stop]
                if token in ids and token != banned:
                    break
            yield token
            start = stop

    def _numbers(self, token: str, banned: str) -> Iterator[int]:
        """The token's number, else those of its bytes where the vocabulary has them."""
        ids = self._vocabulary.ids
        if token in ids and token != banned:
            yield ids[token]
        elif self._vocabulary.alphabet == "metaspace":
            spelt = (_BYTE.format(byte) for byte in token.replace("▁", " ").encode("utf-8", "surrogateescape"))
            yield from (ids[byte] for byte in spelt if byte in ids and byte != banned)
