"""JSON of strangers: what is right is read as Python reads it; each excess is refused by its own words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpot.checkpoint.header import MAX_TENSORS
from stockpot.checkpoint.jsons import CONFIG, HEADER, INDEX, BadJsonError, Limits, parse_json, read_index, read_json
from stockpot.errors import CheckpointError

SMALL = Limits(1000, 20, most_digits=5, depth=3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(VALUES, st.booleans())
def test_what_is_right_is_read(value: object, ascii_only: bool) -> None:
    """As Python's own reader reads it, whether text is escaped or not; a mark of the byte order is skipped."""
    try:
        raw = json.dumps(value, ensure_ascii=ascii_only).encode()
    except UnicodeEncodeError:
        raw = json.dumps(value).encode()
    assert parse_json(raw, CONFIG) == value
    assert parse_json(b"\xef\xbb\xbf" + raw, CONFIG) == value


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b" " * 1001, "larger than 1000 bytes"),
        (b"[" + b"1," * 20 + b"1]", "more than 20 values"),
        (b'["' + b"," * 20 + b'"]', "more than 20 values"),
        (b"[1234567]", "a whole number of 7 digits"),
        (b"[1e400]", "the number 1e400 is out of range"),
        (b"[-1e400]", "the number -1e400 is out of range"),
        (b"[NaN]", "NaN, which is no number"),
        (b"[-Infinity]", "-Infinity, which is no number"),
        (b"[[[[]]]]", "nested more than 3 levels"),
        (b'{"a":{"b":1,"b":1}}', "the key 'b' stands twice"),
        (b'{"\\u001b":1,"\\u001b":1}', r"the key '\x1b' stands twice"),
        (b"\xff", "not UTF-8"),
        (b"", "not valid JSON"),
        (b"[1] 2", "not valid JSON"),
    ],
)
def test_excess_is_refused(raw: bytes, words: str) -> None:
    """Size, values, digits, range, depth, repetition, encoding, syntax."""
    with pytest.raises(BadJsonError) as caught:
        parse_json(raw, SMALL)
    assert words in str(caught.value)


def test_configs_may_hold_what_transformers_writes(tmp_path: Path) -> None:
    """Infinity, and whole numbers such as the usual 10^30 of tokenizers."""
    (tmp_path / "config.json").write_text('{"time_step_limit": [0.0, Infinity], "model_max_length": 1' + "0" * 30 + "}")
    assert read_json(tmp_path / "config.json") == {"time_step_limit": [0.0, float("inf")], "model_max_length": 10**30}


def test_training_settings_fit_in_a_header() -> None:
    """Metadata such as kohya's: megabytes of JSON within a text."""
    tags = json.dumps({f"tag {i}": [i, {"count": i}] for i in range(50_000)})
    text = json.dumps({"__metadata__": {"ss_tag_frequency": tags, "ss_bucket_info": tags}}).encode()
    assert len(text) > 3_000_000
    assert parse_json(text, HEADER)["__metadata__"]["ss_tag_frequency"] == tags


def test_as_many_tensors_as_are_allowed_fit() -> None:
    """The limit of tensors is reached before that of values."""
    entry = json.dumps({"a" * 60: {"dtype": "BF16", "shape": [1, 2, 3, 4], "data_offsets": [10**10, 10**10 + 1]}})
    marks = sum(entry.count(mark) for mark in "[{,:") + 1
    assert marks * MAX_TENSORS < 0.9 * HEADER.most_marks
    assert len(entry) * MAX_TENSORS < HEADER.most_bytes
    assert INDEX.most_marks > 2 * 1_000_000


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({}, "no weight_map"),
        ({"weight_map": {"a": 1}}, "no weight_map"),
        ({"weight_map": []}, "no weight_map"),
        ({"weight_map": {f"t{i}": f"f{i}" for i in range(10_001)}}, "10001 files"),
        ([], "not a JSON object"),
    ],
)
def test_indexes_that_are_none(tmp_path: Path, index: object, words: str) -> None:
    """What is no map of texts to some files is no index."""
    (tmp_path / "i.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=words):
        read_index(tmp_path / "i.json")
