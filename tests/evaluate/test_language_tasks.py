"""Language models: likelihoods beside a plain loop over tokens, memory shared with the merge, tied heads kept."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers

import stockpot as sp
from evaluating import TEXT, language_model, sentence_model, write_lines
from stockpot.errors import CheckpointError, UnsupportedError
from stockpot.evaluate import Blend, candidate, evaluate, load_suite
from stockpot.evaluate.neural import as_torch, embeddings, token_losses

QUIZ = [
    {"context": "The soup was", "choices": [" hot", " on the fire and cold"], "answer": 0},
    {"context": "Whoever came ", "choices": ["by", "in", "a kettle since morning"], "answer": 2},
    {"context": "A merge is", "choices": [" a figure with an interval", " soup"], "answer": 1},
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two language models and a sentence encoder with its probe's data."""
    folder = tmp_path_factory.mktemp("models")
    models = {name: language_model(folder / name, seed) for seed, name in enumerate(("one", "two"))}
    models["bert"] = sentence_model(folder / "bert")
    (folder / "prose.txt").write_text(TEXT)
    (folder / "other.txt").write_text(TEXT.upper())
    write_lines(folder / "quiz.jsonl", QUIZ)
    return folder, models


def measured(folder, task, *models, **how):
    (folder / "suite.yml").write_text(f"tasks: {{t: {task}}}")
    suite = load_suite(folder / "suite.yml", allow_code=True)
    result = evaluate([m if not isinstance(m, str) else candidate(folder / m) for m in models], suite, **how)
    assert result.failed == (), result.failed
    return result


def first(result, number=0):
    return result.cells[0].figures[number].value


def plain_losses(model, ids):
    """-ln p of tokens 1 … n - 1 of one sequence, in one forward pass without padding."""
    with torch.no_grad():
        logits = model(torch.tensor([ids[:-1]])).logits[0].double()
    return -torch.log_softmax(logits, dim=1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()


def tokens(folder, text):
    return transformers.AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(("context", "stride"), [(16, 16), (16, 5), (60, 60), (64, 1)])
def test_perplexity_is_that_of_a_plain_loop(made, context, stride):
    """Every token is predicted once, from as much before it as its window holds; BOS predicts the first."""
    folder, models = made
    ids = [1, *tokens(folder / "one", TEXT)]
    total, done = 0.0, 1
    while done < len(ids):
        end = min(done + (context if done == 1 else stride), len(ids))
        start = max(0, end - 1 - context)
        total += plain_losses(models["one"], ids[start:end])[-(end - done) :].sum()
        done = end
    task = f"{{kind: perplexity, split: {{report: prose.txt}}, context: {context}, stride: {stride}}}"
    result = measured(folder, task, "one")
    assert first(result) == pytest.approx(np.exp(total / (len(ids) - 1)), rel=1e-5)
    assert first(result, 1) == pytest.approx(total / np.log(2) / len(TEXT.encode()), rel=1e-5)


def test_without_a_prefix_the_first_token_is_skipped(made):
    """first: skip predicts all tokens but the first of each document; documents may be lines."""
    folder, models = made
    task = "{kind: perplexity, split: {report: prose.txt}, documents: line, first: skip}"
    losses = [plain_losses(models["one"], tokens(folder / "one", line)) for line in TEXT.strip().split("\n")]
    found = measured(folder, task, "one")
    assert first(found) == pytest.approx(np.exp(np.concatenate(losses).mean()), rel=1e-5)
    assert found.cells[0].examples == 3
    first_tokens = [tokens(folder / "one", line)[0] for line in TEXT.strip().split("\n")]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "one")
    skipped = sum(len(tokenizer.decode([token]).encode()) for token in first_tokens)
    size = len(TEXT.replace("\n", "").encode()) - skipped
    assert first(found, 1) == pytest.approx(np.concatenate(losses).sum() / np.log(2) / size, rel=1e-5)


def test_padding_and_batches_change_nothing(made):
    """One sequence at a time, or all at once padded to the longest: the same losses, to float32's rounding."""
    folder, models = made
    ids = tokens(folder / "one", TEXT)
    sequences = [ids[:n] for n in (2, 33, 7, 64, 21, 2)]
    alone = token_losses(models["one"], sequences, 1)
    together = token_losses(models["one"], sequences, 10_000)
    for one, other, sequence in zip(alone, together, sequences, strict=True):
        assert one.shape == (len(sequence) - 1,)
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=1e-5)
        np.testing.assert_allclose(one, plain_losses(models["one"], sequence), rtol=2e-4, atol=1e-5)
    one, other = (embeddings(models["bert"], sequences, budget) for budget in (1, 10_000))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_choices_are_ranked_by_their_likelihood(made):
    """ln p of each choice after its context, whole, over its tokens, over its bytes: beside a plain loop."""
    folder, models = made
    by_sum, by_token, by_byte, losses = [], [], [], []
    for row in QUIZ:
        likely, counts = [], []
        for choice in row["choices"]:
            before = [1, *tokens(folder / "one", row["context"].rstrip())]
            whole = [1, *tokens(folder / "one", row["context"] + choice)]
            likely.append(-plain_losses(models["one"], whole)[len(before) - 1 :].sum())
            counts.append(len(whole) - len(before))
        sizes = [len(c) for c in row["choices"]]
        by_sum.append(np.argmax(likely) == row["answer"])
        by_token.append(np.argmax(np.divide(likely, counts)) == row["answer"])
        by_byte.append(np.argmax(np.divide(likely, sizes)) == row["answer"])
        losses.append(np.log(np.exp(likely - np.max(likely)).sum()) - likely[row["answer"]] + np.max(likely))
    task = "{kind: choice, split: {report: quiz.jsonl}, metrics: [accuracy, accuracy_tokens, accuracy_bytes, loss]}"
    found = [f.value for f in measured(folder, task, "one").cells[0].figures]
    assert found == pytest.approx([np.mean(by_sum), np.mean(by_token), np.mean(by_byte), np.mean(losses)], rel=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_torch_shares_the_memory_of_the_merge(made, tmp_path, dtype):
    """Every parameter of the model that is run lies where the merge wrote it; a tied head is one with its embedding."""
    folder, _ = made
    merged = 0.5 * sp.open(folder / "one") + 0.5 * sp.open(folder / "two")
    opened = candidate(merged, dtype=dtype).opened("cpu")
    model = opened.transformer("causal")
    state = model.state_dict()
    assert str(model.dtype) == f"torch.{dtype}"
    for name, array in opened.tensors.items():
        assert state[name].data_ptr() == array.ctypes.data, name
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not model.training
    sp.save(merged, tmp_path / "out", dtype=dtype)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert all(torch.equal(state[name], tensor) for name, tensor in loaded.state_dict().items())


def test_untied_heads_stay_untied(tmp_path):
    """Of a model with a head of its own."""
    language_model(tmp_path / "m", tied=False)
    model = candidate(tmp_path / "m").opened("cpu").transformer("causal")
    assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()


def test_every_dtype_becomes_torchs():
    """As views: bits and shapes are kept, scalars too."""
    import ml_dtypes

    for dtype in (np.float64, np.float16, np.int64, np.bool_, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn):
        array = np.arange(6).reshape(2, 3).astype(dtype)
        tensor = as_torch(array)
        assert tensor.shape == (2, 3)
        assert tensor.double().numpy().tolist() == array.astype(np.float64).tolist()
        assert tensor.data_ptr() == array.ctypes.data
        assert as_torch(np.ones((), dtype)).shape == ()


def test_a_merge_is_measured_as_its_folder(made, tmp_path):
    """Perplexity of a recipe in memory equals that of the folder that it writes, with another tokenizer's files too."""
    folder, _ = made
    merged = sp.slerp(sp.open(folder / "one"), sp.open(folder / "two"), t=0.3)
    sp.save(merged, tmp_path / "out")
    task = "{kind: perplexity, split: {report: prose.txt}}"
    result = measured(folder, task, candidate(merged, name="memory"), candidate(tmp_path / "out"))
    memory, stored = (c.figures[0] for c in result.cells)
    assert memory.value == stored.value
    assert (stored.difference, stored.difference_low) == (0, 0)


def test_points_between_language_models(made):
    """A blend keeps config and tokenizer, so its points are run like any model."""
    folder, _ = made
    one, two = (candidate(folder / name) for name in ("one", "two"))
    middle = candidate(0.5 * sp.open(folder / "one") + 0.5 * sp.open(folder / "two"), name="middle")
    task = "{kind: perplexity, split: {report: prose.txt}}"
    result = measured(folder, task, Blend.of(one, two).candidate(0.5), middle)
    assert result.cells[0].figures[0].value == result.cells[1].figures[0].value


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # PEFT's
def test_a_model_with_an_adapter_is_measured_as_peft_runs_it(made, tmp_path):
    """MODEL+ADAPTER, without a folder that holds the sum."""
    import peft

    folder, _ = made
    torch.manual_seed(3)
    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "one")
    settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(base, settings)
    adapted.save_pretrained(tmp_path / "adapter")
    ids = [1, *tokens(folder / "one", TEXT)][:64]
    (folder / "short.txt").write_text(transformers.AutoTokenizer.from_pretrained(folder / "one").decode(ids[1:]))
    task = "{kind: perplexity, split: {report: short.txt}}"
    both = [candidate(folder / "one"), candidate(f"{folder / 'one'}+{tmp_path / 'adapter'}")]
    plain, found = (c.figures[0].value for c in measured(folder, task, *both).cells)
    ids = [1, *tokens(folder / "one", (folder / "short.txt").read_text())]
    assert found == pytest.approx(np.exp(plain_losses(adapted.eval(), ids).mean()), rel=1e-4)
    assert found != pytest.approx(plain, rel=1e-2)


def test_missing_tensors_are_never_drawn_at_random(made):
    """A config that asks for more layers than there are is an error that names a tensor."""
    folder, _ = made
    opened = candidate(folder / "one").opened("cpu")
    config = {**opened.config, "num_hidden_layers": 3}
    from stockpot.evaluate.neural import transformer_of

    with pytest.raises(CheckpointError, match=r"model\.layers\.2"):
        transformer_of(config, opened.tensors, "causal", "cpu")
    with pytest.raises(CheckpointError, match="belongs to no parameter"):
        transformer_of({**config, "num_hidden_layers": 1}, opened.tensors, "causal", "cpu")
    with pytest.raises(UnsupportedError, match="no architecture 'strange'"):
        transformer_of({"model_type": "strange", "auto_map": {"AutoModel": "x.Y"}}, opened.tensors, "causal", "cpu")


def test_a_model_without_a_tokenizer_says_so(made, tmp_path):
    """In its cell, with what to do."""
    folder, models = made
    models["one"].save_pretrained(tmp_path / "bare")
    (folder / "suite.yml").write_text("tasks: {t: {kind: perplexity, split: {report: prose.txt}}}")
    result = evaluate([candidate(tmp_path / "bare")], load_suite(folder / "suite.yml"))
    assert "has no tokenizer" in result.cells[0].error


def test_code_beside_a_tokenizer_is_not_run(tmp_path):
    """A tokenizer that is code of the checkpoint is refused, without a question."""
    language_model(tmp_path / "m")
    told = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps(told))
    (tmp_path / "m" / "own.py").write_text("raise SystemExit('ran')")
    with pytest.raises(UnsupportedError, match="never run"):
        _ = candidate(tmp_path / "m").opened("cpu").tokenizer


@pytest.mark.parametrize("name", ["pipeline", "LlamaForCausalLM", "os"])
def test_only_a_tokenizer_is_made_of_a_tokenizer_class(tmp_path, name):
    """Other names of transformers are refused."""
    language_model(tmp_path / "m")
    told = {"tokenizer_class": name, "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps(told))
    with pytest.raises(UnsupportedError, match="never run"):
        _ = candidate(tmp_path / "m").opened("cpu").tokenizer


def test_a_config_cannot_name_code(made):
    """Kernels at the hub and classes beside the weights are left out of the config; the figures are the same."""
    folder, models = made
    opened = candidate(folder / "one").opened("cpu")
    from stockpot.evaluate.neural import transformer_of

    named = {"attn_implementation": "someone/kernel", "_attn_implementation": "someone/kernel", "use_kernels": True}
    config = {**opened.config, **named, "auto_map": {"AutoModelForCausalLM": "own.Own"}}
    model = transformer_of(config, opened.tensors, "causal", "cpu")
    assert type(model) is type(models["one"])
    assert model.config._attn_implementation == models["one"].config._attn_implementation
    assert not hasattr(model.config, "auto_map")


PAIRS = [
    {"a": "the soup", "b": "soup", "score": 4},
    {"a": "a kettle on the fire", "b": "nobody took the spoon", "score": 1},
    {"a": "a merge", "b": "a merge is measured", "score": 3},
    {"a": "morning", "b": "interval", "score": 0.5},
]


def pooled(folder, model, text):
    """Mean of the last hidden states of one text, without padding."""
    ids = transformers.AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    with torch.no_grad():
        return model(torch.tensor([ids])).last_hidden_state[0].double().mean(dim=0).numpy()


def test_similarity_is_that_of_a_plain_loop(made):
    """Spearman's correlation of cosines with scores, embeddings made one by one."""
    from scipy.stats import spearmanr

    folder, models = made
    write_lines(folder / "pairs.jsonl", PAIRS)
    cosines = []
    for row in PAIRS:
        a, b = (pooled(folder / "bert", models["bert"], row[key]) for key in "ab")
        cosines.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    wanted = spearmanr(cosines, [row["score"] for row in PAIRS]).statistic
    assert first(measured(folder, "{kind: similarity, split: {report: pairs.jsonl}}", "bert")) == pytest.approx(wanted)


def test_probe_is_logistic_regression_on_embeddings(made):
    """Fitted on its own texts, beside scikit-learn on embeddings made one by one."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folder, models = made
    words = TEXT.replace("\n", " ").split()
    rows = [{"text": " ".join(words[i : i + 4]), "label": "late" if i > 20 else "early"} for i in range(40)]
    write_lines(folder / "train.jsonl", rows[::2])
    write_lines(folder / "test.jsonl", rows[1::2])
    x = np.stack([pooled(folder / "bert", models["bert"], row["text"]) for row in rows])
    y = np.array([row["label"] == "late" for row in rows])
    fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x[::2], y[::2])
    task = "{kind: probe, train: train.jsonl, split: {report: test.jsonl}}"
    accuracy, loss = measured(folder, task, "bert").cells[0].figures
    p = fitted.predict_proba(x[1::2])
    assert accuracy.value == (p.argmax(axis=1) == y[1::2]).mean()
    assert loss.value == pytest.approx(-np.log(p[np.arange(20), y[1::2].astype(int)]).mean(), rel=1e-3)


def test_nothing_heavy_is_imported_before_it_is_needed():
    """Neither the package nor its evaluation of arrays loads torch or transformers."""
    code = (
        "import sys, stockpot, stockpot.evaluate, stockpot.evaluate.neural\n"
        "assert not {'torch', 'transformers', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_extra_is_named(made, monkeypatch):
    """Without torch the cell says what to install."""
    folder, _ = made
    monkeypatch.setattr("stockpot.evaluate.neural.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "torch")
    (folder / "suite.yml").write_text("tasks: {t: {kind: perplexity, split: {report: prose.txt}}}")
    result = evaluate([candidate(folder / "one")], load_suite(folder / "suite.yml"))
    assert "needs torch" in result.cells[0].error
    assert "stockpot[evaluate]" in result.cells[0].error
