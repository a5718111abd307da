"""Small model folders for tests of what goes wrong."""

from __future__ import annotations

import json

import numpy as np
from safetensors.numpy import save_file

NAMES = ("model.embed_tokens.weight", "model.layers.0.w", "model.layers.1.w", "model.norm.weight")


def arrays(seed, *, elements=96, dtype=np.float32):
    """Four tensors like a language model's."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0.0, 0.1, (elements // 8, 8)).astype(dtype) for name in NAMES}


def write(folder, tensors, config=None):
    """A folder with one safetensors file and a config; returns its path as text."""
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "toy", "num_hidden_layers": 2}))
    return str(folder)


def recipe(folder, method="linear", models=("a", "b"), base=None, parameters="", extra=""):
    """A recipe file beside the models; returns its path."""
    lines = [f"merge_method: {method}"]
    if base:
        lines.append(f"base_model: ./{base}")
    lines += ["models:", *(f"- model: ./{model}" for model in models)]
    if parameters:
        lines.append(f"parameters: {{{parameters}}}")
    path = folder / "recipe.yml"
    path.write_text("\n".join([*lines, extra, ""]))
    return path
