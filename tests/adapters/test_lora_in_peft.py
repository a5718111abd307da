"""What the verbs write loads in PEFT as it is, and gives the outputs of the model that it stands for."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import transformers
from making import made
from test_peft import gpt2, llama

from files import read_model, write_model

peft = pytest.importorskip("peft", reason="peft is not installed: pip install -e '.[test]' anew")

pytestmark = pytest.mark.filterwarnings("ignore")


def adapted(maker, folder, name, seed, **settings):
    """An adapter of random weights on the model of ``maker``, written."""
    torch.manual_seed(3)
    model = maker()
    model.save_pretrained(folder / "base")
    torch.manual_seed(seed)
    found = peft.get_peft_model(
        model, peft.LoraConfig(**({"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"} | settings))
    )
    with torch.no_grad():
        for weight in found.parameters():
            if weight.requires_grad:
                weight.copy_(0.1 * torch.randn_like(weight))
    found.save_pretrained(folder / name)


def logits(model):
    """What a model says to a few tokens."""
    with torch.no_grad():
        return model.eval()(torch.arange(12)[None]).logits.numpy()


def loaded(folder, adapter):
    """What PEFT makes of base and adapter; nothing may be missing or unexpected."""
    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = peft.PeftModel.from_pretrained(base, folder / adapter)
    said = [str(w.message) for w in told]
    assert not [text for text in said if "missing" in text.lower() or "unexpected" in text.lower()], said
    return found


def check(folder, adapter):
    """PEFT's outputs are those of the folded model, with the adapter on and merged."""
    made("fold", folder / "base", folder / adapter, folder / f"folded-{adapter}")
    wanted = logits(
        transformers.AutoModelForCausalLM.from_pretrained(folder / f"folded-{adapter}", dtype=torch.float32)
    )
    model = loaded(folder, adapter)
    np.testing.assert_allclose(logits(model), wanted, atol=2e-5)
    np.testing.assert_allclose(logits(model.merge_and_unload()), wanted, atol=2e-5)
    return wanted


CASES = {
    "ranks": (llama, [{"target_modules": ["q_proj", "down_proj"]}, {"r": 3, "target_modules": ["q_proj", "v_proj"]}]),
    "patterns": (
        llama,
        [{"target_modules": ["q_proj"], "rank_pattern": {"layers.1.self_attn.q_proj": 2}, "use_rslora": True}] * 2,
    ),
    "embeddings": (llama, [{"target_modules": ["embed_tokens", "v_proj"]}] * 2),
    "gpt2": (gpt2, [{"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}] * 2),
    "saved": (llama, [{"target_modules": ["v_proj"], "modules_to_save": ["lm_head", "norm"]}] * 2),
    "biases": (llama, [{"target_modules": ["q_proj"], "bias": "all"}, {"target_modules": ["q_proj"]}]),
    "lora bias": (llama, [{"target_modules": ["q_proj", "v_proj"], "lora_bias": True}] * 2),
    "dora": (llama, [{"target_modules": ["q_proj", "v_proj"], "use_dora": True}, {"target_modules": ["q_proj"]}]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_merged_adapter(tmp_path, case):
    """It loads without a missing or unexpected key; without loss, it is the mean of both changes."""
    maker, settings = CASES[case]
    for seed, (name, own) in enumerate(zip("ab", settings, strict=True)):
        adapted(maker, tmp_path, name, seed, **own)
    made("merge", tmp_path / "a", tmp_path / "b", tmp_path / "out", "--base", tmp_path / "base", "--rank", "64")
    check(tmp_path, "out")
    parts = []
    for name in "ab":
        made("fold", tmp_path / "base", tmp_path / name, tmp_path / f"f{name}")
        parts.append(read_model(tmp_path / f"f{name}"))
    found = read_model(tmp_path / "folded-out")
    for name, values in found.items():
        one, other = (p.get(name, p.get("model.embed_tokens.weight")) for p in parts)
        np.testing.assert_allclose(values, (one.astype(float) + other) / 2, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("case", ["ranks", "gpt2", "embeddings"])
def test_an_adapter_of_energy_and_one_of_another_rank(tmp_path, case):
    """Ranks that differ from module to module, after merging and after resizing."""
    maker, settings = CASES[case]
    for seed, (name, own) in enumerate(zip("ab", settings, strict=True)):
        adapted(maker, tmp_path, name, seed, **own)
    made("merge", tmp_path / "a", tmp_path / "b", tmp_path / "out", "--method=ties", "--density=0.5", "--energy=0.7")
    check(tmp_path, "out")
    made("resize", tmp_path / "a", tmp_path / "small", "--energy=0.6")
    check(tmp_path, "small")


@pytest.mark.parametrize("case", ["dora", "saved", "biases", "lora bias"])
def test_resizing_keeps_what_is_no_factor(tmp_path, case):
    """At the full rank nothing changes, lengths and biases and saved modules included."""
    maker, settings = CASES[case]
    adapted(maker, tmp_path, "a", 1, **settings[0])
    made("resize", tmp_path / "a", tmp_path / "same", "--rank=4")
    before = logits(loaded(tmp_path, "a"))
    np.testing.assert_allclose(check(tmp_path, "same"), before, atol=2e-5)


def tied_llama():
    """Its head is its embedding."""
    return llama(tied=True)


@pytest.mark.parametrize("maker", [llama, tied_llama, gpt2], ids=lambda m: m.__name__)
def test_an_extracted_adapter(tmp_path, maker):
    """A model in which everything was trained: at the full rank PEFT gives its outputs, with and without merging."""
    torch.manual_seed(1)
    model = maker()
    model.save_pretrained(tmp_path / "base")
    base = read_model(tmp_path / "base")
    rng = np.random.default_rng(0)
    tuned = {n: (v + 0.05 * rng.normal(size=v.shape)).astype(np.float32) for n, v in base.items()}
    config = (tmp_path / "base" / "config.json").read_text()
    write_model(tmp_path / "tuned", tuned)
    (tmp_path / "tuned" / "config.json").write_text(config)
    made("extract", tmp_path / "tuned", tmp_path / "base", tmp_path / "out", "--rank=64")
    wanted = logits(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "tuned", dtype=torch.float32))
    np.testing.assert_allclose(check(tmp_path, "out"), wanted, atol=5e-5)


def of_kind(kind, folder, name, seed, **settings):
    """A LoHa or LoKr of random weights, as PEFT writes it."""
    torch.manual_seed(3)
    model = llama()
    model.save_pretrained(folder / "base")
    torch.manual_seed(seed)
    maker = {"loha": peft.LoHaConfig, "lokr": peft.LoKrConfig}[kind]
    found = peft.get_peft_model(model, maker(r=2, alpha=4, task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for weight in found.parameters():
            if weight.requires_grad:
                weight.copy_(0.3 * torch.randn_like(weight))
    found.save_pretrained(folder / name)


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_adapters_of_other_kinds_merged_with_a_lora(tmp_path, kind):
    """PEFT loads the result as LoRA, and it is the mean of both changes; so is one that was resized, of its own."""
    of_kind(kind, tmp_path, "a", 1, target_modules=["q_proj", "v_proj"])
    adapted(llama, tmp_path, "b", 2, target_modules=["q_proj"])
    made("merge", tmp_path / "a", tmp_path / "b", tmp_path / "out", "--rank", "64")
    made("resize", tmp_path / "a", tmp_path / "small", "--energy", "1")
    for name in ("out", "small"):
        check(tmp_path, name)
    parts = []
    for name in "ab":
        made("fold", tmp_path / "base", tmp_path / name, tmp_path / f"f{name}")
        parts.append(read_model(tmp_path / f"f{name}"))
    merged, small = read_model(tmp_path / "folded-out"), read_model(tmp_path / "folded-small")
    for name, values in merged.items():
        one, other = (p[name].astype(float) for p in parts)
        np.testing.assert_allclose(values, (one + other) / 2, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(small[name], one, atol=1e-5, err_msg=name)
