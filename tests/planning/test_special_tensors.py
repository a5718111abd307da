"""Tensors that are not plain weights: integers, tied heads, buffers that come and go, masks of infinities."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest

import stockpot as sp
from files import read_model, write_model
from given import forms, takes
from given import merged as merge_of
from reference import cast_once, weights, widened
from stockpot.methods.declare import Base, Elementwise, Matrix
from stockpot.methods.registry import METHODS

EMBED, HEAD, LAYER = "model.embed_tokens.weight", "lm_head.weight", "model.layers.0.w"


def language_model(seed, *, head=None, code="F32", **more):
    """Embedding, one layer, norm; a head unless it is left to the embedding."""
    rng = np.random.default_rng(seed)
    arrays = {
        EMBED: weights(rng, (6, 4), code),
        LAYER: weights(rng, (4, 4), code),
        "model.norm.weight": weights(rng, 4, code),
    }
    if head is not None:
        arrays[HEAD] = arrays[EMBED] if head == "same" else weights(rng, (6, 4), code)
    return arrays | more


FORMS = [f for f in forms() if isinstance(f.method.family, Elementwise | Matrix)]


def merges(base, a, b):
    """One merge by every method, by name."""
    return {
        "linear": sp.linear(base, a, b),
        "sum": 0.5 * base + 0.25 * a + 0.25 * b,
        "task_arithmetic": base + sp.task_arithmetic(a - base, b - base),
        "wise_ft": sp.wise_ft(base, a),
        "slerp": sp.slerp(base, a, t=0.5),
        "nuslerp": base + sp.nuslerp(a - base, b - base, weight=1.0),
        "model_stock": base + sp.model_stock(a - base, b - base),
        "ties": base + 0.5 * sp.ties(a - base, b - base, density=0.5),
        "dare_linear": base + sp.dare_linear(a - base, b - base, density=0.5),
        "dare_ties": base + sp.dare_ties(a - base, b - base, density=0.5),
        "passthrough": sp.passthrough(base, scale=0.5),
        "multislerp": base + sp.multislerp(a - base, b - base),
        "karcher": sp.karcher(base, a, b),
        "warp": base + sp.warp(a - base, b - base),
        "geometric_median": sp.geometric_median(base, a, b),
        "perpendicular": base + sp.perpendicular(a - base, b - base),
        "cosine_weighted": sp.cosine_weighted(base, a),
        "lines": base + sp.lines(a - base, b - base, alpha=0.2, beta=0.5),
        "lm_cocktail": sp.lm_cocktail(base, a, b, loss=[1.0, 2.0, 3.0]),
        "wsm": sp.wsm(base, a, b),
        "ema": sp.ema(base, a, b, decay=0.5),
        "merge of merges": sp.linear(base + sp.ties(a - base), sp.slerp(base, b, t=0.5)),
        **{str(form): elementwise(form, base, a, b) for form in FORMS},
    }


def elementwise(form, base, a, b):
    """An elementwise method on as many of two models as it takes; a density that drops something."""
    share = {"density": 0.5} if takes(form.method, "density") else {}
    models = [a, b][: form.method.at_most] if form.method.base is Base.REQUIRED else [base, a, b]
    return merge_of(form.method, base, models, **share, **form.parameters)


KINDS = list(merges(*(sp.open({"w": np.ones(1)}, name=n) for n in "xyz")))


def test_every_method_is_among_them():
    """What is promised here is tested with each registered method."""
    assert set(METHODS) <= set(KINDS) | {form.method.name for form in FORMS}


@pytest.mark.parametrize("kind", KINDS)
def test_integers_and_booleans_are_those_of_the_base(kind):
    """Token ids, counters and masks are copied from the base, bit for bit, whatever the other models hold."""

    def made(seed):
        rng = np.random.default_rng(seed)
        return sp.open(
            {
                "w": rng.random(5).astype(np.float32) + seed,
                "ids": rng.integers(-9, 9, 7),
                "mask": rng.random(9) < 0.5,
                "bytes": rng.integers(0, 255, (2, 3)).astype(np.uint8),
                "steps": np.array(seed, np.int32),
            },
            name=str(seed),
        )

    base, a, b = (made(seed) for seed in (1, 2, 3))
    found = sp.compute(merges(base, a, b)[kind])
    assert list(found) == list(base.checkpoint.tensors)
    own = sp.compute(sp.passthrough(base))
    for name in ("ids", "mask", "bytes", "steps"):
        assert found[name].dtype == own[name].dtype
        assert found[name].tobytes() == own[name].tobytes()
    assert sp.compute(merges(base, a, b)[kind], dtype="bfloat16")["ids"].dtype == np.int64


def test_integers_of_a_sum_follow_its_largest_share():
    """A plain sum has no base: the model with the largest share, the first of equals, gives names and integers."""
    a, b, c = (sp.open({"w": np.ones(1), "n": np.array([i])}, name=str(i)) for i in range(3))
    assert sp.compute(0.2 * a + 0.6 * b + 0.2 * c)["n"] == [1]
    assert sp.compute(0.5 * a + 0.5 * b)["n"] == [0]
    assert sp.compute(-1.0 * a + 1.0 * b + 1.0 * c)["n"] == [1]


def test_a_factor_above_one_does_not_change_what_the_base_is(tmp_path):
    """base + 2 × (…) has the base's dtype, integers and files, not those of a model in the difference."""
    for i, (name, code) in enumerate((("base", "BF16"), ("a", "F32"), ("b", "F16"))):
        rng = np.random.default_rng(i)
        write_model(tmp_path / name, {"w": weights(rng, 4, code), "n": np.array([i])}, config={"model_type": name})
    base, a, b = (sp.open(tmp_path / n) for n in ("base", "a", "b"))
    for merged in (base + 2.0 * sp.ties(a - base, b - base), 3.0 * sp.task_arithmetic(a - b, b - base) + base):
        made = sp.save(merged, tmp_path / "out", overwrite=True).folder
        arrays = read_model(made)
        assert (arrays["w"].dtype, arrays["n"].tolist()) == (cast_once(0.0, "BF16").dtype, [0])
        assert json.loads((made / "config.json").read_text())["model_type"] == "base"


def on_disk(folder, arrays, *, tie):
    return sp.open(write_model(folder, arrays, config={"model_type": "llama", "tie_word_embeddings": tie}))


def test_a_head_that_is_tied_in_all_models_is_not_written(tmp_path):
    """Without a stored head anywhere there is none in the result, and the config stays tied."""
    a, b = (on_disk(tmp_path / n, language_model(i), tie=True) for i, n in enumerate("ab"))
    sp.save(0.5 * a + 0.5 * b, tmp_path / "out")
    assert HEAD not in read_model(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is True


@pytest.mark.parametrize("first", ["stored", "missing"])
def test_a_redundant_copy_of_a_tied_head_stays_the_embedding(first, tmp_path):
    """One model stores its tied head, another does not: where the result has one, it is the merged embedding."""
    stored = on_disk(tmp_path / "stored", language_model(0, head="same"), tie=True)
    missing = on_disk(tmp_path / "missing", language_model(1), tie=True)
    base, other = (stored, missing) if first == "stored" else (missing, stored)
    for kind, merged in merges(base, other, sp.open(tmp_path / "missing")).items():
        made = sp.compute(merged, seed=1)
        if HEAD in made:
            assert made[HEAD].tobytes() == made[EMBED].tobytes(), kind
    assert HEAD in sp.compute(0.6 * stored + 0.4 * missing)


def test_an_untied_head_meets_the_embedding_of_a_tied_model(tmp_path):
    """A model with a head of its own, merged with a tied one: the other's embedding stands in for its head."""
    tied = on_disk(tmp_path / "tied", language_model(0), tie=True)
    own = on_disk(tmp_path / "own", language_model(1, head="own"), tie=False)
    embed, head = read_model(tmp_path / "tied")[EMBED], read_model(tmp_path / "own")[HEAD]
    for merged in (0.5 * tied + 0.5 * own, 0.5 * own + 0.5 * tied):
        made = sp.compute(merged)
        assert np.array_equal(made[HEAD], cast_once(0.5 * widened(embed) + 0.5 * widened(head), "F32"))
    sp.save(0.5 * tied + 0.5 * own, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    assert HEAD in read_model(tmp_path / "out")


def test_a_head_of_its_own_unties_a_base_that_stores_its_copy(tmp_path):
    """The base stores its tied head too, the other model has one of its own: the result is untied and says so."""
    tied = on_disk(tmp_path / "tied", language_model(0, head="same"), tie=True)
    own = on_disk(tmp_path / "own", language_model(1, head="own"), tie=False)
    sp.save(0.6 * tied + 0.4 * own, tmp_path / "out")
    made, (x, y) = read_model(tmp_path / "out"), (read_model(tmp_path / n) for n in ("tied", "own"))
    assert np.array_equal(made[HEAD], cast_once(0.6 * widened(x[HEAD]) + 0.4 * widened(y[HEAD]), "F32"))
    assert not np.array_equal(made[HEAD], made[EMBED])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False


def test_a_model_without_a_head_that_is_not_tied_to_anything_is_an_error(tmp_path):
    """A missing head with no embedding to stand in for it is a missing tensor."""
    a = sp.open({HEAD: np.ones((2, 2)), "w": np.ones(2)}, name="a")
    b = sp.open({"w": np.ones(2)}, name="b")
    with pytest.raises(sp.PlanError, match=r"(?s)b lacks 1 tensor.*lm_head"):
        sp.plan(0.6 * a + 0.4 * b)


BUFFERS = [
    "model.layers.0.self_attn.rotary_emb.inv_freq",
    "h.0.attn.masked_bias",
    "h.0.attn.bias",
    "embeddings.position_ids",
]


@pytest.mark.parametrize("name", BUFFERS)
def test_buffers_that_not_every_model_stores_are_copied_and_noted(name):
    """A recomputed buffer that one model lacks is the base's, with a note; if the base lacks it, it is left out."""
    rng = np.random.default_rng(0)
    buffer = rng.random(3).astype(np.float32)
    with_it = sp.open({"w": np.ones(2, np.float32), name: buffer}, name="with")
    without = sp.open({"w": np.zeros(2, np.float32)}, name="without")
    merged = 0.6 * with_it + 0.4 * without
    assert sp.compute(merged)[name].tobytes() == buffer.tobytes()
    assert any("buffers are copied" in str(note) for note in sp.plan(merged).notes)
    assert list(sp.compute(0.6 * without + 0.4 * with_it)) == ["w"]
    both = 0.5 * with_it + 0.5 * sp.open({"w": np.ones(2, np.float32), name: buffer * 3}, name="other")
    assert np.array_equal(sp.compute(both)[name], cast_once(widened(buffer) * 2, "F32"))
    assert not sp.plan(both).notes


@pytest.mark.parametrize("code", ["F64", "F32", "BF16", "F16", "F8_E5M2"])
@pytest.mark.parametrize("kind", [k for k in KINDS if k != "passthrough"])
def test_masks_of_infinities_that_all_models_share_survive(kind, code):
    """A causal mask stored with -inf in every model is that mask in the result, beside the merged weights."""
    mask = np.triu(np.full((5, 5), -np.inf), 1).astype(cast_once(0.0, code).dtype)
    models = [sp.open({"w": np.full(3, i + 1.0, np.float32), "mask": mask}, name=str(i)) for i in range(3)]
    made = sp.compute(merges(*models)[kind])
    assert made["mask"].astype(np.float64).tolist() == mask.astype(np.float64).tolist()
    assert np.all(np.isfinite(made["w"]))


def test_an_infinity_of_one_model_alone_is_an_error():
    """An infinite weight that the other models do not share is damage, and named with its place."""
    x = np.zeros((3, 2), np.float32)
    y = x.copy()
    y[1, 1] = np.inf
    a, b = sp.open({"w": x}, name="a"), sp.open({"w": y}, name="b")
    with pytest.raises(sp.ExecutionError, match=r"infinite weight at \[1, 1\] of b"):
        sp.compute(0.5 * a + 0.5 * b)


def test_scales_of_quantised_models_are_refused():
    """A packed dtype of a quantised model may be copied but not merged."""
    from stockpot.checkpoint.dtypes import DTYPES
    from stockpot.checkpoint.model import Checkpoint, TensorRef
    from stockpot.expression import Leaf

    def quantised(name):
        ref = TensorRef("w.scale", DTYPES["F8_E8M0"], (4,), array=np.arange(4, dtype=np.uint8))
        return Leaf(name, Checkpoint(name, {"w.scale": ref}))

    a, b = quantised("a"), quantised("b")
    assert sp.compute(sp.passthrough(a))["w.scale"].tolist() == [0, 1, 2, 3]
    with pytest.raises(sp.PlanError, match="quantised"):
        sp.plan(0.5 * a + 0.5 * b)


def test_arrays_of_other_kinds_are_refused():
    """An array whose dtype no checkpoint can hold is named when the model is opened."""
    for dtype in (np.complex128, object, ">f4", "U3", ml_dtypes.int4):
        with pytest.raises(sp.CheckpointError, match="tensor w"):
            sp.open({"w": np.zeros(2).astype(dtype)})
