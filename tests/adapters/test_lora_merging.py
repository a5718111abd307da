"""``stockpot lora merge``: what any method makes of the dense changes, as factors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from adapting import ROOT, factors, write_adapter, write_base
from making import MODULES, SHAPES, apart, changes, made, refused, remade, some_adapter

import stockpot as sp
from files import read_file, read_model
from given import required, takes
from stockpot.execute.verify import verify
from stockpot.expression import apply
from stockpot.lora.engine import Engine
from stockpot.methods.declare import Base, Elementwise, Law, Matrix, Span
from stockpot.methods.registry import METHODS

FULL = ("--rank", "31")
"""No change of these tests has a higher rank."""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Three adapters of different ranks."""
    monkeypatch.chdir(tmp_path)
    some_adapter(tmp_path / "a", 1)
    some_adapter(tmp_path / "b", 2, rank=3, lora_alpha=5)
    some_adapter(tmp_path / "c", 3, rank=6, use_rslora=True)
    return tmp_path


def merged_models(method, folders, **parameters):
    """The method on models whose tensors are the dense changes, around a base of zeros."""
    dense = {str(f): changes(f) for f in folders}
    zero = sp.open({n: np.zeros_like(v) for n, v in next(iter(dense.values())).items()}, name="zero")
    models = [sp.open(v, name=n) for n, v in dense.items()]
    if method.base is Base.REQUIRED:
        applied = apply(method, [m - zero for m in models], parameters)
        return sp.compute(zero + applied if method.gives is None else applied)
    return sp.compute(apply(method, models, parameters))


MERGING = [
    m
    for m in METHODS.values()
    if m.gives is None and not any(c.required for c in m.companions) and (m.at_most is None or m.at_most >= 2)
]


@pytest.mark.parametrize("method", MERGING, ids=lambda m: m.name)
def test_every_method_works_on_the_exact_changes(place, method):
    """Cut at no rank, the merged adapter stands for what the method makes of the dense changes."""
    names = ("a", "b") if method.at_most == 2 else ("a", "b", "c")
    given = required(method)
    values = {"density": [0.5]} if takes(method, "density") else {}
    settings = [f"--set={n.rstrip('_')}={json.dumps(v)}" for n, v in given.items() if n != "weight"]
    weights = ["--weight", "1"] if "weight" in given else []
    more = ["--density", "0.5"] if values else []
    made("merge", *names, "out", "--method", method.name, *FULL, *settings, *weights, *more)
    wanted = merged_models(method, list(map(Path, names)), **given, **_flat(values))
    assert apart(changes(place / "out"), wanted) <= 2e-6
    assert verify(place / "out") == ()


def _flat(values):
    return {name: own[0] for name, own in values.items()}


@pytest.mark.parametrize("method", [m for m in MERGING if takes(m, "scope")], ids=lambda m: m.name)
def test_statistics_of_the_whole_adapter(place, method):
    """With scope: model, thresholds and angles are taken over all modules."""
    names = ("a", "b") if method.at_most == 2 else ("a", "b", "c")
    given = required(method) | ({"density": 0.3} if takes(method, "density") else {})
    settings = [
        f"--set={n.rstrip('_')}={json.dumps(v)}"
        for n, v in (given | {"scope": "model"}).items()
        if n not in ("weight", "density")
    ]
    more = ["--density", "0.3"] if "density" in given else []
    more += ["--weight", "1"] if "weight" in given else []
    made("merge", *names, "out", "--method", method.name, *FULL, *settings, *more)
    wanted = merged_models(method, list(map(Path, names)), **given, scope="model")
    assert apart(changes(place / "out"), wanted) <= 2e-6


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.7, -0.4, 2.0)], ids=str)
def test_concat_is_the_dense_sum(place, weights):
    """Exact to 1e-6, of the sum of the ranks."""
    given = [f"--weight={w}" for w in weights]
    made("merge", "a", "b", "c", "out", "--method", "concat", *given)
    parts = [changes(place / n) for n in "abc"]
    dense = {n: sum(w * p[n] for w, p in zip(weights, parts, strict=True)) for n in parts[0]}
    assert apart(changes(place / "out"), dense) <= 1e-6
    assert json.loads((place / "out" / "adapter_config.json").read_text())["r"] == 13


def test_the_default_is_the_mean_at_the_largest_rank(place, capsys):
    """The best adapter of rank 6 of the mean of the changes; the report tells what was lost, in each module."""
    told = made("merge", "a", "b", "c", "out", capsys=capsys)
    parts = [changes(place / n) for n in "abc"]
    found = changes(place / "out")
    assert [m["module"] for m in told["modules"]] == sorted(MODULES)
    for row in told["modules"]:
        mean = sum(p[row["module"] + ".weight"] for p in parts) / 3
        s = np.linalg.svd(mean, compute_uv=False)
        assert row["rank"] == 6
        assert row["norm"] == pytest.approx(np.linalg.norm(mean))
        assert row["retained"] == pytest.approx(np.sum(s[:6] ** 2) / np.sum(s**2))
        lost = np.linalg.norm(found[row["module"] + ".weight"] - mean) / np.linalg.norm(mean)
        assert row["error"] == pytest.approx(lost, abs=1e-6)
    total = sum(m["norm"] ** 2 for m in told["modules"])
    assert told["retained"] == pytest.approx(sum(m["retained"] * m["norm"] ** 2 for m in told["modules"]) / total)


def test_span_methods_need_no_dense_change(place, monkeypatch):
    """Coefficients come from the factors: nothing is computed element by element."""

    def dense(*_):
        raise AssertionError

    monkeypatch.setattr(Engine, "array", dense)
    for method, more in (
        ("slerp", ["--set=t=0.3"]),
        ("karcher", []),
        ("model_stock", []),
        ("nuslerp", ["--weight=1", "--set=nuslerp_row_wise=true"]),
    ):
        made("merge", "a", "b", f"out-{method}", "--method", method, *more)


@pytest.mark.parametrize("method", ["linear", "ties", "dare_ties", "slerp", "tsv_m", "iso_c", "karcher"])
@pytest.mark.parametrize("space", ["full", "knots", "core"])
def test_how_a_change_is_split_in_two_changes_nothing(place, method, space):
    """(B R, R⁻¹ A) for any R: the same merged change, in every space."""
    remade(place / "a", place / "a2", 7)
    remade(place / "b", place / "b2", 8, rank=3)
    (place / "x").mkdir()
    (place / "y").mkdir()
    for folder, suffix in (("x", ""), ("y", "2")):
        for n in "ab":
            (place / folder / n).symlink_to(place / f"{n}{suffix}")
    more = ["--set=t=0.4"] if method == "slerp" else ["--density=0.5"] if method in ("ties", "dare_ties") else []
    found = []
    for folder in "xy":
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(place / folder)
            made("merge", "a", "b", "out", "--method", method, "--space", space, *more, *FULL, "--dtype=float64")
        found.append(changes(place / folder / "out"))
    assert apart(*found) <= 1e-6


def test_recipes_have_filters_gradients_and_nested_merges(place):
    """The dialect of merges, with adapters for models: as the merge of the dense changes."""
    text = """
merge_method: task_arithmetic
models:
  - model: a
    parameters: {weight: [{filter: q_proj, value: 0.25}, {value: [0, 1]}]}
  - model:
      merge_method: linear
      models: [{model: b}, {model: c, parameters: {weight: 3}}]
    parameters: {weight: 0.5}
parameters: {lambda: 2}
"""
    (place / "r.yml").write_text(text)
    made("merge", "--recipe", "r.yml", "out", *FULL)
    a, b, c = (changes(place / n) for n in "abc")
    for name, found in changes(place / "out").items():
        depth = int(name.split(".")[2]) / 2
        weight = 0.25 if "q_proj" in name else depth
        inner = (b[name] + 3 * c[name]) / 4
        np.testing.assert_allclose(found, 2 * (weight * a[name] + 0.5 * inner), atol=2e-5)


def test_a_module_that_an_adapter_lacks_is_not_changed_by_it(tmp_path, monkeypatch, capsys):
    """Zero there, which a note says; weights still count."""
    monkeypatch.chdir(tmp_path)
    a = some_adapter(tmp_path / "a", 1, modules=MODULES[:4])
    b = some_adapter(tmp_path / "b", 2, modules=MODULES[2:])
    told = made("merge", "a", "b", "out", *FULL, capsys=capsys)
    assert any("b does not change 2 of 9 tensors" in note for note in told["notes"])
    for name, found in changes(tmp_path / "out").items():
        np.testing.assert_allclose(found, 0.5 * (a.get(name, 0) + b.get(name, 0)), atol=1e-5)
    assert sorted(json.loads((tmp_path / "out" / "adapter_config.json").read_text())["target_modules"]) == sorted(
        MODULES
    )


def test_convolutions_embeddings_and_transposed_weights(tmp_path, monkeypatch):
    """Kernels, tables of tokens, GPT-2's (in, out): each keeps its kind; elements are those of the model's tensors."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("ab"):
        rng = np.random.default_rng(seed)
        parts = factors(rng, "h.0.c_attn", 24, 8)
        parts["conv.lora_A.weight"] = rng.normal(size=(4, 3, 2, 2)).astype(np.float32)
        parts["conv.lora_B.weight"] = rng.normal(size=(9, 4, 1, 1)).astype(np.float32)
        parts["wte.lora_embedding_A"] = rng.normal(size=(4, 20)).astype(np.float32)
        parts["wte.lora_embedding_B"] = rng.normal(size=(8, 4)).astype(np.float32)
        write_adapter(tmp_path / name, parts, fan_in_fan_out=True)
    made("merge", "a", "b", "out", "--method", "dare_linear", "--density", "0.5", "--rank", "30")
    stored = {n: {k: v.T if "c_attn" in k else v for k, v in changes(tmp_path / n).items()} for n in "ab"}
    models = [sp.open(stored[n], name=n) for n in "ab"]
    zero = sp.open({k: np.zeros_like(v) for k, v in stored["a"].items()}, name="zero")
    wanted = sp.compute(zero + sp.dare_linear(*(m - zero for m in models), density=0.5))
    found = {k: v.T if "c_attn" in k else v for k, v in changes(tmp_path / "out").items()}
    assert apart(found, wanted) <= 1e-6
    shapes = {
        n.removeprefix(ROOT): v.shape for n, v in read_file(tmp_path / "out" / "adapter_model.safetensors").items()
    }
    rank = shapes["conv.lora_A.weight"][0]
    assert (shapes["conv.lora_A.weight"], shapes["conv.lora_B.weight"]) == ((rank, 3, 2, 2), (9, rank, 1, 1))
    assert shapes["wte.lora_embedding_A"][1] == 20


def folded(base, adapter, out):
    """The model with an adapter on it."""
    made("fold", base, adapter, out)
    return read_model(out)


def test_dora_biases_and_saved_modules_are_differences_from_the_base(tmp_path, monkeypatch, capsys):
    """With --base: what is folded is base + Σ wᵢ (adapted modelᵢ − base), weight by weight."""
    monkeypatch.chdir(tmp_path)
    base = write_base(tmp_path / "base")
    q, up = "model.layers.0.q_proj", "model.layers.1.up_proj"
    rng = np.random.default_rng(4)
    one = factors(rng, q, 12, 12) | factors(rng, up, 31, 12)
    for name, rows in ((q, 12), (up, 31)):
        one[f"{name}.lora_magnitude_vector"] = rng.uniform(1, 2, rows).astype(np.float32)
    one["model.norm.weight"] = rng.normal(size=12).astype(np.float32)
    write_adapter(tmp_path / "one", one, use_dora=True, modules_to_save=["norm"])
    two = factors(rng, q, 12, 12) | {f"{q}.base_layer.bias": rng.normal(size=12).astype(np.float32)}
    write_adapter(tmp_path / "two", two, bias="all")
    told = refused(capsys, "merge", "one", "two", "out")
    assert "DoRA" in told
    assert "--base" in told
    made(
        "merge",
        "one",
        "two",
        "out",
        "--base",
        "base",
        "--method",
        "task_arithmetic",
        "--weight=0.5",
        "--weight=2",
        "--rank=31",
    )
    parts = [folded("base", n, f"folded-{n}") for n in ("one", "two")]
    found = folded("base", "out", "folded")
    for name, before in base.items():
        wanted = before + sum(w * (p[name].astype(float) - before) for w, p in zip((0.5, 2.0), parts, strict=True))
        np.testing.assert_allclose(found[name], wanted, atol=2e-5, err_msg=name)
    assert verify(tmp_path / "out") == ()


def test_saved_modules_without_a_base(tmp_path, monkeypatch, capsys):
    """A mean of all adapters is a mean of models; anything else, or one that lacks it, needs the base."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(4)
    heads = {}
    for n in "abc":
        parts = factors(rng, "q_proj", 6, 5)
        if n != "c":
            parts["score.weight"] = heads[n] = rng.normal(size=(3, 5)).astype(np.float32)
        write_adapter(tmp_path / n, parts, modules_to_save=["score"])
    made("merge", "a", "b", "out", "--weight=1", "--weight=3")
    found = read_file(tmp_path / "out" / "adapter_model.safetensors")[ROOT + "score.weight"]
    np.testing.assert_allclose(found, (heads["a"] + 3 * heads["b"]) / 4, rtol=1e-6)
    for arguments in (
        ("a", "b", "x", "--method=ties", "--density=0.5"),
        ("a", "b", "x", "--method=concat"),
        ("a", "c", "x"),
    ):
        told = refused(capsys, "merge", *arguments)
        assert "score.weight" in told
        assert "--base" in told


def test_biases_of_factors_are_merged_like_changes(tmp_path, monkeypatch):
    """lora_bias: each times its scale; the result has scale 1."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(4)
    biases = {}
    for n in "ab":
        parts = factors(rng, "q_proj", 6, 5)
        parts["q_proj.lora_B.bias"] = biases[n] = rng.normal(size=6).astype(np.float32)
        write_adapter(tmp_path / n, parts, lora_bias=True)
    made("merge", "a", "b", "out")
    found = read_file(tmp_path / "out" / "adapter_model.safetensors")[ROOT + "q_proj.lora_B.bias"]
    np.testing.assert_allclose(found, biases["a"] + biases["b"], rtol=1e-6)  # the mean, of scale 8 / 4
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["lora_bias"] is True


def test_ranks_that_differ_are_written_as_patterns(place):
    """By energy each module has its own rank; alpha is the rank everywhere."""
    made("merge", "a", "b", "out", "--energy", "0.8")
    config = json.loads((place / "out" / "adapter_config.json").read_text())
    tensors = read_file(place / "out" / "adapter_model.safetensors")
    ranks = {
        n.removeprefix(ROOT).removesuffix(".lora_A.weight"): v.shape[0] for n, v in tensors.items() if "lora_A" in n
    }
    assert config["r"] == config["lora_alpha"] == max(ranks.values())
    told = {n.replace("\\", ""): r for n, r in config["rank_pattern"].items()}
    assert told == {n: r for n, r in ranks.items() if r != config["r"]}
    assert config["alpha_pattern"] == config["rank_pattern"]
    made("fold", *_base_of(place), "out", "folded")  # read as it is


def _base_of(place):
    write_base(place / "base", shapes={f"{m}.weight": s for m, s in _shapes().items()})
    return (place / "base",)


def _shapes():
    return {m: SHAPES[m.rpartition(".")[2]] for m in MODULES}


def test_bytes_do_not_depend_on_threads(place):
    """Nor on the memory that is allowed."""
    for method, more in (("ties", ["--density=0.5"]), ("linear", []), ("tsv_m", [])):
        made("merge", "a", "b", "c", f"one-{method}", "--method", method, *more, "--threads=1")
        made("merge", "a", "b", "c", f"two-{method}", "--method", method, *more, "--threads=3", "--memory=4GiB")
        one, two = (place / f"{n}-{method}" / "adapter_model.safetensors" for n in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("kind", [Span, Elementwise, Matrix], ids=lambda k: k.__name__)
def test_the_registry_has_methods_of_every_kind_here(kind):
    """What is tested above is not empty."""
    assert any(isinstance(m.family, kind) for m in MERGING)
    assert any(Law.DETERMINISTIC not in m.laws for m in MERGING)


def test_the_same_numbers_as_the_fold_of_a_linear_merge(place):
    """Merging adapters and folding is folding and merging."""
    base = _base_of(place)[0]
    made("merge", "a", "b", "c", "out", "--method=concat", "--weight=0.2")
    found = folded(base, "out", "folded")
    before = read_model(base)
    for name, delta in ((n, sum(0.2 * changes(place / k)[n] for k in "abc")) for n in changes(place / "a")):
        np.testing.assert_allclose(found[name], before[name] + delta, atol=1e-5)
