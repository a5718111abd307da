"""A base that a method does not use still gives config, tokenizer and other small files, where they fit."""

from __future__ import annotations

import json

import numpy as np
import pytest

import stockpot as sp
from files import read_model, write_model
from stockpot.cli.main import main

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2, "vocab_size": 5}


def written(folder, seed, *, tied=False, layers=2, rows=5, mlp="mlp"):
    """A small language model with a tokenizer's settings."""
    rng = np.random.default_rng(seed)
    shapes = {
        "model.embed_tokens.weight": (rows, 3),
        **{f"model.layers.{i}.{mlp}.up.weight": (3, 3) for i in range(layers)},
    }
    shapes |= {} if tied else {"lm_head.weight": (rows, 3)}
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    more = {"tie_word_embeddings": tied, "num_hidden_layers": layers, "vocab_size": rows, "made_by": folder.name}
    write_model(folder, arrays, config=CONFIG | more)
    (folder / "tokenizer_config.json").write_text(json.dumps({"of": folder.name}))


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "a", 1)
    written(tmp_path / "b", 2)
    written(tmp_path / "base", 3)
    return tmp_path


def merged(place, body, *arguments, code=0):
    """A recipe carried out; the config of its result."""
    (place / "r.yml").write_text(body)
    assert main(["merge", "r.yml", "out", "--no-sync", *arguments]) == code
    return json.loads((place / "out" / "config.json").read_text()) if code == 0 else {}


BOTH = "models: [{model: a}, {model: b}]\n"


def test_config_and_small_files_are_the_base_s(place, capsys):
    """They are, the numbers are those of the models, and all that is told of the result holds."""
    assert merged(place, f"merge_method: linear\nbase_model: base\n{BOTH}")["made_by"] == "base"
    assert json.loads((place / "out" / "tokenizer_config.json").read_text()) == {"of": "base"}
    a, b, made = (read_model(place / name) for name in ("a", "b", "out"))
    assert all(np.array_equal(made[n], ((a[n].astype(float) + b[n]) / 2).astype(np.float32)) for n in a)
    assert main(["verify", "out", "--inputs"]) == 0
    assert "base" in capsys.readouterr().out
    assert main(["reproduce-merge", "out", "again"]) == 0
    assert (place / "again" / "config.json").read_bytes() == (place / "out" / "config.json").read_bytes()


@pytest.mark.parametrize("tied", [True, False], ids=["base ties", "models tie"])
def test_whose_head_is_tied(place, tied):
    """The config says what the result's tensors say, whatever the base does."""
    for name in "ab":
        written(place / name, 4, tied=not tied)
    written(place / "base", 3, tied=tied)
    found = merged(place, f"merge_method: linear\nbase_model: base\n{BOTH}")
    assert found["tie_word_embeddings"] is not tied
    assert ("lm_head.weight" in read_model(place / "out")) == tied


def test_stacked_layers_are_counted(place):
    """The base's number of layers becomes the result's."""
    parts = "slices:\n- sources: [{model: a, layer_range: [0, 2]}]\n- sources: [{model: a, layer_range: [1, 2]}]\n"
    found = merged(place, f"merge_method: passthrough\nbase_model: base\n{parts}")
    assert (found["num_hidden_layers"], found["made_by"]) == (3, "base")


@pytest.mark.parametrize(
    ("other", "tensor"),
    [
        ({"rows": 6}, "model.embed_tokens.weight"),
        ({"layers": 3}, "model.layers.2.mlp.up.weight"),
        ({"layers": 1}, "model.layers.1.mlp.up.weight"),
        ({"mlp": "experts.0"}, "model.layers.0.mlp.up.weight"),
    ],
    ids=["vocabulary", "deeper", "shallower", "other names"],
)
def test_a_config_of_another_model_is_refused(place, capsys, other, tensor):
    """By the tensor that tells, with the line of the base."""
    written(place / "base", 3, **other)
    merged(place, f"merge_method: linear\nbase_model: base\n{BOTH}", code=5)
    told = capsys.readouterr().err
    assert "base is not merged and gives config and small files, which do not fit" in told
    assert tensor in told
    assert "recipe line 2" in told
    assert not (place / "out").exists()


def test_a_base_that_is_not_there(place, capsys):
    """It is missed, since its config is wanted."""
    merged(place, f"merge_method: linear\nbase_model: nowhere/at/all\n{BOTH}", code=4)
    assert "nowhere/at/all" in capsys.readouterr().err


def test_python_takes_the_first_model(place):
    """Expressions have no base beside them."""
    sp.save(0.5 * sp.open("a") + 0.5 * sp.open("b"), "out")
    assert json.loads((place / "out" / "config.json").read_text())["made_by"] == "a"
