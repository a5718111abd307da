"""Mixtures load in transformers, and with equal experts compute what the dense model computes."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from mixing import SIZES, dense, generates, loaded, logits, mixed, write_recipe

from files import read_model
from stockpot.architecture.mixtures import LAYOUTS, defaults_of

CASES = [
    ("llama", "mixtral"),
    ("llama-tied", "mixtral"),
    ("mistral", "mixtral"),
    ("llama", "qwen2_moe"),
    ("mistral", "qwen2_moe"),
    ("qwen2", "qwen2_moe"),
    ("qwen3", "qwen3_moe"),
    ("llama", "glm4_moe"),
    ("qwen3", "glm4_moe"),
]
NEEDS_SHARED = {"glm4_moe"}


def with_itself(folder, layout, **more):
    """A mixture of three times the model ``folder``; what a layout needs beside gives nothing."""
    if layout in NEEDS_SHARED:
        more["shared_experts"] = [{"source_model": str(folder), "residual_scale": 0}]
    path = folder.parent / "recipe.yml"
    write_recipe(path, folder, [folder] * 3, gate_mode="random", architecture=layout, **more)
    return mixed(path, folder.parent / "out")


@pytest.mark.parametrize(("kind", "layout"), CASES, ids=str)
def test_equal_experts_are_the_dense_model(kind, layout, tmp_path):
    """Logits of a mixture of a model with itself are the model's; it loads without a key too many, and generates."""
    model = dense(tmp_path / "a", kind, 0)
    mixture = loaded(with_itself(tmp_path / "a", layout))
    assert mixture.config.model_type == layout
    assert torch.allclose(logits(mixture), logits(model), atol=2e-5)
    assert generates(mixture)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2"])
def test_what_a_config_leaves_out_stays_what_it_means(kind, tmp_path):
    """A silent config means what the dense class takes, not what the mixture's class would."""
    dense(tmp_path / "a", kind, 0, sliding_window=None, use_sliding_window=False)
    path = tmp_path / "a" / "config.json"
    kept = {*SIZES, "model_type", "architectures", "use_sliding_window"} - {"bos_token_id", "eos_token_id"}
    written = {k: v for k, v in json.loads(path.read_text()).items() if k in kept}
    path.write_text(json.dumps(written))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "a", dtype="auto")
    layout = "qwen2_moe" if kind == "qwen2" else "mixtral"
    mixture = loaded(with_itself(tmp_path / "a", layout))
    assert torch.allclose(logits(mixture), logits(model), atol=2e-5)
    for key in ("rms_norm_eps", "rope_parameters", "max_position_embeddings", "bos_token_id", "eos_token_id"):
        assert getattr(mixture.config, key) == getattr(model.config, key), key


@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Qwen2", "Qwen3"])
def test_defaults_are_those_of_transformers(kind):
    """What is written for a silent config is what the class of transformers takes."""
    theirs = getattr(transformers, f"{kind}Config")()
    ours = defaults_of({"model_type": kind.lower()})
    assert ours
    assert {key: getattr(theirs, key) for key in ours} == dict(ours)


class DeepSeekBlock(torch.nn.Module):
    """The block of DeepSeek-MoE (arXiv:2401.06066, equations 9 to 11), scores of the chosen brought to sum 1."""

    def __init__(self, tensors, layer, config):
        super().__init__()
        name = f"model.layers.{layer}.mlp."
        self.own = {k.removeprefix(name): torch.tensor(v) for k, v in tensors.items() if k.startswith(name)}
        self.count, self.per_token = config["n_routed_experts"], config["num_experts_per_tok"]
        assert config["norm_topk_prob"]

    def mlp(self, name, x):
        gate, up, down = (self.own[f"{name}.{part}_proj.weight"] for part in ("gate", "up", "down"))
        return (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T

    def forward(self, x):
        scores = (x @ self.own["gate.weight"].T).softmax(-1)
        best = scores.topk(self.per_token)
        kept = torch.zeros_like(scores).scatter(-1, best.indices, best.values / best.values.sum(-1, keepdim=True))
        out = sum(kept[..., i : i + 1] * self.mlp(f"experts.{i}", x) for i in range(self.count))
        return out + (self.mlp("shared_experts", x) if "shared_experts.up_proj.weight" in self.own else 0)


@pytest.mark.parametrize("shared", [False, True])
def test_deepseek(shared, tmp_path):
    """Tensors and config of a DeepSeek-MoE give the dense model's logits; a shared expert adds its part."""
    model = dense(tmp_path / "a", "llama", 0)
    more = {"shared_experts": [{"source_model": str(tmp_path / "a"), "residual_scale": 0}]} if shared else {}
    out = with_itself(tmp_path / "a", "deepseek", **more)
    tensors, config = read_model(out), json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["DeepseekForCausalLM"]
    assert config["first_k_dense_replace"] == 0
    assert config["n_shared_experts"] == (1 if shared else None)
    assert any(".shared_experts." in name for name in tensors) == shared
    expected = logits(model)
    rest = {k: torch.tensor(v) for k, v in tensors.items() if ".mlp." not in k}
    for number, layer in enumerate(model.model.layers):
        layer.mlp = DeepSeekBlock(tensors, number, config)
    assert not model.load_state_dict(rest, strict=True).unexpected_keys
    assert torch.allclose(logits(model), expected, atol=2e-5)


def test_layouts_are_chosen_by_the_base(tmp_path):
    """Llama becomes Mixtral, with a shared expert DeepSeek; Qwen2 and Qwen3 become their own."""
    for kind, shared, expected in [
        ("llama", False, "mixtral"),
        ("llama", True, "deepseek"),
        ("qwen2", False, "qwen2_moe"),
        ("qwen3", False, "qwen3_moe"),
    ]:
        folder = tmp_path / f"{kind}{shared}"
        dense(folder / "a", kind, 0)
        more = {"shared_experts": [{"source_model": str(folder / "a")}]} if shared else {}
        write_recipe(folder / "r.yml", folder / "a", [folder / "a"] * 2, gate_mode="random", **more)
        out = mixed(folder / "r.yml", folder / "out")
        assert json.loads((out / "config.json").read_text())["model_type"] == expected
    assert set(LAYOUTS) == {"mixtral", "deepseek", "qwen2_moe", "qwen3_moe", "glm4_moe"}


def test_every_expert_is_its_models(tmp_path):
    """Each tensor is that of the right model, byte for byte; residual_scale multiplies the last matrix alone."""
    for seed, name in enumerate("abc"):
        dense(tmp_path / name, "qwen2", seed)
    experts = [{"source_model": str(tmp_path / "b")}, {"source_model": str(tmp_path / "c"), "residual_scale": 0.5}]
    shared = [{"source_model": str(tmp_path / "c")}]
    write_recipe(tmp_path / "r.yml", tmp_path / "a", experts, gate_mode="random", shared_experts=shared)
    found = read_model(mixed(tmp_path / "r.yml", tmp_path / "out"))
    a, b, c = (read_model(tmp_path / name) for name in "abc")
    for name, values in a.items():
        if ".mlp." not in name:
            assert found[name].tobytes() == values.tobytes()
            continue
        layer, part = name.split(".")[2], name.split(".")[4]
        block = f"model.layers.{layer}.mlp"
        assert found[f"{block}.experts.0.{part}.weight"].tobytes() == b[name].tobytes()
        factor = 0.5 if part == "down_proj" else 1.0
        assert (found[f"{block}.experts.1.{part}.weight"] == factor * c[name]).all()
        assert found[f"{block}.shared_expert.{part}.weight"].tobytes() == c[name].tobytes()
