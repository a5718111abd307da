"""The greedy rule: order, ties, strictness, and what holds by construction."""

from __future__ import annotations

import math
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from stockpot.search import greedy, ranked


def test_order_is_by_score_then_by_name():
    """The best first; equal scores in order of names, whatever order they came in; failed ones are not there."""
    scores = {"c": 0.5, "b": 0.9, "z": -math.inf, "a": 0.5, "d": 0.7}
    assert [name for name, _ in ranked(scores)] == ["b", "d", "a", "c"]
    assert ranked(dict(reversed(scores.items()))) == ranked(scores)


def test_an_average_that_is_as_good_is_kept_unless_strict():
    """The paper's rule is no worse, its code's is better."""
    ranking = [("a", 0.8), ("b", 0.7), ("c", 0.6)]
    table = {("a", "b"): 0.8, ("a", "b", "c"): 0.9, ("a", "c"): 0.85}
    assert [s.kept for s in greedy(ranking, table.__getitem__)] == [True, True, True]
    assert [s.kept for s in greedy(ranking, table.__getitem__, strict=True)] == [True, False, True]


def test_a_model_is_measured_with_those_that_were_kept():
    """Not by its own score, and never again once it is out; a failure is out and the next goes on."""
    asked, kept = [], []
    table = {("a", "b"): 0.7, ("a", "c"): -math.inf, ("a", "d"): 0.95, ("a", "d", "e"): 0.94}

    def score(members):
        asked.append(members)
        return table[members]

    ranking = [("a", 0.9), ("b", 0.89), ("c", 0.88), ("d", 0.1), ("e", 0.0)]
    steps = greedy(ranking, score, kept=lambda: kept.append(asked[-1]))
    assert asked == list(table)
    assert kept == [("a", "d")]
    assert [(s.name, s.score, s.kept) for s in steps] == [
        ("a", 0.9, True), ("b", 0.7, False), ("c", -math.inf, False), ("d", 0.95, True), ("e", 0.94, False),
    ]  # fmt: skip


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7), st.integers(0, 2**31), st.booleans())
def test_the_soup_never_scores_below_the_best_single(own, seed, strict):
    """Whatever averages score, on the data that chooses."""
    ranking = ranked({f"m{i}": value for i, value in enumerate(own)})
    steps = greedy(ranking, lambda members: Random(f"{seed} {members}").random(), strict=strict)
    assert [s for s in steps if s.kept][-1].score >= max(own)
    assert [s.name for s in steps] == [name for name, _ in ranking]
