"""Folders with a damaged index, or with damaged configs."""

from __future__ import annotations

import json
import struct

import fuzz_damage as damage

from stockpot.checkpoint.dtypes import DTYPES
from stockpot.checkpoint.open import open_checkpoint
from stockpot.checkpoint.sidecars import plan_sidecars

_SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
_INDEX = {"metadata": {"total_size": 8}, "weight_map": {"a": _SHARDS[0], "b": _SHARDS[0], "c": _SHARDS[1]}}
_CONFIGS = (
    {
        "model_type": "llama",
        "torch_dtype": "float32",
        "num_hidden_layers": 2,
        "tie_word_embeddings": False,
        "vocab_size": 9,
        "architectures": ["LlamaForCausalLM"],
        "rope_scaling": {"factor": 8.0, "type": "linear"},
        "_name_or_path": "../x",
    },
    {
        "model_type": "x",
        "text_config": {"model_type": "y", "num_hidden_layers": 3, "dtype": "float16"},
        "vision_config": {},
    },
    {"model_type": "mamba2", "time_step_limit": [0.0, float("inf")], "auto_map": {"AutoModel": "evil--x.Y"}},
    [{"idx": 0, "path": "", "type": "a"}, {"idx": 1, "path": "1_Pooling", "type": "b"}],
)


def make_index(chance):
    """An index, damaged."""
    return _damaged(chance, _INDEX, _INDEX)


def make_config(chance):
    """A config or a list of modules, damaged."""
    return _damaged(chance, chance.choice(_CONFIGS), chance.choice(_CONFIGS))


def _damaged(chance, value, other):
    text = damage.of_json(chance, json.dumps(value), json.dumps(other), chance.choice((0, 1, 1, 2, 3, 6)))
    data = text.encode("utf-8", "surrogatepass")
    return damage.of_bytes(chance, data) if chance.random() < 0.2 else data


def read_index(path):
    """Open the folder of two shards whose index ``path`` is; tensors come from these shards alone."""
    folder = _folder(path, _SHARDS)
    path.replace(folder / "model.safetensors.index.json")
    found = open_checkpoint(str(folder))
    assert {file.name for file in found.files} <= set(_SHARDS)


def read_config(path):
    """Open the folder whose config and modules ``path`` is, and correct the config for an output."""
    folder = _folder(path, ("model.safetensors",))
    (folder / "modules.json").write_bytes(path.read_bytes())
    path.replace(folder / "config.json")
    found = open_checkpoint(str(folder))
    layers = {"num_hidden_layers": 2, "text_config.num_hidden_layers": 3}
    for name, content in plan_sidecars(found, dtype=DTYPES["BF16"], tied=True, layers=layers):
        assert ".." not in name
        assert isinstance(content, bytes) or content.parent == folder


def _folder(path, names):
    """A folder beside ``path`` with one-tensor files of these names, made once."""
    folder = path.parent / f"{path.name}-{len(names)}"
    if not folder.is_dir():
        folder.mkdir()
        for name, tensors in zip(names, (("a", "b"), ("c",)), strict=False):
            ends = enumerate(tensors)
            header = {t: {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i, t in ends}
            body = json.dumps(header).encode()
            (folder / name).write_bytes(struct.pack("<Q", len(body)) + body + bytes(len(tensors)))
    return folder
