"""Mixtures load in transformers, and with equal experts compute what the dense model computes."""

from __future__ import annotations

import pytest
import torch
from mixing import dense, generates, loaded, logits, write_recipe

from stockpot.cli.main import main

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


@pytest.mark.parametrize(("kind", "layout"), CASES, ids=lambda v: v)
def test_equal_experts_are_the_dense_model(kind, layout, tmp_path):
    """Logits of a mixture of a model with itself are the model's; it loads without a key too many, and generates."""
    model = dense(tmp_path / "a", kind, 0)
    more = {"gate_mode": "random", "architecture": layout}
    if layout in NEEDS_SHARED:
        more["shared_experts"] = [{"source_model": str(tmp_path / "a"), "residual_scale": 0}]
    recipe = write_recipe(tmp_path / "r.yml", tmp_path / "a", [tmp_path / "a"] * 3, **more)
    assert main(["moe", str(recipe), str(tmp_path / "out"), "--quiet"]) == 0
    mixture = loaded(tmp_path / "out")
    assert mixture.config.model_type == layout
    assert torch.allclose(logits(mixture), logits(model), atol=2e-5)
    assert generates(mixture)
