"""The promises of docs/reliability.md and docs/security.md name tests, and those are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(tests/[\w/.]+\.py)(?:::(\w+))?`")


def named(document):
    return NAMED.findall((ROOT / "docs" / document).read_text(encoding="utf-8"))


@pytest.mark.parametrize("document", ["reliability.md", "security.md"])
def test_named_tests_exist(document):
    """Each test that is said to hold a promise is a function of that name in that file."""
    assert len(named(document)) > 5
    for file, function in named(document):
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert not function or function in functions, (file, function)


def test_every_promise_names_its_test():
    """No row of the table of promises is without a test."""
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    section = text.split("## Promises")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    assert len(rows) >= 8
    assert all(NAMED.search(row) for row in rows), rows
