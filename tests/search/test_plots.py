"""Plots stand where their data are: scales, steps, fronts, colours; and no label hides another."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import ImageFont

from stockpot.evaluate.page import document
from stockpot.search.plots import (
    Axis,
    Curve,
    Dot,
    Slice,
    Spot,
    Strip,
    Trial,
    curves,
    genome,
    history,
    nondominated,
    pareto,
    scatter,
    slices,
    strips,
)
from stockpot.search.plots.frame import Scale, apart

COST, GAIN = Axis("prose.perplexity", "lower"), Axis("quiz.accuracy", "higher")
EVIL = '<script src="//x">&amp;'


def parsed(svg):
    """The picture as a tree: it is well-formed."""
    return ET.fromstring(svg)


def spots_of(tree):
    """(x, y, class, told) of each sign that is moved to its place."""
    found = []
    for group in tree.iter("g"):
        if group.get("class") == "spot":
            x, y = map(float, re.findall(r"-?[\d.]+", group.get("transform")))
            sign = group[0] if group[0].tag != "g" else group[0][0]
            found.append((x, y, sign.get("class"), group.find("title").text))
    return found


def corners(path):
    """The points that a path of M, L, H and V goes through."""
    x = y = 0.0
    found = []
    for letter, numbers in re.findall(r"([MLHV])([-\d. ]+)", path):
        values = [float(n) for n in numbers.split()]
        x, y = values if letter in "ML" else (values[0], y) if letter == "H" else (x, values[0])
        found.append((x, y))
    return found


@cache
def font():
    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(folder / "DejaVuSans.ttf", 12)


def boxes(tree):
    """Where each text is, in a font that is wider than those of most systems; turned ones left out."""
    found = []
    for text in tree.iter("text"):
        if text.get("transform") is None:
            x, y = float(text.get("x")), float(text.get("y"))
            wide = font().getlength(text.text)
            left = x - {"start": 0, "middle": 0.5, "end": 1}[text.get("text-anchor", "start")] * wide
            found.append((text.text, (left, y - 9, left + wide, y + 2)))
    return found


def assert_readable(svg):
    """No two texts overlap, and all are in the picture."""
    tree = parsed(svg)
    *_, width, height = map(float, tree.get("viewBox").split())
    for text, (left, top, right, bottom) in boxes(tree):
        assert left >= 0, text
        assert top >= 0, text
        assert right <= width, text
        assert bottom <= height, text
    for (one, a), (other, b) in combinations(boxes(tree), 2):
        assert not (a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]), (one, other)


def trials(count=60):
    rng = np.random.default_rng(0)
    states = ["failed" if i % 17 == 5 else "stopped" if i % 5 == 3 else "done" for i in range(count)]
    return [Trial(i, None if s == "failed" else float(rng.normal(0.7, 0.1)), s) for i, s in enumerate(states)]


def cloud():
    rng = np.random.default_rng(1)
    found = [Spot(f"#{i}", float(x), float(y)) for i, (x, y) in enumerate(rng.normal((15, 0.6), (2, 0.1), (50, 2)))]
    return [
        *found,
        Spot("base", 14.0, 0.55, "model"),
        Spot("math", 14.05, 0.552, "model"),
        Spot("code", 14.1, 0.555, "model"),
        Spot("a model whose name is longer than anyone wants to read", 14.1, 0.556, "model"),
        Spot("chosen", 13.0, 0.7, "chosen"),
    ]


def test_scale_is_linear_or_by_ratio():
    """Equal steps, or equal ratios, are equal distances; what is beyond an end is at it."""
    line = Scale(0, 10, 100, 0)
    assert [line(v) for v in (0, 2.5, 10, 99, -math.inf, math.inf)] == [100, 75, 0, 0, 100, 0]
    log = Scale(0.01, 100, 0, 80, log=True)
    assert [log(v) for v in (0.01, 0.1, 1, 100)] == [0, 20, 40, 80]
    assert log.ticks == [0.01, 0.1, 1.0, 10.0, 100.0]
    assert all(b > a for a, b in pairwise(Scale.of([0.2, 0.3], 0, 80, log=True).ticks))


def test_far_worse_values_do_not_squeeze_the_rest():
    """One perplexity of a million leaves the others where they can be told apart, and stands at the edge."""
    values = [10.0, 11.0, 12.0, 13.0, 1e6, math.inf]
    tree = parsed(history([Trial(i, v) for i, v in enumerate(values)], COST))
    found = spots_of(tree)
    ys = [y for _, y, _, _ in found]
    assert ys[0] - ys[3] > 60
    assert [c for _, _, c, _ in found] == ["trial"] * 4 + ["edge"] * 2
    assert ys[4] == ys[5] < min(ys[:4])  # lower is better, so worse is up
    assert "1000000" in found[4][3]


def test_history_is_at_its_values_and_steps_along_the_best():
    """Trials are in order across, higher values higher; the line is the best so far of those that were done."""
    given = trials()
    tree = parsed(history(given, GAIN))
    found = spots_of(tree)
    assert len(found) == len(given)
    gaps = np.diff([x for x, *_ in found])
    assert np.allclose(gaps, gaps[0], atol=0.11)
    sound = [(t, y) for t, (_, y, _, _) in zip(given, found, strict=True) if t.value is not None]
    slope, start = np.polyfit([t.value for t, _ in sound], [y for _, y in sound], 1)
    assert slope < 0
    assert np.allclose([start + slope * t.value for t, _ in sound], [y for _, y in sound], atol=0.11)
    (line,) = [p for p in tree.findall("path") if p.get("class") == "front"]
    best = -math.inf
    expected = []
    for trial, (x, _, _, _) in zip(given, found, strict=True):
        if trial.state == "done" and trial.value > best:
            expected += [(x, start + slope * best)] if expected else []
            best = trial.value
            expected.append((x, start + slope * best))
    expected.append((found[-1][0], start + slope * best))
    assert np.allclose(corners(line.get("d")), expected, atol=0.11)
    classes = {"done": "trial", "stopped": "stopped", "failed": "lost"}
    assert [c for _, _, c, _ in found] == [classes[t.state] for t in given]


def test_stopped_and_failed_trials_are_never_the_best():
    """A value on a part of the data is not compared with those on all of it."""
    given = [Trial(0, 0.5), Trial(1, 0.9, "stopped"), Trial(2, None, "failed"), Trial(3, 0.6), Trial(4, math.nan)]
    tree = parsed(history(given, GAIN))
    found = spots_of(tree)
    line = corners(next(p for p in tree.findall("path") if p.get("class") == "front").get("d"))
    assert min(y for _, y in line) == found[3][1] > found[1][1]
    assert [c for _, _, c, _ in found] == ["trial", "stopped", "lost", "trial", "lost"]
    assert found[2][1] == found[4][1] >= max(y for _, y, _, _ in found)


def test_levels_are_drawn_at_their_values():
    """What is compared with lies where a trial of the same value does."""
    tree = parsed(history([Trial(0, 0.5), Trial(1, 0.7)], GAIN, [("base", 0.5), ("soup", 0.7)]))
    levels = [float(line.get("y1")) for line in tree.iter("line") if line.get("class") == "level"]
    assert levels == [y for _, y, _, _ in spots_of(tree)]


def test_nondominated_is_what_nothing_beats():
    """By comparing all pairs; equal ones stay together; models that were given are no candidates."""
    given = [s for s in cloud() if s.kind != "model"]
    given += [Spot("twin", given[0].x, given[0].y), Spot("lost", math.nan, 1.0)]
    for axes in ((COST, GAIN), (GAIN, COST), (COST, COST), (GAIN, GAIN)):
        signs = [1 if axis.better == "higher" else -1 for axis in axes]
        worth = {s.name: (signs[0] * s.x, signs[1] * s.y) for s in given if s.name != "lost"}
        expected = {
            n for n, a in worth.items() if not any(b[0] >= a[0] and b[1] >= a[1] and b != a for b in worth.values())
        }
        assert set(nondominated([*given, Spot("model", 0.0, 9.0, "model")], axes)) == expected


@pytest.mark.parametrize("axes", [(COST, GAIN), (GAIN, GAIN), (COST, COST), (GAIN, COST)], ids=["lh", "hh", "ll", "hl"])
def test_front_bounds_what_was_reached(axes):
    """It goes through each spot of the front, and turns at corners that both neighbours reach."""
    tree = parsed(pareto(cloud(), axes))
    named = {told.partition(":")[0]: (x, y) for x, y, _, told in spots_of(tree)}
    on_front = [named[name] for name in nondominated(cloud(), axes)]
    line = corners(next(p for p in tree.findall("path") if p.get("class") == "front").get("d"))
    assert set(on_front) <= set(line)
    right, down = (1 if axes[0].better == "higher" else -1), (-1 if axes[1].better == "higher" else 1)
    for corner in set(line) - set(on_front):
        reached = [p for p in on_front if right * (p[0] - corner[0]) >= 0 and down * (p[1] - corner[1]) >= 0]
        assert len(reached) >= 2


def test_front_that_is_given_is_drawn():
    """The names that are given, not those that the plot would find."""
    tree = parsed(pareto([Spot("a", 1, 1), Spot("b", 2, 2), Spot("c", 3, 3)], (GAIN, GAIN), ["a", "c"]))
    signs = {told[0]: c for _, _, c, told in spots_of(tree)}
    assert signs == {"a": "dot", "b": "trial", "c": "dot"}


def test_a_model_far_worse_is_told_apart():
    """It stands at the edge, hollow, and has its name; and dots are called as is asked."""
    given = [Spot(f"#{i}", 1 + i / 10, 1 + (i * 7 % 10) / 10) for i in range(10)]
    svg = pareto(
        [*given, Spot("broken", 1.5, -40, "model"), Spot("base", 1.5, 1.2, "model")], (GAIN, GAIN), called="soup"
    )
    signs = {told.partition(":")[0]: (c, y) for _, y, c, told in spots_of(parsed(svg))}
    assert signs["base"][0] == "model"
    assert signs["broken"][0] == "poor"
    assert signs["broken"][1] == max(y for _, y in signs.values())
    texts = [text for text, _ in boxes(parsed(svg))]
    assert {"soup", "model beyond the edge", "broken"} <= set(texts)


def test_models_have_their_names_and_trials_do_not():
    """Names of trials are told by the mouse alone."""
    texts = [text for text, _ in boxes(parsed(pareto(cloud(), (COST, GAIN))))]
    assert {"base", "math", "code", "chosen"} <= set(texts)
    assert not [text for text in texts if text.startswith("#")]


def test_more_colour_is_a_larger_number():
    """By the square root of nothing: colour is the share of the largest, below 0 another; what is absent has none."""
    values = [[0.0, 0.5, -1.0], [None, 2.0, math.nan]]
    tree = parsed(genome(["a", "b"], [("g", "0"), ("g", "1"), ("h", "")], values, "weight"))
    cells = [r for r in tree.iter("rect") if "shade" not in r.get("class")]
    told = {r.find("title").text: (r.get("class"), r.get("fill-opacity")) for r in cells}
    assert told == {
        "a, g 0: 0": ("heat", "0.0"),
        "a, g 1: 0.5": ("heat", "0.25"),
        "a, h: -1": ("below", "0.5"),
        "b, g 0: none": ("absent", None),
        "b, g 1: 2": ("heat", "1.0"),
        "b, h: nan": ("absent", None),
    }
    places = {r.find("title").text[:6]: (float(r.get("x")), float(r.get("y"))) for r in cells}
    assert places["a, g 0"][1] == places["a, g 1"][1] < places["b, g 0"][1] == places["b, g 1"][1]
    assert places["a, g 0"][0] == places["b, g 0"][0] < places["a, g 1"][0] < places["a, h: "][0]


def test_many_columns_go_on_in_another_line():
    """All of them are there, within the picture."""
    columns = [("layers", str(i)) for i in range(500)]
    tree = parsed(genome(["a"], columns, [[i / 500 for i in range(500)]], "weight"))
    cells = [r for r in tree.iter("rect") if "shade" not in r.get("class")]
    assert len({(r.get("x"), r.get("y")) for r in cells}) == 500
    assert all(float(r.get("x")) + float(r.get("width")) <= 700 for r in cells)


def test_slices_place_numbers_ratios_and_choices():
    """One panel for each dimension; places by value, by ratio, by choice; one scale of values for all."""
    given = [
        Slice("weight", (Dot(0.0, 0.5), Dot(0.5, 0.6), Dot(1.0, 0.7, chosen=True))),
        Slice("rate", (Dot(0.001, 0.5), Dot(0.01, 0.6), Dot(0.1, 0.7)), log=True),
        Slice("method", (Dot("ties", 0.5), Dot("linear", 0.6), Dot("ties", 0.7)), choices=("linear", "ties")),
        Slice("empty", ()),
    ]
    tree = parsed(slices(given, GAIN))
    dots = [(float(c.get("cx")), float(c.get("cy")), c.get("class")) for c in tree.iter("circle")]
    by_panel = [dots[:3], dots[3:6], dots[6:]]
    for panel in by_panel:
        ys = [y for _, y, _ in panel]
        assert ys == [y for _, y, _ in by_panel[0]]
        assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.11)
    for panel in by_panel[:2]:
        (a, b, c) = (x for x, _, _ in panel)
        assert b - a == pytest.approx(c - b, abs=0.11)
        assert b > a
    assert by_panel[2][0][0] == by_panel[2][2][0] > by_panel[2][1][0]
    assert [look for *_, look in by_panel[0]] == ["trial", "trial", "dot"]
    assert "empty" not in slices(given, GAIN)


def test_slices_tell_dimensions_and_choices_apart():
    """Long names keep both ends; choices without room on one line stand on two, each whole."""
    words = ("ties", "dare_ties", "task_arithmetic")
    given = [
        Slice("models[0].weight[self_attn, layers 0-1]", (Dot(0.0, 0.5), Dot(1.0, 0.7))),
        Slice("models[1].weight[self_attn, layers 0-1]", (Dot(0.0, 0.5), Dot(1.0, 0.7))),
        Slice("merge_method", tuple(Dot(word, 0.5 + i) for i, word in enumerate(words)), choices=words),
    ]
    picture = slices(given, GAIN)
    assert_readable(picture)
    shown = {text.text: float(text.get("y")) for text in parsed(picture).iter("text")}
    titles = [text for text in shown if text.startswith("models[")]
    assert [(t[:9], t[-11:]) for t in titles] == [("models[0]", "layers 0-1]"), ("models[1]", "layers 0-1]")]
    assert shown["ties"] == shown["task_arithmetic"] == shown["dare_ties"] - 15


WORDS = {"value": "a seed", "middle": "median", "other": "the paper's figure", "asked": "what is asked"}


def test_strips_have_a_scale_each_and_show_what_is_asked():
    """Values, middle and another's figure stand at their places; what is asked is a band to the edge or the bound."""
    missed = Strip("gain", (1.0, 2.0, 4.0), 2.0, other=3.0, low=2.5, holds=False)
    within = Strip("gap", (-10.0, 30.0), 10.0, low=-20.0, high=20.0)
    tree = parsed(strips([missed, within], **WORDS))
    _, first, second = [r for r in tree.iter("rect") if r.get("class") == "asked"]
    drawn = [g for g in tree.iter("g") if g.find("title") is not None]
    places = [tuple(map(float, re.findall(r"-?[\d.]+", g.get("transform")))) for g in drawn]
    looks = [g[0].get("class") for g in drawn]
    assert looks == ["trial", "trial", "trial", "bar missed", "model", "trial", "trial", "bar"]
    xs = [x for x, _ in places]
    assert xs[0] < xs[1] == xs[3] < xs[4] < xs[2]
    assert xs[4] - xs[1] == pytest.approx(xs[2] - xs[4], abs=0.11)
    assert xs[7] - xs[5] == pytest.approx(xs[6] - xs[7], abs=0.11)
    assert {y for _, y in places[:5]} != {y for _, y in places[5:]}
    left, wide = float(first.get("x")), float(first.get("width"))
    assert left == pytest.approx((xs[1] + xs[4]) / 2, abs=0.11)
    assert left + wide == pytest.approx(688, abs=0.11)
    left, wide = float(second.get("x")), float(second.get("width"))
    assert left + wide / 2 == pytest.approx(xs[7] - (xs[7] - xs[5]) / 2, abs=0.2)
    assert drawn[4].find("title").text == "the paper's figure: 3"


def test_signs_that_are_not_drawn_have_no_key():
    """Without another's figure and without bounds nothing is said of them; what is no number is not drawn."""
    plain = strips([Strip("gain", (1.0, math.nan), math.nan)], **WORDS)
    assert "paper" not in plain.partition(">")[2]
    assert "asked" not in plain
    assert plain.count("<title>1</title>") == 1
    assert not re.search(r"nan|inf", plain)


def test_no_label_hides_another():
    """With many spots in one place, many levels at one height, long names and many columns."""
    names = [f"model-{i}-of-many" for i in range(5)]
    far = [Spot("lost", 1e9, 0.5, "model"), Spot("#far", math.inf, 0.4)]
    assert_readable(pareto([*cloud(), *far], (COST, GAIN)))
    signs = {c for _, _, c, _ in spots_of(parsed(pareto([*cloud(), *far], (COST, GAIN))))}
    assert signs == {"trial", "dot", "model", "poor", "edge"}  # a key of all of them
    assert_readable(
        history([*trials(), Trial(60, -1e9)], GAIN, [(name, 0.7 + i / 1000) for i, name in enumerate(names)])
    )
    columns = [(f"self_attn.{n}", str(i)) for n in ("q_proj", "k_proj") for i in range(40)] + [("head", "")] * 1
    numbers = [[i / 80 - 0.3 for i in range(81)] for _ in names]
    assert_readable(genome(names, columns, numbers, "weight"))
    assert_readable(genome(names, columns[:7], numbers, "weight"))
    assert_readable(genome(["a"], [("all", str(i)) for i in range(300)], [[i / 300 for i in range(300)]], "weight"))
    dots = tuple(Dot(float(i), 0.123456 * i) for i in range(10))
    choices = ("ties", "dare_linear", "task_arithmetic", "breadcrumbs_ties")
    chosen = tuple(Dot(choices[i % 4], 0.1 * i) for i in range(10))
    sliced = [Slice(f"parameters.weight of layers {i}", dots) for i in range(4)]
    assert_readable(slices([*sliced, Slice("merge_method", chosen, choices=choices)], GAIN))
    small = [Strip("a figure whose name is long " * 9, (1e-5, 1.00001e-5), 1e-5, 0.9e-5), Strip("b", (1e9,), 1e9)]
    assert_readable(strips([*small, Strip("c", (-123.456, -123.4), -123.41, low=-123.5)], **WORDS))
    line = tuple((i / 10, i / 10, i / 10 - 0.1, i / 10 + 0.1) for i in range(11))
    assert_readable(curves([Curve(name, line) for name in names], "lambda", "accuracy"))
    assert_readable(scatter([(f"alpha {i / 10}", i / 10, 0.5 + i / 1000) for i in range(11)], "x", "y", "alpha 0.9"))


def test_labels_are_moved_apart_and_stay_inside():
    """In the order of what was wanted, at least the gap apart."""
    found = apart([100, 99, 98, 5, 97], 0, 100, 10)
    assert sorted(found) == [5, 70, 80, 90, 100]
    assert found[3] == 5
    assert [found[4], found[2], found[1], found[0]] == [70, 80, 90, 100]


def test_nothing_to_draw_is_empty():
    """No trials, no spots, no numbers, no dots; one value, or equal ones, do not divide by zero."""
    assert history([], GAIN) == pareto([], (COST, GAIN)) == genome([], [], [], "w") == slices([], GAIN) == ""
    assert strips([], **WORDS) == ""
    assert pareto([Spot("a", math.nan, 1)], (COST, GAIN)) == ""
    one = history([Trial(0, None, "failed")], GAIN) + history([Trial(3, 1.0)], GAIN)
    one += pareto([Spot("a", 0, 0), Spot("b", math.inf, -math.inf)], (COST, GAIN))
    one += genome(["a"], [("", "x")], [[0.0]], "w")
    one += slices([Slice("d", (Dot(0.0, 0.0),)), Slice("e", (Dot(1.0, math.nan), Dot(2.0, 1.0)), log=True)], GAIN)
    assert not re.search(r'="-?(nan|inf)', one)


def test_names_of_strangers_stay_text():
    """Whatever a name holds, the picture has no tags of it, and fetches nothing."""
    drawn = [
        pareto([Spot(EVIL, 1, 1, "model", told=EVIL), Spot("b", 2, 2)], (Axis(EVIL, "lower"), GAIN)),
        history([Trial(0, 1.0, told=EVIL), Trial(1, 2.0)], Axis(EVIL, "lower"), [(EVIL, 1.0)]),
        genome([EVIL], [(EVIL, EVIL)], [[1.0]], EVIL),
        strips([Strip(EVIL, (1.0,), 1.0, other=2.0, low=0.0)], **dict.fromkeys(WORDS, EVIL)),
        slices([Slice(EVIL, (Dot(EVIL, 1.0, told=EVIL),), choices=(EVIL,))], Axis(EVIL)),
    ]
    for svg in drawn:
        assert not [e for e in parsed(svg).iter() if e.tag == "script" or {"src", "href"} & set(e.attrib)]
    page = document(EVIL, drawn)
    assert "<script" not in page
    assert "http" not in page
    colours = set(re.findall(r"var\((--\w+)\)", page))
    light, _, dark = page.partition("prefers-color-scheme: dark")
    assert {c for c in colours if f"{c}:" in light and f"{c}:" in dark.partition("}")[0]} == colours


def test_a_control_has_the_colour_of_its_curve():
    """Dashed, after it; the next curve has another."""
    line = ((0.0, 1.0, 1.0, 1.0), (1.0, 2.0, 2.0, 2.0))
    given = [Curve("a", line), Curve("a, random", line, dashed=True), Curve("b", line)]
    drawn = [
        (p.get("style"), p.get("stroke-dasharray") is not None)
        for p in parsed(curves(given, "x", "y")).iter("polyline")
    ]
    assert drawn == [("stroke: var(--c0)", False), ("stroke: var(--c0)", True), ("stroke: var(--c1)", False)]
