"""What is inferred of the families whose real configs are at hand: layers, their count, embedding and head.

The configs are not part of this repository. STOCKPOT_SHARED names the folder that holds ``configs/``; without it,
``shared/`` beside the checkout is tried. Models are made on torch's meta device, of their real size; their files hold
nothing, and take no room.
"""

from __future__ import annotations

import json
import os
import struct
from math import prod
from pathlib import Path

import pytest

import stockpot as sp
from stockpot.architecture.stacks import main_stack
from stockpot.architecture.tied import embedding_of, is_head

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

FOLDER = Path(os.environ.get("STOCKPOT_SHARED") or Path(__file__).resolve().parents[3] / "shared") / "configs"
OWN_CODE = ("phi3small",)
"""Types whose classes stand in the model's own code."""

SUMMARY = "ffn_embed_dim"
"""A key of those files that are no config.json, but somebody's summary of one."""

COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def configs() -> dict[str, Path]:
    """The first config of each type that transformers has a class for."""
    found: dict[str, Path] = {}
    for path in sorted(FOLDER.glob("*.json")) if FOLDER.is_dir() else []:
        config = json.loads(path.read_text("utf-8"))
        kind = config.get("model_type")
        if kind is not None and kind not in OWN_CODE and SUMMARY not in config:
            found.setdefault(kind, path)
    return found


FOUND = configs()


def made(config: dict) -> object:
    """The model of a config, without numbers."""
    kind, *names = config["model_type"], *(config.get("architectures") or ())
    more = {"is_decoder": True} if config.get("add_cross_attention") else {}
    own = transformers.AutoConfig.for_model(**config, **more)
    cls = getattr(transformers, names[0], None) if names else None
    with torch.device("meta"):
        if cls is not None:
            return cls(own)
        known = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        auto = transformers.AutoModelForCausalLM if kind in known and kind != "bert" else transformers.AutoModel
        return auto.from_config(own)


def stored(folder: Path, config: dict, model: object) -> dict[str, tuple[int, ...]]:
    """A folder of that model: its header, and a hole in place of its numbers."""
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items() if name not in tied}
    header, place = {}, 0
    for name, shape in shapes.items():
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [place, place + 2 * prod(shape)]}
        place += 2 * prod(shape)
    text = json.dumps(header).encode()
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + place)
    (folder / "config.json").write_text(json.dumps(config))
    return shapes


def name_of(model: object, weight: object) -> str | None:
    """The name under which a module's weight is stored."""
    return next((n for n, p in model.named_parameters(remove_duplicate=False) if p is weight), None)


@pytest.mark.skipif(not FOUND, reason="the real configs are absent: set STOCKPOT_SHARED to the folder of configs/")
@pytest.mark.parametrize("kind", list(FOUND) or ["none"])
def test_a_real_config(kind: str, tmp_path: Path) -> None:
    """Layers are counted as the config counts them, and stacked; embedding and head are known by name."""
    config = json.loads(FOUND[kind].read_text("utf-8"))
    model = made(config)
    shapes = stored(tmp_path / "model", config, model)
    inner, outer = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(inner, torch.nn.Embedding) and kind != "vit":
        assert embedding_of(shapes) == name_of(model, inner.weight)
    if outer is not None:
        head = name_of(model, outer.weight)
        assert is_head(head) or head == embedding_of(shapes)
    if kind == "t5":
        count, parts = config["num_layers"], {"stack": "decoder.block"}
    else:
        found = main_stack(shapes, config)
        assert found is not None
        count, parts = found[1], {}
    assert count == next(config[key] for key in COUNTS if key in config)
    whole = sp.open(tmp_path / "model")
    same = sp.stack(sp.layers(whole, 0, count // 2, **parts), sp.layers(whole, count // 2, count, **parts))
    assert {s.name: s.shape for s in sp.plan(same).steps} == shapes
    taller = sp.stack(whole if not parts else sp.layers(whole, 0, count, **parts), sp.layers(whole, 1, count, **parts))
    written = json.loads(dict(sp.plan(taller).sidecars)["config.json"])
    assert 2 * count - 1 in [written.get(key) for key in (*COUNTS, "num_decoder_layers")]
