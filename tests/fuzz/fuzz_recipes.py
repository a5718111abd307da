"""Damaged recipes."""

from __future__ import annotations

import json
import os
import sys
from functools import cache
from pathlib import Path

import fuzz_damage as damage

from stockpot.recipe.keys import PLACES
from stockpot.recipe.known import known_parameters, method_names
from stockpot.recipe.parse import load_recipe

_TESTS = Path(__file__).resolve().parents[1]
_SPECIAL = (
    "*a",
    "&a",
    "&a ",
    "<<: *a",
    "!!python/object:os.system",
    "!x",
    "? ",
    "|",
    ">",
    "---",
    "...",
    "%YAML 1.1",
    "%YAML 1." + "9" * 5000,
    '"\\UFFFFFFFF"',
    '"\\ud800"',
    '"\\0"',
    "'",
    '"',
    "[",
    "]",
    "{",
    "}",
    ": ",
    "- ",
    "#",
    "\t",
    "\u2028",
    "\u0085",
    "\x1b",
    "\ufeff",
    "~",
    "null",
    "yes",
    ".inf",
    ".nan",
    "0x" + "f" * 300,
    "1:30",
    "1e999",
    "-1",
    "0.5",
    "1e400",
    "2024-01-01",
    "[0.1, 0.9]",
    "{filter: q, value: 1}",
    "[{value: 0}]",
    "layer_range: [0, 999999999999]",
    "method_file: ../x.py",
    'method_file: "\\0"',
    "seed: 18446744073709551616",
    "../x",
    "/etc/passwd",
    "a@b",
    "a+b",
    "~x",
    "${x}",
    "[" * 70,
    "{a: " * 70,
    "- " * 70,
    "x" * 3000,
)


@cache
def seeds():
    """Texts of recipes: those of the tests and the examples, and of the folder STOCKPOT_RECIPES."""
    sys.path.insert(0, str(_TESTS / "recipe"))
    from recipe_cases import CASES, TEXTS

    found = [*TEXTS.values(), *(case[0] for case in CASES.values())]
    folders = [_TESTS.parent / "examples", *(Path(f) for f in [os.environ.get("STOCKPOT_RECIPES")] if f)]
    files = sorted(path for folder in folders for suffix in ("yml", "yaml") for path in folder.rglob(f"*.{suffix}"))
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in files]
    return [text for text in (*found, *texts) if len(text) < 4000]


@cache
def tokens():
    """Words to put into recipes."""
    keys = sorted({key.name for place in PLACES.values() for key in place.keys})
    return (*_SPECIAL, *damage.NUMBERS, *keys, *(f"{key}: " for key in keys), *method_names(), *known_parameters())


def make(chance):
    """A recipe with damaged lines and words."""
    text, other = chance.choice(seeds()), chance.choice(seeds())
    text = damage.of_lines(chance, text, other, tokens(), chance.choice((0, 1, 1, 1, 2, 3, 6)))
    data = text.encode("utf-8", "surrogatepass")
    return damage.of_bytes(chance, data) if chance.random() < 0.15 else data


def read(path):
    """Parse the recipe; what is accepted resolves to data that JSON can write."""
    recipe = load_recipe(path)
    json.dumps(recipe.resolved, allow_nan=False)
