"""Data in pieces: every example in one piece, the shares that were asked for, the same pieces for the same seed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluating import write_lines
from stockpot.errors import ExecutionError, RecipeError, StorageError
from stockpot.evaluate import load_suite
from stockpot.evaluate.arrays import read_npz
from stockpot.evaluate.portions import ArrayRows, Deal, Lines, Spans, checked_shares, joined, portions

SHARES = (0.1, 0.3, 1.0)


def cut(how, files, folder, shares=SHARES, seed=0):
    folder.mkdir()
    return portions(how, tuple(files), shares, seed, folder)


def lines_of(files):
    return [line for path in files for line in path.read_text().split("\n") if line]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(0, 2**31))
def test_rows_are_dealt_once_in_shares(counts, seed):
    """Whatever sizes files have: each row in one piece, in order, all pieces together within a row of their shares."""
    deal = Deal(SHARES, seed)
    dealt = [deal.rows(count) for count in counts]
    for count, parts in zip(counts, dealt, strict=True):
        assert sorted(np.concatenate(parts)) == list(range(count))
        assert all(list(part) == sorted(part) for part in parts)
    total, so_far = sum(counts), 0
    for i, share in enumerate(SHARES):
        so_far += sum(len(parts[i]) for parts in dealt)
        assert share * total - 1e-6 <= so_far <= share * total + 1 or i == 0
    assert so_far == total
    assert len(dealt[0][0]) >= 1


@given(st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=30), min_size=1, max_size=4), st.integers(0, 2**31))
def test_spans_are_dealt_once(files, seed):
    """Each unit lies in one span of one piece; a file has at most one span more than pieces; none is empty."""
    deal = Deal(SHARES, seed)
    for k, sizes in enumerate(files):
        parts = deal.spans(sizes)
        units = [i for spans in parts for low, high in spans for i in range(low, high)]
        assert sorted(units) == list(range(len(sizes)))
        assert all(low < high for spans in parts for low, high in spans)
        assert sum(map(len, parts)) <= len(SHARES) + 1
        assert k or parts[0], "the first piece has something"


def test_shares_of_a_long_text_are_met(tmp_path):
    """Spans of a text of many lines hold its characters in the shares, and together they are the text."""
    text = "".join(f"line {i} of a text, {'and more ' * (i % 5)}\n" + "\n" * (i % 3 == 0) for i in range(1000))
    (tmp_path / "a.txt").write_text("\n" + text)
    pieces = cut(Spans(), [tmp_path / "a.txt"], tmp_path / "cut")
    sizes = [sum(len(path.read_text()) for path in piece) for piece in pieces]
    assert np.allclose(np.cumsum(sizes) / len(text), SHARES, atol=0.01)
    assert sorted(lines_of(p for piece in pieces for p in piece)) == sorted(line for line in text.split("\n") if line)
    assert all(path.read_text().strip() for piece in pieces for path in piece)
    whole = "\n" + text
    assert all(path.read_text() in whole for piece in pieces for path in piece), "spans are not reordered"
    assert sum(sizes) == len(whole), "blank lines are kept"


def test_rows_of_arrays(tmp_path):
    """Inputs stay beside their labels, over several files; other seeds choose others, the same seed the same bytes."""
    rng = np.random.default_rng(0)
    for name, count in (("a", 30), ("b", 50)):
        x = rng.normal(size=(count, 3)).astype(np.float32)
        np.savez(tmp_path / f"{name}.npz", x=x, y=(x[:, 0] * 1000).astype(np.int64), other=np.zeros(1))
    files = [tmp_path / "a.npz", tmp_path / "b.npz"]
    how = ArrayRows(("x", "y"))
    made = [cut(how, files, tmp_path / f"cut{i}", seed=i // 2) for i in range(3)]
    read = [[read_npz(path) for path in piece] for piece in made[0]]
    sizes = [sum(len(part["y"]) for part in piece) for piece in read]
    assert sizes == [8, 16, 56]
    rows = np.concatenate([part["x"] for piece in read for part in piece])
    given = np.concatenate([read_npz(path)["x"] for path in files])
    assert sorted(map(tuple, rows)) == sorted(map(tuple, given))
    assert all(np.array_equal((p["x"][:, 0] * 1000).astype(np.int64), p["y"]) for piece in read for p in piece)
    contents = [[path.read_bytes() for piece in pieces for path in piece] for pieces in made]
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


def test_lines_of_json(tmp_path):
    """Each object in one piece; blank lines are no examples; few lines leave pieces empty, never the first."""
    write_lines(tmp_path / "a.jsonl", [{"text": f"naïve {i}"} for i in range(20)])
    (tmp_path / "a.jsonl").write_text((tmp_path / "a.jsonl").read_text().replace("\n", "\n\n"))
    write_lines(tmp_path / "one.jsonl", [{"text": "alone"}])
    pieces = cut(Lines(), [tmp_path / "a.jsonl"], tmp_path / "cut")
    told = [sorted(json.loads(line)["text"] for line in lines_of(piece)) for piece in pieces]
    assert [len(own) for own in told] == [2, 4, 14]
    assert sorted(text for own in told for text in own) == sorted(f"naïve {i}" for i in range(20))
    alone = cut(Lines(), [tmp_path / "one.jsonl"], tmp_path / "few")
    assert [len(piece) for piece in alone] == [1, 0, 0]


def test_what_cannot_be_cut_or_need_not_be_is_left_where_it_is(tmp_path):
    """A task without a cut is the first piece as a whole; one share writes nothing."""
    files = (tmp_path / "a.bin",)
    assert cut(None, files, tmp_path / "cut") == (files, (), ())
    assert cut(Lines(), files, tmp_path / "whole", (1.0,)) == (files,)
    assert not any((tmp_path / "whole").iterdir())


def test_a_piece_that_cannot_be_written_is_named(tmp_path):
    """An error that names the file."""
    write_lines(tmp_path / "a.jsonl", [{"text": "a"}])
    with pytest.raises(StorageError, match=r"cannot write.*0-0\.jsonl"):
        portions(Lines(), (tmp_path / "a.jsonl",), SHARES, 0, tmp_path / "gone")


@pytest.mark.parametrize("shares", [(), (0.5,), (0.5, 0.5, 1), (0, 1), (0.5, 2)], ids=str)
def test_shares_rise_to_one(shares):
    """Anything else is an error that shows what is right."""
    with pytest.raises(RecipeError, match=r"0\.1, 0\.3, 1"):
        checked_shares(shares)


def test_rows_are_joined():
    """Classes that a part does not know have the probability 0; other columns must fit."""
    parts = [{"probabilities": np.ones((1, 2))}, {"probabilities": np.ones((2, 3))}]
    assert joined(parts)["probabilities"].tolist() == [[1, 1, 0], [1, 1, 1], [1, 1, 1]]
    for other in ({"a": np.ones((1, 2))}, {"b": np.ones(1)}, {"a": np.ones(1), "b": np.ones(1)}):
        with pytest.raises(ExecutionError, match="other columns or shapes"):
            joined([{"a": np.ones(1)}, other])


def test_each_kind_says_how_it_is_cut(tmp_path):
    """Of the built-in kinds only a task of one's own cannot be."""
    write_lines(tmp_path / "q.jsonl", [{"context": "a", "choices": ["b", "c"], "answer": 0, "text": "a"}])
    (tmp_path / "run.py").write_text("def run(model, files): ...\n")
    (tmp_path / "suite.yml").write_text(
        "tasks:\n"
        "  whole: {kind: perplexity, split: {report: q.jsonl}}\n"
        "  lines: {kind: perplexity, documents: jsonl, split: {report: q.jsonl}}\n"
        "  quiz: {kind: choice, split: {report: q.jsonl}}\n"
        "  own: {kind: own, run: 'run:run', split: {report: q.jsonl}}\n"
    )
    suite = load_suite(tmp_path / "suite.yml", allow_code=True, same_data=True)
    assert [task.cut for task in suite.tasks] == [Spans(), Lines(), Lines(), None]


@pytest.mark.parametrize(("share", "count"), [(0.07, 7), (0.14, 14), (0.3, 30)], ids=str)
def test_a_share_is_not_rounded_up_for_the_sake_of_its_last_bit(share, count):
    """0.07 · 100 is a little more than 7 in floating point: still 7 of 100 examples."""
    first, rest = Deal((share, 1.0), 0).rows(100)
    assert (len(first), len(rest)) == (count, 100 - count)
