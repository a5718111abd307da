"""Rungs: growing shares of the data, each piece predicted once, the model opened once, failures as our errors."""

from __future__ import annotations

import numpy as np
import pytest

from evaluating import TEXT, digits_bench, language_model, sentence_model, write_lines
from stockpot.errors import ExecutionError, RecipeError, StockpotError
from stockpot.evaluate import Cache, candidate, evaluate, load_suite
from stockpot.evaluate.opened import Opened
from stockpot.evaluate.protocol import Metric
from stockpot.search.objective import Objective, objective_of
from stockpot.search.tuning.rungs import Rungs

SHARES = (0.1, 0.3, 1.0)
ACCURACY, LOSS = (
    Objective((("clean", metric),), better) for metric, better in (("accuracy", "higher"), ("loss", "lower"))
)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return digits_bench(tmp_path)


@pytest.fixture
def suite(bench):
    return load_suite(bench / "suite.yml", allow_code=True)


def counted(monkeypatch):
    """How often models are opened, by name."""
    opened = []
    real = Opened.tensors.func

    def tensors(self):
        opened.append(self.name)
        return self.__dict__.setdefault("tensors", real(self))

    monkeypatch.setattr(Opened, "tensors", property(lambda self: self.__dict__.get("tensors") or tensors(self)))
    return opened


def test_figures_grow_into_those_of_all_data(suite, monkeypatch):
    """After the last rung they are what evaluating finds; before it they are of the rows so far; merged once."""
    opened = counted(monkeypatch)
    with Rungs(suite, "tune", [ACCURACY, LOSS], SHARES) as rungs:
        found = list(rungs.values(candidate("merge.yml")))
    assert len(opened) == 1
    assert len(set(found)) == 3
    assert [accuracy * rows % 1 for (accuracy, _), rows in zip(found, (20, 60, 200), strict=True)] == pytest.approx(
        [0, 0, 0], abs=1e-9
    )
    whole = evaluate([candidate("merge.yml")], suite, split="tune").cells[0]
    assert found[-1] == pytest.approx([f.value for f in whole.figures], rel=1e-6)


def test_one_rung_is_the_plain_evaluation(suite, monkeypatch):
    """Bit for bit, without a copy of the data."""
    monkeypatch.setattr("stockpot.search.tuning.rungs.mkdtemp", lambda **_: pytest.fail("nothing is copied"))
    rungs = Rungs(suite, "select", [objective_of(suite), LOSS])
    assert rungs.shares == (1.0,)
    whole = evaluate([candidate("low")], suite, split="select").cells[0]
    assert list(rungs.values(candidate("low"))) == [tuple(f.value for f in whole.figures)]


def test_what_is_not_asked_for_is_not_computed(suite, bench):
    """A candidate that is given up after a rung has predicted that rung's rows alone."""
    (bench / "nets.py").write_text((bench / "nets.py").read_text() + COUNTING)
    (bench / "suite.yml").write_text((bench / "suite.yml").read_text().replace("nets:logits", "nets:counted"))
    counting = load_suite(bench / "suite.yml", allow_code=True)
    with Rungs(counting, "tune", [ACCURACY], SHARES) as rungs:
        values = rungs.values(candidate("low"))
        assert not (bench / "rows").exists()
        for rows in ("20", "20 40", "20 40 140"):
            next(values)
            assert (bench / "rows").read_text().split() == rows.split()


COUNTING = """
def counted(tensors, inputs):
    with open("rows", "a") as file:
        file.write(f"{len(inputs)} ")
    return logits(tensors, inputs)
"""


def test_known_predictions_open_nothing(suite, monkeypatch):
    """With a cache a second search with the same seed finds the same figures, and no model is merged."""
    with Cache(None) as cache:
        with Rungs(suite, "tune", [LOSS], SHARES, cache=cache) as rungs:
            first = list(rungs.values(candidate("merge.yml")))
        opened = counted(monkeypatch)
        with Rungs(suite, "tune", [LOSS], SHARES, cache=cache) as rungs:
            assert list(rungs.values(candidate("merge.yml"))) == first
            assert opened == []
        with Rungs(suite, "tune", [LOSS], SHARES, cache=cache, seed=1) as rungs:
            other = list(rungs.values(candidate("merge.yml")))
    assert other[0] != first[0]
    assert other[-1] == pytest.approx(first[-1], rel=1e-6)


def test_the_pieces_are_removed(suite, tmp_path, monkeypatch):
    """When the context ends, and when making them fails."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    with Rungs(suite, "tune", [LOSS], SHARES):
        assert any((tmp_path / "tmp").iterdir())
    assert not any((tmp_path / "tmp").iterdir())
    (tmp_path / "tune.npz").write_bytes(b"")
    with pytest.raises(StockpotError, match=r"tune\.npz"):
        Rungs(suite, "tune", [LOSS], SHARES)
    assert not any((tmp_path / "tmp").iterdir())


def test_data_that_chose_is_noted(suite):
    """So that figures on it are marked later."""
    with Cache(None) as cache, Rungs(suite, "tune", [LOSS], cache=cache, choosing="a search"):
        assert cache.chosen(suite.tasks[0].content("tune")) == "a search"


def test_whatever_fails_is_an_error_that_names_the_task(suite, bench):
    """Code of users, a figure that is none, a model that is not there: the message stays, nothing else escapes."""
    (bench / "bad.py").write_text("def stop(tensors, inputs):\n    raise SystemExit('enough')\n")
    (bench / "suite.yml").write_text((bench / "suite.yml").read_text().replace("nets:logits", "bad:stop"))
    bad = load_suite(bench / "suite.yml", allow_code=True)
    with (
        Rungs(bad, "tune", [LOSS], SHARES) as rungs,
        pytest.raises(ExecutionError, match=r"clean, 0.1 of.*SystemExit: e"),
    ):
        next(rungs.values(candidate("low")))
    with Rungs(suite, "tune", [LOSS]) as rungs, pytest.raises(StockpotError, match=r"clean: .*absent"):
        next(rungs.values(candidate("absent")))
    never = Metric("never", "higher", lambda columns: columns["loss"] * np.nan)
    task = suite.tasks[0]
    object.__setattr__(task.task, "metrics", (never,))
    by = Objective((("clean", "never"),), "higher")
    with Rungs(suite, "tune", [by]) as rungs, pytest.raises(ExecutionError, match="never is nan"):
        next(rungs.values(candidate("low")))


def test_what_makes_no_sense_is_refused(suite, bench):
    """No data of the role; several rungs of what only a user's code can read."""
    (bench / "own.py").write_text(
        "import numpy as np\n"
        "def run(model, files):\n    return {'labels': np.ones(4), 'predicted': np.array([1, 1, 1, 0])}\n"
    )
    (bench / "own.yml").write_text(
        "tasks:\n  own: {kind: own, run: 'own:run', split: {tune: tune.npz}}\n"
        "  clean: {kind: classification, predict: 'nets:logits', split: {tune: select.npz}}\n"
    )
    own = load_suite(bench / "own.yml", allow_code=True)
    alone = Objective((("own", "accuracy"),), "higher")
    with pytest.raises(RecipeError, match="own cannot be cut"):
        Rungs(own, "tune", [alone], SHARES)
    with pytest.raises(RecipeError, match="no data to select with for own"):
        Rungs(own, "select", [alone])
    with Rungs(own, "tune", [alone, ACCURACY], SHARES) as rungs:
        found = list(rungs.values(candidate("low")))
    assert [value for value, _ in found] == [0.75] * 3
    assert len({value for _, value in found}) == 3


def test_language_tasks_in_pieces(tmp_path, monkeypatch):
    """Texts, quizzes with different numbers of choices, pairs and probes: the last rung is the whole evaluation."""
    monkeypatch.chdir(tmp_path)
    language_model(tmp_path / "lm")
    sentence_model(tmp_path / "bert")
    (tmp_path / "prose.txt").write_text(TEXT * 3)
    quiz = [
        {"context": f"The {i} soup was", "choices": [" hot", " on", " a"][: 2 + i % 2], "answer": 0} for i in range(12)
    ]
    write_lines(tmp_path / "quiz.jsonl", quiz)
    pairs = [{"a": f"soup {i}", "b": f"kettle {i * i}", "score": i} for i in range(30)]
    write_lines(tmp_path / "pairs.jsonl", pairs)
    texts = [{"text": f"the {'soup' if i % 2 else 'kettle'} {i}", "label": i % 2} for i in range(40)]
    write_lines(tmp_path / "train.jsonl", texts[:20])
    write_lines(tmp_path / "probe.jsonl", texts[20:])
    (tmp_path / "suite.yml").write_text(
        "tasks:\n  prose: {kind: perplexity, split: {tune: prose.txt}, context: 16}\n"
        "  quiz: {kind: choice, split: {tune: quiz.jsonl}}\n"
        "  pairs: {kind: similarity, split: {tune: pairs.jsonl}}\n"
        "  probe: {kind: probe, split: {tune: probe.jsonl}, train: train.jsonl}\n"
    )
    suite = load_suite(tmp_path / "suite.yml")
    for model, wanted in (("lm", ("prose.perplexity", "quiz.loss")), ("bert", ("pairs.spearman", "probe.loss"))):
        objectives = [objective_of(suite, [name], split="tune") for name in wanted]
        with Rungs(suite, "tune", objectives, (0.2, 0.6, 1.0)) as rungs:
            *_, last = rungs.values(candidate(model))
        whole = evaluate([candidate(model)], suite, split="tune")
        values = [objective.value(whole, model) for objective in objectives]
        assert last[1] == pytest.approx(values[1], rel=1e-5), wanted[1]
        assert last[0] == pytest.approx(values[0], rel=0.05 if model == "lm" else 1e-5), wanted[0]
