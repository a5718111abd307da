"""A vocabulary as data: tokens with their numbers, and what a tokenizer says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import xxhash

__all__ = ["BYTES_SPELT", "ROLES", "AddedToken", "Alphabet", "Kind", "Vocabulary"]

Kind = Literal["BPE", "Unigram", "WordPiece", "WordLevel"]
"""How text is cut into tokens."""

Alphabet = Literal["bytes", "metaspace", "wordpiece", "plain"]
"""How tokens are spelt: one character a byte, ``▁`` for a space, ``##`` inside a word, or as the text itself."""

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The roles that a tokenizer's settings give to tokens by name."""


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that is found in the text before everything else.

    Args:
        content: Its text.
        id: Its number.
        special: Whether it stands for no text, such as the end of a turn.
        lstrip, rstrip: Whether the white space before or after it belongs to it.
        normalized: Whether it is looked for in the normalised text.
        single_word: Whether it must stand alone.
    """

    content: str
    id: int
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    single_word: bool = False

    def as_data(self) -> dict[str, Any]:
        """As tokenizer.json lists it."""
        return {
            "id": self.id,
            "content": self.content,
            "single_word": self.single_word,
            "lstrip": self.lstrip,
            "rstrip": self.rstrip,
            "normalized": self.normalized,
            "special": self.special,
        }


@dataclass(frozen=True)
class Vocabulary:
    """What a tokenizer knows.

    Args:
        label: How the user wrote its model.
        kind: How text is cut.
        alphabet: How its tokens are spelt.
        ids: Token → number: the model's tokens, then the added ones.
        added: Tokens that are found before everything else, by number.
        roles: Role, such as ``eos_token`` → token.
        merges: Pairs of tokens that BPE joins, the first pair first; empty for other kinds.
        scores: Token → logarithm of its probability, of Unigram.
        chat_template: Jinja text; None without one.
        pipeline: ``tokenizer.json`` without vocabulary and merges; empty where the folder has none.
        settings: ``tokenizer_config.json``.
        files: Names of the files that it was read from, and of those beside that say the same.
    """

    label: str
    kind: Kind
    alphabet: Alphabet
    ids: Mapping[str, int]
    added: tuple[AddedToken, ...] = ()
    roles: Mapping[str, str] = field(default_factory=dict)
    merges: tuple[tuple[str, str], ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    chat_template: str | None = None
    pipeline: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()

    @property
    def byte_level(self) -> bool:
        """Whether each character of a token stands for a byte."""
        return self.alphabet == "bytes"

    @cached_property
    def size(self) -> int:
        """One more than the largest number of a token: the rows that an embedding needs."""
        return 1 + max(self.ids.values(), default=-1)

    @cached_property
    def tokens(self) -> Mapping[int, str]:
        """Number → token; of several with one number, the added one."""
        found = {number: token for token, number in self.ids.items()}
        return found | {token.id: token.content for token in self.added}

    @cached_property
    def plain_tokens(self) -> frozenset[str]:
        """Added tokens, which are spelt as the text that they stand for."""
        return frozenset(token.content for token in self.added)

    @cached_property
    def digest(self) -> str:
        """Equal for vocabularies with the same tokens and numbers."""
        state = xxhash.xxh3_128()
        for token, number in sorted(self.ids.items(), key=lambda item: (item[1], item[0])):
            state.update(f"{number}\0{token}\0".encode("utf-8", "surrogatepass"))
        return state.hexdigest()

    def text(self, token: str) -> bytes:
        """The bytes of text that ``token`` stands for, whatever its alphabet is: for comparing across tokenizers.

        >>> Vocabulary("m", "BPE", "bytes", {}).text("Ġa"), Vocabulary("m", "BPE", "metaspace", {}).text("▁a")
        (b' a', b' a')
        """
        if token in self.plain_tokens or self.alphabet == "plain":
            return token.encode("utf-8", "surrogatepass")
        if self.alphabet == "bytes":
            return _from_bytes(token)
        if self.alphabet == "wordpiece":
            return (token[2:] if token.startswith("##") else f" {token}").encode("utf-8", "surrogatepass")
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            try:
                return bytes([int(token[3:5], 16)])
            except ValueError:
                pass
        return token.replace("▁", " ").encode("utf-8", "surrogatepass")


def _alphabet_of_bytes() -> dict[str, int]:
    """GPT-2's characters: those that can be printed stand for themselves, the others are moved beyond 255."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    found = {chr(byte): byte for byte in printed}
    others = (byte for byte in range(256) if byte not in printed)
    return found | {chr(256 + place): byte for place, byte in enumerate(others)}


BYTES_SPELT = _alphabet_of_bytes()
"""Character of a byte-level token → the byte that it stands for."""


def _from_bytes(token: str) -> bytes:
    try:
        return bytes([BYTES_SPELT[character] for character in token])
    except KeyError:
        return token.encode("utf-8", "surrogatepass")
