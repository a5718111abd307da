"""Images that claims are tried on: four disjoint splits, the shifts that test them, and tasks beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.io import loadmat
from scipy.ndimage import gaussian_filter, zoom

from stockpot.demo.data import FloatArray, Shift, Split, chain, fade, load_splits, noise, rotate, warp
from stockpot.evaluate.arrays import read_npz
from stockpot.reproduce.images.jpegs import read_jpegs
from stockpot.reproduce.labs import File

__all__ = ["Pictures", "Task", "cifar", "digit_tasks", "digits", "joined", "mnist", "mnist_tasks", "shifted", "turned"]

_SIZES = (3000, 5000, 1500)
"""Of pretrain, tune and select of MNIST."""
_CIFAR_SIZES = (4000, 8000, 2000)
"""Likewise, of CIFAR-10."""
_REPORT = 2500
"""Images of a test set."""
_TASK_SIZES = (4000, 1000, 1500)
"""Of tune, select and report of each task, beside the few that the base learns from."""


@dataclass(frozen=True)
class Pictures:
    """The shared start learns ``pretrain`` under ``broad`` changes; fine-tunes learn ``tune`` as it is.

    Args:
        shifts: What test images are changed by, by the name of the task.
        others: Makes images for fine-tunes on something else, by name.
    """

    pretrain: Split
    tune: Split
    select: Split
    report: Split
    broad: Shift
    shifts: Mapping[str, Shift]
    others: Callable[[], Mapping[str, Split]]


@dataclass(frozen=True)
class Task:
    """A task of several that one model can learn.

    Args:
        few: What the base learns from.
        first: The number of its first class; tasks of one head all begin at 0.
    """

    few: Split
    tune: Split
    select: Split
    report: Split
    first: int = 0


def digits(seed: int) -> Pictures:
    """The 1,797 images of scikit-learn, 8 × 8."""
    cut = load_splits(seed)

    def others() -> Mapping[str, Split]:
        return {"inverted": _inverted(cut.tune), "noisy": _noisy(cut.tune, seed), "other": _quarters(cut.tune, 2)}

    return Pictures(cut.pretrain, cut.tune, cut.select, cut.report, _BROAD, _shifts(8), others)


def mnist(file: File, seed: int) -> Pictures:
    """12,000 images of MNIST, 28 × 28; what is pretrained, tuned and selected on is of the training set."""
    rng = np.random.default_rng(seed)
    pretrain, tune, select = _cut(_npz(file("images", "mnist_train.npz")), _SIZES, rng)
    (report,) = _cut(_npz(file("images", "mnist_test.npz")), (_REPORT,), rng)
    (kana,) = _cut(_kmnist(file), (len(tune.labels),), rng)

    def others() -> Mapping[str, Split]:
        return {"inverted": _inverted(tune), "noisy": _noisy(tune, seed), "other": kana}

    return Pictures(pretrain, tune, select, report, _BROAD, _shifts(28), others)


def cifar(file: File, seed: int) -> Pictures:
    """16,500 images of CIFAR-10, 32 × 32 in colour, those that are not reported on of the training set."""
    rng = np.random.default_rng(seed)
    pretrain, tune, select = _cut_jpegs(file("images", "cifar10_train15k_jpeg.npz"), _CIFAR_SIZES, rng)
    (report,) = _cut_jpegs(file("images", "cifar10_test_jpeg.npz"), (_REPORT,), rng)

    def others() -> Mapping[str, Split]:
        return {"inverted": _inverted(tune), "noisy": _noisy(tune, seed), "other": _quarters(tune, 2)}

    return Pictures(pretrain, tune, select, report, _BROAD, _shifts(32), others)


def digit_tasks(seed: int, few: int) -> Mapping[str, Task]:
    """The same digits upright, inverted and lying, with one head; the base sees others of each."""
    cut = load_splits(seed)
    ways: dict[str, Callable[[Split], Split]] = {
        "upright": lambda split: split,
        "inverted": _inverted,
        "lying": lambda split: _quarters(split, 1),
    }
    base = np.array_split(np.random.default_rng(seed).permutation(len(cut.pretrain.labels))[: 3 * few], 3)
    return {
        name: Task(way(_rows(cut.pretrain, rows)), way(cut.tune), way(cut.select), way(cut.report))
        for (name, way), rows in zip(ways.items(), base, strict=True)
    }


def mnist_tasks(file: File, seed: int, few: int) -> Mapping[str, Task]:
    """MNIST, USPS and Kuzushiji-MNIST, each with ten outputs of its own."""
    rng = np.random.default_rng(seed)
    sources = {"mnist": _npz(file("images", "mnist_train.npz")), "usps": _usps(file), "kmnist": _kmnist(file)}
    found = {}
    for i, (name, source) in enumerate(sources.items()):
        little, tune, select, report = _cut(source, (few, *_TASK_SIZES), rng)
        found[name] = Task(little, tune, select, report, first=10 * i)
    return found


def shifted(split: Split, shifts: Mapping[str, Shift], seed: int) -> Mapping[str, Split]:
    """``clean``, and the same images under each shift."""
    return {
        "clean": split,
        **{
            name: split.changed(shift, np.random.default_rng((seed, i)))
            for i, (name, shift) in enumerate(shifts.items())
        },
    }


def turned(split: Split, angles: tuple[float, ...], seed: int) -> Split:
    """Each image turned by one of ``angles``, in degrees."""
    drawn = np.random.default_rng(seed).choice(np.array(angles, np.float32), len(split.labels))
    return Split(_warped(split.images, drawn), split.labels)


def joined(*splits: Split) -> Split:
    """All of them as one."""
    return Split(np.concatenate([s.images for s in splits]), np.concatenate([s.labels for s in splits]))


def either_way(angle: float) -> Shift:
    """Turn each image by ``angle`` degrees, one way or the other."""

    def shift(images: FloatArray, rng: np.random.Generator) -> FloatArray:
        return _warped(images, angle * rng.choice(np.array([-1, 1], np.float32), len(images)))

    return shift


def blur(sd: float) -> Shift:
    """Blur with a Gaussian of ``sd`` pixels."""

    def shift(images: FloatArray, rng: np.random.Generator) -> FloatArray:  # noqa: ARG001 - shifts are called so
        return np.asarray(gaussian_filter(images, (*(0 for _ in images.shape[:-2]), sd, sd)), np.float32)

    return shift


_BROAD = chain(rotate(45), noise(0.2), fade(0.5, 1.0))
"""What the shared start is trained on: any rotation up to 45 degrees, noise and low contrast at once."""


def _shifts(side: int) -> Mapping[str, Shift]:
    """The changes of test images of ``side`` pixels, stronger than in the training of the start, or new to it."""
    turns = {f"turned {angle}": either_way(angle) for angle in (30, 45)}
    return {**turns, "noise": noise(0.4), "blur": blur(side / 14), "contrast": fade(0.3)}


def _warped(images: FloatArray, degrees: npt.NDArray[Any]) -> FloatArray:
    angles = np.deg2rad(degrees).astype(np.float32)
    return warp(images, angles, np.zeros((len(images), 2), np.float32))


def _inverted(split: Split) -> Split:
    return Split(1 - split.images, split.labels)


def _noisy(split: Split, seed: int) -> Split:
    return split.changed(noise(0.3), np.random.default_rng((seed, 99)))


def _quarters(split: Split, quarters: int) -> Split:
    return Split(np.rot90(split.images, quarters, (-2, -1)).copy(), split.labels)


def _rows(split: Split, rows: npt.NDArray[np.int64]) -> Split:
    return Split(split.images[rows], split.labels[rows])


def _cut(split: Split, sizes: tuple[int, ...], rng: np.random.Generator) -> list[Split]:
    """Disjoint parts of ``sizes``, drawn."""
    drawn = rng.permutation(len(split.labels))[: sum(sizes)]
    return [_rows(split, rows) for rows in np.split(drawn, np.cumsum(sizes)[:-1])]


def _split(images: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Split:
    return Split((images / 255).astype(np.float32), labels.astype(np.int64))


def _npz(path: Path) -> Split:
    arrays = read_npz(path)
    return _split(arrays["x"], arrays["y"])


def _cut_jpegs(path: Path, sizes: tuple[int, ...], rng: np.random.Generator) -> list[Split]:
    return _cut(_split(*read_jpegs(path, 32, sum(sizes))), sizes, rng)


def _kmnist(file: File) -> Split:
    images, labels = (
        read_npz(file("images", "kmnist", f"kmnist-test-{name}.npz"))["arr_0"] for name in ("imgs", "labels")
    )
    return _split(images, labels)


def _usps(file: File) -> Split:
    """USPS, 16 × 16, brought to 28 × 28 as MNIST has it: 20 × 20 within a margin."""
    rows = loadmat(file("images", "usps_all.mat"))["usps_all"]  # (9298, 257): pixels row by row, and the digit plus 1
    images = rows[:, :-1].reshape(-1, 16, 16).astype(np.float32)
    large = np.clip(zoom(images, (1, 1.25, 1.25), order=1), 0, 255)
    return _split(np.pad(large, ((0, 0), (4, 4), (4, 4))), rows[:, -1].astype(np.int64) - 1)
