"""Every verb: what it prints, its exit codes, and how quickly it answers."""

from __future__ import annotations

import json
import os
import pkgutil
import statistics
import struct
import subprocess
import sys
import time
from importlib import import_module

import numpy as np
import pytest
from safetensors.numpy import save_file

import stockpot
from stockpot.cli.main import main

TIES = """merge_method: ties
base_model: ./base
models:
- {model: ./a, parameters: {weight: 0.6, density: 0.5}}
- {model: ./b, parameters: {weight: 0.4, density: 0.5}}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Three models and a recipe in the current folder."""
    for seed, name in enumerate(("base", "a", "b")):
        rng = np.random.default_rng(seed)
        (tmp_path / name).mkdir()
        tensors = {f"model.layers.{i}.w": rng.normal(size=(16, 8)).astype(np.float32) for i in range(3)}
        save_file(tensors, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text('{"model_type": "toy", "num_hidden_layers": 3}')
    (tmp_path / "ties.yml").write_text(TIES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *arguments):
    """(exit code, standard output, standard error)."""
    code = main(list(arguments))
    told = capsys.readouterr()
    return code, told.out, told.err


def test_merge_verify_and_a_flipped_byte(place, capsys):
    """A merge verifies; one changed byte in its tensors does not, by name."""
    assert run(capsys, "merge", "ties.yml", "out")[0] == 0
    assert run(capsys, "verify", "out")[:2] == (0, "out: as its receipt says\n")
    file = place / "out" / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    code, _, errors = run(capsys, "verify", "out")
    assert code == 1
    assert "model.layers.2.w: its bytes have changed" in errors


def test_verify_needs_a_receipt(place, capsys):
    """A folder without a receipt is an error of the checkpoint."""
    code, _, errors = run(capsys, "verify", "base")
    assert code == 4
    assert "no receipt" in errors


def test_receipt_tells_everything(place, capsys):
    """Recipe, defaults, inputs, versions and a hash of every tensor."""
    run(capsys, "merge", "ties.yml", "out", "--seed", "7", "--quiet")
    receipt = json.loads((place / "out" / "stockpot-receipt.json").read_text())
    assert receipt["recipe"] == TIES
    assert receipt["seed"] == 7
    assert set(receipt["inputs"]) == {"./base", "./a", "./b"}
    assert receipt["versions"]["numba"]
    assert len(receipt["tensors"]) == 3
    assert "normalize" in json.dumps(receipt["resolved"])
    card = (place / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\ntags:\n- merge\n")
    assert "merge_method: ties" in card


def test_dry_run_and_plan_write_nothing(place, capsys):
    """The plan names bytes, passes, memory, disk and time."""
    for arguments in (("plan", "ties.yml", "out"), ("merge", "ties.yml", "out", "--dry-run")):
        code, text, _ = run(capsys, *arguments)
        assert code == 0
        assert all(word in text for word in ("inputs", "read", "2 pass", "memory", "disk", "time"))
        assert not (place / "out").exists()
    data = json.loads(run(capsys, "plan", "ties.yml", "--json")[1])
    assert data["tensors"][0]["how"]["parameters"]["density"] == [0.5, 0.5]
    assert data["cost"]["read"] == 2 * 3 * 3 * 16 * 8 * 4


def test_json_of_merge(place, capsys):
    """For machines: one JSON document, nothing else on standard output."""
    code, text, _ = run(capsys, "merge", "ties.yml", "out", "--json")
    assert code == 0
    assert json.loads(text)["out"] == "out"


def test_check_and_its_exit_codes(place, capsys):
    """0 for a recipe without faults, 3 with one, 7 for one that another verb takes; no model is opened."""
    (place / "bad.yml").write_text(TIES.replace("density: 0.5", "densty: 0.5", 1))
    (place / "mixture.yml").write_text("base_model: x\nexperts: [{source_model: y, positive_prompts: [z]}]\n")
    assert run(capsys, "check", "ties.yml")[0] == 0
    code, _, errors = run(capsys, "check", "bad.yml")
    assert code == 3
    assert "density" in errors
    assert "line 4" in errors
    assert run(capsys, "check", "mixture.yml")[0] == 0
    code, _, errors = run(capsys, "merge", "mixture.yml", "out")
    assert code == 7
    assert "stockpot moe" in errors


def test_schema_is_json(capsys):
    """The schema of the recipe language names every method."""
    code, text, _ = run(capsys, "schema")
    assert code == 0
    assert json.loads(text)["$schema"].startswith("https://json-schema.org")
    assert '"ties"' in text


def test_methods(capsys):
    """The list has every method; one method is explained with its reference."""
    code, text, _ = run(capsys, "methods")
    assert code == 0
    assert "model_stock" in text
    text = run(capsys, "methods", "ties")[1]
    assert "2306.01708" in text
    assert "density" in text
    code, _, errors = run(capsys, "methods", "tise")
    assert code == 3
    assert "ties" in errors


def test_inspect(place, capsys):
    """Tensors, dtypes, sizes, layers; equal bytes have equal hashes."""
    text = run(capsys, "inspect", "base")[1]
    assert "model.layers (3)" in text
    assert "F32 (3)" in text
    data = json.loads(run(capsys, "inspect", "base", "--hash", "--json")[1])
    again = json.loads(run(capsys, "inspect", str(place / "base"), "--hash", "--json")[1])
    other = json.loads(run(capsys, "inspect", "a", "--hash", "--json")[1])
    assert data["hash"] == again["hash"] != other["hash"]


def test_diff(place, capsys):
    """Distance and cosine are those of NumPy; identical models say so and exit with 0."""
    assert run(capsys, "diff", "a", "a")[0] == 0
    code, text, _ = run(capsys, "diff", "a", "b", "--json")
    assert code == 1
    rng = [np.random.default_rng(seed) for seed in (1, 2)]
    x, y = (r.normal(size=(16, 8)).astype(np.float32).astype(float).ravel() for r in rng)
    row = json.loads(text)["tensors"][0]
    assert row["distance"] == pytest.approx(np.linalg.norm(x - y) / np.linalg.norm(x), rel=1e-12)
    assert row["cosine"] == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), rel=1e-12)


def test_usage_errors(place, capsys):
    """Wrong options and sizes are usage errors, exit code 2."""
    assert run(capsys, "merge", "ties.yml", "out", "--memory", "lots")[0] == 2
    assert run(capsys, "nonsense")[0] == 2
    assert run(capsys, "merge", "missing.yml", "out")[0] == 2


def test_no_colour_and_no_bar_without_a_terminal(place):
    """With NO_COLOR, and where output is not a terminal, there are no escape codes and no bar."""
    environment = {**os.environ, "NO_COLOR": "1"}
    command = [sys.executable, "-m", "stockpot", "merge", "ties.yml", "out"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stderr == ""


def test_help_is_instant():
    """--help answers in under 0.3 s on a quiet machine; here twice that is allowed."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "stockpot", "--help"], check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    assert statistics.median(times) < 0.6


def test_no_torch(place):
    """Neither importing nor merging imports torch or transformers."""
    code = (
        "import sys, stockpot as sp\n"
        "sp.merge('ties.yml', 'out')\n"
        "assert not {'torch', 'transformers', 'safetensors', 'rich.progress'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_module_says_what_it_offers():
    """__all__ stands in every module that defines anything, and names only what exists."""
    for found in pkgutil.walk_packages(stockpot.__path__, "stockpot."):
        if found.name.endswith("__main__"):
            continue
        module = import_module(found.name)
        offered = getattr(module, "__all__", None)
        own = [n for n, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__]
        assert offered is not None or not own, found.name
        assert all(hasattr(module, name) for name in offered or ()), found.name
        assert len(set(offered or ())) == len(offered or ()), found.name


def test_the_public_names_are_these():
    """What `import stockpot as sp` offers, each loadable; `sp.plan` stays a function whatever is imported."""
    import_module("stockpot.planning.build")
    assert sorted(stockpot.__all__) == stockpot.__all__
    for name in stockpot.__all__:
        assert callable(getattr(stockpot, name)), name
    with pytest.raises(AttributeError):
        _ = stockpot.nonsense


def test_a_tensor_larger_than_the_budget(tmp_path):
    """One tensor of 384 MiB in each of three models, merged within 256 MiB of resident memory."""
    elements = 192 << 20
    for name in ("base", "a", "b"):
        (tmp_path / name).mkdir()
        entry = {"w": {"dtype": "BF16", "shape": [elements], "data_offsets": [0, 2 * elements]}}
        header = json.dumps(entry).encode()
        with (tmp_path / name / "model.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.seek(8 + len(header) + 2 * elements - 2)
            file.write(b"\x00\x3f" if name == "a" else b"\x00\x00")
    (tmp_path / "ties.yml").write_text(TIES)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "stockpot", "merge", str(tmp_path / "ties.yml"), str(out), "--memory", "256MiB"]
    code = (
        "import resource, subprocess, sys\n"
        f"subprocess.run({command!r}, check=True, stdout=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit <= 256 << 20
    assert (out / "model.safetensors").stat().st_size > 2 * elements
