"""Bad input gets one clear error that names tensor, file, recipe line and fix, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import models
import numpy as np
import pytest

import stockpot as sp
from stockpot.execute import local
from stockpot.planning import cost


@pytest.fixture
def place(tmp_path):
    """A folder with three models: base, a, b."""
    for seed, name in enumerate(("base", "a", "b")):
        models.write(tmp_path / name, models.arrays(seed))
    return tmp_path


def failed(place, error, **options):
    """The text of the error that merging gives; nothing may be left of an output."""
    path = models.recipe(place, **options)
    with pytest.raises(error) as caught:
        sp.merge(path, place / "out")
    left = sorted(p.name for p in place.iterdir() if p.name.startswith("out"))
    assert left == []
    return str(caught.value)


def damage(place, model, change):
    """Rewrite a model's file with ``change`` applied to (header, payload)."""
    file = place / model / "model.safetensors"
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header, payload = change(json.loads(raw[8 : 8 + length]), raw[8 + length :])
    body = json.dumps(header).encode() if isinstance(header, dict) else header
    file.write_bytes(struct.pack("<Q", len(body)) + body + payload)
    return str(file)


def test_missing_model(place):
    """A model that does not exist is named with its recipe line."""
    text = failed(place, sp.CheckpointError, models=("a", "nowhere"))
    assert "nowhere" in text
    assert "recipe line 4" in text


def test_every_missing_model_at_once(place):
    """All missing models are reported, not only the first."""
    text = failed(place, sp.CheckpointError, models=("gone", "nowhere"))
    assert "gone" in text
    assert "nowhere" in text


def test_truncated_shard(place):
    """A shard that was cut off is refused before anything is written."""
    file = damage(place, "b", lambda h, p: (h, p[:-100]))
    text = failed(place, sp.CheckpointError)
    assert file in text
    assert "tensor" in text
    assert "fix:" in text


def test_header_longer_than_file(place):
    """A header that claims more bytes than there are is refused."""
    file = place / "b" / "model.safetensors"
    file.write_bytes(struct.pack("<Q", 10**6) + file.read_bytes()[8:])
    assert str(file) in failed(place, sp.CheckpointError)


@pytest.mark.parametrize("shift", [-8, 8, 10**9])
def test_offsets_that_overlap_leave_gaps_or_reach_out(place, shift):
    """Byte ranges must tile the payload; the tensor at fault is named."""

    def move(header, payload):
        entry = header[models.NAMES[1]]
        entry["data_offsets"] = [o + shift for o in entry["data_offsets"]]
        return header, payload

    file = damage(place, "b", move)
    text = failed(place, sp.CheckpointError)
    assert file in text
    assert "tensor" in text


def test_duplicate_names(place):
    """A header that names a tensor twice is refused."""
    name = models.NAMES[1]

    def twice(header, payload):
        text = json.dumps(header)
        return (text[:-1] + f', "{name}": {json.dumps(header[name])}}}').encode(), payload

    damage(place, "b", twice)
    assert name in failed(place, sp.CheckpointError)


def test_index_that_points_outside(place):
    """An index may not name a file outside its folder."""
    (place / "b" / "model.safetensors").rename(place / "elsewhere.safetensors")
    index = {"weight_map": dict.fromkeys(models.NAMES, "../elsewhere.safetensors")}
    (place / "b" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "elsewhere" in failed(place, sp.CheckpointError)


def test_shape_mismatch(place):
    """Shapes are compared before a payload is read; both models and the tensor are named."""
    wrong = models.arrays(2)
    wrong[models.NAMES[1]] = np.zeros((3, 8), np.float32)
    models.write(place / "c", wrong)
    text = failed(place, sp.PlanError, models=("a", "c"))
    assert models.NAMES[1] in text
    assert "(3, 8)" in text
    assert "./a" in text


def test_vocabulary_mismatch_says_so(place):
    """A longer embedding is never cut silently: the fix names the vocabulary."""
    wrong = models.arrays(2)
    wrong[models.NAMES[0]] = np.zeros((20, 8), np.float32)
    models.write(place / "c", wrong)
    assert "vocabular" in failed(place, sp.PlanError, models=("a", "c"))


def test_missing_and_extra_tensors(place):
    """A tensor that one model lacks, or that only one has, is an error: nothing is dropped."""
    odd = models.arrays(2)
    odd["model.layers.1.other"] = odd.pop(models.NAMES[2])
    models.write(place / "c", odd)
    text = failed(place, sp.PlanError, models=("a", "c"))
    assert models.NAMES[2] in text
    assert "model.layers.1.other" in text


def test_integer_against_float(place):
    """A quantised tensor against a float one is an error, not a copy."""
    odd = {**models.arrays(2), models.NAMES[1]: np.zeros((12, 8), np.int8)}
    models.write(place / "c", odd)
    assert "quantised" in failed(place, sp.PlanError, models=("a", "c"))


@pytest.mark.parametrize("method", ["linear", "slerp", "ties", "dare_ties", "model_stock", "task_arithmetic"])
@pytest.mark.parametrize("where", ["base", "a"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity(place, method, where, value):
    """A NaN (or lone infinity) anywhere names model, tensor, file and place, whatever a method would drop."""
    bad = models.arrays(7)
    bad[models.NAMES[2]][5, 3] = value
    models.write(place / "bad", bad)
    small = "density: 0.1" if method in ("ties", "dare_ties") else "t: 0.5" if method == "slerp" else ""
    if method in ("linear", "slerp"):
        listed = {"models": ("bad", "b"), "base": "bad" if method == "slerp" else None}
    elif where == "base":
        listed = {"models": ("a", "b"), "base": "bad"}
    else:
        listed = {"models": ("bad", "b"), "base": "base"}
    text = failed(place, sp.ExecutionError, method=method, parameters=small, **listed)
    assert models.NAMES[2] in text
    assert "[5, 3]" in text
    assert str(place / "bad") in text


def test_overflow_of_the_output_dtype(place):
    """A result that float16 cannot hold is an error with the way out, not an infinity."""
    for name in ("x", "y"):
        models.write(place / name, {k: v * 0 + 60000.0 for k, v in models.arrays(1).items()})
    text = failed(place, sp.ExecutionError, models=("x", "y"), parameters="normalize: false", extra="dtype: float16")
    assert "float16" in text
    assert "out_dtype" in text


def test_weights_that_cancel(place):
    """Weights that sum to 0 cannot be normalized: found by the plan, with the recipe line."""
    path = place / "recipe.yml"
    path.write_text(
        "merge_method: linear\nmodels:\n- {model: ./a, parameters: {weight: 1}}\n"
        "- {model: ./b, parameters: {weight: -1}}\n"
    )
    with pytest.raises(sp.PlanError, match=r"(?s)sum to 0.*recipe line 1"):
        sp.plan(path)


def test_opposite_vectors(place):
    """Slerp between opposite vectors has no answer and says so by tensor."""
    models.write(place / "minus", {k: -v for k, v in models.arrays(1).items()})
    text = failed(place, sp.ExecutionError, method="slerp", models=("a", "minus"), base="a", parameters="t: 0.5")
    assert "opposite" in text
    assert "model." in text


def test_model_given_twice(place):
    """The same model twice is an error in the recipe."""
    assert "twice" in failed(place, sp.RecipeError, models=("a", "a"))


def test_output_exists(place):
    """An existing output is kept unless --overwrite is given; then it is replaced whole."""
    path = models.recipe(place)
    (place / "out").mkdir()
    (place / "out" / "mine.txt").write_text("keep")
    with pytest.raises(sp.PlanError, match="--overwrite"):
        sp.merge(path, place / "out")
    assert (place / "out" / "mine.txt").read_text() == "keep"
    sp.merge(path, place / "out", overwrite=True)
    assert not (place / "out" / "mine.txt").exists()
    assert not list(place.glob("out.*"))


def test_output_is_an_input(place):
    """An input is never overwritten."""
    with pytest.raises(sp.PlanError, match="input"):
        sp.merge(models.recipe(place), place / "a", overwrite=True)
    assert (place / "a" / "model.safetensors").exists()


def test_disk_too_small(place, monkeypatch):
    """The plan finds that the disk is too small, before anything is written."""
    monkeypatch.setattr(cost, "free_bytes", lambda _: 1000)
    assert "free" in failed(place, sp.PlanError)


def test_memory_too_small(place):
    """A budget that cannot be kept is refused with the one that can."""
    with pytest.raises(sp.PlanError, match=r"(?s)memory.*--memory \d+MiB"):
        sp.plan(models.recipe(place), memory=10 << 20)


def test_disk_full_half_way(place, monkeypatch):
    """A write that fails in the middle is one error that names file and tensor; what was finished is kept."""
    real, written = os.pwrite, []

    def full(descriptor, data, offset):
        if Path(f"/proc/self/fd/{descriptor}").readlink().suffix == ".safetensors":
            written.append(offset)
            if len(written) > 3:
                raise OSError(28, "No space left on device")
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(sp.StorageError) as caught:
        sp.merge(models.recipe(place), place / "out", threads=1)
    for part in (
        "No space left",
        "model.safetensors",
        "tensor model.",
        "free some space; then run",
        "tensors are kept",
    ):
        assert part in str(caught.value)
    monkeypatch.undo()
    assert sp.merge(models.recipe(place), place / "out").resumed == 2


def test_no_permission(place):
    """A place that cannot be written to is named."""
    blocked = place / "file"
    blocked.write_text("not a folder")
    with pytest.raises(sp.PlanError) as caught:
        sp.merge(models.recipe(place), blocked / "sub" / "model")
    assert str(blocked) in str(caught.value)


def test_file_that_shrinks_while_it_is_read(place):
    """An input cut off after the plan was made is noticed when it is read."""
    plan = sp.plan(models.recipe(place), place / "out")
    file = place / "b" / "model.safetensors"
    os.truncate(file, file.stat().st_size - 200)
    with pytest.raises(sp.StorageError, match=r"has changed since the merge was planned.*b/model\.safetensors"):
        local.execute(plan, place / "out")
    assert not list(place.glob("out*"))


def test_a_difference_is_not_a_model(place):
    """Saving a difference, or mixing spaces, is an error before any file is read."""
    a, b = sp.open(place / "a"), sp.open(place / "b")
    with pytest.raises(sp.PlanError, match="difference"):
        sp.save(a - b, place / "out")
    with pytest.raises(sp.ExpressionError, match="Delta"):
        sp.ties(a)
    with pytest.raises(sp.ExpressionError, match="partial mix"):
        sp.save(0.5 * a, place / "out")


def test_interrupt_stops_and_is_continued(tmp_path):
    """Ctrl-C ends a merge within a second or so with exit code 130 and the way on; the same command completes it."""
    rng = np.random.default_rng(0)
    for name in ("a", "b", "base"):
        models.write(tmp_path / name, {f"w{i}": rng.normal(size=1 << 22).astype(np.float32) for i in range(16)})
    path = models.recipe(tmp_path, method="dare_ties", base="base", parameters="density: 0.5")
    command = [sys.executable, "-m", "stockpot", "merge", str(path), str(tmp_path / "out"), "--threads", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "out.partial").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130, errors
        assert time.monotonic() - started < 2.0
    finally:
        process.kill()
    assert not (tmp_path / "out").exists()
    assert "stopped; " in errors
    assert subprocess.run(command, check=False).returncode == 0
    assert [p.name for p in tmp_path.glob("out*")] == ["out"]
