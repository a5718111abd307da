"""A malicious set: every file is refused with a message of its own, in under a second, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import attacks as b
import pytest

from stockpot.cli.main import main

MILLION = 1_000_000
ENTRY = b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
BILLION_LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

HEADERS = {
    "a claim of 10 GB": (b.header({}, length=10**10), "header of 10000000000 bytes exceeds"),
    "a claim of 2^64 - 1": (b.header({}, length=2**64 - 1), "exceeds"),
    "longer than its file": (b.header({}, length=5000), "longer than the file"),
    "a shape of 2^63": (b.header({"a": b.tensor(0, 1, [2**63])}, b"x"), "impossible shape [9223372036854775808]"),
    "a product of 2^80": (b.header({"a": b.tensor(0, 1, [2**40, 2**40])}, b"x"), "impossible shape"),
    "a product that wraps to 0": (b.header({"a": b.tensor(0, 0, [2**32, 2**32])}), "impossible shape"),
    "empty, but absurd": (b.header({"a": b.tensor(0, 0, [0, 2**62, 2**62])}), "impossible shape"),
    "a million dimensions": (b.header({"a": b.tensor(0, 1, [1] * MILLION)}, b"x"), "1000000 dimensions"),
    "a negative shape": (b.header({"a": b.tensor(0, 1, [-1])}, b"x"), "impossible shape [-1]"),
    "a truth value as a length": (b.header({"a": b.tensor(0, 1, [True])}, b"x"), "impossible shape [True]"),
    "a fraction as a length": (b.header({"a": b.tensor(0, 1, [1.0])}, b"x"), "impossible shape [1.0]"),
    "offsets that overlap": (b.header({"a": b.tensor(0, 2, [2]), "b": b.tensor(1, 3, [2])}, b"xyz"), "overlaps"),
    "offsets with a gap": (b.header({"a": b.tensor(0, 1, [1]), "b": b.tensor(2, 3, [1])}, b"xyz"), "leaves a gap"),
    "offsets beyond the file": (b.header({"a": b.tensor(0, 2**40, [2**40])}, b"x"), "truncated"),
    "offsets backwards": (b.header({"a": b.tensor(2, 1, [1])}, b"xyz"), "impossible data_offsets [2, 1]"),
    "bytes after the last": (b.header({"a": b.tensor(0, 1, [1])}, b"xyz"), "2 bytes follow the last tensor"),
    "NaN": (b.header(b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,1]}}', b"x"), "NaN, which is no number"),
    "Infinity": (b.header(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,Infinity]}}', b"x"), "Infinity, which is"),
    "1e999": (b.header(b'{"a":{"dtype":"U8","shape":[1e999],"data_offsets":[0,1]}}', b"x"), "1e999 is out of range"),
    "a million digits": (b.header(b'{"a":' + b"9" * MILLION + b"}"), "a whole number of 1000000 digits"),
    "a tensor twice": (b.header(b'{"a":1,"a":1}'), "names it twice [tensor a"),
    "a field twice": (b.header(b'{"a":{"dtype":"U8","dtype":"F32"}}'), "two values of dtype"),
    "escape codes in a name": (b.header({"\x1b[2J\x1b]0;x\x07": b.tensor(0, 1, [1])}, b"x"), "control characters"),
    "a reversed name": (b.header({"w\u202eevil": b.tensor(0, 1, [1])}, b"x"), "control characters"),
    "half a surrogate pair": (
        b.header(b'{"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"),
        "Unicode",
    ),
    "a name of a million": (b.header({"n" * MILLION: b.tensor(0, 1, [1])}, b"x"), "name of 1000000 characters"),
    "300 000 tensors": (lambda: b.header(b"{" + b",".join(ENTRY % i for i in range(300_000)) + b"}"), "300000 tensors"),
    "ten million lists": (lambda: b.header(b'{"a":[' + b"[]," * 10 * MILLION + b"[]]}"), "more than 5000000 values"),
    "nested a million deep": (b.header(b'{"a":' + b"[" * MILLION), "nested too deeply"),
    "wide text": (lambda: b.header(b'{"a":"' + b"x" * 35 * MILLION + "\U0001f600".encode() + b'"}'), "outside ASCII"),
    "another encoding": (b.header(json.dumps({"a": 1}).encode("utf-16")), "not UTF-8"),
    "no JSON": (b.header(b"{'a': __import__('os').system('true')}"), "not valid JSON"),
    "a pointer, no weights": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
}

PICKLES = {
    "a pickle that runs a command": (b.zipped(b.touching(2)), "would run code (posix.system)"),
    "the same in protocol 4": (b.zipped(b.touching(4)), "would run code (posix.system)"),
    "the same in the older container": (b.streamed(b.touching(2)), "would run code (posix.system)"),
    "a bare pickle": (b.file(b.touching(2), "x.bin"), "would run code (posix.system)"),
    "a pickle that evaluates": (b.zipped(b.evaluating(3)), "would run code (builtins.eval)"),
    "an endless name": (b.zipped(b"\x80\x02ctorch\n" + b"x" * MILLION + b"Storage\n."), "a name of 1000012 characters"),
    "work without end": (b.zipped(b.copying()), "pickle instructions"),
    "a number of a million bits": (
        b.zipped(b"\x80\x02\x8b" + struct.pack("<i", 130_000) + b"\x7f" * 130_000 + b"."),
        "bits",
    ),
    "numbers of one hash": (b.zipped(b.colliding()), "no named tensors"),
    "dicts shared without end": (b.zipped(b.sharing()), "no named tensors"),
    "a compressed bomb": (b.zipped(bytes(60 * MILLION), compress=zipfile.ZIP_DEFLATED), "compressed"),
    "300 000 members": (b.many_members, "more than 250000 members"),
    "members that overlap": (b.overlapping, "overlap"),
    "a claim of 2 GB of text": (b.zipped(b"\x80\x02X\xff\xff\xff\x7fabc."), "damaged pickle"),
}

FOLDERS = {
    "an index that climbs out": (b.index({"a": "../../etc/passwd"}), "outside its folder: '../../etc/passwd'"),
    "an index with an absolute path": (b.index({"a": "/etc/passwd"}), "outside its folder"),
    "an index with backslashes": (b.index({"a": "..\\..\\x"}), "outside its folder"),
    "an index with a drive": (b.index({"a": "C:/x"}), "outside its folder"),
    "an index with a zero byte": (b.index({"a": "m\0"}), "outside its folder"),
    "an index with half a pair": (b.index({"a": "\ud800"}), "outside its folder"),
    "an index with escape codes": (b.index({"a": "\x1b[2Jx"}), r"\x1b[2Jx"),
    "an index of 20 000 files": (b.index({f"t{i}": f"f{i}" for i in range(20_000)}), "20000 files; at most 10000"),
    "an index of missing files": (b.index({f"t{i}": f"f{i}" for i in range(3000)}), "and 2950 more problems"),
    "an index with a key twice": (b.index('{"weight_map":{"a":"x","a":"y"}}'), "'a' stands twice"),
    "an index nested deep": (b.index("[" * MILLION), "nested too deeply"),
    "a shard that links out": (lambda f: _linked_shard(f, "/etc/passwd"), "leads out of its folder"),
    "weights that link out": (b.link("model.safetensors", "/dev/zero"), "leads out of its folder"),
    "weights that link to themselves": (b.link("model.safetensors", "model.safetensors"), "cannot read"),
    "weights that are a pipe": (b.pipe("model.safetensors"), "not a regular file"),
    "a config that is a pipe": (b.pipe("config.json"), "not a regular file"),
    "a config that links out": (b.link("config.json", "/etc/passwd"), "leads out of its folder"),
    "a config of 17 MB": (b.config(b'{"a":"' + b"x" * 17 * MILLION + b'"}'), "larger than 16000000 bytes"),
    "a config of a million lists": (b.config(b'{"a":[' + b"[]," * MILLION + b"1]}"), "more than 1000000 values"),
    "a config nested deep": (b.config(b'{"a":' * 500 + b"1" + b"}" * 500), "nested more than 64 levels"),
    "a config with a key twice": (b.config(b'{"model_type":"a","model_type":"b"}'), "'model_type' stands twice"),
    "a device": (lambda _: Path("/dev/zero"), "not a regular file"),
}

RECIPES = {
    "billion laughs": (BILLION_LAUGHS, "more than 100000 nodes"),
    "an alias of itself": ("a: &a [*a]", "inside what it refers to"),
    "nested deep": ("a: " + "[" * 100_000, "levels deep"),
    "too long": ("x" * (MILLION + 1), "at most 1000000"),
    "a Python object": (
        b.RECIPE + "x: !!python/object/apply:os.system ['touch created']\n",
        "means nothing in a recipe",
    ),
    "code that was not allowed": (b.RECIPE + "method_file: ../evil.py\n", "runs only when it is allowed"),
    "no such character": ('a: "\\UFFFFFFFF"', "impossible number"),
    "a version without end": ("%YAML 1." + "9" * 5000 + "\n--- a", "impossible number"),
    "a zero byte": ("a: \0", "U+0000"),
    "a key with escape codes": ('"\\e[2J": 1\n', r"\x1b[2J"),
    "a model with a zero byte": ('merge_method: linear\nmodels: [{model: "a\\0b"}]\n', "no such file"),
    "a model with half a pair": ('merge_method: linear\nmodels: [{model: "a\\ud800"}]\n', "no such file"),
    "a model with escape codes": ('merge_method: linear\nmodels: [{model: "\\e]0;x\\a"}]\n', r"\x1b]0;x\x07"),
    "a range without end": (b.RECIPE.replace("good}", "good, layer_range: [0, 999999999999]}"), "layer"),
}

CASES = {
    **{f"header: {n}": (b.file(data), "inspect", 4, words) for n, (data, words) in HEADERS.items()},
    **{f"pickle: {n}": (build, "inspect", 4, words) for n, (build, words) in PICKLES.items()},
    **{f"folder: {n}": (build, "inspect", 4, words) for n, (build, words) in FOLDERS.items()},
    **{f"recipe: {n}": (b.recipe(text), "plan", (3, 4, 5), words) for n, (text, words) in RECIPES.items()},
}


def _linked_shard(folder, target):
    here = b.index({"a": "model-1.safetensors"})(folder)
    (here / "model-1.safetensors").unlink()
    (here / "model-1.safetensors").symlink_to(target)
    return here


@pytest.fixture(scope="module", autouse=True)
def _loaded(tmp_path_factory):
    """What is imported when it is first used is not counted as time of a case."""
    folder = tmp_path_factory.mktemp("warm")
    main(["plan", str(b.recipe(b.RECIPE)(folder))])
    main(["inspect", str(b.zipped(pickle.dumps({}, 2))(folder))])


@pytest.mark.parametrize("name", CASES)
def test_refused(name, tmp_path, monkeypatch, capsys):
    """By the command line, with the exit code of its kind and its own words, at once; nothing runs or is written."""
    build, verb, codes, words = CASES[name]
    monkeypatch.chdir(tmp_path)
    path = build(tmp_path)
    before = b.created(tmp_path)
    capsys.readouterr()
    started = time.process_time()
    code = main([verb, str(path)])
    seconds = time.process_time() - started
    told = capsys.readouterr()
    assert words in told.err
    assert code in (codes if isinstance(codes, tuple) else (codes,))
    assert seconds < 1.0
    assert b.created(tmp_path) == before
    assert (told.out + told.err).replace("\n", "").isprintable()
    assert len(told.err) < 100_000


@pytest.mark.parametrize(
    "name",
    [
        "pickle: a pickle that runs a command",
        "header: escape codes in a name",
        "recipe: billion laughs",
        "folder: a device",
    ],
)
def test_refused_in_a_process_of_its_own(name, tmp_path):
    """As a user meets it: exit code, message, no traceback."""
    build, verb, codes, words = CASES[name]
    command = [sys.executable, "-m", "stockpot", verb, str(build(tmp_path))]
    before = b.created(tmp_path)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (codes if isinstance(codes, tuple) else (codes,))
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert (done.stdout + done.stderr).replace("\n", "").isprintable()
    assert b.created(tmp_path) == before


def test_every_refusal_is_its_own():
    """There are many cases, and none is told by words so general that all would share them."""
    assert len(CASES) > 70
    assert all(len(words) > 3 for _, _, _, words in CASES.values())


def test_code_beside_a_model_is_never_run(tmp_path, monkeypatch):
    """A config that asks for remote code, with that code beside it, is a config like any other."""
    monkeypatch.chdir(tmp_path)
    touch = b"import pathlib\npathlib.Path('created-by-code').touch()\n"
    auto = json.dumps({"model_type": "evil", "auto_map": {"AutoModel": "modeling_evil.Evil"}}).encode()
    b.model(tmp_path / "good", config__json=auto, modeling_evil__py=touch, __init____py=touch, conftest__py=touch)
    (tmp_path / "x.yml").write_text(b.RECIPE)
    assert main(["plan", "x.yml"]) == 0
    assert main(["inspect", "good"]) == 0
    assert not list(tmp_path.rglob("created-by-code"))


@pytest.mark.skipif(os.geteuid() != 0 and not Path("/dev/zero").exists(), reason="no devices")
def test_a_recipe_may_be_a_device(capsys):
    """A file without end is read no further than a recipe may be long."""
    assert main(["check", "/dev/zero"]) == 3
    assert "at most 1000000" in capsys.readouterr().err
