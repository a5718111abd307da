"""Modules say what they offer, and take from each other only what is offered."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import stockpot

MODULES = [m.name for m in pkgutil.walk_packages(stockpot.__path__, "stockpot.") if not m.name.endswith("__main__")]


def isort_key(name):
    """Constants, then classes, then the rest, as ruff sorts __all__."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2
    return kind, [int(p) if p.isdigit() else p for p in _split(name)]


def _split(name):
    parts, last = [], ""
    for char in name:
        if last and last[-1].isdigit() != char.isdigit():
            parts.append(last)
            last = ""
        last += char
    return [*parts, last]


@pytest.mark.parametrize("name", MODULES)
def test_all_is_sorted_and_holds_what_exists(name):
    """__all__ is sorted, has no name twice, and every name in it can be had; packages may leave it out."""
    module = import_module(name)
    offered = getattr(module, "__all__", None)
    if offered is None:
        assert hasattr(module, "__path__")
        return
    assert list(offered) == sorted(set(offered), key=isort_key)
    assert all(hasattr(module, n) for n in offered)
    assert module.__doc__


def test_modules_take_from_each_other_only_what_is_offered():
    """What one module imports from another is in that one's __all__: no private doors."""
    root = Path(stockpot.__file__).parent
    taken = []
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("stockpot"):
                continue
            module = import_module(node.module)
            offered = set(getattr(module, "__all__", ()))
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}" in MODULES
                if not submodule and alias.name not in offered:
                    taken.append(f"{path.relative_to(root)}: {alias.name} of {node.module}")
    assert taken == []


def test_the_package_offers_its_names_lazily():
    """Importing stockpot loads nothing heavy; each offered name is there when it is asked for, others are not."""
    code = (
        "import sys, stockpot as sp\n"
        "assert not {'numpy', 'numba', 'yaml', 'click', 'rich', 'huggingface_hub'} & set(sys.modules)\n"
        "assert all(hasattr(sp, name) for name in sp.__all__)\n"
        "assert set(sp.__all__) < set(dir(sp))\n"
        "assert 'numba' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = stockpot.nonsense


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["--help"], {"numpy", "numba", "yaml", "rich", "huggingface_hub"}),
        (["methods", "ties"], {"numba", "rich.progress", "huggingface_hub"}),
        (["schema"], {"numba", "rich.progress", "huggingface_hub"}),
    ],
)
def test_quick_verbs_load_little(arguments, heavy):
    """Verbs that need no kernel do not load the compiler, so that they answer at once."""
    code = (
        "import sys\nfrom stockpot.cli.main import main\n"
        f"main({arguments!r})\n"
        f"print(sorted({heavy!r} & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stderr.strip() == "[]"


def test_the_help_of_every_verb_loads_nothing_heavy():
    """Not even NumPy: what a verb needs is imported when it is carried out."""
    code = (
        "import sys\nfrom stockpot.cli.main import _VERBS, main\n"
        "heavy = {'numpy', 'numba', 'yaml', 'rich', 'huggingface_hub', 'torch', 'optuna', 'sqlite3'}\n"
        "for verb in _VERBS:\n"
        "    assert main([verb, '--help']) == 0\n"
        "    assert not heavy & set(sys.modules), (verb, heavy & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
