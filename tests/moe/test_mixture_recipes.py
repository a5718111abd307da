"""Recipes of mixtures: mergekit-moe's dialect as it is, every mistake with its line, and how else they are read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mixing import dense, mixed, write_recipe

from corpus_index import ENVIRONMENT, FOLDER
from files import read_model
from stockpot.architecture.mixtures import LAYOUTS
from stockpot.arrangements import Cast
from stockpot.cli.main import main
from stockpot.errors import RecipeError
from stockpot.expression import Adapted, Leaf
from stockpot.recipe.keys import GATE_MODES, PLACES
from stockpot.recipe.mixture import load_mixture, parse_mixture

CORPUS = sorted(path.name for path in FOLDER.glob("*.yml") if "experts:" in path.read_text("utf-8"))
MISTAKES = {
    "084": "not a list of texts",
    "097": "unknown key 'yamlbase_model'",
    "099": "needs prompts of every expert",
    "100": "needs prompts of every expert",
    "107": "unknown key 'tokenizer'",
}
"""The two of 099 and 100 are templates, whose second expert is only named."""


@pytest.mark.skipif(not CORPUS, reason=f"the recipe corpus is absent: set {ENVIRONMENT} to the folder with recipes/")
@pytest.mark.parametrize("file", CORPUS or ["none"])
def test_recipes_of_others(file):
    """Recipes from public repositories are read as they are; those with a mistake say which, with its line."""
    if file[:3] not in MISTAKES:
        recipe = load_mixture(FOLDER / file)
        assert len(recipe.experts) >= 2
        assert recipe.per_token == 2
        return
    with pytest.raises(RecipeError) as caught:
        load_mixture(FOLDER / file)
    assert [MISTAKES[file[:3]] in p.message and p.line is not None for p in caught.value.problems].count(True) >= 1


TWO = "experts: [{source_model: b, positive_prompts: [x]}, {source_model: c, positive_prompts: [y]}]"


@pytest.mark.parametrize(
    ("text", "line", "message", "fix"),
    [
        (f"gate_mode: random\n{TWO}", 1, "needs base_model", "base_model: "),
        (f"base_model: a\n{TWO}\ngate_mod: random", 3, "unknown key 'gate_mod'", "did you mean gate_mode?"),
        (f"base_model: a\n{TWO}\ngate_mode: hiden", 3, "gate_mode is 'hiden', not one of", None),
        (f"base_model: a\n{TWO}\nexperts_per_token: 3", 3, "experts_per_token 3, but 2 experts", "1 to 2"),
        (f"base_model: a\n{TWO}\narchitecture: mixtrl", 3, "unknown architecture 'mixtrl'", "did you mean mixtral?"),
        (f"base_model: a\n{TWO}\npooling: last\ngate_mode: hidden_avg", 3, "is the mean, not pooling: last", None),
        (f"base_model: a\n{TWO}\nstates: best\ngate_mode: trained", 3, "states belongs to gate_mode: hidden", None),
        (
            "base_model: a\nexperts:\n- source_model: b\n- source_model: c\n",
            3,
            "hidden needs prompts of every",
            "random",
        ),
        (
            "base_model: a\ngate_mode: random\nexperts:\n- {source_model: b, noise_scale: -1}",
            4,
            "noise_scale -1 is negative",
            None,
        ),
        (
            "base_model: a\ngate_mode: random\nexperts:\n- sourcemodel: b",
            4,
            "unknown key 'sourcemodel'",
            "did you mean source_model?",
        ),
        (
            f"base_model: a\n{TWO}\nshared_experts:\n- source_model: b\n- source_model: c",
            5,
            "2 shared experts",
            "one expert can be shared",
        ),
        ("merge_method: linear\nmodels: [{model: a}]", 1, "no mixture of experts", "base_model: A"),
    ],
    ids=lambda v: v if isinstance(v, str) and len(v) < 60 and "\n" not in v else "",
)
def test_mistakes_have_lines_and_fixes(text, line, message, fix):
    """What is wrong is told with its line, and what to do about it."""
    with pytest.raises(RecipeError) as caught:
        parse_mixture(text)
    found = next(p for p in caught.value.problems if message in p.message)
    assert found.line == line
    assert fix is None or fix in found.fix


def test_all_mistakes_come_at_once():
    """One reading finds everything."""
    with pytest.raises(RecipeError) as caught:
        parse_mixture(
            "base_model: a\nexperts:\n- {source_model: b, noise: 1}\n- {positive_prompts: x}\ndtype: int\nz: 1"
        )
    told = " ".join(p.message for p in caught.value.problems)
    for part in (
        "unknown key 'noise'",
        "needs source_model",
        "not a list of texts",
        "dtype is 'int'",
        "unknown key 'z'",
    ):
        assert part in told


def test_what_is_not_said():
    """Defaults are those of mergekit-moe: hidden states of the last token, two experts for each token."""
    recipe = parse_mixture(f"base_model: a\n{TWO}")
    assert (recipe.gate_mode, recipe.pooling, recipe.states, recipe.per_token) == ("hidden", "last", "layer", 2)
    assert (recipe.architecture, recipe.dtype, recipe.seed) == (None, None, 0)
    assert parse_mixture(f"base_model: a\n{TWO}\ngate_mode: hidden_avg").pooling == "mean"
    assert parse_mixture("base_model: a\ngate_mode: random\nexperts: [{source_model: a}]").per_token == 1
    assert parse_mixture(f"base_model: a\n{TWO}\nunknown: 1", lenient=True).notes


def test_experts_are_any_models():
    """A model with an adapter, a merge in place, and a document by name may be experts."""
    recipe = parse_mixture(
        "base_model: a\ngate_mode: random\nexperts:\n- source_model: a+lora\n- source_model: m\n"
        "- source_model: {merge_method: linear, models: [{model: a}, {model: b}], parameters: {weight: 0.5}}\n"
        "---\nname: m\nmerge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\ndtype: bfloat16"
    )
    kinds = [type(expert.of) for expert in recipe.experts]
    assert kinds[:2] == [Adapted, Cast]
    assert kinds[2] not in (Leaf, Adapted)
    with pytest.raises(RecipeError, match="has no name"):
        parse_mixture(f"base_model: a\n{TWO}\n---\nmerge_method: linear\nmodels: [{{model: a}}]")


def test_a_merge_as_an_expert_is_computed(tmp_path):
    """An expert that is an average of two models has the averages of their MLPs."""
    for seed, name in enumerate("ab"):
        dense(tmp_path / name, "llama", seed)
    average = {
        "merge_method": "linear",
        "models": [{"model": str(tmp_path / n)} for n in "ab"],
        "parameters": {"weight": 0.5},
    }
    experts = [{"source_model": average}, {"source_model": str(tmp_path / "b")}]
    write_recipe(tmp_path / "r.yml", tmp_path / "a", experts, gate_mode="random")
    found = read_model(mixed(tmp_path / "r.yml", tmp_path / "out"))
    a, b = read_model(tmp_path / "a"), read_model(tmp_path / "b")
    name = "model.layers.1.mlp.up_proj.weight"
    expected = ((a[name].astype(float) + b[name].astype(float)) / 2).astype("float32")
    assert (found["model.layers.1.block_sparse_moe.experts.0.w3.weight"] == expected).all()


def test_other_verbs_know_mixtures(tmp_path, capsys):
    """check reads a mixture's recipe; merge and plan say which verb makes it."""
    path = tmp_path / "r.yml"
    path.write_text(f"base_model: a\n{TWO}")
    assert main(["check", str(path)]) == 0
    assert "ok, for stockpot moe" in capsys.readouterr().out
    assert main(["check", "--json", str(path)]) == 0
    assert '"base_model": "a"' in capsys.readouterr().out
    for verb in (["merge", str(path), str(tmp_path / "out")], ["plan", str(path)]):
        assert main(verb) == 7
        assert "stockpot moe RECIPE OUT" in capsys.readouterr().err
    path.write_text(f"base_model: a\n{TWO}\nz: 1")
    assert main(["check", str(path)]) == 3


def test_the_page_is_true():
    """The recipe of the page is one, and the page names every key and layout."""
    text = (Path(__file__).parents[2] / "docs" / "moe.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len(parse_mixture(recipe).experts) == 2
    keys = {key.name for place in ("experts", "expert") for key in PLACES[place].keys} - {"name"}
    for word in (*keys, *LAYOUTS, *GATE_MODES):
        assert f"`{word}`" in text, word
