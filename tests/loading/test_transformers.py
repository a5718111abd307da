"""A merged folder loads in transformers as it is, and computes what averaging in torch computes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers

import stockpot as sp

SMALL = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}


def llama(*, tied):
    """A tiny Llama."""
    config = transformers.LlamaConfig(
        **SMALL, intermediate_size=48, num_key_value_heads=2, tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2
    )
    return transformers.LlamaForCausalLM(config)


def gpt2():
    """A tiny GPT-2, whose head is tied."""
    config = transformers.GPT2Config(vocab_size=96, n_embd=32, n_layer=3, n_head=4, n_positions=64)
    return transformers.GPT2LMHeadModel(config)


def bert():
    """A tiny BERT classifier."""
    return transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL, intermediate_size=48))


MAKERS = {"llama": lambda: llama(tied=False), "tied llama": lambda: llama(tied=True), "gpt2": gpt2, "bert": bert}


def saved(maker, folder, count):
    """``count`` models of one architecture on disk; returns them with their folders."""
    models = []
    for seed in range(count):
        torch.manual_seed(seed)
        model = maker().eval()
        model.save_pretrained(folder / str(seed))
        models.append(model)
    return models


def outputs(model):
    """Logits for a fixed input."""
    with torch.no_grad():
        return model(torch.arange(1, 17).reshape(1, 16)).logits.double().numpy()


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("shard_size", [5_000_000_000, 20_000])
def test_average_loads_and_computes(tmp_path, kind, shard_size):
    """Every tensor, tied ones included, arrives; one file or many."""
    models = saved(MAKERS[kind], tmp_path, 2)
    mean = 0.5 * sp.open(tmp_path / "0") + 0.5 * sp.open(tmp_path / "1")
    sp.save(mean, tmp_path / "out", shard_size=shard_size)
    loaded, info = type(models[0]).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    expected = models[0]
    with torch.no_grad():
        for own, other in zip(expected.parameters(), models[1].parameters(), strict=True):
            own.copy_((own.double() + other.double()).div(2).float())
    assert np.array_equal(outputs(loaded.eval()), outputs(expected))
    assert (tmp_path / "out" / "model.safetensors.index.json").exists() == (shard_size < 10**9)


def test_tied_stays_tied(tmp_path):
    """A tied head is not written, and is the embedding after loading."""
    saved(MAKERS["tied llama"], tmp_path, 2)
    sp.save(0.5 * sp.open(tmp_path / "0") + 0.5 * sp.open(tmp_path / "1"), tmp_path / "out")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.lm_head.weight.data_ptr() == loaded.model.embed_tokens.weight.data_ptr()


def test_untied_model_onto_a_tied_base(tmp_path):
    """A head of its own is kept: the result is untied, and says so in its config."""
    torch.manual_seed(0)
    llama(tied=True).save_pretrained(tmp_path / "tied")
    torch.manual_seed(1)
    llama(tied=False).save_pretrained(tmp_path / "own")
    sp.save(0.5 * sp.open(tmp_path / "tied") + 0.5 * sp.open(tmp_path / "own"), tmp_path / "out")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tied = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "tied")
    own = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "own")
    expected = (tied.model.embed_tokens.weight.double() + own.lm_head.weight.double()) / 2
    assert torch.equal(loaded.lm_head.weight, expected.float())
    assert loaded.config.tie_word_embeddings is False


def test_dtype_is_corrected(tmp_path):
    """config.json tells the dtype that was written."""
    saved(MAKERS["llama"], tmp_path, 2)
    sp.save(0.5 * sp.open(tmp_path / "0") + 0.5 * sp.open(tmp_path / "1"), tmp_path / "out", dtype="bfloat16")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert loaded.dtype is torch.bfloat16
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config.get("dtype", config.get("torch_dtype")) == "bfloat16"


def test_stacked_layers_load_and_generate(tmp_path):
    """Layers of two models on top of each other: renamed, counted in the config, loadable."""
    models = saved(MAKERS["llama"], tmp_path, 2)
    stacked = sp.stack(sp.layers(sp.open(tmp_path / "0"), 0, 2), sp.layers(sp.open(tmp_path / "1"), 1, 3))
    sp.save(stacked, tmp_path / "out")
    loaded, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert loaded.config.num_hidden_layers == 4
    sources = [
        models[0].model.layers[0],
        models[0].model.layers[1],
        models[1].model.layers[1],
        models[1].model.layers[2],
    ]
    for layer, source in zip(loaded.model.layers, sources, strict=True):
        assert torch.equal(layer.mlp.up_proj.weight, source.mlp.up_proj.weight)
    assert torch.equal(loaded.lm_head.weight, models[1].lm_head.weight)
    assert torch.equal(loaded.model.embed_tokens.weight, models[0].model.embed_tokens.weight)
    ids = loaded.generate(torch.tensor([[1, 5]]), max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert ids.shape[1] >= 3
