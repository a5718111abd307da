"""Rows of embeddings and heads follow their tokens, in every method; compared with models remapped by plain code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plainly import ROWS, remapped
from tokenizing import KINDS, byte_level, ids_of, model

import stockpot as sp
from files import read_model, write_model

RECIPES = {
    "linear": "models: [{model: a, parameters: {weight: 0.5}}, {model: b, parameters: {weight: 0.3}}, "
    "{model: c, parameters: {weight: 0.2}}]",
    "slerp": "base_model: a\nmodels: [{model: a}, {model: b}]\nparameters: {t: 0.3}",
    "nuslerp": "models: [{model: a, parameters: {weight: 0.6}}, {model: b, parameters: {weight: 0.4}}]",
    "karcher": "models: [{model: a}, {model: b}, {model: c}]",
    "model_stock": "base_model: a\nmodels: [{model: b}, {model: c}]",
    "arcee_fusion": "base_model: a\nmodels: [{model: b}]",
    "task_arithmetic": "base_model: a\nmodels: [{model: b, parameters: {weight: 0.5}}, "
    "{model: c, parameters: {weight: 0.7}}]",
    "ties": "base_model: b\nmodels: [{model: a, parameters: {weight: 0.5, density: 0.5}}, "
    "{model: c, parameters: {weight: 0.7, density: 0.3}}]",
    "dare_ties": "base_model: a\nmodels: [{model: b, parameters: {weight: 0.5, density: 0.5}}, "
    "{model: c, parameters: {weight: 0.7, density: 0.3}}]\nparameters: {scope: model}",
    "della": "base_model: a\nmodels: [{model: b, parameters: {weight: 0.5, density: 0.5, epsilon: 0.1}}, "
    "{model: c, parameters: {weight: 0.7, density: 0.3, epsilon: 0.1}}]",
    "sce": "base_model: a\nmodels: [{model: b}, {model: c}]\nparameters: {select_topk: 0.5}",
    "tsv_m": "base_model: a\nmodels: [{model: b}, {model: c}]",
    "iso_c": "base_model: a\nmodels: [{model: b}, {model: c}]",
}


def recipe(folder: Path, method: str, body: str, section: str = "tokenizer_source: union") -> Path:
    """A recipe on disk."""
    path = folder / "recipe.yml"
    path.write_text(f"merge_method: {method}\n{body}\n{section}\n")
    return path


def vocabularies(folder: Path, names: str = "abc") -> dict[str, dict[str, int]]:
    """Token → number of each model."""
    return {name: ids_of(folder / name) for name in names}


def remade(folder: Path, target: dict[str, int], rows: int, base: str | None, names: str = "abc") -> Path:
    """The models, remapped by plain code, beside the original ones and without tokenizers."""
    found = remapped({n: folder / n for n in names}, vocabularies(folder, names), target, rows, base)
    for name, arrays in found.items():
        write_model(folder / "remapped" / name, arrays, config={"model_type": "llama", "vocab_size": rows})
    return folder / "remapped"


@pytest.mark.parametrize("method", sorted(RECIPES))
def test_every_method_works_on_the_remapped_matrices(three_bytes: Path, method: str) -> None:
    """The merge is, byte for byte, that of models that have the vocabulary already; the base among them."""
    body = RECIPES[method]
    names = "".join(n for n in "abc" if f"model: {n}" in body)
    base = body[len("base_model: ")] if body.startswith("base_model") else None
    out = sp.merge(recipe(three_bytes, method, body), three_bytes / "out").folder
    target, found = ids_of(out), read_model(out)
    rows = len(found[ROWS[0]])
    first = base or names[0]
    ordered = first + names.replace(first, "")
    again = remade(three_bytes, target, rows, base, ordered)
    expected = read_model(sp.merge(recipe(again, method, body, ""), three_bytes / "expected").folder)
    assert {n: v.tobytes() for n, v in found.items()} == {n: v.tobytes() for n, v in expected.items()}
    for word in ("Ġhello", "Ġmars", "<|y|>"):
        assert word in target


def test_the_union_of_every_kind_of_tokenizer(three: Path) -> None:
    """The first model's numbers stay; new tokens follow in order; every row is what the rules say, exactly."""
    out = sp.merge(recipe(three, "linear", RECIPES["linear"]), three / "out").folder
    target, own = ids_of(out), vocabularies(three)
    assert {t: n for t, n in target.items() if n < len(own["a"])} == own["a"]
    new = [t for name in "bc" for t in sorted(own[name], key=own[name].__getitem__) if t not in own["a"]]
    assert sorted(target, key=target.__getitem__)[len(own["a"]) :] == list(dict.fromkeys(new))
    rows = len(read_model(out)[ROWS[0]])
    assert rows == len(target)
    made = remapped({n: three / n for n in "abc"}, own, target, rows, None)
    for tensor in ROWS:
        expected = 0.5 * made["a"][tensor] + 0.3 * made["b"][tensor] + 0.2 * made["c"][tensor]
        assert np.abs(read_model(out)[tensor] - expected).max() <= 1e-15


@pytest.mark.parametrize("source", ["base", "c"])
def test_the_tokenizer_of_one_model(three: Path, source: str) -> None:
    """It is copied as it is; rows of the others follow its tokens, and padding rows stay."""
    body = "base_model: b\nmodels: [{model: a, parameters: {weight: 0.5}}, {model: c, parameters: {weight: 0.5}}]"
    out = sp.merge(recipe(three, "task_arithmetic", body, f"tokenizer_source: {source}"), three / "out").folder
    giver = {"base": "b"}.get(source, source)
    assert (out / "tokenizer.json").read_bytes() == (three / giver / "tokenizer.json").read_bytes()
    rows = len(read_model(three / giver)[ROWS[0]])
    found = read_model(out)
    assert len(found[ROWS[0]]) == rows == json.loads((out / "config.json").read_text())["vocab_size"]
    own = vocabularies(three, "bac")
    made = remapped({n: three / n for n in "bac"}, own, own[giver], rows, "b")
    for tensor in ROWS:
        m = {name: made[name][tensor] for name in "abc"}
        expected = m["b"] + 0.5 * (m["a"] - m["b"]) + 0.5 * (m["c"] - m["b"])
        assert np.abs(found[tensor] - expected).max() <= 1e-15


def test_models_of_one_vocabulary_are_copied_byte_for_byte(tmp_path: Path) -> None:
    """Nothing is remapped where nothing differs: no pass more, no file more."""
    for seed, name in enumerate("ab"):
        model(tmp_path / name, byte_level(["hi"]), seed=seed, rows=300)
    body = "models: [{model: a, parameters: {weight: 0.5}}, {model: b, parameters: {weight: 0.5}}]"
    with_section = sp.merge(recipe(tmp_path, "linear", body), tmp_path / "out").folder
    without = sp.merge(recipe(tmp_path, "linear", body, ""), tmp_path / "plain").folder
    assert (with_section / "model.safetensors").read_bytes() == (without / "model.safetensors").read_bytes()
    assert sorted(p.name for p in with_section.iterdir()) == sorted(p.name for p in without.iterdir())


def test_padding_to_a_multiple(three_bytes: Path) -> None:
    """Rows beyond the tokens are mean rows of each model's tokens, but where a model has padding of its own."""
    section = "tokenizer: {source: union, pad_to_multiple_of: 64}"
    out = sp.merge(recipe(three_bytes, "linear", RECIPES["linear"], section), three_bytes / "out").folder
    target, own = ids_of(out), vocabularies(three_bytes)
    found = read_model(out)
    assert len(found[ROWS[0]]) == 320
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 320
    made = remapped({n: three_bytes / n for n in "abc"}, own, target, 320, None)
    for tensor in ROWS:
        expected = 0.5 * made["a"][tensor] + 0.3 * made["b"][tensor] + 0.2 * made["c"][tensor]
        assert np.abs(found[tensor] - expected).max() <= 1e-14


def token_recipe(folder: Path, tokens: dict[str, Any]) -> Path:
    """A linear merge of a and b with sources for single tokens."""
    body = "models: [{model: a, parameters: {weight: 0.5}}, {model: b, parameters: {weight: 0.5}}]"
    return recipe(folder, "linear", body, "tokenizer: " + json.dumps({"source": "union", "tokens": tokens}))


@pytest.mark.parametrize(
    ("token", "source", "force", "a", "b"),
    [
        ("Ġhello", {"kind": "zero"}, True, None, None),
        ("Ġhello", {"kind": "zero"}, False, ("a", "Ġhello"), ("b", "Ġhello")),
        ("<|y|>", {"kind": "zero"}, False, None, ("b", "<|y|>")),
        ("<|x|>", "a", True, ("a", "<|x|>"), ("a", "<|x|>")),
        ("Ġhello", "b", True, ("b", "Ġhello"), ("b", "Ġhello")),
        ("<|y|>", {"kind": "model_token", "model": "a", "token": "</s>"}, False, ("a", "</s>"), ("b", "<|y|>")),
        ("<|y|>", {"kind": "model_token", "model": "a", "token": "</s>"}, True, ("a", "</s>"), ("a", "</s>")),
        ("<|y|>", {"kind": "model_token", "model": "c", "token": "<|w|>"}, True, ("c", "<|w|>"), ("c", "<|w|>")),
        ("<|y|>", {"kind": "model_token", "model": "b", "token_id": 5}, True, ("b", 5), ("b", 5)),
    ],
    ids=["zero forced", "zero kept", "zero where absent", "own model", "model forced", "token", "token forced",
         "of a model that is not merged", "number forced"],
)  # fmt: skip
def test_sources_of_single_tokens(three_bytes: Path, token: str, source: Any, force: bool, a: Any, b: Any) -> None:
    """Each kind, for models that lack the token, and forced on those that have it."""
    path = token_recipe(three_bytes, {token: {"source": source, "force": force}})
    out = sp.merge(path, three_bytes / "out").folder
    own, place = vocabularies(three_bytes), ids_of(out)[token]
    for tensor in ROWS:
        stored = {name: read_model(three_bytes / name)[tensor] for name in "abc"}
        rows = [
            np.zeros(8)
            if told is None
            else stored[told[0]][told[1] if isinstance(told[1], int) else own[told[0]][told[1]]]
            for told in (a, b)
        ]
        assert np.array_equal(read_model(out)[tensor][place], 0.5 * rows[0] + 0.5 * rows[1])


def test_a_tied_model_meets_an_untied_one(tmp_path: Path) -> None:
    """The tied one's head is its embedding, also where rows for new tokens are taken from it."""
    model(tmp_path / "a", byte_level(["hello"]), seed=1)
    model(tmp_path / "b", byte_level(["mars"]), seed=2, tied=True)
    body = "models: [{model: a, parameters: {weight: 0.5}}, {model: b, parameters: {weight: 0.5}}]"
    out = sp.merge(recipe(tmp_path, "linear", body), tmp_path / "out").folder
    own, target = vocabularies(tmp_path, "ab"), ids_of(out)
    embedding = read_model(tmp_path / "b")[ROWS[0]]
    assert np.array_equal(read_model(out)["lm_head.weight"][target["Ġmars"]], embedding[own["b"]["Ġmars"]])


@pytest.mark.parametrize(
    ("bias", "shape"),
    [("lm_head.bias", (-1,)), ("final_logits_bias", (1, -1)), ("cls.predictions.decoder.bias", (-1,))],
)
def test_biases_of_the_vocabulary_follow_too(tmp_path: Path, bias: str, shape: tuple[int, ...]) -> None:
    """One number a token, stored as a vector or as a row."""
    ids = {}
    for seed, (name, words) in enumerate({"a": ["hello"], "b": ["mars"]}.items()):
        model(tmp_path / name, byte_level(words), seed=seed)
        ids[name] = ids_of(tmp_path / name)
        arrays = read_model(tmp_path / name)
        arrays[bias] = np.random.default_rng(9 + seed).normal(size=len(ids[name])).reshape(shape)
        write_model(tmp_path / name, arrays, config={"vocab_size": len(ids[name])})
    body = "models: [{model: a, parameters: {weight: 0.5}}, {model: b, parameters: {weight: 0.5}}]"
    out = sp.merge(recipe(tmp_path, "linear", body), tmp_path / "out").folder
    found = read_model(out)[bias].reshape(-1)
    one, two = (read_model(tmp_path / n)[bias].reshape(-1) for n in "ab")
    for token, number in ids_of(out).items():
        x = one[ids["a"][token]] if token in ids["a"] else two[ids["b"][token]]
        y = two[ids["b"][token]] if token in ids["b"] else one[ids["a"][token]]
        assert found[number] == 0.5 * x + 0.5 * y


def test_hashes_do_not_depend_on_threads_or_storage(three_bytes: Path) -> None:
    """One thread or four: the same bytes."""
    path = recipe(three_bytes, "ties", RECIPES["ties"])
    made = [sp.merge(path, three_bytes / f"out{t}", threads=t).folder / "model.safetensors" for t in (1, 4)]
    assert made[0].read_bytes() == made[1].read_bytes()


def test_python_and_recipe_are_one(three_bytes: Path) -> None:
    """``sp.retokenized`` says what the section says."""
    a, b, c = (sp.open(three_bytes / n) for n in "abc")
    told = sp.retokenized(
        0.5 * a + 0.3 * b + 0.2 * c, tokens={"<|y|>": sp.TokenSource(b, "</s>", force=True)}, pad_to_multiple_of=8
    )
    one = sp.save(told, three_bytes / "one").folder
    source = 'source: {kind: model_token, model: b, token: "</s>"}'
    section = f'tokenizer: {{pad_to_multiple_of: 8, tokens: {{"<|y|>": {{force: true, {source}}}}}}}'
    two = sp.merge(recipe(three_bytes, "linear", RECIPES["linear"], section), three_bytes / "two").folder
    for name in ("model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_a_document_brings_its_own_vocabulary(three_bytes: Path) -> None:
    """A union of two, used as a model in a union with a third."""
    (three_bytes / "recipe.yml").write_text(
        "name: inner\nmerge_method: linear\nmodels: [{model: a}, {model: b}]\ntokenizer_source: union\n---\n"
        "merge_method: linear\nmodels: [{model: inner}, {model: c}]\ntokenizer_source: union\n"
    )
    out = sp.merge(three_bytes / "recipe.yml", three_bytes / "out").folder
    first = recipe(three_bytes, "linear", "models: [{model: a}, {model: b}]")
    sp.merge(first, three_bytes / "inner")
    last = recipe(three_bytes, "linear", "models: [{model: inner}, {model: c}]")
    steps = sp.merge(last, three_bytes / "steps").folder
    for tensor, array in read_model(steps).items():
        assert np.array_equal(read_model(out)[tensor], array)
    assert ids_of(out) == ids_of(steps)


def test_spelt_differently_matched_by_text(tmp_path: Path) -> None:
    """``Ġhello`` of a byte-level tokenizer and ``▁hello`` of another stand for the same text."""
    model(tmp_path / "a", KINDS["bytes"](["hello"]), seed=1)
    model(tmp_path / "b", KINDS["unigram"](["hello"]), seed=2)
    body = "base_model: a\nmodels: [{model: b, parameters: {weight: 1}}]"
    sp.merge(recipe(tmp_path, "task_arithmetic", body, "tokenizer_source: base"), tmp_path / "out")
    a, b = ids_of(tmp_path / "a"), ids_of(tmp_path / "b")
    found, own, base = (read_model(tmp_path / n)[ROWS[0]] for n in ("out", "b", "a"))
    assert np.allclose(found[a["Ġhello"]], own[b["▁hello"]], atol=1e-15)
    assert np.allclose(found[a["h"]], own[b["h"]], atol=1e-15)
    assert np.allclose(found[a["Z"]], base[a["Z"]], atol=1e-15)
