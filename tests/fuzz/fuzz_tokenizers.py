"""Damaged tokenizers: tokenizer.json, SentencePiece models, settings; read, united with a whole one, and written."""

from __future__ import annotations

import json
import struct

import fuzz_damage as damage

from stockpot.vocabulary.read import document_files, read_vocabulary
from stockpot.vocabulary.unite import CannotUniteError, unite
from stockpot.vocabulary.write import CannotWriteError, written

_WORDS = ("Ġthe", "▁the", "the", "##ing", "t", "h", "th", "<0x41>", "<unk>", "<s>", "</s>", "[PAD]", "é", " ")
_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "added_tokens.json", "vocab.json", "vocab.txt")
_ADDED = {"id": 3, "content": "<x>", "special": True, "lstrip": False, "rstrip": False, "normalized": False}
_SPACES = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}


def _documents():
    ids = {word: number for number, word in enumerate(_WORDS)}
    whole = {"version": "1.0", "added_tokens": [{**_ADDED, "id": ids["<s>"], "content": "<s>"}]}
    bpe = {"type": "BPE", "vocab": ids, "merges": ["t h", ["th", "e"]], "unk_token": "<unk>"}
    pieces = {"type": "Unigram", "vocab": [[w, -float(n)] for w, n in ids.items()], "unk_id": 8}
    words = {"type": "WordPiece", "vocab": ids, "unk_token": "<unk>", "continuing_subword_prefix": "##"}
    return [
        {**whole, "model": bpe, "pre_tokenizer": {"type": "ByteLevel"}},
        {**whole, "model": {**bpe, "byte_fallback": True}, "normalizer": {"type": "Sequence", "normalizers": []}},
        {**whole, "model": pieces, "pre_tokenizer": _SPACES},
        {**whole, "model": words, "pre_tokenizer": {"type": "BertPreTokenizer"}},
        {**whole, "model": {"type": "WordLevel", "vocab": ids, "unk_token": "<unk>"}},
    ]


_DOCUMENTS = [json.dumps(document) for document in _documents()]
_SETTINGS = json.dumps(
    {
        "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": None,
        "added_tokens_decoder": {"3": _ADDED, "99": {**_ADDED, "content": "<y>"}}, "chat_template": "{{ x }}",
        "additional_special_tokens": ["<z>", {"content": "<w>"}],
    }
)  # fmt: skip


def make(chance):
    """A file of a tokenizer, damaged; the first byte says which."""
    kind = chance.choice((0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 4, 5))
    if kind == 1:
        data = _pieces(chance)
        return bytes([kind]) + (damage.of_bytes(chance, data) if chance.random() < 0.8 else data)
    if kind == 5:
        data = "\n".join(chance.choice(_WORDS) for _ in range(chance.randrange(9))).encode()
        return bytes([kind]) + (damage.of_bytes(chance, data) if chance.random() < 0.5 else data)
    text = {0: chance.choice(_DOCUMENTS), 2: _SETTINGS}.get(kind) or json.dumps({w: n for n, w in enumerate(_WORDS)})
    text = damage.of_json(chance, text, chance.choice(_DOCUMENTS), chance.choice((0, 1, 1, 1, 2, 3, 6)))
    data = text.encode("utf-8", "surrogatepass")
    return bytes([kind]) + (damage.of_bytes(chance, data) if chance.random() < 0.1 else data)


def _varint(number):
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def _part(field, raw):
    return _varint(field << 3 | 2) + _varint(len(raw)) + raw


def _pieces(chance):
    """A SentencePiece model, now and then with a strange number in it."""
    out = b""
    for word in _WORDS[: chance.randrange(1, len(_WORDS))]:
        score = chance.choice((-1.0, -1.0, 0.0, float("nan"), float("inf"), 1e30))
        sort = chance.choice((1, 1, 1, 2, 3, 4, 5, 6, 99, 2**63))
        out += _part(1, _part(1, word.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + _varint(sort))
    kind = chance.choice((1, 1, 2, 2, 3, 4, 0, 7, 2**64 - 1))
    return out + _part(2, _part(1, b"corpus.txt") + _varint(3 << 3) + _varint(kind))


def read(path):
    """Read the vocabulary whose file ``path`` is, unite it with others and write that."""
    data = path.read_bytes()
    kind = data[0] % len(_FILES) if data else 0
    folder = path.parent / "tokenizer"
    folder.mkdir(exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    if kind in (2, 3):
        (folder / "tokenizer.json").write_text(_DOCUMENTS[0])
    (folder / _FILES[kind]).write_bytes(data[1:])
    found = read_vocabulary(folder, "m")
    found.text(next(iter(found.ids), ""))
    for number in range(len(_DOCUMENTS)):
        whole = path.parent / f"whole-{number}"
        if not whole.is_dir():
            whole.mkdir()
            (whole / "tokenizer.json").write_text(_DOCUMENTS[number])
        _united(found, read_vocabulary(whole, "whole"), folder)


def _united(found, other, folder):
    try:
        made = unite([found, other]).vocabulary
        assert found.ids.items() <= made.ids.items()
        assert other.ids.keys() <= made.ids.keys()
        written(made, {name: folder / name for name in document_files(folder)})
    except (CannotUniteError, CannotWriteError):
        return
