"""No line of Stockpot loads code from a checkpoint: what could do so is not used at all."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import stockpot

ROOT = Path(stockpot.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
MODULES = {"pickle", "cPickle", "dill", "shelve", "marshal", "joblib", "cloudpickle", "runpy", "code"}
CALLS = {"eval", "exec", "__import__"}
METHODS = {
    ("yaml", "load"),
    ("yaml", "load_all"),
    ("yaml", "unsafe_load"),
    ("yaml", "full_load"),
    ("os", "system"),
    ("os", "popen"),
    ("np", "load"),
    ("numpy", "load"),
    ("torch", "load"),
}


OWN = {"search/tuning/workers.py": ["pickle"]}
"""Files that unpickle what a process of Stockpot has sent to another one over a pipe, never what lies in a file."""


def uses(tree):
    """Names of what a module uses that could run or load code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from MODULES & {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            yield from MODULES & {(node.module or "").partition(".")[0]}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield from CALLS & {node.func.id}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield from (f"{owner}.{name}" for owner, name in METHODS & {(node.value.id, node.attr)})
        elif isinstance(node, ast.keyword) and not (isinstance(node.value, ast.Constant) and node.value.value is False):
            yield from {"trust_remote_code"} & {node.arg}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_runs_code_is_used(path):
    """No unpickling, no evaluation, no YAML but the safe kind, no remote code."""
    allowed = OWN.get(path.relative_to(ROOT).as_posix(), [])
    assert list(uses(ast.parse(path.read_text(encoding="utf-8")))) == allowed


def test_one_place_runs_a_users_file():
    """Only method files, which need --allow-code, are executed."""
    found = [str(path.relative_to(ROOT)) for path in FILES if "exec_module" in path.read_text(encoding="utf-8")]
    assert found == ["recipe/method_files.py"]


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "eval('1')",
        "yaml.load(x)",
        "np.load(x)",
        "f(trust_remote_code=True)",
    ],
)
def test_the_search_finds(text):
    """What is looked for is found."""
    assert list(uses(ast.parse(text)))
