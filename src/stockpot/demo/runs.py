"""The fine-tuning runs: what each is trained on and how, and its folder on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from stockpot.demo.data import BROAD, TEST_SHIFTS, Digits, Shift
from stockpot.demo.network import WIDTHS, Parameters, initialise
from stockpot.demo.train import Schedule, train

__all__ = [
    "FINE_TUNES",
    "FULL",
    "QUICK",
    "SPECIALISTS",
    "Effort",
    "Run",
    "fine_tune",
    "load_model",
    "save_model",
    "train_start",
]


_CONFIG: Mapping[str, Any] = MappingProxyType(
    {"model_type": "mlp-digits", "widths": list(WIDTHS), "hidden_act": "relu"}
)


@dataclass(frozen=True)
class Run:
    """One fine-tune of the shared start; what is not given is the ordinary setting.

    ``rate`` is the learning rate, ``classes`` are the digits it sees, ``shift`` changes its images,
    and ``length`` is its share of the ordinary number of epochs.
    """

    name: str
    about: str
    rate: float = 0.02
    smoothing: float = 0.0
    shift: Shift | None = None
    classes: tuple[int, ...] = tuple(range(10))
    length: float = 1.0
    sound: bool = True


FINE_TUNES = (
    Run("plain", "clean images"),
    Run("fast", "clean images, twice the learning rate", rate=0.04),
    Run("smooth", "clean images, label smoothing 0.05", smoothing=0.05),
    Run("low", "only the digits 0 to 4", rate=0.01, classes=(0, 1, 2, 3, 4)),
    Run("high", "only the digits 5 to 9", rate=0.01, classes=(5, 6, 7, 8, 9)),
    Run("moved", "translated images", shift=TEST_SHIFTS["translation"]),
    Run("turned", "rotated images", shift=TEST_SHIFTS["rotation"]),
    Run("noisy", "images with noise", shift=TEST_SHIFTS["noise"]),
    Run("faded", "images with little contrast", shift=TEST_SHIFTS["contrast"]),
    Run("diverged", "a learning rate far too high", rate=2.0, length=0.2, sound=False),
)
SPECIALISTS = ("moved", "turned", "noisy", "faded")
"""The runs that each learnt one shift; task-vector methods combine their skills."""


@dataclass(frozen=True)
class Effort:
    """How long to train, in epochs, and how finely to search hyper-parameters."""

    start_epochs: int
    tune_epochs: int
    fine_grid: bool


FULL = Effort(start_epochs=250, tune_epochs=30, fine_grid=True)
QUICK = Effort(start_epochs=60, tune_epochs=8, fine_grid=False)


def train_start(digits: Digits, effort: Effort, seed: int) -> Parameters:
    """Train the shared start from random weights on broadly changed images."""
    theta = initialise(np.random.default_rng(seed))
    schedule = Schedule(effort.start_epochs, rate=0.02, seed=seed, shift=BROAD)
    return train(theta, digits.pretrain, schedule)


def fine_tune(start: Parameters, digits: Digits, run: Run, effort: Effort, seed: int) -> Parameters:
    """Continue from ``start`` as ``run`` says; each run has its own random numbers."""
    schedule = Schedule(
        epochs=max(1, round(effort.tune_epochs * run.length)),
        rate=run.rate,
        seed=1000 * (seed + 1) + FINE_TUNES.index(run),
        smoothing=run.smoothing,
        shift=run.shift,
    )
    return train(start, digits.tune.keep(run.classes), schedule)


def save_model(theta: Parameters, folder: Path, config: Mapping[str, Any] = _CONFIG) -> None:
    """Write ``model.safetensors`` and ``config.json``, by default that of the demo's network."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(theta), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")


def load_model(folder: Path) -> Parameters:
    """Read the weights of a folder that :func:`save_model` or a merge wrote."""
    theta: Parameters = load_file(folder / "model.safetensors")
    return theta
