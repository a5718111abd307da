"""GGUF files as models: names, order, values and config are those that the model had in transformers."""

from __future__ import annotations

import json

import gguf
import numpy as np
import pytest
from ggufs import NAMES, add, tensors_of, tiny, write_gguf

import stockpot as sp
from files import read_model
from measured import MIB, least, stockpot
from stockpot.checkpoint.gguf.types import GGML_TYPES, type_number
from stockpot.checkpoint.open import open_checkpoint
from stockpot.errors import CheckpointError, ExecutionError, PlanError, UnsupportedError
from stockpot.execute.reproduce import reproduce
from stockpot.execute.verify import verify
from stockpot.planning.coded import PIECE

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PACKED = [dtype for dtype in GGML_TYPES.values() if dtype.kind == "packed"]


@pytest.fixture(scope="module")
def models():
    return {arch: tiny(arch) for arch in NAMES}


def loaded(folder):
    """The model that transformers loads from a folder, without a missing or unexpected key."""
    model, told = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager", dtype=torch.float32
    )
    assert not any(told.values()), told
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(torch.arange(3, 40)[None]).logits


@pytest.mark.parametrize("arch", NAMES)
def test_a_model_comes_back_from_gguf(arch, models, tmp_path):
    """Written as GGUF in float32 and merged alone, it has the same tensors and gives the same logits."""
    model = models[arch]
    path = write_gguf(tmp_path / "m.gguf", model, arch)
    sp.save(sp.open(path), tmp_path / "out")
    own = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del own["lm_head.weight"]
    found = read_model(tmp_path / "out")
    assert found.keys() == own.keys()
    for name, array in own.items():
        if arch.startswith("gemma") and name.endswith("norm.weight"):
            assert np.array_equal(found[name], (array + np.float32(1)) - 1.0)  # what the converter has added
        else:
            assert found[name].tobytes() == array.tobytes(), name
    back = loaded(tmp_path / "out")
    assert torch.allclose(logits(back), logits(model), atol=1e-6)


@pytest.mark.parametrize("arch", [arch for arch in NAMES if arch != "qwen3"])
def test_values_are_those_that_transformers_reads(arch, models, tmp_path):
    """Its own reading of GGUF gives the same float32 tensors, packed ones included.

    Of Qwen3 it does not take the size of a head from a file, so that it cannot load this one.
    """
    path = write_gguf(tmp_path / "m.gguf", models[arch], arch, "Q8_0")
    found = sp.compute(sp.open(path), dtype="float32")
    wanted = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    for name, tensor in wanted.state_dict().items():
        if name in found:
            assert found[name].tobytes() == tensor.numpy().tobytes(), name


@pytest.mark.parametrize("dtype", PACKED, ids=lambda dtype: dtype.code)
def test_every_packed_format(dtype, tmp_path):
    """Of random bytes each format gives what the gguf package makes of them as a whole, whatever the pieces are."""
    kind = gguf.GGMLQuantizationType(type_number(dtype))
    assert gguf.GGML_QUANT_SIZES[kind] == (dtype.per, dtype.bits // 8)
    columns = 3 * 256
    rows = -(-2 * PIECE // columns) + 1
    raw = np.random.default_rng(3).integers(0, 256, (rows, columns // dtype.per, dtype.bits // 8), np.uint8)
    raw = _tamed(raw, kind)
    with np.errstate(all="ignore"):
        wanted = gguf.quants.dequantize(raw.reshape(rows, -1), kind)
    assert np.isfinite(wanted).all()
    _write(tmp_path / "m.gguf", raw.reshape(rows, -1), kind)
    found = sp.compute(sp.open(tmp_path / "m.gguf"), dtype="float32")
    assert np.array_equal(found["model.layers.0.mlp.up_proj.weight"], wanted)


def _tamed(raw, kind):
    """Random groups whose scales are finite: no half of all ones in the exponent."""
    if kind != gguf.GGMLQuantizationType.MXFP4:
        half = raw.view(np.uint16)
        half[(half & 0x7C00) == 0x7C00] &= 0x03FF
    if kind == gguf.GGMLQuantizationType.IQ1_M:
        raw[..., 48:] &= 0x3F  # its scale is spread over four words
    if kind == gguf.GGMLQuantizationType.MXFP4:
        raw[..., 0] = 120 + raw[..., 0] % 16
    return raw


def _write(path, raw, kind, arch="llama", **more):
    """A GGUF file of one tensor, with a config beside it."""
    (path.parent / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 1}')
    out = gguf.GGUFWriter(path, arch)
    for add_one, value in {out.add_block_count: 1, out.add_head_count: 4, **more}.items():
        add_one(value)
    out.add_tensor("blk.0.ffn_up.weight", raw, raw_dtype=kind)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "Q8_0"])
def test_formats_and_heads_together(kind, models, tmp_path):
    """Queries and keys are put into order whatever they are packed in."""
    path = write_gguf(tmp_path / "m.gguf", models["llama"], "llama", kind)
    found = sp.compute(sp.open(path), dtype="float64")
    reader = {t.name: t for t in gguf.GGUFReader(path).tensors}
    for part, heads in (("q", 4), ("k", 2)):
        tensor = reader[f"blk.1.attn_{part}.weight"]
        stored = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
        wanted = stored.reshape(heads, -1, 2, 64).swapaxes(1, 2).reshape(-1, 64)
        assert np.array_equal(found[f"model.layers.1.self_attn.{part}_proj.weight"], wanted)


def test_dtypes_of_the_output(models, tmp_path):
    """Packed tensors become bfloat16, others keep their dtype, unless the recipe says one."""
    path = write_gguf(tmp_path / "m.gguf", models["llama"], "llama", "Q8_0")
    found = sp.compute(sp.open(path))
    assert {str(a.dtype) for n, a in found.items() if a.ndim == 2} == {"bfloat16"}
    assert {str(a.dtype) for n, a in found.items() if a.ndim == 1} == {"float32"}
    assert {str(a.dtype) for a in sp.compute(sp.open(path), dtype="float16").values()} == {"float16"}


def test_gguf_and_safetensors_merge(models, tmp_path):
    """Config and tokenizer come from the model that has them, though the GGUF file is the base."""
    model = models["llama"]
    path = write_gguf(tmp_path / "m.gguf", model, "llama")
    model.save_pretrained(tmp_path / "own")
    (tmp_path / "own/tokenizer.json").write_text("{}")
    plan = sp.plan(sp.linear(sp.open(path), sp.open(tmp_path / "own")))
    assert "tokenizer.json" in dict(plan.sidecars)
    assert not any("metadata" in note.message for note in plan.notes)
    found = sp.compute(sp.linear(sp.open(path), sp.open(tmp_path / "own")))
    assert all(found[n].tobytes() == t.numpy().tobytes() for n, t in model.state_dict().items())


def test_alone_it_is_told_that_there_is_no_tokenizer(models, tmp_path):
    """And that the config is made from the metadata."""
    path = write_gguf(tmp_path / "m.gguf", models["llama"], "llama")
    (note,) = sp.plan(sp.open(path)).notes
    assert "no tokenizer" in note.message
    config = json.loads(dict(sp.plan(sp.open(path)).sidecars)["config.json"])
    assert config["rms_norm_eps"] == 1e-5
    assert (config["num_key_value_heads"], config["vocab_size"]) == (2, 96)


def test_a_config_beside_the_file_is_taken(models, tmp_path):
    """Where it is whole; one that names the type alone is not."""
    path = write_gguf(tmp_path / "m.gguf", models["llama"], "llama")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert open_checkpoint(str(path)).config["hidden_size"] == 64
    models["llama"].config.save_pretrained(tmp_path)
    assert open_checkpoint(str(path)).config == json.loads((tmp_path / "config.json").read_text())
    assert open_checkpoint(str(tmp_path)).config == json.loads((tmp_path / "config.json").read_text())


def test_a_model_in_parts(models, tmp_path):
    """By any of its files, or by their folder; a part that is missing or misnamed is told."""
    write_gguf(tmp_path / "m.gguf", models["llama"], "llama", split=8)
    parts = sorted(tmp_path.glob("*.gguf"))
    assert len(parts) == 3
    whole = {n: a.tobytes() for n, a in sp.compute(sp.open(tmp_path)).items()}
    assert {n: a.tobytes() for n, a in sp.compute(sp.open(parts[1])).items()} == whole
    assert len(whole) == len(models["llama"].state_dict())
    moved = tmp_path / "m-00004-of-00003.gguf"
    parts[2].rename(moved)
    with pytest.raises(CheckpointError, match="no such file"):
        open_checkpoint(str(parts[0]))
    moved.rename(parts[2])
    parts[0].rename(moved)
    parts[1].rename(parts[0])
    moved.rename(parts[1])
    with pytest.raises(CheckpointError, match="says to be part 1 of 3"):
        open_checkpoint(str(parts[0]))


def test_several_files_in_a_folder(models, tmp_path):
    """Which one is meant cannot be guessed."""
    for name in ("m-Q8_0", "m-F16"):
        write_gguf(tmp_path / f"{name}.gguf", models["llama"], "llama", name[2:])
    with pytest.raises(CheckpointError, match="several GGUF files"):
        open_checkpoint(str(tmp_path))
    assert open_checkpoint(str(tmp_path / "m-F16.gguf")).tensors


def test_an_unknown_architecture(tmp_path):
    """Is refused by name, and can be looked at."""
    raw = np.zeros((4, 32), np.float32)
    _write(tmp_path / "m.gguf", raw, gguf.GGMLQuantizationType.F32, arch="falcon")
    with pytest.raises(CheckpointError, match="'falcon' are not known") as caught:
        sp.plan(sp.open(tmp_path / "m.gguf"))
    assert "qwen3" in caught.value.problems[0].fix
    assert list(open_checkpoint(str(tmp_path / "m.gguf")).tensors) == ["blk.0.ffn_up.weight"]


def test_a_tensor_that_the_family_does_not_have(models, tmp_path, monkeypatch):
    """Nothing is dropped: experts and the like are refused by name."""
    import ggufs

    monkeypatch.setattr(
        ggufs, "tensors_of", lambda m, a: tensors_of(m, a) | {"blk.0.ffn_gate_inp.weight": np.zeros((4, 64))}
    )
    path = write_gguf(tmp_path / "m.gguf", models["llama"], "llama")
    with pytest.raises(CheckpointError, match="no such tensor") as caught:
        sp.plan(sp.open(path))
    assert caught.value.problems[0].tensor == "blk.0.ffn_gate_inp.weight"


def test_positions_as_llama_3_scales_them(models, tmp_path, monkeypatch):
    """Known from the factors in the file; others are refused where the config would have to tell them."""
    import ggufs

    scaling = {
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    model = tiny("llama", rope_parameters=scaling | {"rope_theta": 500000.0}, max_position_embeddings=131072)
    plain = 1 / 500000.0 ** (np.arange(0, 16, 2) / 16)
    factors = (plain / model.model.rotary_emb.inv_freq.double().numpy()).astype(np.float32)
    assert factors.max() == 32
    monkeypatch.setattr(ggufs, "tensors_of", lambda m, a: tensors_of(m, a) | {"rope_freqs.weight": factors})
    path = write_gguf(tmp_path / "m.gguf", model, "llama")
    sp.save(sp.open(path), tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["rope_scaling"] == scaling
    assert torch.allclose(logits(loaded(tmp_path / "out")), logits(model), atol=1e-6)
    factors[3] += 1
    path = write_gguf(tmp_path / "other.gguf", model, "llama")
    with pytest.raises(PlanError, match="rope_freqs"):
        sp.plan(sp.open(path))


def test_gemma_3_with_scaled_positions(tmp_path, monkeypatch):
    """The scaling is that of full attention alone."""
    import ggufs

    full = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}
    local = {"rope_type": "default", "rope_theta": 1e4}
    model = tiny("gemma3", num_hidden_layers=6, rope_parameters={"full_attention": full, "sliding_attention": local})

    class Writer(gguf.GGUFWriter):
        def write_header_to_file(self, *arguments):
            self.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            self.add_rope_scaling_factor(8.0)
            super().write_header_to_file(*arguments)

    monkeypatch.setattr(ggufs.gguf, "GGUFWriter", Writer)
    path = write_gguf(tmp_path / "m.gguf", model, "gemma3")
    sp.save(sp.open(path), tmp_path / "out")
    assert torch.allclose(logits(loaded(tmp_path / "out")), logits(model), atol=1e-6)


def test_without_the_gguf_package(models, tmp_path, monkeypatch):
    """Packed formats need it, which is told before anything is written; plain ones do not."""
    monkeypatch.setattr("stockpot.planning.quantising.find_spec", lambda _: None)
    path = write_gguf(tmp_path / "m.gguf", models["llama"], "llama", "Q8_0")
    with pytest.raises(UnsupportedError, match="Q8_0, which needs the gguf package") as caught:
        sp.plan(sp.open(path))
    assert caught.value.problems[0].fix == "pip install 'stockpot[gguf]'"
    assert sp.plan(sp.open(write_gguf(tmp_path / "f.gguf", models["llama"], "llama", "F16"))).steps


def test_a_group_that_is_not_finite(tmp_path):
    """Is told with its place."""
    raw = np.zeros((2, 34), np.uint8)
    raw[1, :2] = np.array([0x7E00], np.uint16).view(np.uint8)
    _write(tmp_path / "m.gguf", raw, gguf.GGMLQuantizationType.Q8_0)
    with pytest.raises(ExecutionError, match=r"not finite at \[1, 0\]") as caught:
        sp.compute(sp.open(tmp_path / "m.gguf"))
    assert caught.value.problems[0].file.endswith("m.gguf")


def test_verbs(models, tmp_path):
    """inspect, merge, verify, diff and reproduce take GGUF files; the receipt names the file and its tensors."""
    path = write_gguf(tmp_path / "m.gguf", models["llama"], "llama", "Q8_0")
    other = write_gguf(tmp_path / "n.gguf", tiny("llama", seed=1), "llama", "Q4_0")
    seen = stockpot("inspect", path, "--json", "--hash")
    assert seen.code == 0, seen.errors
    assert json.loads(seen.out)["dtypes"] == "Q8_0 (16), F32 (5)"
    recipe = tmp_path / "r.yml"
    recipe.write_text(f"merge_method: linear\nmodels: [{{model: {path}}}, {{model: {other}}}]\n")
    done = stockpot("merge", recipe, tmp_path / "out", "--quiet")
    assert done.code == 0, done.errors
    receipt = json.loads((tmp_path / "out/stockpot-receipt.json").read_text())
    hashes = {row["name"]: row["hash"] for row in json.loads(seen.out)["tensors"]}
    assert receipt["inputs"][str(path)]["tensors"] == hashes
    assert not reproduce(tmp_path / "out", tmp_path / "again").differences
    assert not verify(tmp_path / "out")
    assert stockpot("verify", tmp_path / "out", "--inputs").code == 0
    told = stockpot("diff", path, path)
    assert (told.code, "identical" in told.out) == (0, True)
    assert stockpot("diff", path, other).code == 1


@pytest.mark.parametrize("threads", [1, 3], ids=str)
def test_bytes_do_not_depend_on_threads(models, tmp_path, threads):
    """Of a method with passes, over heads in order and packed groups."""
    paths = [write_gguf(tmp_path / f"{s}.gguf", tiny("llama", seed=s), "llama", "Q8_0") for s in range(3)]
    base, a, b = map(sp.open, paths)
    merged = base + sp.ties(a - base, b - base, density=0.3)
    one, other = (sp.compute(merged, threads=t) for t in (2, threads))
    assert all(one[n].tobytes() == other[n].tobytes() for n in one)


@pytest.mark.parametrize("kind", ["IQ2_S", "Q4_K"])
def test_memory_stays_within_the_plan(tmp_path, kind):
    """With the smallest budget that the plan accepts, of the format that takes most to unpack and a usual one."""
    number = gguf.GGMLQuantizationType[kind]
    per, size = gguf.GGML_QUANT_SIZES[number]
    raw = np.zeros((4096, 2048 // per * size), np.uint8)
    for name in "ab":
        _write(tmp_path / f"{name}.gguf", raw, number)
    recipe = tmp_path / "r.yml"
    recipe.write_text(f"merge_method: linear\nmodels: [{{model: {tmp_path}/a.gguf}}, {{model: {tmp_path}/b.gguf}}]\n")
    stockpot("merge", recipe, tmp_path / "first", "--quiet")
    memory = least(recipe)
    done = stockpot("merge", recipe, tmp_path / "out", "--memory", memory, "--threads", 2)
    assert done.code == 0, done.errors
    assert done.peak <= memory, (done.peak / MIB, memory / MIB)


def test_helpers_write_what_they_say(tmp_path):
    """The tests' own files agree with the gguf package's reader."""
    out = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    add(out, "x.weight", np.arange(64, dtype=np.float32).reshape(2, 32), "Q8_0")
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    (tensor,) = gguf.GGUFReader(tmp_path / "m.gguf").tensors
    assert tensor.tensor_type == gguf.GGMLQuantizationType.Q8_0
