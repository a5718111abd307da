"""Every parameter of every method and step takes numbers, gradients and filters, and keeps its range."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import yaml

import stockpot as sp
from files import write_model
from stockpot.errors import StockpotError
from stockpot.methods.declare import REQUIRED, Base, Method, Parameter
from stockpot.methods.pieces import PIECES
from stockpot.methods.registry import METHODS
from stockpot.planning.model import Compute
from stockpot.recipe.parse import parse_recipe

LAYERS = 3
FIRST, LAST = "model.layers.0.w", f"model.layers.{LAYERS - 1}.w"
NEEDS = {
    "density": {"epsilon": 0.1},
    "gamma": {"density": 0.2},
    "nuslerp_row_wise": {"nuslerp_flatten": False},
    "nuslerp_flatten": {"nuslerp_row_wise": True},
    "steps": {"solver": "iterative"},
    "learning_rate": {"solver": "iterative"},
}
"""What a parameter must stand beside to be used, or to be allowed."""

STEP_NEEDS = {
    ("drop_ranked", "density"): {"epsilon": 0.1},
    ("drop_ranked", "epsilon"): {"density": 0.5},
    ("band", "gamma"): {"density": 0.2},
}
"""The same within one step."""


@dataclass(frozen=True)
class Use:
    """One parameter of one method, or of one step."""

    method: Method | None
    parameter: Parameter
    step: str | None = None

    def __str__(self) -> str:
        return f"{self.method.name if self.method else self.step}.{self.parameter.name}"

    @property
    def many(self) -> bool:
        """Whether it stands under a model: others stand for all."""
        return self.parameter.per_model and self.step is None


USES = [Use(m, p) for m in METHODS.values() for p in m.parameters if p.kind != "ignored"]
STEPS = [Use(None, p, piece.name) for piece in PIECES.values() for p in piece.parameters]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base, two models and the checkpoints that methods read beside them."""
    place = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "a", "b", "a-fisher", "b-fisher", "a-mask", "b-mask", "a-gram", "b-gram")):
        rng = np.random.default_rng(seed)
        arrays = {f"model.layers.{i}.w": rng.normal(size=(4, 4)) for i in range(LAYERS)}
        if "-" in name:
            arrays = {n: (a @ a.T if name.endswith("gram") else abs(a)) for n, a in arrays.items()}
        write_model(place / name, {n: a.astype(np.float32) for n, a in arrays.items()})
    return place


def two_values(p: Parameter):
    """Two different values that it may have."""
    if p.kind == "bool":
        return False, True
    if p.kind == "choice":
        return p.choices[0], p.choices[-1]
    if p.kind == "int":
        return max(int(p.low or 0), 1), max(int(p.low or 0), 1) + 1
    low = p.low or 0.0
    span = (p.high if p.high is not None else low + 1.0) - low
    return low + 0.25 * span, low + 0.75 * span


def beside(use: Use) -> dict[str, object]:
    """Values of the method's other parameters: what is required, and what makes this one count."""
    assert use.method is not None
    names = {p.name for p in use.method.parameters}
    found = {p.name: two_values(p)[0] for p in use.method.parameters if p.default is REQUIRED}
    found |= {"scope": "tensor"} if "scope" in names else {}
    found |= {"density": 0.5} if "density" in names else {}
    found |= {n: v for n, v in NEEDS.get(use.parameter.name, {}).items() if n in names}
    found.pop(use.parameter.name, None)
    return found


def document(use: Use, value: object, other: object) -> dict[str, object]:
    """A recipe in which the parameter is ``value``; that of a second model is ``other``."""
    name = use.parameter.name
    if use.step is not None:
        tail = [] if PIECES[use.step].ends else ["sum"]
        steps = [{use.step: {**STEP_NEEDS.get((use.step, name), {}), name: value}}, *tail]
        return {"merge_method": "steps", "steps": steps, "base_model": "base", "models": [{"model": m} for m in "ab"]}
    method = use.method
    assert method is not None
    count = 1 if Base.MEMBER is method.base or method.at_most == 1 else 2
    models: list[dict[str, object]] = []
    for model in ("a", "b")[:count]:
        own = {c.name: f"{model}-{c.name}" for c in method.companions if c.per_model}
        if use.many:
            own[name] = value if model == "a" else other
        models.append({"model": model, "parameters": own})
    whole = beside(use) | ({} if use.many else {name: value})
    data: dict[str, object] = {"merge_method": method.name, "models": models, "parameters": whole}
    if method.base in (Base.REQUIRED, Base.MEMBER):
        data["base_model"] = "base"
    return data


def resolved(use: Use, data: dict[str, object], folder: Path) -> dict[str, object]:
    """Tensor name → value of the parameter in the plan; of the first model where each has its own."""
    recipe = parse_recipe(yaml.safe_dump(data), folder=str(folder))
    found = {}
    for step in sp.plan(recipe).steps:
        assert isinstance(step.source, Compute)
        assert step.source.resolved is not None
        own = use.parameter.name if use.step is None else f"{use.parameter.name} of step 1"
        value = step.source.resolved[own]
        found[step.name] = value[0] if use.parameter.per_model else value
    return found


def computed(data: dict[str, object], folder: Path):
    """Tensor name → array."""
    return sp.compute(parse_recipe(yaml.safe_dump(data), folder=str(folder)))


def same(found, expected, name: str) -> bool:
    return found[name].tobytes() == expected[name].tobytes()


@pytest.mark.parametrize("use", [u for u in (*USES, *STEPS) if u.parameter.kind != "choice"], ids=str)
def test_gradients(use, folder):
    """A gradient runs from the first layer to the last: the plan has each layer's value, the result is computed so."""
    low, high = two_values(use.parameter)
    data = document(use, [low, high], high)
    middle = (low + high) / 2
    middle = {"bool": middle > 0, "int": round(middle)}.get(use.parameter.kind, middle)
    assert list(resolved(use, data, folder).values()) == [low, middle, high]
    found = computed(data, folder)
    assert same(found, computed(document(use, low, high), folder), FIRST)
    assert same(found, computed(document(use, high, high), folder), LAST)


@pytest.mark.parametrize("use", [*USES, *STEPS], ids=str)
def test_filters(use, folder):
    """The first filter that occurs in a tensor's name counts, in the plan and in the result."""
    low, high = two_values(use.parameter)
    data = document(use, [{"filter": "layers.0.", "value": low}, {"value": high}], high)
    assert list(resolved(use, data, folder).values()) == [low, high, high]
    found = computed(data, folder)
    if use.parameter.name != "scope":  # statistics of the whole model are taken over the tensors that ask for them
        assert same(found, computed(document(use, low, high), folder), FIRST)
        assert same(found, computed(document(use, high, high), folder), LAST)


@pytest.mark.parametrize("use", [u for u in USES if u.many], ids=str)
def test_where_no_filter_of_a_model_matches_the_merge_is_asked(use, folder):
    """A model's own entry goes first, then that of the whole merge."""
    low, high = two_values(use.parameter)
    data = document(use, [{"filter": "layers.0.", "value": low}], low)
    data["parameters"] = {**data["parameters"], use.parameter.name: high}
    assert list(resolved(use, data, folder).values()) == [low, high, high]


def outside(p: Parameter):
    """Values that it cannot have, each with what the error must say beside its name."""
    if p.kind == "choice":
        return [("nonsense", "one of " + ", ".join(p.choices))]
    if p.kind == "bool":
        return [(2, "[0, 1]"), (-0.5, "[0, 1]")]
    left, right = "(" if p.open_low else "[", "∞" if p.high is None else f"{p.high:g}"
    told = f"outside {left}{'-∞' if p.low is None else f'{p.low:g}'}, {right}]"
    found = [(float("inf"), "not a parameter value"), ("nonsense", "")]
    found += [(p.low - 1, told)] if p.low is not None else []
    found += [(p.low, told)] if p.open_low else []
    found += [(p.high + 1, told)] if p.high is not None else []
    found += [(two_values(p)[0] + 0.5, "is not a whole number")] if p.kind == "int" else []
    return found


@pytest.mark.parametrize("use", [*USES, *STEPS], ids=str)
def test_values_out_of_range(use):
    """Each is one error that names the parameter, its range and the line, alone, in a gradient and in a filter."""
    for value, told in outside(use.parameter):
        inside = two_values(use.parameter)[0]
        shapes = [value, [{"filter": "x", "value": value}, {"value": inside}]]
        shapes += [] if isinstance(value, str) else [[inside, value]]
        for shape in shapes:
            data = document(use, "HERE", two_values(use.parameter)[0])
            text = yaml.safe_dump(data, sort_keys=False)
            line = text[: text.index("HERE")].count("\n") + 1
            written = yaml.safe_dump(shape, default_flow_style=True).split("\n...")[0].strip()
            with pytest.raises(StockpotError) as caught:
                parse_recipe(text.replace("HERE", written))
            (problem,) = caught.value.problems
            assert use.parameter.name in problem.message
            assert told in f"{problem.message} {problem.fix}"
            assert problem.line == line


def test_values_that_are_out_of_range_are_seen():
    """The test above would fail for a parameter without a range."""
    free = replace(USES[0].parameter, low=None, high=None)
    assert [told for _, told in outside(free)] == ["not a parameter value", ""]
    assert len(USES) > 90
