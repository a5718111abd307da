"""The bed of sixteen domains: how reviews are shared out, what models see of them, and files that will not do."""

from __future__ import annotations

import random
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stockpot.errors import CheckpointError
from stockpot.reproduce import Setting
from stockpot.reproduce.texts import domains as kinds
from stockpot.reproduce.texts.bench import Domains
from stockpot.reproduce.texts.encoder import Shape
from stockpot.reproduce.training import Schedule

EVERY = (*kinds.DOMAINS, *kinds.LEFT_OUT)
STEP = Schedule(3, 1e-2, batch=8)
LITTLE = kinds.Effort(
    Shape(words=4000, embedding=8, width=16), STEP, STEP, STEP, STEP, length=12, few=3, held=8, told=20, pieces=2000
)


def review(rng, domain, part):
    """A word of its own domain and part, and words that no other review has in that order."""
    return " ".join([f"{domain.lower().replace('_', '')}{part}", *(f"w{rng.randrange(300)}" for _ in range(14))])


def made(path, change=lambda members: None):
    """An archive in the layout of the real one: 16 domains, 30 reviews to learn from, 12 to tell."""
    rng = random.Random(0)
    members = {
        f"fdu-mtl/{name}.task.{part}": [f"{i % 2}\t{review(rng, name, part)}" for i in range(count)]
        for name in EVERY
        for part, count in (("train", 30), ("test", 12))
    }
    change(members)
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, lines in members.items():
            archive.writestr(name, "\n".join(lines))
    return path


def lab_on(folder, change=lambda members: None, seed=0, effort=LITTLE):
    made(folder / "text" / "fdu_mtl_16domains.zip", change)
    return kinds.Lab(Setting(0, folder, Path(), print).file, effort, seed)


def texts_of(examples):
    return {row.tobytes() for row in examples.inputs}


def test_domains_have_parts_of_their_own():
    """Sixteen, each once: four that runs are trained on, three that starts are, four that nothing is."""
    assert len(EVERY) == len(set(EVERY)) == 16
    assert set(kinds.SEEN) | set(kinds.AUXILIARY) < set(kinds.DOMAINS)
    assert not set(kinds.SEEN) & set(kinds.AUXILIARY)


def test_reviews_are_shared_out(tmp_path):
    """What a domain's training data holds back chooses; its test data tells; domains left out only tell."""
    lab = lab_on(tmp_path)
    assert set(lab.tasks) == set(kinds.DOMAINS)
    assert {(len(t.train), len(t.select), len(t.report)) for t in lab.tasks.values()} == {(22, 8, 12)}
    assert {name: len(own) for name, own in lab.left_out.items()} == dict.fromkeys(kinds.LEFT_OUT, 20)
    assert [len(part) for part in (lab.seen.train, lab.seen.select, lab.seen.report)] == [88, 32, 48]
    assert texts_of(lab.seen.train) == set().union(*(texts_of(lab.tasks[name].train) for name in kinds.SEEN))


def test_no_text_learns_and_tells(tmp_path):
    """Also where the archive has a review twice, in a file or two, as another class, or in capitals.

    What chooses or tells is in no piece that the base reads, either.
    """

    def change(members):
        for name in kinds.DOMAINS:
            told = [line[2:] for line in members[f"fdu-mtl/{name}.task.test"]]
            away = members["fdu-mtl/books.task.train"][3:6]
            members[f"fdu-mtl/{name}.task.train"] += [f"1\t{text}" for text in told] + [a.upper() for a in away]
            members[f"fdu-mtl/{name}.task.train"] += members[f"fdu-mtl/{name}.task.train"][:10]
        members["fdu-mtl/dvd.task.train"][:2] = members["fdu-mtl/baby.task.train"][:2]

    for seed in range(3):
        lab = lab_on(tmp_path, change, seed)
        told = set().union(*map(texts_of, [*lab.left_out.values(), *(t.report for t in lab.tasks.values())]))
        select, train = (
            set().union(*(texts_of(getattr(t, role)) for t in lab.tasks.values())) for role in ("select", "train")
        )
        assert train
        assert select
        assert not (train & told | select & told | train & select)
        read = {row[:12].tobytes() for row in lab._pieces.inputs}
        assert train <= read
        assert not read & (told | select)


def test_no_model_sees_what_is_told(tmp_path):
    """The vocabulary, and so all that models are given, has no word of test data or of domains left out alone."""
    lab = lab_on(tmp_path)
    known = set(lab._vocabulary._numbers)
    assert {f"{name.lower().replace('_', '')}train" for name in kinds.DOMAINS} <= known
    assert not {word for word in known if word.endswith("test")}
    assert not {word for word in known if word.startswith(tuple(n.replace("_", "") for n in kinds.LEFT_OUT))}
    assert set(lab._pieces.labels) == set(range(len(kinds.DOMAINS)))


def test_which_layers_are_trained(tmp_path):
    """Specialists keep the head, the probe keeps the rest, runs change everything; recycled runs share the head."""
    lab = lab_on(tmp_path)

    def changed(one, other):
        return {name.partition(".")[0] for name in one if not np.array_equal(one[name], other[name])}

    every = {"embedding", "three", "out", "sentiment"}
    assert changed(lab.base, lab.specialist("music")) == every - {"sentiment"}
    assert changed(lab.base, lab.together) == every - {"sentiment"}
    assert changed(lab.base, lab.probed) == {"sentiment"}
    assert all(changed(lab.probed, run) == every for run in lab.diverse.values())
    assert changed(lab.probed, lab._auxiliary("music")) == every - {"sentiment"}


def test_runs_differ_and_are_repeated_exactly(tmp_path):
    """Eight of each kind, by settings, seeds and starts; a lab of the same seed trains the same, one of another not."""
    one, two, other = (lab_on(tmp_path, seed=seed) for seed in (5, 5, 6))
    for kind in ("diverse", "recycled"):
        runs = [getattr(lab, kind) for lab in (one, two, other)]
        weights = {name: run["out.weight"].tobytes() for name, run in runs[0].items()}
        assert len(set(weights.values())) == len(weights) == 8
        assert weights == {name: run["out.weight"].tobytes() for name, run in runs[1].items()}
        assert not set(weights.values()) & {run["out.weight"].tobytes() for run in runs[2].values()}


def test_the_bench_has_the_domains_as_tasks(tmp_path, monkeypatch):
    """Twelve with select data; then the domains seen as one task, and each one left out without."""
    monkeypatch.setattr(kinds, "FULL", replace(LITTLE, told=19))
    made(tmp_path / "text" / "fdu_mtl_16domains.zip")
    bench = Domains(Setting(7, tmp_path, tmp_path / "made", print))
    roles = {task.name: sorted(task.data) for task in bench.tasks().tasks}
    assert roles == {name: ["report", "select"] for name in kinds.DOMAINS}
    roles = {task.name: sorted(task.data) for task in bench.domains().tasks}
    assert roles == {"seen": ["report", "select"], **{name: ["report"] for name in kinds.LEFT_OUT}}
    assert [model.name for model in bench.specialists()] == ["base", *kinds.DOMAINS]


def without_dvd(members):
    del members["fdu-mtl/dvd.task.train"], members["fdu-mtl/dvd.task.test"]


def short(members):
    del members["fdu-mtl/video.task.train"][11:]


def graded(members):
    members["fdu-mtl/imdb.task.train"][4] = "5\tvery good"


def spaced(members):
    members["fdu-mtl/MR.task.test"][2] = "1 very good"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_dvd, r"no reviews of dvd(?s:.*)dvd\.task\.train and dvd\.task\.test"),
        (short, r"video has 11 reviews, too few(?s:.*)DOMAIN\.task\.train"),
        (graded, r"imdb has reviews of class 5, not 0 or 1(?s:.*)DOMAIN\.task\.train"),
        (spaced, r"line 3 (?s:.*)MR\.task\.test"),
    ],
    ids=["missing", "short", "graded", "spaced"],
)
def test_an_archive_that_will_not_do_is_an_error(tmp_path, change, message):
    """It names the file, the domain and what should be there."""
    with pytest.raises(CheckpointError, match=message) as caught:
        lab_on(tmp_path, change).tasks  # noqa: B018 - it is made when it is asked for
    assert "fdu_mtl_16domains.zip" in str(caught.value)
