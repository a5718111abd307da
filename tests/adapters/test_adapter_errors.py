"""What an adapter holds is understood or refused by name, before anything is read."""

from __future__ import annotations

import json

import numpy as np
import pytest
from adapting import ROOT, config, factors, write_adapter, write_base

import stockpot as sp
from files import write_file

Q0 = "model.layers.0.q_proj"


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def refused(tmp_path, error=sp.StockpotError):
    """The error of planning the fold of ``base`` and ``adapter``."""
    with pytest.raises(error) as caught:
        sp.plan(sp.open(tmp_path / "base", adapter=tmp_path / "adapter"))
    return caught.value


def given(tmp_path, tensors, **settings):
    write_base(tmp_path / "base")
    return write_adapter(tmp_path / "adapter", tensors, **settings)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"peft_type": "IA3"}, "adapters of type IA3"),
        ({"peft_type": None}, "adapters of type None"),
        ({"use_qalora": True}, "use_qalora means other arithmetic"),
        ({"use_something_new": True}, "use_something_new means other arithmetic"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"alora_invocation_tokens": [3]}, "alora_invocation_tokens"),
        ({"target_parameters": ["experts.w"]}, "target_parameters"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4', which may have changed the base"),
        ({"init_lora_weights": "loftq"}, "'loftq'"),
    ],
)
def test_other_arithmetic(tmp_path, rng, settings, says):
    """Settings that mean anything but scale · B·A are not supported, and the error says what to do instead."""
    given(tmp_path, factors(rng, Q0, 12, 12), **settings)
    error = refused(tmp_path, sp.UnsupportedError)
    assert says in str(error)
    assert error.problems[0].file.endswith("adapter_config.json")
    assert error.problems[0].fix


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"r": 0}, "r is 0"),
        ({"r": "8"}, "r is '8'"),
        ({"r": True}, "r is True"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"rank_pattern": [1]}, "rank_pattern is no map"),
        ({"rank_pattern": {"q": 0.5}}, "rank_pattern says 0.5 of 'q'"),
        ({"alpha_pattern": {"q": "x"}}, "alpha_pattern says 'x' of 'q'"),
        ({"alpha_pattern": {"q(": 1}}, "the pattern 'q(' cannot be read"),
        ({"rank_pattern": {"(a+)+": 1}}, "cannot be read"),
        ({"rank_pattern": {"(.*)*x": 1}}, "cannot be read"),
        ({"rank_pattern": {"a*" * 9: 1}}, "cannot be read"),
        ({"bias": "some"}, "bias is 'some'"),
        ({"modules_to_save": "norm"}, "modules_to_save is no list"),
        ({"fan_in_fan_out": "yes"}, "fan_in_fan_out is 'yes'"),
        ({"use_rslora": 3}, "use_rslora is 3"),
    ],
)
def test_damaged_settings(tmp_path, rng, settings, says):
    """Settings that are no numbers or names are told, and what patterns may be is bounded."""
    given(tmp_path, factors(rng, Q0, 12, 12), **settings)
    assert says in str(refused(tmp_path, sp.CheckpointError))


def test_everything_in_the_file_is_understood_or_named(tmp_path, rng):
    """Tensors that no setting explains, halves of pairs and second adapters are errors, all told at once."""
    parts = factors(rng, Q0, 12, 12)
    one = np.ones(12, np.float32)
    others = {
        "model.norm.weight": one,
        f"{Q0}.base_layer.bias": one,
        "prompt": one,
        "model.layers.1.q_proj.lora_A.weight": parts[f"{Q0}.lora_A.weight"],
        "model.layers.1.up_proj.lora_E.weight": one,
    }
    given(tmp_path, parts | others)
    told = {p.tensor for p in refused(tmp_path).problems}
    assert told == {ROOT + name for name in others}


def test_magnitudes_of_dora(tmp_path, rng):
    """Magnitudes and use_dora belong together; there is one for each output."""
    parts, lengths = factors(rng, Q0, 12, 12), np.ones(12, np.float32)
    given(tmp_path, parts | {f"{Q0}.lora_magnitude_vector": lengths})
    assert "not understood" in str(refused(tmp_path))
    write_adapter(tmp_path / "adapter", parts, use_dora=True)
    assert "the magnitudes of model.layers.0.q_proj, of DoRA, are missing" in str(refused(tmp_path))
    write_adapter(tmp_path / "adapter", parts | {f"{Q0}.lora_magnitude_vector": lengths[:7]}, use_dora=True)
    assert "it has shape (7,), B has (12, 4)" in str(refused(tmp_path))


def test_rows_of_zeros_have_no_direction(tmp_path, rng):
    """DoRA divides by the length of a row; where that is zero, the merge ends with the tensor's name."""
    base = write_base(tmp_path / "base", shapes={"w.weight": (5, 3)})
    parts = factors(rng, "w", 5, 3)
    parts["w.lora_B.weight"][2] = 0
    base["w.weight"][2] = 0
    lengths = {"w.lora_magnitude_vector": np.ones(5, np.float32)}
    write_adapter(tmp_path / "adapter", parts | lengths, use_dora=True)
    write_file(tmp_path / "base" / "model.safetensors", base)
    with pytest.raises(sp.ExecutionError, match=r"weights that are all zero \(output 2\)") as caught:
        sp.compute(sp.open(tmp_path / "base", adapter=tmp_path / "adapter"))
    assert caught.value.problems[0].tensor == "w.weight"


def test_names_too_long_for_patterns(tmp_path, rng):
    """A stranger's pattern on a stranger's name cannot take for ever."""
    long = "a." * 200 + "q_proj"
    given(tmp_path, factors(rng, long, 12, 12), rank_pattern={".*.*.*x": 3})
    assert "a name too long" in str(refused(tmp_path))


def test_two_adapters_in_one_file(tmp_path, rng):
    """Adapters of two names are told apart, not mixed."""
    parts = factors(rng, Q0, 12, 12)
    named = {k.replace(".weight", f".{name}.weight"): v for name in ("one", "two") for k, v in parts.items()}
    given(tmp_path, named)
    assert "it holds 2 adapters: one, two" in str(refused(tmp_path))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a, b: (a[:3], b), "A has shape (3, 12), B has (12, 4): their ranks differ"),
        (lambda a, b: (a[:3], b[:, :3]), "its rank is 3, the settings say 4"),
        (lambda a, b: (a[0], b), "A has shape (12,), B has (12, 4)"),
        (lambda a, b: (a[:, :7], b), "has A (4, 7) and B (12, 4)"),
        (lambda a, b: (a, b[:5]), "has A (4, 12) and B (5, 4)"),
        (lambda a, b: (a.astype(np.int32), b), "dtype I32"),
    ],
)
def test_factors_that_do_not_fit(tmp_path, rng, change, says):
    """Ranks and shapes are compared with each other, the settings and the base; both shapes are told."""
    names = (f"{Q0}.lora_A.weight", f"{Q0}.lora_B.weight")
    parts = factors(rng, Q0, 12, 12)
    given(tmp_path, dict(zip(names, change(*(parts[n] for n in names)), strict=True)))
    error = refused(tmp_path)
    assert says in str(error)
    assert error.problems[0].tensor in (f"{Q0}.weight", ROOT + names[0])


def test_an_adapter_of_another_base(tmp_path, rng):
    """Modules that the base lacks are named, with both models and the recipe's line."""
    given(tmp_path, factors(rng, "model.layers.7.q_proj", 12, 12) | factors(rng, Q0, 12, 12))
    recipe = tmp_path / "r.yml"
    recipe.write_text("merge_method: linear\nmodels:\n  - model: base+adapter\n")
    with pytest.raises(sp.PlanError) as caught:
        sp.plan(recipe)
    (problem,) = caught.value.problems
    assert problem.tensor == "model.layers.7.q_proj.weight"
    assert "base lacks what base_model.model.model.layers.7.q_proj.lora_A.weight of adapter changes" in problem.message
    assert problem.line == 3


def test_whole_tensors_of_another_shape(tmp_path, rng):
    """A vocabulary that was resized for the adapter is told with both shapes."""
    whole = {"lm_head.weight": np.ones((21, 12), np.float32)}
    given(tmp_path, factors(rng, Q0, 12, 12) | whole, modules_to_save=["lm_head"])
    assert "adapter has shape (21, 12)" in str(refused(tmp_path))


def test_square_weights_whose_layout_is_in_doubt(tmp_path, rng):
    """Where settings say (out, in) and the shapes of other weights say (in, out), a square weight is not guessed."""
    write_base(tmp_path / "base", shapes={"a.weight": (12, 36), "b.weight": (12, 12)})
    write_adapter(tmp_path / "adapter", factors(rng, "a", 36, 12) | factors(rng, "b", 12, 12), fan_in_fan_out=False)
    assert "say fan_in_fan_out: false, its shapes do not" in str(refused(tmp_path))


def test_what_is_no_adapter(tmp_path, rng):
    """A model's folder, half an adapter, a missing path: each is told for what it is."""
    write_base(tmp_path / "base")
    for place, says in ((tmp_path / "base", "not an adapter"), (tmp_path / "none", "no such file or folder")):
        with pytest.raises(sp.CheckpointError, match=says):
            sp.plan(sp.open(tmp_path / "base", adapter=place))
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "adapter_config.json").write_text(json.dumps(config()))
    with pytest.raises(sp.CheckpointError, match=r"adapter_model\.safetensors is missing"):
        sp.plan(sp.open(tmp_path / "base", adapter=tmp_path / "half"))
    write_adapter(tmp_path / "adapter", factors(rng, Q0, 12, 12))
    with pytest.raises(sp.UnsupportedError, match=r"BASE\+ADAPTER"):
        sp.plan(sp.open(tmp_path / "adapter"))


def test_an_adapter_without_tensors(tmp_path):
    """An empty file is told, not folded into nothing."""
    given(tmp_path, {})
    assert "an adapter without tensors" in str(refused(tmp_path))


def test_quantised_weights(tmp_path, rng):
    """Nothing can be added to integers."""
    write_base(tmp_path / "base", dtype=np.int8)
    write_adapter(tmp_path / "adapter", factors(rng, Q0, 12, 12))
    assert "base stores I8, to which no adapter can be added" in str(refused(tmp_path)).replace(f"{tmp_path}/", "")


def test_numbers_that_are_not_finite(tmp_path, rng):
    """A NaN in a factor ends the merge with its name, place and file."""
    parts = factors(rng, Q0, 12, 12)
    parts[f"{Q0}.lora_B.weight"][5, 2] = np.nan
    given(tmp_path, parts)
    with pytest.raises(sp.ExecutionError, match=r"NaN weight at \[5, 2\] of .*adapter") as caught:
        sp.compute(sp.open(tmp_path / "base", adapter=tmp_path / "adapter"))
    assert caught.value.problems[0].tensor == f"{ROOT}{Q0}.lora_B.weight"


def test_an_adapter_is_no_model(tmp_path, rng):
    """Averaging A and B would be wrong, and is refused wherever a model is asked for."""
    given(tmp_path, factors(rng, Q0, 12, 12))
    (tmp_path / "r.yml").write_text("merge_method: linear\nmodels: [{model: base}, {model: adapter}]\n")
    with pytest.raises(sp.StockpotError, match="an adapter, not a whole model"):
        sp.plan(tmp_path / "r.yml")


def test_links_that_lead_out(tmp_path, rng):
    """Settings and weights lie in the adapter's folder, as those of models do."""
    given(tmp_path, factors(rng, Q0, 12, 12))
    write_file(tmp_path / "elsewhere.safetensors", {})
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    weights.unlink()
    weights.symlink_to(tmp_path / "elsewhere.safetensors")
    assert "leads out of its folder" in str(refused(tmp_path))
