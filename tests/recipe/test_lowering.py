"""What a recipe means: the expression that each form of YAML becomes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stockpot.arrangements import Layers, Stack
from stockpot.errors import RecipeError
from stockpot.expression import Apply, Leaf, Linear
from stockpot.methods.declare import Space
from stockpot.recipe.parse import parse_recipe
from stockpot.settings import first_value

Tree = Callable[..., str]

TIES = """
merge_method: ties
base_model: B
models:
  - model: B
  - {model: x, parameters: {weight: 0.5, density: 0.2}}
  - {model: y, parameters: {weight: 0.3}}
"""


def test_differences_to_a_base(tree: Tree) -> None:
    """Delta methods work on models minus base; the base among the models is left out."""
    assert tree(TIES) == ("1*B 1*ties(1*x -1*B {weight=0.5,density=0.2}; 1*y -1*B {weight=0.3}){}")


def test_base_need_not_be_listed(tree: Tree) -> None:
    """Listing the base changes nothing: mergekit adds it by itself."""
    assert tree(TIES) == tree(TIES.replace("  - model: B\n", ""))


def test_python_and_yaml_build_the_same_tree() -> None:
    """``base + 0.8 * ties(x - base)`` in both languages."""
    recipe = parse_recipe("merge_method: ties\nbase_model: B\nmodels: [{model: x}]\nparameters: {lambda: 0.8}")
    base = Leaf("B")
    python = base + 0.8 * Apply(recipe.expression.children[1].method, (Leaf("x") - base,))  # type: ignore[attr-defined]
    assert isinstance(recipe.expression, Linear)
    assert [t.constant for t in recipe.expression.terms] == [t.constant for t in python.terms]
    assert recipe.expression.space is Space.WEIGHTS


def test_lambda_scales_the_difference(tree: Tree) -> None:
    """Over slice, module and global level, filters in front, 1 where nothing is said."""
    text = TIES + "parameters: {lambda: [{filter: mlp, value: [0, 1]}]}\n"
    assert tree(text).startswith("1*B <mlp:[0 1] 1>*ties(")
    assert tree(TIES + "parameters: {lambda: 0.7}\n").startswith("1*B 0.7*ties(")
    assert tree(TIES + "parameters: {lambda: [{value: 2}, {value: 3}]}\n").startswith("1*B 2*ties(")


def test_linear_takes_models_as_they_are(tree: Tree) -> None:
    """Without a base there is no difference; a base that is not listed only donates its config."""
    text = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 2}}, {model: b}]\n"
    assert tree(text) == "linear(a {weight=2}; b){}"
    assert tree(text + "base_model: c") == "linear(a {weight=2}; b){}"
    assert tree(text + "base_model: a") == "linear(a {weight=2}; b){}"
    donor = parse_recipe(text + "base_model: c").donor
    assert donor is not None
    assert donor.reference == "c"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("base_model: a\nmodels: [{model: a}, {model: b}]", "slerp(a; b){t=0.3}"),
        ("base_model: b\nmodels: [{model: a}, {model: b}]", "slerp(b; a){t=0.3}"),
        ("base_model: a\nmodels: [{model: b}]", "slerp(a; b){t=0.3}"),
        ("base_model: ./a/\nmodels: [{model: a}, {model: b}]", "slerp(./a/; b){t=0.3}"),
    ],
)
def test_the_base_is_the_start_of_an_interpolation(tree: Tree, body: str, expected: str) -> None:
    """The arc starts at the base, wherever it is listed, and also when it is not."""
    assert tree(f"merge_method: slerp\nparameters: {{t: 0.3}}\n{body}") == expected


def test_optional_base(tree: Tree) -> None:
    """The method works on models, or on differences when a base is given."""
    text = "merge_method: nuslerp\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n"
    assert tree(text) == "nuslerp(a; b){weight=1}"
    assert tree(text + "base_model: c") == "1*c 1*nuslerp(1*a -1*c; 1*b -1*c){weight=1}"


SLICES = """
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 24]}]
  - sources: [{model: b, layer_range: [8, 32], parameters: {scale: 0.5}}]
"""


def test_slices_are_stacked(tree: Tree) -> None:
    """Each slice is a merge of layers; all slices are a stack."""
    assert tree(SLICES) == "stack(passthrough(a[0:24]){}; passthrough(b[8:32]){scale=0.5})"


def test_one_slice_is_a_stack_too(tree: Tree) -> None:
    """A slice takes layers, also when there is only one."""
    text = "merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [0, 2]}]}]"
    assert tree(text) == "stack(passthrough(a[0:2]){})"


def test_slices_around_a_base(tree: Tree) -> None:
    """The base's own range in the slice says which of its layers are subtracted."""
    text = """
merge_method: task_arithmetic
base_model: B
slices:
  - sources:
      - {model: B, layer_range: [0, 2]}
      - {model: a, layer_range: [4, 6], parameters: {weight: 0.5}}
    parameters: {lambda: 2}
  - sources: [{model: B, layer_range: [2, 4]}]
"""
    assert tree(text) == ("stack(1*B[0:2] 2*task_arithmetic(1*a[4:6] -1*B[0:2] {weight=0.5}){}; B[2:4])")


def test_base_of_a_slice(tree: Tree) -> None:
    """A slice may have a base of its own."""
    text = """
merge_method: slerp
parameters: {t: 0.5}
slices:
  - {base_model: a, sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}]}
  - {base_model: b, sources: [{model: a, layer_range: [2, 4]}, {model: b, layer_range: [2, 4]}]}
"""
    assert tree(text) == "stack(slerp(a[0:2]; b[0:2]){t=0.5}; slerp(b[2:4]; a[2:4]){t=0.5})"


def test_one_model_with_itself(tree: Tree) -> None:
    """The same model with other layers is another source, which mergekit loses."""
    text = """
merge_method: slerp
base_model: a
parameters: {t: 0.5}
slices:
  - sources: [{model: a, layer_range: [0, 2]}, {model: a, layer_range: [2, 4]}]
"""
    assert tree(text) == "stack(slerp(a[0:2]; a[2:4]){t=0.5})"


def test_a_single_source_is_copied_by_interpolations(tree: Tree) -> None:
    """An arc through one source is that source, as in mergekit, and a note says so."""
    text = """
merge_method: slerp
base_model: a
parameters: {t: 0.5}
slices:
  - sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}]
  - sources: [{model: b, layer_range: [2, 4]}]
"""
    assert tree(text) == "stack(slerp(a[0:2]; b[0:2]){t=0.5}; b[2:4])"
    assert "one source" in parse_recipe(text).notes[0].message


def test_whole_models_in_a_slice(tree: Tree) -> None:
    """Without layer_range a source is the whole model."""
    assert tree("merge_method: linear\nslices: [{sources: [{model: a}, {model: b}]}]") == ("stack(linear(a; b){})")


def test_one_module_is_the_top_level(tree: Tree) -> None:
    """``modules`` with one module means the same as its content at the top, parameters included."""
    text = """
merge_method: linear
modules:
  default:
    models: [{model: a}, {model: b}]
    parameters: {weight: 2}
parameters: {weight: 3, normalize: false}
"""
    assert tree(text) == "linear(a; b){weight=2|3,normalize=False}"


PRECEDENCE = """
merge_method: task_arithmetic
base_model: B
modules:
  default:
    parameters: {weight: 3}
    slices:
      - sources:
          - {model: B, layer_range: [0, 2]}
          - model: a
            layer_range: [0, 2]
            parameters: {weight: [{filter: mlp, value: 1}]}
        parameters: {weight: [{filter: attn, value: 2}]}
parameters: {weight: 4}
"""


@pytest.mark.parametrize(("name", "weight"), [("x.mlp", 1), ("x.attn", 2), ("x.norm", 3)])
def test_precedence(name: str, weight: float) -> None:
    """Source, slice, module, global: the first that has a value for the tensor counts."""
    recipe = parse_recipe(PRECEDENCE)
    assert isinstance(recipe.expression, Stack)
    apply = recipe.expression.parts[0].children[1]
    assert isinstance(apply, Apply)
    settings = (*apply.each[0]["weight"], *apply.one["weight"])
    assert first_value(settings, name, 0.0) == weight


def test_settings_know_their_line() -> None:
    """Range errors found later can still name the line."""
    apply = parse_recipe(TIES).expression.children[1]
    assert isinstance(apply, Apply)
    assert apply.each[0]["density"][0].line == 6


def test_a_single_conditional_value(tree: Tree) -> None:
    """One {filter, value} without a list, which mergekit's schema takes but its code does not."""
    text = "merge_method: slerp\nbase_model: a\nmodels: [{model: b}]\n"
    assert tree(text + "parameters: {t: {value: [0, 1]}}") == "slerp(a; b){t=[0 1]}"


def test_nested_merges(tree: Tree) -> None:
    """A merge may stand wherever a model may; it is rounded only when it says a dtype."""
    text = """
merge_method: linear
base_model: {merge_method: linear, models: [{model: p}, {model: q}]}
models:
  - model:
      merge_method: slerp
      base_model: a
      dtype: bfloat16
      models: [{model: b}]
      parameters: {t: 0.5}
    parameters: {weight: 2}
  - model: c
"""
    assert tree(text) == "linear(bfloat16(slerp(a; b){t=0.5}) {weight=2}; c){}"
    donor = parse_recipe(text).donor
    assert donor is not None
    assert donor.reference == "p"


def test_a_nested_base_is_flattened(tree: Tree) -> None:
    """Differences to a merge are one linear combination, so equal parts cancel exactly."""
    text = """
merge_method: task_arithmetic
base_model: {merge_method: task_arithmetic, base_model: B, models: [{model: x}]}
models: [{model: y}]
"""
    inner = "1*B 1*task_arithmetic(1*x -1*B){}"
    minus = "-1*B -1*task_arithmetic(1*x -1*B){}"
    assert tree(text) == f"{inner} 1*task_arithmetic(1*y {minus}){{}}"


def test_an_alias_is_the_same_model(tree: Tree) -> None:
    """A nested merge that is repeated by alias is recognised as the base."""
    text = """
merge_method: slerp
base_model: &soup {merge_method: linear, models: [{model: p}, {model: q}]}
models: [{model: a}, {model: *soup}]
parameters: {t: 0.5}
"""
    assert tree(text) == "slerp(linear(p; q){}; a){t=0.5}"


DOCUMENTS = """
name: soup
merge_method: linear
dtype: float16
out_dtype: bfloat16
models: [{model: a}, {model: b}]
---
merge_method: slerp
base_model: soup
models: [{model: c}]
parameters: {t: 0.5}
dtype: float32
"""


def test_documents_are_models_of_each_other(tree: Tree) -> None:
    """A named document is rounded to the dtype in which mergekit would write it; the result is not."""
    assert tree(DOCUMENTS) == "slerp(bfloat16(linear(a; b){}); c){t=0.5}"
    recipe = parse_recipe(DOCUMENTS)
    assert recipe.dtype == "float32"
    assert recipe.donor is not None
    assert recipe.donor.reference == "a"


def test_the_document_without_a_name_is_the_result(tree: Tree) -> None:
    """Order does not matter; with names only, the last one is the result."""
    first, second = DOCUMENTS.split("---")
    assert tree(second + "\n---\n" + first) == tree(DOCUMENTS)
    assert tree("name: z\n" + second + "\n---\n" + first) == "linear(a; b){}"


@pytest.mark.parametrize("name", ["./intermediates/soup", "intermediates/soup", "./soup", "/x/intermediates/soup/"])
def test_intermediate_folders(tree: Tree, name: str) -> None:
    """Where mergekit-multi puts a document means the document, and a note says so."""
    text = DOCUMENTS.replace("base_model: soup", f"base_model: {name}")
    assert tree(text) == tree(DOCUMENTS)
    assert "document 'soup'" in parse_recipe(text).notes[0].message


@pytest.mark.parametrize("name", ["org/soup", "soup@main", "./models/soup"])
def test_other_paths_are_not_documents(tree: Tree, name: str) -> None:
    """Only what plainly means the document is taken for it."""
    assert f"slerp({name};" in tree(DOCUMENTS.replace("base_model: soup", f"base_model: {name}"))


def test_out_path_is_a_name(tree: Tree) -> None:
    """Older recipes of several documents name them by where they are written."""
    text = DOCUMENTS.replace("name: soup", "out_path: ./models/soup")
    assert tree(text.replace("base_model: soup", "base_model: models/soup")) == tree(DOCUMENTS)


def test_a_single_document_is_not_its_own_model(tree: Tree) -> None:
    """Its name may be that of a folder."""
    assert tree("name: a\nmerge_method: linear\nmodels: [{model: a}]") == "linear(a){}"


def test_unused_documents_are_noted() -> None:
    """A document that nothing uses is probably a mistake."""
    notes = parse_recipe(DOCUMENTS.replace("base_model: soup", "base_model: d")).notes
    assert [n.message for n in notes] == ["document 'soup' is not used"]


def test_compat_and_variant_are_inherited(tree: Tree) -> None:
    """By nested merges unless they say otherwise; compat by documents too."""
    nested = "{merge_method: ties, base_model: B, models: [{model: x}]%s}"
    text = "merge_method: ties\nbase_model: B\nmodels: [{model: %s}]\ncompat: mergekit\nvariant: unweighted\n"
    assert tree(text % (nested % "")).count("variant=unweighted compat") == 2
    assert tree(text % (nested % ", compat: none")).count(" compat") == 1
    linear = "{merge_method: linear, models: [{model: a}]}"
    assert "linear(a){} compat" in tree(text % linear)
    assert "linear(float16(a); float16(b)){} compat" in tree(DOCUMENTS + "compat: mergekit\n")
    assert parse_recipe(text % "a").compat


def test_compat_rounds_inputs_to_dtype(tree: Tree) -> None:
    """As mergekit does when it loads a tensor; without compat, inputs are used as they are stored."""
    text = "merge_method: linear\nmodels: [{model: a}, {model: b}]\ndtype: float16\nout_dtype: bfloat16\n"
    assert tree(text) == "linear(a; b){}"
    assert tree(text + "compat: mergekit\n") == "linear(float16(a); float16(b)){} compat"


def test_seed() -> None:
    """0 by default, the recipe's own, or the caller's."""
    assert parse_recipe(TIES).seed == 0
    assert parse_recipe(TIES + "seed: 18446744073709551615").seed == 2**64 - 1
    assert parse_recipe(TIES + "seed: 3", seed=7).seed == 7
    with pytest.raises(RecipeError, match="seed -1"):
        parse_recipe(TIES, seed=-1)
    assert parse_recipe("seed: 3\n" + DOCUMENTS.lstrip()).seed == 3


def test_output_dtype() -> None:
    """out_dtype, else dtype, by torch's name; None keeps."""
    assert parse_recipe(TIES).dtype is None
    assert parse_recipe(TIES + "dtype: torch.float16").dtype == "float16"
    assert parse_recipe(TIES + "dtype: float32\nout_dtype: bf16").dtype == "bfloat16"


def test_leaves_know_where_they_are() -> None:
    """Relative models are relative to the recipe; lines are kept."""
    recipe = parse_recipe(TIES, folder="recipes")
    assert recipe.donor is not None
    assert (recipe.donor.reference, recipe.donor.folder, recipe.donor.line) == ("B", "recipes", 3)


def test_one_leaf_for_one_checkpoint() -> None:
    """Spellings of one path are one leaf, so it is opened once."""
    recipe = parse_recipe("merge_method: ties\nbase_model: //m/b/\nmodels: [{model: /m/b}, {model: c}]")
    children = recipe.expression.children
    assert children[0] is recipe.donor
    assert children[1].children[0].children[1] is recipe.donor


def test_layers_are_shared() -> None:
    """The same layers of one model are one node."""
    text = SLICES.replace("b, layer_range: [8, 32]", "a, layer_range: [0, 24]")
    recipe = parse_recipe(text)
    layers = [part.children[0] for part in recipe.expression.children]
    assert isinstance(layers[0], Layers)
    assert layers[0] is layers[1]
