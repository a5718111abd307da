"""A plan says what will be done, from headers alone: steps, costs, seeds, names."""

from __future__ import annotations

import json

import numpy as np
import pytest

import stockpot as sp
from files import read_file, write_model
from reference import drop_mask, weights
from stockpot.checkpoint.dtypes import DTYPES
from stockpot.checkpoint.model import Checkpoint, TensorRef
from stockpot.expression import Leaf
from stockpot.planning.cost import BASELINE
from stockpot.planning.model import Read
from stockpot.recipe.parse import load_recipe

SHAPES = {"embed.weight": (50, 8), "layers.0.w": (700, 500), "layers.1.w": (3,), "norm": ()}
MIB = 1 << 20


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a base and ten fine-tunes in bfloat16."""
    place = tmp_path_factory.mktemp("plans")
    rng = np.random.default_rng(0)
    for name in ("base", *(f"m{i}" for i in range(10))):
        write_model(place / name, {n: weights(rng, s, "BF16") for n, s in SHAPES.items()})
    return place


def opened(place, count=3):
    base = sp.open(place / "base")
    return base, [sp.open(place / f"m{i}") - base for i in range(count)]


BYTES = 2 * sum(int(np.prod(s)) for s in SHAPES.values())


@pytest.mark.parametrize(
    ("kind", "passes"),
    [
        (lambda b, d: b + sp.task_arithmetic(*d), 1),
        (lambda b, d: b + sp.dare_ties(*d, density=0.5), 1),
        (lambda b, d: b + sp.ties(*d), 1),
        (lambda b, d: b + sp.ties(*d, density=0.5), 2),
        (lambda b, d: b + sp.ties(*d, density=0.5, rescale=True), 3),
        (lambda b, d: b + sp.model_stock(*d), 2),
    ],
)
def test_passes_and_bytes_read_are_those_of_the_method(kind, passes, place):
    """One pass to write, one for angles, thresholds or norms each; bytes are all inputs times passes."""
    plan = sp.plan(kind(*opened(place)))
    assert {s.passes for s in plan.steps} == {passes}
    assert plan.cost.passes == passes
    assert plan.cost.read == passes * 4 * BYTES
    assert plan.cost.written == sum(s.size for s in plan.shards)
    assert plan.cost.written - sum(len(s.header) for s in plan.shards) == BYTES


def unwritten(name, elements, code="F16"):
    """A model of one tensor in a file that does not exist: only its header was ever known."""
    ref = TensorRef("w", DTYPES[code], (elements // 512, 512), file=f"/nowhere/{name}.safetensors", offset=100)
    return Leaf(name, Checkpoint(name, {"w": ref}))


def test_planning_reads_no_payload():
    """A plan of models of 2 TiB each is made without a byte of them, and needs no more memory than any other."""
    a, b = (unwritten(name, 1 << 40) for name in "ab")
    plan = sp.plan(0.5 * a + 0.5 * b)
    assert plan.cost.written > 2 << 40
    assert plan.cost.memory < 256 * MIB


def test_everything_wrong_is_told_at_once(place, tmp_path):
    """Shapes, missing tensors, the output, and memory: one error holds them all."""
    odd = {"embed.weight": np.zeros((51, 8)), "layers.0.w": np.zeros((700, 500)), "z": np.ones(1)}
    write_model(tmp_path / "odd", odd)
    (tmp_path / "out").mkdir()
    with pytest.raises(sp.PlanError) as caught:
        sp.plan(0.6 * sp.open(place / "base") + 0.4 * sp.open(tmp_path / "odd"), tmp_path / "out", memory=MIB)
    text = str(caught.value)
    for part in ("(51, 8)", "lacks 2 tensor(s)", "tensor z", "output exists", "--memory"):
        assert part in text
    assert len(caught.value.problems) == 5


def test_one_mistake_is_told_once():
    """What is wrong with many tensors alike is one problem, with the first of them and their number."""
    a, b = (sp.open({f"layers.{i}.w": np.ones(n) for i in range(300)}, name=str(n)) for n in (2, 3))
    with pytest.raises(sp.PlanError) as caught:
        sp.plan(0.5 * a + 0.5 * b)
    (problem,) = caught.value.problems
    assert problem.tensor == "layers.0.w"
    assert "(and 299 more tensors likewise)" in problem.message
    with pytest.raises(sp.PlanError, match="sum to 0") as caught:
        sp.plan(sp.linear(a, a, weight=[1, -1]))
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("cores", [1, 2, 8, 64, 512])
@pytest.mark.parametrize("memory", [256 * MIB, 300 * MIB, 1 << 30])
def test_any_number_of_cores_fits_a_budget_that_one_fits(place, cores, memory):
    """On a larger machine no more threads are planned than fit: the budget is kept instead of refused."""
    base, deltas = opened(place)
    plan = sp.plan(base + sp.ties(*deltas, density=0.2), threads=cores, memory=memory)
    assert 1 <= plan.cost.threads <= cores
    assert plan.cost.memory <= memory
    if memory == 1 << 30:
        assert plan.cost.threads >= min(cores, 8)


def test_the_budget_that_is_asked_for_is_enough(place):
    """The error of a budget that is too small names one that works, and it does."""
    base, deltas = opened(place, 10)
    merged = base + sp.ties(*deltas, density=0.2)
    with pytest.raises(sp.PlanError) as caught:
        sp.plan(merged, memory=200 * MIB, threads=1)
    asked = int(str(caught.value).split("--memory ")[1].split("MiB")[0])
    assert sp.plan(merged, memory=asked * MIB, threads=1).cost.memory <= asked * MIB
    assert asked * MIB > BASELINE


def test_memory_does_not_grow_with_the_model():
    """Of a tensor of 8 GiB the plan asks for the memory of one of 32 MiB, but for what selections note of a block."""
    costs = []
    for elements in (1 << 24, 1 << 32):
        base, a, b = (unwritten(name, elements) for name in "xyz")
        merges = (
            0.5 * a + 0.5 * b,
            base + sp.ties(a - base, b - base, density=0.5, rescale=True),
            base + sp.dare_ties(a - base, b - base, density=0.5),
            base + sp.model_stock(a - base, b - base),
            sp.slerp(a, b, t=0.5),
        )
        costs.append([sp.plan(merged, threads=2).cost.memory for merged in merges])
    growth = [large - small for small, large in zip(*costs, strict=True)]
    blocks, searches, at_once = (1 << 32) >> 18, 2, 2
    assert growth[0] == growth[2] == growth[3] == growth[4] == 0
    assert 0 <= growth[1] <= 200 * blocks * searches * at_once


def test_only_one_model_is_copied(place):
    """A sum with coefficient 1 of one model, a mean of one, a passthrough: all are plain copies."""
    a = sp.open(place / "m0")
    for merged in (1.0 * a, sp.passthrough(a), sp.linear(a, weight=0.3), sp.linear(sp.passthrough(a)), a):
        assert all(isinstance(s.source, Read) for s in sp.plan(merged).steps)
    for merged in (sp.passthrough(a, scale=2.0), sp.linear(a, weight=0.5, normalize=False), a + sp.ties(a - a)):
        assert not any(isinstance(s.source, Read) for s in sp.plan(merged).steps)


def test_the_same_base_is_known_again(place):
    """Differences to one base are computed in one pass, however often that base was opened."""
    first, second, third = (sp.open(place / "base") for _ in range(3))
    a = sp.open(place / "m0")
    plan = sp.plan(first + 0.5 * sp.ties(a - second, a - third, density=0.5))
    source = plan.steps[0].source
    assert (source.method.name, source.anchored, source.scale) == ("ties", True, 0.5)
    assert len(source.inputs) == 2
    assert source.base.ref.file.startswith(str(place / "base"))


def test_a_seed_given_in_python_goes_before_the_recipe(place, tmp_path):
    """seed= counts for a recipe's path and for a parsed recipe alike, is told in the plan and used."""
    path = place / "dare.yml"
    path.write_text(
        "merge_method: dare_linear\nbase_model: base\nmodels: [{model: m0}]\nparameters: {density: 0.5}\nseed: 3\n"
    )
    recipe = load_recipe(path)
    for what in (path, recipe):
        assert sp.plan(what).seed == 3
        assert sp.plan(what, seed=8).seed == 8
        assert sp.plan(what, seed=0).seed == 0
    results = [sp.merge(what, tmp_path / str(i), seed=8) for i, what in enumerate((path, recipe))]
    files = [(r.folder / "model.safetensors").read_bytes() for r in results]
    assert files[0] == files[1]
    receipts = [json.loads((r.folder / "stockpot-receipt.json").read_text()) for r in results]
    assert receipts[0] == receipts[1]
    assert receipts[0]["seed"] == receipts[0]["resolved"]["documents"][-1]["seed"] == 8
    computed = [sp.compute(recipe), sp.compute(recipe, seed=3), sp.compute(recipe, seed=8)]
    assert computed[0]["layers.0.w"].tobytes() == computed[1]["layers.0.w"].tobytes()
    written = read_file(results[0].folder / "model.safetensors")["layers.0.w"]
    assert computed[2]["layers.0.w"].tobytes() == written.tobytes()


def test_models_of_one_name_have_masks_of_their_own():
    """Two models that were opened under the same name are told apart by their order."""
    base, delta = np.zeros(400), np.ones(400)
    b, one, two = (sp.open({"w": x}) for x in (base, delta, 16 * delta))
    made = sp.compute(b + sp.dare_linear(one - b, two - b, density=0.5, rescale=False))["w"]
    masks = [drop_mask((400,), 0.5, seed=0, tensor="w", model=name) for name in ("memory", "memory#2")]
    assert np.array_equal(made, masks[0] * 1.0 + masks[1] * 16.0)


def test_mixed_dtypes_are_noted(place, tmp_path):
    """Models of different dtypes merge; a note says which dtype the result has and how to choose."""
    write_model(tmp_path / "wide", {n: np.zeros(s, np.float32) for n, s in SHAPES.items()})
    merged = 0.5 * sp.open(place / "base") + 0.5 * sp.open(tmp_path / "wide")
    assert any("differ in dtype" in str(note) for note in sp.plan(merged).notes)
    assert not sp.plan(merged, dtype="float32").notes
    assert {s.dtype.code for s in sp.plan(merged).steps} == {"BF16"}


@pytest.mark.parametrize(("dtype", "error"), [("int8", sp.PlanError), ("float12", sp.CheckpointError)])
def test_the_output_dtype_must_be_a_float(place, dtype, error):
    """An integer dtype, or none at all, is refused by name."""
    with pytest.raises(error, match=dtype):
        sp.plan(sp.open(place / "base"), dtype=dtype)


def test_an_empty_model_is_refused():
    """Models without tensors cannot be merged."""
    with pytest.raises(sp.PlanError, match="no tensors"):
        sp.plan(sp.open({}))


def test_files_of_the_output_are_cut_at_tensors(place):
    """No file exceeds the size asked for unless a single tensor does, and together they hold every tensor once."""
    plan = sp.plan(sp.open(place / "base"), shard_size=1000)
    assert [list(s.offsets) for s in plan.shards] == [["embed.weight"], ["layers.0.w"], ["layers.1.w", "norm"]]
    assert sorted(n for s in plan.shards for n in s.offsets) == sorted(SHAPES)
    for shard in plan.shards:
        assert shard.payload_bytes <= 1000 or len(shard.offsets) == 1
