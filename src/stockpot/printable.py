"""Text from files that strangers made, before people or terminals see it: control codes shown, secrets hidden."""

from __future__ import annotations

import os
import re
import stat
from functools import lru_cache

__all__ = ["may_hold_secrets", "printable", "redacted"]

_HIDDEN = "***"
_SIGNS = (
    "hf_", "api_org_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "sk-", "xox", "npm_", "aiza",
    "eyj", "akia", "asia", "bearer", "authorization", "token", "key", "passw", "passphrase", "secret", "credential",
    "://",
)  # fmt: skip
"""What every secret that has a shape contains, in small letters; text without them is not searched further."""

_SHAPES = re.compile(
    r"""(?<![A-Za-z0-9])(?:
      (?P<kind> hf_(?:jwt_|oauth_)? | api_org_ | gh[pousr]_ | npm_ ) [A-Za-z0-9]{16,}
    | (?P<long> github_pat_ | glpat- | xox[abeoprs]- | sk-(?:proj|ant|or|svcacct|admin)- ) [\w-]{16,}
    | (?P<open> sk- ) [A-Za-z0-9]{20,}
    | (?P<google> AIza ) [\w-]{30,}
    | (?P<jwt> eyJ ) [\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?
    | (?P<aws> AKIA | ASIA ) [A-Z0-9]{16} (?![A-Za-z0-9])
    )""",
    re.VERBOSE | re.ASCII,
)
_BEARER = re.compile(r"(?i)\b(bearer[ \t]+)[\w.~+/=-]{16,}", re.ASCII)
_USER = re.compile(r"(://)(?:[^\s/:@]*:[^\s/]*|[^\s/:@]{20,})@")
_VALUE = r"""(?: "[^"\n]*" | '[^'\n]*' | [^\s"'&]*[^\s"'&,;)}\]] )"""
_NAMED = re.compile(
    rf"""(?ix)
    ( (?<![a-z]) (?:
        (?: access|auth|api|bearer|refresh|session|oauth|private|github|gitlab|hub|hf|face_hub ) [_-]?token
      | api[_-]?key | (?: secret[_-]?)? access[_-]?key (?: [_-]?id )? | (?: secret|private ) [_-]?key
      | client[_-]?secret | secret | credentials? | password | passwd | passphrase
      ) ["']? [ \t]* [:=] [ \t]* ) {_VALUE}
  | ( authorization ["']? [ \t]* [:=] [ \t]* ) (?: (?: basic|bearer|digest|token ) [ \t]+ )? {_VALUE}
  | ( (?<![\w-]) token ["']? [ \t]* [:=] [ \t]* ["']? ) (?= [a-z_.~+/=-]*[0-9] ) [\w.~+/=-]{{8,}}
    """,
    re.ASCII,
)
_MOST_ROUNDS = 8


def printable(text: str, *, lines: bool = True) -> str:
    r"""``text`` with everything that a terminal could obey written out; line ends stay where ``lines`` is true.

    Control characters (C0, DEL, C1), overrides of the reading direction, characters without width,
    line and paragraph separators, private and unassigned ones and half surrogate pairs are written as in Python.

    >>> printable("\x1b[2Jmodel")
    '\\x1b[2Jmodel'
    """
    if text.isprintable():
        return text
    if lines and "\n" in text:
        return "\n".join(map(printable, text.split("\n")))
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def redacted(text: str) -> str:
    """``text`` without tokens, passwords and credentials: those of known shape or name, and this user's own.

    Doing it twice changes nothing more.

    >>> redacted("https://me:hunter2@example.com/x?token=a1b2c3d4e5")
    'https://***@example.com/x?token=***'
    """
    for own in _own_tokens():
        text = text.replace(own, _HIDDEN)
    if not _has_sign(text):
        return text
    for _ in range(_MOST_ROUNDS):  # hiding one can uncover another
        before, text = text, _once(text)
        if text == before:
            break
    return text


def may_hold_secrets(text: str) -> bool:
    """Whether :func:`redacted` has to look closer; no part of ``text`` changes when not."""
    return _has_sign(text) or any(own in text for own in _own_tokens())


def _has_sign(text: str) -> bool:
    small = text.lower()
    return any(sign in small for sign in _SIGNS)


def _once(text: str) -> str:
    text = _USER.sub(rf"\1{_HIDDEN}@", text)
    text = _NAMED.sub(_keep_name, text)
    text = _BEARER.sub(rf"\1{_HIDDEN}", text)
    return _SHAPES.sub(lambda found: f"{found[found.lastgroup or 0]}{_HIDDEN}", text)


def _keep_name(found: re.Match[str]) -> str:
    return f"{next(part for part in found.groups() if part is not None)}{_HIDDEN}"


def _own_tokens() -> list[str]:
    """The values of this user's tokens for the hub, longest first."""
    given = [os.environ.get(name, "").strip() for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")]
    given.append(_stored(_token_path()))
    return sorted({token for token in given if len(token) >= 8}, key=lambda token: (-len(token), token))


def _token_path() -> str:
    """Where the hub's library keeps the token of `hf auth login`."""
    named = os.environ.get("HF_TOKEN_PATH")
    if named:
        return os.path.expanduser(named)  # noqa: PTH111 - no need to import pathlib at every start
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{cache}/huggingface"
    return os.path.expanduser(f"{home}/token")  # noqa: PTH111 - likewise


@lru_cache(maxsize=8)
def _stored(path: str) -> str:
    """The token in the file at ``path``; empty without one."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - likewise
            return ""
        with open(path, "rb") as file:  # noqa: PTH123 - likewise
            return file.read(4096).decode("ascii", "ignore").strip()
    except (OSError, ValueError):
        return ""
