"""What does not fit is told by name, before anything is run or written."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
from mixing import SIZES, dense, mixed, write_recipe

from files import read_model, write_model
from stockpot.cli.main import main
from stockpot.errors import CheckpointError, PlanError, StockpotError, UnsupportedError
from stockpot.moe.build import planned
from stockpot.planning.model import Limits
from stockpot.recipe.mixture import load_mixture


def refused(tmp_path, base, experts, **more):
    """The problems of a mixture; nothing is left behind."""
    recipe = write_recipe(tmp_path / "r.yml", base, experts, **({"gate_mode": "random"} | more))
    with pytest.raises(StockpotError) as caught:
        mixed(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.router.safetensors").exists()
    return caught.value.problems


def told(problems, text):
    (found,) = [p for p in problems if text in p.message]
    assert found.fix
    return found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"intermediate_size": 40}, "has shape (40, 32), the experts have (48, 32)"),
        ({"hidden_size": 64, "head_dim": 8}, "has shape (48, 64), the experts have (48, 32)"),
        ({"num_hidden_layers": 1}, "lacks this tensor of an expert"),
        ({"num_hidden_layers": 3}, "has more layers than"),
        ({"mlp_bias": True}, "an MLP with biases, which experts lack"),
        ({"hidden_act": "gelu"}, "hidden_act gelu"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_experts_that_do_not_fit(changes, message, tmp_path):
    """An expert of another shape, depth or kind is refused, with the tensor."""
    dense(tmp_path / "a", "llama", 0)
    dense(tmp_path / "b", "llama", 1, **changes)
    found = told(refused(tmp_path, tmp_path / "a", [tmp_path / "a", tmp_path / "b"]), message)
    assert str(tmp_path / "b") in found.message
    assert found.tensor is not None or "hidden_act" in message
    assert found.line == 1


@pytest.mark.parametrize(
    ("kind", "changes", "layout", "message", "fix"),
    [
        ("llama", {"attention_bias": True}, "mixtral", "biases of attention (q_proj.bias", "another architecture"),
        ("llama", {"mlp_bias": True}, "mixtral", "an MLP with biases", "mlp_bias: false"),
        ("qwen2", {}, "mixtral", "a qwen2 model cannot become a mixtral", "architecture: qwen2_moe or glm4_moe"),
        ("mistral", {}, "deepseek", "a sliding window (4), which a deepseek cannot have at all", "mixtral"),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}, "qwen3_moe",
         "cannot have in some layers only", "without it"),
        ("llama", {"head_dim": 16}, "deepseek", "heads of 16 dimensions", "mixtral"),
        ("llama", {"hidden_act": "gelu"}, "mixtral", "hidden_act gelu", "other models"),
    ],
    ids=lambda v: v if isinstance(v, str) and " " not in v else "",
)  # fmt: skip
def test_bases_that_a_layout_cannot_express(kind, changes, layout, message, fix, tmp_path):
    """Biases, windows and sizes that the mixture's class has no place for are named, with a way out."""
    dense(tmp_path / "a", kind, 0, **changes)
    problems = refused(tmp_path, tmp_path / "a", [tmp_path / "a"] * 2, architecture=layout)
    found = [p for p in problems if message in p.message]
    assert found
    assert fix in found[0].fix


def test_models_of_other_kinds(tmp_path):
    """A model that no mixture can be made of is named, with those that can."""
    write_model(tmp_path / "g", {"model.norm.weight": np.ones(4, np.float32)}, config={"model_type": "gemma"})
    found = told(refused(tmp_path, tmp_path / "g", [tmp_path / "g"] * 2), "of type gemma")
    assert "llama, mistral, qwen2 and qwen3" in found.fix
    write_model(tmp_path / "l", {"model.norm.weight": np.ones(4, np.float32)}, config={"model_type": "llama"})
    told(refused(tmp_path, tmp_path / "l", [tmp_path / "l"] * 2), "no config.json with num_hidden_layers")


def test_tensors_without_a_place(tmp_path):
    """A tensor that the mixture's class would not load is refused, not carried along."""
    dense(tmp_path / "a", "llama", 0)
    tensors = read_model(tmp_path / "a") | {"model.layers.0.extra.weight": np.ones(3, np.float32)}
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    write_model(tmp_path / "b", tensors, config=config)
    found = told(refused(tmp_path, tmp_path / "b", [tmp_path / "a"] * 2), "has no place for it")
    assert found.tensor == "model.layers.0.extra.weight"


def test_a_vocabulary_that_is_not_the_configs(tmp_path):
    """Rows of the embedding that the config does not count would not load."""
    dense(tmp_path / "a", "llama", 0)
    path = tmp_path / "a" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 97}))
    told(refused(tmp_path, tmp_path / "a", [tmp_path / "a"] * 2), "the embedding has 96 rows, its config says 97")


def test_shared_experts_where_they_belong(tmp_path):
    """A layout without shared experts refuses one; one that cannot do without asks for it."""
    dense(tmp_path / "a", "llama", 0)
    own = [{"source_model": str(tmp_path / "a")}]
    problems = refused(tmp_path, tmp_path / "a", [tmp_path / "a"] * 2, architecture="mixtral", shared_experts=own)
    assert "deepseek" in told(problems, "a mixtral has no shared experts").fix
    problems = refused(tmp_path, tmp_path / "a", [tmp_path / "a"] * 2, architecture="glm4_moe")
    assert "residual_scale: 0" in told(problems, "a glm4_moe needs a shared expert").fix


PROMPTED = {"positive_prompts": ["a b"]}


def prompted(folder, texts=("a", "b")):
    return [{"source_model": str(folder), "positive_prompts": [text]} for text in texts]


def test_tokenizers_that_are_absent(tmp_path):
    """Prompts need the base's tokenizer; without, the base is named, before it is run."""
    dense(tmp_path / "a", "llama", 0)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "a" / name).unlink()
    problems = refused(tmp_path, tmp_path / "a", prompted(tmp_path / "a"), gate_mode="hidden")
    assert "gate_mode: random" in told(problems, "has no tokenizer that can be loaded").fix


def test_tokens_beyond_the_embedding(tmp_path):
    """A tokenizer of another model, whose tokens have no rows, is told."""
    dense(tmp_path / "a", "llama", 0, vocab_size=40, eos_token_id=39)
    problems = refused(tmp_path, tmp_path / "a", prompted(tmp_path / "a", ["a", "w50"]), gate_mode="cheap_embed")
    told(problems, "tokens beyond the 40 rows")


def test_prompts_that_cancel_out(tmp_path):
    """An expert whose prompts are its negative prompts has no direction; it is named with its line."""
    dense(tmp_path / "a", "llama", 0)
    experts = prompted(tmp_path / "a")
    experts[1]["negative_prompts"] = experts[1]["positive_prompts"]
    for mode in ("hidden", "cheap_embed"):
        found = told(refused(tmp_path, tmp_path / "a", experts, gate_mode=mode), "cancel out")
        assert found.line == 6


def test_prompts_that_are_too_long(tmp_path):
    """A prompt beyond the base's positions is refused, not cut."""
    dense(tmp_path / "a", "llama", 0)
    problems = refused(tmp_path, tmp_path / "a", prompted(tmp_path / "a", ["a", "b " * 65]), gate_mode="hidden")
    told(problems, f"a prompt of 65 tokens; the base reads at most {SIZES['max_position_embeddings']}")


def test_a_base_that_is_a_merge(tmp_path):
    """Prompts are read by a model that lies in a folder; a merge as base needs another way, and is told so."""
    dense(tmp_path / "a", "llama", 0)
    average = {"merge_method": "linear", "models": [{"model": str(tmp_path / "a")}], "parameters": {"weight": 1}}
    path = write_recipe(tmp_path / "r.yml", "x", prompted(tmp_path / "a"))
    path.write_text(path.read_text().replace("base_model: x", f"base_model: {json.dumps(average)}"))
    with pytest.raises(PlanError, match="not a merge"):
        mixed(path, tmp_path / "out")


def test_memory_that_does_not_hold_the_base(tmp_path):
    """A budget that is too small for reading prompts is told before the base is loaded, with one that is enough."""
    dense(tmp_path / "a", "llama", 0)
    recipe = load_mixture(write_recipe(tmp_path / "r.yml", tmp_path / "a", prompted(tmp_path / "a")))
    for budget, message in ((600 << 20, "reading prompts holds"), (500 << 20, "reading prompts takes 600 MiB")):
        with pytest.raises(PlanError, match=message) as caught:
            planned(recipe, tmp_path / "out", Limits(memory=budget))
        assert "--memory" in caught.value.problems[0].fix


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_packages_that_are_absent(package, tmp_path, monkeypatch):
    """Without torch or transformers the error names the extra; routers that need neither are made."""
    dense(tmp_path / "a", "llama", 0)
    recipe = write_recipe(tmp_path / "r.yml", tmp_path / "a", prompted(tmp_path / "a"), gate_mode="hidden")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnsupportedError, match=package) as caught:
        mixed(recipe, tmp_path / "out")
    assert caught.value.problems[0].fix == "pip install 'stockpot[torch]'"
    write_recipe(tmp_path / "r.yml", tmp_path / "a", [tmp_path / "a"] * 2, gate_mode="random")
    assert mixed(tmp_path / "r.yml", tmp_path / "out").is_dir()


def test_routers_of_others(tmp_path, capsys):
    """A router made of something else is neither replaced nor used, unless asked; one of the user's own is used."""
    for seed, name in enumerate("ab"):
        dense(tmp_path / name, "llama", seed)
    out, recipe = tmp_path / "out", tmp_path / "r.yml"
    write_recipe(recipe, tmp_path / "a", [tmp_path / "a", tmp_path / "b"], gate_mode="random", seed=1)
    assert main(["moe", str(recipe), str(out), "--quiet"]) == 0
    first = read_model(out)
    write_recipe(recipe, tmp_path / "a", [tmp_path / "a", tmp_path / "b"], gate_mode="random", seed=2)
    assert main(["moe", str(recipe), str(out), "--overwrite", "--quiet"]) == 5
    assert "made of something else" in capsys.readouterr().err
    assert main(["moe", str(recipe), str(out), "--overwrite", "--restart", "--quiet"]) == 0
    second = read_model(out)
    name = "model.layers.0.block_sparse_moe.gate.weight"
    assert (first[name] != second[name]).all()
    own = {n: v + 1 for n, v in first.items() if n.endswith("gate.weight")}
    write_model(tmp_path / "own", own)
    router = tmp_path / "own" / "model.safetensors"
    assert main(["moe", str(recipe), str(tmp_path / "third"), "--router", str(router)]) == 0
    assert "was not made here" in capsys.readouterr().out
    assert (read_model(tmp_path / "third")[name] == own[name]).all()
    write_model(tmp_path / "bad", {name: own[name][:1], "more": own[name]})
    router = tmp_path / "bad" / "model.safetensors"
    assert main(["moe", str(recipe), str(tmp_path / "fourth"), "--router", str(router)]) == 5
    shown = capsys.readouterr().err
    for part in ("has F32[1, 32]", "lacks this tensor", "what no place is for"):
        assert part in shown


def test_a_file_that_is_no_router(tmp_path):
    """Something else in the router's place is told, and kept."""
    dense(tmp_path / "a", "llama", 0)
    recipe = write_recipe(tmp_path / "r.yml", tmp_path / "a", [tmp_path / "a"] * 2, gate_mode="random")
    (tmp_path / "out.router.safetensors").write_text("mine")
    with pytest.raises(CheckpointError):
        mixed(recipe, tmp_path / "out")
    assert (tmp_path / "out.router.safetensors").read_text() == "mine"
    shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_a_router_within_the_output(tmp_path):
    """A router cannot lie in the folder that is made after it."""
    dense(tmp_path / "a", "llama", 0)
    recipe = write_recipe(tmp_path / "r.yml", tmp_path / "a", [tmp_path / "a"] * 2, gate_mode="random")
    with pytest.raises(PlanError, match="within the output"):
        mixed(recipe, tmp_path / "out", router=tmp_path / "out" / "router.safetensors")
    assert not (tmp_path / "out").exists()


def test_another_vocabulary_is_noted(tmp_path):
    """An expert of another vocabulary fits, since only its MLPs are used; that is told."""
    dense(tmp_path / "a", "llama", 0)
    dense(tmp_path / "b", "llama", 1, vocab_size=120)
    recipe = write_recipe(tmp_path / "r.yml", tmp_path / "a", [tmp_path / "a", tmp_path / "b"], gate_mode="random")
    made = planned(load_mixture(recipe), tmp_path / "out", Limits(memory=1 << 30))
    assert any("vocabulary of 120 tokens" in note.message for note in made.plan.notes)
