"""An adapter is an input of its own: receipt, verify, reproduce, resume, card and lineage know its files."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from adapting import ROOT, factors, same, write_adapter, write_base

import stockpot as sp
from files import read_model, write_file
from stockpot.cli.main import main
from stockpot.execute.fingerprint import changes, fingerprint
from stockpot.execute.local import execute
from stockpot.provenance.expressions import as_records, rebuilt

Q0, UP1 = "model.layers.0.q_proj", "model.layers.1.up_proj"
RECIPE = "merge_method: ties\nbase_model: base\nmodels: [{model: base+adapter}, {model: other}]\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A merge, out, of a base, an adapter on it and another model."""
    monkeypatch.chdir(tmp_path)
    write_base(tmp_path / "base")
    write_base(tmp_path / "other", seed=1)
    rng = np.random.default_rng(5)
    write_adapter(tmp_path / "adapter", factors(rng, Q0, 12, 12) | factors(rng, UP1, 31, 12))
    (tmp_path / "adapter" / "README.md").write_text("---\nlicense: mit\n---\n")
    (tmp_path / "r.yml").write_text(RECIPE + "parameters: {density: 0.5}\n")
    assert main(["merge", "r.yml", "out", "--quiet"]) == 0
    return tmp_path


def rewrite(place, **settings):
    """Write the adapter's settings anew, with others."""
    path = place / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_the_receipt_names_every_file(place):
    """Settings and weights stand there with sizes and hashes, tensors with theirs; licence too."""
    row = json.loads((place / "out/stockpot-receipt.json").read_text())["inputs"]["adapter"]
    assert [f["name"] for f in row["files"]] == ["adapter_model.safetensors", "adapter_config.json"]
    assert row["adapter"] is True
    assert row["licence"] == "mit"
    assert len(row["tensors"]) == 4
    assert set(json.loads((place / "out/stockpot-receipt.json").read_text())["inputs"]) == {"base", "adapter", "other"}


def test_verify_inputs(place, capsys):
    """Every changed byte of weights or settings is told, as an input's."""
    assert main(["verify", "out", "--inputs"]) == 0
    rewrite(place, lora_alpha=9)
    assert main(["verify", "out", "--inputs"]) == 1
    assert "input adapter: adapter_config.json: its header has changed" in capsys.readouterr().err
    rewrite(place, lora_alpha=8)
    arrays = dict(read_model(place / "adapter"))
    first = next(iter(arrays))
    arrays[first] = arrays[first] + 1
    write_file(place / "adapter" / "adapter_model.safetensors", arrays)
    assert main(["verify", "out", "--inputs"]) == 1
    assert f"adapter_model.safetensors: {first}: its bytes have changed" in capsys.readouterr().err


def test_reproduce(place, capsys):
    """The merge is repeated from its receipt alone; an adapter that has moved is said where; another one is refused."""
    (place / "r.yml").unlink()
    assert main(["reproduce-merge", "out", "again"]) == 0
    one, two = read_model(place / "out"), read_model(place / "again")
    assert all(same(one[n], two[n]) for n in one)
    shutil.move(place / "adapter", place / "moved")
    assert main(["reproduce-merge", "out", "third", "--input", "adapter=moved"]) == 0
    shutil.copytree(place / "moved", place / "adapter")
    rewrite(place, lora_alpha=9)
    assert main(["reproduce-merge", "out", "fourth"]) == 4
    assert "input adapter is not what was merged" in capsys.readouterr().err


def test_card_and_lineage(place, capsys):
    """Both name the adapter beside the models."""
    assert "- `adapter`" in (place / "out/README.md").read_text()
    assert main(["lineage", "out"]) == 0
    out = capsys.readouterr().out
    assert "── adapter" in out
    assert "← ties" in out
    main(["lora", "fold", "base", "adapter", "folded", "--quiet"])
    capsys.readouterr()
    main(["lineage", "folded"])
    assert "← adapter" in capsys.readouterr().out


def test_resuming_notices_changes(place):
    """A fingerprint differs by settings and by weights of the adapter, and says which input it was."""
    before = fingerprint(sp.plan("r.yml"))
    assert changes(before, fingerprint(sp.plan("r.yml"))) == []
    rewrite(place, lora_alpha=9)
    told = changes(before, fingerprint(sp.plan("r.yml")))
    assert told
    assert all("inputs: adapter" in text for text in told)


def test_weights_that_change_during_the_merge(place):
    """The adapter's file is stamped when it is planned; what is read later must be that."""
    plan = sp.plan("r.yml", "late")
    rng = np.random.default_rng(6)
    write_adapter(place / "adapter", factors(rng, Q0, 12, 12) | factors(rng, UP1, 31, 12))
    with pytest.raises(sp.StorageError, match="the file has changed since the merge was planned"):
        execute(plan, place / "late")


def test_the_output_may_not_replace_the_adapter(place, capsys):
    """As with every other input."""
    assert main(["merge", "r.yml", "adapter", "--overwrite"]) == 5
    assert "is (or holds) the input adapter" in capsys.readouterr().err


def test_expressions_as_data_and_back(place):
    """A tree with an adapter is written down and built again; adapters out of place are refused."""
    tree = sp.open("base", adapter="adapter")
    records = as_records(tree, lambda leaf: leaf.reference)
    leaves = {"base": tree.of, "adapter": tree.adapter}
    again = rebuilt(records, leaves, "receipt")
    assert as_records(again, lambda leaf: leaf.reference) == records
    for wrong in (
        [{"leaf": "adapter"}, {"sum": [{"times": 1.0, "of": 0}]}],
        [{"leaf": "base"}, {"adapted": 0, "adapter": 0}],
        [{"leaf": "adapter"}, {"adapted": 0, "adapter": 0}],
        [{"leaf": "base"}, {"adapted": 0, "adapter": 1}],
        [{"leaf": "adapter"}],
    ):
        with pytest.raises(sp.CheckpointError, match="cannot be built"):
            rebuilt(wrong, leaves, "receipt")


def test_names_in_the_receipt_are_those_of_the_file(place):
    """Tensors of the adapter are told by their own names."""
    row = json.loads((place / "out/stockpot-receipt.json").read_text())["inputs"]["adapter"]
    assert all(name.startswith(ROOT) for name in row["tensors"])
