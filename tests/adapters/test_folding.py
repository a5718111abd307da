"""A model with an adapter on it is W + scale · B·A, computed in float64, rounded once, for every kind of module."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from adapting import ROOT, factors, ordered_product, same, write_adapter, write_base

import stockpot as sp
from files import read_model, write_file
from reference import cast_once, code_of
from stockpot.planning import blocks

Q0, UP1, CONV, EMBED = "model.layers.0.q_proj", "model.layers.1.up_proj", "model.layers.0.conv", "model.embed_tokens"


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def folded(tmp_path, **limits):
    """The fold of ``base`` and ``adapter`` in ``tmp_path``."""
    return sp.compute(sp.open(tmp_path / "base", adapter=tmp_path / "adapter"), **limits)


def unchanged(found, base, *but):
    """Whether all other tensors are those of the base."""
    assert found.keys() == base.keys()
    return all(same(found[n], base[n]) for n in base if n not in but)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_the_formula_to_the_last_bit(tmp_path, rng, dtype):
    """Each element is W + (alpha/r) · Σ B A in float64, summed over the rank in order, rounded once."""
    base = write_base(tmp_path / "base", dtype=dtype)
    parts = {**factors(rng, Q0, 12, 12), **factors(rng, UP1, 31, 12)}
    write_adapter(tmp_path / "adapter", parts, lora_alpha=3)
    found = folded(tmp_path)
    for name in (Q0, UP1):
        a, b = parts[f"{name}.lora_A.weight"], parts[f"{name}.lora_B.weight"]
        exact = base[f"{name}.weight"].astype(np.float64) + 3 / 4 * ordered_product(b, a)
        assert same(found[f"{name}.weight"], cast_once(exact, code_of(dtype)))
    assert unchanged(found, base, f"{Q0}.weight", f"{UP1}.weight")


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5, 7, 8, 64])
def test_every_rank(tmp_path, rng, rank):
    """Ranks that are no multiple of anything, and larger than the matrix, are exact too."""
    base = write_base(tmp_path / "base")
    parts = factors(rng, Q0, 12, 12, rank)
    write_adapter(tmp_path / "adapter", parts, r=rank)
    exact = base[f"{Q0}.weight"] + 8 / rank * ordered_product(*list(parts.values())[::-1])
    assert same(folded(tmp_path)[f"{Q0}.weight"], exact.astype(np.float32))


def test_patterns_and_rooted_scales(tmp_path, rng):
    """rank_pattern and alpha_pattern are matched as PEFT does, on whole words; rsLoRA divides by √r."""
    base = write_base(tmp_path / "base")
    names = {Q0: 2, "model.layers.1.q_proj": 6, UP1: 4}
    parts = {
        k: v for name, r in names.items() for k, v in factors(rng, name, len(base[f"{name}.weight"]), 12, r).items()
    }
    patterns = {"rank_pattern": {"layers.1.q_proj": 6, "q_proj": 2, "p_proj": 9}, "alpha_pattern": {"up_proj": 5}}
    write_adapter(tmp_path / "adapter", parts, use_rslora=True, **patterns)
    found = folded(tmp_path)
    for name, rank in names.items():
        scale = (5 if name == UP1 else 8) / math.sqrt(rank)
        exact = base[f"{name}.weight"] + scale * ordered_product(
            parts[f"{name}.lora_B.weight"], parts[f"{name}.lora_A.weight"]
        )
        assert same(found[f"{name}.weight"], exact.astype(np.float32)), name


def test_weights_stored_transposed(tmp_path, rng):
    """GPT-2's Conv1D stores (in, out): the product is added transposed; of a square weight the settings tell."""
    shapes = {"h.0.attn.c_attn.weight": (12, 36), "h.0.attn.c_proj.weight": (12, 12)}
    base = write_base(tmp_path / "base", shapes=shapes)
    parts = {
        **factors(rng, "transformer.h.0.attn.c_attn", 36, 12),
        **factors(rng, "transformer.h.0.attn.c_proj", 12, 12),
    }
    write_adapter(tmp_path / "adapter", parts, fan_in_fan_out=True)
    found = folded(tmp_path)
    for name, values in base.items():
        a, b = (parts[f"transformer.{name}".replace("weight", f"lora_{x}.weight")] for x in "AB")
        assert same(found[name], (values + 2 * ordered_product(a.T, b.T)).astype(np.float32)), name


@pytest.mark.parametrize(
    ("shape", "a", "b"),
    [((8, 6, 3, 2), (6, 3, 2), (1, 1)), ((8, 6, 1, 1), (6, 1, 1), (1, 1)), ((8, 6, 5), (6, 5), (1,))],
)
def test_convolutions(tmp_path, rng, shape, a, b):
    """A has the kernel's shape, B that of 1×1: their product over the rank has the weight's."""
    base = write_base(tmp_path / "base", shapes={"conv.weight": shape})
    parts = {
        "conv.lora_A.weight": rng.normal(size=(4, *a)).astype(np.float32),
        "conv.lora_B.weight": rng.normal(size=(8, 4, *b)).astype(np.float32),
    }
    write_adapter(tmp_path / "adapter", parts)
    product = ordered_product(parts["conv.lora_B.weight"].reshape(8, 4), parts["conv.lora_A.weight"].reshape(4, -1))
    exact = base["conv.weight"] + 2 * product.reshape(shape)
    assert same(folded(tmp_path)["conv.weight"], exact.astype(np.float32))


def test_embeddings(tmp_path, rng):
    """An embedding gets scale · (B·A)ᵀ; its factors are parameters without .weight."""
    base = write_base(tmp_path / "base")
    a, b = rng.normal(size=(4, 20)).astype(np.float32), rng.normal(size=(12, 4)).astype(np.float32)
    write_adapter(tmp_path / "adapter", {f"{EMBED}.lora_embedding_A": a, f"{EMBED}.lora_embedding_B": b})
    found = folded(tmp_path)
    exact = base[f"{EMBED}.weight"] + 2 * ordered_product(a.T, b.T)
    assert same(found[f"{EMBED}.weight"], exact.astype(np.float32))
    assert unchanged(found, base, f"{EMBED}.weight")


def test_biases_and_whole_modules(tmp_path, rng):
    """Biases and modules_to_save take the place of the base's; lora_bias is added with the scale."""
    base = write_base(tmp_path / "base")
    parts = factors(rng, Q0, 12, 12) | factors(rng, "model.layers.1.q_proj", 12, 12)
    bias, added, norm = (rng.normal(size=12).astype(np.float32) for _ in range(3))
    others = {f"{Q0}.base_layer.bias": bias, "model.layers.1.q_proj.lora_B.bias": added, "model.norm.weight": norm}
    write_adapter(tmp_path / "adapter", parts | others, bias="all", modules_to_save=["norm"], lora_bias=True)
    found = folded(tmp_path)
    assert same(found[f"{Q0}.bias"], bias)
    assert same(found["model.norm.weight"], norm)
    other = "model.layers.1.q_proj.bias"
    assert same(found[other], (base[other] + 2 * added.astype(np.float64)).astype(np.float32))


@pytest.mark.parametrize("crossed", [False, True])
def test_dora_gives_every_output_its_length(tmp_path, rng, monkeypatch, crossed):
    """W' = m · (W + scale · B·A) / ‖·‖ by outputs: rows, or columns of weights stored transposed; in any blocks."""
    shape = (9, 31) if crossed else (31, 9)
    base = write_base(tmp_path / "base", dtype=np.float64, shapes={"w.weight": shape})
    lengths = rng.uniform(1, 2, size=31).astype(np.float32)
    parts = factors(rng, "w", 31, 9) | {"w.lora_magnitude_vector": lengths}
    write_adapter(tmp_path / "adapter", parts, use_dora=True, fan_in_fan_out=crossed)
    product = 2 * ordered_product(parts["w.lora_B.weight"], parts["w.lora_A.weight"])
    exact = base["w.weight"] + (product.T if crossed else product)
    axis = 0 if crossed else 1
    exact *= np.expand_dims(lengths, axis) / np.linalg.norm(exact, axis=axis, keepdims=True)
    assert sp.plan(sp.open(tmp_path / "base", adapter=tmp_path / "adapter")).cost.passes == 2
    for size in (1 << 18, 40, 1):
        monkeypatch.setattr(blocks, "BLOCK", size)
        for threads in (1, 2):
            np.testing.assert_allclose(folded(tmp_path, threads=threads)["w.weight"], exact, rtol=1e-13)


def test_dora_below_other_methods(tmp_path, rng):
    """Its pass comes before those of the methods that it feeds: ties, slerp, matrices, statistics of a whole model."""
    base = write_base(tmp_path / "base", dtype=np.float64, shapes={"layers.0.w.weight": (31, 9)})
    parts = factors(rng, "layers.0.w", 31, 9) | {"layers.0.w.lora_magnitude_vector": np.ones(31, np.float32)}
    write_adapter(tmp_path / "adapter", parts, use_dora=True)
    plain, adapted = sp.open(tmp_path / "base"), sp.open(tmp_path / "base", adapter=tmp_path / "adapter")
    written = sp.open(sp.compute(adapted), name="x")
    for make in (
        lambda x: plain + sp.ties(x - plain, density=0.3),
        lambda x: plain + sp.ties(x - plain, density=0.3, scope="model"),
        lambda x: sp.slerp(plain, x, t=0.3),
        lambda x: plain + sp.tsv_m(x - plain, 0.5 * x - 0.5 * plain),
    ):
        one, other = sp.compute(make(adapted)), sp.compute(make(written))
        np.testing.assert_allclose(one["layers.0.w.weight"], other["layers.0.w.weight"], rtol=1e-12, atol=1e-12)
    assert base["layers.0.w.weight"].shape == (31, 9)


def test_names_of_adapters_in_keys(tmp_path, rng):
    """``lora_A.default.weight`` and ``modules_to_save.default`` mean what they mean without a name."""
    write_base(tmp_path / "base")
    parts = factors(rng, Q0, 12, 12) | {"lm_head.weight": rng.normal(size=(20, 12)).astype(np.float32)}
    write_adapter(tmp_path / "adapter", parts, modules_to_save=["lm_head"])
    named = {
        k.replace(".weight", ".default.weight") if "lora" in k else "lm_head.modules_to_save.default.weight": v
        for k, v in parts.items()
    }
    write_adapter(tmp_path / "named", named, modules_to_save=["lm_head"])
    one, other = folded(tmp_path), sp.compute(sp.open(tmp_path / "base", adapter=tmp_path / "named"))
    assert all(same(one[n], other[n]) for n in one)


@pytest.mark.parametrize(
    ("own", "bases"),
    [("transformer.layers.0.up_proj", "layers.0.up_proj"), ("layers.0.up_proj", "model.layers.0.up_proj")],
)
def test_names_with_a_word_less_or_more(tmp_path, rng, own, bases):
    """A bare model's tensors lack the word that they have inside another; adapters of either fit both."""
    base = write_base(tmp_path / "base", shapes={f"{bases}.weight": (31, 12)})
    parts = factors(rng, own, 31, 12)
    write_adapter(tmp_path / "adapter", parts)
    exact = base[f"{bases}.weight"] + 2 * ordered_product(*list(parts.values())[::-1])
    assert same(folded(tmp_path)[f"{bases}.weight"], exact.astype(np.float32))


def test_a_tied_head_gets_its_own(tmp_path, rng):
    """An adapter on a head that is its embedding's: the result has a head, and its config says so."""
    shapes = {"model.embed_tokens.weight": (20, 12), "model.norm.weight": (12,)}
    base = write_base(tmp_path / "base", shapes=shapes, tie_word_embeddings=True)
    parts = factors(rng, "lm_head", 20, 12)
    write_adapter(tmp_path / "adapter", parts)
    made = sp.plan(sp.open(tmp_path / "base", adapter=tmp_path / "adapter"))
    assert any("no longer tied" in note.message for note in made.notes)
    sp.save(sp.open(tmp_path / "base", adapter=tmp_path / "adapter"), tmp_path / "out")
    found = read_model(tmp_path / "out")
    exact = base[f"{EMBED}.weight"] + 2 * ordered_product(*list(parts.values())[::-1])
    assert same(found["lm_head.weight"], exact.astype(np.float32))
    assert same(found[f"{EMBED}.weight"], base[f"{EMBED}.weight"])
    assert '"tie_word_embeddings": false' in (tmp_path / "out/config.json").read_text()


def test_a_change_of_the_factors_that_changes_nothing(tmp_path, rng):
    """(B R, R⁻¹ A) is the same adapter for every invertible R, up to the rounding of the factors."""
    base = write_base(tmp_path / "base", dtype=np.float64)
    parts = factors(rng, Q0, 12, 12, dtype=np.float64)
    write_adapter(tmp_path / "adapter", parts)
    r = rng.normal(size=(4, 4)) + 4 * np.eye(4)
    turned = {
        f"{Q0}.lora_A.weight": np.linalg.inv(r) @ parts[f"{Q0}.lora_A.weight"],
        f"{Q0}.lora_B.weight": parts[f"{Q0}.lora_B.weight"] @ r,
    }
    write_adapter(tmp_path / "turned", turned)
    one, other = folded(tmp_path), sp.compute(sp.open(tmp_path / "base", adapter=tmp_path / "turned"))
    np.testing.assert_allclose(one[f"{Q0}.weight"], other[f"{Q0}.weight"], rtol=0, atol=1e-12)
    assert np.abs(one[f"{Q0}.weight"] - base[f"{Q0}.weight"]).max() > 0.1


@pytest.mark.parametrize("crossed", [False, True])
def test_same_bytes_for_threads_and_blocks(tmp_path, rng, monkeypatch, crossed):
    """Threads, sizes of blocks and memory change no byte: not of a fold, nor of a method over it."""
    rows, columns = 601, 1023
    shapes = {"layers.0.w.weight": (columns, rows) if crossed else (rows, columns)}
    for seed, name in enumerate(("base", "other")):
        write_base(tmp_path / name, seed, shapes=shapes)
    write_adapter(tmp_path / "adapter", factors(rng, "layers.0.w", rows, columns, 6), r=6, fan_in_fan_out=crossed)
    adapted, other = sp.open(tmp_path / "base", adapter=tmp_path / "adapter"), sp.open(tmp_path / "other")
    trees = [adapted, sp.ties(adapted - other, density=0.4) + other]
    before = [sp.compute(tree, threads=1) for tree in trees]
    again = [sp.compute(tree, threads=2) for tree in trees]
    monkeypatch.setattr(blocks, "BLOCK", 1001)
    small = [sp.compute(tree, threads=2) for tree in trees]
    for one, two, three in zip(before, again, small, strict=True):
        assert same(one["layers.0.w.weight"], two["layers.0.w.weight"])
        assert same(one["layers.0.w.weight"], three["layers.0.w.weight"])


def test_the_file_of_an_adapter(tmp_path, rng):
    """``adapter_model.safetensors`` may be named itself; its settings lie beside it."""
    write_base(tmp_path / "base")
    write_adapter(tmp_path / "adapter", factors(rng, Q0, 12, 12))
    by_file = sp.compute(sp.open(tmp_path / "base", adapter=tmp_path / "adapter" / "adapter_model.safetensors"))
    assert all(same(v, by_file[n]) for n, v in folded(tmp_path).items())


def test_an_adapter_of_pytorch(tmp_path, rng):
    """Older adapters are pickles, ``adapter_model.bin``: read like legacy models, without running code."""
    torch = pytest.importorskip("torch", reason="writes the pickle")
    write_base(tmp_path / "base")
    parts = factors(rng, Q0, 12, 12)
    write_adapter(tmp_path / "adapter", parts)
    expected = folded(tmp_path)
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    tensors = {ROOT + name: torch.from_numpy(values) for name, values in parts.items()}
    torch.save(tensors, tmp_path / "adapter" / "adapter_model.bin")
    found = folded(tmp_path)
    assert all(same(found[n], expected[n]) for n in expected)


def test_a_tied_embedding_is_told(tmp_path, rng):
    """A change of an embedding that is the head too changes both, as PEFT's merge does, and the plan says so."""
    base = write_base(tmp_path / "base", shapes={f"{EMBED}.weight": (20, 12)}, tie_word_embeddings=True)
    a, b = rng.normal(size=(4, 20)).astype(np.float32), rng.normal(size=(12, 4)).astype(np.float32)
    write_adapter(tmp_path / "adapter", {f"{EMBED}.lora_embedding_A": a, f"{EMBED}.lora_embedding_B": b})
    made = sp.plan(sp.open(tmp_path / "base", adapter=tmp_path / "adapter"))
    assert any("with it the head if it is tied" in note.message for note in made.notes)
    assert [s.name for s in made.steps] == list(base)


def test_two_adapters_on_one_model(tmp_path, rng):
    """Adapters on the same base are models like others: their mean has the mean of their changes."""
    base = write_base(tmp_path / "base", dtype=np.float64)
    both = [factors(rng, Q0, 12, 12), factors(rng, Q0, 12, 12)]
    models = [sp.open(tmp_path / "base", adapter=write_adapter(tmp_path / f"a{i}", p)) for i, p in enumerate(both)]
    found = sp.compute(0.5 * models[0] + 0.5 * models[1])[f"{Q0}.weight"]
    exact = base[f"{Q0}.weight"] + sum(ordered_product(*list(p.values())[::-1]) for p in both)
    np.testing.assert_allclose(found, exact, rtol=1e-13, atol=1e-13)


def test_a_base_in_memory(tmp_path, rng):
    """The base may be arrays; its adapter still is a folder."""
    parts = factors(rng, "w", 5, 3)
    write_adapter(tmp_path / "adapter", parts)
    found = sp.compute(sp.open({"w.weight": np.ones((5, 3))}, adapter=tmp_path / "adapter"))
    assert same(found["w.weight"], 1 + 2 * ordered_product(*list(parts.values())[::-1]))


def test_files_of_weights_beside_are_not_read(tmp_path, rng):
    """A folder that holds a whole model too is the adapter where one is asked for, the model elsewhere."""
    base = write_base(tmp_path / "both")
    write_adapter(tmp_path / "both", factors(rng, Q0, 12, 12))
    write_file(tmp_path / "both" / "model.safetensors", base)
    found = sp.compute(sp.open(tmp_path / "both", adapter=tmp_path / "both"))
    assert not same(found[f"{Q0}.weight"], base[f"{Q0}.weight"])
    assert unchanged(found, base, f"{Q0}.weight")
