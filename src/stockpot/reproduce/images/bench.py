"""What claims are given of the beds of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from stockpot.evaluate import Candidate, Suite
from stockpot.evaluate.neural import need
from stockpot.reproduce.bench import Forgetting, Workplace, Written, classified
from stockpot.reproduce.claim import Setting

if TYPE_CHECKING:
    from stockpot.demo.data import Split
    from stockpot.reproduce.images.lab import Lab
    from stockpot.reproduce.images.pictures import Task

__all__ = ["Images"]

_TARGET = {"digits": ("inverted", "upright"), "mnist": ("kmnist", "mnist")}
"""What is to be forgotten, and what is to be kept."""
_NEEDS = {"digits": (), "mnist": ("torch",), "cifar": ("torch", "PIL")}
"""Packages beside those that images are warped with."""
_KEEP = 0.97
"""Of the control's accuracy on select data, so that 0.95 are left on report data."""


class Images:
    """One of the beds ``digits``, ``mnist`` and ``cifar``; the last has one task alone.

    Args:
        name: Of the bed.
        setting: What the claim is measured with.

    Raises:
        UnsupportedError: when a package is missing that the bed needs.
    """

    def __init__(self, name: str, setting: Setting) -> None:
        need("scipy", "sklearn", *_NEEDS[name])
        from stockpot.reproduce.images.lab import images_of

        self.name = name
        self.lab: Lab = images_of(name, setting)
        self.place = Workplace(setting.folder)

    def shifts(self) -> Suite:
        """``clean``, and a task for each shift of the bed."""
        from stockpot.reproduce.images.pictures import shifted

        own, seed = self.lab.pictures, self.lab.seed
        select, report = shifted(own.select, own.shifts, 2 * seed), shifted(own.report, own.shifts, 2 * seed + 1)
        return self.suite({name: {"select": select[name], "report": report[name]} for name in report})

    def ends(self) -> tuple[Candidate, Candidate]:
        """The start, and its ordinary fine-tune."""
        return self.place.model("start", self.lab.start), self.place.model("tuned", self.lab.fine_tune("plain"))

    def fine_tunes(self) -> list[Candidate]:
        """Fine-tunes with different settings, the last of which diverged."""
        from stockpot.reproduce.images.lab import FINE_TUNES

        return self.place.models({run.name: self.lab.fine_tune(run.name) for run in FINE_TUNES})

    def domains(self) -> Suite:
        """``home``, images turned as runs see them, and ``held out``, turned as no run does."""
        own = self.lab.domains
        return self.suite({"home": {"select": own.select, "report": own.home}, "held out": {"report": own.held_out}})

    def diverse(self) -> list[Candidate]:
        """Runs with mild settings, from the start with a probed head."""
        return self.place.models(self.lab.diverse)

    def recycled(self) -> list[Candidate]:
        """The same runs, from that start and from fine-tunes on other images."""
        return self.place.models(self.lab.recycled)

    def suite(self, tasks: Mapping[str, Mapping[str, Split]]) -> Suite:
        """A suite of classification tasks: name → role → images and labels."""
        return self.place.suite({name: self._task(self.lab.network.predict, roles) for name, roles in tasks.items()})

    def tasks(self, data_of: Callable[[Task], Mapping[str, Split]] | None = None) -> Suite:
        """The bed's several tasks.

        Args:
            data_of: A task → role → images and labels; by default those of ``select`` and ``report``.
        """
        own, given = self.lab.tasks, data_of or (lambda task: {"select": task.select, "report": task.report})
        data = {name: given(task) for name, task in own.items()}
        firsts = {name: task.first for name, task in own.items()}
        if not any(firsts.values()):
            return self.suite(data)
        written = {name: self._task(f"outputs:{name}", roles) for name, roles in data.items()}
        return self.place.suite(written, {"outputs.py": _outputs(self.lab.network.predict, firsts)})

    def specialists(self) -> list[Candidate]:
        """The base, and the fine-tune of it on each task, called as the task."""
        return self.place.models({"base": self.lab.beginner, **self.lab.specialists})

    def together(self) -> Candidate:
        """A fine-tune of the base on all tasks at once."""
        return self.place.model("together", self.lab.together)

    def forgetting(self) -> Forgetting:
        """Inverted digits, or Kuzushiji-MNIST; the control is upright digits, or MNIST."""
        target, control = _TARGET[self.name]
        base, *models = self.specialists()
        tuned = next(model for model in models if model.name == target)
        values = tuple(round(0.05 * i, 2) for i in range(41))
        return Forgetting(self.tasks(), base, tuned, target, control, _KEEP, values)

    def _task(self, predict: str, roles: Mapping[str, Split]) -> Written:
        return classified(predict, {role: (split.images, split.labels) for role, split in roles.items()})


def _outputs(predict: str, firsts: Mapping[str, int]) -> str:
    """A module with a function for each task, which takes the task's ten outputs."""
    module, _, function = predict.partition(":")
    lines = [f"from {module} import {function}\n"]
    for name, first in firsts.items():
        lines.append(
            f"\n\ndef {name}(tensors, inputs):\n    return {function}(tensors, inputs)[:, {first} : {first + 10}]\n"
        )
    return "".join(lines)
