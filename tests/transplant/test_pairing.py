"""Which tokens are alike, and how a tokenizer's model cuts a text."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transplant_pairs import RARE, TEXT, byte_level, metaspace

from stockpot.transplanting.pairing import pair
from stockpot.transplanting.pieces import Cutter
from stockpot.vocabulary.model import AddedToken, Vocabulary
from stockpot.vocabulary.read import read_vocabulary


def vocabulary(alphabet, tokens, *, special=(), roles=None, **more):
    ids = {token: number for number, token in enumerate(tokens)}
    added = tuple(AddedToken(token, ids[token], special=True) for token in special)
    return Vocabulary("m", "BPE", alphabet, ids, added, roles or {}, **more)


def test_tokens_are_matched_by_what_they_stand_for():
    """However it is spelt: a space, a byte, the inside of a word; of several, those of one kind go together."""
    new = vocabulary("metaspace", ["▁a", "a", "<0x61>", "<0xC3>", "é", "▁▁", "b"])
    old = vocabulary("bytes", ["Ġ", "a", "Ġa", "Ã", "Ã©", "ĠĠ"])
    assert pair(new, old, 7, 6).ours.tolist() == [2, 1, -1, 3, 4, 5, -1], "there is one row for a letter and its byte"
    assert pair(new, old, 7, 5).ours.tolist() == [2, 1, -1, 3, 4, -1, -1], "beyond the embedding there is no row"
    assert pair(vocabulary("metaspace", ["<0x61>"]), old, 1, 6).ours.tolist() == [1], "a byte alone is its letter"
    back = pair(old, new, 6, 7)
    assert back.ours.tolist() == [-1, 1, 0, 3, 4, 5], "the letter goes before its byte"
    pieces = vocabulary("wordpiece", ["a", "##a", "##é"])
    assert pair(pieces, old, 3, 6).ours.tolist() == [2, 1, 4]
    assert pair(new, new, 9, 7).ours.tolist() == [*range(7), -1, -1]
    assert pair(new, new, 9, 7).named.tolist() == [True] * 7 + [False] * 2


def test_special_tokens_are_matched_with_special_ones():
    """A text that looks like one is none; a role finds its like where the text does not."""
    new = vocabulary("bytes", ["<s>", "</s>", "<pad>", "<sep>", "x"], special=["<s>", "</s>", "<pad>", "<sep>"],
                     roles={"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"})  # fmt: skip
    old = vocabulary("bytes", ["x", "<s>", "<end>", "<sep>"], special=["<end>", "<sep>"],
                     roles={"eos_token": "<end>"})  # fmt: skip
    found = pair(new, old, 5, 4)
    assert found.ours.tolist() == [-1, 2, -1, 3, 0]
    assert found.roles == {1: "eos_token"}
    assert found.common.tolist() == [3, 4]


def wordpiece():
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(
        TEXT, trainers.WordPieceTrainer(vocab_size=90, special_tokens=["[UNK]"], show_progress=False)
    )
    return made


def unigram():
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=80, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    made.train_from_iterator(TEXT + RARE, trainer)
    return made


MAKERS = {
    "bytes": lambda: byte_level()[0],
    "metaspace": lambda: metaspace()[0],
    "pieces": wordpiece,
    "unigram": unigram,
}


@pytest.mark.parametrize("kind", MAKERS)
def test_words_are_cut_as_the_tokenizer_cuts_them(kind, tmp_path):
    """For words seen and unseen, the tokens are those that the tokenizers library gives."""
    made = MAKERS[kind]()
    made.save(str(tmp_path / "tokenizer.json"))
    cutter = Cutter(read_vocabulary(tmp_path, "m"))
    lead = " " if kind == "bytes" else ""
    compared = 0
    for word in {w for line in TEXT + RARE for w in line.split()} | {"rowed", "themodel", "merging"}:
        expected = made.encode(lead + word)
        if any("unk" in token.lower() for token in expected.tokens):
            continue
        assert list(cutter.cut(f" {word}".encode())) == expected.ids, word
        compared += 1
    assert compared > 15


@pytest.mark.parametrize("kind", MAKERS)
def test_a_token_that_is_left_out_is_cut_otherwise(kind, tmp_path):
    """The pieces spell the same text without it."""
    made = MAKERS[kind]()
    made.save(str(tmp_path / "tokenizer.json"))
    known = read_vocabulary(tmp_path, "m")
    cutter = Cutter(known)
    found = 0
    for token, number in sorted(known.ids.items()):
        text = known.text(token)
        if len(text) < 4 or token in known.plain_tokens or cutter.cut(text) != (number,):
            continue
        pieces = cutter.cut(text, number)
        assert number not in pieces
        spelt = b"".join(known.text(known.tokens[p]) for p in pieces)
        assert spelt == text
        found += 1
    assert found > 10


def test_bytes_that_are_no_text():
    """A piece of a character falls back to bytes, where the vocabulary has them; else nothing is left."""
    known = vocabulary("metaspace", ["a", "<0xC3>", "<0xA9>"], merges=(("a", "b"),))
    assert Cutter(known).cut(b"\xc3") == (1,)
    assert Cutter(known).cut("aé".encode()) == (0, 1, 2)
    assert Cutter(known).cut(b"\xff") == ()
    assert Cutter(known).cut(b"") == ()
    assert Cutter(vocabulary("bytes", ["Ã", "x"], merges=(("x", "x"),))).cut(b"\xc3\xa9") == (0,)
    assert np.array_equal(Cutter(vocabulary("plain", ["ab", "a", "abc"])).cut(b"abca"), [2, 1])
