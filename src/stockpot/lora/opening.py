"""Models and adapters by reference: opened, or, where a command is repeated, those that its receipt tells of."""

from __future__ import annotations

from collections.abc import Mapping

from stockpot.checkpoint.adapters import open_adapter
from stockpot.checkpoint.model import Checkpoint
from stockpot.checkpoint.open import open_checkpoint
from stockpot.errors import CheckpointError, ExpressionError, Problem, StockpotError
from stockpot.expression import Adapted, Expression, Leaf, Linear, Term
from stockpot.recipe.references import parted

__all__ = ["Given", "adapter_at", "change_named", "is_adapter_at", "model_at", "model_named"]

Given = Mapping[str, Checkpoint] | None
"""Reference → what it means, and nothing else may be opened; None where everything is opened."""


def adapter_at(given: Given, reference: str, folder: str | None = None, line: int | None = None) -> Checkpoint:
    """The adapter that ``reference`` names.

    Raises:
        StockpotError: when there is none.
    """
    return open_adapter(reference, folder=folder, line=line) if given is None else _one_of(given, reference)


def model_at(given: Given, reference: str, folder: str | None = None, line: int | None = None) -> Checkpoint:
    """The model that ``reference`` names.

    Raises:
        StockpotError: when there is none.
    """
    return open_checkpoint(reference, folder=folder, line=line) if given is None else _one_of(given, reference)


def is_adapter_at(given: Given, reference: str, folder: str | None = None) -> bool:
    """Whether ``reference`` names an adapter."""
    try:
        return adapter_at(given, reference, folder).is_adapter
    except StockpotError as error:
        if isinstance(error.__cause__, OSError):
            raise  # what it is cannot be told
        return False


def _one_of(given: Mapping[str, Checkpoint], reference: str) -> Checkpoint:
    """What ``given`` has for ``reference``.

    Raises:
        CheckpointError: when it has nothing.
    """
    if reference not in given:
        fix = "run the command again that the receipt tells of under adapter"
        raise CheckpointError(Problem(f"the receipt does not tell what {reference!r} was", fix=fix))
    return given[reference]


class _Change(Linear):
    """TUNED − BASE with the names and the layout of BASE, since that is what the adapter is put on."""

    @property
    def largest(self) -> Term:
        return self.terms[1]


def change_named(tuned: str, base: str, given: Given = None) -> Expression:
    """``tuned`` − ``base``, each a ``model`` or ``model+adapter``, with the names of ``base``.

    Raises:
        ExpressionError: where nobody can tell which part is an adapter.
    """
    difference = model_named(tuned, given) - model_named(base, given)
    assert isinstance(difference, Linear)
    return _Change(difference.terms)


def model_named(text: str, given: Given = None) -> Expression:
    """``model`` or ``model+adapter`` as an expression.

    Raises:
        ExpressionError: where nobody can tell which part is the adapter.
    """
    if given is not None:
        splits = [(text[:i], text[i + 1 :]) for i, c in enumerate(text) if c == "+"]
        pair = next(((a, b) for a, b in splits if a in given and b in given), None)
        if text in given or pair is None:
            return Leaf(text, _one_of(given, text))
        return Adapted(Leaf(pair[0], given[pair[0]]), Leaf(pair[1], given[pair[1]], adapter=True))
    parts = parted(text, None)
    if parts is None:
        raise ExpressionError(Problem(f"{text!r} has several +: which part is the adapter?", fix="rename a folder"))
    model, adapter = parts
    leaf = Leaf(model)
    return leaf if adapter is None else Adapted(leaf, Leaf(adapter, adapter=True))
