"""Claims on images: what holds by construction holds with one seed, everything is measured, and beds are sound."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest

from stockpot.demo.data import Split, load_splits
from stockpot.demo.train import Schedule, train
from stockpot.evaluate import load_suite
from stockpot.reproduce import CLAIMS, Setting, reproduce
from stockpot.reproduce.images.bench import Images
from stockpot.reproduce.images.lab import images_of
from stockpot.reproduce.images.networks import COLOUR, CONVOLUTIONAL, PERCEPTRON
from stockpot.reproduce.images.pictures import digits, mnist, mnist_tasks, shifted, turned

OURS = [name for name, claim in CLAIMS.items() if "digits" in {bed.name for bed in claim.beds}]
EXACT = {
    "soup-greedy": ("held_out", "rejected", "drop"),
    "ensemble": ("apart", "order"),
    "wise-ft": (),
    "false-false-true": (),
    "diwa": (),
    "ratatouille": ("bump",),
    "task-addition": ("more", "cosine"),
    "task-negation": ("control", "random"),
    "ties": ("fixed",),
    "search-overfits": (),
}
"""Claim → conditions that hold for any seed: by construction, or by a wide margin."""

DATA = Path(os.environ.get("STOCKPOT_DATA", "nowhere"))
needs_data = pytest.mark.skipif(
    not (DATA / "images" / "usps_all.mat").is_file(), reason="STOCKPOT_DATA names no folder with images/"
)

CONVOLUTIONS = pytest.mark.parametrize(
    ("network", "shape"), [(CONVOLUTIONAL, (28, 28)), (COLOUR, (3, 32, 32))], ids=["grey", "colour"]
)


@pytest.mark.parametrize("name", OURS)
def test_claims_on_digits(name, tmp_path):
    """Every measure is a number; what holds by construction holds. What three seeds say, the command says."""
    claim = CLAIMS[name]
    outcome = reproduce(claim, bed="digits", seeds=(0,), folder=tmp_path)
    assert all(math.isfinite(value) for value in outcome.runs[0].values())
    judged = {asked.measure: outcome.holds(asked) for asked in claim.asked}
    assert [measure for measure in EXACT[name] if not judged[measure]] == []
    (place,) = tmp_path.iterdir()
    suite = load_suite(place / "suite" / "suite.yml", allow_code=True)
    assert suite.having("report")
    assert list((place / "models").iterdir())


def test_models_are_trained_once_and_the_same_each_time():
    """The lab of a bed and a seed is one for all claims; another seed has others; training repeats to the bit."""
    setting = Setting(3, None, Path(), print)
    lab = images_of("digits", setting)
    assert images_of("digits", setting) is lab
    first = lab.specialists["upright"]
    assert lab.specialists["upright"] is first
    again = lab._learnt("specialist upright", "upright")
    assert all(np.array_equal(first[name], again[name]) for name in first)
    other = images_of("digits", Setting(4, None, Path(), print)).beginner
    assert not np.array_equal(other["layers.0.weight"], lab.beginner["layers.0.weight"])


def test_heads_are_frozen():
    """Specialists and the model of all tasks differ from the base in everything but the last layer."""
    lab = images_of("digits", Setting(3, None, Path(), print))
    for theta in (*lab.specialists.values(), lab.together):
        same = [name for name in theta if np.array_equal(theta[name], lab.beginner[name])]
        assert same == ["layers.2.weight", "layers.2.bias"]


def test_only_the_head_is_probed():
    """The start of diverse runs has the trunk of the start and another last layer."""
    lab = images_of("digits", Setting(3, None, Path(), print))
    changed = [name for name in lab.start if not np.array_equal(lab.start[name], lab.probed[name])]
    assert changed == ["layers.2.weight", "layers.2.bias"]


def test_shifts_keep_the_clean_images_and_repeat():
    """Each shift changes images, never labels, and the same seed gives the same images."""
    pictures = digits(0)
    once, again = (shifted(pictures.report, pictures.shifts, 5) for _ in range(2))
    assert list(once) == ["clean", "turned 30", "turned 45", "noise", "blur", "contrast"]
    for name, split in once.items():
        assert np.array_equal(split.labels, pictures.report.labels)
        assert np.array_equal(split.images, again[name].images)
        assert (name == "clean") == np.array_equal(split.images, pictures.report.images)


def test_images_of_any_size_are_turned():
    """A quarter turn of the shifts' kind is NumPy's, for even and odd sides; nothing is moved."""
    rng = np.random.default_rng(0)
    for side in (8, 28, 5):
        images = rng.random((3, side, side)).astype(np.float32)
        found = turned(Split(images, np.zeros(3, np.int64)), (90.0,), 0).images
        ways = [np.rot90(images, k, (1, 2)) for k in (1, 3)]
        assert min(float(np.abs(found - way).max()) for way in ways) < 1e-4


def test_decay_pulls_to_zero_and_fixed_tensors_stay():
    """Weight decay shortens what moves; what is fixed keeps its bits."""
    split = load_splits(0).pretrain
    start = PERCEPTRON.initialise(np.random.default_rng(0), 10)
    plain, decayed = (train(start, split, Schedule(5, 0.02, 0, decay=decay)) for decay in (0.0, 0.1))
    lengths = [float(np.linalg.norm(theta["layers.0.weight"])) for theta in (plain, decayed)]
    assert lengths[1] < 0.9 * lengths[0]
    kept = train(start, split, Schedule(1, 0.02, 0, decay=0.1, fixed=("layers.1.",)))
    moved = [name for name in start if not np.array_equal(start[name], kept[name])]
    assert moved == [name for name in start if not name.startswith("layers.1.")]


@CONVOLUTIONS
def test_the_convolutional_gradient(network, shape):
    """It is the slope of the loss, by differences, and of no output but those of the label's own task."""
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    theta = network.initialise(rng, 20)
    images, labels = rng.random((8, *shape)).astype(np.float32), np.array([1, 3, 9, 0, 2, 2, 7, 5])
    _, gradient = network.gradient(theta, images, labels, 0.1)
    step = {name: np.float32(4e-4) * value for name, value in gradient.items()}
    ends = [{n: theta[n] + sign * step[n] for n in theta} for sign in (-1, 1)]
    low, high = (network.gradient(end, images, labels, 0.1)[0] for end in ends)
    slope = sum(float(np.vdot(gradient[name], step[name])) for name in theta)
    assert high - low == pytest.approx(2 * slope, rel=0.02)
    assert not gradient["head.weight"][10:].any()
    assert gradient["head.weight"][:10].any()


@CONVOLUTIONS
def test_the_convolutional_loss_is_that_of_its_outputs(network, shape):
    """The outputs that suites measure are those that training lowers the loss of."""
    pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    theta = network.initialise(rng, 20)
    images, labels = rng.random((6, *shape)).astype(np.float32), np.array([11, 13, 19, 10, 12, 15])
    loss, _ = network.gradient(theta, images, labels, 0.0)
    own = network.logits(theta, images).astype(np.float64)[:, 10:]
    chances = np.exp(own) / np.exp(own).sum(axis=1, keepdims=True)
    assert loss == pytest.approx(-np.log(chances[np.arange(6), labels - 10]).mean(), rel=1e-5)


@needs_data
def test_the_real_images():
    """MNIST, USPS and Kuzushiji-MNIST have the sizes and ranges that are said; digits stand upright."""
    setting = Setting(0, DATA, Path(), print)
    pictures, known = mnist(setting.file, 0), mnist_tasks(setting.file, 0, 100)
    splits = [pictures.pretrain, pictures.tune, pictures.select, pictures.report]
    assert [len(split.labels) for split in splits] == [3000, 5000, 1500, 2500]
    for split in (
        *splits,
        *(part for task in known.values() for part in (task.few, task.tune, task.select, task.report)),
    ):
        assert split.images.shape[1:] == (28, 28)
        assert 0 <= split.images.min() <= split.images.max() <= 1
        assert set(split.labels) <= set(range(10))
    means = [_means(split) for split in (known["mnist"].tune, known["usps"].tune)]
    likeness = np.corrcoef(*[m.reshape(10, -1) for m in means])[:10, 10:]
    assert (likeness.argmax(axis=1) == np.arange(10)).sum() >= 8  # 4, 7 and 9 are alike


def _means(split):
    """The mean image of each digit."""
    return np.stack([split.images[split.labels == digit].mean(axis=0) for digit in range(10)])


@needs_data
def test_the_suite_of_heads(tmp_path):
    """Each task of MNIST's bed is measured on ten outputs of its own, by a module that lies beside the suite."""
    pytest.importorskip("torch")
    bench = Images("mnist", Setting(0, DATA, tmp_path, print))
    assert [task.name for task in bench.tasks().tasks] == ["mnist", "usps", "kmnist"]
    text = (tmp_path / "suite" / "outputs.py").read_text()
    assert "def kmnist(tensors, inputs):\n    return convolutional_logits(tensors, inputs)[:, 20:30]" in text.replace(
        "20 : 30", "20:30"
    )
