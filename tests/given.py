"""What every method is given in tests: parameters without a default, companions, both scopes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

import stockpot as sp
from stockpot.expression import apply
from stockpot.methods.declare import REQUIRED, Base
from stockpot.methods.registry import METHODS

SPECIAL = {"task": 1}
"""Values of required parameters that are not just any number."""


def required(method):
    """A value for each parameter without a default; of a choice, its first word."""
    return {
        p.python_name: SPECIAL.get(p.name, p.choices[0] if p.choices else 1.0 if p.per_model else 0.25)
        for p in method.parameters
        if p.default is REQUIRED
    }


def takes(method, name):
    """Whether a method has a parameter of that name."""
    return any(p.name == name for p in method.parameters)


def tensorwise(method):
    """What makes a method take its statistics over each tensor."""
    return {"scope": "tensor"} if takes(method, "scope") else {}


@dataclass(frozen=True)
class Form:
    """A method and parameters that make it one of its forms; ``str`` is the id of a test."""

    method: object
    parameters: dict = field(default_factory=dict)

    def __str__(self):
        return "-".join((self.method.name, *(f"{k}_{v}" for k, v in self.parameters.items())))


def forms(methods=None):
    """Every method; those with a scope once for each tensor and once for the whole model."""
    found = []
    for method in METHODS.values() if methods is None else methods:
        scopes = ("tensor", "model") if takes(method, "scope") else ()
        found += [Form(method, {"scope": scope}) for scope in scopes] or [Form(method)]
    return found


def companion_values(companion, shape, rng):
    """An array that a companion may hold: a mask of zeros and ones, a Gram matrix, else powers of two."""
    if companion.gram:
        x = rng.normal(size=(2 * max(shape[-1:], default=1) + 1, *shape[-1:]))
        return np.asarray(x.T @ x, np.float64)
    if companion.name == "mask":
        return rng.integers(0, 2, shape).astype(np.float32)
    return (2.0 ** rng.integers(-2, 3, shape)).astype(np.float32)


def companions(method, shapes, count, *, seed=0):
    """The required companions of ``count`` models whose tensors have ``shapes``: name → a list, or one.

    Args:
        shapes: Tensor name → shape.
    """
    rng = np.random.default_rng(seed)
    found = {}
    for companion in method.companions:
        if not companion.required:
            continue
        made = [
            sp.open(
                {n: companion_values(companion, s, rng) for n, s in sorted(shapes.items())}, name=f"{companion.name}{i}"
            )
            for i in range(count if companion.per_model else 1)
        ]
        found[companion.name] = made if companion.per_model else made[0]
    return found


def merged(method, base, models, **parameters):
    """The merge of ``models`` as the method is meant: around ``base`` where it works on differences.

    Companions that are not given are made to fit the tensors of ``base``.
    """
    needed = [c.name for c in method.companions if c.required and c.name not in parameters]
    beside = (
        companions(method, {s.name: s.shape for s in sp.plan(sp.passthrough(base)).steps}, len(models))
        if needed
        else {}
    )
    parameters = {**required(method), **beside, **parameters}
    if method.base is not Base.REQUIRED:
        return apply(method, models, parameters)
    made = apply(method, [m - base for m in models], parameters)
    return made if method.gives is not None else base + made
