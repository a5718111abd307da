"""``stockpot lineage``: the tree of merges behind a model, from receipts and mergekit_config.yml."""

from __future__ import annotations

import json
import shutil

from merged_models import arrays, cached, merged, model, rewritten, run

import stockpot as sp
from stockpot.provenance.ancestry import MAX_NODES, Ancestor, bounded, from_data, lineage
from stockpot.provenance.draw import mermaid, text_tree

MERGEKIT = """
merge_method: ties
base_model: org/base
models:
- model: org/one
  parameters: {weight: 0.5}
- model: {model: {path: org/two, revision: main}}
- model: org/three+org/adapter
dtype: bfloat16
"""


def mean(place, *names):
    return sum((sp.open(place / n) * (1 / len(names)) for n in names[1:]), sp.open(place / names[0]) * (1 / len(names)))


def two_generations(place):
    """``parent`` is merged from two models, ``child`` from it and a third; all but the child are deleted."""
    for seed, name in enumerate(("a", "b", "c")):
        model(place / name, seed, front="license: mit" if name == "a" else None)
    merged(sp.slerp(sp.open(place / "a"), sp.open(place / "b"), t=0.5), place / "parent")
    merged(mean(place, "parent", "c"), place / "child")
    for name in ("a", "b", "c", "parent"):
        shutil.rmtree(place / name)


def test_three_generations_after_all_ancestors_are_deleted(tmp_path, capsys):
    """The receipt of the child holds the tree of its parent: methods, labels, licences."""
    two_generations(tmp_path)
    code, out, _ = run(capsys, "lineage", tmp_path / "child")
    assert code == 0
    assert out.splitlines() == [
        "child  ← sum",
        f"├── {tmp_path / 'c'}",
        f"└── {tmp_path / 'parent'}  ← slerp",
        f"    ├── {tmp_path / 'a'}  (mit)",
        f"    └── {tmp_path / 'b'}",
    ]


def test_the_tree_for_machines(tmp_path, capsys):
    """As JSON the same tree, nothing that is not known in it."""
    two_generations(tmp_path)
    data = json.loads(run(capsys, "lineage", tmp_path / "child", "--json")[1])
    assert (data["tool"], data["methods"]) == ("stockpot", ["sum"])
    parent = data["inputs"][1]
    assert parent["methods"] == ["slerp"]
    assert [sorted(i) for i in parent["inputs"]] == [["label", "licence"], ["label"]]
    assert from_data(data).as_data() == data


def test_the_tree_as_a_picture(tmp_path, capsys):
    """A flow chart with one box for each model and one arrow for each use."""
    two_generations(tmp_path)
    text = run(capsys, "lineage", tmp_path / "child", "--mermaid")[1]
    assert text.startswith("flowchart TD\n")
    assert (text.count('["'), text.count("-->")) == (5, 4)
    assert "slerp" in text


def test_mergekit_configs_are_followed(tmp_path, capsys):
    """Models that mergekit merged tell theirs, nested and with revisions, when they are merged again."""
    for seed, name in enumerate("ab"):
        model(tmp_path / name, seed)
    (tmp_path / "a" / "mergekit_config.yml").write_text(MERGEKIT)
    merged(mean(tmp_path, "a", "b"), tmp_path / "out")
    shutil.rmtree(tmp_path / "a")
    out = run(capsys, "lineage", tmp_path / "out")[1]
    assert f"├── {tmp_path / 'a'}  ← ties, by mergekit" in out
    for name in ("org/base", "org/one", "org/two@main", "org/three+org/adapter"):
        assert f"── {name}\n" in out


def test_a_mergekit_model_itself_has_a_lineage(tmp_path):
    """Slices, several documents and merges within merges: every model once, every method, no document."""
    (tmp_path / "mergekit_config.yml").write_text(
        "slices: [{sources: [{model: x, layer_range: [0, 2]}, {model: y}]}]\nmerge_method: slerp\n---\n"
        "models: [{model: {merge_method: linear, models: [{model: z}, {model: x}]}}]\nmerge_method: passthrough\n---\n"
        "name: later\nmerge_method: linear\nmodels: [{model: z}]\n---\n"
        "merge_method: linear\nmodels: [{model: later}]\n"
    )
    tree = lineage(tmp_path)
    assert [p.label for p in tree.parents] == ["x", "y", "z"]
    assert (tree.tool, tree.methods) == ("mergekit", ("slerp", "linear", "passthrough"))


def test_nothing_known_is_an_error(tmp_path, capsys):
    """A folder with neither file says so."""
    model(tmp_path / "a")
    code, _, errors = run(capsys, "lineage", tmp_path / "a")
    assert code == 4
    assert "mergekit_config.yml" in errors


def test_inputs_without_a_story_are_looked_at_where_they_lie(tmp_path):
    """Receipts of the first format hold no ancestors: those of inputs that are still there are read, and marked."""
    for seed, name in enumerate("abc"):
        model(tmp_path / name, seed)
    merged(mean(tmp_path, "a", "b"), tmp_path / "parent")
    merged(mean(tmp_path, "parent", "c"), tmp_path / "child")
    rewritten(tmp_path / "child", lambda d: d["inputs"][str(tmp_path / "parent")].pop("ancestry"))
    (parent,) = [p for p in lineage(tmp_path / "child").parents if p.parents]
    assert len(parent.parents) == 2
    assert parent.note == "as it lies there now"


def test_folders_that_name_each_other_end(tmp_path):
    """Receipts that were made to name each other, and themselves, are followed once."""
    for seed, name in enumerate("xy"):
        model(tmp_path / name, seed)
        merged(sp.passthrough(sp.open(arrays(seed), name="m")), tmp_path / f"o{name}")
    for one, other in (("ox", "oy"), ("oy", "ox")):
        rows = {n: {"path": str(tmp_path / n)} for n in (one, other)}
        rewritten(tmp_path / one, lambda d, rows=rows: d.update(inputs=rows))
    assert text_tree(lineage(tmp_path / "ox")).count("\n") == 4


def test_a_receipt_that_cannot_be_read_does_not_stop_a_merge(tmp_path):
    """An input with a damaged receipt, or a mergekit_config.yml that is none, is merged; the lineage says so."""
    for seed, name in enumerate("ab"):
        model(tmp_path / name, seed)
    (tmp_path / "a" / "stockpot-receipt.json").write_text("[" * 100_000)
    (tmp_path / "b" / "mergekit_config.yml").write_text("{")
    merged(mean(tmp_path, "a", "b"), tmp_path / "out")
    assert [p.note for p in lineage(tmp_path / "out").parents] == [
        "its receipt cannot be read",
        "its mergekit_config.yml cannot be read",
    ]


def test_models_of_the_hub_are_drawn_once(tmp_path):
    """A base that several ancestors share is one box; its revision stands in the tree."""
    base = cached(tmp_path, "org/base", 9)
    model(tmp_path / "a", 1)
    parent = 0.5 * sp.open(base) + 0.5 * sp.open(tmp_path / "a")
    merged(parent, tmp_path / "p")
    merged(0.5 * sp.open(tmp_path / "p") + 0.5 * sp.open(base), tmp_path / "out")
    tree = lineage(tmp_path / "out")
    assert text_tree(tree).count(f"[org/base@{base.name}]") == 2
    assert mermaid(tree).count("org/base@01234567") == 1


def tower(depth, width=1):
    node = Ancestor("end")
    for number in range(depth):
        node = Ancestor(str(number), tool="stockpot", parents=(node,) * width)
    return node


def size(node):
    return 1 + sum(map(size, node.parents))


def test_trees_are_bounded():
    """Whatever is read, at most 1000 models and 32 generations are kept, the nearest, and the cut is told."""
    deep = bounded(tower(100))
    assert size(deep) == 33
    assert "there is more behind it" in text_tree(deep)
    assert size(bounded(tower(12, 2))) == 2**9 - 1
    assert size(bounded(Ancestor("wide", parents=(Ancestor("x"),) * 5000))) == MAX_NODES
    assert bounded(tower(5, 2)) == tower(5, 2)


def test_many_generations_stay_bounded(tmp_path):
    """Forty merges in a row: the receipt does not grow without end."""
    model(tmp_path / "m0")
    for i in range(40):
        merged(sp.passthrough(sp.open(tmp_path / f"m{i}")), tmp_path / f"m{i + 1}")
    assert size(lineage(tmp_path / "m40")) == 33
    sizes = [(tmp_path / f"m{i}" / "stockpot-receipt.json").stat().st_size for i in (38, 40)]
    assert abs(sizes[1] - sizes[0]) < 200
