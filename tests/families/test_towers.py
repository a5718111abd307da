"""A language model and a model of language and images: merged in the latter's names, which keeps its other towers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from zoo import DECODER, FAMILIES

import stockpot as sp
from files import read_model, write_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from running import continued, loaded, outputs  # noqa: E402 - needs both

PREFIXES = {
    "llava": ("", "language_model."),
    "gemma3-vision": ("", "language_model."),
    "qwen2-vl": ("model.", "model."),
}
"""What a language model's names begin with, and what the larger model's do instead."""


def language_model(zoo, family, seed, place):
    """The language model of a model of language and images, with the names that it has alone, other weights in it."""
    folder = zoo.saved(family, seed)
    taken, put = PREFIXES[family]
    stored = read_model(folder)
    text = {n: a for n, a in stored.items() if n.startswith(put) and not n.startswith("visual")}
    text |= {n: a for n, a in stored.items() if n == "lm_head.weight"}
    arrays = {(taken + n.removeprefix(put) if n.startswith(put) else n): a for n, a in text.items()}
    config = json.loads((folder / "config.json").read_text())
    write_model(place, arrays, config={**config["text_config"]})
    assert len(arrays) < len(stored)
    return place, folder


@pytest.fixture
def pairs(zoo, tmp_path):
    """A model of language and images, a language model, and the larger model that this was taken from."""

    def made(family):
        language, whole = language_model(zoo, family, 1, tmp_path / "lm")
        return zoo.saved(family, 0), language, whole

    return made


def is_text(family, name):
    _, put = PREFIXES[family]
    return (name.startswith(put) and not name.startswith("visual")) or name == "lm_head.weight"


@pytest.mark.parametrize("family", PREFIXES)
def test_the_language_model_is_merged_the_rest_is_kept(family, pairs, tmp_path):
    """As merging with the model that it was taken from, the images' tensors byte for byte; it loads and runs."""
    vlm, lm, whole = pairs(family)
    for kind, merge in {
        "linear": lambda a, b: 0.6 * a + 0.4 * b,
        "slerp": lambda a, b: sp.slerp(a, b, t=0.4),
        "base": lambda a, b: a + 0.7 * sp.ties(b - a, density=0.5),
    }.items():
        sp.save(merge(sp.open(vlm), sp.open(lm)), tmp_path / kind)
        made, expected, before = (
            read_model(tmp_path / kind),
            sp.compute(merge(sp.open(vlm), sp.open(whole))),
            read_model(vlm),
        )
        assert made.keys() == before.keys()
        for name, value in made.items():
            wanted = expected[name] if is_text(family, name) else before[name]
            assert value.tobytes() == wanted.tobytes(), name
        model = loaded(family, tmp_path / kind)
        assert torch.isfinite(outputs(family, model)).all()
        continued(family, model)


@pytest.mark.parametrize("family", PREFIXES)
def test_the_plan_tells_what_was_matched(family, pairs):
    """One note names the prefixes, where they differ; one names what is kept, and how many tensors."""
    vlm, lm, _ = pairs(family)
    notes = [note.message for note in sp.plan(0.5 * sp.open(vlm) + 0.5 * sp.open(lm)).notes]
    kept = next(note for note in notes if "has nothing of" in note)
    count = sum(not is_text(family, name) for name in read_model(vlm))
    assert f"these {count} tensors" in kept
    assert "vis" in kept
    assert str(vlm) in kept
    assert any("is language_model.…" in note for note in notes) is (PREFIXES[family][0] != PREFIXES[family][1])


@pytest.mark.parametrize("factor", [0.8, 1.5])
def test_a_difference_of_language_models_on_the_larger_model(factor, pairs, zoo, tmp_path):
    """vlm + λ (lm − base): what neither has changes by nothing; whatever the factor, the result is the larger model."""
    vlm, lm, _ = pairs("llava")
    base, _ = language_model(zoo, "llava", 2, tmp_path / "base")
    a, b, c = (sp.open(p) for p in (vlm, lm, base))
    sp.save(a + factor * (b - c), tmp_path / "out")
    made, x, y, z = (read_model(p) for p in (tmp_path / "out", vlm, lm, base))
    for name, value in made.items():
        if name.startswith("language_model."):
            short = name.removeprefix("language_model.")
            wanted = x[name].astype(np.float64) + factor * y[short].astype(np.float64) - factor * z[short]
            assert np.allclose(value, wanted, atol=1e-6)
        else:
            assert value.tobytes() == x[name].tobytes()
    assert (tmp_path / "out" / "config.json").read_text().count("vision_config")
    for merged in (a + sp.ties(b - c, density=0.5), a + 0.5 * sp.ties(b - c, c - b, density=0.5)):
        found = sp.compute(merged)
        assert all(found[n].tobytes() == x[n].tobytes() for n in x if not n.startswith("language_model."))


def test_task_arithmetic_from_the_language_models_base(pairs, zoo, tmp_path):
    """base_model: the language model's base; the larger model among the models gives names, config and images."""
    vlm, lm, _ = pairs("llava")
    base, _ = language_model(zoo, "llava", 2, tmp_path / "base")
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(base),
        "models": [
            {"model": str(lm), "parameters": {"weight": 0.5}},
            {"model": str(vlm), "parameters": {"weight": 1.0}},
        ],
    }
    (tmp_path / "recipe.yml").write_text(json.dumps(recipe))
    sp.merge(tmp_path / "recipe.yml", tmp_path / "out")
    a, b, c = (sp.open(p) for p in (vlm, lm, base))
    expected, made = sp.compute(a + 0.5 * (b - c)), read_model(tmp_path / "out")
    assert made.keys() == expected.keys()
    assert all(np.allclose(made[n], expected[n], atol=1e-6) for n in made)
    assert loaded("llava", tmp_path / "out").config.model_type == "llava"
    from stockpot.execute.reproduce import reproduce

    assert reproduce(tmp_path / "out", tmp_path / "again").differences == ()


def in_memory(family, folder, place):
    """The model with the names that it has in memory."""
    arrays = {name: tensor.numpy() for name, tensor in loaded(family, folder).state_dict().items()}
    stored = read_model(folder).keys()
    if not any(name.endswith("lm_head.weight") for name in stored):
        del arrays["lm_head.weight"]  # tied to the embedding
    assert arrays.keys() != stored
    return write_model(place, arrays, config=json.loads((folder / "config.json").read_text()))


@pytest.mark.parametrize("family", PREFIXES)
def test_two_spellings_of_a_model_of_language_and_images(family, zoo, tmp_path):
    """``language_model.model.layers`` and ``model.language_model.layers``: either merges with the other."""
    folders = [zoo.saved(family, seed) for seed in range(2)]
    others = [in_memory(family, folder, tmp_path / str(i)) for i, folder in enumerate(folders)]
    for ones, twos in ((folders, others), (others, folders)):
        mixed = sp.compute(sp.linear(sp.open(ones[0]), sp.open(twos[1])))
        alike = sp.compute(sp.linear(sp.open(ones[0]), sp.open(ones[1])))
        assert {n: v.tobytes() for n, v in mixed.items()} == {n: v.tobytes() for n, v in alike.items()}


def test_a_language_model_in_the_newer_spelling(pairs, tmp_path):
    """``model.layers`` is ``model.language_model.layers``; head and embedding find their places; it loads and runs."""
    vlm, lm, whole = pairs("llava")
    newer, other = (in_memory("llava", f, tmp_path / n) for f, n in ((vlm, "newer"), (whole, "other")))
    sp.save(0.6 * sp.open(newer) + 0.4 * sp.open(lm), tmp_path / "out")
    made, expected, before = (
        read_model(tmp_path / "out"),
        sp.compute(0.6 * sp.open(newer) + 0.4 * sp.open(other)),
        read_model(newer),
    )
    for name, value in made.items():
        text = name.startswith(("model.language_model.", "lm_head."))
        assert value.tobytes() == (expected if text else before)[name].tobytes()
    assert torch.isfinite(outputs("llava", loaded("llava", tmp_path / "out"))).all()


def test_names_of_a_bare_model(zoo, tmp_path):
    """``h.0.…`` and ``transformer.h.0.…`` are the same model; the plan says which is taken for which."""
    folder = zoo.saved("gpt2", 1)
    bare = {n.removeprefix("transformer."): a for n, a in read_model(folder).items()}
    write_model(tmp_path / "bare", bare, config=json.loads((folder / "config.json").read_text()))
    a, b = sp.open(zoo.saved("gpt2", 0)), sp.open(tmp_path / "bare")
    made, expected = sp.compute(sp.linear(a, b)), sp.compute(sp.linear(a, sp.open(folder)))
    assert {n: v.tobytes() for n, v in made.items()} == {n: v.tobytes() for n, v in expected.items()}
    assert any("transformer." in note.message for note in sp.plan(sp.linear(a, b)).notes)


def test_a_model_that_lacks_anything_else_is_an_error(pairs, tmp_path):
    """Without its final norm a language model is not taken: the error names tensors."""
    vlm, lm, _ = pairs("llava")
    less = {n: a for n, a in read_model(lm).items() if n != "model.norm.weight"}
    with pytest.raises(sp.PlanError, match=r"lacks .* tensor"):
        sp.plan(sp.linear(sp.open(vlm), sp.open(less, name="less")))
    fewer = {n: a for n, a in read_model(lm).items() if ".layers.1." not in n}
    with pytest.raises(sp.PlanError, match=r"lacks .* tensor"):
        sp.plan(sp.linear(sp.open(vlm), sp.open(fewer, name="fewer")))


def test_other_vocabularies_are_an_error(pairs):
    """The names fit, the embedding does not: the error is that of any two models."""
    vlm, lm, _ = pairs("llava")
    arrays = dict(read_model(lm))
    arrays["model.embed_tokens.weight"] = arrays["model.embed_tokens.weight"][:-2]
    with pytest.raises(sp.PlanError, match=r"has shape \(94, 32\).*embed_tokens"):
        sp.plan(sp.linear(sp.open(vlm), sp.open(arrays, name="short")))


def test_two_stacks_that_fit_are_not_guessed():
    """A text tower and a vision tower of the same shapes: neither is taken for the language model."""
    layer = np.ones((2, 2), np.float32)
    both = {f"{tower}.layers.{i}.w.weight": layer for tower in ("text", "vision") for i in range(2)}
    alone = {f"layers.{i}.w.weight": layer for i in range(2)}
    with pytest.raises(sp.PlanError, match="lacks 4 tensor"):
        sp.plan(sp.linear(sp.open(both, name="both"), sp.open(alone, name="alone")))


def odd(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {"embed.weight": (6, 4), "h.0.w.weight": (4, 4), "h.1.w.weight": (4, 4), "score.weight": (2, 4)}
    base = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    other = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items() if n != "score.weight"}
    other["embed.weight"] = rng.normal(size=(7, 4)).astype(np.float32)
    other["extra.weight"] = np.ones(3, np.float32)
    return write_model(tmp_path / "base", base, config={}), write_model(tmp_path / "other", other, config={})


@pytest.mark.parametrize("base_last", [False, True])
def test_mismatched_tensors_are_the_bases_on_request(base_last, tmp_path):
    """``mismatched: base``: other shapes and missing tensors are the base's, more are left out, all are named."""
    base, other = odd(tmp_path)
    a, b = sp.open(base), sp.open(other)
    with pytest.raises(sp.PlanError):
        sp.plan(a + 0.5 * (b - a))
    merged = a + 0.5 * sp.ties(b - a, density=1.0) if base_last else 0.5 * a + 0.5 * b
    made = sp.compute(merged, mismatched="base")
    one, two = read_model(base), read_model(other)
    assert made.keys() == one.keys()
    for name in ("embed.weight", "score.weight"):
        assert made[name].tobytes() == one[name].tobytes()
    for name in ("h.0.w.weight", "h.1.w.weight"):
        assert np.allclose(made[name], (one[name] + two[name]) / 2, atol=1e-6)
    notes = "\n".join(n.message for n in sp.plan(merged, mismatched="base").notes)
    assert all(word in notes for word in ("embed.weight", "score.weight", "extra.weight", "2 tensors", "left out"))


def test_mismatched_in_a_recipe_and_its_receipt(tmp_path):
    """The recipe says it, the receipt keeps it, and the merge is made again byte for byte."""
    from stockpot.execute.reproduce import reproduce

    base, other = odd(tmp_path)
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(base),
        "models": [{"model": str(other), "parameters": {"weight": 0.5}}],
        "mismatched": "base",
    }
    (tmp_path / "recipe.yml").write_text(json.dumps(recipe))
    result = sp.merge(tmp_path / "recipe.yml", tmp_path / "out")
    assert result.receipt["mismatched"] == "base"
    assert result.receipt["resolved"]["documents"][-1]["mismatched"] == "base"
    assert reproduce(tmp_path / "out", tmp_path / "again").differences == ()
    (tmp_path / "recipe.yml").write_text(json.dumps({**recipe, "mismatched": "skip"}))
    with pytest.raises(sp.RecipeError, match="mismatched"):
        sp.plan(tmp_path / "recipe.yml")
    with pytest.raises(sp.PlanError, match="mismatched"):
        sp.plan(tmp_path / "recipe.yml", mismatched="skip")


def test_the_families_are_in_the_zoo():
    """The tests above run on real models, of which Llava's language model is a Llama."""
    assert set(PREFIXES) <= set(FAMILIES)
    assert DECODER["num_hidden_layers"] == 2
