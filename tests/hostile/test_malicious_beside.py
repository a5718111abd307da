"""Malicious files beside weights: each is refused at once with a message of its own, or means nothing."""

from __future__ import annotations

import struct
import time

import attacks as a
import attacks_beside as b
import pytest

from stockpot.cli.main import main

MILLION = 1_000_000
DEEP = b'{"a":' * 500 + b"1" + b"}" * 500
PEFT = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}


def scaled(value):
    """An adapter whose scale is ``value``."""
    entries = {**b.FACTORS, "lora_unet_b_q.alpha": a.tensor(64, 68, [1], "F32")}
    return b.adapter(entries, payload=bytes(64) + struct.pack("<f", value))


TOKENIZERS = {
    "a tokenizer that links out": (b.tokenizer(link="/etc/passwd"), "leads out of its folder"),
    "a tokenizer that is a device": (b.tokenizer(link="/dev/zero"), "has no tokenizer"),
    "a tokenizer that is a pipe": (b.tokenizer(pipe=True), "has no tokenizer"),
    "a tokenizer nested deep": (b.tokenizer(b'{"model":' + b"[" * MILLION), "nested too deeply"),
    "a token twice": (b.tokenizer(b'{"model":{"type":"WordLevel","vocab":{"a":0,"a":1}}}'), "'a' stands twice"),
    "ten million lists": (b.tokenizer(lambda: b'{"a":[' + b"[]," * 5 * MILLION + b"[]]}"), "8000000 values"),
    "a number of 2^63": (b.vocabulary(vocab={"a": 2**63}), "has the number '9223372036854775808'"),
    "a number of 10^8": (b.vocabulary(vocab={"a": 10**8}), "has the number '100000000'"),
    "a number below zero": (b.vocabulary(vocab={"a": -1}), "has the number '-1'"),
    "a number of a million digits": (
        b.tokenizer(b'{"model":{"vocab":{"a":' + b"9" * MILLION + b"}}}"),
        "a whole number of 1000000 digits",
    ),
    "a token with escape codes": (b.vocabulary(vocab={"\x1b[2Ja": "x"}), r"\x1b[2Ja"),
    "a kind with escape codes": (b.vocabulary(type="\x1b]0;x\x07"), r"\x1b]0;x\x07"),
    "a merge of five": (b.vocabulary(type="BPE", merges=[["a"] * 5]), "joins no pair"),
    "an added token of 10^9": (
        b.tokenizer({"version": "1.0", "added_tokens": [{"id": 10**9, "content": "x"}], "model": b.MODEL}),
        "an added token that is none",
    ),
    "pieces of 2^60 bytes": (b.tokenizer(b"\x0a" + b"\xff" * 8 + b"\x7f" + b"x" * 50, "tokenizer.model"), "cut off"),
    "a number without end": (b.tokenizer(b"\xff" * MILLION, "tokenizer.model"), "more than 64 bits"),
    "pieces in a device": (b.tokenizer(name="tokenizer.model", link="/dev/zero"), "has no tokenizer"),
    "settings nested deep": (b.tokenizer(DEEP, "tokenizer_config.json"), "nested more than 64 levels"),
    "settings with an absurd number": (
        b.tokenizer({"added_tokens_decoder": {"9" * 30: {"content": "x"}}}, "tokenizer_config.json"),
        "no setting of a tokenizer",
    ),
}

FP8 = {
    "scales that fit nothing": (b.fp8(scale=(3, 5)), "fit no weight of [4, 4]"),
    "a method with escape codes": (b.fp8(quant_method="\x1b[2J"), r"quantised (\x1b[2J)"),
    "settings that are a list": (b.fp8(config=[1, 2]), "quantization_config is no map"),
}

PARTS = {
    "components elsewhere": (b.parts("model_index.json", {"..": ["a", "b"], "/etc": ["a", "b"]}), "no weights"),
    "components in a pipe": (b.parts("model_index.json", pipe=True), "no weights in this folder"),
    "components nested deep": (b.parts("model_index.json", b'{"unet":' + b"[" * MILLION), "no weights in this folder"),
    "components without end": (
        b.parts("model_index.json", {f"p{i}": ["a", "b"] for i in range(MILLION // 9)}),
        "no weights",
    ),
    "modules elsewhere": (b.parts("modules.json", [{"path": "../.."}, {"path": "/etc"}]), "no weights in this folder"),
    "weights of others": (lambda f: b.secret(f, "components folder"), "leads out of its folder"),
    "secrets of others": (lambda f: b.secret(f, "components file"), "leads out of its folder"),
    "secrets beside modules": (lambda f: b.secret(f, "modules file"), "leads out of its folder"),
}

ADAPTERS = {
    "a scale that is no number": (scaled(float("nan")), "a scale that is no finite number"),
    "a scale without end": (scaled(float("inf")), "a scale that is no finite number"),
    "an absurd scale": (scaled(3e38), "a scale that is no finite number"),
    "settings nested deep": (b.adapter(b.FACTORS, {b.SETTINGS: DEEP.decode()}), "nested more than 64 levels"),
    "settings that are a list": (b.adapter(b.FACTORS, {b.SETTINGS: "[1]"}), "in its header is no map"),
    "settings of a million digits": (b.adapter(b.FACTORS, {b.SETTINGS: "[" + "9" * MILLION + "]"}), "1000000 digits"),
    "a reversed name": (b.adapter({**b.FACTORS, "lora_\u202e": a.tensor(64, 68, [1], "F32")}), "control characters"),
    "a name that climbs": (b.adapter({n.replace("b_q", ".._etc"): e for n, e in b.FACTORS.items()}), "lacks what"),
    "PEFT's settings in a pipe": (b.peft({}, pipe=True), "not a regular file"),
    "PEFT's settings nested deep": (b.peft(DEEP), "nested more than 64 levels"),
    "a pattern that takes for ever": (b.peft({**PEFT, "rank_pattern": {"(x+x+)+y": 4}}), "cannot be read"),
    "a rank of 2^62": (b.peft({**PEFT, "r": 2**62}), "4611686018427387904, not a whole number"),
    "a kind with escape codes": (b.peft({**PEFT, "peft_type": "\x1b[2J"}), r"type \x1b[2J are not supported"),
}

CASES = {
    f"{kind}: {name}": case
    for kind, cases in (("tokenizer", TOKENIZERS), ("fp8", FP8), ("parts", PARTS), ("adapter", ADAPTERS))
    for name, case in cases.items()
}


@pytest.fixture(scope="module", autouse=True)
def _loaded(tmp_path_factory):
    """What is imported when it is first used is not counted as time of a case."""
    folder = tmp_path_factory.mktemp("warm")
    for number, build in enumerate((b.vocabulary(), b.fp8(), b.peft(PEFT))):
        (folder / str(number)).mkdir()
        main(["plan", str(build(folder / str(number)))])


@pytest.mark.parametrize("name", CASES)
def test_refused(name, tmp_path, monkeypatch, capsys):
    """By the command line, with its own words, at once; nothing is written."""
    build, words = CASES[name]
    monkeypatch.chdir(tmp_path)
    path = build(tmp_path)
    before = a.created(tmp_path)
    capsys.readouterr()
    started = time.process_time()
    code = main(["plan" if path.suffix == ".yml" else "inspect", str(path)])
    seconds = time.process_time() - started
    told = capsys.readouterr()
    assert words in told.err
    assert code in (4, 5, 7)
    assert seconds < 1.0
    assert a.created(tmp_path) == before
    assert (told.out + told.err).replace("\n", "").isprintable()


@pytest.mark.parametrize("block", [[0, 128], [-1, 1], [2**62, 2**62], "x", [True, True], [128] * 1000], ids=str)
def test_blocks_are_those_of_the_scales(block, tmp_path, capsys):
    """Whatever the settings say of blocks: the shapes of the scales tell, and nothing is divided by zero."""
    path = b.fp8(weight_block_size=block)(tmp_path)
    assert main(["plan", str(path)]) == 0
    assert main(["plan", str(path), "--quantize", "same"]) in (0, 5)
    assert "Traceback" not in capsys.readouterr().err


def test_a_chat_template_is_never_rendered(tmp_path, monkeypatch):
    """It is copied as text, whatever it would do."""
    monkeypatch.chdir(tmp_path)
    evil = "{{ ''.__class__.__mro__[1].__subclasses__() }}{% for i in range(10**12) %}{% endfor %}"
    path = b.tokenizer({"chat_template": evil}, "tokenizer_config.json")(tmp_path)
    path.write_text(path.read_text() + "chat_template: auto\n")
    assert main(["merge", str(path), "out", "--quiet"]) == 0
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == evil
