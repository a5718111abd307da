"""``stockpot verify``: every byte of every file that a merge wrote, and of what it read."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from merged_models import NAMES, arrays, cached, merged, model, recipe, rewritten, run

import stockpot as sp
from files import files_below, write_file
from stockpot.errors import CheckpointError
from stockpot.execute.receipt import read_receipt
from stockpot.execute.sources import check_inputs
from stockpot.execute.verify import verify

LINEAR = "merge_method: linear\nmodels: [{model: a}, {model: b}]\n"


@pytest.fixture
def place(tmp_path):
    """Two models and their merge, in two files, with small files."""
    for seed, name in enumerate("ab"):
        model(tmp_path / name, seed)
    (tmp_path / "a" / "tokenizer.json").write_text('{"a": 1}')
    (tmp_path / "a" / "extra").mkdir()
    (tmp_path / "a" / "extra" / "more.json").write_text("{}")
    merged(recipe(tmp_path, LINEAR), tmp_path / "out", shard_size=400)
    return tmp_path


def flipped(path, index, bit=1):
    raw = bytearray(path.read_bytes())
    raw[index] ^= bit
    path.write_bytes(raw)


def test_any_flipped_byte_is_found_and_named(place):
    """In every file, at both ends and at places spread over it: headers, tensors, config, index, card, receipt."""
    out = place / "out"
    assert verify(out) == ()
    names = [n for n in files_below(out) if (out / n).is_file()]
    assert {"model.safetensors.index.json", "README.md", "extra/more.json", "stockpot-receipt.json"} <= set(names)
    for name in names:
        whole = (out / name).read_bytes()
        for index in {0, *range(0, len(whole), max(1, len(whole) // 23)), len(whole) - 1}:
            flipped(out / name, index, 1 << index % 8)
            try:
                told = " ".join(verify(out))
            except CheckpointError as error:
                told = str(error)
            assert name in told or any(n in told for n in NAMES), (name, index)
            (out / name).write_bytes(whole)
    assert verify(out) == ()


def test_files_that_are_gone_cut_or_new_are_named(place):
    """A missing file, a truncated one, and weights that nobody wrote."""
    out = place / "out"
    (out / "tokenizer.json").unlink()
    first, second = sorted(out.glob("*.safetensors"))[:2]
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    write_file(out / "zzz.safetensors", {"new": np.ones(2, np.float32)})
    (out / "pytorch_model.bin").write_bytes(b"x")
    told = verify(out)
    for text in (f"{first.name}: missing", "tokenizer.json: missing", "zzz.safetensors: not in the receipt"):
        assert text in told
    assert "pytorch_model.bin: not in the receipt" in told
    assert any(t.startswith(f"{second.name}: truncated") for t in told)
    assert f"{NAMES[0]}: missing" in told


def test_a_header_that_was_rewritten_is_named(place):
    """Tensors that are as they were in a file whose header is not: its metadata, say."""
    file = min((place / "out").glob("*.safetensors"))
    raw = file.read_bytes()
    flipped(file, raw.index(b'"pt"') + 1)
    assert verify(place / "out") == (f"{file.name}: its header has changed",)


def test_links_that_lead_out_are_not_followed(place):
    """A file that was replaced by a link to somewhere else is told, not read."""
    out = place / "out"
    (place / "secret").write_text('{"a": 1}')
    (out / "tokenizer.json").unlink()
    (out / "tokenizer.json").symlink_to(place / "secret")
    (told,) = verify(out)
    assert told.startswith("tokenizer.json: a link that leads out")


@pytest.mark.parametrize("number", [1, 3])
def test_receipts_of_other_formats_are_refused(place, number):
    """Hashes of another format mean something else, so that such a receipt is an error, not a difference."""
    rewritten(place / "out", lambda data: data.update(format=number))
    with pytest.raises(CheckpointError, match=f"format {number}; this version knows format 2"):
        verify(place / "out")


def test_inputs_are_checked_where_they_lie(place, capsys):
    """All is well; then one tensor of one input is changed, and that is named with label, file and tensor."""
    code, out, _ = run(capsys, "verify", place / "out", "--inputs")
    assert (code, out.count("4 tensors as they were")) == (0, 2)
    flipped(place / "b" / "model.safetensors", -1)
    code, out, errors = run(capsys, "verify", place / "out", "--inputs", "--json")
    assert (code, errors) == (1, "")
    told = f"input b: model.safetensors: {NAMES[-1]}: its bytes have changed"
    assert json.loads(out)["differences"] == json.loads(out)["inputs"]["b"]["differences"] == [told]


def test_inputs_that_changed_in_size_or_vanished_are_named(place, capsys):
    """A header that changed, a file that grew, a folder that is gone: a difference each, no failure."""
    header = place / "a" / "model.safetensors"
    raw = header.read_bytes()
    header.write_bytes(raw.replace(b"model.norm", b"model.mean"))
    shutil.rmtree(place / "b")
    code, _, errors = run(capsys, "verify", place / "out", "--inputs")
    assert code == 1
    assert "input a: model.safetensors: its header has changed" in errors
    assert f"input a: {NAMES[-1]}: missing" in errors
    assert f"input b: gone; it was {place / 'b'}" in errors


def test_an_input_of_the_hub_is_found_in_the_cache(tmp_path, monkeypatch):
    """An input whose path is gone is looked for by commit in the cache that is used now."""
    import huggingface_hub.constants

    snapshot = cached(tmp_path / "old", "org/model")
    merged(sp.passthrough(sp.open(snapshot)), tmp_path / "out")
    (tmp_path / "old").rename(tmp_path / "new")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "new"))
    (found,) = check_inputs(read_receipt(tmp_path / "out")).values()
    assert (found.differences, found.tensors) == ((), 4)


def test_inputs_in_memory_cannot_be_checked(tmp_path):
    """They are told, so that nobody takes silence for a check."""
    merged(sp.passthrough(sp.open(arrays(0), name="x")), tmp_path / "out")
    (found,) = check_inputs(read_receipt(tmp_path / "out")).values()
    assert found.differences == ("input x: was in memory and cannot be checked",)


def test_progress_of_inputs_reaches_the_end(place):
    """One count over all inputs, which never runs backwards."""
    told = []
    check_inputs(read_receipt(place / "out"), progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert {total for _, total in told} == {2 * (3 * 6 * 8 + 8) * 4}


def test_another_file_of_the_cache_is_told_by_its_name(tmp_path):
    """A link that leads to another blob is another file, also where no tensor's hash is known."""
    snapshot = cached(tmp_path, "org/model")
    merged(sp.passthrough(sp.open(snapshot)), tmp_path / "out")
    rewritten(tmp_path / "out", lambda d: d["inputs"][str(snapshot)].pop("tensors"))
    weights = snapshot / "model.safetensors"
    other = weights.resolve().with_name("a" * 64)
    weights.resolve().rename(other)
    weights.unlink()
    weights.symlink_to(other)
    (found,) = check_inputs(read_receipt(tmp_path / "out")).values()
    assert found.differences == (f"input {snapshot}: model.safetensors: its sha256 has changed",)
