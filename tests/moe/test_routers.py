"""Rows of routers: from prompts whatever stands beside them, at random by key, trained; and how they are judged."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch
from mixing import SIZES, dense, mixed, vocabulary, write_recipe
from scipy.optimize import minimize
from sklearn.datasets import load_digits

from files import read_file
from stockpot.checkpoint.open import open_checkpoint
from stockpot.moe.build import planned
from stockpot.moe.examples import Example, examples_of, folds_of
from stockpot.moe.routing import conditions, held_out, measured, table
from stockpot.moe.rows import even_weights, from_prompts, random_rows, trained_router
from stockpot.moe.states import States, states_of, tokens_of
from stockpot.moe.training import trained_rows
from stockpot.planning.model import Limits
from stockpot.recipe.mixture import load_mixture, parse_mixture

GIB = 1 << 30
PROMPTS = {
    "a": ["a b c", "c", "e d c a b a"],
    "b": ["w1 w2", "w5 w4 w3 w2 w1 w9 w8", "w3"],
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a tiny Llama and its tokenizer, and the model."""
    folder = tmp_path_factory.mktemp("models") / "a"
    return folder, dense(folder, "llama", 0)


def read_one_by_one(model, texts, words):
    """(layer inputs, router inputs): of each text alone, without padding, (layers, tokens, hidden)."""
    found = []
    for text in texts:
        ids = torch.tensor([[words[word] for word in text.split()]])
        entered = []

        def watch(_module, given, entered=entered):
            entered.append(given[0])

        handles = [layer.mlp.register_forward_pre_hook(watch) for layer in model.model.layers]
        with torch.no_grad():
            states = model(ids, output_hidden_states=True).hidden_states[:-1]
        for handle in handles:
            handle.remove()
        found.append((torch.stack(states)[:, 0].numpy(), torch.stack(entered)[:, 0].numpy()))
    return found


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_padding_changes_nothing(base, pooling):
    """A prompt's states are those that it has alone, however long the others are."""
    folder, model = base
    texts = [text for own in PROMPTS.values() for text in own]
    opened = open_checkpoint(str(folder))
    states = states_of(opened, tokens_of(opened, texts, GIB), pooling, GIB * 4)
    for number, (layer, router) in enumerate(read_one_by_one(model, texts, vocabulary())):
        for kind, values in (("layer", layer), ("router", router)):
            expected = values[:, -1] if pooling == "last" else values.mean(1)
            assert np.allclose(states.pooled[kind][:, number], expected, atol=1e-5)
        assert np.allclose(states.tokens[:, states.owner == number], router, atol=1e-5)


def rows_in(folder, **settings):
    """The router's rows of a mixture, (layers, experts, hidden), and its report."""
    experts = [
        {"source_model": str(folder), "positive_prompts": own, "negative_prompts": PROMPTS["b" if name == "a" else "a"]}
        for name, own in PROMPTS.items()
    ]
    place = folder.parent / "-".join(map(str, settings.values()))
    place.mkdir()
    out = mixed(write_recipe(place / "r.yml", folder, experts, **settings), place / "out")
    tensors = read_file(place / "out.router.safetensors")
    shown = read_file(out / "model.safetensors")
    for name, values in tensors.items():
        assert np.array_equal(shown[name], values)
    return np.stack([tensors[f"model.layers.{i}.block_sparse_moe.gate.weight"] for i in range(2)])


@pytest.mark.parametrize(
    ("settings", "kind", "pool"),
    [
        ({"gate_mode": "hidden"}, 0, lambda v: v[:, -1]),
        ({"gate_mode": "hidden_avg"}, 0, lambda v: v.mean(1)),
        ({"gate_mode": "hidden", "pooling": "mean", "states": "router"}, 1, lambda v: v.mean(1)),
    ],
    ids=lambda v: "-".join(map(str, v.values())) if isinstance(v, dict) else "",
)
def test_rows_are_positive_less_negative_means(base, settings, kind, pool):
    """A row is the mean of an expert's prompts less that of its negative ones, of length 1, as mergekit makes it."""
    folder, model = base
    means = [
        np.mean([pool(one[kind].astype(np.float64)) for one in read_one_by_one(model, own, vocabulary())], axis=0)
        for own in PROMPTS.values()
    ]
    difference = means[0] - means[1]
    expected = difference / np.linalg.norm(difference, axis=1, keepdims=True)
    found = rows_in(folder, **settings)
    assert np.allclose(found[:, 0], expected, atol=1e-5)
    assert np.allclose(found[:, 1], -expected, atol=1e-5)


def test_cheap_embed_sums_embeddings(base):
    """Rows are sums of the embeddings of the prompts' tokens, less those of the others, the same in every layer."""
    folder, model = base
    weights = model.model.embed_tokens.weight.detach().double().numpy()
    words = vocabulary()
    sums = [sum(weights[words[word]] for text in own for word in text.split()) for own in PROMPTS.values()]
    expected = (sums[0] - sums[1]) / np.linalg.norm(sums[0] - sums[1])
    found = rows_in(folder, gate_mode="cheap_embed")
    assert np.allclose(found, np.stack([[expected, -expected]] * 2), atol=1e-6)


def test_an_empty_prompt_is_what_begins_a_text(base):
    """Where a prompt has no tokens, the token that begins a text stands for it."""
    opened = open_checkpoint(str(base[0]))
    assert tokens_of(opened, ["", "a"], GIB) == [[SIZES["bos_token_id"]], [vocabulary()["a"]]]


@pytest.mark.parametrize("uniform", [False, True])
def test_random_rows_are_keyed(uniform):
    """Rows depend on seed and layer alone, and have the distribution that they should."""
    rows = random_rows(3, 4, 3000, 5, uniform=uniform)
    assert np.array_equal(rows, random_rows(3, 4, 3000, 5, uniform=uniform))
    assert np.array_equal(rows[:2], random_rows(2, 4, 3000, 5, uniform=uniform))
    other = random_rows(3, 4, 3000, 6, uniform=uniform)
    assert not np.isclose(rows, other).any(axis=(1, 2)).all()
    assert abs(np.corrcoef(rows[0].ravel(), rows[1].ravel())[0, 1]) < 0.05
    deviation = 1 / np.sqrt(3 * 3000) if uniform else 1.0
    assert np.isclose(rows.std(), deviation, rtol=0.02)
    assert abs(rows.mean()) < 0.02 * deviation * 2
    assert not uniform or np.abs(rows).max() <= 1 / np.sqrt(3000)


def digits():
    """(samples, units) of digits, every other one inverted, behind a layer of random units; which is which."""
    images, halves = load_digits().data[:300] / 16.0, np.arange(300) % 2
    rng = np.random.default_rng(0)
    pixels = np.where(halves[:, None] == 1, 1.0 - images, images)
    return np.maximum(pixels @ rng.normal(size=(64, 256)) / 8 + rng.normal(size=256), 0.0), halves


def sampled(values, kinds):
    """States of one layer that are ``values``, one token to a prompt, and the prompts."""
    examples = tuple(Example(str(i), (int(kind),), (1 - int(kind),)) for i, kind in enumerate(kinds))
    pooled = {"router": values[None]}
    return States(pooled, values[None].astype(np.float32), np.arange(len(values))), examples


def test_means_of_prompts_may_route_badly_where_training_routes_well():
    """Digits and inverted digits: means less means are at chance and lopsided, as is told; trained rows clear 90 %."""
    states, examples = sampled(*digits())

    def means(left_out):
        return from_prompts(states.pooled["router"], examples, 2, left_out)

    def trained(left_out):
        return trained_router(states, examples, 2, left_out)

    found = {}
    for name, made in (("means", means), ("trained", trained)):
        shares = held_out(states, examples, 2, made)
        found[name] = measured(name, "ab", made(()), states, examples, shares)
    assert found["means"].chance == 0.5
    assert found["means"].accuracy < 0.6
    told = " ".join(found["means"].warnings)
    assert "near chance in layer 0" in told
    assert "lopsided" in told
    assert found["trained"].accuracy > 0.9
    assert not found["trained"].warnings


def test_the_report_counts_experts_alike():
    """With 9 prompts of one expert and 2 of the other, chance is a half, loads are even, and each is told apart."""
    values = np.array([[1.0, 0.01 * i] if i < 9 else [0.01 * i, 1.0] for i in range(11)])
    states, examples = sampled(values, np.array([0] * 9 + [1] * 2))
    rows = np.eye(2)[None]
    routing = measured("m", "ab", rows, states, examples, held_out(states, examples, 2, lambda _: rows))
    layer = routing.layers[0]
    assert routing.chance == 0.5
    assert layer.accuracy == 1.0
    assert layer.load == pytest.approx((0.5, 0.5))
    assert not routing.warnings
    assert "100.0 %" in "\n".join(table(routing))


def test_a_lopsided_router_is_warned_of():
    """More than 80 % of first choices on one expert is told, and that it is no better than chance."""
    states, examples = sampled(np.ones((8, 3)), np.arange(8) % 2)
    rows = np.array([[[1.0, 0, 0], [0.5, 0.5, -1]]])
    routing = measured("m", "ab", rows, states, examples, held_out(states, examples, 2, lambda _: rows))
    assert routing.layers[0].load == (1.0, 0.0)
    assert any("lopsided: in layer 0" in text for text in routing.warnings)
    assert any("near chance" in text for text in routing.warnings)


def test_a_single_prompt_cannot_be_held_out():
    """The accuracy of an expert with one prompt is unknown, not 0, and that is told."""
    states, examples = sampled(np.eye(2), np.array([0, 1]))
    shares = held_out(states, examples, 2, lambda left_out: from_prompts(np.eye(2)[None], examples, 2, left_out))
    routing = measured("m", "ab", np.eye(2)[None], states, examples, shares)
    assert routing.layers[0].by_expert == (None, None)
    assert routing.accuracy is None
    assert any("two prompts or more" in text for text in routing.warnings)


def test_held_out_prompts_do_not_help_themselves():
    """Where states are noise, held-out accuracy is at chance though every prompt's own row would find it."""
    values = np.random.default_rng(0).normal(size=(60, 400))
    states, examples = sampled(values, np.arange(60) % 2)
    shares = held_out(states, examples, 2, lambda left_out: from_prompts(values[None], examples, 2, left_out))
    assert 0.25 < shares.mean() < 0.7
    own = from_prompts(values[None], examples, 2)[0]
    assert ((values @ own.T).argmax(1) == np.arange(60) % 2).mean() > 0.9


def test_examples_and_folds():
    """A text is one example whoever wants it; folds hold out every wanted one once, and deal experts out evenly."""
    recipe = parse_mixture(
        "{base_model: a, experts: [{source_model: a, positive_prompts: [x, y, x], negative_prompts: [z]},"
        " {source_model: b, positive_prompts: [y, z]}]}"
    )
    examples = examples_of(recipe.experts)
    assert examples == (Example("x", (0,)), Example("y", (0, 1)), Example("z", (1,), (0,)))
    assert folds_of(examples) == ((0,), (1,), (2,))
    many = [Example(str(i), (i % 2,)) for i in range(40)] + [Example("n", (), (0,))]
    folds = folds_of(many)
    assert sorted(i for fold in folds for i in fold) == list(range(40))
    assert {sum(i % 2 for i in fold) for fold in folds} == {4}


def test_weights_are_even():
    """Tokens weigh so that experts count alike, and prompts of an expert too, however long they are."""
    examples = [Example("x", (0,)), Example("y", (0,)), Example("z", (1,)), Example("n")]
    weights = even_weights(examples, np.array([0, 0, 0, 1, 2, 2, 3]), 2)
    assert weights == pytest.approx([1 / 12] * 3 + [1 / 4] + [1 / 4] * 2 + [0])


def test_the_condition_is_that_of_differences():
    """What all rows share changes no choice, so it is left out; two equal rows are infinitely bad."""
    rows = np.array([[1.0, 0, 5], [0, 1, 5], [-1, -1, 5]])
    same = np.array([[1.0, 2, 3], [1, 2, 3], [0, 0, 1]])
    centred = np.linalg.svd((rows - rows.mean(0))[:, :2], compute_uv=False)
    assert conditions(np.stack([rows, same])) == [pytest.approx(centred[0] / centred[1]), float("inf")]
    assert conditions(np.ones((1, 1, 4))) == [None]


def test_the_report_lies_in_the_file(base):
    """The router's file tells how it was made and how it routes, as data and as the table of the card."""
    folder, _ = base
    experts = [{"source_model": str(folder), "positive_prompts": own} for own in PROMPTS.values()]
    place = folder.parent / "told"
    place.mkdir()
    write_recipe(place / "r.yml", folder, experts, gate_mode="trained")
    out = mixed(place / "r.yml", place / "out")
    raw = (place / "out.router.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    metadata = json.loads(raw[8 : 8 + length])["__metadata__"]
    told = json.loads(metadata["stockpot_routing"])
    assert told["mode"].startswith("trained")
    assert len(told["layers"]) == 2
    assert metadata["stockpot_routing_table"] in (out / "README.md").read_text()


@pytest.mark.parametrize("rows", [30, 300], ids=["few", "many"])
def test_training_finds_the_optimum(rows):
    """Trained rows minimise the loss that they are said to minimise, whether rows or units are fewer."""
    rng = np.random.default_rng(0)
    states, targets, weights = rng.normal(size=(rows, 40)), np.eye(3)[rng.integers(0, 3, rows)], rng.random(rows)
    size, decay = np.mean((states**2).sum(1)), 1e-4

    def loss(values):
        scores = states @ values.reshape(3, 40).T
        likely = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
        return -(weights / weights.sum() * (targets * likely).sum(1)).sum() + decay / 2 * size * (values**2).sum()

    found = trained_rows(states, targets, weights)
    best = minimize(loss, found.ravel() * 0)
    assert loss(found.ravel()) < best.fun + 1e-4


def asked(folder, place, **settings):
    """The report on a mixture of the model with itself."""
    place.mkdir()
    experts = [{"source_model": str(folder), "positive_prompts": own} for own in PROMPTS.values()]
    recipe = load_mixture(write_recipe(place / "r.yml", folder, experts, **settings))
    return planned(recipe, place / "out", Limits(memory=4 * GIB)).routing


def test_the_better_states_are_chosen(base, tmp_path):
    """states: best takes those of layer and router by which more held-out tokens go where they should."""
    found = {kind: asked(base[0], tmp_path / kind, states=kind) for kind in ("layer", "router", "best")}
    better = max(("layer", "router"), key=lambda kind: found[kind].accuracy)
    assert found["layer"].accuracy != found["router"].accuracy
    assert found["best"] == found[better]


@pytest.mark.parametrize("mode", ["hidden", "cheap_embed"])
def test_the_gate_of_a_shared_expert(base, tmp_path, mode):
    """Prompts of a shared expert make its gate as those of others make their rows; it is no choice of the router."""
    folder, _ = base
    experts = [{"source_model": str(folder), "positive_prompts": own} for own in PROMPTS.values()]
    for shared in ({}, {"positive_prompts": PROMPTS["a"]}):
        place = tmp_path / str(len(shared))
        place.mkdir()
        more = {
            "architecture": "qwen2_moe",
            "gate_mode": mode,
            "shared_experts": [{"source_model": str(folder), **shared}],
        }
        mixed(write_recipe(place / "r.yml", folder, experts, **more), place / "out")
        tensors = read_file(place / "out.router.safetensors")
        rows, gate = (tensors[f"model.layers.1.mlp.{name}.weight"] for name in ("gate", "shared_expert_gate"))
        assert rows.shape == (2, SIZES["hidden_size"])
        assert np.allclose(gate[0], rows[0] if shared else 0.0, atol=1e-6)
