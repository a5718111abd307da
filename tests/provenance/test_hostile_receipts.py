"""Receipts, labels and READMEs that strangers made to mislead: refused or made harmless."""

from __future__ import annotations

import json
import os
import re

import pytest
from merged_models import arrays, merged, model, recipe, rewritten, run

import stockpot as sp
from stockpot.errors import CheckpointError
from stockpot.execute.card import model_card
from stockpot.execute.receipt import RECEIPT_NAME, read_receipt
from stockpot.provenance.ancestry import MAX_TEXT, Ancestor, from_data
from stockpot.provenance.draw import code_block, code_span, mermaid, text_tree

EVIL = 'x`"]; click n0 "javascript:alert(1)"\n```\n<script>\x1b[2J%%{init}%% | [a](b)'


@pytest.fixture
def out(tmp_path):
    """A merged model."""
    for seed, name in enumerate("ab"):
        model(tmp_path / name, seed)
    merged(recipe(tmp_path, "merge_method: linear\nmodels: [{model: a}, {model: b}]\n"), tmp_path / "out")
    return tmp_path / "out"


HASH = "0" * 32
TENSOR = {"file": "model.safetensors", "dtype": "F32", "shape": [1], "hash": HASH}


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("format",), 3),
        (("format",), "2"),
        (("format",), True),
        (("tensors",), []),
        (("tensors",), {"w": 3}),
        (("tensors",), {"w": {**TENSOR, "file": "../../etc/passwd"}}),
        (("tensors",), {"w": {**TENSOR, "file": "/etc/passwd"}}),
        (("tensors",), {"w": {**TENSOR, "shape": [-1]}}),
        (("tensors",), {"w": {**TENSOR, "shape": "1"}}),
        (("tensors",), {"w": {**TENSOR, "hash": "A" * 32}}),
        (("tensors",), {"w": {**TENSOR, "hash": None}}),
        (("files",), {"../x": {"xxh3": HASH}}),
        (("files",), {"C:\\x": {"xxh3": HASH}}),
        (("files",), {"": {"xxh3": HASH}}),
        (("files",), {"x": {"bytes": 1}}),
        (("inputs",), {"a": []}),
        (("inputs",), {"a": {"files": [{"name": "x"}]}}),
        (("inputs",), {"a": {"files": {}}}),
        (("inputs",), {"a": {"path": 3}}),
        (("inputs",), {"\x1b[2J": {"tensors": {"w": 1}}}),
        (("seed",), True),
        (("seed",), 1.5),
        (("resolved",), 3),
        (("inputs",), {"a": {"ancestry": 3}}),
        (("versions",), {"numpy": 2}),
        (("recipe",), None),
        (("donor",), 5),
        (("shard_size",), "big"),
        (("digest",), "x"),
    ],
    ids=str,
)
def test_wrong_types_are_refused(out, where, value):
    """Each part of a wrong type is an error of the checkpoint that says where, in printable words."""
    data = json.loads((out / RECEIPT_NAME).read_bytes())
    data[where[0]] = value
    (out / RECEIPT_NAME).write_text(json.dumps(data))
    with pytest.raises(CheckpointError) as caught:
        read_receipt(out)
    assert RECEIPT_NAME in str(caught.value)
    assert str(caught.value).replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"3", b"\xff", b"{", b"[" * 10**6, b'{"a":' * 10**6, b'{"format": NaN}']
)
def test_what_is_no_receipt_is_refused(out, content):
    """Empty, other JSON, no text, cut off, nested a million deep."""
    (out / RECEIPT_NAME).write_bytes(content)
    with pytest.raises(CheckpointError):
        read_receipt(out)


def test_large_files_and_pipes_are_not_read(out):
    """A file beyond the bound is refused after as many bytes, one that would swell unparsed, a pipe without waiting."""
    size = (out / RECEIPT_NAME).stat().st_size
    assert read_receipt(out, most=3 * size)
    with pytest.raises(CheckpointError, match="larger than"):
        read_receipt(out, most=size - 1)
    (out / RECEIPT_NAME).write_bytes(b"[" + b"[]," * 500_000 + b"[]]")
    with pytest.raises(CheckpointError, match="more values"):
        read_receipt(out, most=10_000_000)
    (out / RECEIPT_NAME).unlink()
    os.mkfifo(out / RECEIPT_NAME)
    with pytest.raises(CheckpointError):
        read_receipt(out)


def test_verbs_print_nothing_that_a_terminal_obeys(out, capsys):
    """Labels, tensors, files and notes with control codes are printed as text by every verb."""

    def poisoned(data):
        data["inputs"] = {EVIL: {"path": EVIL, "ancestry": {"tool": EVIL, "methods": [EVIL], "note": EVIL}}}
        data["tensors"]["\x1b[2J"] = TENSOR
        data["files"]["\x1b[3J.json"] = {"xxh3": HASH}
        data["versions"]["numpy"] = "\x1b[5m"

    rewritten(out, poisoned)
    for verb in (("verify", out, "--inputs"), ("lineage", out), ("lineage", out, "--mermaid")):
        code, text, errors = run(capsys, *verb)
        assert code in (0, 1)
        assert (text + errors).replace("\n", "").isprintable(), verb
    code, _, errors = run(capsys, "reproduce-merge", out, out.parent / "new")
    assert code == 4


def test_mermaid_takes_no_commands():
    """Whatever a label holds, each line is a box with a quoted text or an arrow."""
    tree = Ancestor(
        EVIL, tool="stockpot", methods=(EVIL,), parents=(Ancestor(EVIL, hub=EVIL, revision=EVIL), Ancestor(""))
    )
    for line in mermaid(tree).split("\n")[1:]:
        box = re.fullmatch(r' {4}n\d+\["([^"`\[\]{}<>|;%]|<br/>|#\d+;)*"\]', line)
        assert box or re.fullmatch(r" {4}n\d+ --> n\d+", line), line


def test_text_trees_have_one_line_for_each_model():
    """Line ends in labels draw no branches of their own."""
    tree = Ancestor("a\n└── b", parents=(Ancestor("c\r\x1b[1A"),), licence="x\ny")
    assert text_tree(tree).count("\n") == 1
    assert text_tree(tree).replace("\n", "").isprintable()


def test_code_of_markdown_cannot_be_left():
    """Fences are longer than any run of backticks within; control codes are written out; tabs stay."""
    lines = code_block("a: b\n```\n# Heading\n`````\n\tx\x1b", "yaml")
    assert (lines[0], lines[-1]) == ("``````yaml", "``````")
    assert "\tx\\x1b" in lines
    assert code_span("a ``` b") == "````a ``` b````"
    assert code_span("`") == "`` ` ``"
    assert "\n" not in code_span("a\n\n# b")


def test_cards_show_hostile_labels_as_they_are(tmp_path):
    """Labels and recipes with markdown, HTML or fences stay within code; the front matter has our keys only."""
    import yaml

    label = 'x`\n---\nlicense: mit\n<script>"]'
    a, b = sp.open(arrays(0), name=label), sp.open(arrays(1), name="b")
    card = model_card(sp.plan(0.5 * a + 0.5 * b))
    assert set(yaml.safe_load(card.split("---\n")[1])) == {"tags"}
    assert card.count("\n---\n") == 1
    outside = re.sub(r"(`+)(?!`)(.*?)(?<!`)\1(?!`)", "", card.split("```mermaid")[0])
    assert "<script>" not in outside


@pytest.mark.parametrize(
    "data", [None, 3, [], {"label": 3}, {"inputs": {}}, {"inputs": [None, {"label": []}]}, {"methods": "x"}]
)
def test_ancestors_of_wrong_types_are_left_out(data):
    """A tree is read as far as it makes sense."""
    tree = from_data(data)
    assert tree.label == "?"
    assert tree.methods == ()


def test_ancestors_are_cut_to_size():
    """Long words are cut; a thousand levels are not followed."""
    deep = {"label": "x" * 10_000}
    for _ in range(200):
        deep = {"label": "y", "inputs": [deep]}
    tree = from_data(deep)
    depth = 0
    while tree.parents:
        tree, depth = tree.parents[0], depth + 1
    assert depth <= 33
    assert len(from_data({"label": "x" * 10_000}).label) == MAX_TEXT


def test_a_receipt_that_was_edited_is_told(out, capsys):
    """Another recipe in a receipt whose hash was not made to fit is a difference."""
    data = json.loads((out / RECEIPT_NAME).read_bytes())
    data["recipe"] = "merge_method: ties"
    (out / RECEIPT_NAME).write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    code, _, errors = run(capsys, "verify", out)
    assert (code, errors) == (1, f"{RECEIPT_NAME}: its bytes have changed\n")
