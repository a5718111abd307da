"""Each form of output with a tensor much larger than the memory that a merge is given; files are mostly holes."""

from __future__ import annotations

import json

import numpy as np
from scenes import SIZES, word_level

from files import write_file
from measured import large_model, least_of, stockpot

__all__ = ["LARGE", "measured_form"]

WIDTH = 4096
ROWS = 60_000
DATA = 1 << 16


def _recipe(folder, **keys):
    path = folder / "r.yml"
    path.write_text(json.dumps(keys))
    return ("merge", str(path))


def _mean(folder, **more):
    return _recipe(folder, merge_method="linear", models=[{"model": str(folder / n)} for n in "ab"], **more)


def _config(place, **config):
    (place / "config.json").write_text(json.dumps(config))


def pieces(folder, size=1.0):
    """Experts in one tensor, trimmed against those of a model that has them one by one."""
    experts, inner, width = 8, int(4096 * size), 4096
    layer = "model.layers.0.mlp."
    config = {"model_type": "qwen3_moe", "num_experts": experts, "num_hidden_layers": 1, "hidden_size": width}
    fused = {
        f"{layer}experts.gate_up_proj": (experts, 2 * inner, width),
        f"{layer}experts.down_proj": (experts, width, inner),
        f"{layer}gate.weight": (experts, width),
    }
    apart = {f"{layer}gate.weight": (experts, width)}
    for expert in range(experts):
        for part, shape in (("gate", (inner, width)), ("up", (inner, width)), ("down", (width, inner))):
            apart[f"{layer}experts.{expert}.{part}_proj.weight"] = shape
    for seed, (name, shapes) in enumerate((("a", fused), ("b", apart))):
        _config(large_model(folder / name, shapes, data=DATA, seed=seed), **config)
    models = [{"model": str(folder / "b"), "parameters": {"density": 0.3}}]
    return _recipe(folder, merge_method="ties", base_model=str(folder / "a"), models=models)


def union(folder, size=1.0):
    """Two tokenizers of 150 000 tokens, of which each lacks some of the other's."""
    common = [f"word{i}" for i in range(149_000)]
    for seed, name in enumerate("ab"):
        document = word_level([*common, *(f"{name}{i}" for i in range(1000))])
        rows = len(document["model"]["vocab"])
        shapes = {"model.embed_tokens.weight": (rows, int(1024 * size)), "lm_head.weight": (rows, int(1024 * size))}
        place = large_model(folder / name, shapes, data=DATA, seed=seed)
        _config(place, **SIZES, vocab_size=rows, bos_token_id=1, eos_token_id=2)
        (place / "tokenizer.json").write_text(json.dumps(document))
    return _mean(folder, tokenizer={"source": "union", "pad_to_multiple_of": 64})


def transplanted(folder, size=1.0):
    """An embedding and a head whose new rows are made of some of the old ones."""
    common = [f"word{i}" for i in range(int(30_000 * size))]
    for seed, (name, own) in enumerate((("a", 50), ("b", 200))):
        document = word_level([*common, *(f"{name}{i}" for i in range(own))])
        rows = len(document["model"]["vocab"])
        shapes = {"model.embed_tokens.weight": (rows, WIDTH), "lm_head.weight": (rows, WIDTH)}
        place = large_model(folder / name, shapes, data=rows * WIDTH // 8, seed=seed)
        _config(place, **SIZES, vocab_size=rows, bos_token_id=1, eos_token_id=2)
        (place / "tokenizer.json").write_text(json.dumps(document))
    return ("transplant", str(folder / "a"), "--tokenizer", str(folder / "b"), "-k", "2")


def _fp8(folder, size):
    rows = int(2 * ROWS * size)
    weight = "model.layers.0.mlp.up_proj.weight"
    shapes = {weight: (rows, WIDTH), f"{weight}_scale_inv": (-(-rows // 128), WIDTH // 128)}
    told = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    for seed, name in enumerate("ab"):
        codes = {weight: "F8_E4M3", f"{weight}_scale_inv": "F32"}
        place = large_model(folder / name, shapes, code=codes, data=DATA, seed=seed)
        _config(place, model_type="llama", torch_dtype="bfloat16", quantization_config=told)


def decoded(folder, size=1.0):
    """8-bit floats with scales, to bfloat16."""
    _fp8(folder, size)
    return _mean(folder)


def requantised(folder, size=1.0):
    """8-bit floats with scales, to the same."""
    _fp8(folder, size)
    return _mean(folder, quantize="same")


def _product(folder, kind, rows, shapes):
    name = "model.layers.0.mlp.up_proj"
    large_model(folder / "base", {f"{name}.weight": (rows, WIDTH)}, data=DATA)
    rng = np.random.default_rng(1)
    parts = {f"base_model.model.{name}.{p}": rng.normal(size=s).astype(np.float32) for p, s in shapes.items()}
    write_file(folder / "adapter" / "adapter_model.safetensors", parts)
    settings = {"peft_type": kind, "r": 32, "alpha": 8}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    base = str(folder / "base")
    models = [{"model": f"{base}+{folder / 'adapter'}"}]
    return _recipe(folder, merge_method="task_arithmetic", base_model=base, models=models)


def hadamard(folder, size=1.0):
    """LoHa: the product, element by element, of two products."""
    rows = int(ROWS * size)
    shapes = {f"hada_w{i}_{x}": (rows, 32) if x == "a" else (32, WIDTH) for i in "12" for x in "ab"}
    return _product(folder, "LOHA", rows, shapes)


def kronecker(folder, size=1.0):
    """LoKr: the Kronecker product of a matrix and a product."""
    rows = 8 * int(ROWS // 8 * size)
    shapes = {"lokr_w1": (8, 8), "lokr_w2_a": (rows // 8, 32), "lokr_w2_b": (32, WIDTH // 8)}
    return _product(folder, "LOKR", rows, shapes)


def noise(folder, size=1.0):
    """A mixture of experts with noise on their weights."""
    inner = int(ROWS // 2 * size)
    layer = "model.layers.0."
    shapes = {"model.embed_tokens.weight": (64, WIDTH), "lm_head.weight": (64, WIDTH), "model.norm.weight": (WIDTH,)}
    shapes |= {f"{layer}self_attn.{x}_proj.weight": (64, WIDTH) for x in "qkv"}
    shapes |= {f"{layer}self_attn.o_proj.weight": (WIDTH, 64)}
    shapes |= {f"{layer}mlp.{x}_proj.weight": (inner, WIDTH) for x in ("gate", "up")}
    shapes |= {f"{layer}mlp.down_proj.weight": (WIDTH, inner)}
    shapes |= {f"{layer}{x}_layernorm.weight": (WIDTH,) for x in ("input", "post_attention")}
    for seed, name in enumerate(("base", "a", "b")):
        place = large_model(folder / name, shapes, data=DATA, seed=seed)
        sizes = {**SIZES, "hidden_size": WIDTH, "intermediate_size": inner, "head_dim": 32, "vocab_size": 64}
        _config(place, **sizes)
        (place / "tokenizer.json").write_text(json.dumps(word_level(["w"])))
    experts = [{"source_model": str(folder / n), "positive_prompts": ["w"], "noise_scale": 0.01} for n in "ab"]
    path = folder / "r.yml"
    path.write_text(json.dumps({"base_model": str(folder / "base"), "gate_mode": "random", "experts": experts}))
    return ("moe", str(path))


LARGE = {
    make.__name__: make for make in (pieces, union, transplanted, decoded, requantised, hadamard, kronecker, noise)
}
"""Name → function that makes the inputs in a folder and gives the command; its output stands behind two words.

``size`` is the share of the usual rows, or of the usual width where rows are tokens.
"""


def measured_form(folder, name, size=1.0):
    """(least budget, planned, done) of a form, carried out by one thread in the least memory that its plan accepts."""
    verb, given, *more = LARGE[name](folder, size)
    command = (verb, given, folder / "out", *more, "--threads", "1")
    budget = least_of(*command)
    limits = ("--memory", str(budget))
    told = stockpot(*command, *limits, "--dry-run", "--json")
    assert told.code == 0, told.errors
    done = stockpot(*command, *limits, "--quiet", "--no-sync")
    return budget, json.loads(told.out)["cost"]["memory"], done
