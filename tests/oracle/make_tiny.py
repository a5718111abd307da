"""Make tiny random checkpoints that mergekit and stockpot can both read.

Runs under the Python of the mergekit environment (it needs torch and transformers), writes
``OUT/<family>/<set>/<model>`` for the models ``base``, ``a``, ``b`` and ``c``, where ``a``, ``b``
and ``c`` are ``base`` plus small normal noise. The sets hold the same network as

* ``f32``: float32;
* ``bf16``: the same values rounded to bfloat16;
* ``f32_wide`` and ``bf16_wide``: the values of the two sets above, stored as float64, so that the
  same recipe without a ``dtype`` is computed in float64 and shows what exact arithmetic gives.

No tokenizer is written: none of the recipes looks at one.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

NOISE = {"a": 1e-3, "b": 7e-4, "c": 1.5e-3}
"""Standard deviation of the noise of each fine-tune (base weights have 0.02)."""

FROZEN = {"c": ("layers.0.self_attn.o_proj", "h.0.attn.c_proj", "layer.0.attention.output.dense")}
"""Tensors a fine-tune leaves as they are in the base, by parts of their names: zero deltas."""

Tensors = dict[str, torch.Tensor]


def build(family: str) -> PreTrainedModel:
    """A freshly initialised network: 4, 2 and 3 layers; odd vocabulary sizes; biases and norms."""
    if family == "llama":
        llama = LlamaConfig(
            hidden_size=64,
            intermediate_size=172,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=1031,
            max_position_embeddings=64,
            tie_word_embeddings=False,
        )
        return LlamaForCausalLM(llama)
    if family == "gpt2":
        gpt2 = GPT2Config(
            n_embd=48,
            n_layer=2,
            n_head=4,
            vocab_size=257,
            n_positions=32,
            bos_token_id=0,
            eos_token_id=0,
        )
        return GPT2LMHeadModel(gpt2)
    if family == "bert":
        bert = BertConfig(
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            vocab_size=263,
            max_position_embeddings=40,
        )
        return BertForSequenceClassification(bert)
    raise ValueError(f"no tiny network of family {family!r}")


def jittered(base: Tensors, generator: torch.Generator) -> Tensors:
    """`base` with zeros and ones of fresh biases and norms moved, as in a trained network."""
    return {
        name: value + 0.02 * torch.randn(value.shape, generator=generator) * (value.std() == 0)
        if value.numel() > 1
        else value
        for name, value in base.items()
    }


def fine_tune(base: Tensors, sigma: float, frozen: tuple[str, ...], generator: torch.Generator) -> Tensors:
    """`base` plus noise of standard deviation `sigma`, no two deltas of a tensor equally large.

    Equal magnitudes are drawn again: which of them a magnitude trim keeps is not defined, and
    would hide the differences this comparison is after.
    """
    tuned = {}
    for name, value in base.items():
        if any(part in name for part in frozen):
            tuned[name] = value
            continue
        flat = value.flatten()
        out = flat + sigma * torch.randn(flat.shape, generator=generator)
        while (again := repeated((out - flat).abs())).any():
            redrawn = sigma * torch.randn(int(again.sum()), generator=generator)
            out[again] = flat[again] + redrawn
        tuned[name] = out.reshape(value.shape)
    return tuned


def repeated(magnitudes: torch.Tensor) -> torch.Tensor:
    """True where a magnitude was already seen at another place of the tensor, or is zero."""
    _, inverse, counts = magnitudes.unique(return_inverse=True, return_counts=True)
    return (counts[inverse] > 1) | (magnitudes == 0)


def write(folder: Path, network: PreTrainedModel, tensors: Tensors, dtype: torch.dtype) -> None:
    """Save config and weights as `save_pretrained` names them, the weights as `tensors`."""
    network.save_pretrained(folder, safe_serialization=True)
    weights = folder / "model.safetensors"
    stored = load_file(weights)
    save_file(
        {name: tensors[name].to(dtype).contiguous() for name in stored},
        weights,
        metadata={"format": "pt"},
    )


def make(out: Path, family: str, seed: int) -> None:
    """Write all sets of one family under `out`."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    network = build(family)
    fresh = {name: value.detach().float() for name, value in network.state_dict().items()}
    base = jittered(fresh, generator)
    models = {"base": base}
    models |= {name: fine_tune(base, sigma, FROZEN.get(name, ()), generator) for name, sigma in NOISE.items()}
    for name, tensors in models.items():
        rounded = {key: value.bfloat16() for key, value in tensors.items()}
        write(out / family / "f32" / name, network, tensors, torch.float32)
        write(out / family / "bf16" / name, network, rounded, torch.bfloat16)
        write(out / family / "f32_wide" / name, network, tensors, torch.float64)
        write(out / family / "bf16_wide" / name, network, rounded, torch.float64)


def main() -> None:
    """Parse the command line, write the checkpoints, print what was written as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--families", nargs="+", default=["llama", "gpt2", "bert"])
    parser.add_argument("--seed", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for family in options.families:
        make(options.out, family, options.seed)
    print(json.dumps({"out": str(options.out), "families": options.families}))


if __name__ == "__main__":
    main()
