"""Methods on whole tensors: progress, memory, threads, and what is told when a function fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import stockpot as sp
from files import write_model
from reference import same_bytes
from stockpot.execute.local import compute
from stockpot.methods.declare import Matrix, solves
from stockpot.methods.registry import METHODS

RNG = np.random.default_rng(0)
SHAPES = {"a.weight": (60, 40), "b.weight": (33, 70), "c.bias": (60,), "d.weight": (4, 3, 3, 3), "e.weight": (0, 5)}
MATRIX = [m for m in METHODS.values() if isinstance(m.family, Matrix)]


def model(name, seed, base=None, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    start = base or {n: np.zeros(s) for n, s in shapes.items()}
    return {n: (start[n] + rng.normal(0.0, 0.1, s)).astype(np.float32) for n, s in shapes.items()}


def gram(side):
    inputs = RNG.normal(size=(90, side))
    return inputs.T @ inputs


def opened(count=3):
    base = model("base", 0)
    return sp.open(base, name="base"), [sp.open(model(f"m{i}", i + 1, base), name=f"m{i}") for i in range(count)]


def test_progress_moves_inside_a_tensor():
    """A method reports each decomposition while it works on a tensor, and the reports add up to the whole."""
    base, models = opened()
    plan = sp.plan(base + sp.tsv_m(*(m - base for m in models)), threads=1)
    seen = []
    compute(plan, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]

    ticks = []
    step = next(s for s in plan.steps if s.name == "a.weight")

    class Work:
        def tick(self):
            ticks.append(1)

        def normal(self, rows, columns):
            return RNG.normal(size=(rows, columns))

    method, resolved = step.source.method, step.source.resolved
    method.family.solve([RNG.normal(size=(60, 40)) for _ in range(3)], resolved, Work())
    assert len(ticks) == method.family.units(resolved, (60, 40)) > 1


@pytest.mark.parametrize("method", MATRIX, ids=lambda m: m.name)
def test_any_number_of_threads_gives_the_same_bytes(method):
    """Linear algebra does not depend on how many workers there are."""
    base, models = opened()
    given = {}
    if method.name == "regmean":
        given["gram"] = [
            sp.open({n: gram(s[-1]) for n, s in SHAPES.items() if len(s) == 2}, name=f"gram of {m.reference}")
            for m in models
        ]
    if method.on == "delta":
        merged = base + getattr(sp, method.name)(*(m - base for m in models), **given)
    else:
        merged = getattr(sp, method.name)(*models, **given)
    first = sp.compute(merged, threads=1)
    for threads in (2, 4):
        assert same_bytes(sp.compute(merged, threads=threads), first)


@pytest.mark.parametrize("method", [m for m in MATRIX if not m.companions], ids=lambda m: m.name)
def test_tensors_that_are_no_matrices_get_the_linear_combination(method):
    """Vectors, kernels and, with matrix: false, matrices get what the declaration says, and nothing is solved."""
    base, models = opened()
    build = getattr(sp, method.name)
    inputs = [m - base for m in models] if method.on == "delta" else models
    merged = build(*inputs, matrix=False)
    plan = sp.plan(base + merged if method.on == "delta" else merged)
    start = {n: np.asarray(r) for n, r in model("base", 0).items()}
    for step in plan.steps:
        if not step.elements:
            continue
        source = step.source
        assert not solves(source.method, source.resolved, source.shape)
        factors = method.family.otherwise(source.resolved)
        made = compute(plan)[step.name]
        tuned = [model(f"m{i}", i + 1, model("base", 0))[step.name].astype(np.float64) for i in range(3)]
        origin = start[step.name].astype(np.float64) if method.on == "delta" else 0.0
        expected = origin + sum(f * (x - origin) for f, x in zip(factors, tuned, strict=True))
        assert np.allclose(made, expected, rtol=2e-7, atol=1e-8)


def test_a_budget_that_is_too_small_is_refused_before_anything_is_read():
    """The plan counts what a worker holds of a large matrix, and says how much is needed."""
    big = {"w": np.zeros((3000, 2000), np.float32)}
    base, one = sp.open(big, name="base"), sp.open(big, name="one")
    merged = base + sp.iso_c(one - base)
    with pytest.raises(sp.PlanError, match=r"needs \d+ MiB of memory, the budget is 256 MiB\n.*--memory"):
        sp.plan(merged, memory=256 << 20)
    small = sp.plan(merged, memory=2 << 30, threads=8)
    assert small.cost.memory <= 2 << 30


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the peak is read from /proc")  # noqa: PTH110
def test_the_peak_is_what_the_plan_says(tmp_path):
    """The resident set of a merge of matrices stays below the plan's figure."""
    rng = np.random.default_rng(0)
    names = {"base": 0, "m0": 1, "m1": 2}
    for name in names:
        write_model(tmp_path / name, {f"{i}.w": rng.normal(size=(900, 700)).astype(np.float32) for i in range(3)})
    (tmp_path / "r.yml").write_text("merge_method: tsv_m\nbase_model: base\nmodels: [{model: m0}, {model: m1}]\n")
    code = (
        "import sys\nfrom stockpot.cli.main import main\n"
        "code = main(['merge', 'r.yml', 'out', '--quiet'])\n"
        "line = next(l for l in open('/proc/self/status') if l.startswith('VmHWM'))\n"
        "print(int(line.split()[1]) * 1024)\nsys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True, env=dict(os.environ)
    )
    plan = subprocess.run(
        [sys.executable, "-m", "stockpot", "plan", "r.yml", "--json"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    # Compiling kernels, where this is the first run, takes memory of its own.
    assert int(done.stdout) < json.loads(plan.stdout)["cost"]["memory"] + (200 << 20)


def test_a_nan_names_tensor_and_model():
    """A matrix with a NaN is an error with its place, not a model of NaN."""
    base, models = opened(2)
    broken = model("m9", 9)
    broken["b.weight"][3, 4] = np.nan
    bad = sp.open(broken, name="bad model")
    with pytest.raises(sp.ExecutionError, match=r"NaN weight at \[3, 4\] of bad model \[tensor b.weight"):
        sp.compute(base + sp.iso_c(models[0] - base, bad - base))


@sp.whole_tensor
def median(deltas):
    """The median of the task vectors."""
    return np.median(deltas, axis=0)


@sp.elementwise
def weighed(deltas, weight: sp.PerModel = 1.0, power: int = 2):
    """Entries weighed by their size."""
    share = np.abs(deltas) ** power
    return (weight * share * deltas).sum(axis=0) / np.maximum(share.sum(axis=0), 1e-300)


def test_functions_of_ones_own_are_methods():
    """Decorated functions merge block by block or whole tensors at a time; PerModel is a column."""
    base, models = opened()
    deltas = [m - base for m in models]
    made = sp.compute(base + 0.5 * median(*deltas))
    again = sp.compute(base + weighed(*deltas, weight=[1.0, 2.0, 3.0], power=1))
    start = model("base", 0)
    for name in SHAPES:
        d = np.stack([model("", i + 1, start)[name].astype(np.float64) - start[name] for i in range(3)])
        assert np.allclose(made[name], start[name] + 0.5 * np.median(d, axis=0), rtol=1e-6, atol=1e-7)
        w = np.array([1.0, 2.0, 3.0]).reshape(-1, *(1,) * (d.ndim - 1))
        value = (w * np.abs(d) * d).sum(axis=0) / np.maximum(np.abs(d).sum(axis=0), 1e-300)
        assert np.allclose(again[name], start[name] + value, rtol=1e-6, atol=1e-7)


def test_a_function_of_a_wrong_shape_is_named():
    """A result of another shape is an error that names the function and the tensor."""

    @sp.elementwise
    def careless(deltas):
        return deltas

    base, models = opened(2)
    with pytest.raises(sp.ExecutionError, match=r"careless.*shape.*\[tensor [abcd]"):
        sp.compute(base + careless(*(m - base for m in models)))


def test_signatures_that_no_recipe_can_fill_are_refused():
    """A parameter must be a number, a truth value or PerModel; the first argument is the array."""
    for function in (lambda deltas, *rest: deltas, lambda *deltas: deltas):
        with pytest.raises(sp.ExpressionError):
            sp.elementwise(function)

    def worded(deltas, word: str = "x"):
        return deltas

    with pytest.raises(sp.ExpressionError, match="word cannot be given"):
        sp.elementwise(worded)
    with pytest.raises(sp.ExpressionError, match="on='models'"):
        sp.elementwise(on="models")(lambda deltas: deltas)


def test_chains_are_methods():
    """TIES as a chain gives the bytes of ties; what a piece is not given is a parameter of the chain."""
    base, models = opened()
    deltas = [m - base for m in models]
    chain = sp.trim(density=0.4) >> sp.scale() >> sp.elect() >> sp.mean()
    weight = [0.5, 0.3, 0.9]
    expected = sp.compute(base + 0.7 * sp.ties(*deltas, density=0.4, weight=weight))
    assert same_bytes(sp.compute(base + 0.7 * chain(*deltas, weight=weight)), expected)
    later = sp.trim() >> sp.scale(weight=weight) >> sp.elect() >> sp.mean()
    assert same_bytes(sp.compute(base + 0.7 * later(*deltas, density=0.4)), expected)
    alone = base + sp.trim(models[0] - base, density=0.4)
    assert same_bytes(sp.compute(alone), sp.compute(base + sp.magnitude_prune(models[0] - base, density=0.4)))


def test_a_trim_after_a_drop_ranks_what_is_left():
    """A selection sees what the pieces before it have left, as DARE before TIES needs it."""
    size = 5000
    rng = np.random.default_rng(3)
    delta = rng.normal(size=size)
    base, one = sp.open({"w": np.zeros(size)}, name="base"), sp.open({"w": delta}, name="one")
    dropped = sp.compute(base + sp.drop(one - base, density=0.5))["w"]
    made = sp.compute(base + (sp.drop(density=0.5) >> sp.trim(density=0.1) >> sp.sum())(one - base))["w"]
    order = np.argsort(-np.abs(dropped).astype(np.float32), kind="stable")[: size // 10]
    expected = np.zeros(size)
    expected[order] = dropped[order]
    assert np.array_equal(made, expected)


def test_chains_that_make_no_sense_are_refused():
    """An end in the middle, an unknown parameter, row ranks that are not first: errors that name the step."""
    base, models = opened(1)
    with pytest.raises(sp.ExpressionError, match=r"step 1 \(sum\) ends a chain"):
        sp.sum() >> sp.trim()
    with pytest.raises(sp.ExpressionError, match="no parameter 'densty'"):
        sp.trim(densty=0.5)
    with pytest.raises(sp.ExpressionError, match=r"step 2 \(drop_ranked\) ranks within rows"):
        sp.trim(density=0.5) >> sp.drop_ranked(density=0.5)
    with pytest.raises(sp.ExpressionError, match="outside"):
        sp.trim(models[0] - base, density=1.5)
