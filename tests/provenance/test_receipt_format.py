"""What stands in a receipt: what was asked for, what was read, what was written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import xxhash
from merged_models import NAMES, arrays, cached, merged, model, read_hashes, recipe, small_hashes

import stockpot as sp
from files import files_below, read_model, tensor_hash
from stockpot.execute.receipt import make_receipt, read_receipt, receipt_bytes
from stockpot.provenance.receipts import digest_of

DARE = "merge_method: dare_ties\nbase_model: base\nmodels: [{model: a}]\nparameters: {density: 0.5}\nseed: 4\n"


def place(tmp_path):
    for seed, name in enumerate(("base", "a")):
        model(tmp_path / name, seed, files=2)
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    return recipe(tmp_path, DARE)


def test_a_receipt_tells_the_whole_merge(tmp_path):
    """Versions, seed, recipe, its resolved form, the expression, dtype, donor, shard size, every input and file."""
    receipt = merged(place(tmp_path), tmp_path / "out", shard_size=400)
    assert receipt["format"] == 2
    assert set(receipt["versions"]) == {"python", "stockpot", "numpy", "numba", "ml_dtypes"}
    assert (receipt["seed"], receipt["recipe"], receipt["donor"]) == (4, DARE, "base")
    assert (receipt["dtype"], receipt["shard_size"]) == (None, 400)
    assert [r.get("leaf") for r in receipt["expression"]].count("a") == 1
    written = set(files_below(tmp_path / "out")) - {"stockpot-receipt.json"}
    assert set(receipt["files"]) == written
    assert "tokenizer.json" in written
    assert read_receipt(tmp_path / "out") == receipt


def test_hashes_of_files_follow_from_their_parts(tmp_path):
    """The hash of a file of tensors is that of the digests of header and tensors in order; sizes are the files'."""
    receipt = merged(place(tmp_path), tmp_path / "out", shard_size=400)
    rows = [(tmp_path / "out" / n, row) for n, row in receipt["files"].items() if "bytes" in row]
    rows += [(tmp_path / "a" / row["name"], row) for row in receipt["inputs"]["a"]["files"]]
    assert len(rows) == 4
    for path, row in rows:
        raw = path.read_bytes()
        head = 8 + int.from_bytes(raw[:8], "little")
        entries = {k: v["data_offsets"] for k, v in json.loads(raw[8:head]).items() if k != "__metadata__"}
        parts = [raw[:head], *(raw[head + a : head + b] for a, b in sorted(entries.values()))]
        assert b"".join(parts) == raw
        hashes = [xxhash.xxh3_128_hexdigest(parts[0]), *map(tensor_hash, parts[1:])]
        digests = bytes.fromhex("".join(hashes))
        assert (row["bytes"], row["xxh3"]) == (len(raw), xxhash.xxh3_128_hexdigest(digests))


def test_hashes_are_those_of_the_bytes(tmp_path):
    """What a merge hashed in passing is what the finished files hold: inputs, tensors, small files."""
    plan = sp.plan(place(tmp_path), tmp_path / "out")
    receipt = merged(tmp_path / "recipe.yml", tmp_path / "out")
    written = {n: tensor_hash(a.tobytes()) for n, a in read_model(tmp_path / "out").items()}
    assert receipt == make_receipt(plan, written, read_hashes(plan), small_hashes(tmp_path / "out"))


def test_the_same_merge_gives_the_same_receipt(tmp_path):
    """Byte for byte, with another number of threads and another memory budget: no times, no host."""
    path = place(tmp_path)
    receipts = [merged(path, tmp_path / str(i), threads=i, memory=i << 28) for i in (1, 2)]
    assert receipt_bytes(receipts[0]) == receipt_bytes(receipts[1])


def test_hashes_that_are_missing_are_left_out(tmp_path):
    """Without hashes of inputs or small files the receipt holds all else; a file is hashed when all of it was read."""
    plan = sp.plan(place(tmp_path), tmp_path / "out")
    hashes = {step.name: "0" * 32 for step in plan.steps}
    bare = make_receipt(plan, hashes, {}, {})
    assert all("tensors" not in row for row in bare["inputs"].values())
    assert set(bare["files"]) == {"model.safetensors"}
    some = {key: h for key, h in read_hashes(plan).items() if key[1] != NAMES[0]}
    row = make_receipt(plan, hashes, some, {})["inputs"]["a"]
    assert set(row["tensors"]) == set(NAMES[1:])
    assert ["xxh3" in f for f in row["files"]] == [NAMES[0] not in NAMES[i::2] for i in range(2)]


def test_inputs_of_the_hub_are_known_by_commit_and_sha256(tmp_path):
    """Id and revision are told by the cache's path; the blob's name is the file's sha256, without reading it."""
    snapshot = cached(tmp_path / "hub", "org/model", front="license: MIT")
    receipt = merged(sp.passthrough(sp.open(snapshot)), tmp_path / "out")
    (row,) = receipt["inputs"].values()
    assert (row["hub"], row["revision"], row["licence"]) == ("org/model", snapshot.name, "mit")
    assert row["files"][0]["sha256"] == hashlib.sha256((snapshot / "model.safetensors").read_bytes()).hexdigest()


def test_models_in_memory_are_told_by_their_tensors(tmp_path):
    """An input without a file has the hashes of its tensors; two of one name are told apart."""
    twins = [sp.open(arrays(seed), name="x") for seed in (0, 1)]
    receipt = merged(0.5 * twins[0] + 0.5 * twins[1], tmp_path / "out")
    assert set(receipt["inputs"]) == {"x", "x#2"}
    assert all(row["memory"] and row["reference"] == "x" for row in receipt["inputs"].values())
    assert receipt["inputs"]["x"]["tensors"] != receipt["inputs"]["x#2"]["tensors"]


def test_an_empty_tensor_needs_no_reading(tmp_path):
    """Its hash is that of no bytes, so the file's hash is known when all others were read."""
    import numpy as np

    from files import write_model

    write_model(tmp_path / "a", {"w": np.ones(3, np.float32), "none": np.ones((0, 3), np.float32)})
    plan = sp.plan(sp.passthrough(sp.open(tmp_path / "a")))
    read = {key: h for key, h in read_hashes(plan).items() if key[1] == "w"}
    row = make_receipt(plan, dict.fromkeys(("w", "none"), "0" * 32), read, {})["inputs"][str(tmp_path / "a")]
    assert "xxh3" in row["files"][0]


def test_a_receipt_knows_its_own_hash(tmp_path):
    """The last key is the hash of all others; names that UTF-8 cannot hold are written as escapes."""
    receipt = merged(sp.passthrough(sp.open(arrays(0), name="\udcff")), tmp_path / "out")
    assert list(receipt)[-1] == "digest"
    assert digest_of(receipt) == receipt["digest"]
    assert b"\\udcff" in Path(tmp_path / "out" / "stockpot-receipt.json").read_bytes()
    assert read_receipt(tmp_path / "out") == receipt


def test_numbers_of_numpy_are_numbers(tmp_path):
    """Seeds, layers and weights that came out of arrays do not spoil the receipt of a finished merge."""
    import numpy as np

    model(tmp_path / "a")
    layers = sp.layers(sp.open(tmp_path / "a"), np.int64(0), np.int64(1))
    expression = sp.passthrough(sp.stack(layers, layers), scale=np.float32(0.5))
    receipt = merged(expression, tmp_path / "out", seed=np.int64(-3), shard_size=np.int64(1000))
    assert read_receipt(tmp_path / "out") == receipt


def test_what_was_not_read_has_no_hash(tmp_path):
    """Of a model whose first layer alone is used, the other tensors were never read: they and their file have none."""
    model(tmp_path / "a")
    receipt = merged(sp.stack(sp.layers(sp.open(tmp_path / "a"), 0, 1)), tmp_path / "out")
    (row,) = receipt["inputs"].values()
    assert set(row["tensors"]) == set(NAMES) - {NAMES[2]}
    assert "xxh3" not in row["files"][0]
    assert "xxh3" in receipt["files"]["model.safetensors"]
