"""Groups give each layer the value of its group, and layers that are in are in: checked on the bytes of merges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

import stockpot as sp
from files import read_model, write_model
from stockpot.errors import CheckpointError, RecipeError
from stockpot.recipe.parse import parse_recipe
from stockpot.search.spaces.parts import group_of
from stockpot.search.spaces.space import Space, load_space
from stockpot.settings import as_setting

PIECES = ("self_attn.q_proj", "mlp.up_proj", "input_layernorm")
NAMES = ("a", "b", "c")


def model(layers, seed, stack="model.layers"):
    """Tensors of float64, so that no rounding hides a wrong factor."""
    rng = np.random.default_rng(seed)
    inner = [f"{stack}.{i}.{piece}.weight" for i in range(layers) for piece in PIECES]
    return {n: rng.normal(size=(3, 4)) for n in ("model.embed_tokens.weight", *inner, "model.norm.weight")}


@pytest.fixture
def models(tmp_path):
    """Two models of seven layers and one of four, with configs."""
    for seed, (name, layers) in enumerate(zip(NAMES, (7, 7, 4), strict=True)):
        write_model(tmp_path / name, model(layers, seed), config={"num_hidden_layers": layers})
    return tmp_path


def space_of(folder, text):
    """The space of a recipe about the models in ``folder``."""
    return Space.of(text, folder=str(folder))


def merged(recipe, folder):
    """The tensors of a merge, through files."""
    sp.merge(recipe, folder / "out", overwrite=True)
    return read_model(folder / "out")


def layer_of(name):
    """The number of a tensor's layer; those before are in the first, those behind in the last."""
    if "layers" in name:
        return int(name.split(".")[2])
    return 0 if "embed" in name else 6


GROUPED = """\
merge_method: linear
models:
- model: a
- model: b
  parameters:
    weight: {search: [0, 1], groups: 3}   # by depth
parameters: {normalize: false}
"""
LAYERS = ("layers 0-2", "layers 3-4", "layers 5-6")


def test_each_layer_has_the_value_of_its_group_exactly(models) -> None:
    """Seven layers in three groups; embeddings go with the first, norm and head with the last."""
    space = space_of(models, GROUPED)
    names = [f"models[1].weight[{group}]" for group in LAYERS]
    assert [d.name for d in space.dimensions] == names
    values = dict(zip(names, (0.1, 0.7, 1 / 3), strict=True))
    out = merged(space.recipe(values), models)
    a, b = read_model(models / "a"), read_model(models / "b")
    for name, found in out.items():
        weight = list(values.values())[(0, 0, 0, 1, 1, 2, 2)[layer_of(name)]]
        assert np.array_equal(found, (1 / 1) * a[name] + weight * b[name]), name


def test_what_was_found_is_a_plain_recipe(models) -> None:
    """As many anchors as layers, comments and lines kept; plain merging gives the same bytes."""
    space = space_of(models, GROUPED)
    text = space.written(dict(zip((d.name for d in space.dimensions), (0.25, 0.5, 1.0), strict=True)))
    assert "    weight: [0.25, 0.25, 0.25, 0.5, 0.5, 1.0, 1.0]   # by depth\n" in text
    (models / "found.yml").write_text(text)
    out = merged(models / "found.yml", models)
    again = merged(parse_recipe(text, folder=str(models)), models)
    assert all(np.array_equal(out[name], again[name]) for name in out)


def test_filters_have_genomes_of_their_own(models) -> None:
    """One value for each filter and group; ``rest`` is for all other tensors."""
    value = "{search: [0, 1], groups: 2, filters: [self_attn, mlp, rest]}"
    space = space_of(models, GROUPED.replace("{search: [0, 1], groups: 3}", value))
    wheres, groups = ("self_attn", "mlp", "rest"), ("layers 0-3", "layers 4-6")
    assert [d.name for d in space.dimensions] == [f"models[1].weight[{w}, {g}]" for w in wheres for g in groups]
    values = dict(zip((d.name for d in space.dimensions), (0.1, 0.2, 0.3, 0.4, 0.6, 0.7), strict=True))
    a, b = read_model(models / "a"), read_model(models / "b")
    for name, found in merged(space.recipe(values), models).items():
        where = next((w for w in wheres if w in name), "rest")
        weight = values[f"models[1].weight[{where}, {groups[layer_of(name) >= 4]}]"]
        assert np.array_equal(found, a[name] + weight * b[name]), name


def test_filters_without_groups(models) -> None:
    """A filter may also have one value for all layers, a choice too."""
    value = "{choice: [0.5, [0, 1]], filters: [mlp, rest]}"
    space = space_of(models, GROUPED.replace("{search: [0, 1], groups: 3}", value))
    names = ["models[1].weight[mlp]", "models[1].weight[rest]"]
    assert [d.name for d in space.dimensions] == names
    assert "weight: [{filter: mlp, value: [0, 1]}, {value: 0.5}]" in space.written({names[0]: "[0, 1]", names[1]: 0.5})


def test_groups_of_one_filter_and_one_name(models) -> None:
    """Groups stand in the value of a case too, and ``same`` repeats all of them."""
    text = """\
merge_method: linear
models:
- {model: a, parameters: {weight: [{filter: mlp, value: {search: [0, 1], groups: 2, name: g}}, {value: 1}]}}
- {model: b, parameters: {weight: {same: g}}}
"""
    space = space_of(models, text)
    assert [d.name for d in space.dimensions] == ["g[layers 0-3]", "g[layers 4-6]"]
    along = "[0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]"
    written = space.written({"g[layers 0-3]": 0.0, "g[layers 4-6]": 1.0})
    assert f"[{{filter: mlp, value: {along}}}, {{value: 1}}]" in written
    assert f"- {{model: b, parameters: {{weight: {along}}}}}" in written


def test_a_range_of_layers_has_its_own_number_of_them(models) -> None:
    """In a slice groups are of its layers; lambda of a sum of differences counts as well."""
    text = """\
merge_method: task_arithmetic
base_model: a
slices:
- sources: [{model: a, layer_range: [0, 3]}, {model: b, layer_range: [4, 7]}]
  parameters: {lambda: {search: [0, 1], groups: 3}}
"""
    space = space_of(models, text)
    assert [d.name for d in space.dimensions] == [f"slices[0].lambda[layer {i}]" for i in range(3)]
    values = dict(zip((d.name for d in space.dimensions), (0.0, 0.3, 1.0), strict=True))
    a, b = read_model(models / "a"), read_model(models / "b")
    out = merged(space.recipe(values), models)
    for i, factor in enumerate(values.values()):
        for piece in PIECES:
            start, end = (m[f"model.layers.{n}.{piece}.weight"] for m, n in ((a, i), (b, i + 4)))
            assert np.allclose(out[f"model.layers.{i}.{piece}.weight"], start + factor * (end - start), rtol=1e-15)


@pytest.mark.parametrize("layers", [*range(1, 60), 80, 126, 997])
def test_as_many_anchors_as_layers_are_hit_exactly(layers) -> None:
    """Whatever the number of layers, layer i has anchor i to the last bit: nothing of its neighbours."""
    anchors = np.random.default_rng(layers).normal(size=layers).tolist()
    setting = as_setting(anchors)
    depths = [i / (layers - 1) if layers > 1 else 1.0 for i in range(layers)]
    assert [setting.at("w", depth) for depth in depths] == anchors


def test_groups_are_alike_in_size() -> None:
    """Every group has a layer, they follow one another, and sizes differ by one at most."""
    for layers in range(1, 40):
        for groups in range(1, layers + 1):
            found = [group_of(i, groups, layers) for i in range(layers)]
            sizes = np.bincount(found)
            assert found == sorted(found)
            assert len(sizes) == groups
            assert sizes.max() - sizes.min() <= 1


MISTAKES = {
    "too many": (GROUPED.replace("groups: 3", "groups: 8"), "8 groups of 7 layers", 6),
    "unused": (GROUPED.replace("weight:", "density:"), "no merge with layers uses this value", 6),
    "two depths": (
        "merge_method: passthrough\nslices:\n- sources: [{model: a, layer_range: [0, 3]}]\n"
        "- sources: [{model: b, layer_range: [0, 2]}]\nparameters: {scale: {search: [0, 1], groups: 2}}\n",
        "groups of layers stand over 2 and 3 layers at once",
        5,
    ),
    "depth is chosen": (
        "merge_method: passthrough\nmodels: [{model: {choice: [a, c]}}]\n"
        "parameters: {scale: {search: [0, 1], groups: 2}}\n",
        r"groups of 7 layers, which are 4 with models\[0\]\.model = c",
        3,
    ),
    "open layers": (
        "merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [0, 3]}], search: layers}]\n"
        "parameters: {scale: {search: [0, 1], groups: 2}}\n",
        "groups of layers beside search: layers",
        3,
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_groups_that_cannot_be(models, name) -> None:
    """The number of layers must be one, known, and large enough."""
    text, message, line = MISTAKES[name]
    with pytest.raises(RecipeError, match=message) as caught:
        space_of(models, text)
    assert [p.line for p in caught.value.problems] == [line]
    assert caught.value.problems[0].fix


def test_groups_need_the_models(tmp_path) -> None:
    """Where a model cannot be opened, that is the error."""
    with pytest.raises(CheckpointError):
        space_of(tmp_path, GROUPED)


FLOW = """\
merge_method: passthrough
slices:   # from the bottom up
  # the first
  - sources:
      - model: a   # whole at first
        layer_range: [0, 4]
    search: layers  # which
  - search: layers
    sources: [{model: b, layer_range: [2, 6], parameters: {scale: {search: [0.5, 1], start: 1}}}]
  - sources:
    # always
    - {model: "a", layer_range: [6, 7]}
# the end
dtype: float64
"""


def flow_space(folder, text=FLOW):
    """A space of layers of two models."""
    return space_of(folder, text)


def taken(space, layers, **values):
    """Values of ``space`` with exactly the layers, given by name, in."""
    start = {d.name: d.start for d in space.dimensions}
    return start | {n: n in layers for n in start if ".layer " in n} | values


def test_the_start_is_the_first_slice_whole() -> None:
    """So that the first trial is a model that works."""
    space = Space.of(FLOW)
    assert [d.name for d in space.dimensions if ".layer " in d.name] == [
        *(f"slices[0].layer {i}" for i in range(4)),
        *(f"slices[1].layer {i}" for i in range(2, 6)),
    ]
    assert [space.start()[d.name] for d in space.dimensions if d.kind == "choice"] == [True] * 4 + [False] * 4
    documents = space.recipe(space.start()).resolved["documents"]
    ranges = [source["layer_range"] for piece in documents[0]["slices"] for source in piece["sources"]]
    assert ranges == [[0, 4], [6, 7]]


def test_layers_that_are_in_are_in(models) -> None:
    """Runs become slices; every tensor is that of its layer, byte for byte; the config counts them."""
    space = flow_space(models)
    which = {"slices[0].layer 0", "slices[0].layer 3", "slices[1].layer 3", "slices[1].layer 4"}
    out = merged(space.recipe(taken(space, which)), models)
    a, b = read_model(models / "a"), read_model(models / "b")
    for new, (source, old) in enumerate([(a, 0), (a, 3), (b, 3), (b, 4), (a, 6)]):
        for piece in PIECES:
            wanted = source[f"model.layers.{old}.{piece}.weight"]
            assert out[f"model.layers.{new}.{piece}.weight"].tobytes() == wanted.tobytes()
    assert {n.split(".")[2] for n in out if "layers" in n} == set("01234")
    assert '"num_hidden_layers": 5' in (models / "out" / "config.json").read_text()


def test_lines_and_comments_of_slices_are_kept() -> None:
    """Slices are written in brackets over the lines they had; what stands around them does not move."""
    space = Space.of(FLOW)
    which = {"slices[0].layer 0", "slices[0].layer 2", "slices[1].layer 4"}
    written = space.written(taken(space, which))
    assert written.count("\n") == FLOW.count("\n")
    old, new = FLOW.splitlines(), written.splitlines()
    assert [new[i] for i in (0, 1, 2, 12, 13)] == [old[i] for i in (0, 1, 2, 12, 13)]
    assert [line.rpartition("#")[2] for line in new if "#" in line] == [
        line.rpartition("#")[2] for line in old if "#" in line
    ]
    documents = parse_recipe(written).resolved["documents"]
    assert [s["sources"][0]["layer_range"] for s in documents[0]["slices"]] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    broken = FLOW.replace("dtype: float64", "dtype: float6")
    with pytest.raises(RecipeError) as caught:
        Space.of(broken)
    assert {p.line for p in caught.value.problems} == {14}


@given(st.lists(st.booleans(), min_size=8, max_size=8), st.floats(0.5, 1))
def test_any_layers_make_the_slices_of_their_runs(flags, scale) -> None:
    """Whatever is in, the recipe resolves to the one written by hand, over the same lines."""
    space = Space.of(FLOW)
    layers = [name for name in space.start() if ".layer " in name]
    written = space.written({**dict(zip(layers, flags, strict=True)), "slices[1].sources[0].scale": scale})
    runs = [(n, number) for n, offset in ((0, 0), (1, 2)) for number in _runs(flags[4 * n : 4 * n + 4], offset)]
    source = ("model: a, layer_range: {0}", f"model: b, layer_range: {{0}}, parameters: {{{{scale: {scale!r}}}}}")
    sources = [source[n].format(list(run)) for n, run in runs] + ["model: a, layer_range: [6, 7]"]
    text = "".join(f"- {{sources: [{{{one}}}]}}\n" for one in sources)
    wanted = parse_recipe(f"merge_method: passthrough\nslices:\n{text}dtype: float64\n")
    assert parse_recipe(written).resolved == wanted.resolved
    assert written.count("\n") == FLOW.count("\n")


def _runs(flags, offset):
    """First layer and the one after the last, of each run of layers that are in."""
    edges = np.flatnonzero(np.diff([0, *flags, 0])) + offset
    return [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]


def test_sources_move_together(models) -> None:
    """A slice with several sources takes the same layers of each, counted in its own range."""
    text = """\
merge_method: linear
slices:
- sources: [{model: a, layer_range: [0, 3]}, {model: b, layer_range: [4, 7]}]
  search: layers
"""
    space = flow_space(models, text)
    out = merged(space.recipe(taken(space, {"slices[0].layer 1", "slices[0].layer 2"})), models)
    a, b = read_model(models / "a"), read_model(models / "b")
    for new in range(2):
        names = [f"model.layers.{n}.{PIECES[0]}.weight" for n in (new, new + 1, new + 5)]
        assert np.array_equal(out[names[0]], (a[names[1]] + b[names[2]]) / 2)


def test_an_anchor_of_the_list_itself() -> None:
    """It may stand on the line above; the list is still written over its own lines."""
    text = FLOW.replace("slices:   # from the bottom up\n", "slices: &s  # from the bottom up\n")
    plain, anchored = (Space.of(t) for t in (FLOW, text))
    wanted = plain.written(plain.start()).replace("slices:   #", "slices: &s  #")
    assert anchored.written(anchored.start()) == wanted


def test_no_layer_at_all_is_an_invalid_trial() -> None:
    """Told with the line of the slices."""
    space = Space.of(FLOW.replace('  - sources:\n    # always\n    - {model: "a", layer_range: [6, 7]}\n', ""))
    with pytest.raises(RecipeError, match="no layer of any slice is taken") as caught:
        space.recipe(taken(space, set()))
    assert [p.line for p in caught.value.problems] == [4]


def test_merges_inside_slices_and_indentless_lists(models) -> None:
    """A model of a slice may be a merge with open layers of its own; lists may start in the column of their key."""
    text = """\
merge_method: passthrough
slices:
- sources:
  - model:
      merge_method: passthrough
      slices:
      - sources: [{model: a, layer_range: [0, 3]}]
        search: layers
    layer_range: [0, 1]
  search: layers
- sources: [{model: b, layer_range: [0, 2]}]
  search: layers
"""
    space = flow_space(models, text)
    which = {"slices[0].layer 0", "slices[0].sources[0].model.slices[0].layer 2", "slices[1].layer 1"}
    out = merged(space.recipe(taken(space, which)), models)
    wanted = [read_model(models / "a")[f"model.layers.2.{PIECES[0]}.weight"]]
    wanted.append(read_model(models / "b")[f"model.layers.1.{PIECES[0]}.weight"])
    assert all(np.array_equal(out[f"model.layers.{i}.{PIECES[0]}.weight"], w) for i, w in enumerate(wanted))
    assert space.written(space.start()).count("\n") == text.count("\n")


SLICE = "merge_method: passthrough\nslices:\n- {}\n"
WRONG_SLICES = {
    "another word": ("{sources: [{model: a, layer_range: [0, 2]}], search: blocks}", "takes search: layers", 3),
    "a range": ("{sources: [{model: a, layer_range: [0, 2]}], search: [0, 1]}", "takes search: layers", 3),
    "no range": ("{sources: [{model: a}], search: layers}", "needs a layer_range of every source", 3),
    "no sources": ("{sources: [], search: layers}", "needs a layer_range of every source", 3),
    "open range": (
        "{sources: [{model: a, layer_range: [0, {search: [1, 2], int: true}]}], search: layers}",
        "needs a layer_range of every source",
        3,
    ),
    "two lengths": (
        "{sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 3]}], search: layers}",
        "different numbers of layers",
        3,
    ),
    "too many": ("{sources: [{model: a, layer_range: [0, 5000]}], search: layers}", "more than 1000 layers", 3),
    "an anchor": ("{sources: [{model: &m a, layer_range: [0, 2]}], search: layers}", "an anchor, &m, stands", 3),
}


@pytest.mark.parametrize("name", WRONG_SLICES)
def test_slices_that_cannot_be_searched(name) -> None:
    """Each layer must be known by its number."""
    text, message, line = WRONG_SLICES[name]
    with pytest.raises(RecipeError, match=message) as caught:
        Space.of(SLICE.replace("{}", text))
    assert [p.line for p in caught.value.problems] == [line]
    assert caught.value.problems[0].fix


def test_the_result_runs_in_transformers(tmp_path) -> None:
    """A Llama of the layers that were taken loads without a missing or unexpected tensor, and generates."""
    config = transformers.LlamaConfig(
        vocab_size=96, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=48
    )
    made = []
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        made.append(transformers.LlamaForCausalLM(config).eval())
        made[-1].save_pretrained(tmp_path / name)
    slices = "".join(f"- {{sources: [{{model: {n}, layer_range: [0, 4]}}], search: layers}}\n" for n in "ab")
    (tmp_path / "r.yml").write_text(f"merge_method: passthrough\nslices:\n{slices}")
    space = load_space(tmp_path / "r.yml")
    which = {"slices[0].layer 0", "slices[0].layer 2", "slices[1].layer 1", "slices[1].layer 2", "slices[1].layer 3"}
    sp.merge(space.recipe(taken(space, which)), tmp_path / "out")
    loaded, told = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert loaded.config.num_hidden_layers == 5
    sources = [made[0].model.layers[i] for i in (0, 2)] + [made[1].model.layers[i] for i in (1, 2, 3)]
    for layer, source in zip(loaded.model.layers, sources, strict=True):
        assert torch.equal(layer.mlp.up_proj.weight, source.mlp.up_proj.weight)
    ids = loaded.generate(torch.tensor([[1, 5]]), max_new_tokens=2, do_sample=False, pad_token_id=0)
    assert ids.shape[1] > 2
