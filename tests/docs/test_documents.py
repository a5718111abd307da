"""What the documents show works: examples run, recipes parse, links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from stockpot.cli.main import main
from stockpot.methods.declare import Method
from stockpot.methods.document import by_family, title_of
from stockpot.methods.registry import METHODS
from stockpot.recipe.parse import parse_recipe
from stockpot.search import load_space

ROOT = Path(__file__).parents[2]
SEARCH = ROOT / "examples" / "search.yml"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def blocks(path, language):
    """Fenced blocks of one language, without the indentation of lists."""
    found = re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    return [textwrap.dedent(block) for block in found]


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_examples_run(example, tmp_path):
    """Every example runs as it is, without arguments, and says something."""
    done = subprocess.run([sys.executable, str(example)], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout


@pytest.mark.parametrize("recipe", sorted({*(ROOT / "examples").glob("*.yml")} - {SEARCH}), ids=lambda p: p.name)
def test_recipes_of_the_examples_are_recipes(recipe, capsys):
    """Each is checked without a fault, with the code it names, and says how when that is not allowed."""
    assert main(["check", str(recipe), "--allow-code"]) == 0
    assert capsys.readouterr().err == ""
    code = "method_file" in recipe.read_text(encoding="utf-8")
    assert main(["check", str(recipe)]) == (3 if code else 0)
    assert ("--allow-code" in capsys.readouterr().err) == code


def test_the_example_of_a_search_is_a_space(capsys):
    """It is tried at both ends of every range, and a merge refuses it with the verb that it is for."""
    space = load_space(SEARCH)
    assert [d.name for d in space.dimensions] == [
        "merge_method", "models[0].weight", "density", "models[1].weight", "models[2].weight",
    ]  # fmt: skip
    assert space.recipe(space.start()).notes == ()
    assert main(["check", str(SEARCH)]) == 3
    assert "stockpot search" in capsys.readouterr().err
    assert all(
        verb in (ROOT / "README.md").read_text(encoding="utf-8") for verb in ("`search RECIPE", "examples/search.yml")
    )


def test_methods_of_the_readme():
    """Every method is listed under its family, with its other names, and nothing else is."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for family, members in by_family(METHODS).items():
        (found,) = re.findall(rf"^- {title_of(family)}: (.*?)\n(?=- |\n)", text, re.DOTALL | re.MULTILINE)
        told = re.split(r", (?![^(]*\))", " ".join(found.split()))
        assert told == [f"{m.name} ({', '.join(m.aliases)})" if m.aliases else m.name for m in members]


def test_recipe_of_the_readme():
    """The README's recipe is a recipe."""
    (text,) = blocks(ROOT / "README.md", "yaml")
    assert parse_recipe(text).dtype == "bfloat16"


def test_python_of_the_readme(tmp_path, monkeypatch):
    """The README's Python example runs on real folders."""
    import numpy as np
    from safetensors.numpy import save_file

    for seed, name in enumerate(("base", "math", "code")):
        (tmp_path / name).mkdir()
        tensor = np.random.default_rng(seed).normal(size=(4, 4)).astype(np.float32)
        save_file({"w": tensor}, tmp_path / name / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(ROOT / "README.md", "python")
    exec(code, {})
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_method_of_the_guide():
    """The method that CONTRIBUTING adds is a valid declaration."""
    (code,) = blocks(ROOT / "CONTRIBUTING.md", "python")
    names: dict[str, object] = {}
    exec(code, names)
    assert isinstance(names["TRIMMED_MEAN"], Method)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_somewhere(document):
    """Relative links point to files that exist."""
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target
