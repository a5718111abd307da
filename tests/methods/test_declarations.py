"""Declarations are complete, and what does not fit them is refused before any tensor is read."""

from __future__ import annotations

import numpy as np
import pytest

import stockpot as sp
from given import companions, required
from stockpot import functions
from stockpot.errors import ExpressionError
from stockpot.expression import Linear, apply
from stockpot.methods.declare import REQUIRED, Base, Law, Space
from stockpot.methods.registry import METHODS, method_named

A, B, C = (sp.open({"w": np.ones(2)}, name=name) for name in "abc")


def needs_of(method, count=1):
    """What a method with ``count`` models cannot do without."""
    return {**required(method), **companions(method, {"w": (2,)}, count)}


def problem_of(build):
    """The one problem that building an expression raises."""
    with pytest.raises(ExpressionError) as caught:
        build()
    assert len(caught.value.problems) == 1
    return caught.value.problems[0]


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda m: m.name)
def test_every_method_is_declared_completely(method):
    """A method has a summary, a formula, a citation with place and equation, laws, and a function in Python."""
    assert method.summary.endswith(".")
    assert method.formula
    assert method.cites.place
    assert method.cites.equation
    assert 1900 < method.cites.year < 2100
    assert method.laws <= set(Law)
    function = getattr(sp, method.name)
    assert function.method is method
    for text in (method.summary, method.formula, str(method.cites), *(p.doc for p in method.parameters)):
        assert text in function.__doc__


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda m: m.name)
def test_defaults_lie_in_their_ranges(method):
    """Every default is allowed by the range beside it; a method whose difference recipes scale has no own lambda."""
    for p in method.parameters:
        assert p.name != "lambda" or not method.scaled
        if p.default is REQUIRED or p.kind == "ignored":
            continue
        if p.kind == "choice":
            assert p.default in p.choices
            continue
        assert p.low is None or p.default >= p.low
        assert p.high is None or p.default <= p.high
        assert isinstance(p.default, bool) == (p.kind == "bool")
        assert p.kind != "int" or isinstance(p.default, int)


def test_the_registry_and_the_functions_are_the_same_methods():
    """Each registered method is a public function, and no other function exists."""
    public = {name for name in functions.__all__ if name != "MethodFunction"}
    assert public == set(METHODS)
    assert set(METHODS) <= set(sp.__all__)


def test_a_mistyped_name_is_answered_with_the_nearest():
    """An unknown method is an error that names the nearest known one, or all of them; aliases are known."""
    assert method_named("average") is METHODS["linear"]
    assert problem_of(lambda: method_named("tise", line=4)).fix == "did you mean ties?"
    far = problem_of(lambda: method_named("zzzzzzzz"))
    assert all(name in far.fix for name in METHODS)


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda m: m.name)
def test_the_number_of_models_is_checked(method):
    """Too few or too many models are refused by name and number."""
    needed = needs_of(method)
    model = A - B if method.on == "delta" else A
    counts = [method.at_least - 1] + ([method.at_most + 1] if method.at_most else [])
    for count in counts:
        with pytest.raises(ExpressionError, match=rf"{method.name} takes .* models.*, not {count}"):
            apply(method, [model] * count, {**needed, **companions(method, {"w": (2,)}, count)})


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda m: m.name)
def test_the_space_of_the_models_is_checked(method):
    """A model where a difference is wanted (or the reverse, or both together) is refused, with the fix."""
    count = max(2, method.at_least) if method.at_most != 1 else 1
    needed = needs_of(method, count)
    wrong = [A] * count if method.on == "delta" else [A - B] * count
    if method.on == "either":
        if count == 1:
            assert apply(method, [A - B], needed).space is Space.DELTA
            return
        wrong = [A, *[A - B] * (count - 1)]
    with pytest.raises(ExpressionError) as caught:
        apply(method, wrong, needed)
    assert "takes" in str(caught.value)
    assert all("fix" in str(p) for p in caught.value.problems)


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda m: m.name)
def test_parameters_are_checked(method):
    """Unknown, missing, out of range, not finite, or too few values: each is refused by the parameter's name."""
    model = A - B if method.on == "delta" else A
    models = [model] * max(method.at_least, 2 if method.at_most != 1 else 1)
    needed = needs_of(method, len(models))
    with pytest.raises(ExpressionError, match="has no parameter 'wieght'"):
        apply(method, models, {**needed, "wieght": 1})
    for p in method.parameters:
        name = p.python_name
        if p.default is REQUIRED:
            with pytest.raises(ExpressionError, match=f"needs {name}"):
                apply(method, models, {k: v for k, v in needed.items() if k != name})
        if p.kind not in ("float", "int"):
            continue
        for value in (float("nan"), float("inf"), "much"):
            with pytest.raises(ExpressionError, match=f"{p.name}"):
                apply(method, models, {**needed, name: [value] * len(models) if p.per_model else value})
        outside = [] if p.low is None else [p.low - 1.0, *([p.low] if p.open_low else [])]
        for value in (*outside, *([] if p.high is None else [p.high + 1.0])):
            with pytest.raises(ExpressionError, match=f"{p.name} = .* is outside"):
                apply(method, models, {**needed, name: value})
        if p.per_model and len(models) > 1:
            with pytest.raises(ExpressionError, match=f"{name} needs one value, or one for each"):
                apply(method, models, {**needed, name: [1.0]})


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda m: m.name)
def test_words_and_whole_numbers_are_checked(method):
    """A choice must be one of its words and a count must be whole; the error says what it may be."""
    model = A - B if method.on == "delta" else A
    models = [model] * max(method.at_least, 1)
    needed = needs_of(method, len(models))
    for p in method.parameters:
        name = p.python_name
        if p.kind == "choice":
            for word in p.choices:
                assert apply(method, models, {**needed, name: word}).one[p.name][0].at("w", 0.0) == word
            for wrong in ("wrod", 1.0, True):
                found = problem_of(lambda w=wrong, n=name: apply(method, models, {**needed, n: w}))
                assert name in found.message
                assert all(word in found.fix for word in p.choices)
        if p.kind == "int":
            found = problem_of(lambda n=name: apply(method, models, {**needed, n: 2.5}))
            assert found.message == f"{method.name}: {name} = 2.5 is not a whole number"


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda m: m.name)
def test_authors_are_names_as_bibtex_writes_them(method):
    """Full names joined by 'and', so that the short form is of surnames and BibTeX sorts by them."""
    names = method.cites.authors.split(" and ")
    assert "et al" not in method.cites.authors
    assert "," not in method.cites.authors
    assert all(name == name.strip() and name for name in names)
    assert method.cites.short.split()[0] == names[0].split()[-1]


@pytest.mark.parametrize(("name", "parameter"), [("nuslerp", "nuslerp_flatten"), ("model_stock", "filter_wise")])
def test_one_angle_of_the_whole_model_has_no_rows(name, parameter):
    """scope: model and statistics by rows exclude each other: one problem of the plan, which names both ways out."""
    rows = parameter == "filter_wise"
    required = {"weight": 1.0} if name == "nuslerp" else {}
    built = C + apply(METHODS[name], [A - C, B - C], {**required, parameter: rows, "scope": "model"})
    with pytest.raises(sp.PlanError) as caught:
        sp.plan(built)
    (problem,) = caught.value.problems
    assert parameter in problem.message
    assert "scope: tensor" in problem.message


def test_variants_are_checked():
    """A variant that the method does not declare is refused, and the known ones are listed."""
    found = problem_of(lambda: sp.ties(A - B, variant="papre"))
    assert "papre" in found.message
    assert "unweighted" in found.fix


SPACES = [
    (lambda: A, Space.WEIGHTS),
    (lambda: A - B, Space.DELTA),
    (lambda: A + (B - C), Space.WEIGHTS),
    (lambda: 0.3 * (A - B), Space.DELTA),
    (lambda: (A - B) + (C - B), Space.DELTA),
    (lambda: 0.5 * A + 0.5 * B, Space.WEIGHTS),
    (lambda: A + B - C, Space.WEIGHTS),
    (lambda: (A + B + C) / 3, Space.WEIGHTS),
    (lambda: -(A - B), Space.DELTA),
    (lambda: sp.ties(A - B, C - B), Space.DELTA),
    (lambda: A + 0.8 * sp.ties(B - A), Space.WEIGHTS),
    (lambda: sp.linear(A, B), Space.WEIGHTS),
    (lambda: sp.linear(A - C, B - C), Space.DELTA),
    (lambda: sp.stack(sp.layers(A, 0, 1), B), Space.WEIGHTS),
]


@pytest.mark.parametrize(("build", "space"), SPACES)
def test_spaces_follow_from_the_algebra(build, space):
    """Weights − Weights is a Delta, Weights + Delta are Weights, and so on as the table says."""
    assert build().space is space


def test_a_partial_mix_is_neither_weights_nor_delta():
    """0.5 × A alone may be built, but using it says which sum is missing."""
    half = 0.5 * A
    assert isinstance(half, Linear)
    assert (half + 0.5 * B).space is Space.WEIGHTS
    for use in (lambda: half.space, lambda: sp.ties(half), lambda: sp.save(half, "never"), lambda: sp.stack(half)):
        with pytest.raises(ExpressionError, match=r"sum to 0\.5"):
            use()


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), True, "2", None])
def test_models_are_multiplied_by_finite_numbers_only(factor):
    """NaN, infinity, truth values and text are no factors."""
    with pytest.raises((ExpressionError, TypeError)):
        A * factor


def test_only_models_can_be_added():
    """Adding a path or a number says that a model must be opened first."""
    for other in ("b", 1.0, None):
        with pytest.raises((ExpressionError, TypeError)) as caught:
            A + other
        assert isinstance(caught.value, ExpressionError)
        assert "stockpot.open" in caught.value.problems[0].fix


def test_base_required_methods_are_named_as_such():
    """Every method on differences says that it needs a base, and none that works on models does."""
    for method in METHODS.values():
        assert (method.on == "delta") == (method.base is Base.REQUIRED)
