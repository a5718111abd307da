"""Models of the test beds, trained when they are first asked for and kept for all claims of a process.

A start is trained broadly on few images and fine-tuned narrowly on more: at home the fine-tunes are better, under shift
the start is. Settings are the same for all claims; they were set once, so that this is so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from zlib import crc32

import numpy as np

from stockpot.demo.data import Shift, Split, noise, rotate, translate
from stockpot.demo.network import Parameters
from stockpot.demo.train import Schedule, train
from stockpot.reproduce.claim import Setting
from stockpot.reproduce.images.networks import COLOUR, CONVOLUTIONAL, PERCEPTRON, Network
from stockpot.reproduce.images.pictures import (
    Pictures,
    Task,
    cifar,
    digit_tasks,
    digits,
    joined,
    mnist,
    mnist_tasks,
    turned,
)
from stockpot.reproduce.labs import File, lab_of

__all__ = ["FINE_TUNES", "Domains", "Lab", "Run", "images_of"]


@dataclass(frozen=True)
class Run:
    """A fine-tune; what is not given is the ordinary setting.

    Args:
        rate, length: Factors of the ordinary learning rate and number of epochs.
    """

    name: str
    rate: float = 1.0
    length: float = 1.0
    decay: float = 0.0
    smoothing: float = 0.0
    shift: Shift | None = None


FINE_TUNES = (
    Run("plain"),
    Run("slow", rate=0.3),
    Run("fast", rate=1.7),
    Run("decayed", decay=1e-3),
    Run("smooth", smoothing=0.1),
    Run("moved", shift=translate(1.0)),
    Run("tilted", shift=rotate(15)),
    Run("noisy", shift=noise(0.15)),
    Run("diverged", rate=50.0, length=0.2),
)
"""A sweep over hyperparameters; the last run is unsound."""

_MILD = (
    Run("1", rate=0.5),
    Run("2", rate=0.7, decay=1e-3),
    Run("3", smoothing=0.1),
    Run("4", rate=1.4, decay=1e-4),
    Run("5", rate=0.5, decay=1e-4, smoothing=0.1),
    Run("6", rate=0.7),
    Run("7", decay=1e-3),
    Run("8", rate=1.4, smoothing=0.1),
)
"""Mild ranges of settings, as DiWA asks for."""

_SEEN, _HELD_OUT = (0.0, 15.0, 30.0), (45.0,)
"""Rotations, in degrees, that runs are trained on, and the one that is left out; the start has seen all of them."""


@dataclass(frozen=True)
class Domains:
    """One target in several domains, of which one is left out of everything but the report."""

    tune: Split
    select: Split
    home: Split
    held_out: Split


@dataclass(frozen=True)
class _Several:
    """Several tasks that one model can learn.

    Args:
        joint, learn: Epochs and rates: of the start that knows them a little, and of its fine-tunes, at a low rate, as
            task arithmetic needs it.
        few: Images of each task that the former learns from.
    """

    tasks: Callable[[File, int, int], Mapping[str, Task]]
    joint: tuple[int, float]
    learn: tuple[int, float]
    few: int


@dataclass(frozen=True)
class _Ground:
    """What a bed is made of.

    Args:
        start, tune, scratch: Epochs and rates: of the start, of ordinary fine-tunes of it, and of training from nothing
            on the same images.
        several: None for a bed that no claim on several tasks has.
    """

    network: Network
    pictures: Callable[[File, int], Pictures]
    start: tuple[int, float]
    tune: tuple[int, float]
    scratch: tuple[int, float]
    several: _Several | None = None


_GROUNDS = {
    "digits": _Ground(
        PERCEPTRON,
        lambda _, seed: digits(seed),
        start=(400, 0.02),
        tune=(40, 0.04),
        scratch=(100, 0.02),
        several=_Several(lambda _, seed, few: digit_tasks(seed, few), joint=(100, 0.02), learn=(20, 0.01), few=40),
    ),
    "mnist": _Ground(
        CONVOLUTIONAL,
        mnist,
        start=(20, 0.02),
        tune=(5, 0.03),
        scratch=(8, 0.02),
        several=_Several(mnist_tasks, joint=(30, 0.02), learn=(4, 0.01), few=100),
    ),
    "cifar": _Ground(COLOUR, cifar, start=(20, 0.02), tune=(5, 0.01), scratch=(8, 0.02)),
}


class Lab:
    """One bed with one seed, which fixes everything.

    Args:
        file: Finds files of data.
    """

    def __init__(self, file: File, ground: _Ground, seed: int) -> None:
        self._ground, self._file, self.seed = ground, file, seed
        self.network = ground.network
        self._tuned: dict[str, Parameters] = {}

    @cached_property
    def pictures(self) -> Pictures:
        """Images of one task: a start is pretrained, tuned, chosen and reported on."""
        return self._ground.pictures(self._file, self.seed)

    @cached_property
    def start(self) -> Parameters:
        """The shared start, trained broadly."""
        own = self.pictures
        return self._train("start", self._drawn("start", 1), own.pretrain, self._ground.start, shift=own.broad)

    def fine_tune(self, name: str) -> Parameters:
        """One of :data:`FINE_TUNES`."""
        if name not in self._tuned:
            run = next(run for run in FINE_TUNES if run.name == name)
            self._tuned[name] = self._tune(name, self.start, self.pictures.tune, run)
        return self._tuned[name]

    @cached_property
    def resampled(self) -> Mapping[str, Parameters]:
        """Four fine-tunes of the start on as many images, drawn with replacement."""
        return {name: self._tune(name, self.start, self._sample(name)) for name in _numbered("resampled", 4)}

    @cached_property
    def strangers(self) -> Mapping[str, Parameters]:
        """Four models from different random weights."""
        names, tune = _numbered("stranger", 4), self.pictures.tune
        return {name: self._train(name, self._drawn(name, 1), tune, self._ground.scratch) for name in names}

    @cached_property
    def domains(self) -> Domains:
        """The images turned by several angles, and by one that no model sees."""
        own = self.pictures
        tune, select, home = (turned(part, _SEEN, self.seed) for part in (own.tune, own.select, own.report))
        return Domains(tune, select, home, turned(own.report, _HELD_OUT, self.seed))

    @cached_property
    def probed(self) -> Parameters:
        """The start with a last layer that is trained alone on the domains."""
        trunk = tuple(name for name in self.start if not name.startswith(self.network.head))
        return self._train("probe", self.start, self.domains.tune, self._ground.tune, fixed=trunk)

    @cached_property
    def diverse(self) -> Mapping[str, Parameters]:
        """Fine-tunes on the domains, from the start with a probed head, under mild settings."""
        return {f"run {r.name}": self._tune(f"run {r.name}", self.probed, self.domains.tune, r) for r in _MILD}

    @cached_property
    def recycled(self) -> Mapping[str, Parameters]:
        """The same runs from fine-tunes of the start on other images, with the same probed head; two from the start."""
        others = {
            name: self._tune(f"start {name}", self.start, split) for name, split in self.pictures.others().items()
        }
        head = {name: value for name, value in self.probed.items() if name.startswith(self.network.head)}
        starts = [self.probed, *({**theta, **head} for theta in others.values())]
        names = [f"recycled {run.name}" for run in _MILD]
        given = zip(names, _MILD, strict=True)
        return {n: self._tune(n, starts[i % len(starts)], self.domains.tune, r) for i, (n, r) in enumerate(given)}

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        """Several tasks that one model can learn."""
        return self._several.tasks(self._file, self.seed, self._several.few)

    @cached_property
    def beginner(self) -> Parameters:
        """A start that knows every task a little; its last layer is every task's from then on."""
        few = joined(*(_numbered_on(task.few, task) for task in self.tasks.values()))
        heads = 1 + max(task.first for task in self.tasks.values()) // 10
        return self._train("beginner", self._drawn("beginner", heads), few, self._several.joint)

    @cached_property
    def specialists(self) -> Mapping[str, Parameters]:
        """Fine-tunes of the beginner, one for each task, all but the last layer."""
        return {name: self._learnt(f"specialist {name}", name) for name in self.tasks}

    @cached_property
    def together(self) -> Parameters:
        """A fine-tune of the beginner on all tasks at once."""
        return self._learnt("together", *self.tasks)

    @property
    def _several(self) -> _Several:
        assert self._ground.several is not None  # no claim on several tasks has such a bed
        return self._ground.several

    def _learnt(self, name: str, *tasks: str) -> Parameters:
        own = joined(*(_numbered_on(self.tasks[task].tune, self.tasks[task]) for task in tasks))
        return self._train(name, self.beginner, own, self._several.learn, fixed=(self.network.head,))

    def _tune(self, name: str, start: Parameters, split: Split, run: Run = FINE_TUNES[0]) -> Parameters:
        epochs, rate = self._ground.tune
        effort = (max(1, round(epochs * run.length)), rate * run.rate)
        return self._train(name, start, split, effort, shift=run.shift, smoothing=run.smoothing, decay=run.decay)

    def _train(
        self,
        name: str,
        start: Parameters,
        split: Split,
        effort: tuple[int, float],
        *,
        shift: Shift | None = None,
        smoothing: float = 0.0,
        decay: float = 0.0,
        fixed: tuple[str, ...] = (),
    ) -> Parameters:
        plan = Schedule(*effort, self._seed(name), shift=shift, smoothing=smoothing, decay=decay, fixed=fixed)
        return train(start, split, plan, self.network.gradient)

    def _drawn(self, name: str, heads: int) -> Parameters:
        return self.network.initialise(np.random.default_rng(self._seed(f"weights of {name}")), 10 * heads)

    def _sample(self, name: str) -> Split:
        tune = self.pictures.tune
        rows = np.random.default_rng(self._seed(f"rows of {name}")).integers(len(tune.labels), size=len(tune.labels))
        return Split(tune.images[rows], tune.labels[rows])

    def _seed(self, name: str) -> int:
        return crc32(f"{self.seed} {name}".encode())


def images_of(bed: str, setting: Setting) -> Lab:
    """The lab of a bed."""
    return lab_of(Lab, _GROUNDS[bed], setting)


def _numbered(name: str, count: int) -> tuple[str, ...]:
    return tuple(f"{name} {i + 1}" for i in range(count))


def _numbered_on(split: Split, task: Task) -> Split:
    """``split`` with the numbers that its classes have among those of all tasks."""
    return replace(split, labels=split.labels + task.first)
