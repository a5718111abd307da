"""Embeddings are those of the real sentence-transformers, whatever modules the model's files list."""

from __future__ import annotations

import json

import numpy as np
import pytest

import stockpot as sp
from evaluating import sentence_model
from stockpot.errors import CheckpointError, UnsupportedError
from stockpot.evaluate import candidate
from stockpot.evaluate.sentences import Recipe, embedded, recipe_of

TEXTS = ["the soup", "A kettle on the Fire, since morning; nobody came by and took the last spoon of it", "merge"]


def saved(folder, seed=0, *, pooling=("mean",), dense=None, normal=False, most=24):
    """A model in the layout of sentence-transformers, written by it."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    sentence_model(folder / "plain", seed)
    made = [modules.Transformer(str(folder / "plain"), max_seq_length=most), modules.Pooling(32, tuple(pooling))]
    width = 32 * len(pooling)
    torch.manual_seed(seed)
    if dense is not None:
        made.append(modules.Dense(width, 12, activation_function=getattr(torch.nn, dense)()))
    made += [modules.Normalize()] if normal else []
    model = SentenceTransformer(modules=made, device="cpu")
    model.save(str(folder / "model"))
    return folder / "model", model


def ours(folder, texts=TEXTS):
    return embedded(candidate(folder).opened("cpu"), texts, None, 64)


@pytest.mark.parametrize(
    ("pooling", "dense", "normal"),
    [
        (("mean",), None, False),
        (("cls",), None, True),
        (("max", "lasttoken"), "Tanh", False),
        (("mean_sqrt_len_tokens", "weightedmean"), "Identity", True),
        (("cls", "mean"), "ReLU", False),
    ],
)
def test_embeddings_are_those_of_sentence_transformers(tmp_path, pooling, dense, normal):
    """Every pooling, several at once, dense layers, normalisation, and texts longer than the model takes."""
    folder, model = saved(tmp_path, pooling=pooling, dense=dense, normal=normal)
    np.testing.assert_allclose(ours(folder), model.encode(TEXTS), rtol=1e-4, atol=1e-5)


def test_a_merge_of_such_models_is_measured_as_its_folder(tmp_path):
    """The dense layer is merged too, and what embeds in memory is what sentence-transformers loads from the output."""
    from sentence_transformers import SentenceTransformer

    one, _ = saved(tmp_path / "a", 0, pooling=("cls",), dense="Tanh")
    two, _ = saved(tmp_path / "b", 1, pooling=("cls",), dense="Tanh")
    merged = 0.25 * sp.open(one) + 0.75 * sp.open(two)
    sp.save(merged, tmp_path / "out")
    wanted = SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(TEXTS)
    found = embedded(candidate(merged).opened("cpu"), TEXTS, None, 64)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_files_of_older_versions_mean_the_same(tmp_path):
    """One key for each pooling, the transformer in a folder of its own, lower case, a prompt before every text."""
    folder, model = saved(tmp_path, pooling=("cls",))
    wanted = model.encode([f"query: {text.lower()}" for text in TEXTS])
    inner = folder / "0_Transformer"
    inner.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).rename(inner / name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0] |= {"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}
    (folder / "modules.json").write_text(json.dumps(modules))
    (inner / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24, "do_lower_case": True}))
    keys = {f"pooling_mode_{name}": name == "cls_token" for name in ("cls_token", "mean_tokens", "max_tokens")}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **keys}))
    told = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(told))
    assert recipe_of(candidate(folder).opened("cpu")) == Recipe(("cls",), (), 24, "query: ", True)
    np.testing.assert_allclose(ours(folder), wanted, rtol=1e-4, atol=1e-5)


def test_a_plain_encoder_has_the_mean_of_its_tokens(tmp_path):
    """Without modules.json."""
    sentence_model(tmp_path / "bert")
    assert recipe_of(candidate(tmp_path / "bert").opened("cpu")) == Recipe(most=64)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("modules.json", lambda m: [*m, {"type": "own.Attention", "path": "2_Own"}], "module 'Attention'"),
        ("1_Pooling/config.json", lambda p: p | {"pooling_mode": "median"}, "unknown pooling 'median'"),
        ("1_Pooling/config.json", lambda p: {"embedding_dimension": 32}, "no pooling"),
        ("2_Dense/config.json", lambda d: d | {"activation_function": "own.Gate"}, "a dense layer with Gate"),
        ("2_Dense/config.json", lambda d: d | {"use_residual": True}, "a dense layer of its own kind"),
        ("1_Pooling/config.json", lambda p: p | {"pooling_mode": ["cls", "mean"]}, "takes 32 numbers, not 64"),
    ],
)
def test_what_is_not_known_is_refused_by_name(tmp_path, file, change, message):
    """Never measured in another way than the model is made for."""
    folder, _ = saved(tmp_path, dense="Tanh")
    path = folder / file
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises((UnsupportedError, CheckpointError), match=message):
        ours(folder)


def test_a_prompt_outside_the_pooling_is_refused(tmp_path):
    """Since its tokens would have to be left out of the mean."""
    folder, _ = saved(tmp_path)
    told = {"prompts": {"q": "query: "}, "default_prompt_name": "q"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(told))
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling | {"include_prompt": False}))
    with pytest.raises(UnsupportedError, match="leaves its prompt"):
        ours(folder)


def test_a_missing_layer_is_named(tmp_path):
    """When modules.json lists a dense layer whose weights are not there."""
    folder, _ = saved(tmp_path, dense="Tanh")
    (folder / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"2_Dense/linear\.weight"):
        ours(folder)
