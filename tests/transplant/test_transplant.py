"""A model with the tokenizer of another: rows, files, reports, receipts, errors."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from transplant_pairs import byte_level, like, made_row, metaspace, model, plain_pursuit

import stockpot as sp
from files import read_model, write_file, write_model
from stockpot.arrangements import Transplant
from stockpot.cli.main import main
from stockpot.execute import local
from stockpot.planning.tokens import transplanted
from stockpot.provenance.expressions import rebuilt

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture(scope="module")
def tokenizers():
    return {"old": byte_level(), "new": metaspace()}


@pytest.fixture(scope="module")
def pair(tmp_path_factory, tokenizers):
    """A folder with the models ``ours``, ``theirs`` and ``tied``, which has theirs' tokenizer and one matrix."""
    place = tmp_path_factory.mktemp("pair")
    model(place / "ours", tokenizers["old"], seed=1, width=12)
    model(place / "theirs", tokenizers["new"], seed=2, width=16)
    model(place / "tied", tokenizers["new"], seed=3, width=16, tied=True)
    return place


@pytest.fixture
def stockpot(capsys):
    """The command line: what it printed."""

    def run(*arguments, code=0):
        assert main([str(a) for a in arguments]) == code, capsys.readouterr()
        told = capsys.readouterr()
        return told.out + told.err

    return run


def problems(error):
    return " ".join(f"{p.tensor or ''} {p.message} {p.fix or ''} {p.file or ''}" for p in error.value.problems)


@pytest.mark.parametrize("method", ["omp", "interpolation", "linear"])
def test_rows_are_what_a_plain_reading_gives(pair, tokenizers, method):
    """Copies are exact; rows that are made agree with NumPy, of embedding and head each by its own matrix."""
    k = {"omp": 7, "interpolation": 5}.get(method)
    made = sp.compute(sp.transplant(pair / "ours", pair / "theirs", method=method, k=k), dtype="float64")
    ours, theirs = read_model(pair / "ours"), read_model(pair / "theirs")
    found, by_role = like(tokenizers["new"], tokenizers["old"])
    common = sorted(found)
    assert len(common) > 50
    assert len(by_role) == 2
    for name in (EMBEDDING, HEAD):
        donor, mine = theirs[name].astype(np.float64), ours[name].astype(np.float64)
        assert made[name].shape == (len(donor), 12)
        missing = 0
        for row in range(len(donor)):
            if row in found or row in by_role:
                np.testing.assert_array_equal(made[name][row], mine[{**found, **by_role}[row]])
                continue
            missing += 1
            expected = made_row(method, donor[row], donor[common], mine[[found[c] for c in common]], k)
            np.testing.assert_allclose(made[name][row], expected, rtol=1e-7, atol=1e-9)
        assert missing > 20
    same = "model.layers.0.mlp.up_proj.weight"
    np.testing.assert_array_equal(made[same], ours[same])


def test_pieces_mean_and_zero(pair, tokenizers):
    """``subword`` takes the mean of the rows of the model's own pieces; ``mean`` and ``zero`` are what they say."""
    ours = read_model(pair / "ours")[EMBEDDING].astype(np.float64)
    found, by_role = like(tokenizers["new"], tokenizers["old"])
    new, old = tokenizers["new"][0], tokenizers["old"][0]
    missing = {t: n for t, n in new.get_vocab().items() if n not in found and n not in by_role}
    words = {t: n for t, n in missing.items() if t.startswith("▁")}
    assert words
    made = sp.compute(sp.transplant(pair / "ours", pair / "theirs", method="subword"), dtype="float64")[EMBEDDING]
    for token, number in words.items():
        pieces = old.encode(token.replace("▁", " ")).ids
        np.testing.assert_allclose(made[number], ours[pieces].mean(axis=0), rtol=1e-12)
    for method, row in (("mean", ours.mean(axis=0)), ("zero", np.zeros(12))):
        made = sp.compute(sp.transplant(pair / "ours", pair / "theirs", method=method), dtype="float64")[EMBEDDING]
        np.testing.assert_allclose(made[list(missing.values())], np.tile(row, (len(missing), 1)), rtol=1e-12)


def test_tied_models(pair, tokenizers):
    """A model that ties has no head afterwards; a head of its own is made by the one matrix of a giver that ties."""
    made = sp.compute(sp.transplant(pair / "tied", pair / "ours"))
    assert sorted(made) == [EMBEDDING, "model.layers.0.mlp.up_proj.weight"]
    made = sp.compute(sp.transplant(pair / "ours", pair / "tied", k=4), dtype="float64")[HEAD]
    donor, ours = read_model(pair / "tied")[EMBEDDING].astype(np.float64), read_model(pair / "ours")[HEAD]
    found, by_role = like(tokenizers["new"], tokenizers["old"])
    row, common = next(n for n in range(len(donor)) if n not in found and n not in by_role), sorted(found)
    mine = ours.astype(np.float64)[[found[c] for c in common]]
    np.testing.assert_allclose(made[row], made_row("omp", donor[row], donor[common], mine, 4), rtol=1e-7, atol=1e-9)


def test_the_head_s_bias_goes_with_the_head(tmp_path, tokenizers):
    """Biases, of shape (tokens,) or (1, tokens), are made of the same sums as the head's rows."""
    rows = tokenizers["old"][0].get_vocab_size()
    bias = np.random.default_rng(5).normal(size=rows).astype(np.float32)
    more = {"lm_head.bias": bias, "final_logits_bias": bias[None]}
    model(tmp_path / "ours", tokenizers["old"], seed=1, width=12, more=more)
    model(tmp_path / "theirs", tokenizers["new"], seed=2, width=16)
    expression = sp.transplant(tmp_path / "ours", tmp_path / "theirs", k=6)
    made = sp.compute(expression, dtype="float64")
    ours, theirs = read_model(tmp_path / "ours"), read_model(tmp_path / "theirs")[HEAD].astype(np.float64)
    found, by_role = like(tokenizers["new"], tokenizers["old"])
    row = next(n for n in range(len(theirs)) if n not in found and n not in by_role)
    common = sorted(found)
    mine = ours["lm_head.bias"].astype(np.float64)[[found[c] for c in common]]
    np.testing.assert_allclose(made["lm_head.bias"][row], made_row("omp", theirs[row], theirs[common], mine, 6))
    np.testing.assert_array_equal(made["final_logits_bias"], made["lm_head.bias"][None])


def test_a_model_gets_its_own_tokenizer(pair, tmp_path):
    """Nothing changes: every byte is the model's, and no token is told to be made."""
    sp.save(sp.transplant(pair / "ours", pair / "ours"), tmp_path / "out")
    for name, array in read_model(pair / "ours").items():
        np.testing.assert_array_equal(read_model(tmp_path / "out")[name], array)
    assert json.loads((tmp_path / "out/stockpot-transplant.json").read_text())["counts"]["made"] == 0


@pytest.mark.parametrize("method", ["omp", "subword", "linear"])
def test_the_same_bytes_however_it_is_cut(pair, method, monkeypatch):
    """Threads, batches kept in memory or read again, and many small blocks change nothing."""
    expression = sp.transplant(pair / "ours", pair / "theirs", method=method)
    whole = sp.compute(expression, threads=1)
    monkeypatch.setattr(transplanted, "_KEPT", 0)
    again = sp.compute(expression, threads=3)
    for name, array in whole.items():
        assert array.tobytes() == again[name].tobytes()


def test_a_merge_gets_a_tokenizer(pair, tmp_path, tokenizers):
    """The model may be computed: rows are those of the merge that was saved before."""
    a, b = sp.open(pair / "ours"), sp.open(model(tmp_path / "other", tokenizers["old"], seed=9, width=12))
    sp.save(0.25 * a + 0.75 * b, tmp_path / "merged", dtype="float64")
    streamed = sp.compute(sp.transplant(0.25 * a + 0.75 * b, pair / "theirs"), dtype="float32")
    stored = sp.compute(sp.transplant(tmp_path / "merged", pair / "theirs"), dtype="float32")
    assert set(streamed) == set(stored)
    for name, array in stored.items():
        np.testing.assert_array_equal(streamed[name], array)


def test_a_transplanted_model_is_merged(pair):
    """Then it fits a model that has the tokenizer already."""
    own = sp.transplant(pair / "theirs", pair / "ours", k=9)
    made = sp.compute(own)
    both = sp.compute(sp.linear(own, own, weight=[0.25, 0.75]))
    for name, array in made.items():
        np.testing.assert_allclose(both[name], array, rtol=1e-6)


def test_files_and_numbers_of_tokens(pair, tmp_path, tokenizers, stockpot):
    """Tokenizer files are the giver's, byte for byte; config and generation config have its numbers of tokens."""
    shutil.copytree(pair / "ours", tmp_path / "ours")
    (tmp_path / "ours/vocab.json").write_text("{}")
    (tmp_path / "ours/generation_config.json").write_text(json.dumps({"eos_token_id": [1], "top_k": 7}))
    stockpot("transplant", tmp_path / "ours", tmp_path / "out", "--tokenizer", pair / "theirs", "--dtype", "bfloat16")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (pair / "theirs" / name).read_bytes()
    assert not (tmp_path / "out/vocab.json").exists()
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["vocab_size"] == tokenizers["new"][0].get_vocab_size()
    assert (config["bos_token_id"], config["eos_token_id"], config["hidden_size"]) == (1, 2, 12)
    generation = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert generation["top_k"] == 7
    assert generation["eos_token_id"] in (2, [2])
    assert str(read_model(tmp_path / "out")[EMBEDDING].dtype) == "bfloat16"


def test_what_is_told(pair, tmp_path, tokenizers, stockpot):
    """The summary, and a report in which every row stands: copied, by role, or made, with the largest terms."""
    told = stockpot("transplant", pair / "ours", tmp_path / "out", "--tokenizer", pair / "theirs", "-k", "3")
    found, by_role = like(tokenizers["new"], tokenizers["old"])
    rows = tokenizers["new"][0].get_vocab_size()
    made = rows - len(found) - len(by_role)
    assert f"{rows} rows: {len(found)} copied, {len(by_role)} copied by their role, {made} made (omp)" in told
    assert "as if they were missing" in told
    assert "linear" in told
    report = json.loads((tmp_path / "out/stockpot-transplant.json").read_text())
    assert report["counts"] == {"rows": rows, "copied": len(found), "by_role": 2, "made": made, "mean": 0}
    assert len(report["rows"]) == rows
    held = report["held_out"]
    assert held["tokens"] == len(found) // 10
    assert set(held["tensors"][HEAD]) == {"omp", "linear"}
    theirs, ids = read_model(pair / "theirs"), tokenizers["old"][0].get_vocab()
    for row in report["rows"]:
        number = row["row"]
        if number in found:
            assert row["copied"][1] == found[number]
        elif number in by_role:
            assert row["role"] in ("bos_token", "eos_token")
        else:
            donor = theirs[HEAD].astype(np.float64)
            common = sorted(found)
            support, values, residual = plain_pursuit(donor[number], donor[common], 3)
            told = row["made"][HEAD]
            assert told["residual"] == pytest.approx(np.linalg.norm(residual) / np.linalg.norm(donor[number]), rel=1e-3)
            expected = {found[common[s]]: v for s, v in zip(support, values, strict=True)}
            assert {n: v for _, n, v in told["of"]} == pytest.approx(expected, rel=1e-3)
            assert all(ids[token] == n for token, n, _ in told["of"])


def test_the_held_out_error_is_that_of_rows_made_without_them(pair, tmp_path, tokenizers):
    """Tokens held out are made of the other tokens in common, and compared with what they are."""
    sp.save(sp.transplant(pair / "ours", pair / "theirs", k=5), tmp_path / "out")
    told = json.loads((tmp_path / "out/stockpot-transplant.json").read_text())["held_out"]["tensors"][EMBEDDING]
    found, _ = like(tokenizers["new"], tokenizers["old"])
    common = sorted(found)
    count = len(common) // 10
    held = [common[i * len(common) // count] for i in range(count)]
    rest = [c for c in common if c not in held]
    donor = read_model(pair / "theirs")[EMBEDDING].astype(np.float64)
    ours = read_model(pair / "ours")[EMBEDDING].astype(np.float64)
    truth = ours[[found[c] for c in held]]
    for method in ("omp", "linear"):
        made = np.stack([made_row(method, donor[c], donor[rest], ours[[found[r] for r in rest]], 5) for c in held])
        assert told[method]["error"] == pytest.approx(np.linalg.norm(made - truth) / np.linalg.norm(truth), rel=1e-4)


def test_verified_and_repeated(pair, tmp_path, stockpot):
    """``verify`` finds every byte as the receipt says; ``reproduce-merge`` makes the same bytes from the receipt."""
    stockpot("transplant", pair / "ours", tmp_path / "out", "--tokenizer", pair / "theirs", "--method", "subword")
    assert "as its receipt says" in stockpot("verify", tmp_path / "out")
    stockpot("reproduce-merge", tmp_path / "out", tmp_path / "again")
    report = tmp_path / "out/stockpot-transplant.json"
    assert report.read_bytes() == (tmp_path / "again/stockpot-transplant.json").read_bytes()
    report.write_text(report.read_text().replace("subword", "Subword"))
    assert "stockpot-transplant.json" in stockpot("verify", tmp_path / "out", code=1)
    assert "transplant" in stockpot("lineage", tmp_path / "out")


def test_a_broken_off_transplant_tells_of_what_was_done_before(pair, tmp_path, monkeypatch):
    """The report of one that was continued is that of one that was not."""
    expression = sp.transplant(pair / "ours", pair / "theirs", k=4)
    sp.save(expression, tmp_path / "whole")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(local, "_write_small", stop)
    with pytest.raises(KeyboardInterrupt):
        sp.save(expression, tmp_path / "out")
    monkeypatch.undo()
    assert sp.save(expression, tmp_path / "out").resumed == 3
    name = "stockpot-transplant.json"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_padding_and_tokens_beyond_the_embedding(tmp_path, pair, tokenizers):
    """Rows without a token are the mean of the model's; a token that the giver has no row for is an error by name."""
    rows = tokenizers["new"][0].get_vocab_size()
    model(tmp_path / "padded", tokenizers["new"], seed=2, width=16, rows=rows + 8)
    made = sp.compute(sp.transplant(pair / "ours", tmp_path / "padded"), dtype="float64")[EMBEDDING]
    mean = read_model(pair / "ours")[EMBEDDING].astype(np.float64).mean(axis=0)
    assert made.shape == (rows + 8, 12)
    np.testing.assert_allclose(made[rows:], np.tile(mean, (8, 1)), rtol=1e-12)
    model(tmp_path / "short", tokenizers["new"], seed=2, width=16, rows=rows - 2)
    with pytest.raises(sp.PlanError) as error:
        sp.compute(sp.transplant(pair / "ours", tmp_path / "short"))
    last = tokenizers["new"][0].id_to_token(rows - 1)
    assert ascii(last) in problems(error)
    assert "--method subword" in problems(error)
    assert sp.compute(sp.transplant(pair / "ours", tmp_path / "short", method="subword"))[EMBEDDING].shape[0] == rows


def test_errors_by_name(pair, tmp_path, tokenizers):
    """What cannot be: told with the model, the number and the fix, before anything is read."""

    def told(*arguments, **parameters):
        with pytest.raises(sp.StockpotError) as error:
            sp.plan(sp.transplant(*arguments, **parameters))
        return problems(error)

    found, _ = like(tokenizers["new"], tokenizers["old"])
    assert f"k is 999, but the tokenizers of {pair / 'ours'}" in told(pair / "ours", pair / "theirs", k=999)
    assert f"from 1 to {len(found)}" in told(pair / "ours", pair / "theirs", k=999)
    shutil.copytree(pair / "theirs", tmp_path / "bare")
    (tmp_path / "bare/tokenizer.json").unlink()
    assert f"{tmp_path / 'bare'} has no tokenizer" in told(pair / "ours", tmp_path / "bare")
    assert f"{tmp_path / 'bare'} has no tokenizer" in told(tmp_path / "bare", pair / "ours")
    shutil.copytree(pair / "theirs", tmp_path / "headless")
    (tmp_path / "headless/model.safetensors").unlink()
    write_model(tmp_path / "headless", {"model.norm.weight": np.ones(4, np.float32)})
    assert f"{tmp_path / 'headless'} has no embedding" in told(pair / "ours", tmp_path / "headless")
    assert "there is no method 'magic' one of omp" in told(pair / "ours", pair / "theirs", method="magic")
    assert "subword takes none" in told(pair / "ours", pair / "theirs", method="subword", k=3)
    assert "only once" in told(sp.transplant(pair / "ours", pair / "theirs"), pair / "ours")
    arrays = read_model(pair / "theirs") | {EMBEDDING: read_model(pair / "theirs")[EMBEDDING].astype(np.int8)}
    shutil.copytree(pair / "theirs", tmp_path / "ints")
    write_model(tmp_path / "ints", arrays)
    assert f"{EMBEDDING} {tmp_path / 'ints'} stores I8" in told(pair / "ours", tmp_path / "ints")
    assert "needs" in told_budget(pair)


def told_budget(pair):
    with pytest.raises(sp.PlanError) as error:
        sp.plan(sp.transplant(pair / "ours", pair / "theirs"), memory=1 << 20)
    return problems(error)


def test_no_token_in_common(tmp_path, pair, tokenizers):
    """Where nothing tells what tokens mean, it is an error by name."""
    model(tmp_path / "odd", tokenizers["new"], seed=2, width=16)
    document = json.loads((tmp_path / "odd/tokenizer.json").read_text())
    document["model"] = {
        "type": "WordLevel",
        "vocab": {"<s>": 0, "</s>": 1, "zebra": 2, "<unk>": 3},
        "unk_token": "<unk>",
    }
    document["added_tokens"] = []
    (tmp_path / "odd/tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(sp.PlanError) as error:
        sp.plan(sp.transplant(pair / "ours", tmp_path / "odd"))
    assert "no token in common" in problems(error)


def test_a_nan_is_found(pair, tmp_path):
    """A NaN in a row in common ends the transplant with an error that names it."""
    shutil.copytree(pair / "theirs", tmp_path / "theirs")
    arrays = {name: array.copy() for name, array in read_model(pair / "theirs").items()}
    arrays[EMBEDDING][300:, 5] = np.nan
    write_model(tmp_path / "theirs", arrays)
    with pytest.raises(sp.ExecutionError) as error:
        sp.compute(sp.transplant(pair / "ours", tmp_path / "theirs"))
    assert EMBEDDING in problems(error)
    assert "NaN" in problems(error)
    with pytest.raises(sp.ExecutionError, match="NaN"):
        sp.compute(sp.transplant(pair / "ours", tmp_path / "theirs", method="subword"))


def test_the_command_line_offers_every_method():
    """The verb's list of methods, which it does not import, is that of the plan."""
    from stockpot.cli.transplant import command

    (option,) = [p for p in command.params if p.name == "method"]
    assert tuple(option.type.choices) == tuple(transplanted.METHODS)


def test_a_receipt_that_was_changed(pair, tmp_path):
    """What describes no transplant is an error that names the receipt; nothing is computed."""
    sp.save(sp.transplant(pair / "ours", pair / "theirs", method="zero"), tmp_path / "out")
    path = tmp_path / "out/stockpot-receipt.json"
    receipt = json.loads(path.read_text())
    nodes = receipt["expression"]
    assert nodes[-1] == {"transplant": 0, "tokenizer": 1, "method": "zero", "k": 0}
    leaves = {row["leaf"]: sp.open(row["leaf"]) for row in nodes if "leaf" in row}
    assert isinstance(rebuilt(nodes, leaves, "r"), Transplant)
    for wrong in (
        {"tokenizer": 2},
        {"tokenizer": "1"},
        {"k": -1},
        {"method": 3},
        {"transplant": None},
    ):
        with pytest.raises(sp.CheckpointError, match="cannot be built"):
            rebuilt([*nodes[:-1], {**nodes[-1], **wrong}], leaves, "r")
    with pytest.raises(sp.CheckpointError, match="cannot be built"):
        rebuilt([*nodes, {"cast": 2, "dtype": "float32"}, {**nodes[-1], "tokenizer": 3}], leaves, "r")
    twice = rebuilt([*nodes[:-1], {**nodes[-1], "method": "magic"}], leaves, "r")
    with pytest.raises(sp.PlanError, match="no method 'magic'"):
        sp.plan(twice)


def test_a_model_with_an_adapter_on_it(pair, tmp_path, stockpot):
    """MODEL may be MODEL+ADAPTER: the result is the adapted model with the other tokenizer."""
    name, rng = next(n for n in read_model(pair / "ours") if "layers" in n), np.random.default_rng(4)
    rows, columns = read_model(pair / "ours")[name].shape
    module = name.removesuffix(".weight")
    shapes = {"lora_A": (2, columns), "lora_B": (rows, 2)}
    factors = {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    stored = {f"base_model.model.{module}.{k}.weight": v for k, v in factors.items()}
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": [module]}
    (tmp_path / "adapter").mkdir()
    write_file(tmp_path / "adapter" / "adapter_model.safetensors", stored)
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    both = f"{pair / 'ours'}+{tmp_path / 'adapter'}"
    stockpot("transplant", both, tmp_path / "out", "--tokenizer", pair / "theirs", "--method", "mean")
    ours = read_model(pair / "ours")[name].astype(np.float64)
    expected = ours + factors["lora_B"].astype(np.float64) @ factors["lora_A"]
    np.testing.assert_allclose(read_model(tmp_path / "out")[name], expected, rtol=1e-6)


def test_a_k_that_is_too_large_is_all_that_is_said(pair):
    """Not the memory that so many rows would take."""
    with pytest.raises(sp.PlanError) as error:
        sp.plan(sp.transplant(pair / "ours", pair / "theirs", k=50_000))
    (problem,) = error.value.problems
    assert problem.message.startswith("k is 50000")


def test_a_model_without_a_tokenizer_is_told_nothing_of_recipes(pair, tmp_path):
    """What to do is said without keys of recipes."""
    shutil.copytree(pair / "theirs", tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(sp.StockpotError) as error:
        sp.plan(sp.transplant(pair / "ours", tmp_path / "bare"))
    assert "has no tokenizer" in problems(error)
    assert "tokenizer_source" not in problems(error)
