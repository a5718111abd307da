"""Nodes of an expression that rearrange models: layers, stacks, modules, mixtures, other tokenizers and dtypes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stockpot.errors import ExpressionError, Problem
from stockpot.expression import Expression, Leaf
from stockpot.methods.declare import Space

__all__ = ["Assembled", "Cast", "Expert", "Layers", "Mixture", "Stack", "Transplant"]


@dataclass(frozen=True, eq=False)
class Layers(Expression):
    """Layers ``start`` ≤ i < ``stop`` of a model, renumbered from 0; the other tensors are kept.

    Args:
        stack: What stands before the layers' numbers, such as ``decoder.block``; None where it is clear.
        identity: Whether what the layers add to their input is scaled by zero, so that they change nothing yet.
        module: The part of the model that the layers are of, where ``stack`` does not say.
    """

    of: Expression
    start: int
    stop: int
    line: int | None = None
    stack: str | None = None
    identity: bool = False
    module: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ExpressionError(
                Problem(f"empty layer range [{self.start}, {self.stop})", line=self.line, fix="write [first, last + 1]")
            )

    @property
    def space(self) -> Space:
        return self.of.space

    @property
    def children(self) -> tuple[Expression, ...]:
        return (self.of,)


@dataclass(frozen=True, eq=False)
class Stack(Expression):
    """Models on top of each other: layers of all parts in turn.

    What stands before the layers (embeddings) comes from the first part, what stands after them
    (final norm, head) from the last. Of a model with several stacks only the one that layers were taken
    from grows; the others are the first part's.
    """

    parts: tuple[Expression, ...]
    line: int | None = None

    def __post_init__(self) -> None:
        if not self.parts or any(p.space is not Space.WEIGHTS for p in self.parts):
            raise ExpressionError(Problem("only Weights can be stacked", line=self.line))

    @property
    def space(self) -> Space:
        return Space.WEIGHTS

    @property
    def children(self) -> tuple[Expression, ...]:
        return self.parts


@dataclass(frozen=True, eq=False)
class Assembled(Expression):
    """A model of which each module is computed in a way of its own.

    Args:
        parts: Name of a module → an expression of a whole model, of which the module is taken.
        rest: The model that everything else is taken from.
    """

    parts: tuple[tuple[str, Expression], ...]
    rest: Expression
    line: int | None = None

    def __post_init__(self) -> None:
        if not self.parts or any(node.space is not Space.WEIGHTS for node in self.children):
            raise ExpressionError(Problem("modules are Weights", line=self.line))
        if len(dict(self.parts)) != len(self.parts):
            raise ExpressionError(Problem("a module is given twice", line=self.line))

    @property
    def space(self) -> Space:
        return Space.WEIGHTS

    @property
    def children(self) -> tuple[Expression, ...]:
        return (*(of for _, of in self.parts), self.rest)


@dataclass(frozen=True, eq=False)
class Cast(Expression):
    """``of``, rounded to ``dtype`` (a name such as ``bfloat16``) before it is used further."""

    of: Expression
    dtype: str

    @property
    def space(self) -> Space:
        return self.of.space

    @property
    def children(self) -> tuple[Expression, ...]:
        return (self.of,)


@dataclass(frozen=True, eq=False)
class Transplant(Expression):
    """A model with the tokenizer of another: rows of its embedding for tokens that it does not know are made.

    Args:
        of: The model: Weights.
        tokenizer: The model whose tokenizer it gets, with the embeddings that tell what its tokens mean.
        method: How rows are made, such as ``omp``.
        k: Number of rows that one is made of; 0 for methods that do not choose.
    """

    of: Expression
    tokenizer: Leaf
    method: str
    k: int
    line: int | None = None

    def __post_init__(self) -> None:
        models = isinstance(self.tokenizer, Leaf) and not self.tokenizer.adapter
        if not models or self.of.space is not Space.WEIGHTS:
            raise ExpressionError(Problem("a tokenizer goes from a model to a model", line=self.line))
        if _transplanted(self.of):
            fix = "give it the last tokenizer at once"
            raise ExpressionError(Problem("a model gets another tokenizer only once", line=self.line, fix=fix))
        if self.k < 0:
            raise ExpressionError(Problem(f"k is {self.k}: a row is made of at least one other", line=self.line))

    @property
    def space(self) -> Space:
        return Space.WEIGHTS

    @property
    def children(self) -> tuple[Expression, ...]:
        return (self.of, self.tokenizer)

    @property
    def merged(self) -> tuple[Expression, ...]:
        return (self.of,)


@dataclass(frozen=True)
class Expert:
    """A model that gives its MLPs to a mixture.

    Args:
        of: The model.
        noise: Standard deviation of normal numbers that are added to each of its MLP's weights.
        residual: Factor of what it adds to the residual stream: of its last matrix.
    """

    of: Expression
    noise: float = 0.0
    residual: float = 1.0


@dataclass(frozen=True, eq=False)
class Mixture(Expression):
    """A dense model with a router and several experts in place of each MLP: Weights.

    Args:
        of: The model that gives everything but the experts.
        experts: Each gives its MLPs.
        router: A checkpoint of the rows of the routers, under their names in the result.
        layout: Name of the kind of mixture.
        per_token: To how many experts a token goes.
        shared: The expert that every token goes to.
        line: Recipe line, for errors.
    """

    of: Expression
    experts: tuple[Expert, ...]
    router: Leaf
    layout: str
    per_token: int
    shared: Expert | None = None
    line: int | None = None

    def __post_init__(self) -> None:
        if any(e.space is not Space.WEIGHTS for e in (self.of, *(e.of for e in self.all_experts))):
            raise ExpressionError(Problem("a mixture is made of models, not of differences", line=self.line))
        if not 1 <= self.per_token <= len(self.experts):
            message = f"{self.per_token} experts for each token, of {len(self.experts)}"
            raise ExpressionError(Problem(message, line=self.line, fix=f"1 to {len(self.experts)}"))
        if not all(math.isfinite(e.residual) and 0 <= e.noise < math.inf for e in self.all_experts):
            raise ExpressionError(Problem("noise is at least 0, and it and factors are finite", line=self.line))

    @property
    def all_experts(self) -> tuple[Expert, ...]:
        """The experts, the shared one last."""
        return (*self.experts, *(() if self.shared is None else (self.shared,)))

    @property
    def models(self) -> tuple[Expression, ...]:
        """What it is made of, but for the router."""
        return (self.of, *(expert.of for expert in self.all_experts))

    @property
    def space(self) -> Space:
        return Space.WEIGHTS

    @property
    def children(self) -> tuple[Expression, ...]:
        return (*self.models, self.router)

    @property
    def merged(self) -> tuple[Expression, ...]:
        return self.models


def _transplanted(expression: Expression) -> bool:
    return isinstance(expression, Transplant) or any(map(_transplanted, expression.children))
