"""Exit codes are those that --help documents, errors are plain, and machines get JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest

from files import read_model, write_model
from stockpot.cli.main import main
from stockpot.cli.options import SIZE, human

LINEAR = "merge_method: linear\nmodels: [{model: a}, {model: b}]\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Two models and a recipe in the current folder."""
    for seed, name in enumerate("ab"):
        rng = np.random.default_rng(seed)
        write_model(tmp_path / name, {f"layers.{i}.w": rng.normal(size=9).astype(np.float32) for i in range(3)})
    (tmp_path / "ok.yml").write_text(LINEAR)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *arguments):
    code = main(list(arguments))
    told = capsys.readouterr()
    return code, told.out, told.err


def other_shape(place):
    write_model(place / "b", {f"layers.{i}.w": np.ones(8, np.float32) for i in range(3)})


def not_a_number(place):
    write_model(place / "b", {f"layers.{i}.w": np.full(9, np.nan, np.float32) for i in range(3)})


FAILURES = {
    3: lambda place: (place / "ok.yml").write_text(LINEAR + "wieght: 1\n"),
    4: lambda place: (place / "b" / "model.safetensors").write_bytes(b"\x08"),
    5: other_shape,
    6: not_a_number,
    7: lambda place: (place / "ok.yml").write_text(
        "base_model: a\nexperts: [{source_model: b, positive_prompts: [c]}]\n"
    ),
}


@pytest.mark.parametrize("code", FAILURES)
def test_each_kind_of_failure_has_its_exit_code(code, place, capsys):
    """3 recipe, 4 checkpoint, 5 plan, 6 run, 7 unsupported; a plain message, no traceback, nothing on stdout."""
    FAILURES[code](place)
    found, out, err = run(capsys, "merge", "ok.yml", "out")
    assert found == code
    assert out == ""
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert not list(place.glob("out*"))


def test_many_problems_are_counted(place, capsys):
    """Several problems are listed one by one, with their number at the end."""
    write_model(place / "b", {f"layers.{i}.w": np.ones(i + 1, np.float32) for i in range(3)})
    _, _, err = run(capsys, "plan", "ok.yml")
    assert err.count("error: ") == 3
    assert err.rstrip().endswith("3 problems")


def test_exit_codes_are_documented(capsys):
    """--help lists every exit code that an error can have."""
    code, out, _ = run(capsys, "--help")
    assert code == 0
    text = " ".join(out.split())
    for part in ("0 done", "1 not identical", "2 wrong usage", *(f"; {n} " for n in range(3, 8)), "130 or 143 stopped"):
        assert part in text


@pytest.mark.parametrize("verb", ["merge", "plan", "check", "schema", "methods", "inspect", "diff", "verify", "demo"])
def test_every_verb_explains_itself(verb, capsys):
    """Each verb has help with a sentence, and is listed with one in the help of the whole."""
    code, out, _ = run(capsys, verb, "--help")
    assert code == 0
    assert out.startswith(f"Usage: stockpot {verb}")
    assert "." in out.split("Options:")[0]
    assert f"  {verb} " in run(capsys, "--help")[1]


def test_version(capsys):
    """--version prints the version of the package."""
    import stockpot

    assert stockpot.__version__ in run(capsys, "--version")[1]


JSON = {
    "merge": ("merge", "ok.yml", "made", "--json"),
    "merge, dry": ("merge", "ok.yml", "made", "--json", "--dry-run"),
    "plan": ("plan", "ok.yml", "--json"),
    "check": ("check", "ok.yml", "--json"),
    "schema": ("schema",),
    "methods": ("methods", "--json"),
    "one method": ("methods", "slerp", "--json"),
    "inspect": ("inspect", "a", "--json"),
    "inspect, hashed": ("inspect", "a", "--hash", "--json"),
    "diff": ("diff", "a", "b", "--json"),
    "verify": ("verify", "out", "--json"),
}


@pytest.mark.parametrize("kind", JSON)
def test_machines_get_one_json_document(kind, place, capsys):
    """With --json, standard output is one JSON document and nothing else."""
    run(capsys, "merge", "ok.yml", "out", "--quiet")
    code, out, err = run(capsys, *JSON[kind])
    assert strictly(out)
    assert code == (1 if kind == "diff" else 0)
    assert "\x1b" not in out + err


def strictly(text):
    """JSON by the letter: Infinity and NaN, which Python would take, are not part of it."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_json_has_no_infinity(place, capsys):
    """The distance from a tensor of zeros is infinite, and null for machines."""
    write_model(place / "zero", {f"layers.{i}.w": np.zeros(9, np.float32) for i in range(3)})
    code, out, _ = run(capsys, "diff", "zero", "a", "--json")
    assert code == 1
    assert [t["distance"] for t in strictly(out)["tensors"]] == [None] * 3
    assert "inf" in run(capsys, "diff", "zero", "a")[1]


def test_json_of_a_plan_tells_where_every_byte_goes(place, capsys):
    """Each tensor has its inputs as byte ranges and its place in the output."""
    data = json.loads(run(capsys, "plan", "ok.yml", "--json")[1])
    assert [t["name"] for t in data["tensors"]] == [f"layers.{i}.w" for i in range(3)]
    for tensor in data["tensors"]:
        for source in tensor["how"]["inputs"]:
            begin, end = source["range"]
            assert end - begin == 36
            raw = Path(source["file"]).read_bytes()[begin:end]
            assert raw in {a.tobytes() for m in "ab" for a in read_model(place / m).values()}


def test_json_of_verify_names_the_differences(place, capsys):
    """A tensor that was changed, one that was lost and one that came in are told apart."""
    run(capsys, "merge", "ok.yml", "out", "--quiet")
    arrays = dict(read_model(place / "out"))
    arrays["layers.0.w"] = arrays["layers.0.w"] + 1
    arrays["new"] = arrays.pop("layers.1.w")
    arrays["layers.2.w"] = arrays["layers.2.w"].astype(np.float64)
    write_model(place / "out", arrays)
    code, out, _ = run(capsys, "verify", "out", "--json")
    assert code == 1
    data = json.loads(out)
    assert data["ok"] is False
    assert sorted(data["differences"]) == [
        "layers.0.w: its bytes have changed",
        "layers.1.w: missing",
        "layers.2.w: is F64[9], was F32[9]",
        "new: not in the receipt",
    ]


def test_diff_tells_apart_what_cannot_be_subtracted(place, capsys):
    """Missing tensors, other shapes and dtypes are differences; equal values of another dtype have distance 0."""
    base = {
        "same": np.ones(3),
        "wide": np.ones(3, np.float32),
        "long": np.ones(4),
        "mine": np.ones(1),
        "n": np.arange(3),
    }
    other = {"same": np.ones(3), "wide": np.ones(3), "long": np.ones(5), "yours": np.ones(1), "n": np.arange(1, 4)}
    write_model(place / "x", base)
    write_model(place / "y", other)
    code, out, _ = run(capsys, "diff", "x", "y", "--json")
    rows = {r["name"]: r for r in json.loads(out)["tensors"]}
    assert code == 1
    assert rows["same"]["identical"]
    assert rows["wide"] == {**rows["wide"], "identical": False, "distance": 0.0, "cosine": 1.0}
    assert (rows["long"]["distance"], rows["n"]["distance"]) == (None, None)
    assert (rows["mine"]["b"], rows["yours"]["a"]) == (None, None)
    text = run(capsys, "diff", "x", "y")[1]
    assert "only in A" in text
    assert "only in B" in text
    assert text.endswith("1 of 6 tensors are identical\n")


def test_quiet_prints_nothing(place, capsys):
    """--quiet leaves only the exit code and errors."""
    assert run(capsys, "merge", "ok.yml", "out", "--quiet") == (0, "", "")


def test_a_seed_on_the_command_line_goes_first(place, capsys):
    """--seed counts over the recipe's own seed."""
    (place / "dare.yml").write_text(
        "merge_method: dare_linear\nbase_model: a\nmodels: [{model: b}]\nparameters: {density: 0.5}\nseed: 1\n"
    )
    for out, options in (("one", ()), ("two", ("--seed", "2")), ("again", ("--seed", "1"))):
        assert run(capsys, "merge", "dare.yml", out, *options)[0] == 0
    one, two, again = ((place / n / "model.safetensors").read_bytes() for n in ("one", "two", "again"))
    assert one == again != two


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1000000", 10**6),
        ("256MiB", 256 << 20),
        ("5GB", 5 * 10**9),
        ("1.5gib", 3 << 29),
        ("10k", 10_000),
        (" 2 TiB ", 2 << 40),
        ("3m", 3_000_000),
        ("7B", 7),
    ],
)
def test_sizes_are_read_as_people_write_them(text, size):
    """Sizes take decimal and binary units in any case."""
    assert SIZE.convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "-5GB", "0", "0.1", "5XB", "MiB", "1e9", "5 GB GB"])
def test_other_sizes_are_refused(text):
    """Nonsense, nothing and less than a byte are usage errors."""
    with pytest.raises(click.BadParameter):
        SIZE.convert(text, None, None)


def test_sizes_are_told_in_three_digits():
    """Bytes are printed with the unit that fits."""
    assert [human(n) for n in (0, 999, 1000, 2_200_096_768, 3.2e12)] == [
        "0 B",
        "999 B",
        "1.00 kB",
        "2.20 GB",
        "3.20 TB",
    ]


def test_a_closed_pipe_is_no_error(place):
    """Piping into head ends quietly."""
    command = f"{sys.executable} -m stockpot schema | head -c 10"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=place, check=False)
    assert done.returncode == 0
    assert done.stderr == ""


def test_colours_only_where_they_are_wanted(place):
    """Errors into a pipe have no escape codes, with or without NO_COLOR."""
    for extra in ({}, {"NO_COLOR": "1"}):
        command = [sys.executable, "-m", "stockpot", "inspect", "nowhere"]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **extra}, check=False)
        assert done.returncode == 4
        assert done.stderr.startswith("error: ")
        assert "\x1b" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_interrupt_while_overwriting_keeps_the_old_output(place):
    """Ctrl-C during a merge with --overwrite ends with 130 and leaves the earlier result where it was."""
    assert main(["merge", "ok.yml", "out", "--quiet"]) == 0
    before = {p.name: p.read_bytes() for p in (place / "out").iterdir()}
    for seed, name in enumerate("ab"):
        rng = np.random.default_rng(seed)
        write_model(place / name, {f"layers.{i}.w": rng.random(1 << 21).astype(np.float32) for i in range(12)})
    (place / "ok.yml").write_text(
        "merge_method: dare_ties\nbase_model: a\nmodels: [{model: b}]\nparameters: {density: 0.5}\n"
    )
    command = [sys.executable, "-m", "stockpot", "merge", "ok.yml", "out", "--overwrite", "--threads", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (place / "out.partial").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert {p.name: p.read_bytes() for p in (place / "out").iterdir()} == before
