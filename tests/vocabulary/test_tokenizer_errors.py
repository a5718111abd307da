"""Tokenizers that do not go together, tokens that are nowhere, vocabularies that differ: by name, with a way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_reading_vocabularies import PIECES, sentence_pieces
from tokenizing import byte_level, ids_of, model, unigram, word_pieces

import stockpot as sp
from files import read_model, write_file, write_model
from stockpot.errors import ExpressionError, PlanError, Problem, StockpotError

TWO = "models: [{model: a, parameters: {weight: 0.5}}, {model: b, parameters: {weight: 0.5}}]"


def planned(folder: Path, section: str, body: str = TWO) -> Any:
    """The plan of a linear merge."""
    (folder / "recipe.yml").write_text(f"merge_method: linear\n{body}\n{section}\n")
    return sp.plan(folder / "recipe.yml")


def told(folder: Path, section: str, body: str = TWO) -> list[Problem]:
    """Everything that is wrong with it."""
    with pytest.raises(StockpotError) as caught:
        planned(folder, section, body)
    return list(caught.value.problems)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Models a and b with byte-level tokenizers that differ."""
    model(tmp_path / "a", byte_level(["hello"], ["<|x|>"]), seed=1)
    model(tmp_path / "b", byte_level(["mars"], ["<|y|>"]), seed=2)
    return tmp_path


@pytest.mark.parametrize("section", ["tokenizer_source: union", "tokenizer_source: base", "tokenizer: {}"])
def test_a_model_without_a_tokenizer(two: Path, section: str) -> None:
    """By name, and nothing else is said that only follows from it."""
    (two / "b" / "tokenizer.json").unlink()
    (found,) = told(two, section)
    assert "b has no tokenizer" in found.message
    assert "tokenizer_source" in str(found.fix)


def test_arrays_have_no_tokenizer() -> None:
    """A model in memory is told likewise."""
    a, b = (sp.open({"model.embed_tokens.weight": np.zeros((n, 2))}, name=f"m{n}") for n in (3, 4))
    with pytest.raises(StockpotError, match="m3 has no tokenizer"):
        sp.plan(sp.retokenized(0.5 * a + 0.5 * b))


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_a_tied_and_an_untied_model_of_other_sizes(two: Path, method: str) -> None:
    """The head that only one of them has is told of beside the embeddings, with the labels of both models."""
    tied = {n: v for n, v in read_model(two / "a").items() if n != "lm_head.weight"}
    more = {n: np.concatenate([v, v[:2]]) if "embed" in n else v for n, v in tied.items()}
    config = json.loads((two / "a" / "config.json").read_text()) | {"tie_word_embeddings": True}
    write_model(two / "a", more, config=config)
    base = "base_model: a\n" if method == "ties" else ""
    (two / "recipe.yml").write_text(f"merge_method: {method}\n{base}models: [{{model: a}}, {{model: b}}]\n")
    with pytest.raises(PlanError) as caught:
        sp.plan(two / "recipe.yml")
    found = {p.tensor: p for p in caught.value.problems}
    assert set(found) == {"lm_head.weight", "model.embed_tokens.weight"}
    assert all("tokenizer_source" in str(p.fix) for p in found.values())
    assert found["lm_head.weight"].message.startswith("a has shape")
    assert ", b has (" in found["lm_head.weight"].message


@pytest.mark.parametrize("base", ["tied", "own"])
def test_mismatched_base_with_a_head_that_one_model_ties(tmp_path: Path, base: str) -> None:
    """Embedding and head are the base's, as it has them; all else is merged."""
    model(tmp_path / "tied", byte_level(["hello", "mars"], []), seed=1, tied=True)
    model(tmp_path / "own", byte_level(["hello"], []), seed=2)
    other = {"tied": "own", "own": "tied"}[base]
    (tmp_path / "r.yml").write_text(
        f"merge_method: linear\nmodels: [{{model: {base}}}, {{model: {other}}}]\nmismatched: base"
    )
    sp.merge(tmp_path / "r.yml", tmp_path / "out")
    made, first, second = (read_model(tmp_path / name) for name in ("out", base, other))
    assert made.keys() == first.keys()
    for name in first:
        if "embed" in name or "head" in name:
            assert np.array_equal(made[name], first[name])
        else:
            np.testing.assert_allclose(made[name], (first[name] + second[name]) / 2, rtol=1e-12)


def test_tokens_that_no_embedding_has(two: Path) -> None:
    """A vocabulary larger than the embedding: the tokens by name, and how to give them a row."""
    model(two / "a", byte_level(["hello"], ["<|x|>", "<|lost|>"]), seed=1, rows=len(ids_of(two / "a")))
    (found,) = told(two, "tokenizer_source: union")
    assert "no model has an embedding for 1 token" in found.message
    assert '"<|lost|>"' in found.message
    assert found.line == 3
    assert "kind: zero" in str(found.fix)
    tokens = 'tokenizer: {tokens: {"<|lost|>": {source: {kind: zero}}}}'
    assert planned(two, tokens).tokenizer["models"]["a"]["zeros"] == 1


def test_tokens_beyond_one_embedding_come_from_another(two: Path) -> None:
    """The model lacks them, and that is told; they are not cut."""
    shared = byte_level(["hello"], ["<|x|>", "<|y|>"])
    model(two / "a", shared, seed=1, rows=shared.get_vocab_size() - 1)
    model(two / "b", shared, seed=2)
    (two / "recipe.yml").write_text(f"merge_method: linear\n{TWO}\ntokenizer_source: union\n")
    out = sp.merge(two / "recipe.yml", two / "out").folder
    (note,) = [n.message for n in planned(two, "tokenizer_source: union").notes if "no row" in n.message]
    assert "a has no row for 1 of its tokens" in note
    assert '"<|y|>"' in note
    place = ids_of(out)["<|y|>"]
    for tensor in ("model.embed_tokens.weight", "lm_head.weight"):
        assert np.array_equal(read_model(out)[tensor][place], read_model(two / "b")[tensor][place])


def test_a_role_that_no_file_numbers_counts_as_a_token(two: Path) -> None:
    """transformers adds it when it loads the tokenizer, so it needs a row."""
    settings = json.loads((two / "a" / "tokenizer_config.json").read_text())
    (two / "a" / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": "[PAD]"}))
    (found,) = told(two, "tokenizer_source: base")
    assert '"[PAD]"' in found.message


@pytest.mark.parametrize(
    ("tokens", "message", "fix"),
    [
        ("'<|none|>': {source: a}", 'token "<|none|>" is not in the result', "spelling"),
        ("'<|x|>': {source: b}", 'b has no token "<|x|>"', "kind: zero"),
        ("'<|x|>': {source: {kind: model_token, model: b, token: nix}}", 'b has no token "nix"', "kind: zero"),
        ("'<|x|>': {source: {kind: model_token, model: b, token_id: 99999}}", "b has no row 99999", "kind: zero"),
    ],
    ids=["not in the result", "not in the model", "another that is not", "number beyond"],
)
def test_sources_that_are_none(two: Path, tokens: str, message: str, fix: str) -> None:
    """With the line of the token."""
    (found,) = told(two, f"tokenizer:\n  tokens:\n    {tokens}")
    assert message in found.message
    assert fix in str(found.fix)
    assert found.line == 5


def test_models_in_tokens_that_do_not_exist(two: Path) -> None:
    """As any other model that is not found."""
    (found,) = told(two, "tokenizer: {tokens: {'<|x|>': {source: nowhere/at/all}}}")
    assert "nowhere/at/all" in found.message


def test_a_source_of_another_width(two: Path) -> None:
    """Rows of another model must be as long."""
    model(two / "wide", byte_level(["hello"], ["<|x|>"]), seed=1, width=16)
    problems = told(two, "tokenizer: {tokens: {'<|x|>': {source: wide, force: true}}}")
    assert any("takes rows for its new tokens from wide, which has shape" in p.message for p in problems)


def test_kinds_that_cannot_be_united(two: Path) -> None:
    """What cuts text differently has no union; the tokenizer of one model can still be taken."""
    for make, reason in ((unigram, "by Unigram"), (word_pieces, "by WordPiece")):
        model(two / "b", make(["mars"]), seed=2)
        (found,) = told(two, "tokenizer_source: union")
        assert "cannot be united" in found.message
        assert reason in found.message
        assert "tokenizer_source: base" in str(found.fix)
        assert planned(two, "tokenizer_source: base").tokenizer["tokenizer"] == "a"


def test_sentence_pieces_alone_take_no_tokens(two: Path) -> None:
    """The tokenizer of the model is kept where nothing is added, else its fast form is needed."""
    for name, words in (("a", PIECES), ("b", [*PIECES, ("▁mars", -2.0, 1)])):
        folder = model(two / name, None, seed=1, rows=len(words))
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (folder / file).unlink(missing_ok=True)
        (folder / "tokenizer.model").write_bytes(sentence_pieces(words, 1))
    (found,) = told(two, "tokenizer_source: union")
    assert "SentencePiece" in found.message
    flipped = "models: [{model: b}, {model: a}]"
    assert (
        dict(planned(two, "tokenizer_source: union", flipped).sidecars)["tokenizer.model"] == two / "b/tokenizer.model"
    )


def test_different_sizes_without_a_word(two: Path) -> None:
    """The error says what would help."""
    problems = told(two, "")
    assert all("tokenizer_source: union (or base)" in str(p.fix) for p in problems)


def test_the_same_size_with_other_tokens_is_told(two: Path) -> None:
    """The merge goes on, as its shapes fit; the first row that differs is named."""
    model(two / "b", byte_level(["hella"], ["<|x|>"]), seed=2)
    (note,) = [n for n in planned(two, "").notes if "stand for other tokens" in n.message]
    ids = ids_of(two / "a")
    assert f"row {ids['Ġhello']} for 'Ġhella' in the one, for 'Ġhello' in the other" in note.message.replace(
        "\\u0120", "Ġ"
    )
    assert "tokenizer_source" in str(note.fix)


def test_the_same_tokens_are_not_told(two: Path) -> None:
    """Nothing is said of files that differ in other things."""
    model(two / "b", byte_level(["hello"], ["<|x|>"]), seed=2, settings={"model_max_length": 9})
    assert not [n for n in planned(two, "").notes if "stand for" in n.message]


def test_a_damaged_tokenizer_stops_no_merge_that_does_not_need_it(two: Path) -> None:
    """It is told, and copied as it is."""
    model(two / "b", byte_level(["hella"], ["<|x|>"]), seed=2)
    (two / "b" / "tokenizer.json").write_text("{")
    assert any("were not compared" in n.message for n in planned(two, "").notes)
    assert told(two, "tokenizer_source: base")


def test_companions_must_fit_already(two: Path) -> None:
    """A Fisher matrix of the old vocabulary does not mean the rows of the new one."""
    for name in "ab":
        write_model(two / f"fisher-{name}", read_model(two / name))
    body = (
        "merge_method: fisher\nmodels:\n  - {model: a, parameters: {fisher: fisher-a}}\n"
        "  - {model: b, parameters: {fisher: fisher-b}}\ntokenizer_source: union\n"
    )
    (two / "recipe.yml").write_text(body)
    with pytest.raises(PlanError, match="read beside models that get another vocabulary"):
        sp.plan(two / "recipe.yml")


def test_a_model_without_an_embedding(two: Path) -> None:
    """A model of images has no tokens to match."""
    write_file(two / "b" / "model.safetensors", {"conv.weight": np.zeros((3, 3))})
    (found,) = told(two, "tokenizer_source: base")
    assert "b has no embedding" in found.message


def test_differences_have_no_vocabulary(two: Path) -> None:
    """What is retokenized is a model."""
    a, b = sp.open(two / "a"), sp.open(two / "b")
    with pytest.raises(ExpressionError, match="only models have a vocabulary"):
        sp.retokenized(a - b)
    with pytest.raises(ExpressionError, match="no tokenizer source"):
        sp.retokenized(a, source="onion")
    with pytest.raises(ExpressionError, match="pad_to_multiple_of"):
        sp.retokenized(a, pad_to_multiple_of=0)


def test_absurd_padding_is_refused(two: Path) -> None:
    """Before anything of that size is made."""
    (found,) = told(two, "tokenizer: {pad_to_multiple_of: 1000000000000}")
    assert "1000000000000 rows" in found.message


def test_an_adapter_is_on_its_model_before_rows_move(two: Path) -> None:
    """``a+adapter`` is merged with the embedding that the adapter changed."""
    rng = np.random.default_rng(3)
    rows = len(ids_of(two / "a"))
    prefix = "base_model.model.model.embed_tokens"
    a, b = rng.normal(size=(2, rows)).astype(np.float32), rng.normal(size=(8, 2)).astype(np.float32)
    (two / "adapter").mkdir()
    write_file(two / "adapter" / "adapter_model.safetensors", {
        f"{prefix}.lora_embedding_A": a, f"{prefix}.lora_embedding_B": b,
    })  # fmt: skip
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["embed_tokens"]}
    (two / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    body = "models: [{model: a+adapter, parameters: {weight: 0.5}}, {model: b, parameters: {weight: 0.5}}]"
    (two / "recipe.yml").write_text(f"merge_method: linear\n{body}\ntokenizer_source: union\n")
    out = sp.merge(two / "recipe.yml", two / "out").folder
    ids, name = {n: ids_of(two / n) for n in ("a", "b", "out")}, "model.embed_tokens.weight"
    adapted = read_model(two / "a")[name] + (b.astype(np.float64) @ a.astype(np.float64)).T
    other, found = read_model(two / "b")[name], read_model(out)[name]
    for token, place in ids["out"].items():
        x = adapted[ids["a"][token]] if token in ids["a"] else other[ids["b"][token]]
        y = other[ids["b"][token]] if token in ids["b"] else adapted[ids["a"][token]]
        assert np.abs(found[place] - (0.5 * x + 0.5 * y)).max() < 1e-14


def test_a_broken_link_of_the_tokenizer(two: Path) -> None:
    """It is refused like every other file that leads out of its folder."""
    (two / "a" / "tokenizer.json").rename(two / "elsewhere.json")
    (two / "a" / "tokenizer.json").symlink_to(two / "elsewhere.json")
    with pytest.raises(StockpotError, match="leads out of its folder"):
        planned(two, "tokenizer_source: union")


def test_a_head_of_other_rows_than_the_embedding(two: Path) -> None:
    """Its rows cannot follow the tokens: an error, not a model whose parts do not fit."""
    arrays = read_model(two / "b")
    write_model(two / "b", arrays | {"lm_head.weight": arrays["lm_head.weight"][:-1]}, config={"vocab_size": 3})
    problems = told(two, "tokenizer_source: union")
    assert any("tokens do not fit both" in p.message and p.tensor == "lm_head.weight" for p in problems)


def test_a_nan_in_a_row_that_moves(two: Path) -> None:
    """It ends the merge with tensor, file and index, as everywhere."""
    arrays = read_model(two / "b")
    place = ids_of(two / "b")["Ġmars"]
    embedding = arrays["model.embed_tokens.weight"].copy()
    embedding[place, 3] = np.nan
    write_model(
        two / "b", arrays | {"model.embed_tokens.weight": embedding}, config={"vocab_size": len(ids_of(two / "b"))}
    )
    (two / "recipe.yml").write_text(f"merge_method: linear\n{TWO}\ntokenizer_source: union\n")
    with pytest.raises(StockpotError, match="NaN") as caught:
        sp.merge(two / "recipe.yml", two / "out")
    assert caught.value.problems[0].tensor == "model.embed_tokens.weight"
    assert f"[{place}, 3] of b" in caught.value.problems[0].message


def test_stacked_layers_of_models_with_different_tokens(two: Path) -> None:
    """The embedding is the first part's, the head the last one's; both have the rows of the union."""
    (two / "recipe.yml").write_text(
        "merge_method: passthrough\nslices:\n  - sources: [{model: a, layer_range: [0, 1]}]\n"
        "  - sources: [{model: b, layer_range: [0, 1]}]\ntokenizer_source: union\n"
    )
    out = sp.merge(two / "recipe.yml", two / "out").folder
    found, ids = read_model(out), {n: ids_of(two / n) for n in ("a", "b", "out")}
    for token, place in ids["out"].items():
        first = "a" if token in ids["a"] else "b"
        last = "b" if token in ids["b"] else "a"
        for tensor, name in (("model.embed_tokens.weight", first), ("lm_head.weight", last)):
            assert np.array_equal(found[tensor][place], read_model(two / name)[tensor][ids[name][token]])
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == 2
