"""Damage, chosen by a random number generator: of bytes, of tokens of a text, and of whole lines.

Everything is a function of its generator, so that an input is known by its target, seed and number.
"""

from __future__ import annotations

import re

NUMBERS = (
    "-1",
    "0",
    "-0",
    "1",
    "2",
    "3",
    "7",
    "8",
    "31",
    "32",
    "33",
    "255",
    "4096",
    "65536",
    "2147483647",
    "2147483648",
    "4294967296",
    "9007199254740993",
    "4611686018427387904",
    "4611686018427387905",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1" + "0" * 40,
    "9" * 400,
    "9" * 5000,
    "1.0",
    "1.5",
    "1e3",
    "1e999",
    "-1e999",
    "0.1e-400",
    "NaN",
    "Infinity",
    "-Infinity",
    "0x10",
    "01",
    "1_0",
    "+1",
    ".5",
    "true",
    "null",
)
"""What makes readers stumble where a number stands."""

TEXTS = (
    '""',
    '"a"',
    '"__metadata__"',
    '"dtype"',
    '"shape"',
    '"data_offsets"',
    '"weight_map"',
    '"\\ud800"',
    '"\\u0000"',
    '"\\u001b[2J"',
    '"\\u202e"',
    '"../x"',
    '"/etc/passwd"',
    '"C:\\\\x"',
    '"..\\\\x"',
    '"."',
    '"a/../b"',
    '"' + "x" * 300 + '"',
    '"' + "n" * 3000 + '"',
    '"\u00e9"',
    '"\U0001f600"',
    '"F32"',
    '"F4"',
    '"BOOL"',
    '"Q4"',
    "'a'",
    '"',
    "\x00",
    "\ufeff",
)
"""Likewise for texts of JSON."""

SHAPES = ("[]", "{}", "[[]]", "[" * 70 + "]" * 70, "[" * 3000, '{"a":' * 70 + "1" + "}" * 70, "[0,0]", "[1,1,1]")

_JSON = re.compile(r'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|[A-Za-z_]+|\s+|.', re.DOTALL)


def of_bytes(chance, data):
    """A few bytes changed, cut out, doubled or cut off."""
    data = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 8))):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, 0x1B, 0x22, 0x5B, 0x7B, chance.randrange(256)))
        elif kind == 2:
            del data[at : at + chance.choice((1, 1, 2, 4, 8, 64))]
        elif kind == 3:
            data[at:at] = chance.randbytes(chance.choice((1, 1, 2, 4, 8)))
        elif kind == 4:
            data[at:at] = data[max(0, at - chance.choice((1, 4, 16, 64))) : at]
        elif chance.random() < 0.3:
            del data[at:]
    return bytes(data)


def of_json(chance, text, other, rounds):
    """Tokens of JSON replaced, doubled, swapped, cut out, or taken from ``other``."""
    tokens = _JSON.findall(text)
    for _ in range(rounds):
        if not tokens:
            break
        _one(chance, tokens, lambda: _JSON.findall(other))
    return "".join(tokens)


def _one(chance, tokens, others):
    at = chance.randrange(len(tokens))
    kind = chance.randrange(9)
    if kind <= 2:
        tokens[at] = chance.choice(_like(tokens[at]))
    elif kind == 3:
        tokens[at] = chance.choice((*NUMBERS, *TEXTS, *SHAPES))
    elif kind == 4:
        del tokens[at : at + chance.choice((1, 1, 2, 6))]
    elif kind == 5:
        tokens[at:at] = tokens[at : at + chance.choice((1, 2, 8, 30))]
    elif kind == 6:
        to = chance.randrange(len(tokens))
        tokens[at], tokens[to] = tokens[to], tokens[at]
    elif kind == 7:
        found = others()
        start = chance.randrange(len(found) + 1)
        tokens[at:at] = found[start : start + chance.choice((1, 3, 12, 40))]
    else:
        tokens[at:at] = [chance.choice((",", ":", "[", "]", "{", "}", " ", "\n", "\\", *NUMBERS[:8]))]


def _like(token):
    if token[:1] == '"':
        return TEXTS
    return NUMBERS if token[:1].isdigit() or token[:1] == "-" else ("[", "]", "{", "}", ",", ":", "", *SHAPES[:4])


def of_lines(chance, text, other, tokens, rounds):
    """Lines and words of a text replaced, doubled, moved, indented otherwise, or taken from ``other``."""
    lines = text.split("\n")
    for _ in range(rounds):
        at = chance.randrange(len(lines))
        kind = chance.randrange(10)
        if kind <= 4:
            words = re.split(r"(\s+|[\[\]{},:#&*!|>'\"%@`?-])", lines[at])
            words[chance.randrange(len(words))] = chance.choice(tokens)
            lines[at] = "".join(words)
        elif kind == 5:
            lines[at] = chance.choice((" ", "  ", "    ", "- ", "\t", "")) + lines[at].removeprefix("  ")
        elif kind == 6:
            del lines[at : at + chance.choice((1, 1, 3))]
        elif kind == 7:
            lines[at:at] = lines[at : at + chance.choice((1, 2, 5))]
        elif kind == 8:
            found = other.split("\n")
            start = chance.randrange(len(found))
            lines[at:at] = found[start : start + chance.choice((1, 2, 6))]
        else:
            lines.insert(at, chance.choice(tokens))
        lines = lines or [""]
    return "\n".join(lines)
