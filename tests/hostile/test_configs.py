"""Configs whose values are of any type: planning takes them as they are, or says what is wrong."""

from __future__ import annotations

import json

import attacks as b
import pytest

from stockpot.cli.main import main

KEYS = (
    "num_hidden_layers",
    "n_layer",
    "layer_types",
    "no_rope_layers",
    "mlp_only_layers",
    "moe_layers",
    "text_config",
    "model_type",
    "torch_dtype",
    "dtype",
    "tie_word_embeddings",
    "quantization_config",
    "vocab_size",
    "architectures",
    "auto_map",
)
VALUES = (
    None,
    True,
    -1,
    10**300,
    0.5,
    float("inf"),
    "x",
    "\x1b[2J",
    [],
    [[1]],
    ["a", "b"],
    [0, 1],
    {},
    {"model_type": []},
    {"num_hidden_layers": {}},
)
STACK = """
merge_method: passthrough
slices:
- {sources: [{model: ./one, layer_range: [0, 2]}]}
- {sources: [{model: ./two, layer_range: [1, 2]}]}
dtype: bfloat16
"""


def layers(config):
    """A model of two layers."""
    tensors = {
        n: b.tensor(4 * i, 4 * i + 4, [1], "F32")
        for i, n in enumerate(("h.0.w", "h.1.w", "lm_head.weight", "wte.weight"))
    }
    return b.header(tensors, bytes(16)), json.dumps(config).encode()


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("beside", ["good", "bad"])
def test_any_value_in_any_key(key, beside, tmp_path, monkeypatch, capsys):
    """No type of a value breaks inspecting or stacking; exit codes are those of plans and errors."""
    monkeypatch.chdir(tmp_path)
    good = {"model_type": "x", "num_hidden_layers": 2, "layer_types": ["a", "b"], "mlp_only_layers": [0]}
    (tmp_path / "x.yml").write_text(STACK)
    for value in VALUES:
        bad = good | {key: value}
        for name, config in (("one", bad if beside == "bad" else good), ("two", bad)):
            weights, text = layers(config)
            b.model(tmp_path / name, config__json=text)
            (tmp_path / name / "model.safetensors").write_bytes(weights)
        assert main(["inspect", "two"]) in (0, 4)
        assert main(["plan", "x.yml", "--json"]) in (0, 4, 5, 7)
        told = capsys.readouterr()
        assert (told.out + told.err).replace("\n", "").isprintable()
