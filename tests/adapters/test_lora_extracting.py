"""``stockpot lora extract`` and ``resize``: the best adapter of a rank, and nothing that has changed is lost."""

from __future__ import annotations

import json

import numpy as np
import pytest
from adapting import ROOT, factors, write_adapter, write_base
from making import apart, changes, made, refused, some_adapter

from files import read_file, read_model, write_file, write_model
from stockpot.execute.verify import verify
from stockpot.provenance.ancestry import lineage

Q0, UP1 = "model.layers.0.q_proj.weight", "model.layers.1.up_proj.weight"
CONFIG = {"model_type": "llama", "tie_word_embeddings": False, "architectures": ["LlamaForCausalLM"]}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A base."""
    monkeypatch.chdir(tmp_path)
    write_base(tmp_path / "base", architectures=["LlamaForCausalLM"])
    return tmp_path


def tuned(place, names, *, scale=0.1, more=None):
    """A model that differs from the base in those tensors; returns the differences."""
    rng = np.random.default_rng(8)
    base = read_model(place / "base")
    arrays = {n: v + scale * rng.normal(size=v.shape).astype(np.float32) if n in names else v for n, v in base.items()}
    write_model(place / "tuned", arrays | (more or {}), config=CONFIG)
    return {n: arrays[n].astype(float) - base[n] for n in names}


@pytest.mark.parametrize("name", [Q0, UP1, "model.layers.0.conv.weight"])
def test_factors_are_the_best_of_that_rank(place, capsys, name):
    """The error of each module is that of the truncated SVD, told and true."""
    (delta,) = tuned(place, [name]).values()
    told = made("extract", "tuned", "base", "out", "--rank=3", capsys=capsys)
    flat = delta.reshape(delta.shape[0], -1)
    s = np.linalg.svd(flat, compute_uv=False)
    (row,) = told["modules"]
    assert (row["module"] + ".weight", row["rank"]) == (name, 3)
    assert row["error"] == pytest.approx(np.sqrt(np.sum(s[3:] ** 2) / np.sum(s**2)), rel=1e-6)
    lost = np.linalg.norm(changes(place / "out")[name] - delta) / np.linalg.norm(delta)
    assert row["error"] == pytest.approx(lost, rel=1e-4)
    config = json.loads((place / "out" / "adapter_config.json").read_text())
    assert (config["task_type"], config["base_model_name_or_path"]) == ("CAUSAL_LM", "base")
    assert verify(place / "out") == ()
    assert {p.label for p in lineage(place / "out").parents} == {"tuned", "base"}


def test_everything_that_changed_comes_back(place):
    """Matrices at the full rank, the others whole: folding gives the tuned model."""
    tuned(place, read_model(place / "base"))
    made("extract", "tuned", "base", "out", "--energy=1")
    made("fold", "base", "out", "folded")
    wanted, found = read_model(place / "tuned"), read_model(place / "folded")
    assert wanted.keys() == found.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5, err_msg=name)
        if values.ndim == 1 or "embed" in name or "head" in name:
            assert found[name].tobytes() == values.tobytes()


def test_what_did_not_change_is_not_in_it(place):
    """No factors of zeros, no copies."""
    tuned(place, [UP1, "model.norm.weight"])
    made("extract", "tuned", "base", "out", "--rank=2")
    names = set(read_file(place / "out" / "adapter_model.safetensors"))
    start = ROOT + "model.layers.1.up_proj"
    assert names == {f"{start}.lora_A.weight", f"{start}.lora_B.weight", ROOT + "model.norm.weight"}


def test_include_exclude_and_embeddings_as_factors(place, capsys):
    """Regular expressions choose; an embedding that is included gets an embedding's factors."""
    tuned(place, [Q0, UP1, "model.embed_tokens.weight"])
    how = ("--rank=4", "--include=embed_tokens|up_proj", "--drop=q_proj")
    told = made("extract", "tuned", "base", "out", *how, capsys=capsys)
    assert [m["module"] for m in told["modules"]] == ["model.embed_tokens", "model.layers.1.up_proj"]
    assert list(told["dropped"]) == [Q0]
    names = {n.removeprefix(ROOT): v.shape for n, v in read_file(place / "out" / "adapter_model.safetensors").items()}
    assert names["model.embed_tokens.lora_embedding_A"] == (4, 20)
    made("fold", "base", "out", "folded")


@pytest.mark.parametrize(
    ("names", "arguments", "word"),
    [
        ([Q0], ["--exclude=q_proj"], "weights"),
        (["model.norm.weight"], ["--save-modules=none"], "norms"),
        (["lm_head.weight"], ["--save-modules=norms"], "heads"),
        (["model.embed_tokens.weight"], ["--save-modules=norms,heads"], "embeddings"),
        (["model.layers.0.q_proj.bias"], ["--save-modules=norms"], "biases"),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_nothing_that_changed_is_lost(place, capsys, names, arguments, word):
    """What is neither factorised nor stored is an error by name, with its norm; --drop allows it and tells."""
    (delta,) = tuned(place, names).values()
    told = refused(capsys, "extract", "tuned", "base", "out", "--rank=2", *arguments)
    assert names[0] in told
    assert f"norm {np.linalg.norm(delta):.4g}" in told
    assert word in told
    assert not (place / "out").exists()
    norm = np.linalg.norm(tuned(place, [*names, UP1])[names[0]])
    how = ("extract", "tuned", "base", "out", "--rank=2", *arguments, f"--drop=^{names[0]}$")
    assert made(*how, capsys=capsys)["dropped"][names[0]] == pytest.approx(norm)


def test_integers_that_changed_and_parameters_without_a_module(place, capsys):
    """No adapter can hold them: errors by name."""
    base = read_model(place / "base")
    more = {"model.table": np.arange(4, dtype=np.int64), "model.layers.0.scale": np.ones(3, np.float32)}
    write_model(place / "base", base | more, config=CONFIG)
    changed = {"model.table": more["model.table"] + 1, "model.layers.0.scale": 2 * more["model.layers.0.scale"]}
    write_model(place / "tuned", base | changed, config=CONFIG)
    told = refused(capsys, "extract", "tuned", "base", "out", "--rank=2")
    assert "model.table" in told
    assert "model.layers.0.scale" in told


def test_integers_that_one_model_lacks(place, capsys):
    """Only those that the tuned model has beside are a change."""
    base = read_model(place / "base")
    table = {"model.table": np.arange(4, dtype=np.int64)}
    write_model(place / "tuned", base | {UP1: base[UP1] + 1} | table, config=CONFIG)
    assert "model.table" in refused(capsys, "extract", "tuned", "base", "out", "--rank=2")
    write_model(place / "tuned", base | {UP1: base[UP1] + 1}, config=CONFIG)
    write_model(place / "base", base | table, config=CONFIG)
    made("extract", "tuned", "base", "out", "--rank=2")


def test_an_adapter_has_the_names_and_the_layout_of_its_base(place, capsys):
    """Experts that the tuned model stores in one tensor are factorised one by one where the base has them so."""
    rng = np.random.default_rng(3)
    stem = "model.layers.0.mlp.experts"
    shapes = {"gate_proj": (6, 4), "up_proj": (6, 4), "down_proj": (4, 6)}
    alone = {
        f"{stem}.{i}.{n}.weight": rng.normal(size=s).astype(np.float32) for i in range(2) for n, s in shapes.items()
    }
    write_model(place / "base", alone, config=CONFIG)
    moved = {n: v + rng.normal(size=v.shape).astype(np.float32) for n, v in alone.items()}
    write_model(place / "separate", moved, config=CONFIG)
    gates = [np.concatenate([moved[f"{stem}.{i}.{n}.weight"] for n in ("gate_proj", "up_proj")]) for i in range(2)]
    downs = [moved[f"{stem}.{i}.down_proj.weight"] for i in range(2)]
    fused = {f"{stem}.gate_up_proj": np.stack(gates), f"{stem}.down_proj": np.stack(downs)}
    write_model(place / "fused", fused, config=CONFIG)
    for name in ("separate", "fused"):
        made("extract", name, "base", f"of-{name}", "--rank=4")
    one, other = (read_file(place / f"of-{name}" / "adapter_model.safetensors") for name in ("separate", "fused"))
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[n], other[n]) for n in one)


def test_a_base_that_is_a_part_of_the_tuned_model(place, capsys):
    """No adapter on a language model holds the towers of a model that has it inside; the other way round one does."""
    base = read_model(place / "base")
    inside = {f"language_model.{n}": v + np.float32(0.5) * (n == Q0) for n, v in base.items()}
    write_model(
        place / "larger", inside | {"vision_tower.layers.0.w.weight": np.ones((3, 3), np.float32)}, config=CONFIG
    )
    told = refused(capsys, "extract", "larger", "base", "out", "--rank=2")
    assert "larger has base inside and more beside it" in told
    assert not (place / "out").exists()
    made("extract", "base", "larger", "out", "--rank=1")
    (name,) = changes(place / "out")
    assert name == f"language_model.{Q0}"


def test_one_component_of_a_pipeline(place, capsys):
    """PEFT knows no names with folders: the whole pipeline is refused, what is left out is not asked for."""
    for folder, seed in (("before", 0), ("now", 1)):
        for part in ("unet", "vae"):
            arrays = {"up.weight": np.random.default_rng(seed).normal(size=(4, 4)).astype(np.float32)}
            write_file(place / folder / part / "diffusion_pytorch_model.safetensors", arrays)
        index = {"_class_name": "P", "unet": ["diffusers", "U"], "vae": ["diffusers", "V"]}
        (place / folder / "model_index.json").write_text(json.dumps(index))
    told = refused(capsys, "extract", "now", "before", "out", "--rank=1")
    assert "several components" in told
    assert "unet/up.weight" in told
    made("extract", "now/unet", "before/unet", "out", "--rank=1")
    assert set(changes(place / "out")) == {"up.weight"}


def test_expressions_and_randomised_factors(place, capsys):
    """Both may be MODEL+ADAPTER; the difference of two adapters on one base has their ranks."""
    some = {"layers.0.q_proj": (300, 280)}
    write_base(place / "big", shapes={f"{n}.weight": s for n, s in some.items()})
    for seed, name in enumerate("ab"):
        write_adapter(place / name, factors(np.random.default_rng(seed), "layers.0.q_proj", 300, 280))
    told = made("extract", "big+a", "big+b", "out", "--rank=8", capsys=capsys)
    assert told["retained"] == pytest.approx(1.0, abs=1e-9)
    a, b = (changes(place / n) for n in "ab")
    assert apart(changes(place / "out"), {n: a[n] - b[n] for n in a}) < 1e-5
    made("extract", "big+a", "big", "again", "--rank=2", "--threads=1")
    made("extract", "big+a", "big", "more", "--rank=2", "--threads=3")
    one, other = ((place / n / "adapter_model.safetensors").read_bytes() for n in ("again", "more"))
    assert one == other


def test_a_square_weight_of_two_conventions(place, capsys):
    """Where biases say that a model stores matrices both ways, a square one is refused; excluded, it is not asked."""
    shapes = {"c_attn.weight": (6, 18), "c_attn.bias": (18,), "fc.weight": (9, 6), "fc.bias": (9,)}
    write_base(place / "base", shapes=shapes | {"sq.weight": (6, 6), "sq.bias": (6,)})
    tuned(place, ["c_attn.weight", "sq.weight"])
    assert "sq.weight" in refused(capsys, "extract", "tuned", "base", "out", "--rank=2")
    made("extract", "tuned", "base", "out", "--rank=2", "--exclude=fc|sq", "--drop=sq")
    assert read_file(place / "out" / "adapter_model.safetensors")[ROOT + "c_attn.lora_A.weight"].shape == (2, 6)


def test_what_extract_refuses(place, capsys):
    """Other shapes and names, nothing changed, bad patterns and numbers: by name, and nothing is left."""
    base = read_model(place / "base")
    how = ("extract", "tuned", "base", "out")
    write_model(place / "tuned", base, config=CONFIG)
    assert "nothing has changed" in refused(capsys, *how, "--rank=2")
    write_model(place / "tuned", base | {"model.embed_tokens.weight": np.zeros((21, 12), np.float32)}, config=CONFIG)
    assert "model.embed_tokens.weight" in refused(capsys, *how, "--rank=2")
    write_model(place / "tuned", {n: v for n, v in base.items() if n != Q0}, config=CONFIG)
    assert Q0 in refused(capsys, *how, "--rank=2")
    bad = base[Q0].copy()
    bad[3, 4] = np.nan
    write_model(place / "tuned", base | {Q0: bad}, config=CONFIG)
    assert Q0 in refused(capsys, *how, "--rank=2")
    tuned(place, [Q0])
    assert "no regular expression" in refused(capsys, *how, "--rank=2", "--include=(")
    assert "--rank, --energy" in refused(capsys, *how, code=2)
    assert "does not know" in refused(capsys, *how, "--rank=2", "--save-modules=heads,tails", code=2)
    assert "MiB of memory" in refused(capsys, *how, "--rank=2", "--memory=1MiB")
    assert not (place / "out").exists()
    assert not (place / "out.partial").exists()
    made(*how, "--rank=2")
    assert "exists" in refused(capsys, *how, "--rank=2")
    made(*how, "--rank=1", "--overwrite")


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"lora_alpha": 3}], ids=str)
def test_resizing_is_the_truncated_svd(tmp_path, monkeypatch, capsys, settings):
    """Of each module's change; the report is true, and a rank above the adapter's changes nothing."""
    monkeypatch.chdir(tmp_path)
    before = some_adapter(tmp_path / "a", 1, **settings)
    told = made("resize", "a", "out", "--rank=2", capsys=capsys)
    found = changes(tmp_path / "out")
    for row in told["modules"]:
        delta = before[row["module"] + ".weight"]
        u, s, v = np.linalg.svd(delta, full_matrices=False)
        np.testing.assert_allclose(found[row["module"] + ".weight"], (u[:, :2] * s[:2]) @ v[:2], atol=1e-5)
        assert row["retained"] == pytest.approx(np.sum(s[:2] ** 2) / np.sum(s**2), rel=1e-6)
    made("resize", "a", "same", "--rank=50")
    assert apart(changes(tmp_path / "same"), before) < 1e-6
    assert verify(tmp_path / "out") == ()


def test_resizing_keeps_lengths_of_dora_and_whole_tensors(tmp_path, monkeypatch):
    """Byte for byte."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    parts = factors(rng, "q", 6, 5) | {"q.lora_magnitude_vector": rng.uniform(size=6).astype(np.float32)}
    parts["score.weight"] = rng.normal(size=(3, 5)).astype(np.float16)
    write_adapter(tmp_path / "a", parts, use_dora=True, modules_to_save=["score"])
    made("resize", "a", "out", "--rank=2")
    found = read_file(tmp_path / "out" / "adapter_model.safetensors")
    for name in ("q.lora_magnitude_vector", "score.weight"):
        assert found[ROOT + name].tobytes() == parts[name].tobytes()
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["use_dora"] is True
