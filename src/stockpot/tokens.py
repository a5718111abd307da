"""The node that gives models one vocabulary before anything else is done to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stockpot.arrangements import Transplant
from stockpot.errors import ExpressionError, Problem
from stockpot.expression import Expression, Leaf, Linear, leaves
from stockpot.methods.declare import Space

__all__ = ["Retokenized", "TokenSource", "main_leaf"]


@dataclass(frozen=True)
class TokenSource:
    """Where the embedding of a token comes from.

    Args:
        model: The model whose row it is; None for a row of zeros.
        token: Its text or number in that model; None for the same text.
        force: Whether models that have the token get this embedding too.
        line: Recipe line, for errors.
    """

    model: Expression | None
    token: str | int | None = None
    force: bool = False
    line: int | None = None


@dataclass(frozen=True, eq=False)
class Retokenized(Expression):
    """``of``, whose models get one vocabulary first: rows of embeddings and heads are matched by tokens.

    Args:
        of: A merge, or a single model.
        source: Whose tokenizer the result has: ``"union"`` of all, ``"base"``, or a model.
        base: The model whose tokens come first, and whose rows stand in for those that others lack; without one,
            the first model's tokens come first.
        tokens: Token → where its embedding comes from, for single tokens.
        pad_to_multiple_of: Rounds the number of rows up.
        line: Recipe line, for errors.
    """

    of: Expression
    source: Expression | str = "union"
    base: Expression | None = None
    tokens: Mapping[str, TokenSource] = field(default_factory=dict)
    pad_to_multiple_of: int | None = None
    line: int | None = None

    def __post_init__(self) -> None:
        if self.of.space is not Space.WEIGHTS:
            fix = "add the difference to a base first"
            raise ExpressionError(Problem("only models have a vocabulary", line=self.line, fix=fix))
        if isinstance(self.source, str) and self.source not in ("union", "base"):
            fix = 'one of "union", "base", or a model: stockpot.open(...)'
            raise ExpressionError(Problem(f"no tokenizer source: {self.source!r}", line=self.line, fix=fix))
        if self.pad_to_multiple_of is not None and self.pad_to_multiple_of < 1:
            message = f"pad_to_multiple_of is {self.pad_to_multiple_of}"
            raise ExpressionError(Problem(message, line=self.line, fix="a whole number from 1"))

    @property
    def space(self) -> Space:
        """Weights."""
        return Space.WEIGHTS

    @property
    def children(self) -> tuple[Expression, ...]:
        """What is merged, then the models that are named for their tokens."""
        named = (self.source, self.base, *(token.model for token in self.tokens.values()))
        return (self.of, *(node for node in named if isinstance(node, Expression)))


def main_leaf(expression: Expression) -> Leaf | None:
    """The model that ``expression`` is about: that of the largest coefficient of a sum, else the first."""
    if isinstance(expression, Linear):
        return main_leaf(expression.largest.of)
    if isinstance(expression, Retokenized):
        return main_leaf(expression.base or expression.of)
    if isinstance(expression, Transplant):
        return main_leaf(expression.of)
    return next((leaf for leaf in leaves(expression) if not leaf.adapter), None)
