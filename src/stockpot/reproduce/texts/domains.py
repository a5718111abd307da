"""The data and models of the bed ``domains``, made when they are first asked for and kept for all claims of a process.

Is it praise? Reviews of 16 kinds, each a domain. A base reads those of twelve and learns from few of each what praise
is. It is fine-tuned on each of the twelve and, for claims about domains left out, on four of them at once; the other
four are left out of everything but the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np

from stockpot.errors import CheckpointError, Problem
from stockpot.reproduce.claim import Setting
from stockpot.reproduce.labs import File, lab_of
from stockpot.reproduce.texts.encoder import HEADS, Arrays, Examples, Shape, fine_tuned, pretrained
from stockpot.reproduce.texts.reading import Labelled, domains
from stockpot.reproduce.texts.sentences import Run, Task, keys, pieces, scaled, without
from stockpot.reproduce.texts.words import Vocabulary, words
from stockpot.reproduce.training import Schedule

__all__ = ["AUXILIARY", "DOMAINS", "FULL", "LEFT_OUT", "RUNS", "SEEN", "Effort", "Lab", "domains_of"]

LEFT_OUT = ("books", "dvd", "electronics", "kitchen_housewares")
"""Domains that no model and no vocabulary sees; as in the bed ``reviews``."""

SEEN = ("apparel", "baby", "camera_photo", "health_personal_care")
"""Domains that runs are trained on which meet those left out: the first four kinds of goods by the alphabet."""

AUXILIARY = ("imdb", "magazines", "music")
"""Domains that starts are fine-tuned on before those runs: films, magazines and music, unlike those goods."""

DOMAINS = (*SEEN, *AUXILIARY, "MR", "software", "sports_outdoors", "toys_games", "video")
"""The domains that the base reads; each is a task, too."""

_FILE = ("text", "fdu_mtl_16domains.zip")
_PIECE = 40
"""Words of a piece of a review."""


@dataclass(frozen=True)
class Effort:
    """How much is trained, on how much.

    Args:
        shape: Of the network.
        base: Of the base.
        learn: Of fine-tunes on a domain, at a low rate and with the head as it is.
        tune: The ordinary setting of runs on several domains.
        probe: Of their head, alone, before.
        length: Words that are read of a review.
        few: Reviews of each domain that the base learns from what praise is.
        held: Reviews of each domain's training data that choose.
        told: Reviews of each domain left out.
        pieces: Of reviews, that the base is pretrained on.
    """

    shape: Shape
    base: Schedule
    learn: Schedule
    tune: Schedule
    probe: Schedule
    length: int
    few: int
    held: int
    told: int
    pieces: int


FULL = Effort(
    shape=Shape(),
    base=Schedule(2000, 2e-3, batch=64),
    learn=Schedule(400, 1e-3),
    tune=Schedule(400, 2e-3),
    probe=Schedule(200, 2e-3),
    length=80,
    few=30,
    held=200,
    told=1000,
    pieces=60_000,
)
"""What claims are measured with; set once, for all of them."""

RUNS = (
    Run("1", scaled(rate=0.5)),
    Run("2", scaled(rate=0.7, decay=0.1)),
    Run("3", scaled(smoothing=0.1)),
    Run("4", scaled(rate=1.4, decay=0.01)),
    Run("5", scaled(rate=0.5, decay=0.01, smoothing=0.1)),
    Run("6", scaled(rate=0.7)),
    Run("7", scaled(decay=0.1)),
    Run("8", scaled(rate=1.4, smoothing=0.1)),
)
"""Mild ranges of settings, as DiWA asks for."""

_PRAISE = "sentiment"
_TRUNK = ("embedding", "three", "out")


class Lab:
    """Data and models with one seed, which fixes everything.

    Args:
        file: Finds files of data.
    """

    def __init__(self, file: File, effort: Effort, seed: int) -> None:
        self._file, self._effort, self._seed = file, effort, seed

    @cached_property
    def _parts(self) -> Mapping[str, tuple[list[Labelled], list[Labelled], list[Labelled]]]:
        """Domain → reviews to learn from, to choose by, to tell; of the domains left out, to tell alone."""
        path = self._file(*_FILE)
        reviews = domains(path, (*DOMAINS, *LEFT_OUT))
        found = {}
        for number, name in enumerate(DOMAINS):
            _checked(reviews[name]["train"], name, self._effort, str(path))
            order = np.random.default_rng([self._seed, 5, number]).permutation(len(reviews[name]["train"]))
            rows = [reviews[name]["train"][i] for i in order]
            found[name] = (rows[self._effort.held :], rows[: self._effort.held], reviews[name]["test"])
        for name in LEFT_OUT:
            own = [*reviews[name]["test"], *reviews[name]["train"]]
            _checked(own, name, self._effort, str(path))
            found[name] = ([], [], own[: self._effort.told])
        return found

    @cached_property
    def _texts(self) -> Mapping[str, list[Labelled]]:
        """Domain → reviews to learn from, without those that choose or tell anywhere: the archive has many twice."""
        other = {_begin(row) for _, select, report in self._parts.values() for row in (*select, *report)}
        return {name: [row for row in self._parts[name][0] if _begin(row) not in other] for name in DOMAINS}

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary((row.text for own in self._texts.values() for row in own), self._effort.shape.words)

    @cached_property
    def _pieces(self) -> Examples:
        """Reviews in pieces; the label is the domain."""
        rng = np.random.default_rng([self._seed, 6])
        return pieces(self._texts.values(), self._vocabulary, _PIECE, rng, self._effort.pieces)

    @cached_property
    def _told(self) -> Mapping[str, Examples]:
        return {name: without(self._examples(own), set()) for name, (_, _, own) in self._parts.items()}

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        """The twelve domains. A text that is told of any is in no other part of any."""
        told = keys(self._told)
        chosen = {name: without(self._examples(self._parts[name][1]), told) for name in DOMAINS}
        seen = told | keys(chosen)
        return {
            name: Task(without(self._examples(self._texts[name]), seen), chosen[name], self._told[name])
            for name in DOMAINS
        }

    @property
    def left_out(self) -> Mapping[str, Examples]:
        """The four domains that no model has seen."""
        return {name: self._told[name] for name in LEFT_OUT}

    @cached_property
    def seen(self) -> Task:
        """Four domains at once."""
        own = [self.tasks[name] for name in SEEN]
        return Task(*(Examples.joined(p) for p in zip(*((t.train, t.select, t.report) for t in own), strict=True)))

    @cached_property
    def base(self) -> Arrays:
        """Pretrained on the twelve domains; it learns beside from few reviews of each what praise is."""
        few = Examples.joined([task.train.part(0, self._effort.few) for task in self.tasks.values()])
        return pretrained(self._pieces, {_PRAISE: few}, self._effort.shape, self._effort.base, self._seed)

    @cache  # noqa: B019 - labs are kept for good
    def specialist(self, domain: str) -> Arrays:
        """The base, fine-tuned on a domain."""
        return self._tuned(self.base, self.tasks[domain].train, self._effort.learn, DOMAINS.index(domain), tuple(HEADS))

    @cached_property
    def together(self) -> Arrays:
        """The base, fine-tuned on the twelve domains, with as many steps for each as its specialist has."""
        every = Examples.joined([task.train for task in self.tasks.values()])
        learn = replace(self._effort.learn, steps=len(self.tasks) * self._effort.learn.steps)
        return self._tuned(self.base, every, learn, len(DOMAINS), tuple(HEADS))

    @cached_property
    def probed(self) -> Arrays:
        """The base with a head that is trained alone on the domains seen."""
        return self._tuned(self.base, self.seen.train, self._effort.probe, 20, _TRUNK)

    @cached_property
    def diverse(self) -> Mapping[str, Arrays]:
        """Fine-tunes of :attr:`probed` on the domains seen, under mild settings."""
        return {f"run {run.name}": self._run(self.probed, run, 30 + i) for i, run in enumerate(RUNS)}

    @cached_property
    def recycled(self) -> Mapping[str, Arrays]:
        """The same runs from fine-tunes on one auxiliary domain each, with the same probed head; two from the base."""
        starts = [self.probed, *(self._auxiliary(name) for name in AUXILIARY)]
        return {f"recycled {run.name}": self._run(starts[i % len(starts)], run, 40 + i) for i, run in enumerate(RUNS)}

    def _auxiliary(self, domain: str) -> Arrays:
        """A fine-tune of the base on another domain, with the head that was probed."""
        number = 50 + AUXILIARY.index(domain)
        found = self._tuned(self.base, self.tasks[domain].train, self._effort.tune, number, ())
        return {name: found[name] if name.partition(".")[0] in _TRUNK else self.probed[name] for name in found}

    def _run(self, start: Arrays, run: Run, number: int) -> Arrays:
        return self._tuned(start, self.seen.train, run.schedule(self._effort.tune), number, ())

    def _tuned(self, start: Arrays, train: Examples, schedule: Schedule, number: int, fixed: Sequence[str]) -> Arrays:
        return fine_tuned(start, {_PRAISE: train}, schedule, 100 * self._seed + number, fixed=fixed)

    def _examples(self, rows: Sequence[Labelled]) -> Examples:
        inputs = self._vocabulary.ids([row.text for row in rows], self._effort.length)
        return Examples(inputs, np.array([row.label for row in rows], np.int64))


def domains_of(setting: Setting) -> Lab:
    """The lab of the bed ``domains``."""
    return lab_of(Lab, FULL, setting)


def _begin(row: Labelled) -> tuple[str, ...]:
    """The words that tell two reviews apart."""
    return tuple(words(row.text)[:_PIECE])


def _checked(rows: Sequence[Labelled], domain: str, effort: Effort, file: str) -> None:
    """Enough reviews, of two classes.

    Raises:
        CheckpointError: when they are not.
    """
    fix = "the archive of 16 domains, with some 1,600 lines 0<TAB>text or 1<TAB>text in each DOMAIN.task.train"
    if len(rows) <= effort.held + effort.few:
        raise CheckpointError(Problem(f"{domain} has {len(rows)} reviews, too few to share out", file=file, fix=fix))
    if other := sorted({row.label for row in rows} - {0, 1}):
        raise CheckpointError(Problem(f"{domain} has reviews of class {other[0]}, not 0 or 1", file=file, fix=fix))
