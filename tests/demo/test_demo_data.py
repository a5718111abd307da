"""The data's promises: splits share no image, shifts keep shapes and the range of pixels."""

from __future__ import annotations

from dataclasses import astuple, fields

import numpy as np
import pytest

from stockpot.demo.data import (
    BROAD,
    TEST_SHIFTS,
    Digits,
    fade,
    load_splits,
    noise,
    rotate,
    translate,
    warp,
)

SPLITS = [field.name for field in fields(Digits)]


def _images_of(split):
    return {image.tobytes() for image in split.images}


@pytest.mark.parametrize("seed", range(3))
def test_splits_are_disjoint_and_cover_the_data(seed):
    """All 1,797 images (which differ from each other) are in exactly one split."""
    digits = load_splits(seed)
    sets = [_images_of(getattr(digits, name)) for name in SPLITS]
    assert sum(len(images) for images in sets) == 1797
    assert len(set().union(*sets)) == 1797


def test_labels_stay_with_their_images():
    """The digit of each image is the one that scikit-learn gives it."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    truth = {
        (image / 16).astype(np.float32).tobytes(): label
        for image, label in zip(bunch.images, bunch.target, strict=True)
    }
    for name in SPLITS:
        split = getattr(load_splits(0), name)
        for image, label in zip(split.images, split.labels, strict=True):
            assert truth[image.tobytes()] == label


def test_seed_decides_the_splits():
    """The same seed gives the same split, another seed another one."""
    first, again, other = (load_splits(seed).report.images for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("name", [*TEST_SHIFTS, "broad"])
def test_shifts_keep_shape_type_and_range_and_obey_their_generator(name):
    """A shifted image is again an (8, 8) float32 image in [0, 1]; its randomness is an input."""
    shift = {**TEST_SHIFTS, "broad": BROAD}[name]
    images = load_splits(0).select.images
    before = images.copy()
    shifted = shift(images, np.random.default_rng(1))
    assert shifted.shape == images.shape
    assert shifted.dtype == np.float32
    assert shifted.min() >= 0
    assert shifted.max() <= 1 + 1e-6
    assert not np.array_equal(shifted, images)
    assert np.array_equal(images, before)
    assert np.array_equal(shifted, shift(images, np.random.default_rng(1)))


@pytest.mark.parametrize("shift", [translate(0), rotate(0), noise(0), fade(1)])
def test_a_shift_of_no_strength_changes_nothing(shift):
    """Strength zero is the identity."""
    images = load_splits(0).select.images[:20]
    np.testing.assert_allclose(shift(images, np.random.default_rng(0)), images, atol=1e-6)


def test_warp_turns_and_moves_by_the_stated_amounts():
    """A quarter turn is numpy's rot90, a move by whole pixels is a shift of the array."""
    images = load_splits(0).select.images[:5]
    none, still = np.zeros(5, np.float32), np.zeros((5, 2), np.float32)
    quarter = warp(images, np.full(5, np.pi / 2, np.float32), still)
    turned = [np.rot90(images, turns, axes=(1, 2)) for turns in (1, -1)]
    assert any(np.allclose(quarter, candidate, atol=1e-5) for candidate in turned)
    moved = warp(images, none, np.tile(np.float32([2, -1]), (5, 1)))
    expected = np.zeros_like(images)
    expected[:, 2:, :-1] = images[:, :-2, 1:]
    np.testing.assert_allclose(moved, expected, atol=1e-5)


def test_partial_data_has_only_the_asked_digits():
    """Keeping classes drops every other image and nothing else."""
    split = load_splits(0).tune
    low, high = split.keep((0, 1, 2, 3, 4)), split.keep((5, 6, 7, 8, 9))
    assert set(low.labels) == {0, 1, 2, 3, 4}
    assert set(high.labels) == {5, 6, 7, 8, 9}
    assert len(low.labels) + len(high.labels) == len(astuple(split)[1])
