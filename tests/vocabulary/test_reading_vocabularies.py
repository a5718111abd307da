"""Every form of a tokenizer is read as its own library reads it; what is damaged is refused by name."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from tokenizing import KINDS, byte_level, word_pieces

from stockpot.errors import CheckpointError, UnsupportedError
from stockpot.vocabulary.read import read_vocabulary
from stockpot.vocabulary.sentencepiece import BadModelError, parse_pieces


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_tokens_and_numbers(tmp_path: Path, kind: str) -> None:
    """All tokens that the tokenizers library finds, the added ones among them."""
    made = KINDS[kind](["hello", "world"], ["<|x|>", AddedToken("<|y|>", lstrip=True, normalized=False)])
    made.save(str(tmp_path / "tokenizer.json"))
    found = read_vocabulary(tmp_path, "m")
    assert found.ids == made.get_vocab(with_added_tokens=True)
    assert found.size == made.get_vocab_size(with_added_tokens=True)
    flags = {token.content: token for token in found.added}
    assert (flags["<|y|>"].lstrip, flags["<|y|>"].rstrip, flags["<|y|>"].normalized) == (True, False, False)
    assert [found.tokens[n] for n in sorted(found.tokens)] == [made.id_to_token(n) for n in range(found.size)]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("bytes", ("BPE", "bytes")), ("pieces", ("WordPiece", "wordpiece")), ("unigram", ("Unigram", "metaspace"))],
)
def test_kinds(tmp_path: Path, kind: str, expected: tuple[str, str]) -> None:
    """How text is cut, and how tokens are spelt."""
    KINDS[kind](["hello"]).save(str(tmp_path / "tokenizer.json"))
    found = read_vocabulary(tmp_path, "m")
    assert (found.kind, found.alphabet) == expected
    assert found.byte_level == (kind == "bytes")


def test_merges_written_as_texts_or_as_pairs(tmp_path: Path) -> None:
    """Earlier versions wrote the two tokens with a space between."""
    byte_level(["hello"]).save(str(tmp_path / "tokenizer.json"))
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    pairs = read_vocabulary(tmp_path, "m").merges
    assert pairs[0] == ("Ġ", "h")
    document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    assert read_vocabulary(tmp_path, "m").merges == pairs


def test_vocab_json_and_merges(tmp_path: Path) -> None:
    """The files of GPT-2, with added tokens in files of their own."""
    made = byte_level(["hello"])
    made.model.save(str(tmp_path))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|a|>": 400}))
    decoder = {"401": {"content": "<|b|>", "special": True, "rstrip": True}}
    settings = {"added_tokens_decoder": decoder, "eos_token": "<|b|>", "pad_token": {"content": "<|p|>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    found = read_vocabulary(tmp_path, "m")
    plain = made.get_vocab(with_added_tokens=False)
    assert found.ids == {**plain, "<|a|>": 400, "<|b|>": 401, "<|p|>": 402}
    assert found.roles == {"eos_token": "<|b|>", "pad_token": "<|p|>"}
    assert (found.kind, found.alphabet) == ("BPE", "bytes")
    assert found.merges[0] == ("Ġ", "h")
    assert next(t for t in found.added if t.content == "<|b|>").rstrip


def test_vocab_txt(tmp_path: Path) -> None:
    """The lines of BERT's file."""
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\nhello\n##s\n")
    found = read_vocabulary(tmp_path, "m")
    assert found.ids == {"[PAD]": 0, "[UNK]": 1, "hello": 2, "##s": 3}
    assert (found.kind, found.alphabet) == ("WordPiece", "wordpiece")


def test_a_number_that_is_taken_gives_way(tmp_path: Path) -> None:
    """As transformers does: the token is added at the end, and not lost."""
    word_pieces(["hello"]).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<new>": 3}))
    found = read_vocabulary(tmp_path, "m")
    assert found.ids["<new>"] == found.size - 1 > 3


def varint(number: int) -> bytes:
    """A number as protocol buffers write it."""
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def part(field: int, raw: bytes) -> bytes:
    """A field of bytes."""
    return varint(field << 3 | 2) + varint(len(raw)) + raw


def sentence_pieces(pieces: list[tuple[str, float, int]], kind: int) -> bytes:
    """A SentencePiece model: (piece, score, type) and how text is cut; with fields that are not read."""
    out = b""
    for text, score, sort in pieces:
        out += part(
            1, part(1, text.encode()) + varint(2 << 3 | 5) + struct.pack("<f", score) + varint(24) + varint(sort)
        )
    return out + part(2, part(1, b"corpus.txt") + varint(3 << 3) + varint(kind)) + part(3, part(1, b"nmt_nfkc"))


PIECES = [
    ("<unk>", 0.0, 2),
    ("<s>", 0.0, 3),
    ("</s>", 0.0, 3),
    ("<0x41>", 0.0, 6),
    ("▁hello", -1.5, 1),
    ("<user>", 0.0, 4),
]


@pytest.mark.parametrize(("number", "kind"), [(1, "Unigram"), (2, "BPE")])
def test_sentence_pieces(tmp_path: Path, number: int, kind: str) -> None:
    """Pieces, scores, control and user's tokens of a SentencePiece model, without that library."""
    (tmp_path / "tokenizer.model").write_bytes(sentence_pieces(PIECES, number))
    found = read_vocabulary(tmp_path, "m")
    assert (found.kind, found.alphabet) == (kind, "metaspace")
    assert found.ids == {text: i for i, (text, *_) in enumerate(PIECES)}
    assert [(t.content, t.special) for t in found.added] == [
        ("<unk>", True), ("<s>", True), ("</s>", True), ("<user>", False),
    ]  # fmt: skip
    assert found.scores.get("▁hello") == (-1.5 if kind == "Unigram" else None)
    assert found.text("▁hello") == b" hello"
    assert found.text("<0x41>") == b"A"


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_cut_off_models_are_refused(cut: int) -> None:
    """At any place."""
    with pytest.raises(BadModelError):
        parse_pieces(sentence_pieces(PIECES, 1)[:-cut] + b"\x0a\xff\xff\xff\xff\x0f")


@pytest.mark.parametrize(
    "raw", [b"", b"\x00" * 50, b"\xff" * 50, b"\x0f", part(1, part(1, b"\xff\xfe")), sentence_pieces(PIECES, 9)]
)
def test_what_is_no_model_is_refused(tmp_path: Path, raw: bytes) -> None:
    """By the name of the file."""
    (tmp_path / "tokenizer.model").write_bytes(raw)
    with pytest.raises(CheckpointError) as caught:
        read_vocabulary(tmp_path, "m")
    assert str(caught.value.problems[0].file).endswith("tokenizer.model")


GOOD = {"type": "BPE", "vocab": {"a": 0}, "merges": []}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "not a JSON object"),
        ({}, "no model"),
        ({"model": {"type": "Magic", "vocab": {}}}, "of type"),
        ({"model": {**GOOD, "vocab": ["a"]}}, "no vocabulary"),
        ({"model": {**GOOD, "vocab": {"a": -1}}}, "has the number '-1'"),
        ({"model": {**GOOD, "vocab": {"a": True}}}, "has the number 'True'"),
        ({"model": {**GOOD, "vocab": {"a": 10**9}}}, "has the number"),
        ({"model": {**GOOD, "merges": ["a b c"]}}, "joins no pair"),
        ({"model": {**GOOD, "merges": [[1, 2]]}}, "joins no pair"),
        ({"model": {**GOOD, "merges": {}}}, "no list"),
        ({"model": GOOD, "added_tokens": [{"content": 3, "id": 1}]}, "added token"),
        ({"model": GOOD, "added_tokens": ["x"]}, "added token"),
        ({"model": {"type": "Unigram", "vocab": [["a"]]}}, "no token with its score"),
        ({"model": {"type": "Unigram", "vocab": [["a", "b"]]}}, "no token with its score"),
    ],
)
def test_damaged_documents_are_refused(tmp_path: Path, document: Any, message: str) -> None:
    """With the file, and what is wrong in it."""
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=message) as caught:
        read_vocabulary(tmp_path, "m", line=7)
    assert caught.value.problems[0].line == 7
    assert str(caught.value.problems[0].file).endswith("tokenizer.json")


def test_twice_the_same_token_is_refused(tmp_path: Path) -> None:
    """Readers differ in which number they take."""
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {"a": 0, "a": 1}, "merges": []}}')
    with pytest.raises(CheckpointError, match="twice"):
        read_vocabulary(tmp_path, "m")


@pytest.mark.parametrize("name", ["tokenizer_config.json", "added_tokens.json"])
def test_absurd_numbers_of_added_tokens_are_refused(tmp_path: Path, name: str) -> None:
    """Before an array of that size is made."""
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    told = {"<x>": 9_000_000} if name.startswith("added") else {"added_tokens_decoder": {"9000000": {"content": "<x>"}}}
    (tmp_path / name).write_text(json.dumps(told))
    with pytest.raises(CheckpointError, match="9000000"):
        read_vocabulary(tmp_path, "m")


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    """As for every other file of a model."""
    (tmp_path / "m").mkdir()
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": GOOD}))
    (tmp_path / "m" / "tokenizer.json").symlink_to(tmp_path / "tokenizer.json")
    with pytest.raises(CheckpointError, match="leads out of its folder"):
        read_vocabulary(tmp_path / "m", "m")


def test_no_tokenizer(tmp_path: Path) -> None:
    """A folder without one, and a model in memory."""
    for folder in (tmp_path, None):
        with pytest.raises(CheckpointError, match="m has no tokenizer"):
            read_vocabulary(folder, "m")


def test_formats_that_are_not_read(tmp_path: Path) -> None:
    """By name, with what to do."""
    (tmp_path / "tekken.json").write_text("{}")
    with pytest.raises(UnsupportedError, match=r"tekken\.json"):
        read_vocabulary(tmp_path, "m")


def test_classes_that_shift_numbers(tmp_path: Path) -> None:
    """XLM-R's numbers are not those of its SentencePiece model, so that one alone is refused."""
    (tmp_path / "sentencepiece.bpe.model").write_bytes(sentence_pieces(PIECES, 1))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "XLMRobertaTokenizerFast"}))
    with pytest.raises(UnsupportedError, match="XLMRobertaTokenizer"):
        read_vocabulary(tmp_path, "m")


@pytest.mark.parametrize("where", ["chat_template.jinja", "tokenizer_config.json", "list"])
def test_chat_templates(tmp_path: Path, where: str) -> None:
    """From the file of their own, or the settings; of several the default one."""
    (tmp_path / "vocab.txt").write_text("a\n")
    if where == "chat_template.jinja":
        (tmp_path / where).write_text("text")
    told: Any = (
        [{"name": "other", "template": "x"}, {"name": "default", "template": "text"}] if where == "list" else "text"
    )
    settings = {} if where == "chat_template.jinja" else {"chat_template": told}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert read_vocabulary(tmp_path, "m").chat_template == "text"


def test_bytes_of_every_alphabet(tmp_path: Path) -> None:
    """Each of the 256 bytes has one character in a byte-level tokenizer."""
    byte_level([]).save(str(tmp_path / "tokenizer.json"))
    found = read_vocabulary(tmp_path, "m")
    texts = {found.text(token) for token in found.ids if token not in found.plain_tokens}
    assert texts == {bytes([n]) for n in range(256)}
