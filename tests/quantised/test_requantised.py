"""Outputs in 8-bit floats, quantised as the base is."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scaled import BF16, E4M3, as_exponents, fp8_config, quantised, random_fp8, values, write_fp8

import stockpot as sp
from files import read_model, write_model
from measured import MIB, least, stockpot
from stockpot.checkpoint.open import open_checkpoint
from stockpot.errors import PlanError
from stockpot.execute.reproduce import reproduce
from stockpot.execute.verify import verify

NAME = "model.layers.0.mlp.up_proj.weight"
SCALE = NAME + "_scale_inv"
BLOCK = (128, 128)


def mean(folder, names="ab", **options):
    """The mean of models, requantised; the arrays that were written."""
    models = [sp.open(folder / n) for n in names]
    sp.save(sp.linear(*models), folder / "out", quantize="same", **options)
    return read_model(folder / "out")


@pytest.mark.parametrize("shape", [(128, 128), (300, 200), (129, 1), (1, 300), (513, 127)], ids=str)
@pytest.mark.parametrize("scale", [np.float32, BF16], ids=["float32", "bfloat16"])
def test_weights_and_scales_are_those_of_the_definition(tmp_path, shape, scale):
    """The scale is the block's largest magnitude over 448, rounded once; the weight the value over that, likewise."""
    rng = np.random.default_rng(1)
    a, b = (write_fp8(tmp_path / n, rng, {NAME: shape}, dtype=scale) for n in "ab")
    out = mean(tmp_path)
    exact = (values(a[NAME], a[SCALE], BLOCK) + values(b[NAME], b[SCALE], BLOCK)) / 2
    weight, scales = quantised(exact, BLOCK, scale)
    assert out[SCALE].dtype == scale
    assert out[SCALE].tobytes() == scales.tobytes()
    assert out[NAME].tobytes() == weight.tobytes()
    assert (tmp_path / "out/config.json").read_text() == (tmp_path / "a/config.json").read_text()


@pytest.mark.parametrize("shape", [(256, 384), (300, 200), (1, 5)], ids=str)
@pytest.mark.parametrize("block", [(128, 128), (1, 10_000), (10_000, 10_000)], ids=["blocks", "rows", "tensor"])
def test_identical_models_give_identical_bytes(tmp_path, shape, block):
    """Of models whose scales are the largest magnitude over 448, weights and scales come out as they went in."""
    rows, columns = shape
    block = (min(block[0], rows), min(block[1], columns))
    arrays = dict(zip((NAME, SCALE), random_fp8(np.random.default_rng(2), shape, block), strict=True))
    config = fp8_config(weight_block_size=None) if block != (128, 128) else fp8_config()
    for name in "ab":
        write_model(tmp_path / name, arrays, config=config)
    out = mean(tmp_path)
    assert {name: array.tobytes() for name, array in out.items()} == {n: a.tobytes() for n, a in arrays.items()}


def test_identical_models_of_other_scales_keep_their_values_nearly(tmp_path):
    """Where the largest 8-bit number of a block is not 448, scales become so; values move by half a step at most."""
    rng = np.random.default_rng(3)
    weight = rng.uniform(-100, 100, (128, 128)).astype(E4M3)
    arrays = {NAME: weight, SCALE: np.array([[0.013]], np.float32)}
    for name in "ab":
        write_model(tmp_path / name, arrays, config=fp8_config())
    out = mean(tmp_path)
    before, after = values(weight, arrays[SCALE], BLOCK), values(out[NAME], out[SCALE], BLOCK)
    assert out[SCALE][0, 0] == np.float32(np.abs(before).max() / 448)
    assert np.all(np.abs(after - before) <= np.maximum(np.abs(before) * 2**-4, out[SCALE][0, 0] * 2**-10))


def test_powers_of_two_stay_powers_of_two(tmp_path):
    """With scale_fmt: ue8m0 scales are rounded up to a power of two, and identical models give identical bytes."""
    rng = np.random.default_rng(4)
    exact = rng.standard_normal((256, 128))
    power = np.exp2(np.ceil(np.log2(np.abs(exact).reshape(2, 128, 128).max((1, 2)) / 448)))[:, None]
    weight = (exact / np.repeat(power, 128, 0)).astype(E4M3)
    for name in "ab":
        write_model(
            tmp_path / name, {NAME: weight, SCALE: power.astype(np.float32)}, config=fp8_config(scale_fmt="ue8m0")
        )
    out = mean(tmp_path)
    assert out[SCALE].tobytes() == power.astype(np.float32).tobytes()
    assert out[NAME].tobytes() == weight.tobytes()


def test_exponents_stay_exponents(tmp_path):
    """Scales in F8_E8M0 come out in F8_E8M0: of identical models the same bytes."""
    codes = np.array([0x7E, 0x79, 0xF8], np.uint8)  # 448, 288 and -256: above half of the largest
    weight = np.repeat(codes, 128 * 40).reshape(-1, 40).view(E4M3)
    powers = np.array([[100], [127], [140]], np.uint8)
    for name in "ab":
        write_model(tmp_path / name, {NAME: weight, SCALE: powers}, config=fp8_config())
        as_exponents(tmp_path / name)
    sp.save(sp.linear(sp.open(tmp_path / "a"), sp.open(tmp_path / "b")), tmp_path / "out", quantize="same")
    before, after = (open_checkpoint(str(tmp_path / n)).tensors for n in ("a", "out"))
    for name in (NAME, SCALE):
        one, other = (Path(t[name].file).read_bytes()[t[name].offset :][: t[name].nbytes] for t in (before, after))
        assert one == other
        assert before[name].dtype == after[name].dtype


def test_zeros(tmp_path):
    """A block of zeros has scale 1 and stays zeros."""
    arrays = {NAME: np.zeros((130, 4), E4M3), SCALE: np.full((2, 1), 0.5, np.float32)}
    for name in "ab":
        write_model(tmp_path / name, arrays, config=fp8_config())
    out = mean(tmp_path)
    assert out[NAME].tobytes() == arrays[NAME].tobytes()
    assert out[SCALE].tolist() == [[1.0], [1.0]]


def test_what_is_not_merged_is_copied_as_it_is_stored(tmp_path):
    """A model alone, or its layers, keep their bytes, whatever their scales are."""
    rng = np.random.default_rng(5)
    weight = rng.uniform(-100, 100, (128, 128)).astype(E4M3)
    write_model(tmp_path / "a", {NAME: weight, SCALE: np.array([[0.013]], np.float32)}, config=fp8_config())
    sp.save(sp.open(tmp_path / "a"), tmp_path / "out", quantize="same")
    out = read_model(tmp_path / "out")
    assert out[NAME].tobytes() == weight.tobytes()
    assert out[SCALE].tolist() == [[np.float32(0.013)]]


def test_stacked_layers_bring_their_scales(tmp_path):
    """Under their new names, scales of activations included."""
    shapes = {f"model.layers.{i}.mlp.up_proj.weight": (128, 64) for i in range(2)}
    arrays = write_fp8(tmp_path / "a", np.random.default_rng(6), shapes)
    own = {f"model.layers.{i}.mlp.up_proj.input_scale": np.full((), i + 1, np.float32) for i in range(2)}
    write_model(tmp_path / "a", arrays | own, config=fp8_config() | {"num_hidden_layers": 2})
    a = sp.open(tmp_path / "a")
    sp.save(sp.stack(sp.layers(a, 0, 2), sp.layers(a, 1, 2)), tmp_path / "out", quantize="same")
    out = read_model(tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["num_hidden_layers"] == 3
    for new, old in enumerate((0, 1, 1)):
        for word in ("weight", "weight_scale_inv"):
            assert out[f"model.layers.{new}.mlp.up_proj.{word}"].tobytes() == (
                arrays[f"model.layers.{old}.mlp.up_proj.{word}"].tobytes()
            )
        assert out[f"model.layers.{new}.mlp.up_proj.input_scale"] == old + 1
    assert len(out) == 10


def test_experts_in_one_tensor(tmp_path):
    """Three dimensions, scales for each matrix; where blocks reach into the next expert, that is refused by name."""
    rng = np.random.default_rng(7)
    for rows, fits in ((256, True), (130, False)):
        pairs = [random_fp8(rng, (rows, 40)) for _ in range(3)]
        arrays = {NAME: np.stack([w for w, _ in pairs]), SCALE: np.stack([s for _, s in pairs])}
        for name in "ab":
            write_model(tmp_path / f"{name}{rows}", arrays, config=fp8_config())
        merge = partial(mean, tmp_path, [f"a{rows}", f"b{rows}"], overwrite=True)
        if fits:
            assert {n: a.tobytes() for n, a in merge().items()} == {n: a.tobytes() for n, a in arrays.items()}
            continue
        with pytest.raises(PlanError, match="no whole blocks") as caught:
            merge()
        assert caught.value.problems[0].tensor == NAME


def test_methods_with_passes_agree_in_weights_and_scales(tmp_path):
    """Both are made of the same values, ties at thresholds and statistics of the whole model included."""
    rng = np.random.default_rng(8)
    for name in "abc":
        write_fp8(tmp_path / name, rng, {NAME: (700, 520), "model.layers.1.x.weight": (130, 1000)})
    base, a, b = (sp.open(tmp_path / n) for n in "abc")
    for merged in (base + sp.ties(a - base, b - base, density=0.3), sp.slerp(a, b, t=0.4)):
        exact = sp.compute(merged, dtype="float64")
        found = sp.compute(merged, quantize="same")
        for name in (NAME, "model.layers.1.x.weight"):
            weight, scales = quantised(exact[name], BLOCK)
            assert np.allclose(found[name + "_scale_inv"], scales, rtol=1e-6)
            step = values(np.full(weight.shape, 32, E4M3), found[name + "_scale_inv"], BLOCK)
            assert np.all(np.abs(values(found[name], found[name + "_scale_inv"], BLOCK) - exact[name]) <= step / 2)


def test_a_recipe_and_the_command_line(tmp_path, monkeypatch):
    """``quantize: same`` and ``--quantize same`` are one, stand in the receipt, and can be repeated and verified."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(9)
    for name in "ab":
        write_fp8(tmp_path / name, rng, {NAME: (300, 200)})
    text = "merge_method: linear\nmodels: [{model: a}, {model: b}]\n"
    (tmp_path / "one.yml").write_text(text + "quantize: same\n")
    (tmp_path / "two.yml").write_text(text)
    sp.merge("one.yml", "one")
    done = stockpot("merge", "two.yml", "two", "--quantize", "same", "--quiet")
    assert done.code == 0, done.errors
    one, two = (read_model(tmp_path / n) for n in ("one", "two"))
    assert {n: a.tobytes() for n, a in one.items()} == {n: a.tobytes() for n, a in two.items()}
    for name in ("one", "two"):
        receipt = json.loads((tmp_path / name / "stockpot-receipt.json").read_text())
        assert receipt["quantize"] == "same"
        assert receipt["resolved"]["documents"][-1]["quantize"] == "same"
        assert SCALE in receipt["inputs"]["a"]["tensors"]
        assert not reproduce(tmp_path / name, tmp_path / f"{name}-again").differences
        assert not verify(tmp_path / name)


def test_a_base_that_is_not_quantised(tmp_path):
    """There is nothing to do as."""
    write_model(tmp_path / "a", {NAME: np.ones((4, 4), np.float32)}, config={})
    with pytest.raises(PlanError, match="not in 8-bit floats") as caught:
        sp.plan(sp.open(tmp_path / "a"), quantize="same")
    assert "base_model" in caught.value.problems[0].fix


def test_an_unknown_way(tmp_path):
    """There is only one."""
    write_fp8(tmp_path / "a", np.random.default_rng(0), {NAME: (4, 4)})
    with pytest.raises(PlanError, match="unknown way to quantize"):
        sp.plan(sp.open(tmp_path / "a"), quantize="int4")


def test_quantize_of_a_document_that_is_not_written(tmp_path):
    """It would be ignored: an error."""
    text = (
        "name: x\nmerge_method: linear\nmodels: [{model: a}]\nquantize: same\n---\n"
        "merge_method: linear\nmodels: [{model: x}]\n"
    )
    (tmp_path / "r.yml").write_text(text)
    with pytest.raises(sp.RecipeError, match="not the result"):
        sp.plan(tmp_path / "r.yml")


def test_a_plain_model_on_a_quantised_base(tmp_path):
    """Models in bfloat16 and in 8-bit floats merge with each other."""
    rng = np.random.default_rng(10)
    a = write_fp8(tmp_path / "a", rng, {NAME: (200, 140)})
    plain = {NAME: rng.standard_normal((200, 140)).astype(BF16), "model.norm.weight": a["model.norm.weight"]}
    write_model(tmp_path / "b", plain, config={"model_type": "llama"})
    out = mean(tmp_path)
    exact = (values(a[NAME], a[SCALE], BLOCK) + plain[NAME].astype(np.float64)) / 2
    weight, scales = quantised(exact, BLOCK)
    assert (out[NAME].tobytes(), out[SCALE].tobytes()) == (weight.tobytes(), scales.tobytes())


@pytest.mark.parametrize("how", [(), ("--quantize", "same")], ids=["bfloat16", "same"])
def test_memory_stays_within_the_plan(tmp_path, how):
    """With the smallest budget that the plan accepts: stripes of 128 long rows are the largest thing held."""
    rng = np.random.default_rng(11)
    row = rng.standard_normal((128, 9000)).astype(np.float32)
    weight, scale = quantised(row, BLOCK)
    for name in "ab":
        arrays = {NAME: np.tile(weight, (16, 1)), SCALE: np.tile(scale, (16, 1))}
        write_model(tmp_path / name, arrays, config=fp8_config())
    recipe = tmp_path / "r.yml"
    recipe.write_text(f"merge_method: linear\nmodels: [{{model: {tmp_path}/a}}, {{model: {tmp_path}/b}}]\n")
    stockpot("merge", recipe, tmp_path / "first", "--quiet", *how)  # kernels are compiled
    memory = least(recipe, *how)
    done = stockpot("merge", recipe, tmp_path / "out", "--memory", memory, "--threads", 2, *how)
    assert done.code == 0, done.errors
    assert done.peak <= memory, (done.peak / MIB, memory / MIB)
