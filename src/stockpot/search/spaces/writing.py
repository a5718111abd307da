"""Values as YAML that stands on one line, in block and in flow style alike, and is read as exactly these values."""

from __future__ import annotations

import re
from typing import Any

import yaml

from stockpot.recipe.yaml_nodes import Scalar

__all__ = ["number_text", "scalar_text", "word_text"]

_PLAIN = re.compile(r"[A-Za-z_/.][\w./@+-]*", re.ASCII)
_RESOLVER: Any = yaml.resolver.Resolver()  # its stubs leave it untyped
_STRING = "tag:yaml.org,2002:str"


def number_text(value: float) -> str:
    """A number to the last bit, as YAML 1.1 takes it for one: 1e-05 is a word there.

    >>> number_text(1e-05), number_text(0.1), number_text(3)
    ('1.0e-05', '0.1', '3')
    """
    text = repr(value)
    mantissa, exponent, power = text.partition("e")
    return f"{mantissa}.0e{power}" if exponent and "." not in mantissa else text


def word_text(text: str) -> str:
    """A text, in quotes where it could be taken for something else.

    >>> word_text("org/model@v1"), word_text("on"), word_text("a b")
    ('org/model@v1', '"on"', '"a b"')
    """
    plain = _PLAIN.fullmatch(text) is not None
    if plain and _RESOLVER.resolve(yaml.ScalarNode, text, (True, False)) == _STRING:
        return text
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text) + '"'


def scalar_text(node: Scalar) -> str:
    """What a scalar says, however it was written."""
    if node.tag == "text":
        return word_text(node.text)
    return "null" if node.tag == "null" else node.text
