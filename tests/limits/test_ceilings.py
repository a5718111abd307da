"""``--memory`` holds for the whole process as the kernel counts it, whatever the model, the tensors or the threads."""

from __future__ import annotations

import json
import os
import resource
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from measured import MIB, large_model, least, planned, stockpot

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "torture"))
from large import measured_form

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs VmHWM of /proc/self/status")

BUDGET = 256 * MIB


def write_recipe(folder, method, models=2, *, base=True, name=None, **parameters):
    """A recipe over the models m1 … of ``folder`` and the base m0."""
    recipe = {
        "merge_method": method,
        "models": [{"model": str(folder / f"m{i + 1}")} for i in range(models)],
        "parameters": parameters,
        **({"base_model": str(folder / "m0")} if base else {}),
    }
    path = folder / f"{name or method}.yml"
    path.write_text(json.dumps(recipe))
    return path


def make_models(folder, shapes, count, **how):
    """``count`` models m0 … of the given shapes."""
    for i in range(count):
        large_model(folder / f"m{i}", shapes, seed=i, **how)


@pytest.fixture(scope="module")
def twenty():
    """Two models of twenty times the budget each, 64 tensors of mostly holes, and a recipe with a small output."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        side = 20 * BUDGET // 64 // 4 // 4096
        make_models(folder, {f"layers.{i}.w": (side, 4096) for i in range(64)}, 2, code="F32", data=1 << 16)
        recipe = folder / "linear.yml"
        models = [{"model": str(folder / f"m{i}")} for i in range(2)]
        recipe.write_text(json.dumps({"merge_method": "linear", "models": models, "out_dtype": "float8_e4m3fn"}))
        yield recipe


def test_a_model_of_twenty_budgets(twenty, tmp_path):
    """5 GiB a model in 256 MiB: the resident set stays below what was planned, which stays below the budget."""
    assert sum(f.stat().st_size for f in (twenty.parent / "m0").iterdir()) >= 20 * BUDGET
    cost = planned(twenty, "--memory", "256MiB", "--threads", "2")
    done = stockpot("merge", twenty, tmp_path / "out", "--memory", "256MiB", "--threads", "2", "--quiet")
    assert done.code == 0, done.errors
    assert 0 < done.peak <= cost["memory"] <= BUDGET


@contextmanager
def cgroup(limit):
    """A memory cgroup of its own; gives the file that takes the numbers of its processes."""
    for parent, key in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(parent, f"stockpot-test-{os.getpid()}")
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / key).exists():
                (group / key).write_text(str(limit))
                yield group / "cgroup.procs"
                return
        finally:
            group.rmdir()
    pytest.skip("no memory cgroup may be made under /sys/fs/cgroup (v1: memory/, v2: memory.max), which takes root")


def test_the_budget_as_a_hard_limit(tmp_path):
    """In a cgroup whose limit is the budget, page cache counted, a merge of far larger files survives."""
    make_models(tmp_path, {f"layers.{i}.w": (4096, 4096) for i in range(10)}, 3, data=1 << 16)
    recipe = write_recipe(tmp_path, "ties", density=0.2)
    with cgroup(BUDGET) as processes:
        done = stockpot(
            *("merge", recipe, tmp_path / "out", "--memory", "256MiB", "--threads", "2", "--quiet"),
            enter=lambda: processes.write_text(str(os.getpid())),
        )
    assert done.code == 0, done.errors
    assert 0 < done.peak <= BUDGET


def test_first_use_within_the_budget(tmp_path):
    """With no compiled kernels yet, merge and compilers together live in a cgroup of the budget."""
    make_models(tmp_path, {"w": (1024, 1024)}, 2, data=1 << 16)
    recipe = write_recipe(tmp_path, "linear", 1, base=False)
    with cgroup(BUDGET) as processes:
        done = stockpot(
            *("merge", recipe, tmp_path / "out", "--memory", "256MiB", "--quiet"),
            enter=lambda: processes.write_text(str(os.getpid())),
            STOCKPOT_CACHE_DIR=str(tmp_path / "cache"),
        )
    assert done.code == 0, done.errors
    assert 0 < done.peak <= BUDGET


def test_private_memory_as_a_hard_limit(tmp_path):
    """RLIMIT_DATA bounds what a process has for itself, stacks and heaps that it does not use included.

    RLIMIT_AS would count libraries and unused reserves too, about twice the resident set: no budget can be told by it.
    """
    make_models(tmp_path, {f"layers.{i}.w": (2048, 4096) for i in range(4)}, 3, data=1 << 16)
    recipe = write_recipe(tmp_path, "ties", density=0.2)
    done = stockpot(
        *("merge", recipe, tmp_path / "out", "--memory", "256MiB", "--threads", "2", "--quiet"),
        enter=lambda: resource.setrlimit(resource.RLIMIT_DATA, (BUDGET, BUDGET)),
    )
    assert done.code == 0, done.errors


ONE_TENSOR = [
    ("slerp", 1, {"t": 0.4}),
    ("ties", 2, {"density": 0.2}),
    ("della_linear", 2, {"density": 0.5, "epsilon": 0.2}),
]


@pytest.fixture(scope="module")
def one_tensor():
    """Three models of one tensor that is larger than the budget."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        make_models(folder, {"w": (75000, 4096)}, 3, data=1 << 22)
        assert (folder / "m0" / "model.safetensors").stat().st_size > 2 * BUDGET
        yield folder


@pytest.mark.parametrize(("method", "models", "parameters"), ONE_TENSOR, ids=[m for m, *_ in ONE_TENSOR])
def test_a_tensor_larger_than_the_budget(one_tensor, tmp_path, method, models, parameters):
    """One tensor of 586 MiB in each model, merged in 256 MiB: by angles, exact selection, ranks within rows."""
    recipe = write_recipe(one_tensor, method, models, **parameters)
    limits = ("--memory", str(BUDGET), "--threads", "2")
    cost = planned(recipe, *limits)
    done = stockpot("merge", recipe, tmp_path / "out", "--quiet", *limits)
    assert done.code == 0, done.errors
    assert 0 < done.peak <= cost["memory"] <= BUDGET


@pytest.mark.parametrize("method", ["tsv_m", "wudi"])
def test_a_matrix_that_cannot_fit(one_tensor, tmp_path, method):
    """A method on whole matrices says how much a huge tensor takes; merge refuses before anything is made."""
    recipe = write_recipe(one_tensor, method)
    needed = least(recipe, "--threads", "1")
    assert needed > 3 * 8 * 75000 * 4096
    for verb in ("plan", "merge"):
        done = stockpot(verb, recipe, tmp_path / "out", "--memory", "1GiB")
        assert done.code == 5
        assert f"needs {needed // MIB} MiB of memory, the budget is 1024 MiB" in done.errors
        assert f"--memory {needed // MIB}MiB" in done.errors
    assert not list(tmp_path.iterdir())


def test_as_many_threads_as_fit(tmp_path):
    """Where eight workers do not fit the budget, as many work as do."""
    make_models(tmp_path, {f"layers.{i}.w": (4096, 4096) for i in range(4)}, 7, data=1 << 20)
    recipe = write_recipe(tmp_path, "dare_ties", 6, density=0.5)
    cost = planned(recipe, "--memory", str(BUDGET), "--threads", "8")
    assert 1 <= cost["threads"] < 8
    done = stockpot("merge", recipe, tmp_path / "out", "--quiet", "--memory", str(BUDGET), "--threads", "8")
    assert done.code == 0, done.errors
    assert 0 < done.peak <= cost["memory"] <= BUDGET


def test_many_tensors(tmp_path):
    """The plan counts itself: 8,000 tensors a model take more than their bytes, and no more than planned."""
    names = [f"model.layers.{i // 10}.mlp.experts.{i % 10}.weight" for i in range(8000)]
    make_models(tmp_path, dict.fromkeys(names, (4, 8)), 3, data=32)
    recipe = write_recipe(tmp_path, "ties", density=0.2)
    budget = least(recipe, "--threads", "1")
    done = stockpot("merge", recipe, tmp_path / "out", "--quiet", "--memory", str(budget), "--threads", "1")
    assert done.code == 0, done.errors
    assert 0 < done.peak <= budget
    assert 240 * MIB < budget < 1.5 * done.peak


def test_looking_at_a_large_model(twenty):
    """Hashing and comparing models of 5 GiB each takes less than 256 MiB."""
    one, other = twenty.parent / "m0", twenty.parent / "m1"
    for arguments in (("inspect", "--hash", one), ("diff", one, other)):
        done = stockpot(*arguments)
        assert done.code in (0, 1), done.errors
        assert 0 < done.peak <= BUDGET


def test_small_files_that_are_not_small(tmp_path):
    """A tokenizer of 90 MB is copied within the least budget that the plan accepts."""
    make_models(tmp_path, {"w": (1024, 1024)}, 3, data=1 << 16)
    with (tmp_path / "m1" / "tokenizer.model").open("wb") as file:
        file.truncate(90_000_000)
    recipe = write_recipe(tmp_path, "linear", base=False)
    budget = least(recipe, "--threads", "1")
    done = stockpot("merge", recipe, tmp_path / "out", "--memory", budget, "--threads", "1", "--quiet")
    assert done.code == 0, done.errors
    assert (tmp_path / "out" / "tokenizer.model").stat().st_size == 90_000_000
    assert 0 < done.peak <= budget


FORMS = {"union": 0.6, "requantised": 0.5, "pieces": 0.4}


@pytest.mark.parametrize("name", FORMS)
def test_other_forms_of_output(tmp_path, name):
    """Two tokenizers of 150 000 tokens; 8-bit floats to the same; experts in one tensor: what was planned is enough."""
    budget, plan, done = measured_form(tmp_path, name, FORMS[name])
    assert done.code == 0, done.errors
    assert 0 < done.peak <= plan <= budget
    largest = max(file.stat().st_size for file in (tmp_path / "a").iterdir())
    assert largest > budget
