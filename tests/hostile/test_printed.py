"""What is printed cannot command a terminal and holds no secrets; what is ordinary is printed as it is."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import attacks as b
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpot.cli.main import main
from stockpot.cli.options import print_json
from stockpot.errors import CheckpointError, Problem
from stockpot.printable import may_hold_secrets, printable, redacted

CHECKOUT = Path(__file__).resolve().parents[2]
LETTERS = "aBcDeFgHiJkLmNoPqRsTuVwXyZ01234567"

SECRETS = {
    "hub": f"cannot read hf_{LETTERS} here",
    "hub, in a variable": f"HF_TOKEN=hf_{LETTERS}",
    "github": f"ghp_{LETTERS}",
    "github, new": f"github_pat_{LETTERS}",
    "gitlab": f"glpat-{LETTERS[:20]}",
    "slack": f"xoxb-{LETTERS}",
    "openai": f"sk-{LETTERS}",
    "openai, new": f"sk-proj-{LETTERS}",
    "anthropic": f"sk-ant-{LETTERS}",
    "google": f"AIza{LETTERS}",
    "npm": f"npm_{LETTERS}",
    "jwt": f"eyJ{LETTERS}.eyJ{LETTERS}.{LETTERS}",
    "bearer": f"Authorization: Bearer {LETTERS}",
    "bearer, alone": f"bearer {LETTERS}",
    "url": f"https://user:{LETTERS}@example.com/x",
    "url, without a user": f"https://:{LETTERS}@example.com/x",
    "url, odd": f"https://user:p@{LETTERS}@example.com/x",
    "url, token as user": f"https://{LETTERS}@example.com/x",
    "query": f"https://example.com/x?token={LETTERS}&revision=main",
    "password": f"password: {LETTERS}",
    "password, quoted": f"{{'password': '{LETTERS} {LETTERS}'}}",
    "api key": f"api_key={LETTERS}",
    "aws": f"AWS_SECRET_ACCESS_KEY={LETTERS}",
}

ORDINARY = (
    "merge_method: linear",
    "pad_token: <|pad|>",
    'tokenizer_source: "union"',
    "tokens: {<|im_end|>: {source: base}}",
    'token: "<|endoftext|>"',
    "org/hf_model_7b",
    "sk-learn-models/my-very-long-name-of-a-model",
    "hf-internal-testing/tiny-random",
    "https://huggingface.co/org/model@v1.0",
    "model.layers.3.self_attn.k_proj.weight",
    "key 'models' is given twice",
    "a token: yes",
    "keys: 3",
    "bearer of news",
    "org/secretary-7b",
    "monkey: patch",
    "task-arithmetic",
    "token_id: 128009",
)

COMMANDS = (
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\x9b2J",
    "\x7f",
    "\x00",
    "\r",
    "\b",
    "\u202e",
    "\u2066",
    "\u200b",
    "\ufeff",
    "\u2028",
    "\ud800",
)


@pytest.mark.parametrize("kind", SECRETS)
def test_secrets_are_hidden(kind):
    """Tokens and passwords of every usual shape, wherever they stand; twice is as good as once."""
    hidden = redacted(SECRETS[kind])
    assert LETTERS[:20] not in hidden
    assert "***" in hidden
    assert redacted(hidden) == hidden
    assert LETTERS[:20] not in str(Problem(SECRETS[kind], fix=SECRETS[kind]))
    assert may_hold_secrets(SECRETS[kind])


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays(text):
    """Names of models, special tokens and recipe text are no secrets."""
    assert redacted(text) == text


def test_recipes_and_documents_stay():
    """Nothing in the project's recipes, documents and test recipes looks like a secret."""
    found = [
        p
        for d in ("examples", "docs", "tests/recipe")
        for p in (CHECKOUT / d).rglob("*")
        if p.suffix in (".md", ".yml", ".py")
    ]
    assert len(found) > 20
    for path in found:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert [line for line in lines if redacted(line) != line and "***" not in line] == [], path


def test_own_tokens_are_hidden_whatever_their_shape(tmp_path, monkeypatch):
    """The values of HF_TOKEN, of its older name and of the stored file are hidden anywhere."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "odd token 1")
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "odd token 1 longer")
    (tmp_path / "token").write_text("from-a-file\n")
    assert redacted("a odd token 1 longer b odd token 1 c from-a-file d") == "a *** b *** c *** d"
    monkeypatch.setenv("HF_TOKEN", "a")
    assert redacted("a banana") == "a banana"


@given(
    st.lists(st.sampled_from([*SECRETS.values(), *ORDINARY, " ", "\n", "'", '"', "://", "@", "token=", "hf_", "AKIA"]))
)
def test_hiding_twice_changes_nothing_more(parts):
    """Whatever stands beside whatever."""
    once = redacted("".join(parts))
    assert redacted(once) == once


@given(st.text())
def test_what_is_printable_is_plain(text):
    """Any text comes out without control characters; printable text as it was."""
    shown = printable(text)
    assert shown.replace("\n", "").isprintable()
    assert printable(shown) == shown
    assert "\n" not in printable(text, lines=False)
    assert shown == text or not text.replace("\n", "").isprintable()


@pytest.mark.parametrize("text", COMMANDS, ids=ascii)
def test_errors_and_json_cannot_command_a_terminal(text, capsys):
    """In a message, a tensor's name, a path, a fix, and in JSON, which still says the same to machines."""
    problem = Problem(f"m{text}", tensor=f"t{text}", file=f"f{text}", fix=f"x{text}")
    assert str(CheckpointError(problem)).replace("\n", "").isprintable()
    print_json({f"k{text}": [f"v{text}"]})
    out = capsys.readouterr().out
    assert out.replace("\n", "").isprintable()
    assert json.loads(out) == {f"k{text}": [f"v{text}"]}


def test_json_hides_secrets_and_stays_json(capsys):
    """Also where a secret stands before a quote."""
    print_json({"path": f'token="{LETTERS}"', f"hf_{LETTERS}": [1.5, {"a": f"password: {LETTERS}"}]})
    out = capsys.readouterr().out
    assert LETTERS[:20] not in out
    assert json.loads(out)["hf_***"][0] == 1.5


def test_a_name_cannot_pass_for_a_line_of_ours():
    """Line ends in names of tensors and files are written out; endless names are cut."""
    shown = str(Problem("bad", tensor="a\nerror: all is well", file="b\nc"))
    assert "\n" not in shown
    assert len(str(Problem("x" * 10**6, tensor="n" * 10**6, file="f" * 10**6))) < 30_000


@pytest.mark.parametrize(
    "text", ["password:", "://:", "token=a", "eyJ", "bearer ", "password: } ", 'secret:"', "hf_", "://" + ":" * 99]
)
def test_hiding_is_fast(text):
    """No text makes the search slow."""
    long = text * (300_000 // len(text))
    started = time.process_time()
    redacted(long)
    assert time.process_time() - started < 1.0


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes")
def test_verbs_print_names_plainly(tmp_path, monkeypatch, capsys):
    """Folders, files and config values with escape codes and secrets, by inspect, diff and plan."""
    monkeypatch.chdir(tmp_path)
    name = f"\x1b]0;x\x07 hf_{LETTERS}"
    for folder in (name, "good"):
        b.model(tmp_path / folder, config__json=json.dumps({"model_type": f"\x1b[2J\n hf_{LETTERS}"}).encode())
    (tmp_path / "x.yml").write_text(b.RECIPE.replace("./good", json.dumps(f"./{name}")))
    for command in (
        ["inspect", name, "--tensors"],
        ["inspect", name, "--json"],
        ["diff", name, "good"],
        ["plan", "x.yml"],
        ["plan", "x.yml", "--json"],
    ):
        assert main(command) == 0
        told = capsys.readouterr()
        assert told.err == ""
        assert told.out.replace("\n", "").isprintable()
        assert LETTERS[:20] not in told.out


def test_a_flood_of_problems_is_cut(tmp_path, capsys):
    """The first are shown, and how many there are."""
    (tmp_path / "x.yml").write_text(b.RECIPE + "".join(f"key{i}: 1\n" for i in range(1000)))
    assert main(["plan", str(tmp_path / "x.yml")]) == 3
    err = capsys.readouterr().err
    assert err.count("error: ") == 200
    assert "1000 problems, of which 800 are not shown" in err
