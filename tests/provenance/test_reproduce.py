"""``stockpot reproduce-merge``: the same bytes again, from the receipt and the inputs alone."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from merged_models import NAMES, arrays, cached, merged, model, recipe, rewritten, run

import stockpot as sp
from files import files_below
from stockpot.execute import reproduce as module
from stockpot.execute.reproduce import reproduce
from stockpot.execute.verify import verify

TEXT = (
    "merge_method: %s\nbase_model: base\nmodels: [{model: a}, {model: b, parameters: {weight: 0.3}}]\n"
    "parameters: {density: 0.5}\nseed: 77\ndtype: bfloat16\n"
)


@pytest.fixture
def place(tmp_path):
    """Three models; the base has a tokenizer."""
    for seed, name in enumerate(("base", "a", "b")):
        model(tmp_path / "in" / name, seed)
    (tmp_path / "in" / "base" / "tokenizer.json").write_text("{}")
    return tmp_path


def contents(folder):
    found = {n: (folder / n).read_bytes() for n in files_below(folder) if (folder / n).is_file()}
    del found["stockpot-receipt.json"]
    return found


@pytest.mark.parametrize("method", ["dare_ties", "della", "ties"])
def test_the_same_bytes_again(place, method):
    """Recipes with random masks and a seed: every file is the same, on another number of threads."""
    merged(recipe(place / "in", TEXT % method), place / "out", shard_size=300)
    made = reproduce(place / "out", place / "new", threads=3)
    assert made.differences == made.versions == ()
    assert contents(place / "new") == contents(place / "out")
    again = json.loads((place / "new" / "stockpot-receipt.json").read_bytes())
    first = json.loads((place / "out" / "stockpot-receipt.json").read_bytes())
    assert (again["expression"], again["tensors"]) == (first["expression"], first["tensors"])


def test_only_the_receipt_is_needed(place):
    """A model can be made again from its receipt when its weights are lost."""
    merged(recipe(place / "in", TEXT % "dare_ties"), place / "out")
    (place / "told").mkdir()
    shutil.copy(place / "out" / "stockpot-receipt.json", place / "told")
    assert reproduce(place / "told", place / "new").differences == ()
    assert contents(place / "new") == contents(place / "out")


def test_expressions_of_python_again(place):
    """A merge of merges with a chain of steps, built in Python, needs no recipe."""
    base, a, b = (sp.open(place / "in" / name) for name in ("base", "a", "b"))
    chain = sp.drop(density=0.4) >> sp.elect() >> sp.mean()
    expression = 0.5 * (base + 0.7 * chain(a - base, b - base)) + 0.5 * sp.slerp(a, b, t=[0.1, 0.9])
    merged(expression, place / "out", seed=5, dtype="float16")
    assert reproduce(place / "out", place / "new").differences == ()
    assert contents(place / "new") == contents(place / "out")


def test_moved_inputs_are_told_by_label(place, capsys):
    """--input says where an input lies now; labels, and so random numbers and the card, stay what they were."""
    merged(recipe(place / "in", TEXT % "della"), place / "out")
    (place / "in").rename(place / "elsewhere")
    (place / "elsewhere" / "b").rename(place / "elsewhere" / "renamed=b")
    code, _, errors = run(capsys, "reproduce-merge", place / "out", place / "new")
    assert code == 4
    assert errors.count("gone; it was") == 3
    assert "--input a=PATH" in errors
    moved = [f"--input={n}={place / 'elsewhere' / n}" for n in ("base", "a")]
    (place / "elsewhere" / "renamed=b").rename(place / "elsewhere" / "c")
    code, out, _ = run(
        capsys, "reproduce-merge", place / "out", place / "new", *moved, f"--input=b={place}/elsewhere/c"
    )
    assert (code, out) == (0, f"{place / 'new'}: the same as {place / 'out'}\n")
    assert contents(place / "new") == contents(place / "out")


def test_an_input_of_the_hub_keeps_its_name(tmp_path):
    """A copy of a hub model somewhere else gives the same card: the receipt knows id, revision and licence."""
    snapshot = cached(tmp_path / "hub", "org/model", front="license: mit")
    merged(sp.passthrough(sp.open(snapshot)), tmp_path / "out")
    shutil.copytree(snapshot, tmp_path / "copy")
    shutil.rmtree(tmp_path / "hub")
    made = reproduce(tmp_path / "out", tmp_path / "new", inputs={str(snapshot): str(tmp_path / "copy")})
    assert made.differences == ()
    assert "org/model" in (tmp_path / "new" / "README.md").read_text()


def test_inputs_in_memory_can_be_given_as_files(tmp_path):
    """What was an array then may be a file now; its label stays."""
    merged(sp.passthrough(sp.open(arrays(3), name="x")), tmp_path / "out")
    model(tmp_path / "saved", 3)
    with pytest.raises(sp.CheckpointError, match="was in memory"):
        reproduce(tmp_path / "out", tmp_path / "new")
    made = reproduce(tmp_path / "out", tmp_path / "new", inputs={"x": str(tmp_path / "saved")})
    assert made.differences == ()


def test_another_input_is_refused_before_anything_is_written(place):
    """Sizes and headers are compared first; a label that there is not is named, with those there are."""
    merged(recipe(place / "in", TEXT % "ties"), place / "out")
    model(place / "in" / "a", 1, files=2)
    (place / "in" / "a" / "model.safetensors").unlink()
    with pytest.raises(sp.CheckpointError, match="input a is not what was merged"):
        reproduce(place / "out", place / "new")
    with pytest.raises(sp.PlanError, match="its inputs are: a, b, base"):
        reproduce(place / "out", place / "new", inputs={"c": "x"})
    assert not list(place.glob("new*"))


def test_other_bytes_in_an_input_are_differences(place, capsys):
    """An input of the same size and header but other values is merged, and every tensor that differs is named."""
    merged(recipe(place / "in", TEXT % "ties"), place / "out")
    file = place / "in" / "a" / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-32:] = np.full(8, 9, np.float32).tobytes()
    file.write_bytes(raw)
    code, out, errors = run(capsys, "reproduce-merge", place / "out", place / "new", "--json")
    assert (code, errors) == (1, "")
    assert f"{NAMES[-1]}: its bytes differ" in json.loads(out)["differences"]


def test_small_files_that_differ_are_named(place):
    """The donor's tokenizer was changed since."""
    merged(recipe(place / "in", TEXT % "ties"), place / "out")
    (place / "in" / "base" / "tokenizer.json").write_text("[]")
    assert reproduce(place / "out", place / "new").differences == ("tokenizer.json: its bytes have changed",)


def test_inputs_that_were_read_otherwise_are_named(place):
    """Where both receipts hold the hash of a tensor that was read, a difference names input and tensor."""
    first = merged(recipe(place / "in", TEXT % "ties"), place / "out")
    second = json.loads(json.dumps(first))
    second["inputs"]["a"]["tensors"][NAMES[0]] = "0" * 32
    result = module.Result(place / "out", second)
    assert module.compared(first, result) == (f"input a: {NAMES[0]}: its bytes are not those that were merged",)


def test_versions_are_told(place, capsys):
    """Another version of NumPy then is a note beside the result."""
    merged(recipe(place / "in", TEXT % "ties"), place / "out")
    rewritten(place / "out", lambda data: data["versions"].update(numpy="1.0"))
    code, _, errors = run(capsys, "reproduce-merge", place / "out", place / "new")
    assert code == 0
    assert f"note: numpy 1.0 → {np.__version__}" in errors


def test_what_cannot_be_repeated_says_so(place):
    """A receipt of the first format, a method of the user's own, the folder itself as the new one."""
    base, a = sp.open(place / "in" / "base"), sp.open(place / "in" / "a")

    @sp.elementwise
    def mine(deltas):
        return deltas[0]

    merged(base + mine(a - base), place / "own")
    with pytest.raises(sp.UnsupportedError, match="'mine' is code"):
        reproduce(place / "own", place / "new")
    merged(0.5 * base + 0.5 * a, place / "out")
    with pytest.raises(sp.PlanError, match="compared with"):
        reproduce(place / "out", place / "out", overwrite=True)
    rewritten(place / "out", lambda data: data.pop("expression"))
    with pytest.raises(sp.CheckpointError, match="early receipt"):
        reproduce(place / "out", place / "new")


def test_the_second_result_verifies(place):
    """Its own receipt tells the same tensors and files."""
    merged(recipe(place / "in", TEXT % "dare_ties"), place / "out")
    reproduce(place / "out", place / "new")
    assert verify(place / "new") == ()
