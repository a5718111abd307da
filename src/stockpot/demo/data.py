"""Scikit-learn's handwritten digits: four disjoint splits, and the shifts that test robustness."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates
from sklearn.datasets import load_digits

__all__ = [
    "BROAD",
    "CLASSES",
    "SIDE",
    "TEST_SHIFTS",
    "Digits",
    "FloatArray",
    "IntArray",
    "Shift",
    "Split",
    "chain",
    "fade",
    "load_splits",
    "noise",
    "rotate",
    "translate",
    "warp",
]

FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]
Shift: TypeAlias = Callable[[FloatArray, np.random.Generator], FloatArray]

SIDE = 8
"""Height and width of an image in pixels."""
CLASSES = 10
"""Digits 0 to 9."""

_SHARES = (0.15, 0.35, 0.2)
"""Shares of pretrain, tune and select; the remaining 30 % are for the report."""


@dataclass(frozen=True)
class Split:
    """Images ``(n, side, side)``, in colour ``(n, 3, side, side)``, of values in [0, 1]; labels ``(n,)`` in 0..9."""

    images: FloatArray
    labels: IntArray

    def keep(self, classes: tuple[int, ...]) -> Split:
        """Return only the images whose label is one of ``classes``."""
        chosen = np.isin(self.labels, classes)
        return Split(self.images[chosen], self.labels[chosen])

    def changed(self, shift: Shift, rng: np.random.Generator) -> Split:
        """Return the same labels with every image passed through ``shift``."""
        return Split(shift(self.images, rng), self.labels)


@dataclass(frozen=True)
class Digits:
    """The four disjoint splits: train the start, fine-tune it, choose among merges, report."""

    pretrain: Split
    tune: Split
    select: Split
    report: Split


def load_splits(seed: int) -> Digits:
    """Shuffle the 1,797 images by ``seed`` and cut them into the four splits."""
    bunch = load_digits()
    images = (bunch.images / 16).astype(np.float32)
    labels = bunch.target.astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(labels))
    ends = np.cumsum([int(share * len(order)) for share in _SHARES])
    parts = [Split(images[rows], labels[rows]) for rows in np.split(order, ends)]
    return Digits(*parts)


def warp(images: FloatArray, angle: FloatArray, move: FloatArray) -> FloatArray:
    """Turn and move every image, interpolating linearly; what enters from outside is black.

    Args:
        images: ``(n, side, side)``, or ``(n, channels, side, side)``: all channels of an image move alike.
        angle: ``(n,)``, radians.
        move: ``(n, 2)``, pixels down and to the right.
    """
    side = images.shape[-1]
    centre = (side - 1) / 2
    rows, columns = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    y = rows[None] - centre - move[:, 0, None, None]  # (n, side, side)
    x = columns[None] - centre - move[:, 1, None, None]
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    which = np.broadcast_to(np.arange(len(images))[:, None, None], y.shape)
    source = np.stack([which, cos * y + sin * x + centre, cos * x - sin * y + centre])
    planes = images.reshape(len(images), -1, side, side)
    moved = [map_coordinates(planes[:, c], source, order=1, mode="grid-constant") for c in range(planes.shape[1])]
    return np.stack(moved, axis=1, dtype=np.float32).reshape(images.shape)


def _uniform(rng: np.random.Generator, size: tuple[int, ...], limit: float) -> FloatArray:
    return rng.uniform(-limit, limit, size).astype(np.float32)


def translate(limit: float) -> Shift:
    """Move each image by up to ``limit`` pixels along both axes."""

    def shift(images: FloatArray, rng: np.random.Generator) -> FloatArray:
        n = len(images)
        return warp(images, np.zeros(n, np.float32), _uniform(rng, (n, 2), limit))

    return shift


def rotate(limit: float) -> Shift:
    """Turn each image by up to ``limit`` degrees either way."""

    def shift(images: FloatArray, rng: np.random.Generator) -> FloatArray:
        n = len(images)
        return warp(images, _uniform(rng, (n,), np.deg2rad(limit)), np.zeros((n, 2), np.float32))

    return shift


def noise(sd: float) -> Shift:
    """Add Gaussian noise of standard deviation ``sd`` and clip to [0, 1]."""

    def shift(images: FloatArray, rng: np.random.Generator) -> FloatArray:
        noisy = images + rng.normal(0, sd, images.shape).astype(np.float32)
        return np.clip(noisy, 0, 1)

    return shift


def fade(lowest: float, highest: float | None = None) -> Shift:
    """Draw pixels towards mid-grey: their distance from 0.5 is multiplied by a factor.

    The factor is drawn for each image between ``lowest`` and ``highest`` (default: always lowest).
    """

    def shift(images: FloatArray, rng: np.random.Generator) -> FloatArray:
        top = lowest if highest is None else highest
        factor = rng.uniform(lowest, top, (len(images), *(1 for _ in images.shape[1:]))).astype(np.float32)
        return np.asarray(0.5 + factor * (images - 0.5), dtype=np.float32)

    return shift


def chain(*shifts: Shift) -> Shift:
    """Apply several shifts one after the other."""

    def shift(images: FloatArray, rng: np.random.Generator) -> FloatArray:
        for each in shifts:
            images = each(images, rng)
        return images

    return shift


BROAD = chain(translate(1.0), rotate(25), noise(0.2), fade(0.5, 1.0))
"""What the shared start is trained on: every kind of change at once, each of them mild."""

TEST_SHIFTS: Mapping[str, Shift] = MappingProxyType(
    {
        "translation": translate(1.7),
        "rotation": rotate(45),
        "noise": noise(0.35),
        "contrast": fade(0.4),
    }
)
"""The changes of test images that the table has columns for, stronger than in ``BROAD``."""
