"""One vocabulary of several: the first one's tokens with their numbers, then what the others have beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from stockpot.vocabulary.model import AddedToken, Vocabulary

__all__ = ["CannotUniteError", "United", "unite"]


class CannotUniteError(ValueError):
    """Why vocabularies cannot be united, as a clause."""


@dataclass(frozen=True)
class United:
    """A union.

    Args:
        vocabulary: All tokens; those of the first keep their numbers.
        new: Tokens that the first lacks, in order.
        notes: What a user should know, as clauses.
    """

    vocabulary: Vocabulary
    new: tuple[str, ...]
    notes: tuple[str, ...] = ()


def unite(vocabularies: Sequence[Vocabulary]) -> United:
    """The union of ``vocabularies``, the first of which gives everything but tokens, merges and scores.

    New tokens come in the order of the models, and in that of their numbers within a model. Pairs that BPE joins are
    united likewise, so that the first one's come first.

    Raises:
        CannotUniteError: when their tokens are of different kinds, or spelt differently.
    """
    first, *others = vocabularies
    for other in others:
        _same_kind(first, other)
    ids, added = dict(first.ids), {token.content: token for token in first.added}
    scores, merges = dict(first.scores), dict.fromkeys(first.merges)
    new: list[str] = []
    place = first.size
    for other in others:
        own = {token.content: token for token in other.added}
        for token, _ in sorted(other.ids.items(), key=lambda item: item[1]):
            if token not in ids:
                ids[token] = place
                place += 1
                new.append(token)
                if token in own:
                    added[token] = replace(own[token], id=ids[token])
                elif token in other.scores:
                    scores[token] = other.scores[token]
            elif token in own and own[token].special and token not in added:
                added[token] = replace(own[token], id=ids[token])
        merges |= dict.fromkeys(other.merges)
    return United(_made(first, ids, added, tuple(merges), scores), tuple(new), tuple(_notes(first, others)))


def _made(
    first: Vocabulary,
    ids: dict[str, int],
    added: dict[str, AddedToken],
    merges: tuple[tuple[str, str], ...],
    scores: dict[str, float],
) -> Vocabulary:
    if len(ids) == len(first.ids) and len(added) == len(first.added) and len(merges) == len(first.merges):
        return first
    listed = tuple(sorted(added.values(), key=lambda token: token.id))
    return replace(first, ids=ids, added=listed, merges=merges, scores=scores)


def _same_kind(first: Vocabulary, other: Vocabulary) -> None:
    if first.kind != other.kind:
        raise CannotUniteError(f"{first.label} cuts text by {first.kind}, {other.label} by {other.kind}")
    if first.alphabet != other.alphabet:
        raise CannotUniteError(f"{first.label} spells tokens in {first.alphabet}, {other.label} in {other.alphabet}")


def _notes(first: Vocabulary, others: Sequence[Vocabulary]) -> list[str]:
    notes = []
    for other in others:
        differ = [
            name.replace("_", " ")
            for name in ("normalizer", "pre_tokenizer")
            if first.pipeline and other.pipeline and first.pipeline.get(name) != other.pipeline.get(name)
        ]
        if differ and other.ids.keys() - first.ids.keys() - other.plain_tokens:
            notes.append(
                f"{other.label} has another {' and '.join(differ)} than {first.label}, whose is kept: "
                f"some of its tokens may never be produced"
            )
        if other.chat_template is not None and other.chat_template != first.chat_template:
            what = "another chat template than" if first.chat_template is not None else "a chat template, unlike"
            notes.append(f"{other.label} has {what} {first.label}, whose tokenizer settings are kept")
        roles = [role for role, token in other.roles.items() if first.roles.get(role, token) != token]
        if roles:
            listed = ", ".join(f"{role} {other.roles[role]!a}" for role in roles)
            notes.append(f"{other.label} has {listed}; those of {first.label} are kept")
    return notes
