"""A transplanted model as transformers loads it."""

from __future__ import annotations

import pytest
from transplant_pairs import byte_level, metaspace

import stockpot as sp

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
torch = pytest.importorskip("torch", reason="torch is not installed")


def saved(folder, tokenizer, *, width, tied, kind, seed):
    """A random model of two layers, saved by transformers."""
    made, roles = tokenizer
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, **roles)
    torch.manual_seed(seed)
    size = {"vocab_size": len(fast), "bos_token_id": fast.bos_token_id, "eos_token_id": fast.eos_token_id}
    if kind == "gpt2":
        config = transformers.GPT2Config(n_embd=width, n_layer=2, n_head=2, n_positions=64, **size)
    else:
        shape = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2}
        config = transformers.LlamaConfig(num_attention_heads=2, tie_word_embeddings=tied, **shape, **size)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "tied"), [("llama", False), ("llama", True), ("gpt2", True)], ids=["untied", "tied", "gpt2"]
)
def test_it_loads_and_runs(kind, tied, tmp_path):
    """No key is missing or unexpected, the tokenizer is the giver's, and text goes through."""
    ours = saved(tmp_path / "ours", byte_level(), width=16, tied=tied, kind=kind, seed=0)
    theirs = saved(tmp_path / "theirs", metaspace(), width=24, tied=not tied, kind="llama", seed=1)
    sp.save(sp.transplant(ours, theirs, k=8), tmp_path / "out")
    auto = transformers.AutoModelForCausalLM
    model, info = auto.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "the merged weights"
    wanted = transformers.AutoTokenizer.from_pretrained(theirs)(text)["input_ids"]
    assert tokenizer(text)["input_ids"] == wanted
    assert model.config.vocab_size == len(tokenizer) == model.get_input_embeddings().weight.shape[0]
    assert model.config.eos_token_id == tokenizer.eos_token_id
    with torch.no_grad():
        logits = model(torch.tensor([wanted])).logits
    assert logits.shape == (1, len(wanted), len(tokenizer))
    assert torch.isfinite(logits).all()


def test_tokens_in_common_have_the_same_logits(tmp_path):
    """A text of which both tokenizers have the same tokens gives the same logits for the tokens in common."""
    ours = saved(tmp_path / "ours", byte_level(), width=16, tied=False, kind="llama", seed=0)
    theirs = saved(tmp_path / "theirs", metaspace(), width=24, tied=False, kind="llama", seed=1)
    sp.save(sp.transplant(ours, theirs), tmp_path / "out")
    auto, tokens = transformers.AutoModelForCausalLM, ["the", "of", "is"]
    old, new = (transformers.AutoTokenizer.from_pretrained(tmp_path / name) for name in ("ours", "out"))
    here = [old.get_vocab()[f"Ġ{token}"] for token in tokens]
    there = [new.get_vocab()[f"▁{token}"] for token in tokens]
    with torch.no_grad():
        before = auto.from_pretrained(ours)(torch.tensor([here])).logits[0][:, here]
        after = auto.from_pretrained(tmp_path / "out")(torch.tensor([there])).logits[0][:, there]
    torch.testing.assert_close(after, before)
