"""Heads that share the embedding's weights, in every family that has one."""

from __future__ import annotations

import json

import numpy as np
import pytest

import stockpot as sp
from files import read_model

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from running import loaded, outputs  # noqa: E402 - needs both

TIED = ("gemma2", "gemma3", "smollm3", "mamba", "gpt2", "gpt-neo", "bloom", "opt", "bert", "roberta", "t5", "bart")
TIED = (*TIED, "whisper", "gemma3-vision")
HEADS = {
    "llama": ("lm_head.weight", "model.embed_tokens.weight"),
    "gpt2": ("lm_head.weight", "transformer.wte.weight"),
    "mamba": ("lm_head.weight", "backbone.embeddings.weight"),
    "gpt-neox": ("embed_out.weight", "gpt_neox.embed_in.weight"),
    "bert": ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
    "whisper": ("proj_out.weight", "model.decoder.embed_tokens.weight"),
}


def tied(model):
    """Whether head and embedding are one tensor."""
    return model.get_output_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


@pytest.mark.parametrize("family", TIED)
def test_tied_stays_tied(family, zoo, tmp_path):
    """The head is not written, the config says what it said, and after loading the head is the embedding."""
    folders = [zoo.saved(family, seed) for seed in range(2)]
    assert tied(loaded(family, folders[0]))
    sp.save(sp.slerp(*map(sp.open, folders), t=0.5), tmp_path / "out")
    assert set(read_model(tmp_path / "out")) == set(read_model(folders[0]))
    assert tied(loaded(family, tmp_path / "out"))


@pytest.mark.parametrize("family", HEADS)
@pytest.mark.parametrize("base", ["tied", "own"])
def test_tied_and_untied_models_merge_into_an_untied_one(family, base, zoo, tmp_path):
    """The tied model's head is its embedding: the result has a head of its own, and its config says so."""
    head, embedding = HEADS[family]
    folders = {"tied": zoo.saved(family, 0, tie_word_embeddings=True)}
    folders["own"] = zoo.saved(family, 1, tie_word_embeddings=False)
    arrays = {name: read_model(folder) for name, folder in folders.items()}
    assert head not in arrays["tied"]
    assert head in arrays["own"]
    other = {"tied": "own", "own": "tied"}[base]
    sp.save(0.5 * sp.open(folders[base]) + 0.5 * sp.open(folders[other]), tmp_path / "out")
    made = read_model(tmp_path / "out")
    expected = (arrays["tied"][embedding].astype(np.float64) + arrays["own"][head]) / 2
    assert np.array_equal(made[head], expected.astype(np.float32))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    model = loaded(family, tmp_path / "out")
    assert not tied(model)
    assert torch.isfinite(outputs(family, model)).all()
