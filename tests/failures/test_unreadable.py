"""Files that decide about the result and cannot be read are errors: what they would have said is not left out."""

from __future__ import annotations

import errno
import io
import json
import os

import numpy as np
import pytest

import stockpot as sp
from files import write_model
from stockpot.cli.main import main
from stockpot.errors import CheckpointError, RecipeError
from stockpot.evaluate.suite import load_suite
from stockpot.moe.file import kept

LISTED = {
    "model_index.json": {"unet": ["d", "U"], "vae": ["d", "V"]},
    "modules.json": [{"path": "unet"}, {"path": "vae"}],
}


@pytest.fixture
def broken(monkeypatch):
    """Makes one function of modules os and io fail for one path."""

    def fails(name, path):
        module = io if name == "open" else os
        real = getattr(module, name)

        def call(place, *arguments, **options):
            if os.fspath(place) == os.fspath(path):
                raise OSError(errno.EIO, os.strerror(errno.EIO), os.fspath(place))
            return real(place, *arguments, **options)

        monkeypatch.setattr(module, name, call)

    return fails


def tokenized(folder, template):
    """A model with a tokenizer and a chat template."""
    write_model(folder, {"w": np.ones(4, np.float32)}, config={"model_type": "llama"})
    document = {"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))


@pytest.mark.parametrize("call", ["stat", "open"])
@pytest.mark.parametrize("template", ["auto", "auto, of a damaged one"])
def test_the_commonest_chat_template_is_that_of_all_models(tmp_path, broken, capsys, call, template):
    """Of three models two have one template; it is not another because one of the two cannot be read."""
    for name, text in (("a", "one"), ("b", "two"), ("c", "two")):
        tokenized(tmp_path / name, text)
    recipe = tmp_path / "r.yml"
    recipe.write_text("merge_method: linear\nmodels: [{model: a}, {model: b}, {model: c}]\nchat_template: auto\n")
    bad = tmp_path / "b" / "tokenizer.json"
    if template == "auto":
        broken(call, bad)
    else:
        bad.write_text("{")
    assert main(["merge", str(recipe), str(tmp_path / "out"), "--quiet"]) in (4, 5)
    assert str(bad) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("index", LISTED)
@pytest.mark.parametrize("what", ["the list", "a folder"])
def test_no_component_is_lost(tmp_path, broken, index, what):
    """A model in several folders is not one of fewer because their list, or one of them, cannot be read."""
    for name in ("unet", "vae"):
        write_model(tmp_path / "m" / name, {"w": np.ones(4, np.float32)})
    write_model(tmp_path / "m", {"w": np.ones(4, np.float32)})
    (tmp_path / "m" / index).write_text(json.dumps(LISTED[index]))
    assert set(sp.compute(sp.open(tmp_path / "m"))) >= {"unet/w", "vae/w"}
    bad = tmp_path / "m" / ("vae" if what == "a folder" else index)
    broken("listdir" if what == "a folder" else "open", bad)
    with pytest.raises(CheckpointError, match="cannot read: Input/output error") as caught:
        sp.compute(sp.open(tmp_path / "m"))
    assert caught.value.problems[0].file == str(bad)


def test_a_local_model_is_not_looked_for_elsewhere(tmp_path, broken):
    """A path that cannot be looked at is no name of the hub."""
    write_model(tmp_path / "m", {"w": np.ones(4, np.float32)})
    broken("stat", tmp_path / "m")
    with pytest.raises(CheckpointError, match="Input/output error"):
        sp.compute(sp.open(tmp_path / "m"))


def test_a_router_is_not_made_again(tmp_path, broken):
    """One that was made elsewhere would be lost."""
    assert kept(tmp_path / "x.safetensors") is None
    broken("lstat", tmp_path / "x.safetensors")
    broken("stat", tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="Input/output error"):
        kept(tmp_path / "x.safetensors")


def test_data_of_a_suite(tmp_path, broken):
    """Told with its line, like everything else that is wrong with a suite."""
    (tmp_path / "suite.yml").write_text("tasks:\n  t: {kind: perplexity, split: {report: a.txt}}\n")
    (tmp_path / "a.txt").write_text("text\n")
    broken("stat", tmp_path / "a.txt")
    with pytest.raises(RecipeError, match="Input/output error") as caught:
        load_suite(tmp_path / "suite.yml")
    assert caught.value.problems[0].line == 2
