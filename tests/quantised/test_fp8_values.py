"""8-bit floats with scales: each value is the exact product, rounded once."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scaled import ALL, BF16, E4M3, as_exponents, fp8_config, nearest, quantised, spread, values, write_fp8

import stockpot as sp
from files import read_model, write_model
from stockpot.checkpoint.open import open_checkpoint
from stockpot.errors import CheckpointError, StockpotError

NAME = "model.layers.0.mlp.up_proj.weight"


@settings(max_examples=25, deadline=None)
@given(
    rows=st.sampled_from([1, 2, 127, 128, 129, 300]),
    columns=st.sampled_from([1, 3, 128, 131, 257]),
    block=st.sampled_from([(128, 128), (64, 32), (1, 128), (300, 7)]),
    scale=st.sampled_from([np.float32, np.float64, BF16, np.float16]),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_value_is_the_exact_product(rows, columns, block, scale, seed):
    """For blocks that divide a matrix and blocks that do not, and for scales of every float dtype."""
    rng = np.random.default_rng(seed)
    finite = ALL[np.isfinite(ALL.astype(np.float32))]
    weight = rng.choice(finite, (rows, columns))
    scales = rng.uniform(0.001, 2, (-(-rows // block[0]), -(-columns // block[1]))).astype(scale)
    config = fp8_config(weight_block_size=list(block))
    found = _made(weight, scales, config)
    assert np.array_equal(found, weight.astype(np.float64) * spread(scales, weight.shape, block))


def _made(weight, scales, config, suffix="_scale_inv"):
    """The values in float64, through a folder."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), {NAME: weight, NAME + suffix: scales}, config=config)
        out = sp.compute(sp.open(folder), dtype="float64")
    assert list(out) == [NAME]
    return out[NAME]


@pytest.mark.parametrize(
    ("form", "block", "suffix", "config"),
    [
        ((), (40, 50), "_scale", {"quant_method": "fp8"}),
        ((1,), (40, 50), "_scale", {"quant_method": "fp8"}),
        ((40, 1), (1, 50), "_scale", {"quant_method": "fbgemm_fp8"}),
        ((40,), (1, 50), "_scale", {"quant_method": "fbgemm_fp8"}),
        (
            (40, 1),
            (1, 50),
            "_scale",
            {
                "quant_method": "compressed-tensors",
                "format": "float-quantized",
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}},
            },
        ),
        ((1, 1), (40, 50), "_scale_inv", None),
    ],
    ids=["scalar", "one", "rows", "flat-rows", "compressed-tensors", "no-config"],
)
def test_scales_of_a_tensor_and_of_rows(form, block, suffix, config):
    """Whatever way to quantise the config names, shapes say what a scale holds for."""
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((40, 50)).astype(E4M3)
    scales = rng.uniform(0.1, 1, form).astype(np.float32)
    full = {"model_type": "llama"} | ({} if config is None else {"quantization_config": config})
    grid = scales.reshape(-(-40 // block[0]), -(-50 // block[1]))
    assert np.array_equal(_made(weight, scales, full, suffix), values(weight, grid, block))


def test_experts_in_one_tensor():
    """Scales of a tensor of three dimensions are those of its matrices, each with blocks of its own."""
    rng = np.random.default_rng(2)
    weight = rng.standard_normal((3, 150, 40)).astype(E4M3)
    scales = rng.uniform(0.1, 1, (3, 2, 1)).astype(np.float32)
    assert np.array_equal(_made(weight, scales, fp8_config()), values(weight, scales, (128, 128)))


def test_scales_that_are_exponents(tmp_path):
    """F8_E8M0 scales are powers of two."""
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((130, 20)).astype(E4M3)
    powers = np.array([[120], [130]], np.uint8)
    write_model(tmp_path, {NAME: weight, NAME + "_scale_inv": powers}, config=fp8_config())
    as_exponents(tmp_path)
    out = sp.compute(sp.open(tmp_path), dtype="float64")[NAME]
    assert np.array_equal(out, values(weight, 2.0 ** (powers.astype(float) - 127), (128, 128)))


def test_an_output_in_bfloat16(tmp_path):
    """Without being asked for anything else: no scales, no quantization_config, the product rounded once."""
    rng = np.random.default_rng(4)
    arrays = write_fp8(tmp_path / "a", rng, {NAME: (200, 130)})
    sp.save(sp.open(tmp_path / "a"), tmp_path / "out")
    out = read_model(tmp_path / "out")
    assert out.keys() == {NAME, "model.norm.weight"}
    assert np.array_equal(out[NAME], _rounded(values(arrays[NAME], arrays[NAME + "_scale_inv"], (128, 128))))
    assert json.loads((tmp_path / "out/config.json").read_text()) == {"model_type": "llama", "torch_dtype": "bfloat16"}


def _rounded(exact):
    """Float64 to bfloat16 in one rounding: the float32 on the way is rounded to odd."""
    single = exact.astype(np.float32)
    odd = np.where(
        (single != exact) & ((single.view(np.uint32) & 1) == 0),
        np.where(np.abs(single) > np.abs(exact), single.view(np.uint32) - 1, single.view(np.uint32) + 1),
        single.view(np.uint32),
    ).astype(np.uint32)
    return odd.view(np.float32).astype(BF16)


def test_methods_work_on_the_values(tmp_path):
    """TIES of quantised models is TIES of what they stand for."""
    rng = np.random.default_rng(5)
    made = [write_fp8(tmp_path / n, rng, {NAME: (140, 130)}) for n in "abc"]
    plain = [
        {NAME: values(m[NAME], m[NAME + "_scale_inv"], (128, 128)), "model.norm.weight": m["model.norm.weight"]}
        for m in made
    ]
    found, wanted = (
        sp.compute(base + sp.ties(a - base, b - base, density=0.4), dtype="float64")
        for base, a, b in (
            [sp.open(tmp_path / n) for n in "abc"],
            [sp.open(p, name=n) for p, n in zip(plain, "abc", strict=True)],
        )
    )
    assert np.array_equal(found[NAME], wanted[NAME])


@pytest.mark.parametrize("threads", [1, 3], ids=str)
@pytest.mark.parametrize("memory", [1 << 30, 300 << 20], ids=str)
def test_bytes_do_not_depend_on_threads_or_memory(tmp_path, threads, memory):
    """Nor do those of requantised outputs."""
    rng = np.random.default_rng(6)
    for name in "ab":
        write_fp8(tmp_path / name, rng, {NAME: (1000, 900)})
    a, b = sp.open(tmp_path / "a"), sp.open(tmp_path / "b")
    mean = sp.slerp(a, b, t=0.3)
    for how in (None, "same"):
        sp.save(mean, tmp_path / f"{how}", quantize=how, threads=threads, memory=memory)
    one = {how: sp.compute(mean, quantize=how, threads=2) for how in (None, "same")}
    for how, arrays in one.items():
        written = read_model(tmp_path / f"{how}")
        assert all(written[name].tobytes() == array.tobytes() for name, array in arrays.items())


def test_arrays_with_scales():
    """Arrays in memory are understood as files are."""
    rng = np.random.default_rng(7)
    weight, scale = quantised(rng.standard_normal((40, 30)), (128, 128))
    found = sp.compute(sp.open({NAME: weight, NAME + "_scale_inv": scale}), dtype="float64")
    assert found.keys() == {NAME}
    assert np.array_equal(found[NAME], values(weight, scale, (128, 128)))


def test_plain_8_bit_floats_stay_what_they_are():
    """Without scales and without a word of quantisation, 8-bit floats are numbers like others."""
    weight = np.random.default_rng(8).standard_normal((40, 30)).astype(E4M3)
    assert sp.compute(sp.open({NAME: weight}))[NAME].tobytes() == weight.tobytes()


def test_scales_of_activations_are_left_out_and_told(tmp_path):
    """Without 8-bit weights they mean nothing."""
    arrays = write_fp8(tmp_path / "a", np.random.default_rng(9), {NAME: (128, 128)})
    more = {NAME.replace("weight", "input_scale"): np.ones((), np.float32)}
    write_model(tmp_path / "a", arrays | more, config=fp8_config())
    plan = sp.plan(sp.open(tmp_path / "a"))
    assert [s.name for s in plan.steps] == [NAME, "model.norm.weight"]
    assert any("scales of activations are left out" in n.message for n in plan.notes)


def test_files_marked_scaled_fp8(tmp_path):
    """One scale_weight for each weight; requantised they have the same tensors, with the values' mean."""
    rng, weight = np.random.default_rng(11), "blocks.0.proj.weight"
    parts = {}
    for name in "ab":
        own = rng.standard_normal((40, 50)).astype(E4M3)
        scale = rng.uniform(0.1, 1, ()).astype(np.float32)
        marks = {"scaled_fp8": np.zeros(2, E4M3), "blocks.0.proj.scale_input": np.ones((), np.float32)}
        write_model(tmp_path / name, {weight: own, weight.replace("weight", "scale_weight"): scale, **marks})
        parts[name] = own.astype(np.float64) * float(scale)
    a, b = sp.open(tmp_path / "a"), sp.open(tmp_path / "b")
    found = sp.compute(0.5 * a + 0.5 * b, dtype="float64")
    assert list(found) == [weight]
    mean = (parts["a"] + parts["b"]) / 2
    assert np.array_equal(found[weight], mean)
    again = read_model(sp.save(0.5 * a + 0.5 * b, tmp_path / "out", quantize="same").folder)
    assert again.keys() == read_model(tmp_path / "a").keys()
    scale = float(again["blocks.0.proj.scale_weight"])
    assert scale == np.float32(np.abs(mean).max() / 448)
    assert np.abs(again[weight].astype(np.float64) * scale - mean).max() <= scale * 16


@pytest.mark.parametrize(
    ("told", "word"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq"}, "awq"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {}}, "pack-quantized"),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "float-quantized",
                "config_groups": {"a": {"weights": {"num_bits": 4, "type": "float"}}},
            },
            "compressed-tensors",
        ),
        ("yes", "quantization_config"),
    ],
    ids=["gptq", "awq", "bitsandbytes", "mxfp4", "packed", "four-bits", "no-map"],
)
def test_other_ways_to_quantise_are_refused_by_name(tmp_path, told, word):
    """With what can be done; looking at such a model stays possible."""
    write_model(tmp_path, {NAME: np.ones((4, 4), np.float32)}, config={"quantization_config": told})
    with pytest.raises(CheckpointError, match=word) as caught:
        sp.plan(sp.open(tmp_path))
    assert "is quantised" in str(caught.value)
    assert caught.value.problems[0].fix
    assert open_checkpoint(str(tmp_path)).unfit


@pytest.mark.parametrize("form", [(2, 1), (128, 2), (5,)], ids=str)
def test_scales_that_do_not_fit(tmp_path, form):
    """A scale tensor of another shape is told, with the weight's name."""
    arrays = {NAME: np.ones((128, 128), E4M3), NAME + "_scale_inv": np.ones(form, np.float32)}
    write_model(tmp_path, arrays, config=fp8_config())
    with pytest.raises(CheckpointError, match="fit no weight") as caught:
        sp.plan(sp.open(tmp_path))
    assert caught.value.problems[0].tensor == NAME


def test_a_weight_without_scale(tmp_path):
    """Of a model that says to be quantised, that is an error by name."""
    write_model(tmp_path, {NAME: np.ones((128, 128), E4M3)}, config=fp8_config())
    with pytest.raises(CheckpointError, match="no scale") as caught:
        sp.plan(sp.open(tmp_path))
    assert caught.value.problems[0].tensor == NAME


@pytest.mark.parametrize("place", ["weight", "scale"])
def test_nan_is_told(tmp_path, place):
    """In weights and in scales."""
    weight, scale = np.ones((128, 130), E4M3), np.ones((1, 2), np.float32)
    (weight if place == "weight" else scale)[0, 1] = np.nan
    write_model(tmp_path / "m", {NAME: weight, NAME + "_scale_inv": scale}, config=fp8_config())
    with pytest.raises(StockpotError, match="NaN weight") as caught:
        sp.save(sp.open(tmp_path / "m"), tmp_path / "out")
    assert NAME in caught.value.problems[0].tensor
    assert not (tmp_path / "out").exists()


def test_the_reference_rounds_as_ml_dtypes():
    """The tests' own rounding to E4M3 agrees with ml_dtypes where float32 is exact."""
    ratio = np.random.default_rng(0).uniform(-448, 448, 5000).astype(np.float32)
    assert np.array_equal(nearest(ratio.astype(np.float64)).view(np.uint8), ratio.astype(E4M3).view(np.uint8))
    assert np.dtype(ml_dtypes.float8_e4m3fn) == E4M3
