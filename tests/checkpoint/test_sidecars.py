"""What is written beside the tensors: a true config, and the donor's small files and no others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stockpot.checkpoint import DTYPES, Checkpoint, from_arrays, open_checkpoint, plan_sidecars
from stockpot.checkpoint.sidecars import MAX_SIDECAR_BYTES
from stockpot.errors import CheckpointError

BF16 = DTYPES["BF16"]
Donor = Callable[..., Checkpoint]


@pytest.fixture
def donor(tmp_path: Path, save: Callable[..., Path]) -> Donor:
    """A function that makes a donor with this config and these other files."""

    def make(config: dict[str, Any] | str | None = None, *files: str) -> Checkpoint:
        save(tmp_path / "model.safetensors", {"w": np.ones(2, np.float32)})
        if config is not None:
            text = config if isinstance(config, str) else json.dumps(config)
            (tmp_path / "config.json").write_text(text)
        for name in files:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        return open_checkpoint(str(tmp_path))

    return make


def config_of(checkpoint: Checkpoint, **changes: Any) -> dict[str, Any]:
    """The config that is planned, whether made or copied."""
    content = dict(plan_sidecars(checkpoint, **changes))["config.json"]
    text = content if isinstance(content, bytes) else content.read_bytes()
    found: dict[str, Any] = json.loads(text)
    return found


def test_unchanged_config_is_copied_as_it_is(donor: Donor, tmp_path: Path) -> None:
    """A config that is already true keeps its bytes."""
    checkpoint = donor('{"model_type":   "llama", "torch_dtype": "bfloat16"}')
    assert plan_sidecars(checkpoint, dtype=BF16) == (("config.json", tmp_path / "config.json"),)


@pytest.mark.parametrize("key", ["torch_dtype", "dtype"])
def test_dtype_keeps_the_donors_key(donor: Donor, key: str) -> None:
    """Old and new spelling of the dtype's key stay as they are; both are set if both are there."""
    checkpoint = donor({"model_type": "llama", key: "float32", "hidden_size": 4})
    assert config_of(checkpoint, dtype=BF16) == {
        "model_type": "llama",
        key: "bfloat16",
        "hidden_size": 4,
    }
    both = donor({"model_type": "llama", "torch_dtype": "float32", "dtype": "float32"})
    assert config_of(both, dtype=BF16) == {
        "model_type": "llama", "torch_dtype": "bfloat16", "dtype": "bfloat16",
    }  # fmt: skip


def test_dtype_is_added_where_it_is_missing(donor: Donor) -> None:
    """A model's config without dtype gets one, for else transformers loads it as float32."""
    assert config_of(donor({"model_type": "gpt2"}), dtype=BF16)["torch_dtype"] == "bfloat16"
    assert config_of(donor({"some_tool": 1}), dtype=BF16) == {"some_tool": 1}


def test_nested_configs(donor: Donor) -> None:
    """Parts of multimodal models are corrected too; how the model was quantised is left alone."""
    config = {
        "model_type": "llava",
        "torch_dtype": "float32",
        "_name_or_path": "secret/path",
        "text_config": {"torch_dtype": "float32", "_name_or_path": "x", "num_hidden_layers": 2},
        "vision_config": {"dtype": "float32", "deep_config": {"dtype": "float32"}},
        "encoder": {"model_type": "bert", "torch_dtype": "float32"},
        "quantization_config": {"dtype": "float32", "quant_method": "x"},
        "task_specific_params": {"dtype": "kept"},
    }
    assert config_of(donor(config), dtype=BF16, layers={"num_hidden_layers": 5}) == {
        "model_type": "llava",
        "torch_dtype": "bfloat16",
        "text_config": {"torch_dtype": "bfloat16", "num_hidden_layers": 5},
        "vision_config": {"dtype": "bfloat16", "deep_config": {"dtype": "bfloat16"}},
        "encoder": {"model_type": "bert", "torch_dtype": "bfloat16"},
        "quantization_config": {"dtype": "float32", "quant_method": "x"},
        "task_specific_params": {"dtype": "kept"},
    }


def test_number_of_layers(donor: Donor) -> None:
    """The caller says which keys change; any key and any value will do, also by path."""
    checkpoint = donor({"model_type": "gpt2", "n_layer": 2, "layer_types": ["a", "a"], "text_config": {"n": 1}})
    changes = {"n_layer": 3, "layer_types": ["a"] * 3, "text_config.n": 9}
    found = config_of(checkpoint, layers=changes)
    assert (found["n_layer"], found["layer_types"], found["text_config"]) == (
        3,
        ["a"] * 3,
        {"n": 9},
    )


def test_a_path_that_is_not_in_the_config(donor: Donor) -> None:
    """A nested key that is not there yet is added; one through a value is refused."""
    checkpoint = donor({"model_type": "x", "number": 1})
    assert config_of(checkpoint, layers={"new.n": 2})["new"] == {"n": 2}
    with pytest.raises(CheckpointError, match="cannot set"):
        plan_sidecars(checkpoint, layers={"number.n": 2})


def test_folders_that_hold_no_settings(donor: Donor) -> None:
    """Folders of a hundred files, or nested very deeply, are no part of a model."""
    many = [f"data/{number}.txt" for number in range(100)]
    planned = dict(plan_sidecars(donor({"model_type": "x"}, *many, "a/b/c/d/e/f.txt", "a/b/x.txt")))
    assert sorted(planned) == ["a/b/x.txt", "config.json"]


def test_the_donor_is_not_changed(donor: Donor) -> None:
    """Planning leaves the donor's own config as it was."""
    checkpoint = donor({"model_type": "llama", "text_config": {"dtype": "float32"}, "_name_or_path": "x"})
    before = json.dumps(checkpoint.config)
    plan_sidecars(checkpoint, dtype=BF16, layers={"text_config.n": 1})
    assert json.dumps(checkpoint.config) == before


def test_tied_embeddings(donor: Donor) -> None:
    """Whether the embeddings are tied is written where it stands, or at the top."""
    assert config_of(donor({"model_type": "llama"}), tied=False)["tie_word_embeddings"] is False
    nested = donor({"model_type": "x", "text_config": {"tie_word_embeddings": True}})
    assert config_of(nested, tied=False) == {
        "model_type": "x",
        "text_config": {"tie_word_embeddings": False},
    }
    assert config_of(donor({"model_type": "llama"})) == {"model_type": "llama"}


def test_infinity_and_umlauts_survive(donor: Donor) -> None:
    """Numbers that JSON lacks but configs hold, and text that is not ASCII, come through."""
    text = '{"model_type": "mamba", "limit": [0.0, Infinity], "eps": 1e-05, "author": "Jürgen"}'
    found = dict(plan_sidecars(donor(text), dtype=BF16))["config.json"]
    assert isinstance(found, bytes)
    assert json.loads(found)["limit"] == [0.0, float("inf")]
    assert "Jürgen" in found.decode()
    assert "1e-05" in found.decode()


def test_which_files_are_copied(donor: Donor, tmp_path: Path) -> None:
    """Everything small that belongs to the model, and nothing of its training or its page."""
    wanted = [
        "added_tokens.json", "additional_chat_templates/tools.jinja", "chat_template.jinja",
        "configuration_mine.py", "generation_config.json", "LICENSE", "merges.txt",
        "modeling_mine.py",
        "preprocessor_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer.model",
        "tokenizer_config.json", "vocab.json", "assets/normalizer/rules.txt",
    ]  # fmt: skip
    unwanted = [
        "README.md", ".gitattributes", ".cache/x.json", "model.safetensors.index.json",
        "pytorch_model.bin",
        "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth",
        "trainer_state.json",
        "model.gguf", "tf_model.h5", "flax_model.msgpack", "onnx/config.json",
        "checkpoint-500/config.json",
        "original/params.json", "runs/events.out.tfevents.1", "unet/config.json",
        "unet/diffusion_pytorch_model.bin", "__pycache__/modeling_mine.pyc", "mergekit_config.yml",
        "adapter_config.json", "plot.png", "all_results.json",
    ]  # fmt: skip
    checkpoint = donor({"model_type": "llama"}, *wanted, *unwanted)
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(MAX_SIDECAR_BYTES + 1)
    planned = dict(plan_sidecars(checkpoint))
    assert sorted(planned) == sorted([*wanted, "config.json"])
    assert all(planned[name] == tmp_path / name for name in wanted)


def test_sentence_transformers(donor: Donor, tmp_path: Path) -> None:
    """Modules that modules.json names are copied whole, pictures and all: the model would not load without."""
    files = ["1_Pooling/config.json", "2_Words/vocab.json", "2_Words/words.png", "3_Other/model.bin"]
    modules = [{"idx": 0, "path": ""}, {"idx": 1, "path": "1_Pooling"}, {"idx": 2, "path": "2_Words"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    planned = dict(plan_sidecars(donor({"model_type": "bert"}, *files)))
    assert sorted(planned) == sorted(["config.json", "modules.json", *files[:3]])


@pytest.mark.parametrize("content", ["{", "{}", '[1, {"path": 3}, {"path": "../.."}]', "[" * 100_000])
def test_odd_modules_json(donor: Donor, tmp_path: Path, content: str) -> None:
    """A modules.json that is something else is only a file to copy."""
    (tmp_path / "modules.json").write_text(content)
    assert sorted(dict(plan_sidecars(donor({"model_type": "bert"})))) == [
        "config.json",
        "modules.json",
    ]


def test_link_that_leads_out(donor: Donor, tmp_path: Path) -> None:
    """A link to a file elsewhere is not copied into a folder that may be published."""
    checkpoint = donor({"model_type": "llama"})
    (tmp_path / "vocab.txt").symlink_to("/etc/passwd")
    with pytest.raises(CheckpointError, match="leads out of its folder"):
        plan_sidecars(checkpoint)


def test_without_a_folder() -> None:
    """Arrays in memory have nothing beside them; a config that they carry is written."""
    bare = from_arrays("x", {"w": np.ones(2, np.float32)})
    assert plan_sidecars(bare, dtype=BF16) == ()
    with_config = Checkpoint("x", bare.tensors, config={"model_type": "gpt2"})
    assert config_of(with_config, dtype=BF16) == {"model_type": "gpt2", "torch_dtype": "bfloat16"}


def test_real_configs(shared: Path) -> None:
    """Real configs keep every key but those that must change."""
    files = sorted((shared / "configs").glob("*.json"))
    assert len(files) > 50
    for path in files:
        config = json.loads(path.read_text())
        found = config_of(Checkpoint("x", {}, config=config), dtype=DTYPES["F16"])
        changed = {k for k in config.keys() | found.keys() if config.get(k) != found.get(k)}
        assert changed <= {
            "torch_dtype",
            "dtype",
            "_name_or_path",
            "text_config",
            "vision_config",
        }, path.name
        assert [k for k in found if k in config] == [k for k in config if k in found]
        if "model_type" in config:
            assert "float16" in {found.get("torch_dtype"), found.get("dtype")}
