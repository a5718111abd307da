"""Functions of numbers that stand for evaluating merges, in this process and in others."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from stockpot.search.objective import Objective
from stockpot.search.spaces.dimensions import Dimension
from stockpot.search.tuning.samplers import sampler_of

LOWER = (Objective((("t", "loss"),), "lower"),)
BOTH = (Objective((("t", "loss"),), "lower"), Objective((("t", "accuracy"),), "higher"))


def floats(count):
    """Dimensions in [0, 1]."""
    return tuple(Dimension(f"x{i}", i + 1, "float", 0.0, 1.0, start=0.5) for i in range(count))


def begin(dimensions):
    """The first guess."""
    return {one.name: one.start for one in dimensions}


def sampler(name, dimensions, seed=0, **how):
    """A sampler that begins at the first guess."""
    return sampler_of(name, seed, begin(dimensions), **how)


def bowl(values, at=0.3):
    """A quadratic whose least value is 0, where every number is ``at``."""
    return sum((value - at) ** 2 for value in values.values())


@dataclass(frozen=True)
class Bowl:
    """Evaluates the quadratic, on growing shares with growing exactness; what it does else is for tests of failures.

    Args:
        shares: Rungs.
        several: Whether there is a second figure that is against the first.
        fails: A trial whose first number is below this fails.
        slow: Seconds of a trial.
        dies: A file; the process dies in a trial whose first number is below ``fails``, as long as lines are in it.
        log: A file to which each process writes the values that it is given.
    """

    shares: tuple[float, ...] = (1.0,)
    several: bool = False
    fails: float = -1.0
    slow: float = 0.0
    dies: str = ""
    log: str = ""

    @contextmanager
    def __call__(self):
        yield self

    def values(self, values):
        first = next(iter(values.values()))
        if self.log:
            with Path(self.log).open("a") as file:
                file.write(f"{os.getpid()} {sorted(values.items())}\n")
        time.sleep(self.slow)
        if first < self.fails:
            if not self.dies:
                raise MemoryError(f"too little for {'small' if first < self.fails / 4 else 'large'} values")
            left = Path(self.dies).read_text().splitlines()
            if left:
                Path(self.dies).write_text("".join(f"{line}\n" for line in left[1:]))
                os.kill(os.getpid(), signal.SIGKILL)
        for share in self.shares:
            loss = bowl(values) * (2 - share)
            yield (loss, 1 - bowl(values, 0.8)) if self.several else (loss,)


@dataclass(frozen=True)
class Parent(Bowl):
    """Evaluates the quadratic in a process that each trial starts."""

    def values(self, values):
        with get_context("spawn").Pool(1) as pool:
            yield (pool.apply(bowl, (values,)),)
