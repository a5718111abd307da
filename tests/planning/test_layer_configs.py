"""What configs say of layers, under the names of many families, stays true of the layers that were taken."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

import stockpot as sp
from files import write_model
from stockpot.architecture.counts import counting_keys
from stockpot.architecture.layers import layer_counts, parse_layer, position
from stockpot.architecture.stacks import Ends, main_stack


def model(folder, config, layers, stack="model.layers", **more):
    """A model of some layers with a config."""
    arrays = {"model.embed_tokens.weight": np.ones((3, 2), np.float32)}
    arrays |= {f"{stack}.{i}.mlp.up.weight": np.full((2, 2), i, np.float32) for i in range(layers)}
    return sp.open(write_model(folder, arrays | more, config=config))


def made(folder, config, ranges, **more):
    """The config of a model stacked from ranges of its own layers."""
    source = model(folder / "in", config, **more)
    sp.save(sp.stack(*(sp.layers(source, *r) for r in ranges)), folder / "out")
    return json.loads((folder / "out" / "config.json").read_text())


SLIDING, FULL = "sliding_attention", "full_attention"
CASES = {
    "every second, unsaid (Gemma 2)": (
        {"model_type": "gemma2"},
        {"layer_types": [SLIDING, FULL, FULL, SLIDING]},
    ),
    "every third by a pattern (Gemma 3, Cohere 2)": (
        {"model_type": "gemma3_text", "sliding_window_pattern": 3},
        {"sliding_window_pattern": 3, "layer_types": [SLIDING, SLIDING, SLIDING, FULL]},
    ),
    "after the first ones (Qwen 2)": (
        {"use_sliding_window": True, "max_window_layers": 2},
        {"layer_types": [FULL, FULL, FULL, SLIDING]},
    ),
    "a window that is not used (Qwen 2)": (
        {"use_sliding_window": False, "max_window_layers": 2},
        {"max_window_layers": 2, "layer_types": "absent"},
    ),
    "the first are dense (DeepSeek)": ({"first_k_dense_replace": 2}, {"first_k_dense_replace": 3}),
    "every second is sparse (Qwen 2 and 3 MoE)": (
        {"decoder_sparse_step": 2, "mlp_only_layers": []},
        {"decoder_sparse_step": 1, "mlp_only_layers": [0, 3]},
    ),
    "dense by number": ({"mlp_only_layers": [1, 3]}, {"mlp_only_layers": [1, 2]}),
    "a letter for each (Nemotron-H)": ({"hybrid_override_pattern": "M-*E"}, {"hybrid_override_pattern": "M--*"}),
    "heads of each (OpenELM, DeciLM)": ({"num_query_heads": [9, 8, 7, 6]}, {"num_query_heads": [9, 8, 8, 7]}),
    "blocks as maps": (
        {"block_configs": [{"n": i} for i in range(4)]},
        {"block_configs": [{"n": i} for i in (0, 1, 1, 2)]},
    ),
    "kinds in turn (GPT-Neo)": (
        {"attention_types": [[["global", "local"], 2]]},
        {"attention_types": [[["global", "local", "local", "global"], 1]]},
    ),
    "nothing in turn, without end": (
        {"attention_types": [[[], 10**300]]},
        {"attention_types": [[[], 10**300]]},
    ),
    "numbers under another name": ({"full_attn_idxs": [0, 2]}, {"full_attn_idxs": [0, 3]}),
    "lists that are none of layers": (
        {"eos_token_id": [1, 2, 3, 4], "rope_section": [1, 1, 1, 1], "image_mean": [0, 0, 0, 0]},
        {"eos_token_id": [1, 2, 3, 4], "rope_section": [1, 1, 1, 1], "image_mean": [0, 0, 0, 0]},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_said_of_layers_follows_them(case, tmp_path):
    """Layers 0, 1, 1, 2 of four: each entry is that of the layer which now stands there."""
    config, expected = CASES[case]
    found = made(tmp_path, {"num_hidden_layers": 4, **config}, [(0, 2), (1, 3)], layers=4)
    assert found["num_hidden_layers"] == 4
    for key, value in expected.items():
        assert found.get(key, "absent") == value


def test_dense_layers_among_others_are_refused(tmp_path):
    """A config that knows only how many come first cannot say so: an error before anything is written."""
    with pytest.raises(sp.PlanError, match=r"first_k_dense_replace.*layer 3 of the result"):
        made(tmp_path, {"num_hidden_layers": 4, "first_k_dense_replace": 1}, [(0, 3), (0, 2)], layers=4)


@pytest.mark.parametrize(
    ("ranges", "layers", "more"),
    [([(0, 3), (1, 5)], 6, 1), ([(0, 3), (1, 4)], 6, 0), ([(2, 4)], 2, 0), ([(3, 5)], 1, 1)],
)
def test_a_layer_that_predicts_further_tokens_is_not_counted(ranges, layers, more, tmp_path):
    """DeepSeek-V3 and GLM store it as one layer more than the config counts; kept or not, both counts are right."""
    config = {"num_hidden_layers": 4, "num_nextn_predict_layers": 1}
    found = made(tmp_path, config, ranges, layers=5)
    assert (found["num_hidden_layers"], found["num_nextn_predict_layers"]) == (layers, more)


def test_a_layer_that_predicts_further_tokens_stays_last(tmp_path):
    """In the middle it would be taken for one of the others: an error that says how to end the ranges."""
    config = {"num_hidden_layers": 4, "num_nextn_predict_layers": 1}
    with pytest.raises(sp.PlanError, match="but the last at 4"):
        made(tmp_path, config, [(0, 5), (1, 4)], layers=5)


def test_a_decoder_whose_length_was_left_to_the_encoder(tmp_path):
    """Old T5 configs say num_layers only: whichever stack grows, both lengths are right."""
    decoder = {f"decoder.block.{i}.layer.0.k.weight": np.ones((2, 2), np.float32) for i in range(4)}
    for stack, lengths in (("encoder.block", (6, 4)), ("decoder.block", (4, 6))):
        source = model(tmp_path / stack, {"model_type": "t5", "num_layers": 4}, 4, "encoder.block", **decoder)
        parts = [sp.layers(source, *r, stack=stack) for r in ((0, 3), (1, 4))]
        sp.save(sp.stack(*parts), tmp_path / f"{stack}-out")
        found = json.loads((tmp_path / f"{stack}-out" / "config.json").read_text())
        assert (found["num_layers"], found["num_decoder_layers"]) == lengths


COUNTED = {
    "bart": (
        {"model.encoder.layers": 6, "model.decoder.layers": 6},
        {"num_hidden_layers": 6, "encoder_layers": 6, "decoder_layers": 6},
        {"model.encoder.layers": ("num_hidden_layers", "encoder_layers"), "model.decoder.layers": ("decoder_layers",)},
    ),
    "qwen2-vl, flat": (
        {"model.layers": 4, "visual.blocks": 4},
        {"num_hidden_layers": 4, "vision_config": {"depth": 4}},
        {"model.layers": ("num_hidden_layers",), "visual.blocks": ("vision_config.depth",)},
    ),
    "two models in one": (
        {"encoder.encoder.layer": 3, "decoder.transformer.h": 3},
        {"encoder": {"model_type": "vit", "num_hidden_layers": 3}, "decoder": {"model_type": "gpt2", "n_layer": 3}},
        {"encoder.encoder.layer": ("encoder.num_hidden_layers",), "decoder.transformer.h": ("decoder.n_layer",)},
    ),
    "wav2vec2": (
        {"encoder.layers": 7, "feature_extractor.conv_layers": 7},
        {"num_hidden_layers": 7, "num_feat_extract_layers": 7},
        {"encoder.layers": ("num_hidden_layers",), "feature_extractor.conv_layers": ("num_feat_extract_layers",)},
    ),
    "blip-2": (
        {"vision_model.encoder.layers": 2, "qformer.encoder.layer": 2, "language_model.model.decoder.layers": 2},
        {
            "vision_config": {"num_hidden_layers": 2},
            "qformer_config": {"num_hidden_layers": 2},
            "text_config": {"num_hidden_layers": 2},
        },
        {
            "vision_model.encoder.layers": ("vision_config.num_hidden_layers",),
            "qformer.encoder.layer": ("qformer_config.num_hidden_layers",),
            "language_model.model.decoder.layers": ("text_config.num_hidden_layers",),
        },
    ),
    "a vision model alone": (
        {"vision_model.encoder.layers": 2},
        {"num_hidden_layers": 2},
        {"vision_model.encoder.layers": ("num_hidden_layers",)},
    ),
}


@pytest.mark.parametrize("case", COUNTED)
def test_which_keys_count_which_layers(case):
    """Even where all stacks have one length: by encoder and decoder, medium, and words in common."""
    counts, config, expected = COUNTED[case]
    assert counting_keys(counts, config) == expected


def test_of_images_and_language_the_language_model_is_meant():
    """In BLIP-2 too, with its three stacks."""
    counts, config, _ = COUNTED["blip-2"]
    names = [f"{stack}.{i}.mlp.w" for stack, count in counts.items() for i in range(count)]
    assert main_stack(names, config) == ("language_model.model.decoder.layers", 2)


def test_tensors_of_another_tower_stay_with_it():
    """Of a stack in one tower, norms and projections of the other, and what joins them, come from the first part."""
    counts = {"vision_tower.layers": 2, "language_model.layers": 2}
    first = ["vision_tower.norm.weight", "projector.linear.weight", "language_model.embed_tokens.weight", "scale"]
    last = ["language_model.norm.weight", "lm_head.weight", "language_model.lm_head.weight", "score.weight"]
    assert {Ends("language_model.layers", counts).of(n) for n in first} == {"first"}
    assert {Ends("language_model.layers", counts).of(n) for n in last} == {"last"}
    assert Ends("vision_tower.layers", counts).of("lm_head.weight") == "first"
    assert Ends("vision_tower.layers", counts).of("vision_tower.norm.weight") == "last"


def test_layer_numbers_behind_other_numbers():
    """The modules of sentence-transformers and names that begin with digits do not hide the layers."""
    found = parse_layer("0.auto_model.encoder.layer.3.output.weight")
    assert found is not None
    assert (found.stack, found.index) == ("0.auto_model.encoder.layer", 3)
    assert found.at(5) == "0.auto_model.encoder.layer.5.output.weight"
    assert parse_layer("0.weight") is None
    assert layer_counts(["1x1.blocks.2.w"]) == {"1x1.blocks": 3}


def test_what_stands_before_the_layers():
    """Embeddings, stems and the norms and projections that follow them; everything else stands after the layers."""
    before = [
        "model.embed_tokens.weight",
        "transformer.word_embeddings_layernorm.bias",
        "vision_model.pre_layrnorm.weight",
        "model.encoder.conv2.weight",
        "wav2vec2.feature_projection.projection.weight",
        "visual.ln_pre.bias",
        "bn1.running_mean",
        "model.decoder.project_in.weight",
    ]
    after = [
        "embed_out.weight",
        "unembed.W_U",
        "model.norm.weight",
        "cls.predictions.bias",
        "vit.layernorm.bias",
        "score",
    ]
    assert {position(name) for name in before} == {"before"}
    assert {position(name) for name in after} == {"after"}


def test_a_stack_grows_in_one_place(tmp_path):
    """Parts that take layers of different stacks do not go on top of each other; a stack without layers is asked of."""
    decoder = {f"decoder.block.{i}.k.weight": np.ones((2, 2), np.float32) for i in range(2)}
    source = model(tmp_path / "a", {"model_type": "t5", "num_layers": 2}, 2, "encoder.block", **decoder)
    parts = [sp.layers(source, 0, 1, stack=stack) for stack in ("encoder.block", "decoder.block")]
    with pytest.raises(sp.PlanError, match=r"layers of encoder\.block and of decoder\.block"):
        sp.plan(sp.stack(*parts))
    recipe = tmp_path / "recipe.yml"
    recipe.write_text("merge_method: passthrough\nslices: [{sources: [{model: a, stack: decoder.block}]}]\n")
    with pytest.raises(sp.RecipeError, match=r"none are asked for.*line 2"):
        sp.plan(recipe)


def test_many_stacks_and_many_keys_take_no_time():
    """Thousands of both, all of one number: not every stack is compared with every key."""
    counts = {f"vision{i}.s": 1 for i in range(20_000)}
    start = time.process_time()
    counting_keys(counts, {f"vision{i}_layers": 1 for i in range(20_000)})
    main_stack([f"{stack}.0.mlp.w" for stack in counts], {"num_hidden_layers": 1})
    assert time.process_time() - start < 10
