"""Merged and stacked models of many architectures load in transformers as they are, and compute."""

from __future__ import annotations

import pytest

import stockpot as sp

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS = {
    "Qwen2": {"use_sliding_window": True, "max_window_layers": 2},
    "Qwen3": {
        "layer_types": ["full_attention", "sliding_attention"] * 2,
        "sliding_window": 8,
        "use_sliding_window": True,
    },
    "Gemma3Text": {"layer_types": ["sliding_attention", "full_attention"] * 2},
    "Cohere2": {},
    "Mixtral": {"num_local_experts": 2, "num_experts_per_tok": 1},
}
TOKENS = [[1, 5, 9, 33, 7, 2, 11, 40, 3]]


def saved(kind, folder, count=2):
    """Models of one architecture with random weights, on disk; their expressions."""
    config = getattr(transformers, f"{kind}Config")(**SIZES, **CONFIGS[kind])
    for seed in range(count):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config)
        model.save_pretrained(folder / str(seed))
    return [sp.open(folder / str(seed)) for seed in range(count)]


def loaded(folder):
    """The model in a folder, which must have exactly the tensors that its config wants."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    return model.eval()


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_merge_loads_and_computes_what_averaging_in_torch_computes(kind, tmp_path):
    """Averaged on disk and averaged in torch, a model gives the same logits to the last bit."""
    a, b = saved(kind, tmp_path)
    sp.save(0.5 * a + 0.5 * b, tmp_path / "out", shard_size=30_000)
    mean, other = loaded(tmp_path / "0"), loaded(tmp_path / "1")
    with torch.no_grad():
        for own, second in zip(mean.parameters(), other.parameters(), strict=True):
            own.copy_((own.double() * 0.5 + second.double() * 0.5).float())
        tokens = torch.tensor(TOKENS)
        assert torch.equal(loaded(tmp_path / "out")(tokens).logits, mean(tokens).logits)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_stack_loads_and_runs_its_layers_in_order(kind, tmp_path):
    """Layers of two models on top of each other load without a warning, each with its own kind of attention."""
    a, b = saved(kind, tmp_path)
    sp.save(sp.stack(sp.layers(a, 0, 3), sp.layers(b, 1, 4)), tmp_path / "out")
    first, second, made = (loaded(tmp_path / n) for n in ("0", "1", "out"))
    sources = [(first, 0), (first, 1), (first, 2), (second, 1), (second, 2), (second, 3)]
    assert made.config.num_hidden_layers == len(made.model.layers) == 6
    for layer, (model, index) in zip(made.model.layers, sources, strict=True):
        for own, source in zip(layer.parameters(), model.model.layers[index].parameters(), strict=True):
            assert torch.equal(own, source)
    types = getattr(first.config, "layer_types", None)
    if types is not None:
        assert made.config.layer_types == [types[index] for _, index in sources]
    with torch.no_grad():
        assert torch.isfinite(made(torch.tensor(TOKENS)).logits).all()
