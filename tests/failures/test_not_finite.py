"""A NaN in any input of any method is an error that names tensor and model; it is never merged into a model.

Tensors that are only copied, as passthrough does without a scale, are copied as they are.
"""

from __future__ import annotations

import numpy as np
import pytest

import stockpot as sp
from given import companion_values, forms, merged, takes
from stockpot.methods.declare import Base
from stockpot.methods.registry import METHODS

SHAPES = {
    "a.frozen": (7, 5),
    "b.weight": (90, 11),
    "c.weight": (7, 5),
    "d.norm": (40,),
}
"""The first tensor is the same in all models; what is damaged is c, so that others are computed before and after it."""

PLACE = (2, 3)
WORDS = {"NaN": np.nan, "-NaN": np.copysign(np.nan, -1.0), "infinite": np.inf}


def arrays(count, seed=0):
    """A base and fine-tunes with a frozen tensor."""
    rng = np.random.default_rng(seed)
    base = {n: rng.normal(1.0, 0.1, s).astype(np.float32) for n, s in SHAPES.items()}
    tuned = [
        {n: (x + rng.normal(0.0, 0.01, x.shape)).astype(np.float32) for n, x in base.items()} for _ in range(count)
    ]
    for model in tuned:
        model["a.frozen"] = base["a.frozen"]
    return [base, *tuned]


def damaged(model, value, many):
    """A copy with a wrong entry in c, or with half of that tensor wrong from there on."""
    found = {n: x.copy() for n, x in model.items()}
    if many:
        found["c.weight"].reshape(-1)[np.ravel_multi_index(PLACE, SHAPES["c.weight"]) :] = value
    else:
        found["c.weight"][PLACE] = value
    return found


def expression(form, models):
    """The merge of the models: base, then others; densities drop something."""
    method = form.method
    given = {"density": 0.5} if takes(method, "density") else {}
    given |= {"scale": 0.5} if takes(method, "scale") else {}
    return merged(method, models[0], models[1:][: method.at_most or 3], **given, **form.parameters)


def opened(models):
    return [sp.open(m, name="base" if i == 0 else f"m{i}") for i, m in enumerate(models)]


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("form", forms(), ids=str)
def test_a_damaged_weight_is_named(form, word, many):
    """In whichever model it stands, one or many: the error says what, where, in which tensor and which model."""
    models = arrays(3)
    used = [0] if form.method.base is Base.REQUIRED else []
    used += range(1, 1 + min(form.method.at_most or 3, 3))
    if form.method.name == "passthrough" and word == "infinite":
        used = []  # an infinity that all models share is a mask, and here there is only one model
    for wrong in used:
        changed = [damaged(m, WORDS[word], many) if i == wrong else m for i, m in enumerate(models)]
        with pytest.raises(sp.ExecutionError) as caught:
            sp.compute(expression(form, opened(changed)))
        text = str(caught.value)
        name = "base" if wrong == 0 else f"m{wrong}"
        assert f"{word.removeprefix('-')} weight at {list(PLACE)} of {name}" in text
        assert "[tensor c.weight]" in text


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("method", [m for m in METHODS.values() if m.companions], ids=lambda m: m.name)
def test_a_damaged_companion_is_named(method, word):
    """The same for companions: masks, Fisher information, Gram matrices, a model that gives the signs."""
    models = opened(arrays(3))[: 1 + (method.at_most or 3)]
    for companion in method.companions:
        rng = np.random.default_rng(1)
        wanted = {
            n: s[-1:] * 2 if companion.gram else s for n, s in SHAPES.items() if len(s) == 2 or not companion.gram
        }
        made = [{n: companion_values(companion, SHAPES[n], rng).astype(np.float32) for n in wanted} for _ in models[1:]]
        made[-1]["c.weight"] = made[-1]["c.weight"].copy()
        made[-1]["c.weight"][PLACE] = WORDS[word]
        beside = [sp.open(c, name=f"beside{i}") for i, c in enumerate(made)]
        given = {companion.name: beside if companion.per_model else beside[-1]}
        with pytest.raises(sp.ExecutionError) as caught:
            sp.compute(merged(method, models[0], models[1:], **given))
        text = str(caught.value)
        assert f"{word.removeprefix('-')} weight at {list(PLACE)} of beside{len(beside) - 1}" in text
        assert "[tensor c.weight]" in text
