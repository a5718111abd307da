"""Quantised inputs and outputs in use: loaded by transformers, continued, compared, with adapters."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ggufs import tiny, write_gguf
from scaled import BF16, fp8_config, quantised, values, write_fp8

import stockpot as sp
from files import read_model, write_model
from measured import stockpot
from stockpot.execute.journal import Journal

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

NAMES = tuple(f"model.layers.{i}.mlp.up_proj.weight" for i in range(3))


def test_transformers_loads_what_is_requantised(tmp_path):
    """Without missing or unexpected keys; its own dequantised weights are those that are written in bfloat16."""
    model = tiny("llama", hidden_size=256, intermediate_size=384, head_dim=64)
    arrays = {}
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        if "_proj" in name:
            arrays[name], arrays[name + "_scale_inv"] = quantised(array.astype(np.float64), (128, 128))
        else:
            arrays[name] = array.astype(BF16)
    config = json.loads(model.config.to_json_string()) | fp8_config() | {"architectures": ["LlamaForCausalLM"]}
    write_model(tmp_path / "m", config=config, arrays=arrays)
    merged = sp.linear(sp.open(tmp_path / "m"), sp.open(str(tmp_path / "m") + "/"))
    sp.save(merged, tmp_path / "fp8", quantize="same")
    sp.save(merged, tmp_path / "bf16")
    states = []
    for name in ("fp8", "bf16"):
        loaded, told = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name, output_loading_info=True)
        assert not any(told.values()), told
        states.append(loaded.state_dict())
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[1].items():
        assert torch.equal(states[0][name].to(torch.bfloat16), tensor), name


def fp8_scene(folder):
    rng = np.random.default_rng(1)
    for name in "ab":
        write_fp8(folder / name, rng, dict.fromkeys(NAMES, (200, 150)))
    return sp.slerp(sp.open(folder / "a"), sp.open(folder / "b"), t=0.3), {"quantize": "same"}


def gguf_scene(folder):
    paths = [write_gguf(folder / f"{s}.gguf", tiny("llama", seed=s), "llama", "Q4_0") for s in range(2)]
    return sp.slerp(*map(sp.open, paths), t=0.3), {}


@pytest.mark.parametrize("scene", [fp8_scene, gguf_scene], ids=["fp8", "gguf"])
def test_a_merge_that_was_broken_off_continues(scene, tmp_path, monkeypatch):
    """What was finished is kept, and all bytes are as if nothing had happened."""
    merged, options = scene(tmp_path)
    whole = sp.save(merged, tmp_path / "whole", threads=1, **options)
    real, calls = Journal.finished, []

    def finished(self, *arguments):
        real(self, *arguments)
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "finished", finished)
        with pytest.raises(KeyboardInterrupt):
            sp.save(merged, tmp_path / "out", threads=1, **options)
    again = sp.save(merged, tmp_path / "out", threads=1, **options)
    assert again.resumed == 3
    assert again.receipt == whole.receipt
    one, other = (read_model(tmp_path / n) for n in ("whole", "out"))
    assert all(one[n].tobytes() == other[n].tobytes() for n in one)


def test_an_input_that_changes_is_noticed(tmp_path):
    """A scale that changed since is a difference when the inputs are verified."""
    merged, options = fp8_scene(tmp_path)
    sp.save(merged, tmp_path / "out", **options)
    assert stockpot("verify", tmp_path / "out", "--inputs").code == 0
    arrays = read_model(tmp_path / "a")
    changed = dict(arrays)
    changed[NAMES[0] + "_scale_inv"] = arrays[NAMES[0] + "_scale_inv"] * 2
    write_model(tmp_path / "a", changed, config=fp8_config())
    told = stockpot("verify", tmp_path / "out", "--inputs")
    assert told.code == 1
    assert NAMES[0] + "_scale_inv" in told.out + told.errors


def test_diff_compares_values(tmp_path):
    """Of an 8-bit model and its values in bfloat16 the distance is that of rounding, not that of the codes."""
    arrays = write_fp8(tmp_path / "a", np.random.default_rng(2), {NAMES[0]: (200, 150)})
    sp.save(sp.open(tmp_path / "a"), tmp_path / "b")
    rows = {r["name"]: r for r in json.loads(stockpot("diff", tmp_path / "a", tmp_path / "b", "--json").out)["tensors"]}
    assert rows.keys() == {NAMES[0], "model.norm.weight"}
    exact = values(arrays[NAMES[0]], arrays[NAMES[0] + "_scale_inv"], (128, 128))
    rounded = read_model(tmp_path / "b")[NAMES[0]].astype(np.float64)
    wanted = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert rows[NAMES[0]]["distance"] == pytest.approx(wanted, rel=1e-9)
    assert not rows[NAMES[0]]["identical"]


def adapter(folder, rows, columns, name):
    rng = np.random.default_rng(3)
    folder.mkdir()
    stem = f"base_model.model.{name.removesuffix('.weight')}"
    a, b = rng.standard_normal((2, columns)).astype(np.float32), rng.standard_normal((rows, 2)).astype(np.float32)
    write_model(folder, {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b})
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["up_proj"]})
    )
    return 2.0 * b.astype(np.float64) @ a.astype(np.float64)


def test_an_adapter_on_an_8_bit_model(tmp_path):
    """Is added to the values; how large it is beside them, lora inspect tells."""
    arrays = write_fp8(tmp_path / "a", np.random.default_rng(2), {NAMES[0]: (200, 150)})
    change = adapter(tmp_path / "x", 200, 150, NAMES[0])
    exact = values(arrays[NAMES[0]], arrays[NAMES[0] + "_scale_inv"], (128, 128))
    found = sp.compute(sp.open(tmp_path / "a", adapter=tmp_path / "x"), dtype="float64")[NAMES[0]]
    assert np.allclose(found, exact + change, rtol=1e-12)
    told = stockpot("lora", "inspect", tmp_path / "x", "--base", tmp_path / "a", "--json")
    assert told.code == 0, told.errors
    (module,) = json.loads(told.out)["modules"]
    assert module["relative"] == pytest.approx(np.linalg.norm(change) / np.linalg.norm(exact), rel=1e-6)


def test_an_adapter_on_a_gguf_model(tmp_path):
    """Its names are transformers', and queries are in transformers' order."""
    model = tiny("llama")
    path = write_gguf(tmp_path / "m.gguf", model, "llama")
    name = "model.layers.1.self_attn.q_proj.weight"
    change = adapter(tmp_path / "x", 64, 64, name)
    found = sp.compute(sp.open(path, adapter=tmp_path / "x"), dtype="float64")[name]
    assert np.allclose(found, model.state_dict()[name].double().numpy() + change, rtol=1e-12)


def test_inspect_tells_what_is_dequantised(tmp_path):
    """Parameters are the model's, scales left out; a model that cannot be merged is told as such."""
    write_fp8(tmp_path / "a", np.random.default_rng(2), {NAMES[0]: (200, 150)})
    data = json.loads(stockpot("inspect", tmp_path / "a", "--json").out)
    assert data["parameters"] == "30,064"
    assert data["dequantised"] == "1 as bfloat16"
    write_model(tmp_path / "g", {"a": np.ones(3, np.int32)}, config={"quantization_config": {"quant_method": "gptq"}})
    assert "gptq" in json.loads(stockpot("inspect", tmp_path / "g", "--json").out)["unfit"]
