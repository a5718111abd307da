"""The data and models of the encoder's beds, made when they are first asked for and kept for all claims of a process.

``sentences``: five tasks of one sentence, and a base that knows each from few examples. ``reviews``: is it praise? A
start that learnt it broadly, from reviews of many kinds of goods, and fine-tunes on one home, sentences about films;
goods that neither has seen are the shift.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np

from stockpot.reproduce.claim import Setting
from stockpot.reproduce.labs import File, lab_of
from stockpot.reproduce.texts.encoder import Arrays, Examples, Shape, fine_tuned, pretrained
from stockpot.reproduce.texts.reading import Labelled, domains, labelled
from stockpot.reproduce.texts.words import Vocabulary
from stockpot.reproduce.training import Schedule

__all__ = [
    "FINE_TUNES",
    "FULL",
    "SHIFTS",
    "TASKS",
    "Effort",
    "Lab",
    "Run",
    "Task",
    "keys",
    "pieces",
    "scaled",
    "sentences_of",
    "without",
]

TASKS: Mapping[str, tuple[str, ...]] = {
    "sst2": ("stsa.binary.train", "stsa.binary.dev", "stsa.binary.test"),
    "subj": ("subj.all",),
    "trec": ("TREC.train.all", "TREC.test.all"),
    "cr": ("custrev.all",),
    "mpqa": ("mpqa.all",),
}
"""Task → its files: one that is shared out, train and test, or train, dev and test."""

SHIFTS = ("books", "dvd", "electronics", "kitchen_housewares")
"""Goods whose reviews no model of the bed ``reviews`` is trained on."""

_FILMS = ("MR", "imdb")
"""Reviews of films would be the home, which the start is not to know."""

_SENTENCE, _REVIEW = 40, 60
"""Words that are read of a text."""


@dataclass(frozen=True)
class Effort:
    """How much is trained, on how much.

    Args:
        shape: Of the network.
        base, broad: Of the two starts.
        learn: Of fine-tunes on a task.
        home: The ordinary setting of fine-tunes of the bed ``reviews``.
        few: Examples of each task that the base of the bed ``sentences`` learns from.
        most: Examples of a task that fine-tunes learn from.
        held: Examples that choose, and as many again twice that are told, where a file has to be shared out.
        pieces: Of 40 words of reviews, that a base is pretrained on.
    """

    shape: Shape
    base: Schedule
    broad: Schedule
    learn: Schedule
    home: Schedule
    few: int
    most: int
    held: int
    pieces: int


FULL = Effort(
    shape=Shape(),
    base=Schedule(2000, 2e-3, batch=64),
    broad=Schedule(2000, 2e-3, batch=64),
    learn=Schedule(800, 5e-4),
    home=Schedule(1000, 2e-3),
    few=200,
    most=7000,
    held=500,
    pieces=60_000,
)
"""What claims are measured with; set once, for all of them."""


@dataclass(frozen=True)
class Task:
    """Examples to learn from, to choose by, and to tell."""

    train: Examples
    select: Examples
    report: Examples


@dataclass(frozen=True)
class Run:
    """A fine-tune of a sweep.

    Args:
        name: For tables.
        schedule: The ordinary one → its own.
    """

    name: str
    schedule: Callable[[Schedule], Schedule]


def scaled(rate: float = 1.0, length: float = 1.0, **other: Any) -> Callable[[Schedule], Schedule]:
    """The ordinary setting with ``rate`` times its rate and ``length`` times its steps, and what else is given."""
    return lambda s: replace(s, rate=s.rate * rate, steps=max(1, round(s.steps * length)), **other)


FINE_TUNES = (
    Run("plain", scaled()),
    Run("slow", scaled(rate=0.3)),
    Run("fast", scaled(rate=2.0)),
    Run("short", scaled(length=0.5)),
    Run("long", scaled(length=1.5)),
    Run("decayed", scaled(decay=0.1)),
    Run("smooth", scaled(smoothing=0.1)),
    Run("gappy", scaled(dropped=0.3)),
    Run("diverged", scaled(rate=500.0, length=0.2)),
)
"""A sweep over hyperparameters; the last run is unsound."""


class Lab:
    """Data and models with one seed, which fixes everything.

    Args:
        file: Finds files of data.
    """

    def __init__(self, file: File, effort: Effort, seed: int) -> None:
        self._file, self._effort, self._seed = file, effort, seed

    @cached_property
    def _reviews(self) -> Mapping[str, Mapping[str, list[Labelled]]]:
        return domains(self._file("text", "fdu_mtl_16domains.zip"), SHIFTS)

    @cached_property
    def _shared_out(self) -> Mapping[str, tuple[list[Labelled], list[Labelled], list[Labelled]]]:
        """Task → texts to learn from, to choose by, to tell."""
        found = {}
        for number, (name, files) in enumerate(TASKS.items()):
            rng = np.random.default_rng([self._seed, 3, number])
            parts = [labelled(self._file("text", "sentence_cls", file)) for file in files]
            found[name] = _three(parts, self._effort.held, rng)
        return found

    @property
    def _broad(self) -> Mapping[str, list[Labelled]]:
        """Reviews that starts may learn from: neither goods of the shifts nor films."""
        return {name: own["train"] for name, own in self._reviews.items() if name not in (*SHIFTS, *_FILMS)}

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        texts = [row.text for own in self._broad.values() for row in own]
        texts += [row.text for train, _, _ in self._shared_out.values() for row in train]
        return Vocabulary(texts, self._effort.shape.words)

    @cached_property
    def _pieces(self) -> Examples:
        """Reviews in pieces of a sentence's length; the label is the kind of goods."""
        rng = np.random.default_rng([self._seed, 4])
        return pieces(self._broad.values(), self._vocabulary, _SENTENCE, rng, self._effort.pieces)

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        """The five tasks. A text of one's report is in no other part of any: Subj and SST-2 share some."""
        parts = {name: tuple(self._examples(part, _SENTENCE) for part in own) for name, own in self._shared_out.items()}
        train, select, report = ({name: own[place] for name, own in parts.items()} for place in range(3))
        told = {name: without(own, set()) for name, own in report.items()}
        chosen = {name: without(own, keys(told)) for name, own in select.items()}
        learnt = {name: without(own, keys(told) | keys(chosen)) for name, own in train.items()}
        most = self._effort.most
        return {name: Task(learnt[name].part(0, most), chosen[name], told[name]) for name in parts}

    @cached_property
    def shifts(self) -> Mapping[str, Examples]:
        """Kind of goods → a thousand of its reviews."""
        own = {name: self._reviews[name] for name in SHIFTS}
        return {name: self._examples([*one["test"], *one["train"]][:1000], _REVIEW) for name, one in own.items()}

    @cached_property
    def base(self) -> Arrays:
        """Pretrained, with heads learnt beside from few examples of the five tasks."""
        few = {name: task.train.part(0, self._effort.few) for name, task in self.tasks.items()}
        return pretrained(self._pieces, few, self._effort.shape, self._effort.base, self._seed)

    @cache  # noqa: B019 - labs are kept for good
    def specialist(self, task: str) -> Arrays:
        """The base, fine-tuned on a task."""
        number = list(TASKS).index(task)
        return fine_tuned(self.base, {task: self.tasks[task].train}, self._effort.learn, 100 * self._seed + number)

    @cached_property
    def together(self) -> Arrays:
        """The base, fine-tuned on all tasks, with as many steps for each as its specialist has."""
        learn = replace(self._effort.learn, steps=len(self.tasks) * self._effort.learn.steps)
        train = {name: task.train for name, task in self.tasks.items()}
        return fine_tuned(self.base, train, learn, 100 * self._seed + len(self.tasks))

    @cached_property
    def start(self) -> Arrays:
        """Pretrained, while it learnt what praise is from reviews of many kinds of goods."""
        rows = [row for own in self._broad.values() for row in own]
        praise = {"sentiment": self._examples(rows, _REVIEW)}
        return pretrained(self._pieces, praise, self._effort.shape, self._effort.broad, self._seed)

    @property
    def home(self) -> Task:
        """Sentences about films."""
        return self.tasks["sst2"]

    @cache  # noqa: B019 - labs are kept for good
    def fine_tune(self, run: str) -> Arrays:
        """The start, fine-tuned at home."""
        number, found = next((i, one) for i, one in enumerate(FINE_TUNES) if one.name == run)
        schedule = found.schedule(self._effort.home)
        return fine_tuned(self.start, {"sentiment": self.home.train}, schedule, 100 * self._seed + 50 + number)

    def _examples(self, rows: Sequence[Labelled], length: int) -> Examples:
        inputs = self._vocabulary.ids([row.text for row in rows], length)
        return Examples(inputs, np.array([row.label for row in rows], np.int64))


def sentences_of(setting: Setting) -> Lab:
    """The lab of the beds ``sentences`` and ``reviews``."""
    return lab_of(Lab, FULL, setting)


def _three(
    parts: Sequence[list[Labelled]], held: int, rng: np.random.Generator
) -> tuple[list[Labelled], list[Labelled], list[Labelled]]:
    """Rows to learn from, to choose by and to tell, in an order drawn at random."""
    first = [parts[0][i] for i in rng.permutation(len(parts[0]))]
    if len(parts) == 3:
        return first, parts[1], parts[2]
    if len(parts) == 2:
        return first[held:], first[:held], parts[1]
    return first[3 * held :], first[:held], first[held : 3 * held]


def pieces(
    groups: Iterable[Sequence[Labelled]], vocabulary: Vocabulary, size: int, rng: np.random.Generator, most: int
) -> Examples:
    """Texts in pieces of ``size`` words, up to five of each, at random ``most`` of all; the label is the group.

    A piece of fewer than eight known words is left out.
    """
    found = []
    for number, own in enumerate(groups):
        ids = vocabulary.ids([row.text for row in own], 5 * size).reshape(-1, size)
        ids = ids[(ids > 0).sum(axis=1) >= 8]
        found.append(Examples(ids, np.full(len(ids), number, np.int64)))
    every = Examples.joined(found)
    order = rng.permutation(len(every))[:most]
    return Examples(every.inputs[order], every.labels[order])


def keys(tasks: Mapping[str, Examples]) -> set[bytes]:
    """The texts of all ``tasks``."""
    return {row.tobytes() for examples in tasks.values() for row in examples.inputs}


def without(examples: Examples, seen: AbstractSet[bytes]) -> Examples:
    """Those that are not in ``seen``, each once: many are there twice, if not as written, then as numbers."""
    places: dict[bytes, int] = {}
    for place, row in enumerate(examples.inputs):
        if (key := row.tobytes()) not in seen:
            places.setdefault(key, place)
    kept = [*places.values()]
    return Examples(examples.inputs[kept], examples.labels[kept])
