"""Scenes of a few kilobytes each: other vocabularies, folders, 8-bit floats, a transplant, mixtures of experts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from files import write_file, write_model

__all__ = ["SCENES", "Kind", "word_level"]

WIDTH = 8
SIZES = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}
MEAN = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 0.7}}, {model: b, parameters: {weight: 0.3}}]\n"


@dataclass(frozen=True)
class Kind:
    """A kind of scene.

    Args:
        make: Writes inputs, and ``r.yml`` where there is a recipe, into a folder.
        command: Verb and input; the output follows.
        more: Options behind the output.
        sharded: Whether the verb takes a size of files.
    """

    make: Callable[[Path], None]
    command: tuple[str, ...] = ("merge", "r.yml")
    more: tuple[str, ...] = ()
    sharded: bool = True


def word_level(words, special=("<unk>", "<s>", "</s>")):
    """``tokenizer.json`` of whole words; the special tokens come first."""
    tokens = [*special, *words]
    added = [
        {"id": i, "content": t, "special": True, "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": False}
        for i, t in enumerate(special)
    ]
    model = {"type": "WordLevel", "vocab": {t: i for i, t in enumerate(tokens)}, "unk_token": "<unk>"}
    return {"version": "1.0", "added_tokens": added, "pre_tokenizer": {"type": "Whitespace"}, "model": model}


def _random(shapes, seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def _llama(rows):
    square, wide = (WIDTH, WIDTH), (2 * WIDTH, WIDTH)
    layer = "model.layers.0."
    return {
        "model.embed_tokens.weight": (rows, WIDTH),
        **{f"{layer}self_attn.{x}_proj.weight": square for x in "qkvo"},
        **{f"{layer}mlp.{x}_proj.weight": wide for x in ("gate", "up")},
        f"{layer}mlp.down_proj.weight": wide[::-1],
        **{f"{layer}{x}_layernorm.weight": (WIDTH,) for x in ("input", "post_attention")},
        "model.norm.weight": (WIDTH,),
        "lm_head.weight": (rows, WIDTH),
    }


def _dense(folder, seed, words):
    document = word_level(words)
    rows = len(document["model"]["vocab"])
    config = {**SIZES, "vocab_size": rows, "bos_token_id": 1, "eos_token_id": 2}
    write_model(folder, _random(_llama(rows), seed), config=config)
    (folder / "tokenizer.json").write_text(json.dumps(document))
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "{{ messages }}", **roles}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    (folder / "special_tokens_map.json").write_text(json.dumps(roles))


def _two(folder):
    common = [f"w{i}" for i in range(9)]
    _dense(folder / "a", 1, [*common, "one", "two"])
    _dense(folder / "b", 2, [*reversed(common), "three"])
    (folder / "b" / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")


def union(folder):
    """Two models whose tokenizers differ, united; the chat template is that of most."""
    _two(folder)
    more = "tokenizer: {source: union, pad_to_multiple_of: 8}\nchat_template: auto\n"
    (folder / "r.yml").write_text(MEAN + more)


def pipeline(folder):
    """Two pipelines of diffusers: components in folders of their own, one in two files, beside one without weights."""
    index = {"_class_name": "P", "unet": ["diffusers", "U"], "vae": ["diffusers", "V"], "tokenizer": ["t", "T"]}
    for seed, name in enumerate("ab"):
        unet = {"conv_in.weight": (4, 2, 3, 3), "mid.weight": (4, 4), "conv_out.weight": (2, 4)}
        made = write_model(folder / name / "unet", _random(unet, seed), files=2, config={"_class_name": "U"})
        for file in sorted(made.glob("model*")):
            moved = file.rename(made / file.name.replace("model", "diffusion_pytorch_model"))
            if moved.suffix == ".json":
                moved.write_text(moved.read_text().replace('"model-', '"diffusion_pytorch_model-'))
        vae = _random({"decoder.weight": (4, 4)}, seed, np.float16)
        write_model(folder / name / "vae", vae, config={"_class_name": "V"})
        (folder / name / "tokenizer").mkdir()
        (folder / name / "tokenizer" / "vocab.json").write_text("{}")
        (folder / name / "model_index.json").write_text(json.dumps(index))
    (folder / "r.yml").write_text(MEAN)


def sentences(folder):
    """Two models of sentence-transformers, with a dense module in a folder of its own."""
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    ]
    for seed, name in enumerate("ab"):
        write_model(folder / name, _random({"layer.weight": (8, 8)}, seed), config={"model_type": "toy"})
        write_model(folder / name / "2_Dense", _random({"linear.weight": (4, 8)}, seed), config={"in_features": 8})
        (folder / name / "1_Pooling").mkdir()
        (folder / name / "1_Pooling" / "config.json").write_text("{}")
        (folder / name / "modules.json").write_text(json.dumps(modules))
    (folder / "r.yml").write_text(MEAN)


def fp8(folder):
    """Two models in 8-bit floats with scales for blocks; the output is quantised as they are."""
    told = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    for seed, name in enumerate("ab"):
        rng = np.random.default_rng(seed)
        arrays = {"model.norm.weight": rng.standard_normal(16).astype(ml_dtypes.bfloat16)}
        for part in ("up", "gate"):
            weight = f"model.layers.0.mlp.{part}_proj.weight"
            arrays[weight] = rng.uniform(-100, 100, (140, 16)).astype(ml_dtypes.float8_e4m3fn)
            arrays[f"{weight}_scale_inv"] = rng.uniform(0.01, 0.02, (2, 1)).astype(np.float32)
        config = {"model_type": "llama", "torch_dtype": "bfloat16", "quantization_config": told}
        write_model(folder / name, arrays, config=config)
    (folder / "r.yml").write_text(f"{MEAN}quantize: same\n")


def mixture(folder):
    """Two dense models as experts, their routers drawn by chance."""
    words = [f"w{i}" for i in range(9)]
    for seed, name in enumerate(("base", "a", "b")):
        _dense(folder / name, seed, words)
    experts = "experts: [{source_model: a, positive_prompts: [w1]}, {source_model: b, noise_scale: 0.1}]\n"
    (folder / "r.yml").write_text(f"base_model: base\ngate_mode: random\ndtype: bfloat16\n{experts}")


def experts(folder):
    """A mixture whose experts lie one by one, merged with one that holds all of a layer in one tensor."""
    layer = "model.layers.0.mlp."
    config = {"model_type": "qwen3_moe", "num_experts": 2, "num_hidden_layers": 1, "hidden_size": 8}
    shapes = {f"{layer}gate.weight": (2, 8), "model.norm.weight": (8,)}
    for expert in range(2):
        parts = {"gate_proj": (6, 8), "up_proj": (6, 8), "down_proj": (8, 6)}
        shapes |= {f"{layer}experts.{expert}.{part}.weight": shape for part, shape in parts.items()}
    write_model(folder / "a", _random(shapes, 1), config=config)
    arrays, fused = _random(shapes, 2), {}
    for name in (f"{layer}gate.weight", "model.norm.weight"):
        fused[name] = arrays[name]
    whole = [np.concatenate([arrays[f"{layer}experts.{e}.{p}_proj.weight"] for p in ("gate", "up")]) for e in range(2)]
    fused[f"{layer}experts.gate_up_proj"] = np.stack(whole)
    fused[f"{layer}experts.down_proj"] = np.stack([arrays[f"{layer}experts.{e}.down_proj.weight"] for e in range(2)])
    write_model(folder / "b", fused, config=config)
    (folder / "r.yml").write_text(MEAN)


def _adapter(folder, seed, names, **settings):
    rng = np.random.default_rng(seed)
    shapes = {"A": (2, WIDTH), "B": (WIDTH, 2)}
    arrays = {f"base_model.model.{n}.lora_{x}.weight": rng.normal(size=s) for n in names for x, s in shapes.items()}
    write_file(folder / "adapter_model.safetensors", {n: a.astype(np.float32) for n, a in arrays.items()})
    told = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", **settings}
    (folder / "adapter_config.json").write_text(json.dumps(told))


def adapters(folder):
    """An adapter of PEFT and one in a single file, which holds its scales, on a model."""
    names = [f"model.layers.0.self_attn.{x}_proj" for x in "qk"]
    write_model(folder / "base", _random({f"{n}.weight": (WIDTH, WIDTH) for n in names}, 0), config=SIZES)
    _adapter(folder / "a", 1, names)
    shapes = {"lora_down.weight": (2, WIDTH), "lora_up.weight": (WIDTH, 2), "alpha": ()}
    single = {f"lora_unet_{n.replace('.', '_')}.{part}": shape for n in names for part, shape in shapes.items()}
    write_file(folder / "b.safetensors", _random(single, 2))
    models = "models: [{model: base+a}, {model: base+b.safetensors}]\n"
    (folder / "r.yml").write_text(f"merge_method: ties\nbase_model: base\n{models}")


def adapters_out(folder):
    """Two adapters merged to one."""
    names = [f"model.layers.0.self_attn.{x}_proj" for x in "qk"]
    for seed, name in enumerate("ab"):
        _adapter(folder / name, seed, names, base_model_name_or_path="base")


SCENES = {
    "union": Kind(union),
    "pipeline": Kind(pipeline),
    "sentences": Kind(sentences),
    "fp8": Kind(fp8),
    "transplant": Kind(_two, ("transplant", "a"), ("--tokenizer", "b", "-k", "2")),
    "mixture": Kind(mixture, ("moe", "r.yml"), ("--router", "router.safetensors")),
    "experts": Kind(experts),
    "adapters": Kind(adapters),
    "adapters out": Kind(adapters_out, ("lora", "merge", "a", "b"), ("--rank", "2"), sharded=False),
}
"""Name → scene: each form of output that a merge of plain models lacks."""
