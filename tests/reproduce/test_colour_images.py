"""Claims on colour images: the reader of their file, shifts in colour, and each claim once, on very little."""

from __future__ import annotations

import io
import math
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stockpot.cli.main import main
from stockpot.demo.data import fade, warp
from stockpot.errors import CheckpointError
from stockpot.evaluate import load_suite
from stockpot.reproduce import CLAIMS, Setting, reproduce
from stockpot.reproduce.images import lab, pictures
from stockpot.reproduce.images.jpegs import read_jpegs
from stockpot.reproduce.images.pictures import cifar, either_way, shifted
from stockpot.reproduce.labs import forget

Image = pytest.importorskip("PIL.Image")

OURS = [name for name, claim in CLAIMS.items() if "cifar" in {bed.name for bed in claim.beds}]
EXACT = {"soup-greedy": ("held_out", "rejected", "drop")}
"""Claim → conditions that hold by construction, or by a wide margin."""
FILES = ("cifar10_train15k_jpeg.npz", "cifar10_test_jpeg.npz")
DATA = Path(os.environ.get("STOCKPOT_DATA", "nowhere"))


def encoded(image, form="JPEG"):
    """The bytes of an image ``(side, side, 3)``, or ``(side, side)`` in grey."""
    made = io.BytesIO()
    Image.fromarray(image).save(made, form, **({"quality": 95, "subsampling": 0} if form == "JPEG" else {}))
    return made.getvalue()


def plain(colour, side=32):
    return np.full((side, side, 3), colour, np.uint8)


def arrays_of(files, labels):
    """The layout of the file: images one after another."""
    ends = np.cumsum([0, *map(len, files)])
    return {"jpeg": np.frombuffer(b"".join(files), np.uint8), "offset": ends, "y": np.array(labels, np.uint8)}


def stored(path, arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


RED, GREY = encoded(plain((250, 10, 10))), encoded(np.full((32, 32), 128, np.uint8))
THREE = arrays_of([RED, GREY, encoded(plain((10, 10, 250)))], [3, 0, 9])


# --- reading ---------------------------------------------------------------------------------------------------------


def test_images_are_decoded_in_order(tmp_path):
    """Channels come first, as red, green and blue; an image in grey has three like channels."""
    path = stored(tmp_path / "x.npz", {**THREE, "classes": np.array(["a", "b"])})
    images, labels = read_jpegs(path, 32, 3)
    assert (images.shape, images.dtype, labels.tolist()) == ((3, 3, 32, 32), np.uint8, [3, 0, 9])
    means = images.mean(axis=(2, 3))
    assert np.abs(means - [[250, 10, 10], [128, 128, 128], [10, 10, 250]]).max() < 4


HUGE = RED.replace(b"\x08\x00\x20\x00\x20", b"\x08\xff\x00\xff\x00", 1)
"""An image whose header says that it is 65,280 × 65,280 pixels."""
WRONG = {
    "no jpeg": ({"jpeg": None}, "it has no jpeg"),
    "no offset, no y": ({"offset": None, "y": None}, "it has no offset and no y"),
    "jpeg is decoded": ({"jpeg": np.zeros((3, 4), np.uint8)}, r"jpeg is uint8 \(3, 4\), not bytes"),
    "labels are words": ({"y": np.array(["cat", "dog", "cat"])}, "whole numbers"),
    "a label too many": ({"y": np.zeros(4, np.uint8)}, "4 labels need 5 offsets, not 4"),
    "a byte too many": ({"jpeg": np.append(THREE["jpeg"], np.uint8(0))}, "offsets do not rise from 0 to the"),
    "an empty image": ({"offset": THREE["offset"][[0, 1, 1, 3]]}, "offsets do not rise"),
    "an eleventh class": ({"y": np.array([0, 10, 3])}, "labels are 0 to 10, not 0 to 9"),
    "too few": (arrays_of([RED, GREY], [0, 1]), "it has 2 images, and 3 are needed"),
    "cut off": (arrays_of([RED, GREY[:-40], RED], [0, 1, 2]), "image 1 cannot be decoded: .*[Tt]runcated"),
    "no image": (arrays_of([RED, RED, b"no image"], [0, 1, 2]), "image 2 cannot be decoded"),
    "another format": (arrays_of([encoded(plain(0), "PNG"), RED, RED], [0, 1, 2]), "image 0 cannot be decoded"),
    "a huge size": (arrays_of([RED, RED, HUGE], [0, 1, 2]), "image 2 is larger than 32 × 32 pixels by far"),
    "another size": (arrays_of([RED, encoded(plain(0, 28)), RED], [0, 1, 2]), "image 1 is 28 × 28 pixels, not 32 × 32"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_file_is_told(tmp_path, name):
    """With the file, the image where it is one, and what to do."""
    change, message = WRONG[name]
    given = {key: value for key, value in {**THREE, **change}.items() if value is not None}
    path = stored(tmp_path / "pictures.npz", given)
    with pytest.raises(CheckpointError, match=message) as raised:
        read_jpegs(path, 32, 3)
    assert str(path) in str(raised.value)
    assert "write the file again, as docs/reproduce.md describes it" in str(raised.value)


def test_a_damaged_archive_is_told(tmp_path):
    """A download that was broken off is no .npz file."""
    path = stored(tmp_path / "pictures.npz", THREE)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match=r"not a \.npz file.*pictures\.npz"):
        read_jpegs(path, 32, 3)


@pytest.mark.parametrize("missing", FILES)
def test_missing_files_are_told(tmp_path, monkeypatch, capsys, missing):
    """The command names the file, and what names the folder of data."""
    content(monkeypatch)
    (written(tmp_path) / "images" / missing).unlink()
    assert main(["reproduce", "wise-ft", "--bed", "cifar", "--data", str(tmp_path), "--seeds", "0"]) == 4
    told = "".join(capsys.readouterr())
    assert missing in told
    assert "STOCKPOT_DATA" in told


def test_a_missing_package_is_told(tmp_path, monkeypatch, capsys):
    """Pillow alone is what the other beds do without."""
    monkeypatch.setattr("stockpot.evaluate.neural.find_spec", lambda name: None if name == "PIL" else name)
    monkeypatch.delitem(sys.modules, "PIL")
    assert main(["reproduce", "wise-ft", "--bed", "cifar", "--data", str(tmp_path), "--seeds", "0"]) == 7
    told = "".join(capsys.readouterr())
    assert "this task needs Pillow" in told
    assert "pip install 'stockpot[evaluate]'" in told


# --- shifts ----------------------------------------------------------------------------------------------------------


def test_channels_move_alike():
    """Colour images are turned and moved as each of their channels would be in grey."""
    rng = np.random.default_rng(0)
    images = rng.random((4, 3, 9, 9)).astype(np.float32)
    angle, move = rng.random(4).astype(np.float32), rng.random((4, 2)).astype(np.float32)
    found = warp(images, angle, move)
    assert found.shape == images.shape
    for c in range(3):
        assert np.array_equal(found[:, c], warp(images[:, c], angle, move))


def test_shifts_in_colour_are_those_in_grey():
    """An image whose channels are alike has like channels when it is turned, blurred or faded; noise differs."""
    grey = np.random.default_rng(0).random((5, 12, 12)).astype(np.float32)
    colour = np.repeat(grey[:, None], 3, axis=1)
    for shift in (either_way(30), pictures.blur(1.5), fade(0.3, 0.9)):
        found, expected = (shift(images, np.random.default_rng(7)) for images in (colour, grey))
        assert all(np.array_equal(found[:, c], expected) for c in range(3))
    noisy = pictures.noise(0.2)(colour, np.random.default_rng(7))
    assert not np.array_equal(noisy[:, 0], noisy[:, 1])


# --- the bed ---------------------------------------------------------------------------------------------------------


def written(folder):
    """A hundred and forty images in the layout of the files: noise, and a bar of a colour whose place is the label."""
    rng = np.random.default_rng(0)
    for file, count in zip(FILES, (80, 60), strict=True):
        labels = np.arange(count) % 10
        images = (rng.random((count, 32, 32, 3)) * 160).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[3 * label : 3 * label + 5, :, label % 3] += 60
        stored(folder / "images" / file, arrays_of([encoded(image) for image in images], labels))
    return folder


def content(monkeypatch):
    """Let the bed do with so few images."""
    monkeypatch.setattr(pictures, "_CIFAR_SIZES", (20, 40, 20))
    monkeypatch.setattr(pictures, "_REPORT", 60)
    ground = replace(lab._GROUNDS["cifar"], start=(30, 0.02), tune=(30, 0.04), scratch=(10, 0.04))
    monkeypatch.setitem(lab._GROUNDS, "cifar", ground)


@pytest.fixture(scope="module")
def little(tmp_path_factory):
    """A folder of little data, of which models are trained once."""
    yield written(tmp_path_factory.mktemp("colour"))
    forget()


@pytest.fixture
def ours(little, monkeypatch):
    """That folder, with a bed that does with it."""
    content(monkeypatch)
    return little


def test_parts_are_disjoint_and_whole(ours):
    """Every image of the training set is in one part, the report is of the test set, and a seed decides which."""
    setting = Setting(0, ours, Path(), print)
    own, again, other = (cifar(setting.file, seed) for seed in (0, 0, 1))
    parts = [own.pretrain, own.tune, own.select]
    assert [len(part.labels) for part in (*parts, own.report)] == [20, 40, 20, 60]
    every, _ = read_jpegs(ours / "images" / FILES[0], 32, 80)
    drawn = np.concatenate([part.images for part in parts])
    bits = [sorted(image.tobytes() for image in images) for images in (drawn, (every / 255).astype(np.float32))]
    assert bits[0] == bits[1]
    assert np.array_equal(own.tune.images, again.tune.images)
    assert not np.array_equal(own.tune.images, other.tune.images)
    assert {name: split.images.shape for name, split in own.others().items()} == dict.fromkeys(
        ("inverted", "noisy", "other"), (40, 3, 32, 32)
    )
    assert list(shifted(own.report, own.shifts, 0)) == ["clean", "turned 30", "turned 45", "noise", "blur", "contrast"]


@pytest.mark.parametrize("name", OURS)
def test_claims_on_colour_images(name, ours, tmp_path):
    """Each is measured from the file to its figures; what three seeds of the real images say, the command says."""
    pytest.importorskip("torch")
    outcome = reproduce(CLAIMS[name], bed="cifar", data=ours, seeds=(0,), folder=tmp_path)
    assert set(outcome.runs[0]) == {measure.name for measure in CLAIMS[name].measures}
    assert all(math.isfinite(value) for value in outcome.runs[0].values())
    judged = {asked.measure: outcome.holds(asked) for asked in CLAIMS[name].asked}
    assert [measure for measure in EXACT.get(name, ()) if not judged[measure]] == []
    (place,) = tmp_path.iterdir()
    assert load_suite(place / "suite" / "suite.yml", allow_code=True).having("report")


@pytest.mark.skipif(
    not (DATA / "images" / FILES[0]).is_file(),
    reason=f"STOCKPOT_DATA names no folder with images/{FILES[0]}",
)
def test_the_real_photographs():
    """CIFAR-10 has the sizes and ranges that are said; skies are blue, and what is beneath a deer is not."""
    own = cifar(Setting(0, DATA, Path(), print).file, 0)
    splits = [own.pretrain, own.tune, own.select, own.report]
    assert [len(split.labels) for split in splits] == [4000, 8000, 2000, 2500]
    for split in splits:
        assert split.images.shape[1:] == (3, 32, 32)
        assert 0 <= split.images.min() < 0.05 < 0.95 < split.images.max() <= 1
        assert np.bincount(split.labels, minlength=10).min() > len(split.labels) / 14
    red, _, blue = (own.tune.images[:, c].mean(axis=(1, 2)) for c in range(3))
    bluer = [float((blue - red)[own.tune.labels == label].mean()) for label in (0, 4)]  # aeroplanes, deer
    assert bluer[0] > 0 > bluer[1]
