"""The model card: front matter that the hub takes, licences told honestly, recipe, picture."""

from __future__ import annotations

import pytest
import yaml
from merged_models import cached, model, recipe

import stockpot as sp
from stockpot.execute.card import model_card
from stockpot.provenance.licences import Licence, licence_in, shared

LINEAR = "merge_method: linear\nmodels: [{model: a}, {model: b}]\n"


def card_of(place, fronts, *, text=LINEAR, config=True):
    for seed, (name, front) in enumerate(zip("ab", fronts, strict=True)):
        model(place / name, seed, front=front, **({} if config else {"config": None}))
    return model_card(sp.plan(recipe(place, text)))


def front(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_front_matter_of_local_models(tmp_path):
    """Tags and library; no base_model, since the hub refuses names that are not its own."""
    card = card_of(tmp_path, (None, None))
    assert front(card) == {"library_name": "transformers", "tags": ["merge", "stockpot"]}
    assert "- `a`" in card
    assert "- `b`" in card


def test_base_models_are_ids_of_the_hub(tmp_path):
    """Each once, as ids; revisions stand in the body."""
    one, two = (cached(tmp_path / "hub", n, i) for i, n in enumerate(("org/one", "1e5")))
    local = model(tmp_path / "local", 3)
    card = model_card(sp.plan(0.5 * sp.open(one) + 0.25 * sp.open(two) + 0.25 * sp.open(local)))
    assert sorted(front(card)["base_model"]) == ["1e5", "org/one"]
    assert f"`org/one` at the hub, revision `{one.name}`" in card
    assert f"`{local}`" in card


def test_no_library_without_a_model_type(tmp_path):
    """Only a donor whose config says model_type is a model of transformers."""
    assert "library_name" not in front(card_of(tmp_path, (None, None), config=False))
    (tmp_path / "a" / "config.json").write_text('{"layers": 2}')
    assert "library_name" not in front(model_card(sp.plan(tmp_path / "recipe.yml")))


def test_a_licence_that_all_state_is_inherited(tmp_path):
    """However it is spelled."""
    card = card_of(tmp_path, ("license: MIT\ntags: [x]", "license:\n- mit"))
    assert front(card)["license"] == "mit"
    assert "`mit`, which this model inherits" in card


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ("license: apache-2.0", "`apache-2.0`"),
        ("tags: [x]", "states none"),
        (None, "states none"),
        ("license: [mit, gpl]", "states none"),
        ('license: "mit\\nbase_model: evil"', "states none"),
        ("license: {a: b}", "states none"),
        ("license: [", "states none"),
    ],
)
def test_licences_that_do_not_agree_are_told(tmp_path, other, told):
    """Another licence, none, no front matter, or one that cannot be read: nothing is claimed, each input is told."""
    card = card_of(tmp_path, ("license: mit", other))
    assert "license" not in front(card)
    assert f"- `a`: `mit`\n- `b`: {told}\n" in card


def test_other_is_no_licence_without_a_name(tmp_path):
    """Two models under ``other`` may be under different licences; with one name and link they are not."""
    assert "license" not in front(card_of(tmp_path, ("license: other", "license: other")))
    named = "license: other\nlicense_name: llama3\nlicense_link: https://x.y/z"
    found = front(card_of(tmp_path, (named, named)))
    assert (found["license"], found["license_name"], found["license_link"]) == ("other", "llama3", "https://x.y/z")
    assert "license" not in front(card_of(tmp_path, (named, named.replace("z", "w"))))
    assert shared([]) is None
    assert shared([Licence("other", "n")]) == Licence("other", "n")


def test_only_the_beginning_of_a_readme_is_read(tmp_path):
    """A README of any size, a folder or a pipe of that name, text that is no UTF-8: no failure, no licence."""
    import os

    path = tmp_path / "README.md"
    path.write_bytes(b"---\nlicense: mit\n---\n" + b"x" * 1_000_000)
    assert licence_in(tmp_path) == Licence("mit")
    path.write_bytes(b"---\n" + b"a: b\n" * 100_000 + b"license: mit\n---\n")
    assert licence_in(tmp_path) is None
    path.write_bytes(b"---\r\nlicense: mit\r\nx: \xff\r\n---\r\n")
    assert licence_in(tmp_path) == Licence("mit")
    path.write_bytes(b"license: mit\n")
    assert licence_in(tmp_path) is None
    path.unlink()
    path.mkdir()
    assert licence_in(tmp_path) is None
    path.rmdir()
    os.mkfifo(path)
    assert licence_in(tmp_path) is None
    assert licence_in(None) is None


def test_the_card_is_a_function_of_the_inputs(tmp_path):
    """Twice the same; recipe and picture stand in blocks of their own."""
    cards = [card_of(tmp_path, ("license: mit", None)) for _ in range(2)]
    assert cards[0] == cards[1]
    assert f"```yaml\n{LINEAR}```" in cards[0]
    assert "```mermaid\nflowchart TD\n" in cards[0]
    assert "stockpot verify" in cards[0]
