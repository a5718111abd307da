"""Tiny dense models with a tokenizer, mixtures of them, and what they compute."""

from __future__ import annotations

import json

import torch
import transformers
import yaml

from stockpot.execute.local import execute
from stockpot.moe.build import planned
from stockpot.planning.model import Limits
from stockpot.recipe.mixture import load_mixture

WORDS = [*"abcdefghijklmnopqrstuvwxyz", *(f"w{i}" for i in range(60))]
SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 95,
}
DENSE = {
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "mistral": ("Mistral", {"sliding_window": 4}),
    "qwen2": ("Qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"head_dim": 8}),
}
TOKENS = [[3, 5, 9, 33, 7, 2, 11, 40]]


def write_tokenizer(folder):
    """One token for each word; no special tokens are added."""
    words = vocabulary()
    told = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "truncation": None,
        "padding": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(told))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def dense(folder, kind, seed, **changes):
    """A dense model of a kind in a folder; returns it."""
    name, own = DENSE[kind]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **own, **changes})
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return model


def write_recipe(path, base, experts, **more):
    """A recipe; an expert is a folder, or a mapping."""
    listed = [e if isinstance(e, dict) else {"source_model": str(e)} for e in experts]
    path.write_text(yaml.safe_dump({"base_model": str(base), "experts": listed, **more}, sort_keys=False))
    return path


def loaded(folder):
    """The model in a folder, which must have exactly the tensors that its config wants."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype="auto")
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], (kind, info[kind])
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.double()


def generates(model):
    """Whether three more tokens come out."""
    found = model.generate(torch.tensor(TOKENS), min_new_tokens=3, max_new_tokens=3, do_sample=False, pad_token_id=0)
    return found.shape[1] == len(TOKENS[0]) + 3


def mixed(recipe, out, **more):
    """The folder of a recipe's mixture."""
    limits = Limits(memory=4 << 30, threads=2)
    made = planned(load_mixture(recipe), out, limits, **more)
    execute(made.plan, out, durable=False, overwrite=more.get("overwrite", False))
    return out


def vocabulary():
    """Word → token."""
    return {"<pad>": 0, "<s>": 1, "<unk>": 2, **{word: i + 3 for i, word in enumerate(WORDS)}}
