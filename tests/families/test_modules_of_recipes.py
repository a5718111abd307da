"""Recipes with several modules, and merging by component: encoder and decoder, towers, components of a pipeline."""

from __future__ import annotations

import json

import numpy as np
import pytest
from zoo import FAMILIES

import stockpot as sp
from files import read_model, write_model
from stockpot.architecture.modules import Modules
from stockpot.execute.reproduce import reproduce

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from running import loaded, outputs  # noqa: E402 - needs both


def merged(tmp_path, recipe, name="out"):
    """The folder that a recipe makes."""
    (tmp_path / f"{name}.yml").write_text(json.dumps(recipe))
    sp.merge(tmp_path / f"{name}.yml", tmp_path / name)
    return tmp_path / name


def weighted(folders, *weights):
    """A module of whole models with weights."""
    return {"models": [{"model": str(f), "parameters": {"weight": w}} for f, w in zip(folders, weights, strict=True)]}


CASES = {
    "t5": {"encoder": "encoder.", "decoder": ("decoder.", "shared.", "lm_head.")},
    "whisper": {"audio_encoder": "model.encoder.", "text_decoder": ("model.decoder.", "proj_out.")},
    "clip": {"text_model": ("text_model.",), "vision_model": "vision_model."},
    "llava": {"text_decoder": "language_model.", "vision_tower": "vision_tower."},
    "gemma3-vision": {"text_decoder": "language_model.", "vision_tower": "vision_tower."},
    "qwen2-vl": {"text_decoder": ("model.", "lm_head."), "vision_tower": "visual."},
}
"""Family → module → what the names of its tensors begin with."""


@pytest.mark.parametrize("family", CASES)
def test_each_module_is_merged_in_its_own_way(family, zoo, tmp_path):
    """One module half and half, one a quarter and three; what belongs to none is the base's; it loads and runs."""
    folders = [zoo.saved(family, seed) for seed in range(2)]
    one, two = CASES[family]
    weights = {one: (0.5, 0.5), two: (0.25, 0.75)}
    recipe = {
        "merge_method": "linear",
        "base_model": str(folders[0]),
        "modules": {module: weighted(folders, *w) for module, w in weights.items()},
    }
    out = merged(tmp_path, recipe)
    made, a, b = (read_model(f) for f in (out, *folders))
    assert made.keys() == a.keys()
    for name, value in made.items():
        module = next((m for m, begins in CASES[family].items() if name.startswith(begins)), None)
        x, y = weights.get(module, (1.0, 0.0))
        expected = (
            x * a[name].astype(np.float64) + y * b[name].astype(np.float64) if value.dtype.kind == "f" else a[name]
        )
        assert np.allclose(value, expected, atol=1e-6), name
    assert torch.isfinite(outputs(family, loaded(family, out))).all()
    assert reproduce(out, tmp_path / "again").differences == ()


@pytest.mark.parametrize("family", ["t5", "whisper"])
def test_layers_of_each_module(family, zoo, tmp_path):
    """``layer_range`` in a module means its own layers, without ``stack``; both counts are right."""
    folders = [zoo.saved(family, seed) for seed in range(2)]
    one, two = CASES[family]

    def slices(*ranges):
        return {"slices": [{"sources": [{"model": str(f), "layer_range": r}]} for f, r in ranges]}

    modules = {
        one: slices((folders[0], [0, 2]), (folders[1], [1, 2])),
        two: slices((folders[0], [0, 2]), (folders[1], [0, 2])),
    }
    out = merged(tmp_path, {"merge_method": "passthrough", "modules": modules})
    config = json.loads((out / "config.json").read_text())
    assert [config[key] for key in FAMILIES[family].stacks.values()] == [3, 4]
    assert torch.isfinite(outputs(family, loaded(family, out))).all()
    assert reproduce(out, tmp_path / "again").differences == ()


def test_what_no_module_holds_is_told(zoo, tmp_path):
    """A projector that nobody names is the base's, and a note names it."""
    folders = [zoo.saved("llava", seed) for seed in range(2)]
    recipe = {
        "merge_method": "linear",
        "modules": {"text_decoder": weighted(folders, 0.5, 0.5), "vision_tower": weighted(folders, 0.5, 0.5)},
    }
    (tmp_path / "recipe.yml").write_text(json.dumps(recipe))
    (note,) = (n.message for n in sp.plan(tmp_path / "recipe.yml").notes if "no module holds" in n.message)
    assert "multi_modal_projector.linear_1" in note
    assert str(folders[0]) in note


def test_the_projector_is_a_module_too(zoo, tmp_path):
    """``multi_modal_projector`` beside the towers: then nothing is left over."""
    folders = [zoo.saved("llava", seed) for seed in range(2)]
    names = ("text_decoder", "vision_tower", "multi_modal_projector")
    recipe = {"merge_method": "linear", "modules": {name: weighted(folders, 0.5, 0.5) for name in names}}
    out = merged(tmp_path, recipe)
    expected = sp.compute(sp.linear(*map(sp.open, folders)))
    assert {n: v.tobytes() for n, v in read_model(out).items()} == {n: v.tobytes() for n, v in expected.items()}


def test_an_unknown_module_is_refused_with_those_there_are(zoo, tmp_path):
    """The error names the module and the model's parts."""
    folders = [zoo.saved("llava", seed) for seed in range(2)]
    recipe = {
        "merge_method": "linear",
        "modules": {"text_decoder": weighted(folders, 0.5, 0.5), "audio_tower": weighted(folders, 0.5, 0.5)},
    }
    (tmp_path / "recipe.yml").write_text(json.dumps(recipe))
    with pytest.raises(sp.PlanError, match="has no module audio_tower") as told:
        sp.plan(tmp_path / "recipe.yml")
    assert all(part in str(told.value) for part in ("language_model", "vision_tower", "multi_modal_projector"))


def test_components_of_a_pipeline_are_modules(tmp_path):
    """``unet`` and ``vae`` of a model in several folders."""
    rng = np.random.default_rng(0)
    folders = []
    for seed in range(2):
        folders.append(tmp_path / f"pipeline-{seed}")
        for part in ("unet", "vae"):
            arrays = {"conv_in.weight": rng.normal(size=(2, 3)).astype(np.float32)}
            write_model(folders[-1] / part, arrays, config={})
        (folders[-1] / "model_index.json").write_text('{"unet": ["diffusers", "U"], "vae": ["diffusers", "V"]}')
    modules = {"unet": weighted(folders, 0.5, 0.5), "vae": weighted(folders, 1.0, 0.0)}
    out = merged(tmp_path, {"merge_method": "linear", "modules": modules})
    a, b = ({part: read_model(f / part)["conv_in.weight"] for part in ("unet", "vae")} for f in folders)
    assert np.allclose(read_model(out / "unet")["conv_in.weight"], (a["unet"] + b["unet"]) / 2)
    assert read_model(out / "vae")["conv_in.weight"].tobytes() == a["vae"].tobytes()


@pytest.mark.parametrize(
    "case", [("t5", "decoder."), ("clip", "vision_model."), ("whisper", "model.encoder.")], ids="-".join
)
def test_merging_by_component_with_filters(case, zoo, tmp_path):
    """A filter picks an encoder or a tower; all else is the base's, byte for byte."""
    family, prefix = case
    folders = [zoo.saved(family, seed) for seed in range(2)]
    weight = [{"filter": prefix, "value": 1.0}, {"value": 0.0}]
    models = [{"model": str(folders[1]), "parameters": {"weight": weight}}]
    recipe = {"merge_method": "task_arithmetic", "base_model": str(folders[0]), "models": models}
    out = merged(tmp_path, recipe)
    made, a, b = (read_model(f) for f in (out, *folders))
    for name, value in made.items():
        wanted = b[name] if name.startswith(prefix) else a[name]
        assert np.allclose(value, wanted, atol=1e-6), name
    assert torch.isfinite(outputs(family, loaded(family, out))).all()


@pytest.mark.parametrize(
    ("module", "names", "owner"),
    [
        ("language_model", ["model.language_model.layers.0.w.x", "model.visual.blocks.0.w.x"], "model.language_model"),
        ("visual", ["model.language_model.layers.0.w.x", "model.visual.blocks.0.w.x"], "model.visual"),
        ("vision_encoder", ["model.language_model.layers.0.w.x", "model.visual.blocks.0.w.x"], "model.visual"),
        ("text_decoder", ["model.language_model.layers.0.w.x", "model.visual.blocks.0.w.x"], "model.language_model"),
        ("encoder", ["model.encoder.layers.0.w.x", "model.decoder.layers.0.w.x"], "model.encoder"),
        ("nonsense", ["model.encoder.layers.0.w.x", "model.decoder.layers.0.w.x"], ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_name_means(module, names, owner):
    """A component of a name as it is; else the tower that the name speaks of; else nothing."""
    assert Modules.of([module], names, {}).prefixes[module] == owner
