"""Merges opened in memory run as the folders that they would write, family by family."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from running import loaded
from zoo import FAMILIES, TOKENS

import stockpot as sp
from stockpot.evaluate import candidate
from stockpot.evaluate.neural import embeddings, token_losses

CAUSAL = [name for name, family in FAMILIES.items() if family.model.endswith(("CausalLM", "LMHeadModel"))]
ENCODERS = [name for name in ("bert", "roberta", "distilbert", "modernbert", "deberta-v2") if name in FAMILIES]


def test_families_are_named():
    """There are many of the one and some of the other."""
    assert len(CAUSAL) > 10
    assert ENCODERS


@pytest.mark.parametrize("family", CAUSAL)
def test_language_models_run_from_memory(family, zoo, tmp_path):
    """Log-likelihoods are those of the written merge loaded by transformers, alone and padded in a batch."""
    one, two = (sp.open(zoo.saved(family, seed)) for seed in (0, 1))
    merged = 0.5 * one + 0.5 * two
    model = candidate(merged).opened("cpu").transformer("causal")
    sp.save(merged, tmp_path / "out")
    stored = loaded(family, tmp_path / "out")
    sequences = [TOKENS[0], TOKENS[0][:3], TOKENS[0][2:7]]
    with torch.no_grad():
        for sequence, found in zip(sequences, token_losses(model, sequences, 1), strict=True):
            logits = stored(torch.tensor([sequence[:-1]]), use_cache=False).logits[0].double()
            wanted = -torch.log_softmax(logits, dim=1)[torch.arange(len(sequence) - 1), torch.tensor(sequence[1:])]
            np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-5)
    together = token_losses(model, sequences, 1000)
    for alone, padded in zip(token_losses(model, sequences, 1), together, strict=True):
        np.testing.assert_allclose(alone, padded, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ENCODERS)
def test_encoders_run_from_memory(family, zoo):
    """Embeddings of a checkpoint with any head are those of its base model, padded or not."""
    folder = zoo.saved(family, 0)
    model = candidate(folder).opened("cpu").transformer("encoder")
    stored = transformers.AutoModel.from_pretrained(folder, dtype="auto").eval()
    sequences = [TOKENS[0], TOKENS[0][:3]]
    with torch.no_grad():
        wanted = [stored(torch.tensor([s])).last_hidden_state[0].mean(dim=0).numpy() for s in sequences]
    for budget in (1, 1000):
        np.testing.assert_allclose(embeddings(model, sequences, budget), wanted, rtol=1e-3, atol=1e-4)
