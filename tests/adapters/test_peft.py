"""What PEFT computes: a folded model has the weights of merge_and_unload, and the outputs of the adapted model."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import transformers

import stockpot as sp
from files import read_model

peft = pytest.importorskip("peft", reason="peft is not installed: pip install -e '.[test]' anew")

SMALL = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2}


def llama(*, tied=False):
    """A tiny Llama."""
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(**SMALL, **shape, **heads, attention_bias=True, tie_word_embeddings=tied)
    return transformers.LlamaForCausalLM(config)


def gpt2():
    """A tiny GPT-2: Conv1D layers, a tied head."""
    config = transformers.GPT2Config(**SMALL, n_embd=32, n_layer=2, n_head=4, n_positions=16)
    return transformers.GPT2LMHeadModel(config)


CASES = {
    "llama": (llama, {"target_modules": ["q_proj", "k_proj", "down_proj"]}),
    "patterns": (
        llama,
        {
            "target_modules": ["q_proj", "k_proj", "down_proj"],
            "rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 5, "^model.layers.0.self_attn.k_proj": 3},
            "alpha_pattern": {"k_proj": 3, ".*mlp.down_proj": 7},
            "use_rslora": True,
        },
    ),
    "embeddings": (llama, {"target_modules": ["embed_tokens", "lm_head", "v_proj"]}),
    "whole modules": (llama, {"target_modules": ["v_proj"], "modules_to_save": ["lm_head", "embed_tokens", "norm"]}),
    "all biases": (llama, {"target_modules": ["q_proj", "down_proj"], "bias": "all"}),
    "its biases": (llama, {"target_modules": ["q_proj", "v_proj"], "bias": "lora_only"}),
    "biases of factors": (llama, {"target_modules": ["q_proj", "v_proj"], "lora_bias": True}),
    "dora": (llama, {"target_modules": ["q_proj", "k_proj", "down_proj", "lm_head"], "use_dora": True}),
    "dora of embeddings": (llama, {"target_modules": ["embed_tokens", "v_proj"], "use_dora": True}),
    "gpt2 dora": (gpt2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "use_dora": True}),
    "gpt2": (gpt2, {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "gpt2 biases": (gpt2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "bias": "all"}),
}


def made(maker, folder, **settings):
    """A model with a random adapter, both written; the adapted model as PEFT has it."""
    torch.manual_seed(3)
    model = maker()
    model.save_pretrained(folder / "base")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, **settings))
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.copy_(0.1 * torch.randn_like(weight))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted.save_pretrained(folder / "adapter")
    return adapted.eval()


def logits(model):
    """What a model says to a few tokens."""
    with torch.no_grad():
        return model(torch.arange(12)[None]).logits.numpy()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_as_peft_merges(tmp_path, name):
    """Every weight is that of merge_and_unload to float32's rounding; the folder loads, and says what PEFT's says."""
    maker, settings = CASES[name]
    adapted = made(maker, tmp_path, **settings)
    said = logits(adapted)
    sp.save(sp.open(tmp_path / "base", adapter=tmp_path / "adapter"), tmp_path / "out")
    merged = adapted.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    ours, theirs = read_model(tmp_path / "out"), read_model(tmp_path / "merged")
    assert ours.keys() == theirs.keys()
    for tensor, values in theirs.items():
        np.testing.assert_allclose(ours[tensor], values, rtol=0, atol=1e-6 * np.abs(values).max(), err_msg=tensor)
    loaded = type(merged).from_pretrained(tmp_path / "out").eval()
    np.testing.assert_allclose(logits(loaded), said, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_a_tied_head_as_it_was_trained(tmp_path):
    """An adapter on a tied head: the folded model says what the adapted one says, which merge_and_unload does not."""
    adapted = made(lambda: llama(tied=True), tmp_path, target_modules=["lm_head", "v_proj"])
    said = logits(adapted)
    sp.save(sp.open(tmp_path / "base", adapter=tmp_path / "adapter"), tmp_path / "out")
    loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out").eval()
    np.testing.assert_allclose(logits(loaded), said, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_other_kinds_are_refused(tmp_path):
    """What PEFT writes for IA³ is named, not misread."""
    model = llama()
    model.save_pretrained(tmp_path / "base")
    other = peft.get_peft_model(model, peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[]))
    other.save_pretrained(tmp_path / "adapter")
    with pytest.raises(sp.UnsupportedError, match="IA3"):
        sp.plan(sp.open(tmp_path / "base", adapter=tmp_path / "adapter"))
